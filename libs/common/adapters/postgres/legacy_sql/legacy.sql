-- What is read from an old gateway's tables. A column that an installation lacks is found in `absent` instead, as null:
-- names are looked up in the table first. The session's time zone turns local times into instants; those that lie centuries
-- away were never set, and some of them fit into no instant. Ids beyond 2^62 are nobody's numbers: ours do not go on above them.

-- name: legacy_columns
-- The columns of the tables that the search path leads to.
SELECT t.name AS "table", a.attname AS "column"
FROM unnest($1::text[]) AS t(name)
JOIN pg_attribute a ON a.attrelid = to_regclass(quote_ident(t.name)) AND a.attnum > 0 AND NOT a.attisdropped

-- name: legacy_name
-- A name for this database that does not depend on how it is addressed.
SELECT (SELECT system_identifier FROM pg_control_system()) || '/' || current_database() || '/' || current_schema() AS name

-- name: legacy_models_facts
-- How much is in asynch_models.
SELECT count(*) FILTER (WHERE deleted_at IS NULL) AS rows, count(*) FILTER (WHERE deleted_at IS NOT NULL) AS deleted,
  coalesce(max(id) FILTER (WHERE id <= 4611686018427387904), 0) AS largest_id FROM asynch_models

-- name: legacy_tasks_facts
-- How much is in asynch_task.
SELECT count(*) FILTER (WHERE deleted_at IS NULL) AS rows, count(*) FILTER (WHERE deleted_at IS NOT NULL) AS deleted,
  coalesce(max(id) FILTER (WHERE id <= 4611686018427387904), 0) AS largest_id,
  count(*) FILTER (WHERE deleted_at IS NULL AND CASE WHEN created_at BETWEEN '1799-01-01' AND '2201-01-01' THEN created_at::timestamptz > now() + interval '5 minutes' END) AS later_than_now
FROM asynch_task

-- name: legacy_states
-- Tasks by state, which nothing obliges a row to have.
SELECT coalesce(state::text, 'null') AS state, count(*) AS rows FROM asynch_task WHERE deleted_at IS NULL
GROUP BY asynch_task.state ORDER BY asynch_task.state

-- name: legacy_shared
-- UUIDs that several tenants have, however they are written; $1 at most.
SELECT x.id::uuid AS id FROM (
  SELECT translate(lower(replace(replace(task_id, 'urn:', ''), 'uuid:', '')), '{}- ', '') AS id, tenant_id FROM asynch_task WHERE deleted_at IS NULL) x
WHERE x.id ~ '^[0-9a-f]{32}$' GROUP BY 1 HAVING count(DISTINCT x.tenant_id) > 1 LIMIT $1

-- name: legacy_lines_facts
-- How much is in asynch_op_log.
SELECT count(*) FILTER (WHERE deleted_at IS NULL) AS rows, count(*) FILTER (WHERE deleted_at IS NOT NULL) AS deleted,
  coalesce(max(id) FILTER (WHERE id <= 4611686018427387904), 0) AS largest_id FROM asynch_op_log

-- name: legacy_counts_facts
-- How much is in asynch_model_stat.
SELECT count(*) AS rows, 0::bigint AS deleted, 0::bigint AS largest_id FROM asynch_model_stat

-- name: legacy_models
-- Models, oldest first.
SELECT x.* FROM (SELECT NULL::int AS timeout_seconds, NULL::int AS timeout_ms, NULL::int AS retry_queue_max_seconds, NULL::int AS expected_seconds) AS absent
CROSS JOIN LATERAL (
  SELECT m.id, m.tenant_id, m.model_name AS name, m.base_url, m.route, m.http_method, coalesce(m.api_key, '') AS api_key, m.enabled <> 0 AS enabled,
    m.max_concurrency, m.queue_limit, timeout_seconds::bigint AS timeout_seconds, timeout_ms::bigint AS timeout_ms, m.retry_times,
    retry_queue_max_seconds::bigint AS retry_queue_max_seconds, expected_seconds::bigint AS expected_seconds,
    m.auto_clean_seconds, coalesce(m.remark, '') AS remark, m.creator, m.updater, CASE WHEN m.created_at BETWEEN '1799-01-01' AND '2201-01-01' THEN m.created_at::timestamptz END AS created_at
  FROM asynch_models m WHERE m.deleted_at IS NULL) AS x
ORDER BY x.id

-- name: legacy_tasks
-- Tasks past $1 in the order of ids. $2 is the path to the payload inside what is stored, or null. Nothing is cut out where
-- nothing lies: in a list, a path of names is an error to `#-`.
SELECT x.* FROM (SELECT NULL::smallint AS phase) AS absent
CROSS JOIN LATERAL (
  SELECT t.id, t.tenant_id, t.creator, coalesce(t.model_name, '') AS model_name, coalesce(t.task_id, '') AS task_id, t.state,
    coalesce(t.input_ref, '') AS input_ref, coalesce(t.oss_file, '') AS oss_file, coalesce(t.file_type, '') AS file_type, t.file_size,
    coalesce(t.error_msg, '') AS error_msg, coalesce(t.retry_count, 0) AS retry_count, coalesce(phase, 0)::int AS phase,
    CASE WHEN t.created_at BETWEEN '1799-01-01' AND '2201-01-01' THEN t.created_at::timestamptz END AS created_at, CASE WHEN t.updated_at BETWEEN '1799-01-01' AND '2201-01-01' THEN t.updated_at::timestamptz END AS updated_at, CASE WHEN t.enqueue_at BETWEEN '1799-01-01' AND '2201-01-01' THEN t.enqueue_at::timestamptz END AS enqueue_at,
    CASE WHEN t.started_at BETWEEN '1799-01-01' AND '2201-01-01' THEN t.started_at::timestamptz END AS started_at, CASE WHEN t.finished_at BETWEEN '1799-01-01' AND '2201-01-01' THEN t.finished_at::timestamptz END AS finished_at, CASE WHEN t.expire_at BETWEEN '1799-01-01' AND '2201-01-01' THEN t.expire_at::timestamptz END AS expire_at,
    CASE
      WHEN $2::text[] IS NULL THEN t.request_payload::text
      WHEN jsonb_typeof(t.request_payload::jsonb #> $2) = 'string' THEN t.request_payload::jsonb #>> $2
      ELSE (t.request_payload::jsonb #> $2)::text END AS payload,
    coalesce(jsonb_typeof(t.request_payload::jsonb #> $2) = 'string', false) AS quoted,
    CASE WHEN $2::text[] IS NULL THEN NULL
      WHEN jsonb_typeof(t.request_payload::jsonb) NOT IN ('object', 'array') THEN NULL
      WHEN t.request_payload::jsonb #> $2 IS NULL THEN t.request_payload::text
      ELSE (t.request_payload::jsonb #- $2)::text END AS wrapper,
    CASE WHEN $2::text[] IS NOT NULL AND t.request_payload::jsonb #> $2 IS NULL THEN t.request_payload::text END AS whole
  FROM asynch_task t WHERE t.id > $1 AND t.deleted_at IS NULL) AS x
ORDER BY x.id

-- name: legacy_lines
-- The operation log past $1 in the order of ids.
SELECT l.id, l.tenant_id, l.creator, CASE WHEN l.created_at BETWEEN '1799-01-01' AND '2201-01-01' THEN l.created_at::timestamptz END AS created_at, coalesce(l.ip, '') AS ip, coalesce(l.user_agent, '') AS user_agent,
  coalesce(l.api_path, '') AS api_path, coalesce(l.http_method, '') AS http_method, coalesce(l.biz_name, '') AS biz_name,
  coalesce(l.model_name, '') AS model_name, coalesce(l.task_id, '') AS task_id, coalesce(l.op_type, 'createTask') AS op_type,
  coalesce(l.success, 0) = 1 AS success, coalesce(l.error_msg, '') AS error_msg, l.cost_ms,
  l.request_payload::text AS request_payload, l.response_payload::text AS response_payload
FROM asynch_op_log l WHERE l.id > $1 AND l.deleted_at IS NULL ORDER BY l.id

-- name: legacy_counts
-- Statistics, oldest first. A day that no calendar here has is null, and stands as it was written beside it.
SELECT CASE WHEN s.day BETWEEN '0001-01-01' AND '9999-12-31' THEN s.day END AS day, s.day::text AS written, s.tenant_id, s.creator, s.model_name, coalesce(s.request_count, 0) AS request_count, CASE WHEN s.created_at BETWEEN '1799-01-01' AND '2201-01-01' THEN s.created_at::timestamptz END AS created_at, CASE WHEN s.updated_at BETWEEN '1799-01-01' AND '2201-01-01' THEN s.updated_at::timestamptz END AS updated_at
FROM asynch_model_stat s ORDER BY s.day, s.tenant_id, s.creator, s.model_name
