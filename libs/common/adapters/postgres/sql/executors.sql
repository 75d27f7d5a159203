-- name: join_executors
-- A new number for an executor process; one that was presumed dead ($5, else 0) goes on draining if it was told to.
INSERT INTO executor (id, name, slots, stores, version, adapters, draining)
VALUES (nextval('executor_ids'), $1, $2, $3, $4, $6, coalesce((SELECT draining FROM executor WHERE id = $5), false)) RETURNING id

-- name: beat
-- One heartbeat: I am alive, this full, and stand so; answers which of my attempts somebody wants canceled, whether I shall
-- leave, and what is paused. LIMIT 1 keeps the few requests the outer side of the join: the other way round every beat
-- reads the whole queue. $4 posture, $5 name: a number may be another's where PostgreSQL goes on from an older state.
WITH b AS (
  UPDATE executor SET beat = beat + 1, beat_at = now(), running = $2, held = $3, posture = $4, reading = $4 = 'reading'
  WHERE id = $1 AND name = $5 AND stopped_at IS NULL RETURNING id, draining
)
SELECT b.id, b.draining, ARRAY(
  SELECT c.task_id FROM cancel_request c
  CROSS JOIN LATERAL (SELECT 1 FROM dispatch d WHERE d.id = c.task_id AND d.executor = $1 AND d.token IS NOT NULL LIMIT 1) mine) AS canceled,
  EXISTS (SELECT FROM pause p WHERE p.scope = 'all' AND p.ended IS NULL) AS all_paused,
  ARRAY(SELECT p.tenant_id FROM pause p WHERE p.scope = 'tenant' AND p.ended IS NULL) AS tenants_paused,
  ARRAY(SELECT p.lane FROM pause p WHERE p.scope = 'model' AND p.ended IS NULL) AS lanes_paused
FROM b

-- name: leave_executors
-- A clean stop: nobody need wait for silence.
UPDATE executor SET stopped_at = now(), reading = false WHERE id = $1

-- name: watch_beats
-- The beats of all executors that have not stopped, and the database's clock.
SELECT id, name, beat, reading, posture IN ('redis_unreachable', 'staging_full') AS last_resort, stores, adapters, slots - running AS free,
  extract(epoch FROM now() - beat_at)::float8 AS age
FROM executor WHERE stopped_at IS NULL

-- name: bury_executors
-- Executors presumed dead by who watched them, unless they have beaten since: they may not come back under this number. One
-- whose row somebody keeps locked is the next look's, and perhaps just beating.
WITH free AS MATERIALIZED (
  SELECT e.id, m.beat FROM unnest($1::int[], $2::bigint[]) AS m(id, beat) CROSS JOIN LATERAL (
    SELECT x.id FROM executor x WHERE x.id = m.id FOR NO KEY UPDATE SKIP LOCKED) e
)
UPDATE executor e SET stopped_at = now(), reading = false FROM free m
WHERE e.id = ANY (ARRAY[m.id]) AND e.beat = m.beat AND e.stopped_at IS NULL RETURNING e.id

-- name: prune_executors
-- Forget executors that stopped long ago. $1 days.
DELETE FROM executor WHERE id = ANY (ARRAY(
  SELECT e.id FROM executor e WHERE e.stopped_at < now() - make_interval(days => $1) FOR UPDATE SKIP LOCKED))

-- name: beat_process
-- A dispatcher or janitor lives. $1 its number (null at first: it gets one), $2 role, $3 name, $4 version, $5 whether it
-- reaches the broker, $6 its last error, $7 lanes whose topics the broker refuses, $8 why, $9 why it refuses
-- the topic of events. Those silent for a day are forgotten, but for who is locked: nobody's sign of life waits for that.
WITH gone AS (
  DELETE FROM process WHERE id = ANY (ARRAY(
    SELECT p.id FROM process p WHERE p.beat_at < now() - interval '1 day' FOR UPDATE SKIP LOCKED))
), here AS (
  UPDATE process SET beat_at = now(), broker_reachable = $5, last_error = $6, refused_lanes = $7, refused_causes = $8,
    events_refused = $9
  WHERE id = $1 RETURNING id
), new AS (
  INSERT INTO process (role, name, version, broker_reachable, last_error, refused_lanes, refused_causes, events_refused)
  SELECT $2, $3, $4, $5, $6, $7::int[], $8::text[], $9 WHERE NOT EXISTS (SELECT FROM here) RETURNING id
)
SELECT id FROM here UNION ALL SELECT id FROM new

-- name: end_process
-- It stopped in good order.
DELETE FROM process WHERE id = $1
