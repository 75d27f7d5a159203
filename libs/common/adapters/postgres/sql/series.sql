-- name: lane_backlogs
-- Lanes with something ready and how long the oldest there has waited, with what is in flight and later there, each counted
-- up to $1: what the gate holds less these is what waits.
WITH RECURSIVE waiting(lane) AS (
  (SELECT lane FROM dispatch WHERE state = 0 ORDER BY lane LIMIT 1)
  UNION ALL
  SELECT (SELECT q.lane FROM dispatch q WHERE q.state = 0 AND q.lane > w.lane ORDER BY q.lane LIMIT 1)
  FROM waiting w WHERE w.lane IS NOT NULL)
SELECT l.id AS lane, l.model_id, coalesce(extract(epoch FROM now() - oldest_ready(l.id)), 0)::float8 AS oldest,
  (SELECT count(*)::int FROM (SELECT 1 FROM dispatch q WHERE q.state = 1 AND q.lane = l.id LIMIT $1) c)
  + (SELECT count(*)::int FROM (SELECT 1 FROM dispatch q WHERE q.state >= 2 AND q.state < 3 AND q.lane = l.id LIMIT $1) c) AS elsewhere
FROM waiting w JOIN lane l ON l.id = w.lane

-- name: series_settled
-- Up to when no attempt can be recorded any more: no attempt's end lies before the begin of the transaction that writes it,
-- so everything before the oldest open one that may write is there. Reading transactions of more than a minute do not count.
-- $1 seconds are left for those that have begun and do not say so yet. No row while no whole minute is settled.
SELECT s.settled FROM series_mark k CROSS JOIN LATERAL (
  SELECT least(now() - make_interval(secs => $1), coalesce(min(a.xact_start), 'infinity')) AS settled FROM pg_stat_activity a
  WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.backend_type = 'client backend'
    AND (a.backend_xid IS NOT NULL OR a.xact_start > now() - interval '1 minute')) s
WHERE k.upto < date_trunc('minute', s.settled)

-- name: begin_series
-- Fold from now on, if nothing was folded yet: from the hour of the first attempt that there is.
INSERT INTO series_mark (upto, hours_upto)
SELECT date_trunc('minute', f.first), date_trunc('hour', f.first)
FROM (SELECT greatest(coalesce((SELECT ended_at FROM attempt ORDER BY ended_at LIMIT 1), now()), now() - interval '8 days') AS first) f
ON CONFLICT DO NOTHING

-- name: fold_series
-- Whole minutes that are settled ($1) become rows of everything, of each tenant and of each lane, $2 minutes at a time at
-- most; the mark moves in the same statement, and is locked by it, so that each attempt counts once whoever folds. The
-- backlog ($3 lanes, $4 waiting or null, $5 oldest) belongs to the last minute. Union and one grouping in place of joins:
-- hot connections plan nested loops only. Says up to when it folded; no row: nothing to do, or somebody else does it.
WITH mark AS MATERIALIZED (
  SELECT k.upto, least(date_trunc('minute', $1::timestamptz), k.upto + make_interval(mins => $2)) AS until
  FROM series_mark k WHERE k.upto < date_trunc('minute', $1::timestamptz) FOR UPDATE SKIP LOCKED
), ended AS MATERIALIZED (
  SELECT s.scope, s.subject, g.minute, g.outcome, g.wait, g.run, g.n
  FROM (
    SELECT t.tenant_id, t.lane, a.minute, a.outcome, a.wait, a.run, count(*) AS n
    FROM mark k CROSS JOIN LATERAL (
      SELECT x.task_id, date_trunc('minute', x.ended_at) AS minute, x.outcome,
        duration_bucket(x.started_at - x.entered_at) AS wait, duration_bucket(x.ended_at - x.started_at) AS run
      FROM attempt x WHERE x.ended_at >= k.upto AND x.ended_at < k.until ORDER BY x.ended_at OFFSET 0) a
    JOIN task t ON t.id = ANY (ARRAY[a.task_id])
    GROUP BY 1, 2, 3, 4, 5, 6) g
  CROSS JOIN LATERAL (VALUES (0::smallint, 0::bigint), (1::smallint, g.tenant_id), (2::smallint, g.lane::bigint)) AS s(scope, subject)
), seen AS MATERIALIZED (
  SELECT s.scope, s.subject, k.until - interval '1 minute' AS minute,
    CASE WHEN bool_and(b.waiting IS NOT NULL) THEN sum(b.waiting) END::bigint AS backlog, max(b.oldest)::real AS oldest
  FROM mark k CROSS JOIN unnest($3::int[], $4::bigint[], $5::float8[]) AS b(lane, waiting, oldest) JOIN lane l ON l.id = b.lane
  CROSS JOIN LATERAL (VALUES (0::smallint, 0::bigint), (1::smallint, l.tenant_id), (2::smallint, l.id::bigint)) AS s(scope, subject)
  WHERE k.until = date_trunc('minute', $1::timestamptz)
  GROUP BY 1, 2, 3
), parts AS (
  SELECT scope, subject, minute, coalesce(sum(n) FILTER (WHERE outcome = 'success'), 0)::int AS success, coalesce(sum(n) FILTER (WHERE outcome = 'failed'), 0)::int AS failed,
    coalesce(sum(n) FILTER (WHERE outcome = 'timeout'), 0)::int AS timeout, coalesce(sum(n) FILTER (WHERE outcome = 'canceled'), 0)::int AS canceled,
    coalesce(sum(n) FILTER (WHERE outcome IN ('lost', 'staging_lost')), 0)::int AS lost, NULL::smallint[] AS wait_at, NULL::int[] AS wait_n,
    NULL::smallint[] AS run_at, NULL::int[] AS run_n, NULL::bigint AS backlog, NULL::real AS oldest
  FROM ended GROUP BY 1, 2, 3
  UNION ALL
  SELECT scope, subject, minute, 0, 0, 0, 0, 0, array_agg(wait ORDER BY wait), array_agg(n ORDER BY wait), NULL, NULL, NULL, NULL
  FROM (SELECT scope, subject, minute, wait, sum(n)::int AS n FROM ended WHERE wait IS NOT NULL GROUP BY 1, 2, 3, 4) w GROUP BY 1, 2, 3
  UNION ALL
  SELECT scope, subject, minute, 0, 0, 0, 0, 0, NULL, NULL, array_agg(run ORDER BY run), array_agg(n ORDER BY run), NULL, NULL
  FROM (SELECT scope, subject, minute, run, sum(n)::int AS n FROM ended WHERE run IS NOT NULL GROUP BY 1, 2, 3, 4) r GROUP BY 1, 2, 3
  UNION ALL
  SELECT scope, subject, minute, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, backlog, oldest FROM seen
  UNION ALL
  SELECT 0, 0, k.until - interval '1 minute', 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, 
    CASE WHEN cardinality($3::int[]) = 0 AND k.until = date_trunc('minute', $1::timestamptz) THEN 0 END, NULL
  FROM mark k
), written AS (
  INSERT INTO series (scope, subject, step, at, success, failed, timeout, canceled, lost, wait_at, wait_n, run_at, run_n, backlog, oldest_seconds)
  SELECT scope, subject, 1, minute, sum(success), sum(failed), sum(timeout), sum(canceled), sum(lost), coalesce(max(wait_at), '{}'),
    coalesce(max(wait_n), '{}'), coalesce(max(run_at), '{}'), coalesce(max(run_n), '{}'), max(backlog), max(oldest)
  FROM parts GROUP BY scope, subject, minute ORDER BY scope, subject, minute
)
UPDATE series_mark m SET upto = k.until FROM mark k RETURNING m.upto

-- name: fold_hours
-- The next hour whose minutes are all folded becomes rows of its own: sums, and the most of the backlogs.
WITH mark AS MATERIALIZED (
  SELECT k.hours_upto AS since, k.hours_upto + interval '1 hour' AS until FROM series_mark k
  WHERE k.hours_upto + interval '1 hour' <= k.upto FOR UPDATE SKIP LOCKED
), minutes AS MATERIALIZED (
  SELECT x.* FROM mark k CROSS JOIN LATERAL (SELECT * FROM series v WHERE v.step = 1 AND v.at >= k.since AND v.at < k.until OFFSET 0) x
), parts AS (
  SELECT scope, subject, sum(success) AS success, sum(failed) AS failed, sum(timeout) AS timeout, sum(canceled) AS canceled, sum(lost) AS lost,
    NULL::smallint[] AS wait_at, NULL::int[] AS wait_n, NULL::smallint[] AS run_at, NULL::int[] AS run_n, max(backlog) AS backlog,
    max(oldest_seconds) AS oldest
  FROM minutes GROUP BY 1, 2
  UNION ALL
  SELECT scope, subject, 0, 0, 0, 0, 0, array_agg(b ORDER BY b), array_agg(n ORDER BY b), NULL, NULL, NULL, NULL
  FROM (SELECT m.scope, m.subject, u.b, sum(u.n)::int AS n FROM minutes m CROSS JOIN LATERAL unnest(m.wait_at, m.wait_n) AS u(b, n) GROUP BY 1, 2, 3) w GROUP BY 1, 2
  UNION ALL
  SELECT scope, subject, 0, 0, 0, 0, 0, NULL, NULL, array_agg(b ORDER BY b), array_agg(n ORDER BY b), NULL, NULL
  FROM (SELECT m.scope, m.subject, u.b, sum(u.n)::int AS n FROM minutes m CROSS JOIN LATERAL unnest(m.run_at, m.run_n) AS u(b, n) GROUP BY 1, 2, 3) r GROUP BY 1, 2
), written AS (
  INSERT INTO series (scope, subject, step, at, success, failed, timeout, canceled, lost, wait_at, wait_n, run_at, run_n, backlog, oldest_seconds)
  SELECT p.scope, p.subject, 60, (SELECT since FROM mark), sum(p.success), sum(p.failed), sum(p.timeout), sum(p.canceled), sum(p.lost),
    coalesce(max(p.wait_at), '{}'), coalesce(max(p.wait_n), '{}'), coalesce(max(p.run_at), '{}'), coalesce(max(p.run_n), '{}'), max(p.backlog), max(p.oldest)
  FROM parts p GROUP BY p.scope, p.subject ORDER BY p.scope, p.subject
)
UPDATE series_mark m SET hours_upto = k.until FROM mark k RETURNING m.hours_upto

-- name: prune_series
-- Minutes older than $1 hours, as far as they are in hours, and hours older than $2 days; $3 rows of each at most.
DELETE FROM series WHERE ctid = ANY (
  ARRAY(SELECT v.ctid FROM series v WHERE v.step = 1 AND v.at < least(now() - make_interval(hours => $1), (SELECT hours_upto FROM series_mark))
        ORDER BY v.at LIMIT $3 FOR UPDATE OF v SKIP LOCKED)
  || ARRAY(SELECT v.ctid FROM series v WHERE v.step = 60 AND v.at < now() - make_interval(days => $2)
           ORDER BY v.at LIMIT $3 FOR UPDATE SKIP LOCKED))
RETURNING 1
