-- name: why_task
-- One task with all that decides what it waits for. $1 tenant, or null for operators, who name none: then each tenant is
-- asked for it by the key, which costs by tenants and not by tasks. $2 public id.
SELECT t.public_id, t.lane, m.name AS model, now() AS now, t.start_by, t.deadline,
  task_status(t.status, d.state, d.phase, d.token IS NOT NULL, d.attempt, d.leased_at IS NOT NULL, d.job) AS status,
  d.state, coalesce(d.phase, 0) AS phase, coalesce(d.class, 1) AS klass, t.priority, tn.weight, coalesce(d.position, t.id) AS position,
  coalesce(d.attempt, t.attempt) AS attempt, coalesce(d.retries, t.retries) AS retries, m.retry_times,
  d.leased_at, d.due_at, d.until, d.lease, NOT EXISTS (SELECT FROM lease x WHERE x.id = d.lease) AS acknowledged,
  h.name AS held_by, e.name AS executor, extract(epoch FROM now() - e.beat_at)::float8 AS executor_age,
  EXISTS (SELECT FROM cancel_request c WHERE c.task_id = t.id) AS cancel_requested,
  j.status AS job_status, j.provider_id AS job_id, j.unit_progress AS job_progress, j.deadline AS job_deadline,
  j.adapter AS job_adapter,
  coalesce(d.error_code, t.error_code) AS error_code, coalesce(d.error_message, t.error_message) AS error_message
FROM (SELECT tn.id, tn.weight FROM tenant tn WHERE $1::bigint IS NULL OR tn.id = $1) tn
CROSS JOIN LATERAL (SELECT * FROM task k WHERE k.tenant_id = tn.id AND k.public_id = $2 LIMIT 1) t
JOIN model m ON m.id = t.model_id
LEFT JOIN dispatch d ON d.id = ANY (ARRAY[t.id])
LEFT JOIN executor h ON h.id = d.held_by
LEFT JOIN executor e ON e.id = d.executor AND d.token IS NOT NULL
LEFT JOIN LATERAL (SELECT * FROM provider_job p WHERE p.task_id = ANY (ARRAY[d.id]) AND (p.ended_at IS NULL) IS TRUE ORDER BY p.attempt DESC LIMIT 1) j ON true

-- name: place_of
-- How many ready rows of a lane stand before a place: of its own class ($2), and of the other one, which goes with it one
-- to one; each counted up to $5. $1 lane, $3 priority, $4 position.
SELECT
  (SELECT count(*)::int FROM (SELECT 1 FROM dispatch q WHERE q.state = 0 AND q.lane = $1 AND q.class = $2
     AND (q.priority, q.position) < ($3, $4) LIMIT $5) f) AS same,
  (SELECT count(*)::int FROM (SELECT 1 FROM dispatch q WHERE q.state = 0 AND q.lane = $1 AND q.class = 1 - $2 LIMIT $5) f) AS other

-- name: place_on_the_road
-- How many published rows of a lane that nobody has started stand before one of them: those of earlier turns, and of its own
-- turn those that go first. A lane's window bounds it. $1 lane, $2 lease, $3 priority, $4 position; no tenant_id: its task was read.
SELECT count(*)::int AS ahead FROM dispatch q
WHERE q.state = 1 AND q.lane = $1 AND q.token IS NULL AND (q.lease, q.priority, q.position) < ($2, $3, $4)

-- name: lane_by_model
-- The lane of a tenant's model by its name.
SELECT l.id AS lane FROM model m JOIN lane l ON l.model_id = m.id WHERE m.tenant_id = $1 AND m.name = $2 AND m.deleted_at IS NULL

-- name: lane_by_model_once
-- The same, and where a tenant has no model of this name any more, the lane of the one that had it last.
SELECT l.id AS lane FROM lane l WHERE l.model_id = coalesce(
  (SELECT m.id FROM model m WHERE m.tenant_id = $1 AND m.name = $2 AND m.deleted_at IS NULL),
  (SELECT m.id FROM model m WHERE m.tenant_id = $1 AND m.name = $2 AND m.deleted_at IS NOT NULL ORDER BY m.deleted_at DESC LIMIT 1))

-- name: lanes_after
-- A page of lanes of models that exist: $1 tenant or null for all, $2 after, $3 limit.
SELECT l.id AS lane FROM lane l WHERE l.id > $2::bigint AND NOT l.closed AND ($1::bigint IS NULL OR l.tenant_id = $1) ORDER BY l.id LIMIT $3

-- name: busy_lanes_after
-- A page of lanes with something ready or in flight, by loose scans of both indexes: it costs by such lanes, not by rows.
-- $1 tenant or null for all, $2 after, $3 limit.
WITH RECURSIVE busy(lane) AS (
  SELECT least((SELECT q.lane FROM dispatch q WHERE q.state = 0 AND q.lane > $2::bigint ORDER BY q.lane LIMIT 1),
               (SELECT q.lane FROM dispatch q WHERE q.state = 1 AND q.lane > $2::bigint ORDER BY q.lane LIMIT 1))
  UNION ALL
  SELECT least((SELECT q.lane FROM dispatch q WHERE q.state = 0 AND q.lane > b.lane ORDER BY q.lane LIMIT 1),
               (SELECT q.lane FROM dispatch q WHERE q.state = 1 AND q.lane > b.lane ORDER BY q.lane LIMIT 1))
  FROM busy b WHERE b.lane IS NOT NULL)
SELECT b.lane FROM busy b JOIN lane l ON l.id = b.lane WHERE $1::bigint IS NULL OR l.tenant_id = $1 LIMIT $3

-- name: lane_facts
-- What is known of these lanes. In flight is bounded by their windows, ready and later are counted up to $2. What ended
-- lately is read from the last five folded minutes, and from none that lies ten minutes back: where folding stands still,
-- nothing is known of now. $1 lanes.
SELECT l.id AS lane, l.tenant_id, l.model_id, m.name AS model, m.adapter, m.enabled, l.closed, l.window_size AS "window", m.max_concurrency, m.queue_limit,
  f.in_flight, f.running, f.held,
  (SELECT count(*)::int FROM (SELECT 1 FROM dispatch q WHERE q.state = 0 AND q.lane = l.id LIMIT $2) c) AS ready,
  (SELECT count(*)::int FROM (SELECT 1 FROM dispatch q WHERE q.state >= 2 AND q.state < 3 AND q.lane = l.id LIMIT $2) c) AS later,
  extract(epoch FROM now() - oldest_ready(l.id))::float8 AS oldest_seconds,
  s.ended, s.errors, coalesce(greatest(extract(epoch FROM k.upto - w.since), 0), 0)::float8 AS ended_seconds, now() AS now
FROM unnest($1::int[]) AS x(lane) JOIN lane l ON l.id = x.lane JOIN model m ON m.id = l.model_id
LEFT JOIN series_mark k ON true
CROSS JOIN LATERAL (SELECT greatest(k.upto - interval '5 minutes', now() - interval '10 minutes') AS since) w
CROSS JOIN LATERAL (
  SELECT count(*)::int AS in_flight, (count(*) FILTER (WHERE q.token IS NOT NULL))::int AS running,
    (count(*) FILTER (WHERE q.held_by IS NOT NULL))::int AS held
  FROM dispatch q WHERE q.state = 1 AND q.lane = l.id) f
CROSS JOIN LATERAL (
  SELECT coalesce(sum(v.success + v.failed + v.timeout + v.canceled + v.lost), 0)::int AS ended,
    coalesce(sum(v.failed + v.timeout + v.lost), 0)::int AS errors
  FROM series v WHERE v.scope = 2 AND v.subject = l.id AND v.step = 1 AND v.at >= w.since) s
ORDER BY l.id

-- name: lane_waits
-- What of a lane waits for its time, by what it waits for (a code of `why`), the one that is due first before others: how
-- many of the first $2 of its state, and since or until when the first of them. $1 lane.
SELECT w.code, w.state, count(*)::int AS rows, min(w.due_at) AS due_at
FROM (
  (SELECT q.state, q.due_at, CASE WHEN q.phase >= 2 THEN 'upload_parked' WHEN q.leased_at IS NULL AND q.attempt = 0 THEN 'not_before'
     WHEN q.error_code = 'publish_refused' THEN 'publish_refused' ELSE 'put_off' END AS code
   FROM dispatch q WHERE q.state >= 2 AND q.state < 3 AND q.lane = $1 ORDER BY q.state, q.due_at LIMIT $2)
  UNION ALL
  (SELECT q.state, q.due_at, 'retry_due_later' FROM dispatch q WHERE q.state >= 3 AND q.lane = $1 ORDER BY q.state, q.due_at LIMIT $2)) w
GROUP BY w.code, w.state ORDER BY due_at, w.code

-- name: recent_ends
-- How many of the last $2 ended attempts of the last five minutes were a lane's ($1), and how long ago the first of them
-- ended: what its pace is told by until the first minutes are folded.
SELECT count(*) FILTER (WHERE t.lane = $1)::int AS ended, coalesce(extract(epoch FROM now() - min(a.ended_at)), 0)::float8 AS seconds
FROM (SELECT task_id, ended_at FROM attempt WHERE ended_at > now() - interval '5 minutes' ORDER BY ended_at DESC LIMIT $2) a
JOIN task t ON t.id = ANY (ARRAY[a.task_id])

-- name: open_pauses
-- What is paused now: $1 a tenant's own and those of all; null for everything.
SELECT p.scope, p.tenant_id, p.lane, m.name AS model, p.webhook_id, p.began, p.paused_by, p.reason
FROM pause p LEFT JOIN lane l ON l.id = p.lane LEFT JOIN model m ON m.id = l.model_id
WHERE p.ended IS NULL AND ($1::bigint IS NULL OR p.scope = 'all' OR p.tenant_id = $1) ORDER BY p.id

-- name: executors_live
-- Executors that have not stopped.
SELECT id, name, version, started_at, extract(epoch FROM now() - beat_at)::float8 AS age, posture, slots, running, held, stores, adapters, draining
FROM executor WHERE stopped_at IS NULL ORDER BY id

-- name: executors_models
-- How many rows of which model each executor holds or runs, among $1 rows in flight.
SELECT f.executor, m.name AS model, count(*)::int AS rows
FROM (SELECT coalesce(q.executor, q.held_by) AS executor, q.lane FROM dispatch q WHERE q.state = 1 LIMIT $1) f
JOIN lane l ON l.id = f.lane JOIN model m ON m.id = l.model_id WHERE f.executor IS NOT NULL
GROUP BY f.executor, m.id, m.name ORDER BY f.executor, rows DESC, m.name

-- name: processes_seen
-- Dispatchers and janitors of the last day.
SELECT role, name, version, started_at, extract(epoch FROM now() - beat_at)::float8 AS age, broker_reachable, last_error,
  refused_lanes, refused_causes, events_refused
FROM process ORDER BY role, id

-- name: outbox_channels
-- What has to leave by each channel, counted up to $1; the last error is that of the row that is due last, or what a
-- dispatcher that lives says of the broker: that it does not answer, or refuses the topic of events. The age of deliveries is that of the oldest one counted. Held are webhooks that
-- an operator paused.
WITH broker AS MATERIALIZED (
  SELECT p.beat_at, p.broker_reachable, p.last_error, p.events_refused FROM process p
  WHERE p.role = 'dispatcher' AND p.beat_at > now() - interval '10 s'
), away AS MATERIALIZED (
  SELECT b.last_error FROM broker b WHERE NOT b.broker_reachable ORDER BY b.beat_at DESC LIMIT 1
), refused AS MATERIALIZED (
  SELECT r.due_at, r.error_message FROM (
    SELECT q.sends, q.due_at, q.error_message FROM dispatch q WHERE q.state = 2 ORDER BY q.due_at LIMIT $1) r WHERE r.sends > 0
), pending AS MATERIALIZED (
  SELECT d.created_at, d.attempts, d.last_error, d.next_at FROM delivery d WHERE d.status = 'pending' LIMIT $1
)
SELECT 'dispatch' AS channel, (SELECT count(*)::int FROM (SELECT 1 FROM lease LIMIT $1) l) AS waiting,
  coalesce(extract(epoch FROM now() - (SELECT taken_at FROM lease ORDER BY id LIMIT 1)), 0)::float8 AS age,
  (SELECT count(*)::int FROM refused) AS retrying, 0 AS dead, 0 AS held,
  coalesce(
    (SELECT a.last_error FROM away a),
    (SELECT r.error_message FROM refused r ORDER BY r.due_at DESC LIMIT 1)) AS last_error
UNION ALL
SELECT 'event', (SELECT count(*)::int FROM (SELECT 1 FROM event LIMIT $1) e),
  coalesce(extract(epoch FROM now() - (SELECT finished_at FROM event ORDER BY id LIMIT 1)), 0)::float8,
  (SELECT count(*)::int FROM (SELECT 1 FROM event e WHERE e.due_at IS NOT NULL LIMIT $1) r),
  (SELECT count(*)::int FROM (SELECT 1 FROM dead_event d WHERE d.dropped_at IS NULL LIMIT $1) d), 0,
  coalesce(
    (SELECT a.last_error FROM away a),
    (SELECT 'the broker refuses their topic: ' || b.events_refused FROM broker b WHERE b.events_refused <> '' ORDER BY b.beat_at DESC LIMIT 1),
    (SELECT e.last_error FROM event e WHERE e.due_at IS NOT NULL ORDER BY e.due_at DESC LIMIT 1))
UNION ALL
SELECT 'webhook', (SELECT count(*)::int FROM pending), coalesce(extract(epoch FROM now() - (SELECT min(created_at) FROM pending)), 0)::float8,
  (SELECT count(*)::int FROM pending p WHERE p.attempts > 0),
  (SELECT count(*)::int FROM (SELECT 1 FROM delivery x WHERE x.dead_at IS NOT NULL AND x.dropped_at IS NULL LIMIT $1) d),
  (SELECT count(*)::int FROM (SELECT 1 FROM pause h WHERE h.scope = 'webhook' AND h.ended IS NULL LIMIT $1) h),
  (SELECT p.last_error FROM pending p WHERE p.last_error IS NOT NULL ORDER BY p.next_at DESC LIMIT 1)

-- name: overview_counts
-- The numbers of everything, each counted up to $1 from an index of its own.
SELECT now() AS now,
  (SELECT count(*)::int FROM (SELECT 1 FROM dispatch q WHERE q.state = 0 LIMIT $1) c) AS ready,
  (SELECT count(*)::int FROM (SELECT 1 FROM dispatch q WHERE q.state = 1 LIMIT $1) c) AS in_flight,
  (SELECT count(*)::int FROM (SELECT 1 FROM dispatch q WHERE q.state = 2 LIMIT $1) c) AS later,
  (SELECT count(*)::int FROM (SELECT 1 FROM dispatch q WHERE q.state = 3 LIMIT $1) c) AS retrying,
  (SELECT count(*)::int FROM (SELECT 1 FROM dead_task WHERE dropped_at IS NULL LIMIT $1) c) AS dead,
  (SELECT count(*)::int FROM (SELECT 1 FROM event LIMIT $1) c) AS events,
  coalesce(extract(epoch FROM now() - (SELECT finished_at FROM event ORDER BY id LIMIT 1)), 0)::float8 AS oldest_event

-- name: series_rows
-- Folded minutes ($3 false), or hours and the minutes that no hour has yet (true), in order. $1 scope, $2 subject, $4 from,
-- $5 to before. A minute in which the subject had nothing has no row: then its backlog was 0 if anybody looked.
WITH mark AS MATERIALIZED (SELECT hours_upto FROM series_mark)
SELECT z.at, v.success, v.failed, v.timeout, v.canceled, v.lost, v.wait_at, v.wait_n, v.run_at, v.run_n,
  coalesce(v.backlog, CASE WHEN v.at IS NULL AND z.backlog IS NOT NULL THEN 0 END) AS backlog, v.oldest_seconds
FROM (
  SELECT x.step, x.at, x.backlog FROM series x
  WHERE $3 AND x.scope = 0 AND x.subject = 0 AND x.step = 60 AND x.at >= $4 AND x.at < $5
  UNION ALL
  SELECT x.step, x.at, x.backlog FROM series x
  WHERE x.scope = 0 AND x.subject = 0 AND x.step = 1 AND x.at >= $4 AND x.at < $5 AND (NOT $3 OR x.at >= (SELECT hours_upto FROM mark))) z
LEFT JOIN series v ON v.scope = $1 AND v.subject = $2 AND v.step = z.step AND v.at = z.at
ORDER BY z.at
