-- name: states_by_id
-- Where these tasks are now, as their tenants see it; what is gone, or is another tenant's, is left out.
-- $1 tenants, $2 ids.
SELECT f.id, f.public_id, f.tenant_id, m.name AS model_name, f.status, f.version, f.attempt, f.open, f.unit_progress, f.job_message,
  f.error_code, f.error_message, f.created_at, f.entered_at, f.leased_at, f.started_at, f.generated_at, f.migrating_at,
  f.finished_at, f.job_told_at, now() AS read_at
FROM unnest($1::bigint[], $2::bigint[]) AS w(tenant_id, id) CROSS JOIN LATERAL (
  SELECT * FROM task_face f WHERE f.id = w.id AND f.tenant_id = w.tenant_id OFFSET 0) f
JOIN model m ON m.id = f.model_id

-- name: state_of_task
-- Where one task of tenant $1 is now; $2 its public id.
SELECT f.id, f.public_id, f.tenant_id, m.name AS model_name, f.status, f.version, f.attempt, f.open, f.unit_progress, f.job_message,
  f.error_code, f.error_message, f.created_at, f.entered_at, f.leased_at, f.started_at, f.generated_at, f.migrating_at,
  f.finished_at, f.job_told_at, now() AS read_at
FROM (SELECT id FROM task WHERE tenant_id = $1 AND public_id = $2) AS w
CROSS JOIN LATERAL (SELECT * FROM task_face f WHERE f.id = w.id OFFSET 0) f
JOIN model m ON m.id = f.model_id

-- name: newest_states
-- Where the newest tasks of tenant $1 are now, newest first: $3 of them from before id $2.
SELECT f.id, f.public_id, f.tenant_id, m.name AS model_name, f.status, f.version, f.attempt, f.open, f.unit_progress, f.job_message,
  f.error_code, f.error_message, f.created_at, f.entered_at, f.leased_at, f.started_at, f.generated_at, f.migrating_at,
  f.finished_at, f.job_told_at, now() AS read_at
FROM (SELECT id FROM task WHERE tenant_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3) AS p
CROSS JOIN LATERAL (SELECT * FROM task_face f WHERE f.id = p.id OFFSET 0) f
JOIN model m ON m.id = f.model_id
ORDER BY f.id DESC
