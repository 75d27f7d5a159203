-- name: reserve_points
-- Points for priced tasks, in the transaction that writes them: see the function. $1 tenant_ids, $2 users, $3 points, $4 zone.
SELECT * FROM quota_reserve($1::bigint[], $2::text[], $3::int[], $4)

-- name: locked_accounts
-- Which of these accounts of today somebody's transaction keeps locked: it waits for nobody. $1 tenant_ids, $2 users, $3 zone.
WITH m AS MATERIALIZED (
  SELECT x.tenant_id, x.user_name, (now() AT TIME ZONE $3)::date AS day FROM unnest($1::bigint[], $2::text[]) AS x(tenant_id, user_name)
), free AS MATERIALIZED (
  SELECT m.tenant_id, m.user_name FROM m CROSS JOIN LATERAL (
    SELECT FROM quota_usage u WHERE u.tenant_id = m.tenant_id AND u.user_name = m.user_name AND u.day = m.day
    FOR NO KEY UPDATE SKIP LOCKED) x
)
SELECT m.tenant_id, m.user_name FROM m CROSS JOIN LATERAL (
  SELECT FROM quota_usage u WHERE u.tenant_id = m.tenant_id AND u.user_name = m.user_name AND u.day = m.day OFFSET 0) x
EXCEPT SELECT tenant_id, user_name FROM free

-- name: give_back_points
-- Points that were reserved in this transaction for tasks that are not written after all: tenant_id, user, day, points.
UPDATE quota_usage u SET used = greatest(u.used - b.points, 0)
FROM (SELECT x.tenant_id, x.user_name, x.day, sum(x.points) AS points
      FROM unnest($1::bigint[], $2::text[], $3::date[], $4::int[]) AS x(tenant_id, user_name, day, points)
      GROUP BY 1, 2, 3 ORDER BY 1, 2, 3) b
WHERE u.tenant_id = ANY (ARRAY[b.tenant_id]) AND u.user_name = b.user_name AND u.day = ANY (ARRAY[b.day])

-- name: read_quota
-- A user's account of today and the limit that holds for it: `own` says whether it is the user's own or the tenant's.
SELECT d.day, coalesce(u.used, 0) AS used, l.points_per_day, coalesce(l.user_name <> '', false) AS own
FROM (SELECT (now() AT TIME ZONE :zone)::date AS day) d
LEFT JOIN quota_usage u ON u.tenant_id = :tenant_id AND u.user_name = :user_name AND u.day = d.day
LEFT JOIN LATERAL (
  SELECT x.user_name, x.points_per_day FROM quota_limit x
  WHERE x.tenant_id = :tenant_id AND x.user_name IN (:user_name, '') ORDER BY x.user_name DESC LIMIT 1) l ON true

-- name: list_quota_limits
-- A tenant's limits in the order of the users' names, from after `after`, with what each has used today; the first is
-- everybody's, under the name ''.
SELECT l.user_name, l.points_per_day, l.updated_at, coalesce(u.used, 0) AS used FROM quota_limit l
LEFT JOIN quota_usage u ON u.tenant_id = l.tenant_id AND u.user_name = l.user_name AND u.day = (now() AT TIME ZONE :zone)::date
WHERE l.tenant_id = :tenant_id AND (CAST(:after AS text) IS NULL OR l.user_name > :after) ORDER BY l.user_name LIMIT :limit

-- name: set_quota_limit
-- The limit of a user, or with '' of all who have none of their own.
INSERT INTO quota_limit (tenant_id, user_name, points_per_day) VALUES (:tenant_id, :user_name, :points_per_day)
ON CONFLICT (tenant_id, user_name) DO UPDATE SET points_per_day = EXCLUDED.points_per_day, updated_at = now()
RETURNING user_name

-- name: clear_quota_limit
-- That limit holds no longer.
DELETE FROM quota_limit WHERE tenant_id = :tenant_id AND user_name = :user_name RETURNING user_name

-- name: find_tenant
-- How a tenant stands beside the others.
SELECT id AS tenant_id, weight, paused, created_at FROM tenant WHERE id = :tenant_id

-- name: list_tenants
-- Tenants in the order of their numbers, from after `after`, each with its models (counted up to 101) and the calls of
-- today, of its first two hundred pairs of user and model: who has more is told too little.
SELECT t.id AS tenant_id, t.weight, t.paused, t.created_at, m.models, s.calls
FROM (SELECT * FROM tenant WHERE CAST(:after AS bigint) IS NULL OR id > :after ORDER BY id LIMIT :limit) t
CROSS JOIN (SELECT (now() AT TIME ZONE :zone)::date AS day) d
CROSS JOIN LATERAL (
  SELECT count(*)::int AS models FROM (
    SELECT FROM model x WHERE x.tenant_id = t.id AND x.deleted_at IS NULL LIMIT 101) x) m
CROSS JOIN LATERAL (
  SELECT coalesce(sum(x.request_count), 0)::bigint AS calls FROM (
    SELECT y.request_count FROM model_stat y WHERE y.day = d.day AND y.tenant_id = t.id LIMIT 200) x) s
ORDER BY t.id

-- name: weigh_tenant
-- A tenant's weight in the rotation of tenants; dispatchers see it by its time of change.
INSERT INTO tenant (id, weight) VALUES (:tenant_id, :weight)
ON CONFLICT (id) DO UPDATE SET weight = EXCLUDED.weight, updated_at = clock_timestamp()
RETURNING id AS tenant_id, weight, paused, created_at
