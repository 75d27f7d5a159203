-- name: events_after
-- The next events in the order of their numbers, and those of earlier numbers that were committed late.
-- $1 cursor, $2 limit, $3 missing numbers, $4 acknowledged by the broker and to be forgotten (none of the others), $5 the
-- instants of their ends: where PostgreSQL goes on from an older state, a number may be another event's, which was not sent.
WITH gone AS (
  DELETE FROM event e USING unnest($4::bigint[], $5::timestamptz[]) AS m(id, at) WHERE e.id = ANY (ARRAY[m.id]) AND e.finished_at = m.at
)
SELECT e.* FROM event_face e WHERE e.id = ANY ($3::bigint[]) AND e.due_at IS NULL
UNION ALL
(SELECT e.* FROM event_face e WHERE e.id > $1 AND e.due_at IS NULL ORDER BY e.id LIMIT $2)

-- name: events_due
-- Events that the broker refused before and whose time has come again.
SELECT e.* FROM event_face e WHERE e.due_at <= now() ORDER BY e.due_at LIMIT $1

-- name: events_sent
-- Acknowledged by the broker: nothing is left to do. $1 ids, $2 the instants of their ends, as above.
DELETE FROM event e USING unnest($1::bigint[], $2::timestamptz[]) AS m(id, at) WHERE e.id = ANY (ARRAY[m.id]) AND e.finished_at = m.at

-- name: locked_events
-- Which of these events somebody's transaction keeps locked: it waits for nobody. $1 ids.
WITH m AS MATERIALIZED (SELECT id FROM unnest($1::bigint[]) AS id
), free AS MATERIALIZED (
  SELECT e.id FROM m CROSS JOIN LATERAL (SELECT x.id FROM event x WHERE x.id = m.id FOR UPDATE SKIP LOCKED) e
)
SELECT e.id FROM m CROSS JOIN LATERAL (SELECT x.id FROM event x WHERE x.id = m.id OFFSET 0) e EXCEPT SELECT id FROM free

-- name: events_refused
-- The broker refused these: each backs off alone, and after $4 sends it dies, under its id. Those that died come back.
-- The right to relay passes on with a connection, so another relay may have had one refused meanwhile: then it is counted
-- once, and dies at its next refusal. $1 ids, $2 delays, $3 causes, $5 the instants of their ends, as above.
WITH m AS MATERIALIZED (
  SELECT * FROM unnest($1::bigint[], $2::float8[], $3::text[], $5::timestamptz[]) AS m(id, delay, error, at) ORDER BY id
), again AS (
  UPDATE event e SET sends = e.sends + 1, last_error = m.error, due_at = now() + make_interval(secs => m.delay)
  FROM m WHERE e.id = ANY (ARRAY[m.id]) AND e.finished_at = m.at AND e.sends + 1 < $4
), gone AS (
  DELETE FROM event e USING m, task t
  WHERE e.id = ANY (ARRAY[m.id]) AND e.finished_at = m.at AND e.sends + 1 >= $4 AND t.id = ANY (ARRAY[e.task_id])
  RETURNING e.*, m.error, t.tenant_id, t.model_id
)
INSERT INTO dead_event (id, task_id, tenant_id, model_id, version, status, attempt, started_at, finished_at, oss_file, file_type,
                        file_size, files, error_code, error_message, sends, last_error)
SELECT id, task_id, tenant_id, model_id, version, status, attempt, started_at, finished_at, oss_file, file_type, file_size, files,
  error_code, error_message, sends + 1, error FROM gone
RETURNING id

-- name: become_relay
-- One relay at a time: ours until this connection ends.
SELECT pg_try_advisory_lock(7002, 1) AS ours

-- name: finals_after
-- Ends as the tasks' rows tell them, for a broker that lost them: of the $2 tasks after $1 those that ended within
-- [$3, $4), of tenant $5 and model $6 where given. Each row says up to where was looked; ends that came with a task from
-- an old gateway were never announced.
WITH p AS MATERIALIZED (SELECT id FROM task WHERE id > $1 ORDER BY id LIMIT $2)
SELECT e.upto, x.* FROM (SELECT max(id) AS upto FROM p) e LEFT JOIN (
  SELECT t.id, t.version, t.status, t.attempt, t.started_at, t.finished_at, t.oss_file, t.file_type, t.file_size, t.files, t.error_code,
    t.error_message, 0 AS sends, false AS hooked, NULL::text AS webhook_url, 0 AS webhook_events, t.public_id, t.tenant_id, t.creator, t.biz_name, t.created_at, m.name AS model_name
  FROM p JOIN task t ON t.id = ANY (ARRAY[p.id]) JOIN model m ON m.id = t.model_id
  WHERE t.status >= 6 AND t.finished_at >= $3 AND t.finished_at < $4 AND ($5::bigint IS NULL OR t.tenant_id = $5) AND ($6::text IS NULL OR m.name = $6)
    AND NOT EXISTS (SELECT 1 FROM history h WHERE h.task_id = ANY (ARRAY[t.id]) AND h.kind = 'import' AND h.version = t.version)) x ON true
ORDER BY x.id
