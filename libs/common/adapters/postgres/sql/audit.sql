-- Checks of docs/invariants.md. Those with $1 and $2 look at the tasks with $1 < id <= $2, so that each costs the
-- same however much is stored. A violation is a row (id, subject, detail), of an id that its fix is told, or null where no
-- fix would be safe; $3 is how long a repair may take, in seconds. Of very many the first by their subjects are told, so
-- that two looks tell of the same, and one more than the auditor keeps.

-- name: audit_last_id
-- Where the walk ends: behind what belongs to no task, too.
SELECT greatest((SELECT max(id) FROM task), (SELECT max(id) FROM dispatch), (SELECT max(task_id) FROM dead_task),
  (SELECT max(task_id) FROM staged_output), (SELECT max(task_id) FROM provider_job), 0) AS id

-- name: audit_next_id
-- The end of the slice after $1 that has $2 tasks; null for the last one.
SELECT id FROM task WHERE id > $1 ORDER BY id OFFSET $2 LIMIT 1

-- name: audit_counts
-- How much a slice has to look at.
SELECT
  (SELECT count(*) FROM task WHERE id > $1 AND id <= $2) AS tasks,
  (SELECT count(*) FROM dispatch WHERE id > $1 AND id <= $2) AS open,
  (SELECT count(*) FROM attempt WHERE task_id > $1 AND task_id <= $2) AS attempts,
  (SELECT count(*) FROM dead_task WHERE task_id > $1 AND task_id <= $2) AS dead

-- name: audit_open_without_row
-- I3: an open task has a dispatch row.
SELECT CASE WHEN i.task_id IS NOT NULL AND l.id IS NOT NULL THEN t.id END AS id, t.public_id::text AS subject,
  'status ' || t.status || ', but no dispatch row' || CASE WHEN i.task_id IS NULL THEN ', and its payload is gone' WHEN l.id IS NULL THEN ', and its lane is gone' ELSE '' END AS detail
FROM task t LEFT JOIN dispatch d ON d.id = t.id LEFT JOIN task_input i ON i.task_id = t.id LEFT JOIN lane l ON l.id = t.lane
WHERE t.id > $1 AND t.id <= $2 AND t.status < 6 AND d.id IS NULL ORDER BY 2 LIMIT 1001

-- name: audit_row_without_open
-- I3: a dispatch row has an open task, in its own lane. One whose attempt runs is not dropped under its executor.
SELECT CASE WHEN d.token IS NULL AND (t.id IS NULL OR t.status >= 6) THEN d.id END AS id, d.public_id::text AS subject, CASE
  WHEN t.id IS NULL THEN 'a dispatch row without a task'
  WHEN t.status >= 6 THEN 'status ' || t.status || ' is final, but a dispatch row is there'
  ELSE 'task and dispatch row differ in public id or lane' END AS detail
FROM dispatch d LEFT JOIN task t ON t.id = d.id
WHERE d.id > $1 AND d.id <= $2 AND (t.id IS NULL OR t.status >= 6 OR t.public_id <> d.public_id OR t.lane <> d.lane) ORDER BY 2 LIMIT 1001

-- name: audit_orphans
-- I4: nothing open waits without somebody or some time that will move it on.
SELECT x.id, x.subject, x.detail FROM (
  SELECT d.id, d.public_id::text AS subject, CASE
    WHEN l.id IS NULL THEN 'its lane does not exist'
    WHEN d.state IN (2, 3) AND d.due_at < now() - make_interval(secs => $3)
      THEN 'was due at ' || d.due_at || ' and still waits'
    WHEN l.closed AND (d.state = 0 OR d.state = 1 AND d.token IS NULL AND d.held_by IS NULL) AND m.deleted_at < now() - make_interval(secs => $3)
      THEN 'its model was deleted and it still waits'
    WHEN d.state = 1 AND (d.token IS NOT NULL OR d.held_by IS NOT NULL) AND (e.id IS NULL OR e.stopped_at < now() - make_interval(secs => $3))
      THEN 'belongs to executor ' || coalesce(d.executor, d.held_by) || ', which is gone'
    WHEN d.state = 1 AND (d.token IS NOT NULL OR d.held_by IS NOT NULL) AND e.stopped_at IS NULL AND e.beat_at < now() - make_interval(secs => $3)
      THEN 'belongs to executor ' || coalesce(d.executor, d.held_by) || ', which is silent'
    WHEN d.state = 1 AND d.token IS NOT NULL AND d.phase < 2 AND d.until < now() - make_interval(secs => $3 + 30)
      THEN 'runs past its deadline ' || d.until
    WHEN d.token IS NULL AND d.expires_at < now() - make_interval(secs => $3 + 30)
      THEN 'should have started or ended by ' || d.expires_at || ' and still waits'
    END AS detail
  FROM dispatch d LEFT JOIN lane l ON l.id = d.lane LEFT JOIN model m ON m.id = l.model_id
  LEFT JOIN executor e ON e.id = coalesce(d.executor, d.held_by) WHERE d.id > $1 AND d.id <= $2) x
WHERE x.detail IS NOT NULL ORDER BY 2 LIMIT 1001

-- name: audit_staged_outputs
-- I20: a small output is kept exactly while an open or a dead task refers to it. What is gone cannot be brought back, and
-- beside an open task nothing is deleted: it may stage its next output just now.
SELECT CASE WHEN q.id IS NULL THEN o.task_id END AS id, 'task ' || coalesce(o.task_id, d.id) AS subject, CASE
  WHEN o.task_id IS NULL THEN 'its staged output is not in the database any more'
  WHEN q.id IS NULL THEN 'a staged output that no task needs'
  ELSE 'a staged output that its open task does not name' END AS detail
FROM (SELECT task_id FROM staged_output WHERE task_id > $1 AND task_id <= $2) o
FULL JOIN (SELECT id FROM dispatch WHERE id > $1 AND id <= $2 AND staged = 'database:'
           UNION ALL SELECT task_id FROM dead_task WHERE task_id > $1 AND task_id <= $2 AND staged = 'database:') d
  ON d.id = o.task_id LEFT JOIN dispatch q ON q.id = o.task_id
WHERE o.task_id IS NULL OR d.id IS NULL ORDER BY 2 LIMIT 1001

-- name: drop_staged_output
-- Delete a staged output unless its task is open, or dead and refers to it. $1 task.
DELETE FROM staged_output o WHERE o.task_id = $1
  AND NOT EXISTS (SELECT 1 FROM dispatch d WHERE d.id = o.task_id)
  AND NOT EXISTS (SELECT 1 FROM dead_task d WHERE d.task_id = o.task_id AND d.staged = 'database:')
RETURNING o.task_id

-- name: audit_stuck_leases
-- I4: a batch is acknowledged or healed. $1 seconds.
SELECT id, 'lease ' || id AS subject, 'taken at ' || taken_at || ' and neither acknowledged nor healed' AS detail
FROM lease WHERE taken_at < now() - make_interval(secs => $1) ORDER BY 2 LIMIT 1001

-- name: audit_attempt_numbers
-- I5: ended attempts are numbered without gaps; only one that a busy model answered (given back, recorded) has no row,
-- and those that an old gateway made before the task was taken over, which are only counted.
SELECT x.id, x.public_id::text AS subject, CASE WHEN a.attempt IS NULL THEN 'attempt ' || g.number || ' of ' || x.ended || ' has no row'
  ELSE 'attempt ' || a.attempt || ' has a row, but only ' || x.ended || ' ended' END AS detail
FROM (
  SELECT t.id, t.public_id, CASE WHEN d.id IS NULL THEN t.attempt
    ELSE d.attempt - CASE WHEN d.token IS NOT NULL OR d.phase >= 1 THEN 1 ELSE 0 END END AS ended
  FROM task t LEFT JOIN dispatch d ON d.id = t.id WHERE t.id > $1 AND t.id <= $2) x
CROSS JOIN LATERAL (SELECT generate_series(1, x.ended) AS number UNION SELECT attempt FROM attempt WHERE task_id = x.id) g
LEFT JOIN attempt a ON a.task_id = x.id AND a.attempt = g.number
WHERE a.attempt > x.ended OR a.attempt IS NULL
  AND NOT EXISTS (SELECT 1 FROM history h WHERE h.task_id = x.id
                  AND (h.kind = 'release' AND h.attempt = g.number OR h.kind = 'import' AND h.attempt >= g.number))
ORDER BY 2 LIMIT 1001

-- name: audit_jobs
-- I18: a provider's job is open exactly as long as its task's dispatch row is in phase 1 of that attempt.
SELECT x.id, coalesce(t.public_id::text, 'task ' || x.id) AS subject, CASE
  WHEN x.job IS NULL THEN 'attempt ' || x.attempt || ' is in phase 1, but has no open job'
  ELSE 'attempt ' || x.job || ' has an open job, but is not in phase 1' END AS detail
FROM (
  SELECT coalesce(d.id, p.task_id) AS id, d.attempt, p.attempt AS job
  FROM (SELECT * FROM dispatch WHERE id > $1 AND id <= $2 AND phase = 1) d
  FULL JOIN (SELECT * FROM provider_job WHERE task_id > $1 AND task_id <= $2 AND ended_at IS NULL) p ON p.task_id = d.id AND p.attempt = d.attempt
  WHERE d.id IS NULL OR p.task_id IS NULL) x
LEFT JOIN task t ON t.id = x.id ORDER BY 2 LIMIT 1001

-- name: audit_jobs_twice
-- I18: a provider's job serves one task. Over everything, by the address of the provider.
SELECT max(p.task_id) AS id, 'job ' || quote_literal(p.provider_id) || ' at ' || m.base_url AS subject,
  count(DISTINCT p.task_id) || ' tasks have it' AS detail
FROM provider_job p JOIN lane l ON l.id = p.lane JOIN model m ON m.id = l.model_id
WHERE p.provider_id IS NOT NULL GROUP BY m.base_url, p.provider_id HAVING count(DISTINCT p.task_id) > 1 ORDER BY 2 LIMIT 1001

-- name: audit_ends
-- I5: the last attempt ended as the task did, and only a success has a successful attempt, one.
SELECT t.id, t.public_id::text AS subject, 'status ' || t.status || ', but ' || s.n || ' successful attempts' ||
  CASE WHEN t.status = 6 THEN ', the last attempt is ' || t.attempt ELSE '' END AS detail
FROM task t CROSS JOIN LATERAL (SELECT count(*) AS n, max(a.attempt) AS last FROM attempt a WHERE a.task_id = t.id AND a.outcome = 'success') s
WHERE t.id > $1 AND t.id <= $2 AND (t.status = 6 AND (s.n <> 1 OR s.last <> t.attempt) OR t.status <> 6 AND s.n > 0)
ORDER BY 2 LIMIT 1001

-- name: audit_versions
-- I5: a task's recorded steps have growing versions, none beyond its present one; a drop changes nothing of the task.
SELECT x.id, x.subject, x.detail FROM (
  SELECT t.id, t.public_id::text AS subject, CASE
    WHEN h.version > coalesce(d.version, t.version) THEN 'step ' || h.kind || ' has version ' || h.version || ', the task only ' || coalesce(d.version, t.version)
    WHEN h.version - CASE WHEN h.kind = 'drop' THEN 0 ELSE 1 END < lag(h.version) OVER (PARTITION BY h.task_id ORDER BY h.id)
      THEN 'step ' || h.kind || ' has version ' || h.version || ', not more than the step before' END AS detail
  FROM history h JOIN task t ON t.id = h.task_id LEFT JOIN dispatch d ON d.id = t.id WHERE h.task_id > $1 AND h.task_id <= $2) x
WHERE x.detail IS NOT NULL ORDER BY 2 LIMIT 1001

-- name: audit_times
-- I5: nothing within an attempt happened before what it follows from.
SELECT a.task_id AS id, coalesce(t.public_id::text, 'task ' || a.task_id) AS subject, 'the times of attempt ' || a.attempt || ' are not in order' AS detail
FROM attempt a LEFT JOIN task t ON t.id = a.task_id WHERE a.task_id > $1 AND a.task_id <= $2
  AND (a.leased_at > a.started_at OR a.started_at > a.ended_at OR a.generated_at > a.migrating_at OR a.generated_at > a.ended_at
       OR a.migrating_at > a.ended_at OR a.entered_at > a.ended_at)
ORDER BY 2 LIMIT 1001

-- name: audit_sends
-- I8: nothing is sent more often than allowed. $3 sends.
SELECT id, public_id::text AS subject, sends || ' sends of its dispatch row' AS detail FROM dispatch WHERE id > $1 AND id <= $2 AND sends > $3 ORDER BY 2 LIMIT 1001

-- name: audit_event_sends
-- I8: an event that was sent as often as allowed is dead. $1 sends.
(SELECT id, 'event ' || id AS subject, sends || ' sends, and not dead' AS detail FROM event WHERE sends >= $1 ORDER BY 2 LIMIT 1001)
UNION ALL
(SELECT id, 'event ' || id, sends || ' sends, and it was dead before' FROM dead_event WHERE sends > $1 ORDER BY 2 LIMIT 1001)

-- name: audit_unclaimed
-- I10: what is published is claimed or held, while somebody has read all the time; $3 seconds.
SELECT d.id, d.public_id::text AS subject, 'published at ' || d.leased_at || ' under lease ' || d.lease || ', and nobody claimed it' AS detail
FROM dispatch d WHERE d.id > $1 AND d.id <= $2 AND d.state = 1 AND d.token IS NULL AND d.held_by IS NULL
  AND d.leased_at < now() - make_interval(secs => $3) AND NOT EXISTS (SELECT 1 FROM lease l WHERE l.id = d.lease)
  AND EXISTS (SELECT 1 FROM executor e WHERE e.stopped_at IS NULL AND e.reading AND e.beat_at > now() - interval '6 seconds'
              AND e.started_at < now() - make_interval(secs => $3))
ORDER BY 2 LIMIT 1001

-- name: audit_stale_tokens
-- I15: an attempt that was taken from an executor was not ended by it.
SELECT a.task_id AS id, coalesce(t.public_id::text, 'task ' || a.task_id) AS subject,
  'attempt ' || a.attempt || ' was ended by token ' || a.token || ', which had been rescued before' AS detail
FROM attempt a JOIN history h ON h.task_id = a.task_id AND h.kind = 'rescue' AND right(h.detail, 36) = a.token::text
LEFT JOIN task t ON t.id = a.task_id
WHERE a.task_id > $1 AND a.task_id <= $2 AND a.outcome <> 'lost' ORDER BY 2 LIMIT 1001

-- name: audit_tokens_twice
-- I15: a token names one attempt. Over everything, since two tasks may share one.
SELECT max(x.id) AS id, 'token ' || x.token AS subject, count(*) || ' attempts have it' AS detail FROM (
  SELECT task_id AS id, token FROM attempt WHERE token IS NOT NULL UNION ALL SELECT id, token FROM dispatch WHERE token IS NOT NULL) x
GROUP BY x.token HAVING count(*) > 1 ORDER BY 2 LIMIT 1001

-- name: audit_statistics
-- I16: calls counted = attempts begun less those of which no model has heard, by tenant and creator (a model may have been
-- renamed between two folds). Tasks that were cleaned are balanced by `cleaned`. In one statement, because calls begin all
-- the time.
WITH counted AS (
  SELECT tenant_id, creator, sum(calls)::bigint AS n FROM (
    SELECT tenant_id, creator, calls::bigint AS calls FROM stat_delta UNION ALL SELECT tenant_id, creator, request_count FROM model_stat) s GROUP BY 1, 2
), begun AS (
  SELECT tenant_id, creator, sum(n)::bigint AS n FROM (
    SELECT t.tenant_id, t.creator, sum(coalesce(d.attempt, t.attempt) - t.uploads) AS n FROM task t LEFT JOIN dispatch d ON d.id = t.id GROUP BY 1, 2
    UNION ALL SELECT t.tenant_id, t.creator, -count(*) FROM attempt a JOIN task t ON t.id = a.task_id WHERE NOT a.called GROUP BY 1, 2
    UNION ALL SELECT tenant_id, creator, calls FROM cleaned) b GROUP BY 1, 2
)
SELECT coalesce(c.tenant_id, b.tenant_id) AS id, 'tenant ' || coalesce(c.tenant_id, b.tenant_id) || ', creator ' || quote_literal(coalesce(c.creator, b.creator)) AS subject,
  coalesce(c.n, 0) || ' calls counted, ' || coalesce(b.n, 0) || ' attempts that called a model' AS detail
FROM counted c FULL JOIN begun b ON b.tenant_id = c.tenant_id AND b.creator = c.creator
WHERE coalesce(c.n, 0) <> coalesce(b.n, 0) ORDER BY 2 LIMIT 1001

-- name: audit_quota
-- I23: a user's used points of a day are those of its tasks that gave none back, stored ones and cleaned ones; none below
-- zero. Accounts are kept for longer than $1 days, so that younger ones are all there.
WITH due AS (
  SELECT t.tenant_id, t.creator AS user_name, t.quota_day AS day, sum(t.points) AS points FROM task t
  WHERE t.points > 0 AND t.quota_day IS NOT NULL AND t.status < 7 GROUP BY 1, 2, 3
)
SELECT coalesce(u.tenant_id, d.tenant_id) AS id, 'tenant ' || coalesce(u.tenant_id, d.tenant_id) || ', user ' ||
  quote_literal(coalesce(u.user_name, d.user_name)) || ', day ' || coalesce(u.day, d.day) AS subject,
  coalesce(u.used, 0) || ' points used, its tasks cost ' || coalesce(d.points, 0) + coalesce(u.cleaned, 0) AS detail
FROM quota_usage u FULL JOIN due d ON d.tenant_id = u.tenant_id AND d.user_name = u.user_name AND d.day = u.day
WHERE coalesce(u.used, 0) <> coalesce(d.points, 0) + coalesce(u.cleaned, 0)
  AND (u.day IS NOT NULL OR d.day > current_date - $1::int)
UNION ALL
SELECT t.id, t.public_id::text, t.points || ' points, but no day' FROM task t WHERE (t.points > 0) <> (t.quota_day IS NOT NULL)
ORDER BY 2 LIMIT 1001

-- name: audit_operations
-- I24: every accepted task has one entry in the operation log that made it, and none that calls it refused, as far back
-- as the log reaches (a day at least); those of an old gateway were not accepted here. $3 seconds.
SELECT t.id, t.public_id::text AS subject, o.made || ' entries of the operation log made it, ' || o.refused || ' call it refused' AS detail
FROM task t CROSS JOIN LATERAL (
  SELECT count(*) FILTER (WHERE x.success AND NOT x.replayed) AS made, count(*) FILTER (WHERE NOT x.success) AS refused
  FROM op_log x WHERE x.task_id = t.public_id) o
WHERE t.id > $1 AND t.id <= $2 AND (o.made <> 1 OR o.refused > 0) AND t.created_at < now() - make_interval(secs => $3)
  AND t.created_at > least(now() - interval '1 day', (SELECT created_at FROM op_log ORDER BY id LIMIT 1) + interval '5 minutes')
  AND NOT EXISTS (SELECT 1 FROM history h WHERE h.task_id = t.id AND h.kind = 'import')
ORDER BY 2 LIMIT 1001

-- name: audit_dead
-- I27: every final failure is listed as dead, with the version of its end and its payload; nothing else is.
SELECT coalesce(t.id, x.task_id) AS id, coalesce(t.public_id::text, 'task ' || x.task_id) AS subject, CASE
  WHEN t.id IS NULL THEN 'listed as dead, but there is no such task'
  WHEN x.task_id IS NULL THEN 'status ' || t.status || ' and not listed as dead'
  WHEN t.status NOT IN (7, 8) THEN 'listed as dead with status ' || t.status
  WHEN x.version <> t.version THEN 'listed as dead with version ' || x.version || ', it has ' || t.version
  ELSE 'dead without its payload: it cannot be replayed' END AS detail
FROM (SELECT * FROM task WHERE id > $1 AND id <= $2) t
FULL JOIN (SELECT * FROM dead_task WHERE task_id > $1 AND task_id <= $2) x ON x.task_id = t.id
LEFT JOIN task_input i ON i.task_id = x.task_id
WHERE (t.status IN (7, 8) OR x.task_id IS NOT NULL)
  AND (t.id IS NULL OR x.task_id IS NULL OR t.status NOT IN (7, 8) OR x.version <> t.version OR i.task_id IS NULL) ORDER BY 2 LIMIT 1001

-- name: audit_replays
-- I27: what jobs did with a task stands in its history, as often as they say.
SELECT t.id, t.public_id::text AS subject, i.n || ' replays and drops by jobs, ' || h.n || ' in its history' AS detail
FROM task t
CROSS JOIN LATERAL (SELECT count(*) AS n FROM replay_item r
                    WHERE r.kind = 'task' AND r.target = t.id AND r.result IN ('replayed', 'dropped')) i
CROSS JOIN LATERAL (SELECT count(*) AS n FROM history x
                    WHERE x.task_id = t.id AND x.kind IN ('replay', 'drop') AND x.detail LIKE 'job %') h
WHERE t.id > $1 AND t.id <= $2 AND i.n <> h.n ORDER BY 2 LIMIT 1001

-- name: audit_replay_jobs
-- I27: a job accounts for each of its items, and one that is over has left none behind. Jobs of the last $1 days.
SELECT j.id, 'replay job ' || j.id AS subject, j.state || ': ' || j.total || ' items, ' || c.n || ' stored, ' || c.open || ' open, ' ||
  j.replayed + j.dropped + j.gone + j.refused + j.stopped || ' accounted for' AS detail
FROM replay_job j CROSS JOIN LATERAL (
  SELECT count(*) AS n, count(*) FILTER (WHERE r.result IS NULL) AS open FROM replay_item r WHERE r.job_id = j.id) c
WHERE j.changed_at > now() - make_interval(days => $1::int)
  AND (c.n <> j.total OR c.open <> j.total - j.replayed - j.dropped - j.gone - j.refused - j.stopped
       OR j.state IN ('done', 'stopped') AND c.open > 0)
ORDER BY 2 LIMIT 1001

-- name: audit_events_of_nobody
-- I7: an event on its way out, or dead, announces an end that was written.
SELECT e.id, coalesce(t.public_id::text, 'task ' || e.task_id) AS subject, 'event ' || e.id || ' announces status ' || e.status ||
  ' of version ' || e.version || ', ' || CASE WHEN t.id IS NULL THEN 'but there is no such task' ELSE 'the task has status ' || t.status || ' of version ' || t.version END AS detail
FROM (SELECT id, task_id, status, version FROM event UNION ALL SELECT id, task_id, status, version FROM dead_event) e
LEFT JOIN task t ON t.id = e.task_id LEFT JOIN dispatch d ON d.id = t.id
WHERE t.id IS NULL
  OR (e.version <> t.version OR e.status <> t.status OR d.id IS NOT NULL)
    AND NOT EXISTS (SELECT 1 FROM history h WHERE h.task_id = t.id AND h.kind = 'replay' AND h.version > e.version)
ORDER BY 2 LIMIT 1001

-- name: audit_finals
-- Ends of a slice that began to be kept at $3: what their events must say, and whether these still wait to leave or died.
-- Ends that came with a task from an old gateway are announced to nobody.
SELECT t.public_id, t.tenant_id, t.creator, t.biz_name, t.version, t.status, t.attempt, t.finished_at, t.oss_file, t.file_type, t.file_size,
  t.error_code, e.task_id IS NOT NULL AS waiting
FROM task t LEFT JOIN (SELECT task_id, version FROM event WHERE task_id > $1 AND task_id <= $2
                       UNION SELECT task_id, version FROM dead_event WHERE task_id > $1 AND task_id <= $2) e ON e.task_id = t.id AND e.version = t.version
WHERE t.id > $1 AND t.id <= $2 AND t.status >= 6 AND t.finished_at >= $3
  AND NOT EXISTS (SELECT 1 FROM history h WHERE h.task_id = t.id AND h.kind = 'import' AND h.version = t.version)

-- name: audit_tasks_now
-- The same for tasks that events name: $1 tenants, $2 public ids. Earlier ends of a task need a recorded replay.
SELECT t.public_id, t.tenant_id, t.creator, t.biz_name, coalesce(d.version, t.version) AS version, t.status, t.attempt, t.finished_at, t.oss_file,
  t.file_type, t.file_size, t.error_code, (SELECT max(h.version) FROM history h WHERE h.task_id = t.id AND h.kind = 'replay') AS replayed
FROM unnest($1::bigint[], $2::uuid[]) AS w(tenant_id, public_id)
JOIN task t ON t.tenant_id = w.tenant_id AND t.public_id = w.public_id LEFT JOIN dispatch d ON d.id = t.id

-- name: audit_cleaned
-- How many tasks of a tenant's creator were cleaned. $1 tenants, $2 creators.
SELECT w.tenant_id, w.creator, c.tasks FROM unnest($1::bigint[], $2::text[]) AS w(tenant_id, creator)
JOIN cleaned c ON c.tenant_id = w.tenant_id AND c.creator = w.creator

-- name: audit_shortest_life
-- No task is cleaned sooner after its end than this many seconds.
SELECT coalesce(min(auto_clean_seconds), 86400)::int AS seconds FROM model

-- name: audit_results
-- Successes of a slice with the files that they promise.
SELECT t.public_id, t.oss_file, t.file_size, t.files, a.staged_size FROM task t
LEFT JOIN attempt a ON a.task_id = t.id AND a.attempt = t.attempt
WHERE t.id > $1 AND t.id <= $2 AND t.status = 6

-- name: audit_lanes
-- A page of lanes with the limit of their gate. $1 after, $2 how many.
SELECT l.id AS lane, m.name AS model, l.tenant_id, m.queue_limit
FROM lane l JOIN model m ON m.id = l.model_id WHERE l.id > $1 ORDER BY l.id LIMIT $2

-- name: audit_open_members
-- Open tasks of a slice that own a gate slot, and who holds a permit for them: the call that runs, or the job that is
-- open at a provider, also while nobody runs its attempt.
SELECT d.lane, d.public_id, slot_ttl_ms(m.expected_seconds) AS slot_ttl_ms,
  coalesce(p.permit_token, d.token) AS token,
  CASE WHEN coalesce(p.permit_token, d.token) IS NOT NULL AND d.phase < 2 AND coalesce(p.deadline, d.until) > now()
    THEN (extract(epoch FROM coalesce(p.deadline, d.until) - now()) * 1000)::bigint END AS permit_ttl_ms
FROM dispatch d JOIN lane l ON l.id = d.lane JOIN model m ON m.id = l.model_id
LEFT JOIN provider_job p ON p.task_id = d.id AND p.attempt = d.attempt AND p.ended_at IS NULL
WHERE d.id > $1 AND d.id <= $2 AND d.state <> 3

-- name: audit_model_topics
-- Models whose topics may hold records.
SELECT id, name FROM model WHERE deleted_at IS NULL OR deleted_at > now() - interval '1 hour' ORDER BY id

-- name: audit_claimed
-- Which of these messages (task, lease) are no longer waiting to be claimed.
SELECT w.task, w.lease FROM unnest($1::bigint[], $2::bigint[]) AS w(task, lease)
WHERE NOT EXISTS (SELECT 1 FROM dispatch d WHERE d.id = w.task AND d.lease = w.lease AND d.token IS NULL AND d.held_by IS NULL)

-- name: audit_buried
-- Which of these offsets of a topic's partition have their row among the dead messages. $1 topic, $2 partition, $3 offsets.
SELECT "offset" FROM dead_message WHERE topic = $1 AND "partition" = $2 AND "offset" = ANY ($3::bigint[])

-- name: audit_keys_of_nobody
-- I2: an idempotency key names a task that exists. $1 seconds: no task is cleaned sooner.
SELECT 0::bigint AS id, i.public_id::text AS subject, 'an idempotency key of tenant ' || i.tenant_id || ' names it, but there is no such task' AS detail
FROM idempotency i LEFT JOIN task t ON t.tenant_id = i.tenant_id AND t.public_id = i.public_id
WHERE t.id IS NULL AND i.created_at > now() - make_interval(secs => $1) ORDER BY 2 LIMIT 1001

-- name: fix_open_without_row
-- Give a task that lost its dispatch row a new one, at its old place in the lane, recorded; returns it with the slot that it
-- needs. What is not due yet waits for its time. A job that is open at its provider is gone on with, first in line, and
-- never submitted again. An output that was staged cannot be uploaded any more (its kind stood in the row), so it goes,
-- and the attempt in which a replay wanted to do no more than that is a call. Calls that left no attempt (a busy model's, an
-- old gateway's) are recorded as steps: `reached` counts them.
WITH lost AS (
  SELECT t.*, length(i.payload) AS input_size,
    coalesce((SELECT max(a.attempt) FROM attempt a WHERE a.task_id = t.id), 0) AS last,
    coalesce((SELECT max(n.attempt) FROM (
      SELECT a.attempt FROM attempt a WHERE a.task_id = t.id
      UNION ALL SELECT h.attempt FROM history h WHERE h.task_id = t.id AND h.kind IN ('release', 'import')) n), 0) AS reached,
    (SELECT max(h.attempt) FROM history h WHERE h.task_id = t.id AND h.kind = 'replay') AS replayed,
    (SELECT count(*) FROM history h WHERE h.task_id = t.id AND h.kind = 'retry' AND h.version > coalesce(
      (SELECT max(r.version) FROM history r WHERE r.task_id = t.id AND r.kind = 'replay'), 0)) AS retried,
    greatest(t.version, coalesce((SELECT max(h.version) FROM history h WHERE h.task_id = t.id), 0)) + 1 AS next
  FROM task t JOIN task_input i ON i.task_id = t.id JOIN lane l ON l.id = t.lane
  WHERE t.id = $1 AND t.status < 6 AND NOT EXISTS (SELECT 1 FROM dispatch d WHERE d.id = t.id)
), found AS (
  SELECT l.*, j.attempt AS job, j.status IN ('intended', 'queued') AS queued, l.reached = 0 AND j.attempt IS NULL AS fresh,
    l.reached = 0 AND j.attempt IS NULL AND coalesce(l.not_before > now(), false) AS draft
  FROM lost l LEFT JOIN provider_job j ON j.task_id = l.id AND j.ended_at IS NULL AND j.attempt > l.last
  ORDER BY j.attempt DESC LIMIT 1
), row AS (
  INSERT INTO dispatch (id, public_id, lane, state, due_at, phase, job, class, priority, position, attempt, retries, version, input_size,
                        start_by, deadline, expires_at)
  SELECT id, public_id, lane, CASE WHEN draft THEN 2 ELSE 0 END, CASE WHEN draft THEN not_before END, CASE WHEN job IS NULL THEN 0 ELSE 1 END,
    CASE WHEN job IS NULL THEN 0 WHEN queued THEN 2 ELSE 1 END, CASE WHEN job IS NULL THEN 1 ELSE 0 END, priority, id, coalesce(job, reached),
    retries + retried, next, input_size, start_by, deadline, CASE WHEN fresh THEN least(start_by, deadline) ELSE deadline END
  FROM found ON CONFLICT DO NOTHING RETURNING id, public_id, lane, attempt, version
), so AS (
  DELETE FROM staged_output WHERE task_id = ANY (ARRAY(SELECT id FROM row))
), up AS (
  UPDATE task t SET uploads = t.uploads - 1 FROM found f JOIN row r ON r.id = f.id WHERE t.id = f.id AND f.replayed > f.reached AND t.uploads > 0
), h AS (
  INSERT INTO history (task_id, kind, attempt, version, detail) SELECT id, 'heal', attempt, version, 'audit: its dispatch row was lost' FROM row
)
SELECT r.lane, r.public_id::text AS member, slot_ttl_ms(m.expected_seconds) AS slot_ttl_ms
FROM row r JOIN lane l ON l.id = r.lane JOIN model m ON m.id = l.model_id

-- name: fix_row_without_open
-- Drop a dispatch row that no open task stands behind, recorded, unless an attempt runs. Nobody goes on with its job at a
-- provider: that ends, too. Returns the slot that may have been its.
WITH gone AS (
  DELETE FROM dispatch d WHERE d.id = $1 AND d.token IS NULL AND NOT EXISTS (SELECT 1 FROM task t WHERE t.id = d.id AND t.status < 6)
  RETURNING d.id, d.public_id, d.lane, d.attempt, d.version
), pj AS (
  UPDATE provider_job p SET ended_at = now(), cancel_at = CASE WHEN p.status IN ('intended', 'queued', 'processing') THEN now() END
  WHERE p.task_id = ANY (ARRAY(SELECT id FROM gone)) AND p.ended_at IS NULL
), h AS (
  INSERT INTO history (task_id, kind, attempt, version, detail)
  SELECT g.id, 'drop', g.attempt, t.version, 'audit: a dispatch row of a task that is over' FROM gone g JOIN task t ON t.id = g.id
)
SELECT lane, public_id FROM gone

-- name: audit_lane_pauses
-- I28: a lane is marked as paused while, and only while, a pause of it is open.
SELECT l.id::bigint AS id, 'model ' || m.name || ' of tenant ' || l.tenant_id AS subject,
  CASE WHEN l.paused THEN 'it is held as paused, and no pause says so' ELSE 'it is said to be paused, and runs' END AS detail
FROM lane l JOIN model m ON m.id = l.model_id LEFT JOIN pause p ON p.scope = 'model' AND p.lane = l.id AND p.ended IS NULL
WHERE l.paused <> (p.id IS NOT NULL) ORDER BY 2 LIMIT 1001

-- name: audit_tenant_pauses
-- I28: the same of tenants.
SELECT t.id, 'tenant ' || t.id AS subject,
  CASE WHEN t.paused THEN 'it is held as paused, and no pause says so' ELSE 'it is said to be paused, and runs' END AS detail
FROM tenant t LEFT JOIN pause p ON p.scope = 'tenant' AND p.tenant_id = t.id AND p.ended IS NULL
WHERE t.paused <> (p.id IS NOT NULL) ORDER BY 2 LIMIT 1001

-- name: fix_lane_pause
-- I28: a lane that is held gets the pause that says so, one that is said to be paused is held: nothing starts that somebody
-- wanted to wait. $1 lane. A resume at this very moment may leave it broken the other way round: the next look finds that.
WITH l AS MATERIALIZED (
  SELECT l.id, l.tenant_id, l.model_id, l.paused FROM lane l
  WHERE l.id = $1 AND l.paused <> EXISTS (SELECT FROM pause p WHERE p.scope = 'model' AND p.lane = l.id AND p.ended IS NULL) FOR NO KEY UPDATE
), held AS (
  UPDATE lane x SET paused = true FROM l WHERE x.id = l.id AND NOT l.paused
), said AS (
  INSERT INTO pause (scope, tenant_id, lane, paused_by, reason) SELECT 'model', tenant_id, id, 'audit', 'it was held, and no pause said so'
  FROM l WHERE paused ON CONFLICT DO NOTHING
)
INSERT INTO operator_action (done_by, action, tenant_id, subject, reason)
SELECT 'audit', 'pause', l.tenant_id, 'model ' || m.name, CASE WHEN l.paused THEN 'it was held, and no pause said so' ELSE 'it was said to be paused, and ran' END
FROM l JOIN model m ON m.id = l.model_id RETURNING id

-- name: fix_tenant_pause
-- I28: the same of a tenant. $1 tenant.
WITH t AS MATERIALIZED (
  SELECT t.id, t.paused FROM tenant t
  WHERE t.id = $1 AND t.paused <> EXISTS (SELECT FROM pause p WHERE p.scope = 'tenant' AND p.tenant_id = t.id AND p.ended IS NULL) FOR NO KEY UPDATE
), held AS (
  UPDATE tenant x SET paused = true FROM t WHERE x.id = t.id AND NOT t.paused
), said AS (
  INSERT INTO pause (scope, tenant_id, paused_by, reason) SELECT 'tenant', id, 'audit', 'it was held, and no pause said so'
  FROM t WHERE paused ON CONFLICT DO NOTHING
)
INSERT INTO operator_action (done_by, action, tenant_id, subject, reason)
SELECT 'audit', 'pause', id, 'tenant ' || id, CASE WHEN paused THEN 'it was held, and no pause said so' ELSE 'it was said to be paused, and ran' END
FROM t RETURNING id

-- name: doctor_processes
-- Who lives, by role and version; whether any dispatcher reaches the broker, and the last error if none does; why one that
-- reaches it is refused the topic of events, and the topics of models (one of them, and of how many).
WITH refused AS MATERIALIZED (
  SELECT DISTINCT ON (r.lane) r.lane, r.cause
  FROM process p CROSS JOIN LATERAL unnest(p.refused_lanes, p.refused_causes) AS r(lane, cause)
  WHERE p.role = 'dispatcher' AND p.broker_reachable AND p.beat_at > now() - interval '10 s' ORDER BY r.lane, p.beat_at DESC
)
SELECT (SELECT count(*)::int FROM process p WHERE p.role = 'dispatcher' AND p.beat_at > now() - interval '10 s') AS dispatchers,
  (SELECT count(*)::int FROM process p WHERE p.role = 'janitor' AND p.beat_at > now() - interval '10 s') AS janitors,
  (SELECT bool_or(p.broker_reachable) FROM process p WHERE p.role = 'dispatcher' AND p.beat_at > now() - interval '10 s') AS reachable,
  (SELECT p.last_error FROM process p WHERE p.role = 'dispatcher' AND p.last_error <> '' ORDER BY p.beat_at DESC LIMIT 1) AS last_error,
  (SELECT p.events_refused FROM process p WHERE p.role = 'dispatcher' AND p.broker_reachable AND p.events_refused <> ''
     AND p.beat_at > now() - interval '10 s' ORDER BY p.beat_at DESC LIMIT 1) AS events_refused,
  (SELECT count(*)::int FROM refused) AS refused_models,
  (SELECT 'model ' || m.name || ' of tenant ' || l.tenant_id || ': ' || r.cause
   FROM refused r JOIN lane l ON l.id = r.lane JOIN model m ON m.id = l.model_id ORDER BY r.lane LIMIT 1) AS refused_model,
  ARRAY(SELECT DISTINCT v.version FROM (
    SELECT p.version FROM process p WHERE p.beat_at > now() - interval '10 s'
    UNION ALL SELECT e.version FROM executor e WHERE e.stopped_at IS NULL AND e.beat_at > now() - interval '10 s') v ORDER BY 1) AS versions

-- name: doctor_server
-- What the doctor asks of a server.
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int / 10000 AS major,
  pg_is_in_recovery() AS standby, current_setting('synchronous_commit') AS durable, current_setting('autovacuum') AS autovacuum,
  extract(epoch FROM clock_timestamp())::float8 AS now

-- name: doctor_transaction
-- A transaction that has been open for $1 seconds, or whose client has asked for nothing in it for $2 seconds: that one first,
-- then the oldest. One that works, such as a dump or a walk of ours, is not forgotten.
SELECT pid, usename AS "user", application_name AS client, extract(epoch FROM now() - xact_start)::float8 AS seconds FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend'
  AND (xact_start < now() - make_interval(secs => $1) OR state LIKE 'idle in transaction%' AND state_change < now() - make_interval(secs => $2))
ORDER BY state LIKE 'idle in transaction%' AND state_change < now() - make_interval(secs => $2) DESC, xact_start LIMIT 1

-- name: doctor_unseen
-- A transaction that has changed something, of a user of whom this one may not see since when.
SELECT a.pid, a.usename AS "user", a.application_name AS client, current_user AS me FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'transactionid' AND l.granted AND l.mode = 'ExclusiveLock' AND a.datname = current_database()
  AND a.usename <> current_user AND NOT pg_has_role(a.usesysid, 'USAGE') AND NOT pg_has_role('pg_read_all_stats', 'USAGE') LIMIT 1

-- name: doctor_executors
-- How many executors are alive, how many of them take work, and how the others stand.
SELECT count(*)::int AS alive, (count(*) FILTER (WHERE reading))::int AS reading,
  coalesce(array_agg(DISTINCT posture) FILTER (WHERE NOT reading), '{}') AS postures
FROM executor WHERE stopped_at IS NULL AND beat_at > now() - interval '10 s'

-- name: doctor_adapters
-- Adapters that no living executor has, and how many models name each, and jobs wait to be ended by it (up to 10,000).
SELECT w.adapter, sum(w.models)::int AS models, sum(w.jobs)::int AS jobs
FROM (SELECT m.adapter, count(*) AS models, 0 AS jobs FROM model m WHERE m.deleted_at IS NULL GROUP BY 1
  UNION ALL
  SELECT j.adapter, 0, count(*) FROM (SELECT adapter FROM provider_job WHERE cancel_at IS NOT NULL LIMIT 10000) j GROUP BY 1) w
WHERE NOT EXISTS (SELECT FROM executor e WHERE e.stopped_at IS NULL AND e.beat_at > now() - interval '10 s' AND w.adapter = ANY (e.adapters))
GROUP BY 1 ORDER BY 1

-- name: doctor_models
-- Models whose topics must be there, with so many partitions at least, and their lanes.
SELECT m.id, m.tenant_id, m.name, m.partitions, l.id AS lane FROM model m JOIN lane l ON l.model_id = m.id
WHERE m.deleted_at IS NULL ORDER BY m.id
