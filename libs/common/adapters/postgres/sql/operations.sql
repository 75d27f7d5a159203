-- name: add_operations_once
-- Entries of the operation log that are late or perhaps written already: tasks that have their entry are left out.
-- $1 tenant_id of each, $2 seconds since each happened, and the columns of adapters/postgres/operations.py in order.
INSERT INTO op_log (tenant_id, created_at, creator, ip, user_agent, api_path, http_method, biz_name, model_name, task_id,
                    success, replayed, error_msg, cost_ms, request_payload, response_payload)
SELECT o.tenant_id, now() - make_interval(secs => o.age), o.creator, o.ip, o.user_agent, o.api_path, o.http_method, o.biz_name,
  o.model_name, o.task_id, o.success, o.replayed, o.error, o.cost_ms, o.request, o.response
FROM unnest($1::bigint[], $2::float8[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
            $10::uuid[], $11::boolean[], $12::boolean[], $13::text[], $14::bigint[], $15::text[], $16::text[])
  AS o(tenant_id, age, creator, ip, user_agent, api_path, http_method, biz_name, model_name, task_id, success, replayed, error,
       cost_ms, request, response)
ON CONFLICT DO NOTHING

-- name: list_operations
-- Newest first, from before `before`: up to `examine` entries are looked at, `limit` returned.
SELECT o.* FROM (SELECT * FROM op_log WHERE tenant_id = :tenant_id AND id < :before ORDER BY id DESC LIMIT :examine) o
WHERE CAST(:biz_name AS text) IS NULL OR o.biz_name = :biz_name
ORDER BY o.id DESC LIMIT :limit

-- name: operations_examined_until
-- How far a page of list_operations looked: null when it saw the end.
SELECT id FROM op_log WHERE tenant_id = :tenant_id AND id < :before ORDER BY id DESC OFFSET :examine - 1 LIMIT 1

-- name: list_operations_of_task
-- The same for one task, which has few.
SELECT o.* FROM op_log o
WHERE o.tenant_id = :tenant_id AND o.task_id = :task_id AND o.id < :before
  AND (CAST(:biz_name AS text) IS NULL OR o.biz_name = :biz_name)
ORDER BY o.id DESC LIMIT :limit
