-- What is taken over from an old gateway's tables. $1 is always the name of the old database.

-- name: begin_legacy
-- A mark for each table.
INSERT INTO legacy_import (source, "table") SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING

-- name: raise_sequences
-- Our numbers go on above the old ones. $1 models, $2 tasks, $3 lines of the operation log. Never down.
SELECT
  CASE WHEN $1::bigint > (SELECT last_value FROM model_ids) THEN setval('model_ids', $1) END,
  CASE WHEN $2::bigint > (SELECT last_value FROM task_ids) THEN setval('task_ids', $2) END,
  CASE WHEN $3::bigint > coalesce(pg_sequence_last_value(pg_get_serial_sequence('op_log', 'id')::regclass), 0)
       THEN setval(pg_get_serial_sequence('op_log', 'id')::regclass, $3) END

-- name: legacy_mark
-- How far a table was copied.
SELECT last_id FROM legacy_import WHERE source = $1 AND "table" = $2

-- name: legacy_copied
-- How many rows of each table were copied. Counts have no mark that says it.
SELECT "table", copied FROM legacy_import WHERE source = $1
UNION ALL SELECT 'asynch_model_stat', count(*) FROM legacy_stat WHERE source = $1

-- name: hold_mark
-- Keep a table's mark from moving until the transaction ends. $2 table, $3 where it is thought to be; no row: it has moved.
SELECT last_id FROM legacy_import WHERE source = $1 AND "table" = $2 AND last_id = $3 FOR UPDATE

-- name: move_mark
-- $2 table, $3 where the mark goes, $4 rows copied.
UPDATE legacy_import SET last_id = $3, copied = copied + $4 WHERE source = $1 AND "table" = $2

-- name: add_notes
-- What is to be known about rows; the same note twice is kept once.
INSERT INTO legacy_note (source, "table", id, code, detail)
SELECT $1, * FROM unnest($2::text[], $3::bigint[], $4::text[], $5::text[]) ON CONFLICT DO NOTHING

-- name: legacy_notes
-- The first $2 of what was noted.
SELECT "table", id, code, detail FROM legacy_note WHERE source = $1 ORDER BY "table", id, code, detail LIMIT $2

-- name: legacy_note_counts
-- How much was noted.
SELECT code, count(*) AS rows FROM legacy_note WHERE source = $1 GROUP BY code

-- name: legacy_homes
-- The model of ours, and its lane, behind each old name.
SELECT k.tenant_id, k.name, m.id AS model_id, l.id AS lane, m.retry_times, m.retry_queue_max_seconds, m.auto_clean_seconds,
  slot_ttl_ms(m.expected_seconds) AS slot_ttl_ms
FROM legacy_model k JOIN model m ON m.id = k.model_id JOIN lane l ON l.model_id = m.id WHERE k.source = $1

-- name: import_models
-- A model, lane and tenant for each old name that has none: its old id where that is free, else a new one; the model of
-- ours where the name is in use. Changed now, so that running services notice. A stand-in is deleted from the start.
WITH x AS MATERIALIZED (
  SELECT u.* FROM unnest($2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bytea[], $9::boolean[], $10::int[],
    $11::int[], $12::int[], $13::int[], $14::int[], $15::int[], $16::int[], $17::text[], $18::int[], $19::int[], $20::text[], $21::text[],
    $22::timestamptz[], $23::boolean[])
    AS u(id, tenant_id, name, base_url, route, http_method, bindings, enabled, max_concurrency, queue_limit, timeout_seconds,
      expected_seconds, retry_times, retry_queue_max_seconds, auto_clean_seconds, remark, window_size, partitions, creator, updater,
      created_at, stand_in)
  WHERE NOT EXISTS (SELECT 1 FROM legacy_model k WHERE k.source = $1 AND k.tenant_id = u.tenant_id AND k.name = u.name)
), named AS MATERIALIZED (
  SELECT x.*, (SELECT m.id FROM model m WHERE m.tenant_id = x.tenant_id AND m.name = x.name AND m.deleted_at IS NULL) AS same,
    x.id NOT BETWEEN 1 AND 4611686018427387904 OR EXISTS (SELECT 1 FROM model m WHERE m.id = x.id) AS taken FROM x
), chosen AS MATERIALIZED (
  SELECT n.*, CASE WHEN n.same IS NOT NULL THEN n.same WHEN n.taken THEN nextval('model_ids') ELSE n.id END AS model_id FROM named n
), tn AS (
  INSERT INTO tenant (id) SELECT DISTINCT tenant_id FROM x ORDER BY 1 ON CONFLICT DO NOTHING
), m AS (
  INSERT INTO model (id, tenant_id, name, base_url, route, http_method, bindings, enabled, max_concurrency, queue_limit, timeout_seconds,
    expected_seconds, retry_times, retry_queue_max_seconds, auto_clean_seconds, remark, partitions, creator, updater, created_at, updated_at,
    deleted_at)
  SELECT model_id, tenant_id, name, base_url, route, http_method, bindings, enabled, max_concurrency, queue_limit, timeout_seconds,
    expected_seconds, retry_times, retry_queue_max_seconds, auto_clean_seconds, remark, partitions, creator, updater,
    coalesce(created_at, now()), clock_timestamp(), CASE WHEN stand_in THEN now() END
  FROM chosen WHERE same IS NULL
), l AS (
  INSERT INTO lane (model_id, tenant_id, window_size, closed)
  SELECT model_id, tenant_id, window_size, stand_in FROM chosen WHERE same IS NULL ORDER BY model_id
), k AS (
  INSERT INTO legacy_model (source, tenant_id, name, model_id) SELECT $1, tenant_id, name, model_id FROM chosen
)
SELECT id, model_id, same IS NOT NULL AS there FROM chosen

-- name: import_lines
-- Lines of the operation log under their old numbers; a number in use by another line is replaced by a new one. Says the
-- old numbers of those that were written: a line that the log has already is left out.
WITH x AS MATERIALIZED (
  SELECT u.*, CASE WHEN u.old_id BETWEEN 1 AND 4611686018427387904 AND NOT EXISTS (SELECT 1 FROM op_log o WHERE o.id = u.old_id) THEN u.old_id
                   ELSE nextval(pg_get_serial_sequence('op_log', 'id')::regclass) END AS id
  FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::timestamptz[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
    $10::text[], $11::uuid[], $12::text[], $13::boolean[], $14::text[], $15::bigint[], $16::text[], $17::text[])
    AS u(old_id, tenant_id, creator, created_at, ip, user_agent, api_path, http_method, biz_name, model_name, task_id, op_type, success,
      error_msg, cost_ms, request_payload, response_payload)
), written AS (
  INSERT INTO op_log (id, tenant_id, creator, created_at, ip, user_agent, api_path, http_method, biz_name, model_name, task_id, op_type,
    success, error_msg, cost_ms, request_payload, response_payload)
  OVERRIDING SYSTEM VALUE
  SELECT id, tenant_id, creator, coalesce(created_at, now()), ip, user_agent, api_path, http_method, biz_name, model_name, task_id, op_type,
    success, error_msg, cost_ms, request_payload, response_payload
  FROM x ORDER BY id
  ON CONFLICT DO NOTHING
  RETURNING id
)
SELECT x.old_id FROM written w JOIN x ON x.id = w.id

-- name: import_tasks
-- Tasks with payload, secret, dispatch row, last attempt, dead entry and the step that says where they come from. Those
-- whose public id is in use are left out. Their biz_name is in the operation log. Calls that the old gateway counted and
-- made are its own: `cleaned` balances them.
WITH x AS MATERIALIZED (
  SELECT u.*, CASE WHEN u.old_id BETWEEN 1 AND 4611686018427387904 AND NOT EXISTS (SELECT 1 FROM task t WHERE t.id = u.old_id) THEN u.old_id ELSE nextval('task_ids') END AS id
  FROM unnest($1::bigint[], $2::uuid[], $3::bigint[], $4::bigint[], $5::int[], $6::text[], $7::text[], $8::bytea[], $9::bytea[], $10::smallint[],
    $11::smallint[], $12::smallint[], $13::text[], $14::timestamptz[], $15::timestamptz[], $16::timestamptz[], $17::timestamptz[],
    $18::timestamptz[], $19::text[], $20::text[], $21::bigint[], $22::text[], $23::smallint[], $24::smallint[], $25::bigint[])
    WITH ORDINALITY AS u(old_id, public_id, tenant_id, model_id, lane, creator, input_ref, payload, sealed, status, attempt, retries, outcome,
      created_at, started_at, finished_at, fetched_at, expire_at, oss_file, file_type, file_size, error_message, state, class, position, place)
  WHERE NOT EXISTS (SELECT 1 FROM task t WHERE t.tenant_id = u.tenant_id AND t.public_id = u.public_id)
), t AS (
  INSERT INTO task (id, public_id, tenant_id, model_id, lane, creator, biz_name, input_ref, status, attempt, retries, created_at, started_at,
    finished_at, fetched_at, expire_at, oss_file, file_type, file_size, files, error_code, error_message)
  SELECT x.id, x.public_id, x.tenant_id, x.model_id, x.lane, x.creator,
    coalesce((SELECT o.biz_name FROM op_log o WHERE o.task_id = x.public_id AND o.tenant_id = x.tenant_id AND o.success ORDER BY o.id LIMIT 1), ''),
    x.input_ref, x.status, CASE WHEN x.state IS NULL THEN x.attempt ELSE 0 END, CASE WHEN x.state IS NULL THEN x.retries ELSE 0 END,
    x.created_at, CASE WHEN x.state IS NULL THEN x.started_at END, x.finished_at, x.fetched_at, x.expire_at, x.oss_file, x.file_type,
    x.file_size,
    CASE WHEN x.status = 6 THEN jsonb_build_array(jsonb_build_object('url', x.oss_file, 'type', x.file_type, 'size', x.file_size, 'sha256', '', 'name', '', 'index', 0)) END,
    CASE WHEN x.status = 7 THEN 'legacy_failed' END, CASE WHEN x.status = 7 THEN x.error_message END
  FROM x
), i AS (
  INSERT INTO task_input (task_id, payload) SELECT id, payload FROM x
), s AS (
  INSERT INTO task_secret (task_id, sealed) SELECT id, sealed FROM x WHERE sealed IS NOT NULL
), q AS (
  INSERT INTO dispatch (id, public_id, lane, state, class, position, attempt, retries, input_size, due_at, error_code, error_message)
  SELECT id, public_id, lane, state, class, position, attempt, retries, length(payload), CASE WHEN state = 3 THEN now() END,
    CASE WHEN state = 3 THEN 'legacy_failed' END, CASE WHEN state = 3 THEN error_message END
  FROM x WHERE state IS NOT NULL ORDER BY place
), a AS (
  INSERT INTO attempt (task_id, attempt, outcome, started_at, ended_at, error_code, error_message)
  SELECT id, attempt, outcome, least(started_at, coalesce(finished_at, now())), coalesce(finished_at, now()),
    CASE WHEN outcome <> 'success' THEN 'legacy_' || outcome END, CASE WHEN outcome <> 'success' THEN error_message END
  FROM x WHERE outcome IS NOT NULL
), d AS (
  INSERT INTO dead_task (task_id, tenant_id, model_id, died_at, error_code, version)
  SELECT id, tenant_id, model_id, finished_at, 'legacy_failed', 1 FROM x WHERE status = 7
), h AS (
  INSERT INTO history (task_id, kind, attempt, version, detail)
  SELECT id, 'import', attempt, 1, 'from asynch_task ' || old_id FROM x ORDER BY place
), c AS (
  INSERT INTO cleaned (tenant_id, creator, tasks, calls)
  SELECT tenant_id, creator, 0, -sum(attempt) FROM x GROUP BY 1, 2 HAVING sum(attempt) > 0 ORDER BY 1, 2
  ON CONFLICT (tenant_id, creator) DO UPDATE SET calls = cleaned.calls + EXCLUDED.calls
)
SELECT old_id, id FROM x

-- name: import_counts
-- What the old counts exceed the part that is here already by; both the daily table and the balance of calls grow by it.
WITH x AS MATERIALIZED (
  SELECT u.*, u.request_count - coalesce(k.request_count, 0) AS more
  FROM unnest($2::date[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::timestamptz[], $8::timestamptz[])
    AS u(day, tenant_id, creator, model_name, request_count, created_at, updated_at)
  LEFT JOIN legacy_stat k ON k.source = $1 AND k.day = u.day AND k.tenant_id = u.tenant_id AND k.creator = u.creator AND k.model_name = u.model_name
  WHERE u.request_count > coalesce(k.request_count, 0)
), k AS (
  INSERT INTO legacy_stat (source, day, tenant_id, creator, model_name, request_count)
  SELECT $1, day, tenant_id, creator, model_name, request_count FROM x ORDER BY day, tenant_id, creator, model_name
  ON CONFLICT (source, day, tenant_id, creator, model_name) DO UPDATE SET request_count = EXCLUDED.request_count
), s AS (
  INSERT INTO model_stat (day, tenant_id, creator, model_name, request_count, created_at, updated_at)
  SELECT day, tenant_id, creator, model_name, more, coalesce(created_at, now()), coalesce(updated_at, now()) FROM x
  ORDER BY day, tenant_id, creator, model_name
  ON CONFLICT (day, tenant_id, creator, model_name) DO UPDATE
  SET request_count = model_stat.request_count + EXCLUDED.request_count, updated_at = now()
), c AS (
  INSERT INTO cleaned (tenant_id, creator, tasks, calls)
  SELECT tenant_id, creator, 0, sum(more) FROM x GROUP BY 1, 2 ORDER BY 1, 2
  ON CONFLICT (tenant_id, creator) DO UPDATE SET calls = cleaned.calls + EXCLUDED.calls
)
SELECT count(*)::int AS rows FROM x

-- name: new_counts
-- How many rows of statistics are not here, or grew since they were taken over.
SELECT count(*)::int AS rows
FROM unnest($2::date[], $3::bigint[], $4::text[], $5::text[], $6::bigint[]) AS u(day, tenant_id, creator, model_name, request_count)
LEFT JOIN legacy_stat k ON k.source = $1 AND k.day = u.day AND k.tenant_id = u.tenant_id AND k.creator = u.creator AND k.model_name = u.model_name
WHERE u.request_count > coalesce(k.request_count, 0)

-- name: open_without_credential
-- Open tasks that were taken over without a caller's credential, counted up to $1.
SELECT count(*)::int AS rows FROM (
  SELECT 1 FROM dispatch d WHERE NOT EXISTS (SELECT 1 FROM task_secret s WHERE s.task_id = d.id)
    AND EXISTS (SELECT 1 FROM history h WHERE h.task_id = d.id AND h.kind = 'import') LIMIT $1) x

-- name: lock_statistics
-- Statistics have no ids to mark: one import of a source at a time adds them.
SELECT pg_advisory_xact_lock(7002, hashtext($1))
