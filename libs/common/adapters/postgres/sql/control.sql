-- name: pause_all
-- No turn takes anything from now on; no row if that was so already. $1 by, $2 reason.
WITH p AS (
  INSERT INTO pause (scope, paused_by, reason) VALUES ('all', $1, $2) ON CONFLICT DO NOTHING RETURNING id
)
INSERT INTO operator_action (done_by, action, subject, reason) SELECT $1, 'pause', 'all dispatching', $2 FROM p RETURNING id

-- name: resume_all
-- Turns take rows again. $1 by, $2 reason.
WITH p AS (
  UPDATE pause SET ended = now() WHERE scope = 'all' AND ended IS NULL RETURNING id
)
INSERT INTO operator_action (done_by, action, subject, reason) SELECT $1, 'resume', 'all dispatching', $2 FROM p RETURNING id

-- name: pause_tenant
-- No turn takes a row of this tenant. $1 tenant, $2 by, $3 reason.
WITH f AS (
  UPDATE tenant SET paused = true WHERE id = $1 AND NOT paused RETURNING id
), p AS (
  INSERT INTO pause (scope, tenant_id, paused_by, reason) SELECT 'tenant', id, $2, $3 FROM f ON CONFLICT DO NOTHING
)
INSERT INTO operator_action (done_by, action, tenant_id, subject, reason) SELECT $2, 'pause', id, 'tenant ' || id, $3 FROM f RETURNING id

-- name: resume_tenant
-- Its rows go on. $1 tenant, $2 by, $3 reason.
WITH f AS (
  UPDATE tenant SET paused = false WHERE id = $1 AND paused RETURNING id
), p AS (
  UPDATE pause SET ended = now() WHERE scope = 'tenant' AND tenant_id = $1 AND ended IS NULL
)
INSERT INTO operator_action (done_by, action, tenant_id, subject, reason) SELECT $2, 'resume', id, 'tenant ' || id, $3 FROM f RETURNING id

-- name: pause_model
-- No turn takes a row of this tenant's model. $1 lane, $2 by, $3 reason.
WITH f AS (
  UPDATE lane SET paused = true WHERE id = $1 AND NOT paused AND NOT closed RETURNING id, tenant_id, model_id
), p AS (
  INSERT INTO pause (scope, tenant_id, lane, paused_by, reason) SELECT 'model', tenant_id, id, $2, $3 FROM f ON CONFLICT DO NOTHING
)
INSERT INTO operator_action (done_by, action, tenant_id, subject, reason)
SELECT $2, 'pause', f.tenant_id, 'model ' || m.name, $3 FROM f JOIN model m ON m.id = f.model_id RETURNING id

-- name: resume_model
-- Its rows go on. $1 lane, $2 by, $3 reason.
WITH f AS (
  UPDATE lane SET paused = false WHERE id = $1 AND paused RETURNING id, tenant_id, model_id
), p AS (
  UPDATE pause SET ended = now() WHERE scope = 'model' AND lane = $1 AND ended IS NULL
)
INSERT INTO operator_action (done_by, action, tenant_id, subject, reason)
SELECT $2, 'resume', f.tenant_id, 'model ' || m.name, $3 FROM f JOIN model m ON m.id = f.model_id RETURNING id

-- name: tenant_exists
-- Whether there is such a tenant.
SELECT 1 FROM tenant WHERE id = $1

-- name: drain_executors
-- Ask the executors of a name that have not stopped to finish and leave ($2 true), or to stay after all; $3 by, $4 reason.
-- Says of each whether that was news.
WITH named AS MATERIALIZED (
  SELECT id, draining FROM executor WHERE name = $1 AND stopped_at IS NULL FOR UPDATE
), told AS (
  UPDATE executor e SET draining = $2 FROM named n WHERE e.id = n.id AND n.draining <> $2 RETURNING e.id
), written AS (
  INSERT INTO operator_action (done_by, action, subject, reason)
  SELECT $3, CASE WHEN $2 THEN 'drain' ELSE 'undrain' END, 'executor ' || $1, $4 FROM told LIMIT 1
)
SELECT n.id, n.draining <> $2 AS news FROM named n

-- name: hold_webhook
-- Let the deliveries of a webhook wait ($2 true), or go on. $1 id, $3 by, $4 reason. Says whether that was news; no row
-- if there is no such webhook.
WITH named AS MATERIALIZED (
  SELECT id, tenant_id, paused FROM webhook WHERE id = $1 AND deleted_at IS NULL FOR UPDATE
), told AS (
  UPDATE webhook w SET paused = $2, updated_at = now() FROM named n WHERE w.id = n.id AND n.paused <> $2
  RETURNING w.id, w.tenant_id
), written AS (
  INSERT INTO operator_action (done_by, action, tenant_id, subject, reason)
  SELECT $3, CASE WHEN $2 THEN 'pause' ELSE 'resume' END, tenant_id, 'webhook ' || id, $4 FROM told
)
SELECT paused <> $2 AS news FROM named

-- name: operator_actions
-- What operators did, newest first, from before $1; $2 rows.
SELECT * FROM operator_action WHERE id < $1 ORDER BY id DESC LIMIT $2
