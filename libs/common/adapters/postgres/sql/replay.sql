-- Jobs as they are worked off. Each write is about one job ($1), which it locks first and which must still run, so that
-- none begins anything after a pause; then about items of it that nobody has settled yet ($2, in the order of their
-- numbers). So two processes with the same job settle each item once.

-- name: take_replay_jobs
-- Running jobs that are nobody else's now and may do something: one of each tenant_id before the second of any, so that
-- neither slow jobs nor a tenant with many hold up the others. The pace counts from the last time that it allowed
-- anything. $1 who, $2 kinds, $3 seconds.
WITH ready AS (
  SELECT id, paced_at, replay_budget(rate, now() - paced_at) AS budget, row_number() OVER (PARTITION BY tenant_id ORDER BY paced_at) AS nth
  FROM replay_job
  WHERE state = 'running' AND kind = ANY ($2::text[]) AND (runner = $1 OR runner_until IS NULL OR runner_until < now())
    AND replay_budget(rate, now() - paced_at) >= 1
), mine AS MATERIALIZED (
  -- Whoever locked one in the meantime has taken it: its pace began anew.
  SELECT j.id, r.budget FROM ready r JOIN replay_job j ON j.id = r.id AND j.state = 'running' AND j.paced_at = r.paced_at
  ORDER BY r.nth, r.paced_at LIMIT 20 FOR NO KEY UPDATE OF j SKIP LOCKED
)
UPDATE replay_job j SET runner = $1, runner_until = now() + make_interval(secs => $3), paced_at = now()
FROM mine m WHERE j.id = m.id
RETURNING j.id, j.action, j.kind, m.budget, j.reason, j.asked_by, j.tenant_id IS NOT NULL AS by_tenant

-- name: replay_due
-- Items whose turn has come, about as many of each lane, without those of lanes that were found full ($3): so these
-- neither hide the others nor cost a write each. A dead task of an open lane brings what its gate slot needs, and what
-- it costs. $1 job, $2 limit.
WITH RECURSIVE lanes(lane) AS (
  (SELECT lane FROM replay_item WHERE job_id = $1 AND result IS NULL ORDER BY lane LIMIT 1)
  UNION ALL
  SELECT (SELECT i.lane FROM replay_item i WHERE i.job_id = $1 AND i.result IS NULL AND i.lane > w.lane ORDER BY i.lane LIMIT 1)
  FROM lanes w WHERE w.lane IS NOT NULL
), roomy AS MATERIALIZED (SELECT lane FROM lanes WHERE lane <> ALL ($3::int[])
)
SELECT i.target AS key, t.public_id, t.points, l.id AS lane, m.queue_limit, slot_ttl_ms(m.expected_seconds) AS slot_ttl_ms
FROM (
  SELECT h.* FROM roomy r CROSS JOIN LATERAL (
    SELECT x.kind, x.target, x.due_at, row_number() OVER () AS nth FROM (
      SELECT kind, target, due_at FROM replay_item WHERE job_id = $1 AND lane = r.lane AND result IS NULL AND due_at <= now()
      ORDER BY due_at, target LIMIT greatest(1, $2 / (SELECT count(*) FROM roomy))) x) h
  ORDER BY h.nth, h.due_at, h.target LIMIT $2) i
LEFT JOIN dead_task d ON i.kind = 'task' AND d.task_id = ANY (ARRAY[i.target]) AND (d.dropped_at IS NULL) IS TRUE
LEFT JOIN task t ON t.id = ANY (ARRAY[d.task_id]) LEFT JOIN lane l ON l.id = t.lane AND NOT l.closed LEFT JOIN model m ON m.id = l.model_id
ORDER BY i.due_at, i.target

-- name: hold_up_replay
-- A round found $2 lanes full, and $3 says so; one that found none, and went on, takes these words back.
UPDATE replay_job SET refusals = refusals + $2, note = CASE WHEN $2 > 0 THEN $3 ELSE '' END, changed_at = now()
WHERE id = $1 AND state = 'running' AND ($2 > 0 OR note = $3) RETURNING id

-- name: lock_dead_tasks
-- Dead tasks of a running job that a replay in the same transaction takes back for sure, with what they cost: locked, as
-- replay_tasks locks them, and their lanes, so that no model is deleted in between. The job is locked if it does not run,
-- too: it must not go on in between. $1 job, $2 task ids.
WITH job AS MATERIALIZED (SELECT state FROM replay_job WHERE id = $1 FOR NO KEY UPDATE
), m AS MATERIALIZED (
  SELECT i.target AS id FROM job CROSS JOIN replay_item i WHERE job.state = 'running' AND i.job_id = $1 AND i.target = ANY ($2::bigint[]) AND i.result IS NULL
  ORDER BY i.target FOR NO KEY UPDATE OF i
)
SELECT t.id, t.tenant_id, t.creator, t.points FROM m JOIN dead_task d ON d.task_id = ANY (ARRAY[m.id]) AND (d.dropped_at IS NULL) IS TRUE
JOIN task t ON t.id = ANY (ARRAY[m.id]) AND t.version = d.version JOIN task_input i ON i.task_id = ANY (ARRAY[m.id]) JOIN lane l ON l.id = t.lane AND NOT l.closed
ORDER BY t.id FOR UPDATE OF d FOR SHARE OF l

-- name: replay_tasks
-- Dead tasks go back into the queue, their slots taken before: to the head, in the order of creation, under their old
-- ids and with a fresh budget; an output that still waits is uploaded alone. $3 what the task's history says, $4 days on
-- which points were reserved for them.
-- Deadlines that have passed are gone: who replays wants the result.
WITH job AS MATERIALIZED (SELECT id FROM replay_job WHERE id = $1 AND state = 'running' FOR NO KEY UPDATE
), m AS MATERIALIZED (
  SELECT i.target AS id, x.day FROM job CROSS JOIN unnest($2::bigint[], $4::date[]) AS x(id, day)
  JOIN replay_item i ON i.job_id = $1 AND i.target = x.id AND i.result IS NULL
  ORDER BY i.target FOR NO KEY UPDATE OF i
), gone AS (
  DELETE FROM dead_task d USING m, task t, task_input i, lane l
  WHERE d.task_id = ANY (ARRAY[m.id]) AND (d.dropped_at IS NULL) IS TRUE AND t.id = ANY (ARRAY[m.id]) AND t.version = d.version AND i.task_id = ANY (ARRAY[m.id]) AND l.id = t.lane AND NOT l.closed
  RETURNING d.*, length(i.payload) AS input_size, m.day
), back AS (
  UPDATE task t SET status = 1, retries = 0, version = t.version + 1, uploads = t.uploads + CASE WHEN g.staged IS NULL THEN 0 ELSE 1 END,
    executor = NULL, started_at = NULL, finished_at = NULL, error_code = NULL, error_message = NULL, quota_day = coalesce(g.day, t.quota_day),
    start_by = CASE WHEN t.start_by > now() THEN t.start_by END, deadline = CASE WHEN t.deadline > now() THEN t.deadline END
  FROM gone g WHERE t.id = ANY (ARRAY[g.task_id])
  RETURNING t.id, t.tenant_id, t.public_id, t.lane, t.priority, t.attempt + CASE WHEN g.staged IS NULL THEN 0 ELSE 1 END AS attempt, t.version, t.start_by, t.deadline,
    g.input_size, g.staged, g.staged_size, g.staged_hash, g.staged_type, g.staged_files
), d AS (
  INSERT INTO dispatch (id, public_id, lane, state, phase, class, priority, position, attempt, version, input_size, generated_at,
                        staged, staged_size, staged_hash, staged_type, staged_files, start_by, deadline, expires_at)
  SELECT id, public_id, lane, 0, CASE WHEN staged IS NULL THEN 0 ELSE 2 END, 0, priority, id, attempt, version, input_size,
         CASE WHEN staged IS NOT NULL THEN now() END, staged, staged_size, staged_hash, staged_type, staged_files,
         start_by, deadline, CASE WHEN attempt = 0 THEN least(start_by, deadline) ELSE deadline END
  FROM back
  RETURNING id, lane, class, priority, position, attempt, phase, version
), h AS (
  INSERT INTO history (task_id, kind, attempt, version, detail) SELECT id, 'replay', attempt, version, $3 FROM d
), c AS (
  DELETE FROM cancel_request WHERE task_id = ANY (ARRAY(SELECT id FROM d))
), done AS (
  UPDATE replay_item i SET result = 'replayed', ended_at = now(), detail = CASE WHEN d.phase = 0 THEN '' ELSE 'its output waits: upload alone' END
  FROM d WHERE i.job_id = $1 AND i.target = d.id
), other AS MATERIALIZED (
  SELECT m.id, CASE WHEN l.closed THEN 'model_deleted' WHEN t.id IS NOT NULL AND i.task_id IS NULL THEN 'payload_missing' ELSE '' END AS why
  FROM m LEFT JOIN dead_task x ON x.task_id = ANY (ARRAY[m.id]) AND (x.dropped_at IS NULL) IS TRUE LEFT JOIN task t ON t.id = ANY (ARRAY[x.task_id])
  LEFT JOIN task_input i ON i.task_id = ANY (ARRAY[t.id]) LEFT JOIN lane l ON l.id = t.lane
  WHERE m.id <> ALL (ARRAY(SELECT task_id FROM gone))
), rest AS (
  UPDATE replay_item i SET result = CASE WHEN o.why = '' THEN 'gone' ELSE 'refused' END, detail = o.why, ended_at = now()
  FROM other o WHERE i.job_id = $1 AND i.target = o.id
), counted AS (
  UPDATE replay_job SET replayed = replayed + (SELECT count(*) FROM d), gone = gone + (SELECT count(*) FROM other WHERE why = ''),
    refused = refused + (SELECT count(*) FROM other WHERE why <> ''), changed_at = now()
  WHERE id = $1 AND EXISTS (SELECT 1 FROM m)
)
SELECT d.id, back.tenant_id, d.lane, class, d.priority, position FROM d JOIN back ON back.id = d.id

-- name: replay_events
-- Dead events are due again under their ids, with fresh sends.
WITH job AS MATERIALIZED (SELECT id FROM replay_job WHERE id = $1 AND state = 'running' FOR NO KEY UPDATE
), m AS MATERIALIZED (
  SELECT i.target AS id FROM job CROSS JOIN replay_item i WHERE i.job_id = $1 AND i.target = ANY ($2::bigint[]) AND i.result IS NULL
  ORDER BY i.target FOR NO KEY UPDATE OF i
), back AS (
  DELETE FROM dead_event e USING m WHERE e.id = ANY (ARRAY[m.id]) AND (e.dropped_at IS NULL) IS TRUE RETURNING e.*
), due AS (
  INSERT INTO event (id, task_id, version, status, attempt, started_at, finished_at, oss_file, file_type, file_size, files, error_code,
                     error_message, due_at, last_error)
  SELECT id, task_id, version, status, attempt, started_at, finished_at, oss_file, file_type, file_size, files, error_code, error_message,
    now(), last_error FROM back
), done AS (
  UPDATE replay_item i SET result = CASE WHEN b.id IS NULL THEN 'gone' ELSE 'replayed' END, ended_at = now()
  FROM m LEFT JOIN back b ON b.id = m.id WHERE i.job_id = $1 AND i.target = m.id
), counted AS (
  UPDATE replay_job SET replayed = replayed + (SELECT count(*) FROM back), gone = gone + (SELECT count(*) FROM m) - (SELECT count(*) FROM back),
    changed_at = now()
  WHERE id = $1 AND EXISTS (SELECT 1 FROM m)
)
SELECT id FROM back

-- name: replay_deliveries
-- Deliveries that were given up are due now, with the whole schedule before them; none to a webhook that sends nothing.
WITH job AS MATERIALIZED (SELECT id FROM replay_job WHERE id = $1 AND state = 'running' FOR NO KEY UPDATE
), m AS MATERIALIZED (
  SELECT i.target AS id FROM job CROSS JOIN replay_item i WHERE i.job_id = $1 AND i.target = ANY ($2::bigint[]) AND i.result IS NULL
  ORDER BY i.target FOR NO KEY UPDATE OF i
), x AS MATERIALIZED (
  SELECT m.id, CASE WHEN e.id IS NULL THEN '' WHEN w.id IS NULL OR w.deleted_at IS NOT NULL THEN 'webhook_removed'
                   WHEN w.disabled_at IS NOT NULL THEN 'webhook_switched_off' ELSE '' END AS why
  FROM m LEFT JOIN delivery e ON e.id = ANY (ARRAY[m.id]) AND (e.dead_at IS NOT NULL AND e.dropped_at IS NULL) IS TRUE LEFT JOIN webhook w ON w.id = ANY (ARRAY[e.webhook_id])
), back AS (
  UPDATE delivery e SET status = 'pending', next_at = now(), round = e.attempts, ended_at = NULL, dead_at = NULL
  FROM x WHERE e.id = ANY (ARRAY[x.id]) AND x.why = '' AND (e.dead_at IS NOT NULL AND e.dropped_at IS NULL) IS TRUE
  RETURNING e.id
), done AS (
  UPDATE replay_item i SET result = CASE WHEN b.id IS NOT NULL THEN 'replayed' WHEN x.why = '' THEN 'gone' ELSE 'refused' END, detail = x.why, ended_at = now()
  FROM x LEFT JOIN back b ON b.id = x.id WHERE i.job_id = $1 AND i.target = x.id
), counted AS (
  UPDATE replay_job SET replayed = replayed + (SELECT count(*) FROM back), refused = refused + (SELECT count(*) FROM x WHERE why <> ''),
    gone = gone + (SELECT count(*) FROM x WHERE why = '') - (SELECT count(*) FROM back), changed_at = now()
  WHERE id = $1 AND EXISTS (SELECT 1 FROM m)
)
SELECT id FROM back

-- name: replay_messages
-- Messages of a job that runs, to be sent, the first 8 MiB of them; without a topic those that are not dead any more.
-- $1 job, $2 rows.
SELECT i.key, d.topic, d."partition", d.key AS record_key, d.value, d.size, d.headers::text AS headers, j.mended
FROM (
  SELECT x.job_id, x.target AS key, sum(length(o.value)) OVER (ORDER BY x.target ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
  FROM replay_item x LEFT JOIN dead_message o ON o.id = ANY (ARRAY[x.target]) AND (o.settled_at IS NULL) IS TRUE
  WHERE x.job_id = $1 AND x.target = ANY ($2::bigint[]) AND x.result IS NULL) i
JOIN replay_job j ON j.id = i.job_id AND j.state = 'running'
LEFT JOIN dead_message d ON d.id = ANY (ARRAY[i.key]) AND (d.settled_at IS NULL) IS TRUE
WHERE coalesce(i.before, 0) < 8388608 ORDER BY i.key

-- name: settle_messages
-- They are on their topics again: off the list, and the row stays as a proof that the record was seen. Also of a job that
-- was paused or stopped while they were sent: what went out is not told as stopped.
WITH job AS MATERIALIZED (SELECT id FROM replay_job WHERE id = $1 FOR NO KEY UPDATE
), m AS MATERIALIZED (
  SELECT i.target AS id, i.result IS NOT NULL AS stopped FROM job CROSS JOIN replay_item i
  WHERE i.job_id = $1 AND i.target = ANY ($2::bigint[]) AND (i.result IS NULL OR i.result = 'stopped')
  ORDER BY i.target FOR NO KEY UPDATE OF i
), back AS (
  UPDATE dead_message d SET settled_at = now() FROM m WHERE d.id = ANY (ARRAY[m.id]) AND (d.settled_at IS NULL) IS TRUE RETURNING d.id, m.stopped
), done AS (
  UPDATE replay_item i SET result = CASE WHEN b.id IS NULL THEN 'gone' ELSE 'replayed' END, ended_at = now()
  FROM m LEFT JOIN back b ON b.id = m.id WHERE i.job_id = $1 AND i.target = m.id AND (b.id IS NOT NULL OR NOT m.stopped)
  RETURNING b.id IS NULL AS gone
), counted AS (
  UPDATE replay_job SET replayed = replayed + (SELECT count(*) FROM back), gone = gone + (SELECT count(*) FROM done WHERE done.gone),
    stopped = stopped - (SELECT count(*) FROM back WHERE back.stopped), changed_at = now()
  WHERE id = $1 AND EXISTS (SELECT 1 FROM done)
)
SELECT id FROM back

-- name: drop_tasks
-- Off the list for good, recorded; the staged output and the credentials that were kept for a replay go, the task itself
-- with its retention. $3 what the task's history says.
WITH job AS MATERIALIZED (SELECT id FROM replay_job WHERE id = $1 AND state = 'running' FOR NO KEY UPDATE
), m AS MATERIALIZED (
  SELECT i.target AS id FROM job CROSS JOIN replay_item i WHERE i.job_id = $1 AND i.target = ANY ($2::bigint[]) AND i.result IS NULL
  ORDER BY i.target FOR NO KEY UPDATE OF i
), off AS (
  UPDATE dead_task d SET dropped_at = now(), staged = NULL, staged_size = NULL, staged_hash = NULL, staged_type = NULL,
    staged_files = NULL
  FROM m WHERE d.task_id = ANY (ARRAY[m.id]) AND (d.dropped_at IS NULL) IS TRUE RETURNING d.task_id AS id, d.version
), h AS (
  INSERT INTO history (task_id, kind, attempt, version, detail) SELECT o.id, 'drop', t.attempt, o.version, $3 FROM off o JOIN task t ON t.id = ANY (ARRAY[o.id])
), ss AS (
  DELETE FROM task_secret WHERE task_id = ANY (ARRAY(SELECT id FROM off))
), so AS (
  DELETE FROM staged_output WHERE task_id = ANY (ARRAY(SELECT id FROM off))
), done AS (
  UPDATE replay_item i SET result = CASE WHEN o.id IS NULL THEN 'gone' ELSE 'dropped' END, ended_at = now()
  FROM m LEFT JOIN off o ON o.id = m.id WHERE i.job_id = $1 AND i.target = m.id
), counted AS (
  UPDATE replay_job SET dropped = dropped + (SELECT count(*) FROM off), gone = gone + (SELECT count(*) FROM m) - (SELECT count(*) FROM off),
    changed_at = now()
  WHERE id = $1 AND EXISTS (SELECT 1 FROM m)
)
SELECT id FROM off

-- name: drop_events
-- Never sent; the row stays until its retention as a proof that its end was to be announced.
WITH job AS MATERIALIZED (SELECT id FROM replay_job WHERE id = $1 AND state = 'running' FOR NO KEY UPDATE
), m AS MATERIALIZED (
  SELECT i.target AS id FROM job CROSS JOIN replay_item i WHERE i.job_id = $1 AND i.target = ANY ($2::bigint[]) AND i.result IS NULL
  ORDER BY i.target FOR NO KEY UPDATE OF i
), off AS (
  UPDATE dead_event e SET dropped_at = now() FROM m WHERE e.id = ANY (ARRAY[m.id]) AND (e.dropped_at IS NULL) IS TRUE RETURNING e.id
), done AS (
  UPDATE replay_item i SET result = CASE WHEN o.id IS NULL THEN 'gone' ELSE 'dropped' END, ended_at = now()
  FROM m LEFT JOIN off o ON o.id = m.id WHERE i.job_id = $1 AND i.target = m.id
), counted AS (
  UPDATE replay_job SET dropped = dropped + (SELECT count(*) FROM off), gone = gone + (SELECT count(*) FROM m) - (SELECT count(*) FROM off),
    changed_at = now()
  WHERE id = $1 AND EXISTS (SELECT 1 FROM m)
)
SELECT id FROM off

-- name: drop_deliveries
-- Given up for good; the row stays in its webhook's log.
WITH job AS MATERIALIZED (SELECT id FROM replay_job WHERE id = $1 AND state = 'running' FOR NO KEY UPDATE
), m AS MATERIALIZED (
  SELECT i.target AS id FROM job CROSS JOIN replay_item i WHERE i.job_id = $1 AND i.target = ANY ($2::bigint[]) AND i.result IS NULL
  ORDER BY i.target FOR NO KEY UPDATE OF i
), off AS (
  UPDATE delivery e SET dropped_at = now() FROM m WHERE e.id = ANY (ARRAY[m.id]) AND (e.dead_at IS NOT NULL AND e.dropped_at IS NULL) IS TRUE RETURNING e.id
), done AS (
  UPDATE replay_item i SET result = CASE WHEN o.id IS NULL THEN 'gone' ELSE 'dropped' END, ended_at = now()
  FROM m LEFT JOIN off o ON o.id = m.id WHERE i.job_id = $1 AND i.target = m.id
), counted AS (
  UPDATE replay_job SET dropped = dropped + (SELECT count(*) FROM off), gone = gone + (SELECT count(*) FROM m) - (SELECT count(*) FROM off),
    changed_at = now()
  WHERE id = $1 AND EXISTS (SELECT 1 FROM m)
)
SELECT id FROM off

-- name: drop_messages
-- Off the list; the row stays until its retention as a proof that the record was seen.
WITH job AS MATERIALIZED (SELECT id FROM replay_job WHERE id = $1 AND state = 'running' FOR NO KEY UPDATE
), m AS MATERIALIZED (
  SELECT i.target AS id FROM job CROSS JOIN replay_item i WHERE i.job_id = $1 AND i.target = ANY ($2::bigint[]) AND i.result IS NULL
  ORDER BY i.target FOR NO KEY UPDATE OF i
), off AS (
  UPDATE dead_message d SET settled_at = now() FROM m WHERE d.id = ANY (ARRAY[m.id]) AND (d.settled_at IS NULL) IS TRUE RETURNING d.id
), done AS (
  UPDATE replay_item i SET result = CASE WHEN o.id IS NULL THEN 'gone' ELSE 'dropped' END, ended_at = now()
  FROM m LEFT JOIN off o ON o.id = m.id WHERE i.job_id = $1 AND i.target = m.id
), counted AS (
  UPDATE replay_job SET dropped = dropped + (SELECT count(*) FROM off), gone = gone + (SELECT count(*) FROM m) - (SELECT count(*) FROM off),
    changed_at = now()
  WHERE id = $1 AND EXISTS (SELECT 1 FROM m)
)
SELECT id FROM off

-- name: refuse_items
-- What cannot be replayed, and why. $3 details.
WITH job AS MATERIALIZED (SELECT id FROM replay_job WHERE id = $1 AND state = 'running' FOR NO KEY UPDATE
), done AS (
  UPDATE replay_item i SET result = 'refused', detail = r.detail, ended_at = now()
  FROM job CROSS JOIN unnest($2::bigint[], $3::text[]) AS r(id, detail) WHERE i.job_id = $1 AND i.target = r.id AND i.result IS NULL
  RETURNING i.target
), counted AS (
  UPDATE replay_job SET refused = refused + (SELECT count(*) FROM done), changed_at = now() WHERE id = $1 AND EXISTS (SELECT 1 FROM done)
)
SELECT target FROM done

-- name: put_off_items
-- Not now: each is tried again after its own seconds ($3). $4 what holds them up.
WITH job AS MATERIALIZED (SELECT id FROM replay_job WHERE id = $1 AND state = 'running' FOR NO KEY UPDATE
), done AS (
  UPDATE replay_item i SET due_at = now() + make_interval(secs => r.seconds), tries = i.tries + 1, detail = $4
  FROM job CROSS JOIN unnest($2::bigint[], $3::float8[]) AS r(id, seconds) WHERE i.job_id = $1 AND i.target = r.id AND i.result IS NULL
  RETURNING i.target
), counted AS (
  UPDATE replay_job SET refusals = refusals + (SELECT count(*) FROM done), note = $4, changed_at = now() WHERE id = $1 AND EXISTS (SELECT 1 FROM done)
)
SELECT target FROM done

-- name: locked_dead
-- Which of these dead somebody's transaction keeps locked, or their lanes, or the accounts of today that they would be paid
-- from: it waits for nobody. $1 kind, $2 rows, $3 zone.
WITH m AS MATERIALIZED (SELECT id FROM unnest($2::bigint[]) AS id
), free AS MATERIALIZED (
  SELECT f.id FROM m CROSS JOIN LATERAL (
    SELECT k.id FROM dead_task d JOIN task k ON k.id = d.task_id WHERE $1 = 'task' AND d.task_id = m.id
    FOR UPDATE OF d SKIP LOCKED FOR NO KEY UPDATE OF k SKIP LOCKED) f
  UNION ALL SELECT f.id FROM m CROSS JOIN LATERAL (SELECT e.id FROM dead_event e WHERE $1 = 'event' AND e.id = m.id FOR UPDATE SKIP LOCKED) f
  UNION ALL SELECT f.id FROM m CROSS JOIN LATERAL (SELECT d.id FROM delivery d WHERE $1 = 'delivery' AND d.id = m.id FOR NO KEY UPDATE SKIP LOCKED) f
  UNION ALL SELECT f.id FROM m CROSS JOIN LATERAL (SELECT d.id FROM dead_message d WHERE $1 = 'message' AND d.id = m.id FOR NO KEY UPDATE SKIP LOCKED) f
), owner AS MATERIALIZED (
  SELECT t.id, t.lane, t.points, t.tenant_id, t.creator, (now() AT TIME ZONE $3)::date AS day FROM m JOIN task t ON t.id = ANY (ARRAY[m.id]) WHERE $1 = 'task'
), free_lane AS MATERIALIZED (
  SELECT l.id FROM (SELECT DISTINCT lane FROM owner) o CROSS JOIN LATERAL (SELECT x.id FROM lane x WHERE x.id = o.lane FOR SHARE SKIP LOCKED) l
), payer AS MATERIALIZED (SELECT * FROM owner WHERE points > 0
), account AS MATERIALIZED (
  SELECT a.* FROM (SELECT DISTINCT tenant_id, creator, day FROM payer) a CROSS JOIN LATERAL (
    SELECT FROM quota_usage u WHERE u.tenant_id = a.tenant_id AND u.user_name = a.creator AND u.day = a.day OFFSET 0) u
), open AS MATERIALIZED (
  SELECT a.* FROM account a CROSS JOIN LATERAL (
    SELECT FROM quota_usage u WHERE u.tenant_id = a.tenant_id AND u.user_name = a.creator AND u.day = a.day FOR NO KEY UPDATE SKIP LOCKED) u
)
SELECT f.key AS id FROM m CROSS JOIN LATERAL (SELECT x.key FROM dead_face x WHERE x.kind = $1 AND x.key = m.id OFFSET 0) f
EXCEPT TABLE free
UNION SELECT o.id FROM owner o WHERE o.lane <> ALL (ARRAY(TABLE free_lane))
UNION SELECT p.id FROM payer p JOIN (TABLE account EXCEPT TABLE open) kept USING (tenant_id, creator, day)

-- name: finish_replay
-- The job is done, if nothing of it waits. $1 job.
UPDATE replay_job j SET state = 'done', ended_at = now(), changed_at = now(), note = '', runner = NULL, runner_until = NULL
WHERE j.id = $1 AND j.state = 'running' AND NOT EXISTS (SELECT 1 FROM replay_item i WHERE i.job_id = $1 AND i.result IS NULL)
RETURNING j.id

-- name: bury_messages
-- Keep records that could not be understood, the same one twice once; those come back that the dead-letter topic has not
-- got yet. $1 topics, $2 partitions, $3 offsets, $4 digests, $5 keys, $6 values, $7 headers, $8 codes, $9 causes, $10 sizes.
WITH m AS MATERIALIZED (
  SELECT * FROM unnest($1::text[], $2::int[], $3::bigint[], $4::bytea[], $5::bytea[], $6::bytea[], $7::text[], $8::text[], $9::text[],
    $10::int[]) WITH ORDINALITY AS m(topic, "partition", "offset", digest, key, value, headers, code, cause, size, ordinal)
), fresh AS (
  INSERT INTO dead_message (topic, "partition", "offset", digest, key, value, size, headers, code, cause)
  SELECT topic, "partition", "offset", digest, key, value, size, headers::jsonb, code, cause FROM m ORDER BY topic, "partition", "offset", digest
  ON CONFLICT DO NOTHING RETURNING id, topic, "partition", "offset", digest
), known AS (
  SELECT * FROM fresh UNION ALL
  SELECT d.id, d.topic, d."partition", d."offset", d.digest FROM m JOIN dead_message d
    ON d.topic = ANY (ARRAY[m.topic]) AND d."partition" = m."partition" AND d."offset" = m."offset" AND d.digest = m.digest
  WHERE (d.lettered_at IS NULL) IS TRUE
)
SELECT k.id, m.ordinal::int AS ordinal FROM m JOIN known k
  ON k.topic = m.topic AND k."partition" = m."partition" AND k."offset" = m."offset" AND k.digest = m.digest

-- name: unlettered_messages
-- Dead messages that the dead-letter topic has not got yet, older than $1 seconds; $2 at most, and 8 MiB of them.
SELECT d.id, d.topic, d."partition", d."offset", d.key, d.value, d.size, d.headers::text AS headers, d.cause, d.code
FROM (
  SELECT id, sum(length(value)) OVER (ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before FROM (
    SELECT id, value FROM dead_message
    WHERE lettered_at IS NULL AND died_at < now() - make_interval(secs => $1) ORDER BY id LIMIT $2) x) i
CROSS JOIN LATERAL (SELECT * FROM dead_message o WHERE o.id = i.id OFFSET 0) d WHERE coalesce(i.before, 0) < 8388608 ORDER BY d.id

-- name: lettered_messages
-- The dead-letter topic has these. $1 rows.
UPDATE dead_message SET lettered_at = now() WHERE id = ANY ($1::bigint[]) AND lettered_at IS NULL
