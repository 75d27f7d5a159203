-- name: create_key
-- A new API key of a tenant, and who made it; only its digest is stored.
WITH tn AS (
  INSERT INTO tenant (id) VALUES (:tenant_id) ON CONFLICT DO NOTHING
), k AS (
  INSERT INTO api_key (tenant_id, name, digest, scopes) VALUES (:tenant_id, :name, :digest, CAST(:scopes AS text[]))
  RETURNING id, tenant_id, name, scopes
), written AS (
  INSERT INTO operator_action (done_by, action, tenant_id, subject)
  SELECT :by, 'create_key', tenant_id, concat('key ', id, ' of ' || nullif(name, ''), ': ', array_to_string(scopes, ', ')) FROM k
)
SELECT id FROM k

-- name: find_key
-- Whose key this is, by its digest; none when unknown or revoked.
SELECT id, tenant_id, name, scopes FROM api_key WHERE digest = $1 AND revoked_at IS NULL

-- name: list_keys
-- A tenant's keys, without any secret.
SELECT id, tenant_id, name, scopes, created_at, revoked_at FROM api_key WHERE tenant_id = :tenant_id ORDER BY id

-- name: revoke_key
-- Make a key useless at once, and record who did.
WITH k AS (
  UPDATE api_key SET revoked_at = now() WHERE id = :id AND revoked_at IS NULL RETURNING id, tenant_id, name
), written AS (
  INSERT INTO operator_action (done_by, action, tenant_id, subject)
  SELECT :by, 'revoke_key', tenant_id, concat('key ', id, ' of ' || nullif(name, '')) FROM k
)
SELECT id FROM k

-- name: open_session
-- Remember that the owner of a valid key is signed in to the console; sessions that are over are forgotten on the way,
-- a hundred at a time. Returns whose it is, nothing for a key that is unknown or revoked.
WITH k AS (
  SELECT id, tenant_id, name, scopes FROM api_key WHERE digest = $1 AND revoked_at IS NULL
), over AS (
  DELETE FROM console_session WHERE digest = ANY (ARRAY(
    SELECT digest FROM console_session WHERE expires_at <= now() ORDER BY expires_at LIMIT 100 FOR UPDATE SKIP LOCKED))
), s AS (
  INSERT INTO console_session (digest, key_id, expires_at)
  SELECT $2, k.id, now() + make_interval(secs => $3) FROM k WHERE k.scopes && $4::text[]
)
SELECT id, tenant_id, name, scopes FROM k

-- name: find_session
-- Who is signed in: the key behind a session that is not over, unless the key was revoked meanwhile.
SELECT k.id, k.tenant_id, k.name, k.scopes FROM console_session s JOIN api_key k ON k.id = s.key_id
WHERE s.digest = $1 AND s.expires_at > now() AND k.revoked_at IS NULL

-- name: close_session
-- Sign out: the cookie opens nothing any more. (Of one session, whatever tenant_id its key has.)
DELETE FROM console_session WHERE digest = $1
