-- name: create_webhook
-- A new webhook of a tenant that has fewer than `most`; a second one of the kind tasks violates its index.
INSERT INTO webhook (tenant_id, kind, url, events, secrets, description)
SELECT :tenant_id, :kind, :url, :events, :secrets, :description
WHERE (SELECT count(*) FROM webhook WHERE tenant_id = :tenant_id AND deleted_at IS NULL) < :most
RETURNING *

-- name: find_webhook
-- A webhook of its tenant.
SELECT * FROM webhook WHERE tenant_id = :tenant_id AND id = :id AND deleted_at IS NULL

-- name: list_webhooks
-- The webhooks of a tenant, oldest first.
SELECT * FROM webhook WHERE tenant_id = :tenant_id AND deleted_at IS NULL ORDER BY id

-- name: update_webhook
-- Change one whose secrets are still as they were read. Switching it on again forgets its failures.
UPDATE webhook SET url = :url, events = :events, secrets = :secrets, description = :description, paused = :paused, updated_at = now(),
  failing_since = CASE WHEN :enabled THEN CASE WHEN disabled_at IS NULL THEN failing_since END ELSE failing_since END,
  disabled_at = CASE WHEN :enabled THEN NULL ELSE coalesce(disabled_at, now()) END,
  disabled_reason = CASE WHEN :enabled THEN NULL ELSE coalesce(disabled_reason, 'switched off by its owner') END
WHERE tenant_id = :tenant_id AND id = :id AND deleted_at IS NULL AND secrets = :was
RETURNING *

-- name: delete_webhook
-- Remove one: its deliveries are given up, and it is forgotten with the last of them.
UPDATE webhook SET deleted_at = now() WHERE tenant_id = :tenant_id AND id = :id AND deleted_at IS NULL RETURNING id

-- name: signs_tasks
-- Whether a tenant has what signs for the addresses of its tasks.
SELECT id FROM webhook WHERE tenant_id = :tenant_id AND kind = 'tasks' AND deleted_at IS NULL

-- name: list_deliveries
-- A page of the deliveries of a tenant's webhook, newest first, each with its attempts.
SELECT d.*, coalesce((
  SELECT json_agg(json_build_object('attempt', y.attempt, 'at', y.at, 'code', y.code, 'error', y.error, 'cost_ms', y.cost_ms, 'answer', y.answer)
                  ORDER BY y.attempt)
  FROM delivery_try y WHERE y.delivery_id = d.id), '[]') AS tries
FROM webhook w JOIN delivery d ON d.webhook_id = w.id
WHERE w.tenant_id = :tenant_id AND w.id = :webhook_id AND w.deleted_at IS NULL AND d.id < :before
ORDER BY d.id DESC LIMIT :limit

-- name: redeliver
-- A delivery of a tenant's webhook is due now, and has the whole schedule before it.
UPDATE delivery d SET status = 'pending', next_at = now(), round = d.attempts, ended_at = NULL, dead_at = NULL, dropped_at = NULL
FROM webhook w WHERE w.tenant_id = :tenant_id AND w.id = :webhook_id AND w.deleted_at IS NULL
  AND d.webhook_id = w.id AND d.id = :delivery_id
RETURNING d.*, '[]'::json AS tries
