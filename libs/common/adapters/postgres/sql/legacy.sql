-- name: legacy_models
-- A page of a tenant's models whose name contains a text, newest first. Always says how many there are: beyond the last
-- page, in a row without a model.
WITH f AS MATERIALIZED (
  SELECT id FROM model WHERE tenant_id = :tenant_id AND deleted_at IS NULL AND strpos(name, :name_part) > 0
), p AS (SELECT id FROM f ORDER BY id DESC OFFSET :offset LIMIT :limit)
SELECT c.total, m.*, l.id AS lane FROM (SELECT count(*) AS total FROM f) c
LEFT JOIN (p JOIN model m ON m.id = p.id JOIN lane l ON l.model_id = m.id) ON true ORDER BY m.id DESC

-- name: legacy_task
-- A tenant's task by public id, with its payload. One whose attempt failed says when that ran, also while it
-- waits for its retry, or if it ended so.
SELECT f.*, m.name AS model_name, i.payload, e.started_at AS failed_from, e.ended_at AS failed_at
FROM task_face f JOIN model m ON m.id = f.model_id
LEFT JOIN task_input i ON i.task_id = f.id
LEFT JOIN attempt e ON (f.dispatch_state = 3 OR NOT f.open AND f.started_at IS NULL) AND e.task_id = f.id AND e.attempt = f.attempt
WHERE f.tenant_id = :tenant_id AND f.public_id = :public_id

-- name: legacy_tasks
-- A page of a tenant's tasks, newest first, with payloads up to a total size. Always says how many there are: beyond the
-- last page, in a row without a task.
WITH f AS MATERIALIZED (
  SELECT t.id FROM task_face t JOIN model m ON m.id = t.model_id
  WHERE t.tenant_id = :tenant_id AND strpos(m.name, :model_name) > 0 AND strpos(CAST(t.public_id AS text), :task_id) > 0
    AND (CAST(:statuses AS int[]) IS NULL OR t.status = ANY (CAST(:statuses AS int[])))
    AND (CAST(:fetched AS boolean) IS NULL OR (t.fetched_at IS NOT NULL) = CAST(:fetched AS boolean))
), p AS (SELECT id FROM f ORDER BY id DESC OFFSET :offset LIMIT :limit)
SELECT c.total, t.*, m.name AS model_name,
  CASE WHEN sum(length(i.payload)) OVER (ORDER BY t.id DESC) <= :payload_bytes THEN i.payload END AS payload,
  e.started_at AS failed_from, e.ended_at AS failed_at
FROM (SELECT count(*) AS total FROM f) c
LEFT JOIN (p JOIN task_face t ON t.id = p.id JOIN model m ON m.id = t.model_id LEFT JOIN task_input i ON i.task_id = t.id
           LEFT JOIN attempt e ON (t.dispatch_state = 3 OR NOT t.open AND t.started_at IS NULL) AND e.task_id = t.id
             AND e.attempt = t.attempt) ON true
ORDER BY t.id DESC

-- name: legacy_statistics
-- A page of daily counts, what is not folded yet included, of one tenant or of all; calls that were all taken back are no
-- count. Always says how many there are: beyond the last page, in a row without a count.
WITH s AS (
  SELECT day, tenant_id, creator, model_name, request_count, created_at, updated_at FROM model_stat
  UNION ALL
  SELECT d.day, d.tenant_id, d.creator, m.name, d.calls, now(), now() FROM stat_delta d JOIN model m ON m.id = d.model_id
), g AS MATERIALIZED (
  SELECT day, tenant_id, creator, model_name, CAST(sum(request_count) AS bigint) AS request_count,
    min(created_at) AS created_at, max(updated_at) AS updated_at
  FROM s
  WHERE (CAST(:tenant_id AS bigint) IS NULL OR tenant_id = :tenant_id)
    AND (CAST(:start_day AS date) IS NULL OR day >= :start_day) AND (CAST(:end_day AS date) IS NULL OR day <= :end_day)
    AND strpos(creator, :creator) > 0 AND strpos(model_name, :model_name) > 0
  GROUP BY day, tenant_id, creator, model_name HAVING sum(request_count) > 0
), p AS (
  SELECT * FROM g ORDER BY day DESC, request_count DESC, tenant_id, creator, model_name OFFSET :offset LIMIT :limit
)
SELECT c.total, p.* FROM (SELECT count(*) AS total FROM g) c LEFT JOIN p ON true
ORDER BY p.day DESC, p.request_count DESC, p.tenant_id, p.creator, p.model_name
