-- name: pause_all
-- No turn takes anything from now on; says whether that was news. $1 by, $2 reason.
WITH p AS (
  INSERT INTO pause (scope, paused_by, reason) VALUES ('all', $1, $2) ON CONFLICT DO NOTHING RETURNING id
), written AS (
  INSERT INTO operator_action (done_by, action, subject, reason) SELECT $1, 'pause', 'all dispatching', $2 FROM p
)
SELECT EXISTS (SELECT FROM p) AS news

-- name: resume_all
-- Turns take rows again. $1 by, $2 reason.
WITH p AS (
  UPDATE pause SET ended = now() WHERE scope = 'all' AND ended IS NULL RETURNING id
), written AS (
  INSERT INTO operator_action (done_by, action, subject, reason) SELECT $1, 'resume', 'all dispatching', $2 FROM p
)
SELECT EXISTS (SELECT FROM p) AS news

-- name: pause_tenant
-- No turn takes a row of this tenant; no row if there is no such tenant, here and below. $1 tenant, $2 by, $3 reason.
WITH f AS (
  UPDATE tenant SET paused = true WHERE id = $1 AND NOT paused RETURNING id
), p AS (
  INSERT INTO pause (scope, tenant_id, paused_by, reason) SELECT 'tenant', id, $2, $3 FROM f ON CONFLICT DO NOTHING
), written AS (
  INSERT INTO operator_action (done_by, action, tenant_id, subject, reason) SELECT $2, 'pause', id, 'tenant ' || id, $3 FROM f
)
SELECT EXISTS (SELECT FROM f) AS news FROM tenant WHERE id = $1

-- name: resume_tenant
-- Its rows go on. $1 tenant, $2 by, $3 reason.
WITH f AS (
  UPDATE tenant SET paused = false WHERE id = $1 AND paused RETURNING id
), p AS (
  UPDATE pause SET ended = now() WHERE scope = 'tenant' AND tenant_id = $1 AND ended IS NULL
), written AS (
  INSERT INTO operator_action (done_by, action, tenant_id, subject, reason) SELECT $2, 'resume', id, 'tenant ' || id, $3 FROM f
)
SELECT EXISTS (SELECT FROM f) AS news FROM tenant WHERE id = $1

-- name: pause_model
-- No turn takes a row of this tenant's model. $1 lane, $2 by, $3 reason.
WITH f AS (
  UPDATE lane SET paused = true WHERE id = $1 AND NOT paused AND NOT closed RETURNING id, tenant_id, model_id
), p AS (
  INSERT INTO pause (scope, tenant_id, lane, paused_by, reason) SELECT 'model', tenant_id, id, $2, $3 FROM f ON CONFLICT DO NOTHING
), written AS (
  INSERT INTO operator_action (done_by, action, tenant_id, subject, reason)
  SELECT $2, 'pause', f.tenant_id, 'model ' || m.name, $3 FROM f JOIN model m ON m.id = f.model_id
)
SELECT EXISTS (SELECT FROM f) AS news FROM lane WHERE id = $1

-- name: resume_model
-- Its rows go on. $1 lane, $2 by, $3 reason.
WITH f AS (
  UPDATE lane SET paused = false WHERE id = $1 AND paused RETURNING id, tenant_id, model_id
), p AS (
  UPDATE pause SET ended = now() WHERE scope = 'model' AND lane = $1 AND ended IS NULL
), written AS (
  INSERT INTO operator_action (done_by, action, tenant_id, subject, reason)
  SELECT $2, 'resume', f.tenant_id, 'model ' || m.name, $3 FROM f JOIN model m ON m.id = f.model_id
)
SELECT EXISTS (SELECT FROM f) AS news FROM lane WHERE id = $1

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

-- name: pause_webhook
-- Nothing more is sent to a webhook, whatever its tenant's own flag says. The lock lets who removes the
-- webhook meanwhile see this pause, and end it. $1 id, $2 by, $3 reason.
WITH w AS MATERIALIZED (
  SELECT id, tenant_id FROM webhook WHERE id = $1 AND deleted_at IS NULL FOR UPDATE
), p AS (
  INSERT INTO pause (scope, tenant_id, webhook_id, paused_by, reason) SELECT 'webhook', tenant_id, id, $2, $3 FROM w
  ON CONFLICT DO NOTHING RETURNING tenant_id, webhook_id
), written AS (
  INSERT INTO operator_action (done_by, action, tenant_id, subject, reason)
  SELECT $2, 'pause', tenant_id, 'webhook ' || webhook_id, $3 FROM p
)
SELECT EXISTS (SELECT FROM p) AS news FROM w

-- name: resume_webhook
-- Its deliveries go on, unless its tenant holds them, too. Its failures are forgotten: time in which nothing was sent is no
-- time of failures. The webhook's row is locked first, as by who removes it. $1 id, $2 by, $3 reason.
WITH w AS MATERIALIZED (
  SELECT id FROM webhook WHERE id = $1 AND deleted_at IS NULL FOR UPDATE
), p AS (
  UPDATE pause x SET ended = now() FROM w WHERE x.scope = 'webhook' AND x.webhook_id = w.id AND x.ended IS NULL
  RETURNING x.tenant_id, x.webhook_id
), forgiven AS (
  UPDATE webhook SET failing_since = NULL FROM p WHERE webhook.id = p.webhook_id AND webhook.failing_since IS NOT NULL
), written AS (
  INSERT INTO operator_action (done_by, action, tenant_id, subject, reason)
  SELECT $2, 'resume', tenant_id, 'webhook ' || webhook_id, $3 FROM p
)
SELECT EXISTS (SELECT FROM p) AS news FROM w

-- name: operator_actions
-- What operators did, newest first, from before $1; $2 rows.
SELECT * FROM operator_action WHERE id < $1 ORDER BY id DESC LIMIT $2
