-- Sealed values, read and replaced in the order of ids. A replacement compares the bytes that were read.

-- name: sealed_bindings
-- Bindings of models, deleted ones too, past $1; $2 at most.
SELECT id, 'tenant:' || tenant_id AS owner, bindings AS sealed FROM model WHERE id > $1 AND bindings IS NOT NULL ORDER BY id LIMIT $2

-- name: newest_bindings
-- Bindings of the $1 newest models that are in use.
SELECT id, 'tenant:' || tenant_id AS owner, bindings AS sealed FROM model
WHERE bindings IS NOT NULL AND deleted_at IS NULL ORDER BY id DESC LIMIT $1

-- name: reseal_bindings
-- A new version: a change of the model that was made from the old bytes must not bring them back.
UPDATE model m SET bindings = x.fresh, version = m.version + 1, updated_at = clock_timestamp()
FROM unnest($1::bigint[], $2::bytea[], $3::bytea[]) AS x(id, old, fresh) WHERE m.id = x.id AND m.bindings = x.old
RETURNING m.id

-- name: sealed_credentials
-- Callers' credentials of tasks past $1; $2 at most.
SELECT s.task_id AS id, 'task:' || t.public_id AS owner, s.sealed FROM task_secret s JOIN task t ON t.id = s.task_id
WHERE s.task_id > $1 ORDER BY s.task_id LIMIT $2

-- name: newest_credentials
-- Callers' credentials of the $1 newest tasks that have any.
SELECT s.task_id AS id, 'task:' || t.public_id AS owner, s.sealed FROM task_secret s JOIN task t ON t.id = s.task_id
ORDER BY s.task_id DESC LIMIT $1

-- name: reseal_credentials
-- Those that a task's end has deleted meanwhile are not brought back.
UPDATE task_secret s SET sealed = x.fresh FROM unnest($1::bigint[], $2::bytea[], $3::bytea[]) AS x(id, old, fresh)
WHERE s.task_id = ANY (ARRAY[x.id]) AND s.sealed = x.old
RETURNING s.task_id AS id

-- name: sealed_webhooks
-- Secrets of webhooks, removed ones too, past $1; $2 at most.
SELECT id, 'webhook:' || tenant_id AS owner, secrets AS sealed FROM webhook WHERE id > $1 ORDER BY id LIMIT $2

-- name: newest_webhooks
-- Secrets of the $1 newest webhooks that are in use.
SELECT id, 'webhook:' || tenant_id AS owner, secrets AS sealed FROM webhook WHERE deleted_at IS NULL ORDER BY id DESC LIMIT $1

-- name: reseal_webhooks
-- A change that was made from the old bytes compares them, and loses.
UPDATE webhook w SET secrets = x.fresh FROM unnest($1::bigint[], $2::bytea[], $3::bytea[]) AS x(id, old, fresh)
WHERE w.id = x.id AND w.secrets = x.old
RETURNING w.id
