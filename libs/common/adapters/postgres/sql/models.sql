-- name: create_model
-- A model, its lane, and its tenant if it is new. A name in use raises the unique violation `model_name`.
WITH tn AS (
  INSERT INTO tenant (id) VALUES (:tenant_id) ON CONFLICT DO NOTHING
), m AS (
  INSERT INTO model (tenant_id, name, base_url, route, http_method, bindings, enabled, max_concurrency, queue_limit, timeout_seconds,
    expected_seconds, retry_times, retry_queue_max_seconds, auto_clean_seconds, adapter, adapter_config, poll_seconds,
    job_timeout_seconds, price, remark, partitions, creator, updater)
  VALUES (:tenant_id, :name, :base_url, :route, :http_method, :bindings, :enabled, :max_concurrency, :queue_limit, :timeout_seconds,
    :expected_seconds, :retry_times, :retry_queue_max_seconds, :auto_clean_seconds, :adapter, :adapter_config, :poll_seconds,
    :job_timeout_seconds, :price, :remark, :partitions, :creator, :creator)
  RETURNING *
), l AS (
  INSERT INTO lane (model_id, tenant_id, window_size) SELECT id, tenant_id, :window_size FROM m RETURNING id, model_id
)
SELECT m.*, l.id AS lane FROM m JOIN l ON l.model_id = m.id

-- name: update_model
-- Write a model's new values if it still has the version that they were made from.
WITH m AS (
  UPDATE model SET name = :name, base_url = :base_url, route = :route, http_method = :http_method, bindings = :bindings, enabled = :enabled,
    max_concurrency = :max_concurrency, queue_limit = :queue_limit, timeout_seconds = :timeout_seconds,
    expected_seconds = :expected_seconds, retry_times = :retry_times, retry_queue_max_seconds = :retry_queue_max_seconds,
    auto_clean_seconds = :auto_clean_seconds, adapter = :adapter, adapter_config = :adapter_config, poll_seconds = :poll_seconds,
    job_timeout_seconds = :job_timeout_seconds, price = :price, remark = :remark,
    partitions = greatest(partitions, :partitions), updater = :updater, updated_at = clock_timestamp(), version = version + 1
  WHERE tenant_id = :tenant_id AND id = :id AND version = :version AND deleted_at IS NULL
  RETURNING *
), l AS (
  UPDATE lane SET window_size = :window_size FROM m WHERE lane.model_id = m.id RETURNING lane.id
)
SELECT m.*, l.id AS lane FROM m, l

-- name: jobs_of_model
-- Whether providers have jobs of a model that are still asked about, or whose end somebody still has to tell: the latter
-- within an hour, or the marks of an adapter that nobody has any more would count for ever.
SELECT EXISTS (SELECT 1 FROM lane l JOIN provider_job p ON p.lane = l.id
    WHERE l.tenant_id = :tenant_id AND l.model_id = :id AND p.ended_at IS NULL)
  OR EXISTS (SELECT 1 FROM lane l JOIN provider_job p ON p.lane = l.id
    WHERE l.tenant_id = :tenant_id AND l.model_id = :id AND p.cancel_at IS NOT NULL AND p.ended_at > now() - interval '1 hour') AS there

-- name: delete_model
-- Soft: the name is free again, the lane is closed, what waits in it is failed by the janitor. $1 tenant_id, $2 id, $3 by.
WITH m AS (
  UPDATE model SET deleted_at = now(), updated_at = clock_timestamp(), version = version + 1, updater = $3
  WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL RETURNING *
), l AS (
  UPDATE lane SET closed = true, paused = false FROM m WHERE lane.model_id = m.id RETURNING lane.id
)
SELECT m.*, l.id AS lane FROM m, l

-- name: end_model_pause
-- The pause of a model that this transaction deletes is over: nobody could find it to resume it. A statement of its own:
-- a deletion that waits for the lane's row, held by who pauses it just now, does not see that pause. $1 tenant_id, $2 lane.
UPDATE pause SET ended = now() WHERE scope = 'model' AND tenant_id = $1 AND lane = $2 AND ended IS NULL

-- name: name_was_used
-- Whether a model has or had this name, a tenant's or (null) anybody's: what is of no such model need not be looked for.
SELECT CASE WHEN CAST(:tenant_id AS bigint) IS NULL THEN EXISTS (SELECT 1 FROM model WHERE name = :name)
  ELSE EXISTS (SELECT 1 FROM model WHERE tenant_id = CAST(:tenant_id AS bigint) AND name = :name AND deleted_at IS NULL)
    OR EXISTS (SELECT 1 FROM model WHERE tenant_id = CAST(:tenant_id AS bigint) AND name = :name AND deleted_at IS NOT NULL)
  END AS used

-- name: find_model
-- A tenant's model by name.
SELECT m.*, l.id AS lane FROM model m JOIN lane l ON l.model_id = m.id
WHERE m.tenant_id = :tenant_id AND m.name = :name AND m.deleted_at IS NULL

-- name: find_models
-- Models of tenants by name, many at once: names that nobody has are left out. $1 tenants, $2 names.
SELECT m.*, l.id AS lane FROM unnest($1::bigint[], $2::text[]) AS w(tenant_id, name) CROSS JOIN LATERAL (
  SELECT * FROM model x WHERE x.tenant_id = w.tenant_id AND x.name = w.name AND x.deleted_at IS NULL OFFSET 0) m
JOIN lane l ON l.model_id = m.id

-- name: find_model_by_id
-- A tenant's model by id.
SELECT m.*, l.id AS lane FROM model m JOIN lane l ON l.model_id = m.id
WHERE m.tenant_id = :tenant_id AND m.id = :id AND m.deleted_at IS NULL

-- name: list_models
-- A tenant's models, newest first, from before `before`.
SELECT m.*, l.id AS lane FROM model m JOIN lane l ON l.model_id = m.id
WHERE m.tenant_id = :tenant_id AND m.deleted_at IS NULL AND m.id < :before ORDER BY m.id DESC LIMIT :limit

-- name: models_by_id
-- Models by id, deleted ones too: what workers run by.
SELECT m.*, l.id AS lane FROM model m JOIN lane l ON l.model_id = m.id WHERE m.id = ANY (CAST(:ids AS bigint[]))

-- name: models_changed
-- The database's clock, since when its server runs, and all models that changed at or after an instant, deleted ones too:
-- every process asks twice a second. A row without a model says only what time it is.
SELECT clock.now, clock.server, m.*, l.id AS lane FROM (SELECT now() AS now, pg_postmaster_start_time() AS server) clock
LEFT JOIN (model m JOIN lane l ON l.model_id = m.id) ON m.updated_at >= $1

-- name: lanes_changed
-- What a dispatcher must know of every lane whose model or tenant changed at or after an instant.
SELECT l.id AS lane, l.tenant_id, l.model_id, m.name, m.partitions, coalesce(l.partitions, m.partitions) AS spread, l.closed, tn.weight, greatest(m.updated_at, tn.updated_at) AS updated_at
FROM model m JOIN lane l ON l.model_id = m.id JOIN tenant tn ON tn.id = l.tenant_id WHERE m.updated_at >= $1
UNION ALL
SELECT l.id, l.tenant_id, l.model_id, m.name, m.partitions, coalesce(l.partitions, m.partitions) AS spread, l.closed, tn.weight, tn.updated_at
FROM tenant tn JOIN model m ON m.tenant_id = tn.id AND m.deleted_at IS NULL JOIN lane l ON l.model_id = m.id
WHERE tn.updated_at >= $1 AND m.updated_at < $1

-- name: zone_known
-- Fails where the server does not know a time zone: no task starts then, for its call is counted on a day there. $1 name; it
-- belongs to no tenant_id.
SELECT (now() AT TIME ZONE $1)::date AS today

-- name: server_began
-- Since when the server runs that answers: another one after a failover, and whatever goes on from an older state.
SELECT pg_postmaster_start_time() AS at

-- name: database_now
-- The database's clock.
SELECT now() AS now
