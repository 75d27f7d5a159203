-- name: create_key
-- A new API key of a tenant; only its digest is stored.
WITH tn AS (INSERT INTO tenant (id) VALUES (:tenant_id) ON CONFLICT DO NOTHING)
INSERT INTO api_key (tenant_id, name, digest, scopes) VALUES (:tenant_id, :name, :digest, CAST(:scopes AS text[])) RETURNING id

-- name: find_key
-- Whose key this is, by its digest; none when unknown or revoked.
SELECT id, tenant_id, name, scopes FROM api_key WHERE digest = $1 AND revoked_at IS NULL

-- name: list_keys
-- A tenant's keys, without any secret.
SELECT id, tenant_id, name, scopes, created_at, revoked_at FROM api_key WHERE tenant_id = :tenant_id ORDER BY id

-- name: revoke_key
-- Make a key useless at once.
UPDATE api_key SET revoked_at = now() WHERE id = :id AND revoked_at IS NULL RETURNING id
