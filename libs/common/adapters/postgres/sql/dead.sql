-- The dead as operators see them, and the jobs that they make. `tenant_id` null: everybody's.
-- Lists look at `examine` rows from before a place down and return `limit` of those that fit: each answer's rows carry the
-- last place that was looked at, and whether there may be more (`full_look`). One row comes back even when none fits.

-- name: dead_tasks
-- A page of dead tasks, newest first.
WITH p AS MATERIALIZED (
  (SELECT d.task_id, d.tenant_id, d.model_id, d.died_at, d.error_code, d.staged IS NOT NULL AS staged FROM dead_task d
   WHERE CAST(:tenant_id AS bigint) IS NULL AND d.dropped_at IS NULL AND (d.died_at, d.task_id) < (:at, CAST(:id AS bigint)) AND d.died_at >= :since
   ORDER BY d.died_at DESC, d.task_id DESC LIMIT :examine)
  UNION ALL
  (SELECT d.task_id, d.tenant_id, d.model_id, d.died_at, d.error_code, d.staged IS NOT NULL FROM dead_task d
   WHERE CAST(:tenant_id AS bigint) IS NOT NULL AND d.tenant_id = CAST(:tenant_id AS bigint) AND d.dropped_at IS NULL AND (d.died_at, d.task_id) < (:at, CAST(:id AS bigint)) AND d.died_at >= :since
   ORDER BY d.died_at DESC, d.task_id DESC LIMIT :examine)
), f AS (
  SELECT p.* FROM p
  WHERE (CAST(:code AS text) IS NULL OR p.error_code = :code)
    AND (CAST(:model AS text) IS NULL OR p.model_id IN (SELECT id FROM model WHERE name = :model))
    AND (CAST(:model_id AS bigint) IS NULL OR p.model_id = :model_id)
    AND (CAST(:part AS text) IS NULL
         OR (SELECT strpos(lower(t.error_message), lower(:part)) FROM task t WHERE t.id = p.task_id) > 0)
  ORDER BY p.died_at DESC, p.task_id DESC LIMIT :limit
)
SELECT e.full_look, e.last_at, e.last_id, x.* FROM (
  SELECT count(*) = :examine AS full_look, min(p.died_at) AS last_at,
    (SELECT task_id FROM p ORDER BY died_at, task_id LIMIT 1) AS last_id FROM p) e
LEFT JOIN (
  SELECT f.task_id AS key, f.tenant_id, f.died_at, f.error_code AS code, f.staged, m.name AS model, t.public_id, t.status, t.attempt, t.version,
    t.error_message AS message, i.job_id AS pending,
    (SELECT j.tenant_id FROM replay_job j WHERE j.id = i.job_id) AS pending_of
  FROM f JOIN task t ON t.id = f.task_id JOIN model m ON m.id = f.model_id
  LEFT JOIN replay_item i ON i.kind = 'task' AND i.target = f.task_id AND i.result IS NULL) x ON true
ORDER BY x.died_at DESC, x.key DESC

-- name: dead_task_groups
-- Dead tasks by cause, the newest :examine of them.
WITH p AS MATERIALIZED (
  (SELECT d.task_id, d.tenant_id, d.model_id, d.died_at, d.error_code FROM dead_task d
   WHERE CAST(:tenant_id AS bigint) IS NULL AND d.dropped_at IS NULL AND d.died_at < :at AND d.died_at >= :since
   ORDER BY d.died_at DESC, d.task_id DESC LIMIT :examine)
  UNION ALL
  (SELECT d.task_id, d.tenant_id, d.model_id, d.died_at, d.error_code FROM dead_task d
   WHERE CAST(:tenant_id AS bigint) IS NOT NULL AND d.tenant_id = CAST(:tenant_id AS bigint) AND d.dropped_at IS NULL AND d.died_at < :at AND d.died_at >= :since
   ORDER BY d.died_at DESC, d.task_id DESC LIMIT :examine)
), g AS (
  SELECT p.tenant_id, p.model_id, p.error_code, count(*) AS count, min(p.died_at) AS first_at, max(p.died_at) AS last_at, max(p.task_id) AS task_id
  FROM p
  WHERE (CAST(:code AS text) IS NULL OR p.error_code = :code)
    AND (CAST(:model AS text) IS NULL OR p.model_id IN (SELECT id FROM model WHERE name = :model))
    AND (CAST(:model_id AS bigint) IS NULL OR p.model_id = :model_id)
    AND (CAST(:part AS text) IS NULL
         OR (SELECT strpos(lower(t.error_message), lower(:part)) FROM task t WHERE t.id = p.task_id) > 0)
  GROUP BY 1, 2, 3 ORDER BY count(*) DESC, max(p.died_at) DESC, max(p.task_id) LIMIT :limit
)
SELECT e.looked, x.* FROM (SELECT count(*) AS looked FROM p) e
LEFT JOIN (
  SELECT g.tenant_id, g.model_id, m.name AS model, g.error_code AS code, g.count, g.first_at, g.last_at, t.public_id::text AS example_id, t.error_message AS example
  FROM g JOIN task t ON t.id = g.task_id JOIN model m ON m.id = g.model_id) x ON true
ORDER BY x.count DESC, x.last_at DESC

-- name: dead_events
-- A page of dead events, newest first.
WITH p AS MATERIALIZED (
  (SELECT e.id, e.task_id, e.tenant_id, e.model_id, e.dead_at, e.version, e.status, e.attempt, e.last_error FROM dead_event e
   WHERE CAST(:tenant_id AS bigint) IS NULL AND e.dropped_at IS NULL AND (e.dead_at, e.id) < (:at, CAST(:id AS bigint)) AND e.dead_at >= :since
   ORDER BY e.dead_at DESC, e.id DESC LIMIT :examine)
  UNION ALL
  (SELECT e.id, e.task_id, e.tenant_id, e.model_id, e.dead_at, e.version, e.status, e.attempt, e.last_error FROM dead_event e
   WHERE CAST(:tenant_id AS bigint) IS NOT NULL AND e.tenant_id = CAST(:tenant_id AS bigint) AND e.dropped_at IS NULL AND (e.dead_at, e.id) < (:at, CAST(:id AS bigint)) AND e.dead_at >= :since
   ORDER BY e.dead_at DESC, e.id DESC LIMIT :examine)
), f AS (
  SELECT p.* FROM p
  WHERE (CAST(:code AS text) IS NULL OR :code = 'publish_refused')
    AND (CAST(:model AS text) IS NULL OR p.model_id IN (SELECT id FROM model WHERE name = :model))
    AND (CAST(:model_id AS bigint) IS NULL OR p.model_id = :model_id)
    AND (CAST(:part AS text) IS NULL OR strpos(lower(p.last_error), lower(:part)) > 0)
  ORDER BY p.dead_at DESC, p.id DESC LIMIT :limit
)
SELECT e.full_look, e.last_at, e.last_id, x.* FROM (
  SELECT count(*) = :examine AS full_look, min(p.dead_at) AS last_at, (SELECT id FROM p ORDER BY dead_at, id LIMIT 1) AS last_id FROM p) e
LEFT JOIN (
  SELECT f.id AS key, f.tenant_id, f.dead_at AS died_at, 'publish_refused' AS code, m.name AS model, t.public_id, f.status, f.attempt, f.version,
    f.last_error AS message, i.job_id AS pending,
    (SELECT j.tenant_id FROM replay_job j WHERE j.id = i.job_id) AS pending_of
  FROM f JOIN task t ON t.id = f.task_id JOIN model m ON m.id = f.model_id
  LEFT JOIN replay_item i ON i.kind = 'event' AND i.target = f.id AND i.result IS NULL) x ON true
ORDER BY x.died_at DESC, x.key DESC

-- name: dead_event_groups
-- Dead events by model, the newest :examine of them.
WITH p AS MATERIALIZED (
  (SELECT e.id, e.tenant_id, e.model_id, e.dead_at, e.last_error FROM dead_event e
   WHERE CAST(:tenant_id AS bigint) IS NULL AND e.dropped_at IS NULL AND e.dead_at < :at AND e.dead_at >= :since
   ORDER BY e.dead_at DESC, e.id DESC LIMIT :examine)
  UNION ALL
  (SELECT e.id, e.tenant_id, e.model_id, e.dead_at, e.last_error FROM dead_event e
   WHERE CAST(:tenant_id AS bigint) IS NOT NULL AND e.tenant_id = CAST(:tenant_id AS bigint) AND e.dropped_at IS NULL AND e.dead_at < :at AND e.dead_at >= :since
   ORDER BY e.dead_at DESC, e.id DESC LIMIT :examine)
), g AS (
  SELECT p.tenant_id, p.model_id, count(*) AS count, min(p.dead_at) AS first_at, max(p.dead_at) AS last_at, max(p.id) AS id
  FROM p
  WHERE (CAST(:code AS text) IS NULL OR :code = 'publish_refused')
    AND (CAST(:model AS text) IS NULL OR p.model_id IN (SELECT id FROM model WHERE name = :model))
    AND (CAST(:model_id AS bigint) IS NULL OR p.model_id = :model_id)
    AND (CAST(:part AS text) IS NULL OR strpos(lower(p.last_error), lower(:part)) > 0)
  GROUP BY 1, 2 ORDER BY count(*) DESC, max(p.dead_at) DESC LIMIT :limit
)
SELECT e.looked, x.* FROM (SELECT count(*) AS looked FROM p) e
LEFT JOIN (
  SELECT g.tenant_id, g.model_id, m.name AS model, 'publish_refused' AS code, g.count, g.first_at, g.last_at, g.id::text AS example_id, p.last_error AS example
  FROM g JOIN p ON p.id = g.id JOIN model m ON m.id = g.model_id) x ON true
ORDER BY x.count DESC, x.last_at DESC

-- name: dead_deliveries
-- A page of webhook deliveries that were given up, newest first; of the address only what stands before its query. The
-- model is its task's, and none where that was cleaned.
WITH p AS MATERIALIZED (
  (SELECT d.id, d.tenant_id, d.task_id, d.dead_at, d.last_code, d.url, d.last_error, d.webhook_id FROM delivery d
   WHERE CAST(:webhook AS bigint) IS NULL AND CAST(:tenant_id AS bigint) IS NULL AND d.dead_at IS NOT NULL AND d.dropped_at IS NULL AND (d.dead_at, d.id) < (:at, CAST(:id AS bigint)) AND d.dead_at >= :since
   ORDER BY d.dead_at DESC, d.id DESC LIMIT :examine)
  UNION ALL
  (SELECT d.id, d.tenant_id, d.task_id, d.dead_at, d.last_code, d.url, d.last_error, d.webhook_id FROM delivery d
   WHERE CAST(:webhook AS bigint) IS NULL AND CAST(:tenant_id AS bigint) IS NOT NULL AND d.tenant_id = CAST(:tenant_id AS bigint) AND d.dead_at IS NOT NULL AND d.dropped_at IS NULL AND (d.dead_at, d.id) < (:at, CAST(:id AS bigint)) AND d.dead_at >= :since
   ORDER BY d.dead_at DESC, d.id DESC LIMIT :examine)
  UNION ALL
  (SELECT d.id, d.tenant_id, d.task_id, d.dead_at, d.last_code, d.url, d.last_error, d.webhook_id FROM delivery d
   WHERE CAST(:webhook AS bigint) IS NOT NULL AND d.webhook_id = CAST(:webhook AS bigint) AND (CAST(:tenant_id AS bigint) IS NULL OR d.tenant_id = :tenant_id)
     AND d.dead_at IS NOT NULL AND d.dropped_at IS NULL AND (d.dead_at, d.id) < (:at, CAST(:id AS bigint)) AND d.dead_at >= :since
   ORDER BY d.dead_at DESC, d.id DESC LIMIT :examine)
), f AS (
  SELECT p.* FROM p
  WHERE (CAST(:code AS text) IS NULL OR delivery_code(p.last_code) = :code)
    AND (CAST(:part AS text) IS NULL OR strpos(lower(concat_ws(': ', nullif(split_part(p.url, '?', 1), ''), p.last_error)), lower(:part)) > 0)
    AND (CAST(:model AS text) IS NULL
         OR (SELECT t.model_id FROM task t WHERE t.tenant_id = p.tenant_id AND t.public_id = p.task_id) IN (SELECT id FROM model WHERE name = :model))
    AND (CAST(:model_id AS bigint) IS NULL
         OR coalesce((SELECT t.model_id FROM task t WHERE t.tenant_id = p.tenant_id AND t.public_id = p.task_id), 0) = :model_id)
  ORDER BY p.dead_at DESC, p.id DESC LIMIT :limit
)
SELECT e.full_look, e.last_at, e.last_id, x.* FROM (
  SELECT count(*) = :examine AS full_look, min(p.dead_at) AS last_at, (SELECT id FROM p ORDER BY dead_at, id LIMIT 1) AS last_id FROM p) e
LEFT JOIN (
  SELECT f.id AS key, f.tenant_id, f.dead_at AS died_at, delivery_code(f.last_code) AS code, m.name AS model, f.task_id AS public_id, f.webhook_id,
    concat_ws(': ', nullif(split_part(f.url, '?', 1), ''), f.last_error) AS message, i.job_id AS pending,
    (SELECT j.tenant_id FROM replay_job j WHERE j.id = i.job_id) AS pending_of
  FROM f LEFT JOIN task t ON t.tenant_id = f.tenant_id AND t.public_id = f.task_id LEFT JOIN model m ON m.id = t.model_id
  LEFT JOIN replay_item i ON i.kind = 'delivery' AND i.target = f.id AND i.result IS NULL) x ON true
ORDER BY x.died_at DESC, x.key DESC

-- name: dead_delivery_groups
-- The same by answer and model, the newest :examine of them.
WITH p AS MATERIALIZED (
  (SELECT d.id, d.tenant_id, d.task_id, d.dead_at, d.last_code, d.url, d.last_error, d.webhook_id FROM delivery d
   WHERE CAST(:webhook AS bigint) IS NULL AND CAST(:tenant_id AS bigint) IS NULL AND d.dead_at IS NOT NULL AND d.dropped_at IS NULL AND d.dead_at < :at AND d.dead_at >= :since
   ORDER BY d.dead_at DESC, d.id DESC LIMIT :examine)
  UNION ALL
  (SELECT d.id, d.tenant_id, d.task_id, d.dead_at, d.last_code, d.url, d.last_error, d.webhook_id FROM delivery d
   WHERE CAST(:webhook AS bigint) IS NULL AND CAST(:tenant_id AS bigint) IS NOT NULL AND d.tenant_id = CAST(:tenant_id AS bigint) AND d.dead_at IS NOT NULL AND d.dropped_at IS NULL AND d.dead_at < :at AND d.dead_at >= :since
   ORDER BY d.dead_at DESC, d.id DESC LIMIT :examine)
  UNION ALL
  (SELECT d.id, d.tenant_id, d.task_id, d.dead_at, d.last_code, d.url, d.last_error, d.webhook_id FROM delivery d
   WHERE CAST(:webhook AS bigint) IS NOT NULL AND d.webhook_id = CAST(:webhook AS bigint) AND (CAST(:tenant_id AS bigint) IS NULL OR d.tenant_id = :tenant_id)
     AND d.dead_at IS NOT NULL AND d.dropped_at IS NULL AND d.dead_at < :at AND d.dead_at >= :since
   ORDER BY d.dead_at DESC, d.id DESC LIMIT :examine)
), g AS (
  SELECT p.tenant_id, t.model_id, delivery_code(p.last_code) AS code, count(*) AS count, min(p.dead_at) AS first_at, max(p.dead_at) AS last_at, max(p.id) AS id
  FROM p LEFT JOIN task t ON t.tenant_id = p.tenant_id AND t.public_id = p.task_id
  WHERE (CAST(:code AS text) IS NULL OR delivery_code(p.last_code) = :code)
    AND (CAST(:part AS text) IS NULL OR strpos(lower(concat_ws(': ', nullif(split_part(p.url, '?', 1), ''), p.last_error)), lower(:part)) > 0)
    AND (CAST(:model AS text) IS NULL OR t.model_id IN (SELECT id FROM model WHERE name = :model))
    AND (CAST(:model_id AS bigint) IS NULL OR coalesce(t.model_id, 0) = :model_id)
  GROUP BY 1, 2, 3 ORDER BY count(*) DESC, max(p.dead_at) DESC LIMIT :limit
)
SELECT e.looked, x.* FROM (SELECT count(*) AS looked FROM p) e
LEFT JOIN (
  SELECT g.tenant_id, g.model_id, m.name AS model, g.code, g.count, g.first_at, g.last_at, g.id::text AS example_id,
    concat_ws(': ', nullif(split_part(p.url, '?', 1), ''), p.last_error) AS example
  FROM g JOIN p ON p.id = g.id LEFT JOIN model m ON m.id = g.model_id) x ON true
ORDER BY x.count DESC, x.last_at DESC

-- name: dead_delivery_keys
-- Which of these deliveries are dead.
SELECT d.id AS key, d.id::text AS id, d.dead_at AS died_at FROM delivery d
WHERE d.id = ANY (CAST(:ids AS bigint[])) AND d.dead_at IS NOT NULL AND d.dropped_at IS NULL
  AND (CAST(:tenant_id AS bigint) IS NULL OR d.tenant_id = :tenant_id)

-- name: dead_messages
-- A page of messages that nobody could read, newest first. They belong to no tenant_id: for operators alone.
WITH p AS MATERIALIZED (
  SELECT d.id, d.died_at, d.topic, d."partition", d."offset", d.code, d.cause FROM dead_message d
  WHERE d.settled_at IS NULL AND (d.died_at, d.id) < (:at, CAST(:id AS bigint)) AND d.died_at >= :since
  ORDER BY d.died_at DESC, d.id DESC LIMIT :examine
)
SELECT e.full_look, e.last_at, e.last_id, x.* FROM (
  SELECT count(*) = :examine AS full_look, min(p.died_at) AS last_at, (SELECT id FROM p ORDER BY died_at, id LIMIT 1) AS last_id FROM p) e
LEFT JOIN (
  SELECT p.id AS key, p.died_at, p.code, p.cause AS message, p.topic, p."partition", p."offset", i.job_id AS pending
  FROM p LEFT JOIN replay_item i ON i.kind = 'message' AND i.target = p.id AND i.result IS NULL
  WHERE (CAST(:code AS text) IS NULL OR p.code = :code) AND (CAST(:part AS text) IS NULL OR strpos(lower(p.cause), lower(:part)) > 0)
  ORDER BY p.died_at DESC, p.id DESC LIMIT :limit) x ON true
ORDER BY x.died_at DESC, x.key DESC

-- name: dead_message_groups
-- The same by cause. For operators alone: they belong to no tenant_id.
WITH p AS MATERIALIZED (
  SELECT d.id, d.died_at, d.topic, d.code, d.cause FROM dead_message d
  WHERE d.settled_at IS NULL AND d.died_at < :at AND d.died_at >= :since ORDER BY d.died_at DESC, d.id DESC LIMIT :examine
), g AS (
  SELECT p.code, count(*) AS count, min(p.died_at) AS first_at, max(p.died_at) AS last_at, max(p.id) AS id FROM p
  WHERE (CAST(:code AS text) IS NULL OR p.code = :code) AND (CAST(:part AS text) IS NULL OR strpos(lower(p.cause), lower(:part)) > 0)
  GROUP BY 1 ORDER BY count(*) DESC, max(p.died_at) DESC LIMIT :limit
)
SELECT e.looked, x.* FROM (SELECT count(*) AS looked FROM p) e
LEFT JOIN (SELECT g.code, g.count, g.first_at, g.last_at, g.id::text AS example_id, p.cause AS example FROM g JOIN p ON p.id = g.id) x ON true
ORDER BY x.count DESC, x.last_at DESC

-- name: dead_task_keys
-- Which of these public ids are dead tasks. Without a tenant_id every tenant that has dead ones is asked.
WITH RECURSIVE tenants(id) AS (
  (SELECT min(tenant_id) FROM dead_task WHERE dropped_at IS NULL)
  UNION ALL
  SELECT (SELECT min(d.tenant_id) FROM dead_task d WHERE d.dropped_at IS NULL AND d.tenant_id > w.id) FROM tenants w WHERE w.id IS NOT NULL)
SELECT d.task_id AS key, x.public_id::text AS id, d.died_at FROM tenants w CROSS JOIN LATERAL (
  SELECT t.id, t.public_id FROM task t WHERE t.tenant_id = w.id AND t.public_id = ANY (CAST(:public_ids AS uuid[])) OFFSET 0) x
JOIN dead_task d ON d.task_id = x.id AND d.dropped_at IS NULL
WHERE CAST(:tenant_id AS bigint) IS NULL OR w.id = :tenant_id

-- name: dead_event_keys
-- Which of these events are dead.
SELECT e.id AS key, e.id::text AS id, e.dead_at AS died_at FROM dead_event e
WHERE e.id = ANY (CAST(:ids AS bigint[])) AND e.dropped_at IS NULL AND (CAST(:tenant_id AS bigint) IS NULL OR e.tenant_id = :tenant_id)

-- name: dead_message_keys
-- Which of these messages are dead. For operators alone: they belong to no tenant_id.
SELECT d.id AS key, d.id::text AS id, d.died_at FROM dead_message d WHERE d.id = ANY (CAST(:ids AS bigint[])) AND d.settled_at IS NULL

-- name: dead_request
-- What the model is sent for a task, as its configuration is now; the payload is cut.
SELECT m.http_method, m.base_url, m.route, m.bindings, m.tenant_id, substring(i.payload FROM 1 FOR :most) AS payload, length(i.payload) AS size
FROM task t JOIN model m ON m.id = t.model_id JOIN task_input i ON i.task_id = t.id
WHERE t.id = :key AND t.tenant_id = :tenant_id

-- name: dead_attempts
-- The ended attempts of a task of this tenant_id, as list_attempts has them.
SELECT a.attempt, a.outcome, e.name AS executor, p.provider_id AS provider_job_id, a.entered_at, a.leased_at, a.started_at,
  a.generated_at, a.migrating_at, a.ended_at, a.staged_size, a.error_code, a.error_message
FROM task t CROSS JOIN LATERAL (SELECT * FROM attempt x WHERE x.task_id = t.id ORDER BY x.attempt DESC LIMIT :limit) a
  LEFT JOIN executor e ON e.id = a.executor LEFT JOIN provider_job p ON p.task_id = a.task_id AND p.attempt = a.attempt
WHERE t.id = :key AND t.tenant_id = :tenant_id ORDER BY a.attempt

-- name: dead_history
-- What happened to a task of this tenant_id beside its attempts, as list_history has it.
SELECT h.at, h.kind, h.attempt, h.version, h.detail
FROM task t CROSS JOIN LATERAL (SELECT * FROM history x WHERE x.task_id = t.id ORDER BY x.id DESC LIMIT :limit) h
WHERE t.id = :key AND t.tenant_id = :tenant_id ORDER BY h.id

-- name: dead_provider_jobs
-- What third parties were asked to do for a task of this tenant_id.
SELECT p.attempt, p.adapter, p.provider_id, p.status, p.unit_progress, p.message, p.intended_at, p.submitted_at, p.deadline, p.ended_at
FROM task t JOIN provider_job p ON p.task_id = t.id WHERE t.id = :key AND t.tenant_id = :tenant_id ORDER BY p.attempt

-- name: dead_events_of
-- Events of a task of this tenant_id that the broker refused for good.
SELECT e.id, e.version, e.status, e.finished_at, e.dead_at, e.dropped_at, e.sends, e.last_error
FROM dead_event e WHERE e.task_id = :key AND e.tenant_id = :tenant_id ORDER BY e.id LIMIT 100

-- name: dead_replays
-- What jobs did with one dead thing, oldest first; who may see it was asked by its tenant_id before. Of a job of operators a
-- tenant is told no number, which it may not open, nor who ordered it and why.
SELECT o.job_id, j.action, CASE WHEN o.job_id IS NOT NULL THEN j.reason END AS reason, CASE WHEN o.job_id IS NOT NULL THEN j.asked_by END AS asked_by,
  j.created_at, i.result, i.detail, i.tries, i.ended_at
FROM replay_item i JOIN replay_job j ON j.id = i.job_id
CROSS JOIN LATERAL (SELECT CASE WHEN CAST(:tenant_id AS bigint) IS NULL OR j.tenant_id = CAST(:tenant_id AS bigint) THEN j.id END AS job_id) o
WHERE i.kind = :kind AND i.target = :key ORDER BY i.job_id LIMIT 100

-- name: dead_bytes
-- The bytes of a message. For operators alone: it belongs to no tenant_id.
SELECT key, value, size, headers FROM dead_message WHERE id = :key

-- name: replay_selection
-- What an order would take, by cause, what is in another job's hands, and what of it the job would refuse, in the job's own
-- words. $1 kind, $2 tenant_id, $3 rows, $4 code, $5 model, $6 since, $7 until, $8 a part of the message, $9 limit, $10 model id
-- (0: of no model), $11 webhook, $12 whether any may be refused: none is that is dropped, or sent mended.
WITH chosen AS MATERIALIZED (
  SELECT f.key, f.tenant_id, f.model_id, f.code, f.died_at, f.lane, f.webhook_id,
    EXISTS (SELECT 1 FROM replay_item i WHERE i.kind = $1 AND i.target = f.key AND i.result IS NULL) AS busy
  FROM dead_face f
  WHERE f.kind = $1 AND ($2::bigint IS NULL OR f.tenant_id = $2) AND ($3::bigint[] IS NULL OR f.key = ANY ($3)) AND ($4::text IS NULL OR f.code = $4)
    AND ($5::text IS NULL OR f.model_id IN (SELECT id FROM model WHERE name = $5)) AND ($10::bigint IS NULL OR coalesce(f.model_id, 0) = $10)
    AND ($11::bigint IS NULL OR f.webhook_id = $11) AND f.died_at >= $6 AND f.died_at < $7
    AND ($8::text IS NULL OR strpos(lower(f.message), lower($8)) > 0)
), ours AS MATERIALIZED (SELECT * FROM chosen WHERE NOT busy ORDER BY died_at, key LIMIT $9
), g AS (
  SELECT tenant_id, model_id, code, count(*) AS count, min(died_at) AS first_at, max(died_at) AS last_at, max(key) AS key FROM ours GROUP BY 1, 2, 3
), no AS (
  SELECT CASE $1
    WHEN 'task' THEN (
      SELECT CASE WHEN l.closed THEN 'model_deleted' WHEN NOT EXISTS (SELECT 1 FROM task_input i WHERE i.task_id = o.key) THEN 'payload_missing' END
      FROM lane l WHERE l.id = o.lane)
    WHEN 'delivery' THEN coalesce(
      (SELECT CASE WHEN w.deleted_at IS NOT NULL THEN 'webhook_removed' WHEN w.disabled_at IS NOT NULL THEN 'webhook_switched_off' ELSE '' END
       FROM webhook w WHERE w.id = o.webhook_id), 'webhook_removed')
    WHEN 'message' THEN (SELECT CASE WHEN d.value IS NULL THEN 'no_bytes' WHEN length(d.value) < d.size THEN 'cut' END FROM dead_message d WHERE d.id = o.key)
    END AS why FROM ours o WHERE $12::boolean
)
SELECT (SELECT count(*) FROM ours) AS selected, (SELECT count(*) FROM chosen WHERE busy) AS busy,
  (SELECT jsonb_object_agg(n.why, n.count) FROM (SELECT why, count(*) AS count FROM no WHERE why <> '' GROUP BY 1) n)::text AS refused, g.tenant_id, g.model_id, m.name AS model, g.code, g.count,
  g.first_at, g.last_at, f.public_id AS example_id, f.message AS example
FROM (SELECT 1) one LEFT JOIN g ON true LEFT JOIN model m ON m.id = g.model_id
LEFT JOIN LATERAL (SELECT x.public_id, x.message FROM dead_face x WHERE x.kind = $1 AND x.key = ANY (ARRAY[g.key]) OFFSET 0) f ON true
ORDER BY g.count DESC, g.last_at DESC LIMIT 200

-- name: create_replay_job
-- A job without items yet. $1 tenant_id, $2 action, $3 kind, $4 asked, $5 limit, $6 rate, $7 reason, $8 asked by, $9 mended.
INSERT INTO replay_job (tenant_id, action, kind, asked, most, rate, reason, asked_by, mended)
VALUES ($1, $2, $3, $4::jsonb, $5, $6, $7, $8, $9) RETURNING id

-- name: create_replay_items
-- Its items, in the same transaction: as replay_selection shows them ($1 to $11), for job $12. What another open job has in
-- hand is left out; two orders for the same dead wait for each other, in the order of the rows.
WITH chosen AS MATERIALIZED (
  SELECT f.key, f.tenant_id, f.lane, f.code, f.public_id FROM dead_face f
  WHERE f.kind = $1 AND ($2::bigint IS NULL OR f.tenant_id = $2) AND ($3::bigint[] IS NULL OR f.key = ANY ($3)) AND ($4::text IS NULL OR f.code = $4)
    AND ($5::text IS NULL OR f.model_id IN (SELECT id FROM model WHERE name = $5)) AND ($10::bigint IS NULL OR coalesce(f.model_id, 0) = $10)
    AND ($11::bigint IS NULL OR f.webhook_id = $11) AND f.died_at >= $6 AND f.died_at < $7
    AND ($8::text IS NULL OR strpos(lower(f.message), lower($8)) > 0)
    AND (SELECT i.target FROM replay_item i WHERE i.kind = $1 AND i.target = f.key AND i.result IS NULL LIMIT 1) IS NULL
  ORDER BY f.died_at, f.key LIMIT $9
)
INSERT INTO replay_item (job_id, kind, target, lane, public_id, tenant_id, error_code)
SELECT $12, $1, c.key, c.lane, c.public_id, c.tenant_id, c.code FROM chosen c ORDER BY c.key
ON CONFLICT DO NOTHING
RETURNING 1

-- name: count_replay_items
-- The job knows how many it has, and is done if that is none. $1 job, $2 how many; its tenant_id stands in it.
UPDATE replay_job SET total = $2, state = CASE WHEN $2 = 0 THEN 'done' ELSE state END, ended_at = CASE WHEN $2 = 0 THEN now() END
WHERE id = $1
RETURNING id, tenant_id, action, kind, asked, most, rate, reason, asked_by, state, total, replayed, dropped, gone, refused, stopped,
  refusals, note, created_at, changed_at, ended_at

-- name: replay_jobs
-- Jobs, newest first; a tenant's own, or everybody's.
(SELECT j.* FROM replay_face j WHERE CAST(:tenant_id AS bigint) IS NULL AND j.id < :before ORDER BY j.id DESC LIMIT :limit)
UNION ALL
(SELECT j.* FROM replay_face j WHERE j.tenant_id = CAST(:tenant_id AS bigint) AND j.id < :before ORDER BY j.id DESC LIMIT :limit)
ORDER BY id DESC

-- name: replay_job
-- One job.
SELECT * FROM replay_face WHERE id = :id AND (CAST(:tenant_id AS bigint) IS NULL OR tenant_id = :tenant_id)

-- name: replay_items
-- What became of each of a job's, in the order of their rows; whose job it is was asked by tenant_id before.
SELECT target AS key, public_id, tenant_id, error_code, result, detail, tries, CASE WHEN result IS NULL THEN due_at END AS due_at, ended_at
FROM replay_item WHERE job_id = :job AND target > :after ORDER BY target LIMIT :limit

-- name: steer_replay
-- Pause, go on or stop a job that is not over; stopping ends what waits. Whoever works on it finishes its present write first.
WITH job AS (
  UPDATE replay_job j SET state = :state, changed_at = now(), paced_at = now(), ended_at = CASE WHEN :state = 'stopped' THEN now() END,
    note = '', stopped = CASE WHEN :state = 'stopped' THEN j.total - j.replayed - j.dropped - j.gone - j.refused ELSE 0 END
  WHERE j.id = :id AND j.state IN ('running', 'paused') AND (CAST(:tenant_id AS bigint) IS NULL OR j.tenant_id = :tenant_id)
  RETURNING j.id, j.state
), items AS (
  UPDATE replay_item i SET result = 'stopped', ended_at = now() FROM job WHERE job.state = 'stopped' AND i.job_id = job.id AND i.result IS NULL
)
SELECT id FROM job
