-- name: promote_due
-- Rows whose time has come are ready; $1 at most. A draft begins to wait now: its wait counts from when it was due.
-- What was leased before is no draft: it was refused, parked, or handed back for a while.
WITH due AS MATERIALIZED (
  SELECT id FROM dispatch WHERE state = 2 AND due_at <= now() ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED
)
UPDATE dispatch q SET state = 0, due_at = NULL, version = q.version + 1,
  entered_at = CASE WHEN q.attempt = 0 AND q.leased_at IS NULL THEN q.due_at ELSE q.entered_at END
WHERE q.id = ANY (ARRAY(SELECT id FROM due))
RETURNING q.id, (SELECT l.tenant_id FROM lane l WHERE l.id = q.lane) AS tenant_id, q.lane, q.class, q.priority, q.position

-- name: due_retries
-- Failed rows whose retry is due: they need a gate slot first. Who was young enough for the tail when it failed may
-- have waited so long for its slot that it goes to the head. What somebody keeps locked is not among them, here and below:
-- pages of it would hide the others.
SELECT q.id, q.public_id, q.lane, q.version, m.queue_limit, slot_ttl_ms(m.expected_seconds) AS slot_ttl_ms,
  q.class = 0 OR m.retry_queue_max_seconds > 0 AND t.created_at < now() - make_interval(secs => m.retry_queue_max_seconds) AS head
FROM dispatch q JOIN task t ON t.id = ANY (ARRAY[q.id]) JOIN lane l ON l.id = q.lane JOIN model m ON m.id = l.model_id
WHERE q.state = 3 AND q.due_at <= now() AND NOT l.closed ORDER BY q.due_at LIMIT $1 FOR NO KEY UPDATE OF q SKIP LOCKED

-- name: requeue_retries
-- Back into the queue, with the slot just taken: to the head, in the order of creation, or behind all that is there now.
-- Who is not in the answer was changed by somebody else meanwhile. $1 ids, $2 versions, $3 head.
UPDATE dispatch q SET state = 0, due_at = NULL, version = q.version + 1, class = CASE WHEN m.head THEN 0 ELSE 1 END,
  position = CASE WHEN m.head THEN q.id ELSE nextval('task_ids') END
FROM unnest($1::bigint[], $2::int[], $3::boolean[]) AS m(id, version, head) WHERE q.id = ANY (ARRAY[m.id]) AND q.version = m.version
RETURNING q.id, (SELECT l.tenant_id FROM lane l WHERE l.id = q.lane) AS tenant_id, q.lane, q.class, q.priority, q.position

-- name: put_off_retries
-- The gate is full: look again later, each after its own seconds. $1 ids, $2 versions, $3 seconds.
UPDATE dispatch q SET due_at = now() + make_interval(secs => m.seconds)
FROM unnest($1::bigint[], $2::int[], $3::float8[]) AS m(id, version, seconds) WHERE q.id = ANY (ARRAY[m.id]) AND q.version = m.version
RETURNING q.id

-- name: rescue_held
-- Rows that waited for a permit with silent executors: same place in the queue. OFFSET 0, here and below: asked for the
-- order of the key outright, the planner walks the whole table in that order instead of sorting what is in flight. Rows that
-- somebody keeps locked are the next round's, here and in rescue_running: the others need not wait for them.
WITH lost AS MATERIALIZED (
  SELECT * FROM (SELECT o.id, o.held_by, o.lease FROM dispatch o
                 WHERE o.state = 1 AND o.held_by = ANY ($1::int[]) AND o.token IS NULL OFFSET 0 FOR UPDATE SKIP LOCKED) f ORDER BY f.id
), back AS (
  UPDATE dispatch q SET state = 0, lease = NULL, held_by = NULL, version = q.version + 1
  FROM lost WHERE q.id = ANY (ARRAY[lost.id]) AND q.held_by = lost.held_by AND q.lease = lost.lease AND q.token IS NULL
  RETURNING q.id, q.lane, q.class, q.priority, q.position, q.attempt, q.version, lost.lease
), h AS (
  INSERT INTO history (task_id, kind, attempt, version, lease, detail) SELECT id, 'release', attempt, version, lease, 'holder lost' FROM back
)
SELECT id, (SELECT l.tenant_id FROM lane l WHERE l.id = back.lane) AS tenant_id, lane, class, priority, position FROM back

-- name: rescue_running
-- Attempts of silent executors: staged output goes on from where it is; the others get another attempt from the
-- budget for lost ones ($2), first in line. Those of lost_for_good are left to it. The token comes back where its
-- permit is free again: an open provider job (phase 1) keeps it.
WITH lost AS MATERIALIZED (
  SELECT * FROM (SELECT o.* FROM dispatch o WHERE o.state = 1 AND o.executor = ANY ($1::int[]) AND o.token IS NOT NULL
                   AND (o.phase >= 1 OR o.lost < $2)
                   AND (SELECT true FROM cancel_request c WHERE c.task_id = o.id LIMIT 1) IS NULL OFFSET 0 FOR UPDATE SKIP LOCKED) f
  ORDER BY f.id
), back AS (
  UPDATE dispatch q SET state = 0, class = 0, lease = NULL, leased_at = NULL, token = NULL, executor = NULL, until = NULL,
    started_at = CASE WHEN q.phase >= 1 THEN q.started_at END, lost = q.lost + CASE WHEN q.phase = 0 THEN 1 ELSE 0 END, version = q.version + 1,
    entered_at = CASE WHEN q.phase = 0 THEN now() ELSE q.entered_at END
  FROM lost WHERE q.id = ANY (ARRAY[lost.id]) AND q.token = lost.token
  RETURNING q.id, q.lane, q.class, q.priority, q.position, q.phase, q.attempt, q.version, lost.token, lost.executor, lost.lease,
    lost.entered_at, lost.leased_at, lost.started_at
), a AS (
  INSERT INTO attempt (task_id, attempt, outcome, executor, token, entered_at, leased_at, started_at, ended_at, error_code, error_message)
  SELECT id, attempt, 'lost', executor, token, entered_at, leased_at, started_at, greatest(now(), started_at), 'executor_lost',
    CASE WHEN executor = 0 THEN 'its executor knew nothing of it any more' ELSE 'its executor stopped giving heartbeats' END
  FROM back WHERE phase = 0
), h AS (
  INSERT INTO history (task_id, kind, attempt, version, lease, detail)
  SELECT id, 'rescue', attempt, version, lease, 'executor ' || executor || ', token ' || token FROM back
)
SELECT id, (SELECT l.tenant_id FROM lane l WHERE l.id = back.lane) AS tenant_id, lane, class, priority, position, CASE WHEN phase <> 1 THEN token END AS token FROM back

-- name: lost_for_good
-- Attempts of silent executors that are followed by none, for finish_many: those whose end their callers asked for, and
-- those that have used up the budget for lost ones ($2).
SELECT f.*, (SELECT l.tenant_id FROM lane l WHERE l.id = f.lane) AS tenant_id FROM (
  SELECT q.id, q.public_id, q.lane, q.token, q.canceled FROM (
    SELECT o.id, o.public_id, o.lane, o.token, o.phase, o.lost,
      (SELECT true FROM cancel_request c WHERE c.task_id = o.id LIMIT 1) IS NOT NULL AS canceled
    FROM dispatch o WHERE o.state = 1 AND o.executor = ANY ($1::int[]) AND o.token IS NOT NULL) q
  WHERE q.canceled OR q.phase = 0 AND q.lost >= $2 OFFSET 0) f ORDER BY f.id

-- name: hold_attempts
-- Locks attempts that the same transaction ends from outside: what their executors are writing just now is waited for, so
-- that the end sees it, a job that is being begun at a provider above all. $1 ids.
SELECT q.id FROM (SELECT id FROM unnest($1::bigint[]) AS id ORDER BY id) m JOIN dispatch q ON q.id = ANY (ARRAY[m.id]) FOR NO KEY UPDATE OF q

-- name: executors_with_work
-- Who is named by any running or held row: a dead process may have stopped before its rows were rescued.
SELECT DISTINCT coalesce(q.executor, q.held_by) AS id FROM dispatch q
WHERE q.state = 1 AND (q.token IS NOT NULL OR q.held_by IS NOT NULL)

-- name: overdue_running
-- Attempts far past their deadline whose executor still beats: calls past `until`, uploads that outlived $2 seconds, and
-- whatever outlived the deadline of its task.
-- $1 seconds of grace, $3 limit.
SELECT q.id, q.public_id, t.tenant_id, q.lane, q.token, q.phase, q.retries, q.lost, extract(epoch FROM now() - t.created_at)::float8 AS age,
  coalesce(extract(epoch FROM now() - q.generated_at), 0)::float8 AS upload_age, m.retry_times, m.retry_queue_max_seconds,
  extract(epoch FROM q.deadline - now())::float8 AS deadline_in
FROM (SELECT * FROM (
  SELECT * FROM dispatch d WHERE d.state = 1 AND d.token IS NOT NULL
    AND (d.deadline < now() - make_interval(secs => $1)
         OR CASE WHEN d.phase < 2 THEN d.until < now() - make_interval(secs => $1)
                 ELSE d.generated_at < now() - make_interval(secs => $1 + $2) END) OFFSET 0 FOR NO KEY UPDATE SKIP LOCKED) f
  ORDER BY f.id LIMIT $3) q
JOIN task t ON t.id = ANY (ARRAY[q.id]) JOIN model m ON m.id = t.model_id ORDER BY q.id

-- name: waiting_page
-- Open rows in the order of their ids, to find those that wait longer than $3 seconds. Ids grow with the time of creation:
-- nothing after a row of age x is much older than x. While a row's lane, its tenant or everything was paused it did not
-- wait: that is looked up for those past the limit alone.
SELECT q.id, q.version, q.phase, q.token IS NULL AS idle,
  l.paused OR tn.paused OR (SELECT true FROM pause WHERE scope = 'all' AND ended IS NULL) IS NOT NULL AS paused,
  extract(epoch FROM now() - q.entered_at)::float8 - CASE WHEN q.entered_at < now() - make_interval(secs => $3) THEN (
    SELECT coalesce(sum(extract(epoch FROM upper(r) - lower(r))), 0)::float8 FROM unnest((
      SELECT range_agg(tstzrange(greatest(p.began, q.entered_at), least(p.ended, now()))) FROM pause p
      WHERE (p.ended IS NULL OR p.ended > q.entered_at)
        AND (p.scope = 'all' OR p.scope = 'tenant' AND p.tenant_id = l.tenant_id OR p.scope = 'model' AND p.lane = l.id))) AS r) ELSE 0 END AS waited,
  extract(epoch FROM now() - t.created_at)::float8 AS age,
  q.state = 2 AND q.attempt = 0 AND q.leased_at IS NULL AS draft
FROM dispatch q JOIN task t ON t.id = ANY (ARRAY[q.id]) JOIN lane l ON l.id = q.lane JOIN tenant tn ON tn.id = l.tenant_id
WHERE q.id > $1 ORDER BY q.id LIMIT $2

-- name: rows_of_closed_lanes
-- What waits in lanes of deleted models: ready, on the road, for its time, or for a retry. In no order: sorting would read
-- a million rows for each thousand. Uploads that another executor was handed go on. $1 limit.
SELECT q.id, q.version FROM lane l CROSS JOIN LATERAL (
  SELECT r.id, r.version FROM (SELECT d.id, d.version FROM dispatch d WHERE d.lane = l.id AND d.state = 0 FOR NO KEY UPDATE SKIP LOCKED) r
  UNION ALL SELECT r.id, r.version FROM (
    SELECT d.id, d.version FROM dispatch d WHERE d.lane = l.id AND d.state = 1 AND d.token IS NULL AND (d.phase < 2 OR d.held_by IS NULL)
    FOR NO KEY UPDATE SKIP LOCKED) r
  UNION ALL SELECT r.id, r.version FROM (SELECT d.id, d.version FROM dispatch d WHERE d.lane = l.id AND d.state >= 2 FOR NO KEY UPDATE SKIP LOCKED) r) q
WHERE l.closed LIMIT $1

-- name: requested_waiting
-- Tasks whose end was asked for while an executor ran them and that nobody runs any more: rescued, failed, parked or
-- handed back in between. Requests are few, and LIMIT 1 keeps them the outer side of the join. $1 limit.
SELECT q.id, q.version FROM cancel_request c
CROSS JOIN LATERAL (SELECT d.id, d.version FROM dispatch d WHERE d.id = c.task_id AND d.token IS NULL LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED) q
ORDER BY c.task_id LIMIT $1

-- name: expired_rows
-- Waiting tasks whose start_by (before their first start) or deadline has passed. An open provider job is its executor's to
-- end, for 30 s: while its lane is paused, or no executor lives, nobody takes it over. Running ones that are just being
-- aborted stand in the same index. $1 limit.
SELECT q.id, q.version, q.attempt = 0 AND q.start_by IS NOT NULL AND q.start_by <= now() AS not_started FROM dispatch q
WHERE q.expires_at <= now() AND q.token IS NULL AND (q.phase <> 1 OR q.expires_at <= now() - interval '30 seconds')
ORDER BY q.expires_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED

-- name: end_waiting
-- The end of tasks that nobody runs, if nothing happened to them since they were looked at. An attempt that had got as
-- far as an output (a parked upload) gets its row; a cancel is remembered, and a retry that was still waited for is none
-- that was made, as in cancel_waiting.
-- $1 ids, $2 versions, $3 statuses, $4 codes, $5 messages, $6 dead.
WITH m AS MATERIALIZED (
  SELECT * FROM unnest($1::bigint[], $2::int[], $3::smallint[], $4::text[], $5::text[], $6::boolean[])
    AS m(id, version, status, code, message, dead) ORDER BY id
), gone AS (
  DELETE FROM dispatch q USING m WHERE q.id = ANY (ARRAY[m.id]) AND q.version = m.version AND q.token IS NULL
  RETURNING q.id, q.public_id, q.lane, q.state, q.phase, q.attempt, q.retries, q.version + 1 AS version, q.staged, q.staged_size,
    q.staged_hash, q.staged_type, q.staged_files, q.entered_at, q.started_at, q.generated_at, q.migrating_at, m.status, m.code, m.message, m.dead
), a AS (
  INSERT INTO attempt (task_id, attempt, outcome, entered_at, started_at, generated_at, migrating_at, staged_size, error_code, error_message)
  SELECT id, attempt, CASE status WHEN 8 THEN 'timeout' WHEN 9 THEN 'canceled' ELSE 'failed' END, entered_at, started_at, generated_at, migrating_at,
         staged_size, code, message FROM gone WHERE phase >= 1
  ON CONFLICT DO NOTHING
), h AS (
  INSERT INTO history (task_id, kind, attempt, version) SELECT id, 'cancel', attempt, version FROM gone WHERE status = 9
), t AS (
  UPDATE task t SET status = g.status, started_at = g.started_at, finished_at = now(), attempt = g.attempt,
    retries = CASE WHEN g.state = 3 THEN g.retries - 1 ELSE g.retries END, version = g.version, error_code = g.code, error_message = g.message
  FROM gone g WHERE t.id = ANY (ARRAY[g.id])
  RETURNING t.tenant_id, t.creator, t.quota_day, t.points, t.status
), given_back AS (
  UPDATE quota_usage u SET used = greatest(u.used - b.points, 0)
  FROM (SELECT tenant_id, creator, quota_day, sum(points) AS points FROM t WHERE points > 0 AND status > 6
        GROUP BY 1, 2, 3 ORDER BY 1, 2, 3) b
  WHERE u.tenant_id = ANY (ARRAY[b.tenant_id]) AND u.user_name = b.creator AND u.day = ANY (ARRAY[b.quota_day])
), dd AS (
  INSERT INTO dead_task (task_id, tenant_id, model_id, error_code, version, staged, staged_size, staged_hash, staged_type, staged_files)
  SELECT g.id, k.tenant_id, k.model_id, g.code, g.version, g.staged, g.staged_size, g.staged_hash, g.staged_type, g.staged_files
  FROM gone g JOIN task k ON k.id = ANY (ARRAY[g.id]) WHERE g.dead
), ss AS (
  DELETE FROM task_secret WHERE task_id = ANY (ARRAY(SELECT id FROM gone WHERE NOT (dead AND staged IS NOT NULL)))
), so AS (
  DELETE FROM staged_output WHERE task_id = ANY (ARRAY(SELECT id FROM gone WHERE phase >= 2 AND NOT dead))
), pj AS (
  UPDATE provider_job p SET ended_at = now(), cancel_at = CASE WHEN p.status IN ('intended', 'queued', 'processing') THEN now() END
  WHERE p.task_id = ANY (ARRAY(SELECT id FROM gone WHERE phase = 1)) AND (p.ended_at IS NULL) IS TRUE
), ev AS (
  INSERT INTO event (task_id, version, status, attempt, started_at, error_code, error_message)
  SELECT id, version, status, attempt, started_at, code, message FROM gone
)
SELECT id, (SELECT l.tenant_id FROM lane l WHERE l.id = gone.lane) AS tenant_id, public_id, lane, state FROM gone

-- name: expired_tasks
-- Fetched tasks past expire_at, a page after ($1 time, $2 id) in that order: the whole page comes back, and of each whether
-- its time is over, which takes that its event has left (see delete_tasks). LIMIT 1 keeps the planner from reading all
-- that died. $3 limit.
SELECT t.id, t.version, t.expire_at,
  t.finished_at < (SELECT before FROM announced) AND (SELECT true FROM dead_event x WHERE x.task_id = t.id LIMIT 1) IS NULL AS over
FROM task t WHERE t.expire_at IS NOT NULL AND t.expire_at <= now() AND (t.expire_at, t.id) > ($1, $2) ORDER BY t.expire_at, t.id LIMIT $3

-- name: unfetched_tasks
-- Successes that nobody fetched for $1 days (null: for ever), and tasks canceled $2 days ago, among the $4 oldest tasks
-- after $3: the whole page comes back, marked. Ids grow with the time of creation: after a young one comes nothing that
-- is over, once all that was taken over from an old gateway lies behind: it is older than its large ids say.
SELECT p.id, p.version, coalesce(p.status = 6 AND p.fetched_at IS NULL AND p.finished_at < now() - make_interval(days => $1)
                      OR p.status = 9 AND p.finished_at < now() - make_interval(days => $2), false) AS over,
  p.created_at > now() - make_interval(days => least($1, $2))
    AND p.id > coalesce((SELECT max(i.last_id) FROM legacy_import i WHERE i."table" = 'asynch_task'), 0) AS young
FROM (SELECT id, version, status, fetched_at, finished_at, created_at FROM task WHERE id > $3 ORDER BY id LIMIT $4) p ORDER BY p.id

-- name: dead_over
-- Dead tasks past their retention whose event has left (see delete_tasks), unless a replay job has them in hand: what an
-- operator ordered is done first, however slow or paused. What somebody keeps locked is not among them, here and below: it
-- would hide the others. $1 days, $2 limit.
SELECT d.task_id AS id, d.version, CASE WHEN d.staged_files IS NOT NULL THEN ARRAY(SELECT f ->> 'reference' FROM jsonb_array_elements(d.staged_files) f)
  WHEN d.staged IS NOT NULL THEN ARRAY[d.staged] ELSE '{}' END AS staged
FROM dead_task d JOIN task t ON t.id = ANY (ARRAY[d.task_id])
WHERE d.died_at AT TIME ZONE 'UTC' < (now() - make_interval(days => $1)) AT TIME ZONE 'UTC'
  AND d.died_at < (SELECT before FROM announced)
  AND (SELECT x.task_id FROM dead_event x WHERE x.task_id = d.task_id LIMIT 1) IS NULL
  AND (SELECT i.target FROM replay_item i WHERE i.kind = 'task' AND i.target = d.task_id AND i.result IS NULL LIMIT 1) IS NULL
ORDER BY d.died_at AT TIME ZONE 'UTC' LIMIT $2 FOR UPDATE OF d, t SKIP LOCKED

-- name: delete_tasks
-- Tasks and everything that is theirs, if they are still as they were looked at: who was replayed meanwhile may have ended
-- anew, and who was fetched has time from then on. Never an open one. Never one whose event has not left (`announced`, and not
-- dead). Nor one whose entry in the operation log may be missing yet, nor one that a replay job has in hand.
-- They stay counted: `cleaned` balances statistics and events, a column of that name the points. One that somebody keeps
-- locked stays for a later round: the others go. $1 ids, $2 versions.
WITH m AS MATERIALIZED (
  SELECT x.id, x.version FROM unnest($1::bigint[], $2::int[]) AS x(id, version) CROSS JOIN LATERAL (
    SELECT FROM task k WHERE k.id = x.id FOR UPDATE SKIP LOCKED) free
), gone AS (
  DELETE FROM task t USING m
  WHERE t.id = ANY (ARRAY[m.id]) AND t.version = m.version AND t.status >= 6 AND (t.expire_at IS NULL OR t.expire_at <= now())
    AND t.finished_at < (SELECT before FROM announced)
    AND NOT EXISTS (SELECT FROM dead_event x WHERE x.task_id = ANY (ARRAY[t.id]))
    AND NOT EXISTS (SELECT 1 FROM dispatch d WHERE d.id = ANY (ARRAY[t.id]))
    AND (SELECT i.target FROM replay_item i WHERE i.kind = 'task' AND i.target = t.id AND i.result IS NULL LIMIT 1) IS NULL
    AND t.id <= coalesce((SELECT upto FROM op_log_mark), t.id)
  RETURNING t.id, t.tenant_id, t.creator, t.attempt - t.uploads AS calls, t.status, t.quota_day, t.points
), kept AS (
  UPDATE quota_usage u SET cleaned = u.cleaned + b.points
  FROM (SELECT tenant_id, creator, quota_day, sum(points) AS points FROM gone WHERE points > 0 AND status = 6
        GROUP BY 1, 2, 3 ORDER BY 1, 2, 3) b
  WHERE u.tenant_id = ANY (ARRAY[b.tenant_id]) AND u.user_name = b.creator AND u.day = ANY (ARRAY[b.quota_day])
), k AS (
  INSERT INTO cleaned (tenant_id, creator, tasks, calls)
  SELECT tenant_id, creator, count(*), sum(calls - (SELECT count(*) FROM attempt a WHERE a.task_id = gone.id AND NOT a.called))
  FROM gone GROUP BY 1, 2 ORDER BY 1, 2
  ON CONFLICT (tenant_id, creator) DO UPDATE SET tasks = cleaned.tasks + EXCLUDED.tasks, calls = cleaned.calls + EXCLUDED.calls
), i AS (DELETE FROM task_input WHERE task_id = ANY (ARRAY(SELECT id FROM gone))
), s AS (DELETE FROM task_secret WHERE task_id = ANY (ARRAY(SELECT id FROM gone))
), so AS (DELETE FROM staged_output WHERE task_id = ANY (ARRAY(SELECT id FROM gone))
), a AS (DELETE FROM attempt WHERE task_id = ANY (ARRAY(SELECT id FROM gone))
), h AS (DELETE FROM history WHERE task_id = ANY (ARRAY(SELECT id FROM gone))
), d AS (DELETE FROM dead_task WHERE task_id = ANY (ARRAY(SELECT id FROM gone))
), p AS (DELETE FROM provider_job WHERE task_id = ANY (ARRAY(SELECT id FROM gone))
), c AS (DELETE FROM job_callback WHERE task_id = ANY (ARRAY(SELECT id FROM gone)))
SELECT id FROM gone

-- name: mark_operations
-- Up to where the operation log is proved next: the newest task, safe once everything that writes now is over.
INSERT INTO op_log_mark (upto, candidate, horizon)
SELECT 0, coalesce(max(id), 0), pg_snapshot_xmax(pg_current_snapshot()) FROM task
ON CONFLICT (one) DO UPDATE SET candidate = EXCLUDED.candidate, horizon = EXCLUDED.horizon, marked_at = now()
WHERE op_log_mark.upto >= op_log_mark.candidate AND EXCLUDED.candidate > op_log_mark.candidate

-- name: fill_operations
-- Entries that accepted tasks lack because their API process died, among the next $1 tasks below a mark of $2 seconds
-- ago: written from the task, cost and bodies unknown. Every task is looked at once; those of an old gateway were not
-- accepted here. LIMIT 1 keeps the planner from joining whole tables. Says how many were written and
-- whether there is more below the mark. A horizon ahead of the server's own count came with a dump of another server.
WITH mark AS MATERIALIZED (
  SELECT upto, candidate FROM op_log_mark
  WHERE upto < candidate AND marked_at < now() - make_interval(secs => $2)
    AND (horizon <= pg_snapshot_xmin(pg_current_snapshot()) OR horizon > pg_snapshot_xmax(pg_current_snapshot()))
  FOR UPDATE SKIP LOCKED
), page AS MATERIALIZED (
  SELECT t.* FROM mark k CROSS JOIN LATERAL (
    SELECT t.id, t.public_id, t.tenant_id, t.creator, t.created_at, t.biz_name, t.model_id FROM task t
    WHERE t.id > k.upto AND t.id <= k.candidate ORDER BY t.id LIMIT $1) t
), filled AS (
  INSERT INTO op_log (tenant_id, creator, created_at, biz_name, model_name, task_id, success)
  SELECT p.tenant_id, p.creator, p.created_at, p.biz_name, m.name, p.public_id, true FROM page p JOIN model m ON m.id = p.model_id
  WHERE (SELECT true FROM op_log o
         WHERE o.task_id = p.public_id AND CASE WHEN o.success AND NOT o.replayed THEN 0 ELSE o.id END = 0 LIMIT 1) IS NULL
    AND (SELECT true FROM history h WHERE h.task_id = p.id AND h.kind = 'import' LIMIT 1) IS NULL
  ORDER BY p.id
  ON CONFLICT DO NOTHING
  RETURNING 1
)
UPDATE op_log_mark k SET upto = CASE WHEN (SELECT count(*) FROM page) < $1 THEN k.candidate ELSE (SELECT max(id) FROM page) END
FROM mark RETURNING (SELECT count(*)::int FROM filled) AS filled, k.upto < k.candidate AS more

-- name: prune_operations
-- Of the $2 oldest entries after $3 those that are older than $1 days; says how many, and after which the look goes on.
-- Ids grow about as time does, so that whoever is young ends the look, once all that was taken over from an old gateway
-- lies behind: it is older than its large ids say.
WITH page AS MATERIALIZED (
  SELECT id, created_at < now() - make_interval(days => $1) AS old FROM op_log WHERE id > $3 ORDER BY id LIMIT $2
), gone AS (
  DELETE FROM op_log WHERE id = ANY (ARRAY(
    SELECT o.id FROM op_log o WHERE o.id = ANY (ARRAY(SELECT p.id FROM page p WHERE p.old)) FOR UPDATE SKIP LOCKED)) RETURNING 1
)
SELECT (SELECT count(*)::int FROM gone) AS gone,
  CASE WHEN count(*) = $2 AND NOT bool_or(NOT p.old AND p.id > taken.upto) THEN max(p.id) END AS following
FROM page p, (SELECT coalesce(max(i.last_id), 0) AS upto FROM legacy_import i WHERE i."table" = 'asynch_op_log') taken

-- name: prune_dead_messages
-- Records that could not be understood, once nobody can be expected to look at them and no replay job has them in hand.
-- $1 days, $2 limit.
DELETE FROM dead_message WHERE id = ANY (ARRAY(
  SELECT d.id FROM dead_message d WHERE d.died_at < now() - make_interval(days => $1) AND d.id = ANY (ARRAY(
    SELECT x.id FROM dead_message x
    WHERE (SELECT i.target FROM replay_item i WHERE i.kind = 'message' AND i.target = x.id AND i.result IS NULL LIMIT 1) IS NULL
    ORDER BY x.id LIMIT $2))
  FOR UPDATE SKIP LOCKED))
RETURNING 1

-- name: prune_idempotency
-- Keys older than a day. $1 limit. An IN with a limit could be planned to be asked anew for each row of the table, and goes
-- on behind what is deleted by then: here and below a list of places is asked for once.
DELETE FROM idempotency WHERE ctid = ANY (ARRAY(
  SELECT i.ctid FROM idempotency i WHERE i.created_at < now() - interval '24 hours' ORDER BY i.created_at LIMIT $1
  FOR UPDATE SKIP LOCKED))
RETURNING 1

-- name: prune_quota
-- Accounts of days long gone. $1 days, $2 limit.
DELETE FROM quota_usage WHERE ctid = ANY (ARRAY(
  SELECT u.ctid FROM quota_usage u WHERE u.day < current_date - $1::int ORDER BY u.day LIMIT $2 FOR UPDATE SKIP LOCKED))
RETURNING 1

-- name: prune_cancel_requests
-- Requests whose task is no longer open.
DELETE FROM cancel_request WHERE task_id = ANY (ARRAY(
  SELECT c.task_id FROM cancel_request c WHERE NOT EXISTS (SELECT 1 FROM dispatch q WHERE q.id = ANY (ARRAY[c.task_id]))
  FOR UPDATE SKIP LOCKED))

-- name: prune_pauses
-- Pauses that ended before anything that waits now can have begun to; what was done stays recorded.
DELETE FROM pause WHERE id = ANY (ARRAY(
  SELECT p.id FROM pause p WHERE p.ended < now() - interval '400 days' FOR UPDATE SKIP LOCKED))

-- name: fold_statistics
-- Counted calls move into the daily table: taken and added in one statement, so that each counts once. Those whose row there
-- somebody keeps locked go back, behind the others and as one: nobody's else wait for them. $1 limit; says how many rows
-- were taken.
WITH taken AS (
  DELETE FROM stat_delta WHERE id = ANY (ARRAY(SELECT id FROM stat_delta ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED))
  RETURNING day, tenant_id, creator, model_id, calls
), sums AS MATERIALIZED (
  SELECT t.day, t.tenant_id, t.creator, m.name AS model_name, min(t.model_id) AS model_id, sum(t.calls) AS calls
  FROM taken t JOIN model m ON m.id = t.model_id GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
), kept AS MATERIALIZED (
  SELECT s.day, s.tenant_id, s.creator, s.model_name FROM sums s CROSS JOIN LATERAL (
    SELECT FROM model_stat x WHERE x.day = s.day AND x.tenant_id = s.tenant_id AND x.creator = s.creator AND x.model_name = s.model_name OFFSET 0) x
  EXCEPT SELECT s.day, s.tenant_id, s.creator, s.model_name FROM sums s CROSS JOIN LATERAL (
    SELECT FROM model_stat x WHERE x.day = s.day AND x.tenant_id = s.tenant_id AND x.creator = s.creator AND x.model_name = s.model_name
    FOR NO KEY UPDATE SKIP LOCKED) free
), back AS (
  INSERT INTO stat_delta (day, tenant_id, creator, model_id, calls)
  SELECT s.day, s.tenant_id, s.creator, s.model_id, s.calls FROM sums s JOIN kept USING (day, tenant_id, creator, model_name)
), added AS (
  INSERT INTO model_stat (day, tenant_id, creator, model_name, request_count)
  SELECT s.day, s.tenant_id, s.creator, s.model_name, s.calls FROM sums s
  WHERE (s.day, s.tenant_id, s.creator, s.model_name) NOT IN (TABLE kept)
  ON CONFLICT (day, tenant_id, creator, model_name) DO UPDATE
  SET request_count = model_stat.request_count + EXCLUDED.request_count, updated_at = now()
)
SELECT count(*)::int AS rows FROM taken

-- name: needed_staged
-- Which of these staged files somebody still needs: an open task, or a dead one for a replay. No index leads there: rare,
-- and on the engine, whose planner may hash.
SELECT m.reference FROM unnest(CAST(:references AS text[]), CAST(:tasks AS uuid[])) AS m(reference, task)
JOIN dispatch d ON d.public_id = m.task
UNION
SELECT x.staged FROM unnest(CAST(:references AS text[])) AS m(reference) JOIN dead_task x ON x.staged = m.reference
UNION
SELECT f ->> 'reference' FROM dead_task x CROSS JOIN LATERAL jsonb_array_elements(x.staged_files) f
WHERE x.staged_files IS NOT NULL AND f ->> 'reference' = ANY (CAST(:references AS text[]))

-- name: prune_dead_events
-- Events that died, once nobody can be expected to send them again and no replay job has them in hand. $1 days, $2 limit.
DELETE FROM dead_event WHERE id = ANY (ARRAY(
  SELECT d.id FROM dead_event d WHERE d.dead_at AT TIME ZONE 'UTC' < (now() - make_interval(days => $1)) AT TIME ZONE 'UTC'
    AND (SELECT i.target FROM replay_item i WHERE i.kind = 'event' AND i.target = d.id AND i.result IS NULL LIMIT 1) IS NULL
  ORDER BY d.dead_at AT TIME ZONE 'UTC' LIMIT $2 FOR UPDATE SKIP LOCKED))
RETURNING id

-- name: open_page
-- Open rows that own a gate slot, in the order of their ids. $1 after, $2 limit: the whole page comes back, marked.
SELECT q.id, q.public_id, q.lane, q.state <> 3 AS owns_slot,
  slot_ttl_ms(m.expected_seconds) AS slot_ttl_ms
FROM dispatch q JOIN lane l ON l.id = q.lane JOIN model m ON m.id = l.model_id WHERE q.id > $1 ORDER BY q.id LIMIT $2

-- name: open_rows
-- How many open rows there are behind an id; $1 after. The key's index alone answers.
SELECT count(*) AS open FROM dispatch WHERE id > $1

-- name: open_slots
-- All open tasks of a lane that own a gate slot, by the indexes of their states; $1 lane.
SELECT q.public_id, x.slot_ttl_ms FROM (
  SELECT d.public_id FROM dispatch d WHERE d.lane = $1 AND d.state = 0
  UNION ALL SELECT d.public_id FROM dispatch d WHERE d.lane = $1 AND d.state = 1
  UNION ALL SELECT d.public_id FROM dispatch d WHERE d.lane = $1 AND d.state >= 2 AND d.state < 3) q
CROSS JOIN (SELECT slot_ttl_ms(m.expected_seconds) AS slot_ttl_ms
            FROM lane l JOIN model m ON m.id = l.model_id WHERE l.id = $1) x

-- name: live_permits
-- Who holds a permit of a lane: running calls, and jobs at providers, whether somebody runs their attempts now or not.
-- Tokens and the milliseconds left to their deadline.
SELECT q.token, greatest(1000, extract(epoch FROM q.until - now()) * 1000)::bigint AS ttl_ms
FROM dispatch q WHERE q.lane = $1 AND q.state = 1 AND q.token IS NOT NULL AND q.phase = 0 AND q.lease >= 0
UNION ALL
SELECT p.permit_token, greatest(1000, extract(epoch FROM p.deadline - now()) * 1000)::bigint
FROM provider_job p WHERE p.lane = $1 AND p.ended_at IS NULL

-- name: lanes_page
-- The next lanes, those of deleted models too: any may have leftovers in Redis. $1 after, $2 limit.
SELECT l.id AS lane FROM lane l WHERE l.id > $1 ORDER BY l.id LIMIT $2

-- name: absent_slots
-- Which of these gate members have no open task of lane $2 that owns a slot.
SELECT x.member FROM unnest($1::uuid[]) AS x(member)
WHERE NOT EXISTS (
  SELECT 1 FROM lane l JOIN task t ON t.tenant_id = l.tenant_id AND t.public_id = x.member
  JOIN dispatch q ON q.id = ANY (ARRAY[t.id]) AND q.lane = l.id WHERE l.id = $2 AND q.state <> 3)

-- name: absent_permits
-- Which of these permit tokens no running attempt of the lane has, and no open job of a provider. EXCEPT reads the lane
-- once, NOT EXISTS once a token.
SELECT x.token FROM unnest($2::uuid[]) AS x(token)
EXCEPT SELECT q.token FROM dispatch q WHERE q.lane = $1 AND q.state = 1 AND q.token IS NOT NULL
EXCEPT SELECT p.permit_token FROM provider_job p WHERE p.lane = $1 AND p.ended_at IS NULL

-- name: lanes_in_flight
-- Rows in flight of each lane: windows bound how many there are.
SELECT l.id AS lane, l.model_id, f.rows FROM (SELECT lane, count(*)::int AS rows FROM dispatch WHERE state = 1 GROUP BY lane) f
JOIN lane l ON l.id = f.lane

-- name: outbox_figures
-- What still has to leave, counted up to $1: events, batches that no broker has acknowledged yet, and deliveries of webhooks.
-- How long deliveries are late says nothing of those that their tenant or an operator holds; it is found by loose scans, of
-- the first 100 lines of each webhook.
WITH RECURSIVE hooks(id) AS (
  (SELECT webhook_id FROM delivery WHERE status = 'pending' ORDER BY webhook_id LIMIT 1)
  UNION ALL
  SELECT (SELECT d.webhook_id FROM delivery d WHERE d.status = 'pending' AND d.webhook_id > h.id ORDER BY d.webhook_id LIMIT 1)
  FROM hooks h WHERE h.id IS NOT NULL
), late AS MATERIALIZED (
  SELECT min(o.next_at) AS since FROM hooks h
  CROSS JOIN LATERAL (
    SELECT x.id FROM webhook x WHERE x.id = h.id AND NOT x.paused AND x.disabled_at IS NULL AND x.deleted_at IS NULL
      AND NOT EXISTS (SELECT FROM pause p WHERE p.scope = 'webhook' AND p.tenant_id = x.tenant_id AND p.webhook_id = x.id AND p.ended IS NULL)
    LIMIT 1) w
  CROSS JOIN LATERAL (
    WITH RECURSIVE lines(line) AS (
      (SELECT f.line FROM delivery f WHERE f.status = 'pending' AND f.webhook_id = w.id ORDER BY f.line LIMIT 1)
      UNION ALL
      SELECT (SELECT f.line FROM delivery f WHERE f.status = 'pending' AND f.webhook_id = w.id AND f.line > n.line ORDER BY f.line LIMIT 1)
      FROM lines n WHERE n.line IS NOT NULL)
    SELECT n.line FROM lines n WHERE n.line IS NOT NULL LIMIT 100) l
  CROSS JOIN LATERAL (
    SELECT f.next_at FROM delivery f WHERE f.status = 'pending' AND f.webhook_id = w.id AND f.line = l.line ORDER BY f.next_at LIMIT 1) o
)
SELECT 'event' AS channel, (SELECT count(*)::int FROM (SELECT 1 FROM event LIMIT $1) e) AS rows,
  coalesce(extract(epoch FROM now() - (SELECT finished_at FROM event ORDER BY id LIMIT 1)), 0)::float8 AS lag
UNION ALL
SELECT 'dispatch', (SELECT count(*)::int FROM (SELECT 1 FROM lease LIMIT $1) l),
  coalesce(extract(epoch FROM now() - (SELECT taken_at FROM lease ORDER BY id LIMIT 1)), 0)::float8
UNION ALL
SELECT 'webhook', (SELECT count(*)::int FROM (SELECT 1 FROM delivery WHERE status = 'pending' LIMIT $1) d),
  greatest(coalesce(extract(epoch FROM now() - (SELECT since FROM late)), 0), 0)::float8

-- name: oldest_transaction
-- How long the oldest open transaction of this database has been open, in seconds: it holds back every clean-up.
SELECT coalesce(max(extract(epoch FROM now() - xact_start)), 0)::float8 AS seconds
FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
