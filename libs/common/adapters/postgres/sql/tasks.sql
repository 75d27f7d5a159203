-- name: create_many
-- Task, payload, sealed credentials and dispatch row of each, or nothing of any. Rows whose lane is closed, or another
-- tenant's ($18; a lane's number begins anew where PostgreSQL goes on from an older state), are left out; the rest come
-- back.
WITH x AS MATERIALIZED (
  SELECT nextval('task_ids') AS id, u.* FROM unnest(
    $1::uuid[], $2::int[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::smallint[], $8::timestamptz[],
    $9::timestamptz[], $10::timestamptz[], $11::int[], $12::text[], $13::bytea[],
    $14::int[], $15::date[], $16::text[], $17::smallint[], $18::bigint[])
    AS u(public_id, lane, creator, biz_name, input_ref, payload, priority, not_before, start_by, deadline, output_count, trace,
         secret, points, quota_day, webhook_url, webhook_events, tenant_id)
  JOIN lane l ON l.id = u.lane AND l.tenant_id = u.tenant_id AND NOT l.closed
), t AS (
  INSERT INTO task (id, public_id, tenant_id, model_id, lane, creator, biz_name, input_ref, priority, status,
                    not_before, start_by, deadline, output_count, trace, points, quota_day, webhook_url, webhook_events)
  SELECT x.id, x.public_id, l.tenant_id, l.model_id, x.lane, x.creator, x.biz_name, x.input_ref, x.priority,
         CASE WHEN x.not_before > now() THEN 0 ELSE 1 END, x.not_before, x.start_by, x.deadline, x.output_count, x.trace, x.points,
         x.quota_day, x.webhook_url, x.webhook_events
  FROM x JOIN lane l ON l.id = x.lane
), i AS (
  INSERT INTO task_input (task_id, payload) SELECT id, payload FROM x
), s AS (
  INSERT INTO task_secret (task_id, sealed) SELECT id, secret FROM x WHERE secret IS NOT NULL
)
INSERT INTO dispatch (id, public_id, lane, state, priority, position, due_at, input_size, start_by, deadline, expires_at)
SELECT id, public_id, lane, CASE WHEN not_before > now() THEN 2 ELSE 0 END, priority, id,
       CASE WHEN not_before > now() THEN not_before END, length(payload), start_by, deadline, least(start_by, deadline)
FROM x
RETURNING public_id, id, state = 2 AS draft

-- name: claim_keys
-- Reserve idempotency keys, in a fixed order so that two batches cannot deadlock; the keys that were free come back.
-- An equal key of a transaction still open makes this wait for its end.
INSERT INTO idempotency (tenant_id, route, key_hash, body_hash, public_id)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::bytea[], $4::bytea[], $5::uuid[]) AS k(tenant_id, route, key_hash, body_hash, public_id)
ORDER BY 1, 2, 3
ON CONFLICT DO NOTHING
RETURNING public_id

-- name: read_keys
-- Who owns each key: what a repeated request is answered with.
SELECT k.ordinal::int AS ordinal, i.body_hash, i.public_id
FROM unnest($1::bigint[], $2::text[], $3::bytea[]) WITH ORDINALITY AS k(tenant_id, route, key_hash, ordinal)
JOIN idempotency i ON i.tenant_id = ANY (ARRAY[k.tenant_id]) AND i.route = k.route AND i.key_hash = k.key_hash

-- name: drop_keys
-- Free keys whose task was not written in the same transaction (its lane was closed meanwhile).
DELETE FROM idempotency i USING unnest($1::bigint[], $2::text[], $3::bytea[]) AS k(tenant_id, route, key_hash)
WHERE i.tenant_id = ANY (ARRAY[k.tenant_id]) AND i.route = k.route AND i.key_hash = k.key_hash

-- name: written_tasks
-- Which of these tasks exist: decides what became of a commit whose answer was lost.
SELECT t.tenant_id, t.public_id, t.id, t.status = 0 AS draft FROM unnest($1::bigint[], $2::uuid[]) AS w(tenant_id, public_id)
JOIN task t ON t.tenant_id = w.tenant_id AND t.public_id = w.public_id

-- name: still_open
-- Which of these tasks have not come to their end: what callers wait for. task.status is final only at the end.
SELECT t.public_id FROM unnest($1::bigint[], $2::uuid[]) AS w(tenant_id, public_id)
JOIN task t ON t.tenant_id = w.tenant_id AND t.public_id = w.public_id WHERE t.status < 6

-- name: find_tasks
-- Tasks of one tenant by public id, as callers see them; unknown ids are left out.
SELECT f.*, m.name AS model_name, e.name AS executor_name, e.beat_at AS heartbeat_at
FROM task_face f JOIN model m ON m.id = f.model_id LEFT JOIN executor e ON e.id = f.executor AND f.open
WHERE f.tenant_id = :tenant_id AND f.public_id = ANY (CAST(:public_ids AS uuid[]))

-- name: list_tasks
-- Newest first, from before `before`: up to `examine` rows are looked at, `limit` returned. The last row's id is the cursor.
-- Laterals go row by row, whatever is stored; a face is put together only of what a task's own row does not rule out.
SELECT f.*, m.name AS model_name, e.name AS executor_name, e.beat_at AS heartbeat_at
FROM (
  SELECT f.* FROM (SELECT id FROM task WHERE tenant_id = :tenant_id AND id < :before ORDER BY id DESC LIMIT :examine) AS p
  CROSS JOIN LATERAL (SELECT t.model_id, t.status, t.biz_name FROM task t WHERE t.id = p.id OFFSET 0) t
  CROSS JOIN LATERAL (SELECT f.* FROM task_face f WHERE f.id = p.id OFFSET 0) f
  WHERE (CAST(:model_name AS text) IS NULL OR t.model_id IN (SELECT id FROM model WHERE tenant_id = :tenant_id AND name = :model_name))
    AND (CAST(:biz_name AS text) IS NULL OR t.biz_name = :biz_name)
    AND (CAST(:statuses AS int[]) IS NULL OR t.status < 6 OR t.status = ANY (CAST(:statuses AS int[])))
    AND (CAST(:statuses AS int[]) IS NULL OR f.status = ANY (CAST(:statuses AS int[])))
  ORDER BY p.id DESC LIMIT :limit) f
JOIN model m ON m.id = f.model_id LEFT JOIN executor e ON e.id = f.executor AND f.open
ORDER BY f.id DESC

-- name: examined_until
-- How far a page of list_tasks looked: null when it saw the end.
SELECT id FROM task WHERE tenant_id = :tenant_id AND id < :before ORDER BY id DESC OFFSET :examine - 1 LIMIT 1

-- name: mark_fetched
-- The first read of a success by its tenant: remembers it, and starts the time until it is cleaned. Rows are locked in
-- the order of their ids: two callers read the same batch at the same time.
UPDATE task t SET fetched_at = now(), expire_at = now() + make_interval(secs => m.auto_clean_seconds)
FROM (
  SELECT k.id FROM task k WHERE k.tenant_id = :tenant_id AND k.public_id = ANY (CAST(:public_ids AS uuid[]))
    AND k.status = 6 AND k.fetched_at IS NULL
  ORDER BY k.id FOR NO KEY UPDATE) f, model m
WHERE t.id = f.id AND m.id = t.model_id
RETURNING t.public_id

-- name: free_tasks
-- Which of these tasks nobody's transaction keeps locked: it waits for nobody.
SELECT public_id FROM task WHERE tenant_id = :tenant_id AND public_id = ANY (CAST(:public_ids AS uuid[])) FOR NO KEY UPDATE SKIP LOCKED

-- name: payload_head
-- The first `most` bytes of a task's input, and its whole size.
SELECT substring(i.payload FROM 1 FOR :most) AS head, octet_length(i.payload) AS size
FROM task t JOIN task_input i ON i.task_id = t.id
WHERE t.tenant_id = :tenant_id AND t.public_id = :public_id

-- name: list_attempts
-- The ended attempts of a task, the newest :limit of them, oldest first: replays may have made any number of them.
SELECT a.*, e.name AS executor_name, p.provider_id AS provider_job_id
FROM task t CROSS JOIN LATERAL (SELECT * FROM attempt x WHERE x.task_id = t.id ORDER BY x.attempt DESC LIMIT :limit) a LEFT JOIN executor e ON e.id = a.executor
LEFT JOIN provider_job p ON p.task_id = a.task_id AND p.attempt = a.attempt
WHERE t.tenant_id = :tenant_id AND t.public_id = :public_id ORDER BY a.attempt

-- name: list_history
-- What happened to a task beside its attempts, the newest :limit of it, oldest first: a busy model may hand it back all day.
SELECT h.* FROM task t CROSS JOIN LATERAL (SELECT * FROM history x WHERE x.task_id = t.id ORDER BY x.id DESC LIMIT :limit) h
WHERE t.tenant_id = :tenant_id AND t.public_id = :public_id ORDER BY h.id

-- name: request_cancel
-- Ask for the end of started tasks, once, recorded; their executors read it with their next heartbeat. Who moves a row just
-- now is waited for: what is recorded is what it came to.
WITH d AS MATERIALIZED (
  SELECT d.id, d.attempt, d.version, d.lease FROM task t JOIN dispatch d ON d.id = t.id
  WHERE t.tenant_id = :tenant_id AND t.public_id = ANY (CAST(:public_ids AS uuid[])) AND d.token IS NOT NULL
  ORDER BY d.id FOR NO KEY UPDATE OF d
), asked AS (
  INSERT INTO cancel_request (task_id) SELECT id FROM d
  ON CONFLICT DO NOTHING
  RETURNING task_id
), h AS (
  INSERT INTO history (task_id, kind, attempt, version, lease, detail)
  SELECT d.id, 'cancel', d.attempt, d.version, d.lease, 'asked for while it ran' FROM asked a JOIN d ON d.id = a.task_id
)
SELECT task_id FROM asked

-- name: cancel_waiting
-- End tasks that no executor has started: the dispatch row goes, so a message on its way finds nothing. A retry that was
-- still waited for (state 3) is none that was made.
WITH c AS MATERIALIZED (
  SELECT t.id FROM task t WHERE t.tenant_id = :tenant_id AND t.public_id = ANY (CAST(:public_ids AS uuid[])) ORDER BY t.id
), gone AS (
  DELETE FROM dispatch q USING c WHERE q.id = c.id AND q.token IS NULL
  RETURNING q.id, q.public_id, q.lane, q.state, q.phase, q.attempt, q.retries, q.version + 1 AS version, q.staged_size,
    q.entered_at, q.started_at, q.generated_at, q.migrating_at
), a AS (
  INSERT INTO attempt (task_id, attempt, outcome, entered_at, started_at, generated_at, migrating_at, staged_size, error_code, error_message)
  SELECT id, attempt, 'canceled', entered_at, started_at, generated_at, migrating_at, staged_size, 'canceled', 'canceled by the caller'
  FROM gone WHERE phase >= 1
  ON CONFLICT DO NOTHING
), t AS (
  UPDATE task t SET status = 9, finished_at = now(), attempt = g.attempt, retries = CASE WHEN g.state = 3 THEN g.retries - 1 ELSE g.retries END,
    version = g.version, started_at = g.started_at,
    error_code = 'canceled', error_message = 'canceled by the caller'
  FROM gone g WHERE t.id = g.id
  RETURNING t.tenant_id, t.creator, t.quota_day, t.points, t.status
), given_back AS (
  UPDATE quota_usage u SET used = greatest(u.used - b.points, 0)
  FROM (SELECT tenant_id, creator, quota_day, sum(points) AS points FROM t WHERE points > 0 AND status > 6
        GROUP BY 1, 2, 3 ORDER BY 1, 2, 3) b
  WHERE u.tenant_id = ANY (ARRAY[b.tenant_id]) AND u.user_name = b.creator AND u.day = ANY (ARRAY[b.quota_day])
), h AS (
  INSERT INTO history (task_id, kind, attempt, version) SELECT id, 'cancel', attempt, version FROM gone
), s AS (
  DELETE FROM task_secret WHERE task_id = ANY (ARRAY(SELECT id FROM gone))
), so AS (
  DELETE FROM staged_output WHERE task_id = ANY (ARRAY(SELECT id FROM gone WHERE phase >= 2))
), pj AS (
  UPDATE provider_job p SET ended_at = now(), cancel_at = CASE WHEN p.status IN ('intended', 'queued', 'processing') THEN now() END
  WHERE p.task_id = ANY (ARRAY(SELECT id FROM gone WHERE phase = 1)) AND (p.ended_at IS NULL) IS TRUE
), ev AS (
  INSERT INTO event (task_id, version, status, attempt, started_at, error_code, error_message)
  SELECT id, version, 9, attempt, started_at, 'canceled', 'canceled by the caller' FROM gone
)
SELECT id, public_id, lane, state FROM gone
