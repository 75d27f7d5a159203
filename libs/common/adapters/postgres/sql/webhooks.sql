-- name: count_webhooks_alone
-- Until the transaction ends nobody else makes a webhook of this tenant: each counts those that were made before.
SELECT pg_advisory_xact_lock(7003, hashint8(CAST(:tenant_id AS bigint)))

-- name: create_webhook
-- A new webhook of a tenant that has fewer than `most`; a second one of the kind tasks violates its index.
INSERT INTO webhook (tenant_id, kind, url, events, secrets, description)
SELECT :tenant_id, :kind, :url, :events, :secrets, :description
WHERE (SELECT count(*) FROM webhook WHERE tenant_id = :tenant_id AND deleted_at IS NULL) < :most
RETURNING *, NULL AS held_since, NULL AS held_by, NULL AS held_reason

-- name: find_webhook
-- A webhook of its tenant, and what is said of an operator's hold.
SELECT w.*, p.began AS held_since, p.paused_by AS held_by, p.reason AS held_reason
FROM webhook w LEFT JOIN pause p ON p.scope = 'webhook' AND p.tenant_id = w.tenant_id AND p.webhook_id = w.id AND p.ended IS NULL
WHERE w.tenant_id = :tenant_id AND w.id = :id AND w.deleted_at IS NULL

-- name: webhook_counts
-- What waits for each webhook of a tenant, and what was given up of it: counted up to :most for each, and among the newest
-- :most that the tenant has of the dead.
WITH dead AS MATERIALIZED (
  SELECT d.webhook_id FROM delivery d WHERE d.tenant_id = :tenant_id AND d.dead_at IS NOT NULL AND d.dropped_at IS NULL
  ORDER BY d.dead_at DESC, d.id DESC LIMIT :most
)
SELECT w.id, (SELECT count(*)::int FROM dead) AS looked, (SELECT count(*)::int FROM dead d WHERE d.webhook_id = w.id) AS dead,
  (SELECT count(*)::int FROM (SELECT 1 FROM delivery d WHERE d.webhook_id = w.id AND d.status = 'pending' LIMIT :most) p) AS pending
FROM webhook w WHERE w.tenant_id = :tenant_id AND w.deleted_at IS NULL

-- name: update_webhook
-- Change what is given (null: nothing), so that no change of somebody else is written back. New secrets are written over
-- those alone that they were made from. At another address, after a pause, and switched on again, its failures are
-- forgotten: time in which nothing was sent there is no time of failures. An operator's hold is not the tenant's to lift.
WITH w AS (
  UPDATE webhook SET url = coalesce(CAST(:url AS text), url), events = coalesce(CAST(:events AS smallint), events),
    secrets = coalesce(CAST(:secrets AS bytea), secrets), description = coalesce(CAST(:description AS text), description),
    paused = coalesce(CAST(:paused AS boolean), paused), updated_at = now(),
    failing_since = CASE WHEN CAST(:url AS text) <> url OR paused AND NOT CAST(:paused AS boolean)
                           OR disabled_at IS NOT NULL AND CAST(:enabled AS boolean) THEN NULL ELSE failing_since END,
    disabled_at = CASE WHEN CAST(:enabled AS boolean) THEN NULL WHEN NOT CAST(:enabled AS boolean) THEN coalesce(disabled_at, now())
                       ELSE disabled_at END,
    disabled_reason = CASE WHEN CAST(:enabled AS boolean) THEN NULL
                           WHEN NOT CAST(:enabled AS boolean) THEN coalesce(disabled_reason, 'switched off by its owner')
                           ELSE disabled_reason END
  WHERE tenant_id = :tenant_id AND id = :id AND deleted_at IS NULL AND (CAST(:secrets AS bytea) IS NULL OR secrets = :was)
  RETURNING *
)
SELECT w.*, p.began AS held_since, p.paused_by AS held_by, p.reason AS held_reason
FROM w LEFT JOIN pause p ON p.scope = 'webhook' AND p.tenant_id = w.tenant_id AND p.webhook_id = w.id AND p.ended IS NULL

-- name: delete_webhook
-- Remove one: its deliveries are given up, and it is forgotten with the last of them. $1 tenant_id, $2 id.
UPDATE webhook SET deleted_at = now() WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL RETURNING id

-- name: end_webhook_pause
-- The hold of a webhook that is removed by this transaction is over: nobody could find it to resume it. A statement of its
-- own: one that waits for the webhook's row sees no pause that was made meanwhile. $1 tenant_id, $2 id.
UPDATE pause SET ended = now() WHERE scope = 'webhook' AND tenant_id = $1 AND webhook_id = $2 AND ended IS NULL

-- name: signs_tasks
-- Those of the tenants $1 that have what signs for the addresses of their tasks, switched on: else nobody would be told.
SELECT tenant_id FROM webhook WHERE tenant_id = ANY ($1::bigint[]) AND kind = 'tasks' AND deleted_at IS NULL AND disabled_at IS NULL

-- name: list_deliveries
-- A page of the deliveries of a tenant's webhook, newest first, each with its attempts.
SELECT d.id, d.task_id, d.message_id, d.type, d.url, d.status, d.attempts, d.next_at, d.last_code, d.last_error, d.created_at, d.ended_at, coalesce((
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
RETURNING d.id, d.task_id, d.message_id, d.type, d.url, d.status, d.attempts, d.next_at, d.last_code, d.last_error, d.created_at, d.ended_at, coalesce((
  SELECT json_agg(json_build_object('attempt', y.attempt, 'at', y.at, 'code', y.code, 'error', y.error, 'cost_ms', y.cost_ms, 'answer', y.answer)
                  ORDER BY y.attempt)
  FROM delivery_try y WHERE y.delivery_id = d.id), '[]') AS tries
