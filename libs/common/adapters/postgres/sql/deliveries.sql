-- name: hand_to_webhooks
-- Events that were acknowledged and that webhooks may want: forgotten, and a delivery is made for each address that does
-- want them. $1 events, $2 tenants, $3 tasks, $4 bits, $5 message ids, $6 types, $7 bodies, $8 addresses of the tasks
-- themselves (null: none, or not of this end), $9 their lines, $10 the instants of the ends: where PostgreSQL goes on from an
-- older state, a number may be another event's, which nobody has sent.
WITH e AS MATERIALIZED (
  SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::uuid[], $4::smallint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[])
    AS e(id, tenant_id, task_id, bit, message_id, type, body, url, line)
), gone AS (
  DELETE FROM event q USING unnest($1::bigint[], $10::timestamptz[]) AS m(id, at)
  WHERE q.id = ANY (ARRAY[m.id]) AND q.finished_at = m.at RETURNING q.id
)
INSERT INTO delivery (tenant_id, webhook_id, line, url, task_id, message_id, type, body)
SELECT e.tenant_id, w.id, CASE w.kind WHEN 'tasks' THEN e.line ELSE '' END, CASE w.kind WHEN 'tasks' THEN e.url ELSE '' END,
  e.task_id, e.message_id, e.type, e.body
FROM e JOIN gone g ON g.id = e.id JOIN webhook w ON w.tenant_id = e.tenant_id AND w.deleted_at IS NULL
WHERE w.disabled_at IS NULL AND w.events & e.bit <> 0 AND (w.kind = 'endpoint' OR e.url IS NOT NULL)
RETURNING id

-- name: become_sender
-- One sender at a time: ours until this connection ends.
SELECT pg_try_advisory_lock(7002, 2) AS ours

-- name: due_deliveries
-- The oldest due deliveries, $1 of each line ($7 of an endpoint's, which has but one), of the next $2 webhooks after $3 that wait for anything: of each the next $4
-- lines, from the one on where the last look at it stopped ($5 webhooks, $6 lines), so that one with very many hides no
-- other. What has nothing to be sent now, or is held by its tenant or an operator, comes as a row without a delivery. Loose
-- scans: it costs by webhooks and lines, not by what waits in them. LIMIT 1 keeps the planner from joining all webhooks to
-- their pauses first, which it was seen to do where there were 20.
WITH RECURSIVE hooks(id) AS (
  (SELECT webhook_id FROM delivery WHERE status = 'pending' AND webhook_id > $3 ORDER BY webhook_id LIMIT 1)
  UNION ALL
  SELECT (SELECT d.webhook_id FROM delivery d WHERE d.status = 'pending' AND d.webhook_id > h.id ORDER BY d.webhook_id LIMIT 1)
  FROM hooks h WHERE h.id IS NOT NULL
), these AS MATERIALIZED (
  SELECT h.id, a.line AS stopped FROM (SELECT id FROM hooks WHERE id IS NOT NULL LIMIT $2) h
  LEFT JOIN unnest($5::bigint[], $6::text[]) AS a(webhook_id, line) ON a.webhook_id = h.id
)
SELECT h.id AS webhook_id, l.line, d.id, d.tenant_id, CASE w.kind WHEN 'tasks' THEN d.url ELSE w.url END AS url, w.secrets, d.message_id,
  d.body, d.attempts, d.round
FROM these h LEFT JOIN LATERAL (
  SELECT x.* FROM webhook x WHERE x.id = h.id AND NOT x.paused AND x.disabled_at IS NULL AND x.deleted_at IS NULL
    AND NOT EXISTS (SELECT FROM pause p WHERE p.scope = 'webhook' AND p.tenant_id = x.tenant_id AND p.webhook_id = x.id AND p.ended IS NULL)
  LIMIT 1) w ON true
LEFT JOIN LATERAL (
  WITH RECURSIVE lines(line) AS (
    (SELECT f.line FROM delivery f WHERE f.status = 'pending' AND f.webhook_id = w.id AND f.line >= coalesce(h.stopped, '')
     ORDER BY f.line LIMIT 1)
    UNION ALL
    SELECT (SELECT f.line FROM delivery f WHERE f.status = 'pending' AND f.webhook_id = w.id AND f.line > n.line ORDER BY f.line LIMIT 1)
    FROM lines n WHERE n.line IS NOT NULL)
  SELECT n.line FROM lines n WHERE n.line IS NOT NULL LIMIT $4) l ON true
LEFT JOIN LATERAL (
  SELECT * FROM delivery f
  WHERE f.status = 'pending' AND f.webhook_id = w.id AND f.line = l.line AND f.next_at <= now() ORDER BY f.next_at
  LIMIT CASE w.kind WHEN 'tasks' THEN $1::int ELSE $7::int END) d ON true
ORDER BY h.id, l.line, d.next_at

-- name: deliveries_tried
-- What became of attempts, and what that says of their webhooks. A delivery that was asked for by hand meanwhile, or whose
-- attempt is written already, stays as it is; and so does another one of that number, where PostgreSQL goes on from an older
-- state. An endpoint is switched off when it has answered nothing but failures for $11
-- seconds and one more delivery went through its whole schedule in vain: one failure now, and one long ago, are no
-- failures all the time. $1 deliveries, $2 attempts before, $3 rounds, $4 accepted, $5 gone,
-- $6 codes, $7 errors, $8 ms, $9 answers, $10 pauses (null: none), $12 webhooks, $13 message ids.
WITH m AS MATERIALIZED (
  SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::smallint[], $4::boolean[], $5::boolean[], $6::smallint[], $7::text[], $8::int[],
                       $9::text[], $10::float8[], $12::bigint[], $13::text[])
    AS m(id, attempts, round, accepted, gone, code, error, cost_ms, answer, pause, webhook_id, message_id) ORDER BY id
), done AS (
  UPDATE delivery d SET attempts = d.attempts + 1, last_code = m.code, last_error = m.error,
    status = CASE WHEN d.round <> m.round THEN d.status WHEN m.accepted THEN 'delivered' WHEN m.pause IS NULL THEN 'dead' ELSE 'pending' END,
    next_at = CASE WHEN d.round <> m.round THEN d.next_at WHEN NOT m.accepted THEN now() + make_interval(secs => m.pause) END,
    ended_at = CASE WHEN d.round = m.round AND (m.accepted OR m.pause IS NULL) THEN now() END,
    dead_at = CASE WHEN d.round = m.round AND NOT m.accepted AND m.pause IS NULL THEN now() END
  FROM m WHERE d.id = ANY (ARRAY[m.id]) AND (d.status = 'pending') IS TRUE AND d.attempts = m.attempts
    AND (d.webhook_id = m.webhook_id AND d.message_id = m.message_id) IS TRUE
  RETURNING d.id, d.webhook_id, d.attempts, m.code, m.error, m.cost_ms, m.answer, m.accepted, m.gone, d.status = 'dead' AS spent
), t AS (
  INSERT INTO delivery_try (delivery_id, attempt, code, error, cost_ms, answer)
  SELECT id, attempts, code, error, cost_ms, answer FROM done
), s AS MATERIALIZED (
  SELECT webhook_id, bool_or(accepted) AS accepted, bool_or(gone) AS gone, bool_or(spent) AND NOT bool_or(accepted) AS spent
  FROM done GROUP BY 1 ORDER BY 1
), w AS (
  UPDATE webhook w SET
    failing_since = CASE WHEN s.accepted THEN NULL ELSE coalesce(w.failing_since, now()) END,
    disabled_at = CASE WHEN s.gone OR s.spent AND w.failing_since < now() - make_interval(secs => $11) THEN now() END,
    disabled_reason = CASE WHEN s.gone THEN 'it answered 410 Gone'
                           WHEN s.spent AND w.failing_since < now() - make_interval(secs => $11) THEN 'nothing but failures for days' END
  FROM s WHERE w.id = s.webhook_id AND w.kind = 'endpoint' AND w.disabled_at IS NULL
    AND (s.gone OR s.accepted = (w.failing_since IS NOT NULL) OR s.spent AND w.failing_since < now() - make_interval(secs => $11))
  RETURNING w.id, w.disabled_at
)
SELECT id FROM w WHERE disabled_at IS NOT NULL

-- name: locked_deliveries
-- Which of these deliveries somebody's transaction keeps locked, or whose webhooks: it waits for nobody. $1 ids, $2 webhooks.
WITH m AS MATERIALIZED (SELECT * FROM unnest($1::bigint[], $2::bigint[]) AS m(id, webhook_id)
), hooks AS MATERIALIZED (SELECT DISTINCT webhook_id AS id FROM m
), free AS MATERIALIZED (
  SELECT f.id FROM m CROSS JOIN LATERAL (SELECT d.id FROM delivery d WHERE d.id = m.id FOR NO KEY UPDATE SKIP LOCKED) f
), open AS MATERIALIZED (
  SELECT f.id FROM hooks h CROSS JOIN LATERAL (SELECT w.id FROM webhook w WHERE w.id = h.id FOR NO KEY UPDATE SKIP LOCKED) f
), shut AS MATERIALIZED (
  SELECT f.id FROM hooks h CROSS JOIN LATERAL (SELECT w.id FROM webhook w WHERE w.id = h.id OFFSET 0) f EXCEPT TABLE open
)
SELECT f.id FROM m CROSS JOIN LATERAL (SELECT d.id FROM delivery d WHERE d.id = m.id OFFSET 0) f EXCEPT TABLE free
UNION SELECT m.id FROM m WHERE m.webhook_id = ANY (ARRAY(TABLE shut))

-- name: bury_deliveries
-- Give up what waits for webhooks that were switched off or removed; $1 at most. What somebody keeps locked is the next
-- round's: others' deliveries do not wait for it.
WITH over AS MATERIALIZED (
  SELECT d.id FROM webhook w CROSS JOIN LATERAL (
    SELECT d.id FROM delivery d WHERE d.status = 'pending' AND d.webhook_id = w.id LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED) d
  WHERE w.disabled_at IS NOT NULL OR w.deleted_at IS NOT NULL LIMIT $1
)
UPDATE delivery d SET status = 'dead', next_at = NULL, ended_at = now(), dead_at = now(), last_error = 'the webhook was switched off or removed'
WHERE d.id = ANY (ARRAY(SELECT id FROM over ORDER BY id)) AND d.status = 'pending'
RETURNING d.id

-- name: prune_deliveries
-- Old deliveries with their attempts: those that arrived after $1 days, the dead after $2, unless a replay job has them in
-- hand, and none that somebody keeps locked: whoever replays it just now, too. $3 of each at most.
WITH gone AS (
  DELETE FROM delivery WHERE id = ANY (
    ARRAY(SELECT id FROM delivery WHERE status = 'delivered' AND ended_at < now() - make_interval(days => $1)
          ORDER BY ended_at LIMIT $3 FOR UPDATE SKIP LOCKED)
    || ARRAY(SELECT d.id FROM delivery d WHERE d.dead_at IS NOT NULL
               AND d.dead_at AT TIME ZONE 'UTC' < (now() - make_interval(days => $2)) AT TIME ZONE 'UTC'
               AND (SELECT i.target FROM replay_item i WHERE i.kind = 'delivery' AND i.target = d.id AND i.result IS NULL LIMIT 1) IS NULL
             ORDER BY d.dead_at AT TIME ZONE 'UTC' LIMIT $3 FOR UPDATE SKIP LOCKED))
  RETURNING id
), t AS (
  DELETE FROM delivery_try WHERE delivery_id = ANY (ARRAY(SELECT id FROM gone))
)
SELECT id FROM gone

-- name: prune_webhooks
-- Removed webhooks that have no delivery left; an hour later, when no statement that still saw them makes one any more.
DELETE FROM webhook WHERE id = ANY (ARRAY(
  SELECT w.id FROM webhook w WHERE w.deleted_at < now() - interval '1 hour' AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.webhook_id = w.id)
  FOR UPDATE SKIP LOCKED))

-- name: webhook_page
-- The next webhooks after an id: of one tenant or (for operators) of all, or those alone that fail or were switched off;
-- and what is said of an operator's hold.
SELECT w.*, p.began AS held_since, p.paused_by AS held_by, p.reason AS held_reason
FROM webhook w LEFT JOIN pause p ON p.scope = 'webhook' AND p.tenant_id = w.tenant_id AND p.webhook_id = w.id AND p.ended IS NULL
WHERE w.deleted_at IS NULL AND w.id > :after
  AND (CAST(:tenant_id AS bigint) IS NULL OR w.tenant_id = CAST(:tenant_id AS bigint))
  AND (NOT :failing OR w.failing_since IS NOT NULL OR w.disabled_at IS NOT NULL)
ORDER BY w.id LIMIT :limit
