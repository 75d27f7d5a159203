-- name: lease_due
-- One turn, in one round trip: kind 0 is a lane with what was seen of it, 1 a row taken, 2 a lane that somebody else had
-- locked. $1 lanes, $2 quanta, $3 lowest lease in flight, $4 $5 and $6 $7 head cursors of class 0 and 1, $8 whether
-- class 1 goes first, $9 batch, $10 dispatcher, $11 acknowledged. The function stands with the tables.
SELECT * FROM take_turn($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)

-- name: close_leases
-- Forget acknowledged leases when no turn is due that would do it; as a turn does.
DELETE FROM lease WHERE id = ANY (ARRAY(SELECT c.id FROM lease c WHERE c.id = ANY ($1::bigint[]) FOR UPDATE SKIP LOCKED))

-- name: lanes_with_work
-- The sweep behind the hints: lanes that have something ready and room in their window.
WITH RECURSIVE waiting(lane) AS (
  (SELECT lane FROM dispatch WHERE state = 0 ORDER BY lane LIMIT 1)
  UNION ALL
  SELECT (SELECT q.lane FROM dispatch q WHERE q.state = 0 AND q.lane > w.lane ORDER BY q.lane LIMIT 1)
  FROM waiting w WHERE w.lane IS NOT NULL)
SELECT l.id AS lane FROM waiting w JOIN lane l ON l.id = w.lane AND NOT l.paused AND NOT l.closed
JOIN tenant tn ON tn.id = l.tenant_id AND NOT tn.paused
WHERE l.window_size > (SELECT count(*) FROM dispatch q WHERE q.state = 1 AND q.lane = l.id)
  AND NOT EXISTS (SELECT FROM pause WHERE scope = 'all' AND ended IS NULL)

-- name: give_back
-- Rows that the broker did not acknowledge: first in line again, nothing burnt. Rows that somebody did start or hold
-- stay: their message got through after all.
WITH m AS MATERIALIZED (SELECT id FROM unnest($1::bigint[]) AS id ORDER BY id
), back AS (
  UPDATE dispatch q SET state = 0, lease = NULL, version = q.version + 1
  FROM m WHERE q.id = ANY (ARRAY[m.id]) AND q.lease = $2 AND q.token IS NULL AND q.held_by IS NULL
  RETURNING q.id, q.lane, q.class, q.priority, q.position, q.attempt, q.version
), h AS (
  INSERT INTO history (task_id, kind, attempt, version, lease, detail) SELECT id, 'heal', attempt, version, $2, 'not acknowledged' FROM back
)
SELECT id, (SELECT l.tenant_id FROM lane l WHERE l.id = back.lane) AS tenant_id, lane, class, priority, position FROM back

-- name: postpone_refused
-- Rows that the broker refused: each alone backs off, twice as long every time, and counts as one send.
UPDATE dispatch q SET state = 2, lease = NULL, sends = q.sends + 1, version = q.version + 1,
  due_at = now() + make_interval(secs => m.delay * least(power(2, q.sends), 32)), error_code = 'publish_refused', error_message = m.message
FROM unnest($1::bigint[], $2::bigint[], $3::float8[], $4::text[]) AS m(id, lease, delay, message)
WHERE q.id = ANY (ARRAY[m.id]) AND q.lease = m.lease AND q.token IS NULL AND q.held_by IS NULL
RETURNING q.id, q.sends

-- name: heal_leases
-- A dispatcher died between taking and acknowledgement: its rows are due again. $1 seconds, longer than a send may last.
-- It waits for nobody's row, so it cannot deadlock: who has a row locked is moving it, and a row that stays where it is
-- after all has no lease any more and is found by republish_lost.
WITH dead AS (
  DELETE FROM lease WHERE id = ANY (ARRAY(
    SELECT l.id FROM lease l WHERE l.taken_at < now() - make_interval(secs => $1) FOR UPDATE SKIP LOCKED)) RETURNING id
), lost AS MATERIALIZED (
  SELECT o.id, o.lease FROM dispatch o WHERE o.state = 1 AND o.lease = ANY (ARRAY(SELECT id FROM dead))
    AND o.token IS NULL AND o.held_by IS NULL FOR UPDATE SKIP LOCKED
), back AS (
  UPDATE dispatch q SET state = 0, lease = NULL, version = q.version + 1
  FROM lost o WHERE q.id = ANY (ARRAY[o.id])
  RETURNING q.id, q.lane, q.class, q.priority, q.position, q.attempt, q.version, o.lease
), h AS (
  INSERT INTO history (task_id, kind, attempt, version, lease, detail) SELECT id, 'heal', attempt, version, lease, 'dispatcher lost' FROM back
)
SELECT id, (SELECT l.tenant_id FROM lane l WHERE l.id = back.lane) AS tenant_id, lane, class, priority, position FROM back

-- name: republish_lost
-- Published, never picked up: the log does not hold it any more. $1 seconds of age, $2 rows at most. OFFSET 0: asked for
-- the order of the key outright, the planner walks the whole table in that order. Rows that somebody keeps locked are the next
-- round's.
WITH lost AS MATERIALIZED (
  SELECT * FROM (
    SELECT o.id, o.lease FROM dispatch o
    WHERE o.state = 1 AND o.token IS NULL AND o.held_by IS NULL AND o.leased_at < now() - make_interval(secs => $1)
      AND (SELECT l.id FROM lease l WHERE l.id = o.lease) IS NULL OFFSET 0 FOR UPDATE OF o SKIP LOCKED) f
  ORDER BY f.id LIMIT $2
), back AS (
  UPDATE dispatch q SET state = 0, lease = NULL, version = q.version + 1
  FROM lost o WHERE q.id = ANY (ARRAY[o.id]) AND q.lease = o.lease AND q.token IS NULL AND q.held_by IS NULL
  RETURNING q.id, q.lane, q.class, q.priority, q.position, q.attempt, q.version, o.lease
), h AS (
  INSERT INTO history (task_id, kind, attempt, version, lease, detail) SELECT id, 'heal', attempt, version, lease, 'never picked up' FROM back
)
SELECT id, (SELECT l.tenant_id FROM lane l WHERE l.id = back.lane) AS tenant_id, lane, class, priority, position FROM back

-- name: start_many
-- Claim and start: who holds the right lease number gets the row, its input, and a fence of its own. The call counts
-- in the statistics from here on. Who has come too late for start_by or deadline is not started; what a provider or a store
-- has already is, so that its executor can end it; its attempt goes on, and began when it did. $1 ids, $2 leases, $3 tokens, $4 timeouts in seconds, $5 executor,
-- $6 time zone, $7 job: 2 where the call will be a provider's job, which has not begun then, else 0.
WITH started AS (
  UPDATE dispatch q SET executor = $5, token = m.token, held_by = NULL, version = q.version + 1,
    started_at = CASE WHEN q.phase = 0 THEN now() ELSE coalesce(q.started_at, now()) END,
    attempt = q.attempt + CASE WHEN q.phase = 0 THEN 1 ELSE 0 END, until = least(now() + make_interval(secs => m.timeout), q.deadline),
    expires_at = q.deadline, job = CASE WHEN q.phase = 0 THEN m.job ELSE q.job END, error_code = NULL, error_message = NULL
  FROM unnest($1::bigint[], $2::bigint[], $3::uuid[], $4::int[], $7::smallint[]) AS m(id, lease, token, timeout, job)
  WHERE q.id = ANY (ARRAY[m.id]) AND q.lease = m.lease AND q.token IS NULL AND (q.held_by IS NULL OR q.held_by = $5)
    AND (q.expires_at IS NULL OR q.expires_at > now() OR q.phase > 0)
  RETURNING q.*
), counted AS (
  INSERT INTO stat_delta (day, tenant_id, creator, model_id, calls)
  SELECT (now() AT TIME ZONE $6)::date, t.tenant_id, t.creator, t.model_id, count(*)
  FROM started s JOIN task t ON t.id = ANY (ARRAY[s.id]) WHERE s.phase = 0 GROUP BY t.tenant_id, t.creator, t.model_id
)
SELECT s.id, s.public_id, s.lane, s.lease, s.token, s.phase, s.attempt, s.retries, s.lost, s.entered_at, s.started_at,
  s.staged, s.staged_size, s.staged_hash, s.staged_type, s.staged_files, extract(epoch FROM now() - s.generated_at)::float8 AS upload_age,
  k.tenant_id, k.model_id, k.input_ref, k.trace, k.created_at,
  extract(epoch FROM now() - k.created_at)::float8 AS age, extract(epoch FROM s.deadline - now())::float8 AS deadline_in, k.output_count,
  i.payload, x.sealed, o.content AS staged_content
FROM started s JOIN task k ON k.id = ANY (ARRAY[s.id]) JOIN task_input i ON i.task_id = ANY (ARRAY[s.id]) LEFT JOIN task_secret x ON x.task_id = ANY (ARRAY[s.id])
LEFT JOIN staged_output o ON o.task_id = ANY (ARRAY[s.id]) AND s.phase >= 2

-- name: locked_rows
-- Which of these open tasks have a row, of the open job of theirs too, that somebody's transaction keeps locked: it waits for
-- nobody. $1 ids.
WITH m AS MATERIALIZED (SELECT id FROM unnest($1::bigint[]) AS id
), queued AS MATERIALIZED (
  SELECT q.id FROM m CROSS JOIN LATERAL (SELECT d.id FROM dispatch d WHERE d.id = m.id FOR UPDATE SKIP LOCKED) q
), written AS MATERIALIZED (
  SELECT t.id FROM m CROSS JOIN LATERAL (SELECT k.id FROM task k WHERE k.id = m.id FOR NO KEY UPDATE SKIP LOCKED) t
), job AS MATERIALIZED (
  SELECT p.task_id, p.attempt FROM m JOIN provider_job p ON p.task_id = ANY (ARRAY[m.id]) AND (p.ended_at IS NULL) IS TRUE
), told AS MATERIALIZED (
  SELECT p.task_id, p.attempt FROM job CROSS JOIN LATERAL (
    SELECT x.task_id, x.attempt FROM provider_job x WHERE x.task_id = job.task_id AND x.attempt = job.attempt FOR UPDATE SKIP LOCKED) p
)
SELECT o.id FROM m CROSS JOIN LATERAL (SELECT d.id FROM dispatch d WHERE d.id = m.id OFFSET 0) o
EXCEPT (SELECT id FROM queued INTERSECT SELECT id FROM written)
UNION SELECT task_id FROM (TABLE job EXCEPT TABLE told) kept

-- name: locked_payers
-- Which of these tasks have taken points from an account that somebody's transaction keeps locked, so that none can go back
-- there: it waits for nobody. $1 ids.
WITH m AS MATERIALIZED (
  SELECT t.id, t.tenant_id, t.creator, t.quota_day FROM unnest($1::bigint[]) AS m(id) JOIN task t ON t.id = ANY (ARRAY[m.id]) AND t.points > 0
), account AS MATERIALIZED (
  SELECT a.* FROM (SELECT DISTINCT tenant_id, creator, quota_day FROM m) a CROSS JOIN LATERAL (
    SELECT FROM quota_usage u WHERE u.tenant_id = a.tenant_id AND u.user_name = a.creator AND u.day = a.quota_day OFFSET 0) u
), free AS MATERIALIZED (
  SELECT a.* FROM account a CROSS JOIN LATERAL (
    SELECT FROM quota_usage u WHERE u.tenant_id = a.tenant_id AND u.user_name = a.creator AND u.day = a.quota_day
    FOR NO KEY UPDATE SKIP LOCKED) u
)
SELECT m.id FROM m JOIN (TABLE account EXCEPT TABLE free) kept USING (tenant_id, creator, quota_day)

-- name: locked_models
-- Which of these tasks have a model whose row somebody's transaction changes, so that no job may be begun there: it waits for
-- nobody. $1 ids.
WITH m AS MATERIALIZED (
  SELECT t.id, t.model_id FROM unnest($1::bigint[]) AS m(id) JOIN task t ON t.id = ANY (ARRAY[m.id])
), free AS MATERIALIZED (
  SELECT o.id FROM (SELECT DISTINCT model_id FROM m) x CROSS JOIN LATERAL (
    SELECT y.id FROM model y WHERE y.id = x.model_id FOR SHARE SKIP LOCKED) o
)
SELECT id FROM m WHERE model_id <> ALL (ARRAY(TABLE free))

-- name: started_many
-- Attempts that these tokens have started already: a start whose answer was lost is read back here. $1 ids, $2 tokens.
SELECT s.id, s.public_id, s.lane, s.lease, s.token, s.phase, s.attempt, s.retries, s.lost, s.entered_at, s.started_at,
  s.staged, s.staged_size, s.staged_hash, s.staged_type, s.staged_files, extract(epoch FROM now() - s.generated_at)::float8 AS upload_age,
  k.tenant_id, k.model_id, k.input_ref, k.trace, k.created_at,
  extract(epoch FROM now() - k.created_at)::float8 AS age, extract(epoch FROM s.deadline - now())::float8 AS deadline_in, k.output_count,
  i.payload, x.sealed, o.content AS staged_content
FROM unnest($1::bigint[], $2::uuid[]) AS m(id, token) JOIN dispatch s ON s.id = ANY (ARRAY[m.id]) AND s.token = m.token
JOIN task k ON k.id = ANY (ARRAY[s.id]) JOIN task_input i ON i.task_id = ANY (ARRAY[s.id]) LEFT JOIN task_secret x ON x.task_id = ANY (ARRAY[s.id])
LEFT JOIN staged_output o ON o.task_id = ANY (ARRAY[s.id]) AND s.phase >= 2

-- name: hold_many
-- Rows that wait for a permit with this executor; asking twice gives the same answer, because an answer may be lost.
-- Those that are stale, started or held by another are left out.
UPDATE dispatch q SET held_by = $3 FROM unnest($1::bigint[], $2::bigint[]) AS m(id, lease)
WHERE q.id = ANY (ARRAY[m.id]) AND q.lease = m.lease AND q.token IS NULL AND (q.held_by IS NULL OR q.held_by = $3)
RETURNING q.id, q.lease

-- name: hand_over
-- Uploads whose staged file lies in a store that only another executor has go to that executor, under the same lease:
-- it finds them by handed_rows. $1 ids, $2 tokens, $3 executors.
UPDATE dispatch q SET held_by = m.executor, token = NULL, executor = NULL, until = NULL, version = q.version + 1
FROM unnest($1::bigint[], $2::uuid[], $3::int[]) AS m(id, token, executor)
WHERE q.id = ANY (ARRAY[m.id]) AND q.token = m.token AND q.phase >= 2
RETURNING q.id

-- name: handed_rows
-- Uploads that others have handed to this executor.
SELECT q.id, q.lease, q.phase, q.input_size, l.model_id FROM dispatch q JOIN lane l ON l.id = q.lane
WHERE q.state = 1 AND q.held_by = $1 AND q.token IS NULL AND q.phase >= 2

-- name: release_held
-- Give back what waited for a permit: same place in the queue.
WITH m AS MATERIALIZED (SELECT id FROM unnest($1::bigint[]) AS id ORDER BY id
), back AS (
  UPDATE dispatch q SET state = 0, lease = NULL, held_by = NULL, version = q.version + 1
  FROM dispatch o, m WHERE o.id = ANY (ARRAY[m.id]) AND q.id = ANY (ARRAY[o.id]) AND q.held_by = $2 AND q.token IS NULL
  RETURNING q.id, q.lane, q.class, q.priority, q.position, q.attempt, q.version, o.lease
), h AS (
  INSERT INTO history (task_id, kind, attempt, version, lease, detail) SELECT id, 'release', attempt, version, lease, 'held' FROM back
)
SELECT id, lane, class, priority, position FROM back

-- name: release_started
-- Give back what was started but not called, or may be called again at no cost: no attempt is used up, the count in
-- the statistics is taken back where the model was not called, and start_by holds again. A job goes on at its provider,
-- unless none was made. What waits for a while says why. $1 ids, $2 tokens, $3 delays, $4 called, $5 reasons, $6 time zone.
WITH back AS (
  UPDATE dispatch q SET state = CASE WHEN m.delay > 0 THEN 2 ELSE 0 END,
    due_at = CASE WHEN m.delay > 0 THEN now() + make_interval(secs => m.delay) END,
    error_code = CASE WHEN m.delay > 0 THEN m.reason END, class = 0, lease = NULL, token = NULL, executor = NULL, until = NULL, version = q.version + 1,
    started_at = CASE WHEN q.phase >= 2 OR q.phase = 1 AND m.called THEN q.started_at END,
    phase = CASE WHEN q.phase = 1 AND NOT m.called THEN 0 ELSE q.phase END,
    expires_at = CASE WHEN q.phase <= 1 AND NOT m.called AND q.attempt = 1 THEN least(q.start_by, q.deadline) ELSE q.deadline END,
    attempt = q.attempt - CASE WHEN q.phase <= 1 AND NOT m.called THEN 1 ELSE 0 END
  FROM unnest($1::bigint[], $2::uuid[], $3::float8[], $4::boolean[], $5::text[]) AS m(id, token, delay, called, reason), dispatch o
  WHERE o.id = ANY (ARRAY[m.id]) AND q.id = ANY (ARRAY[o.id]) AND q.token = m.token AND o.token = m.token
  RETURNING q.id, q.lane, q.state, q.phase, q.class, q.priority, q.position, q.attempt, q.version, o.lease, o.started_at AS began, m.called,
    m.reason, q.job > 0 AND q.phase = 0 AND NOT m.called AS withdrawn
), h AS (
  INSERT INTO history (task_id, kind, attempt, version, lease, detail) SELECT id, 'release', attempt, version, lease, reason FROM back
), uncounted AS (
  INSERT INTO stat_delta (day, tenant_id, creator, model_id, calls)
  SELECT (b.began AT TIME ZONE $6)::date, t.tenant_id, t.creator, t.model_id, -count(*)
  FROM back b JOIN task t ON t.id = ANY (ARRAY[b.id]) WHERE b.phase = 0 AND NOT b.called GROUP BY 1, 2, 3, 4
), pj AS (
  DELETE FROM provider_job p WHERE p.task_id = ANY (ARRAY(SELECT id FROM back WHERE withdrawn)) AND (p.ended_at IS NULL) IS TRUE
)
SELECT id, lane, state, class, priority, position FROM back

-- name: generated_many
-- The output is staged: from here on the model is not called again for this attempt. Small outputs ($7, else NULL) are
-- kept by this very statement; writing them twice, after a lost answer, leaves one. $8: the files, where they are several.
-- The job of a provider is over.
WITH m AS MATERIALIZED (
  SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::bigint[], $5::bytea[], $6::text[], $7::bytea[], $8::text[])
    AS m(id, token, staged, size, hash, type, content, files)
), mine AS (
  UPDATE dispatch q SET phase = 2, generated_at = now(), version = q.version + 1,
    staged = m.staged, staged_size = m.size, staged_hash = m.hash, staged_type = m.type, staged_files = m.files::jsonb
  FROM m WHERE q.id = ANY (ARRAY[m.id]) AND q.token = m.token
  RETURNING q.id, q.job, m.content
), pj AS (
  UPDATE provider_job p SET ended_at = now(), status = 'succeeded'
  WHERE p.task_id = ANY (ARRAY(SELECT id FROM mine WHERE job > 0)) AND (p.ended_at IS NULL) IS TRUE
), kept AS (
  INSERT INTO staged_output (task_id, content) SELECT id, content FROM mine WHERE content IS NOT NULL
  ON CONFLICT (task_id) DO UPDATE SET content = EXCLUDED.content
)
SELECT id FROM mine

-- name: migrating_many
-- The upload lasts long enough to be shown.
UPDATE dispatch q SET phase = 3, migrating_at = now(), version = q.version + 1
FROM unnest($1::bigint[], $2::uuid[]) AS m(id, token) WHERE q.id = ANY (ARRAY[m.id]) AND q.token = m.token
RETURNING q.id

-- name: finish_many
-- The end of tasks, by the holder of each attempt's token: task, attempt row, event; the dispatch row and the secrets
-- go, the points of what is no success go back (`given_back`, word for word the same in every statement that ends tasks).
-- Who has lost the token changes nothing. A call of which no model has heard ($11 false) counts no longer. $12 time zone.
-- An attempt that somebody else ends was perhaps brought on since that transaction began: it ended after all that it did.
WITH x AS MATERIALIZED (
  SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::smallint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[],
                       $9::text[], $10::boolean[], $11::boolean[])
    AS x(id, token, status, code, message, oss_file, file_type, file_size, files, dead, called) ORDER BY id
), gone AS (
  DELETE FROM dispatch q USING x WHERE q.id = ANY (ARRAY[x.id]) AND q.token = x.token
  RETURNING q.*, x.status, x.code, x.message, x.oss_file, x.file_type, x.file_size, x.files::jsonb AS files, x.dead, x.called
), uncounted AS (
  INSERT INTO stat_delta (day, tenant_id, creator, model_id, calls)
  SELECT (g.started_at AT TIME ZONE $12)::date, k.tenant_id, k.creator, k.model_id, -count(*)
  FROM gone g JOIN task k ON k.id = ANY (ARRAY[g.id]) WHERE NOT g.called GROUP BY 1, 2, 3, 4
), t AS (
  UPDATE task t SET status = g.status, attempt = g.attempt, retries = g.retries, version = g.version + 1, executor = g.executor,
    started_at = g.started_at, finished_at = now(), oss_file = g.oss_file, file_type = g.file_type, file_size = g.file_size,
    files = g.files, error_code = g.code, error_message = g.message
  FROM gone g WHERE t.id = ANY (ARRAY[g.id])
  RETURNING t.tenant_id, t.creator, t.quota_day, t.points, t.status
), given_back AS (
  UPDATE quota_usage u SET used = greatest(u.used - b.points, 0)
  FROM (SELECT tenant_id, creator, quota_day, sum(points) AS points FROM t WHERE points > 0 AND status > 6
        GROUP BY 1, 2, 3 ORDER BY 1, 2, 3) b
  WHERE u.tenant_id = ANY (ARRAY[b.tenant_id]) AND u.user_name = b.creator AND u.day = ANY (ARRAY[b.quota_day])
), a AS (
  INSERT INTO attempt (task_id, attempt, outcome, executor, token, called, entered_at, leased_at, started_at, generated_at,
                       migrating_at, ended_at, staged_size, error_code, error_message)
  SELECT id, attempt, CASE status WHEN 6 THEN 'success' WHEN 8 THEN 'timeout' WHEN 9 THEN 'canceled' ELSE 'failed' END,
         executor, token, called, entered_at, least(leased_at, started_at), started_at, generated_at, migrating_at,
         greatest(now(), started_at, generated_at, migrating_at), staged_size, code, message FROM gone
), dd AS (
  INSERT INTO dead_task (task_id, tenant_id, model_id, error_code, version, staged, staged_size, staged_hash, staged_type, staged_files)
  SELECT g.id, k.tenant_id, k.model_id, g.code, g.version + 1, g.staged, g.staged_size, g.staged_hash, g.staged_type, g.staged_files
  FROM gone g JOIN task k ON k.id = ANY (ARRAY[g.id]) WHERE g.dead
), ss AS (
  DELETE FROM task_secret WHERE task_id = ANY (ARRAY(SELECT id FROM gone WHERE NOT (dead AND staged IS NOT NULL)))
), so AS (
  DELETE FROM staged_output WHERE task_id = ANY (ARRAY(SELECT id FROM gone WHERE phase >= 2 AND NOT dead))
), pj AS (
  UPDATE provider_job p SET ended_at = now(), cancel_at = CASE WHEN p.status IN ('intended', 'queued', 'processing') THEN now() END
  WHERE p.task_id = ANY (ARRAY(SELECT id FROM gone WHERE phase = 1)) AND (p.ended_at IS NULL) IS TRUE
), cc AS (
  DELETE FROM cancel_request WHERE task_id = ANY (ARRAY(SELECT id FROM gone))
)
INSERT INTO event (task_id, version, status, attempt, started_at, oss_file, file_type, file_size, files, error_code, error_message)
SELECT id, version + 1, status, attempt, started_at, oss_file, file_type, file_size, files, code, message FROM gone
RETURNING task_id AS id

-- name: retry_many
-- A failed attempt with attempts left: its row is written, the task waits for its retry without a gate slot. Not one whose
-- output was staged meanwhile: no model is called again for it.
-- Where it stands in the queue is settled when it returns (requeue_retries).
-- $1 ids, $2 tokens, $3 delays, $4 head, $5 codes, $6 messages, $7 timed out, $8 whether the model has heard of the call
-- (else it counts no longer), $9 time zone.
WITH m AS MATERIALIZED (
  SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::float8[], $4::boolean[], $5::text[], $6::text[], $7::boolean[], $8::boolean[])
    AS m(id, token, delay, head, code, message, timed_out, called) ORDER BY id
), back AS (
  UPDATE dispatch q SET state = 3, due_at = now() + make_interval(secs => m.delay), retries = q.retries + 1,
    class = CASE WHEN m.head THEN 0 ELSE 1 END, phase = 0,
    lease = NULL, leased_at = NULL, token = NULL, executor = NULL, started_at = NULL, until = NULL, entered_at = now(),
    error_code = m.code, error_message = m.message, version = q.version + 1
  FROM m, dispatch o WHERE o.id = ANY (ARRAY[m.id]) AND q.id = ANY (ARRAY[o.id]) AND q.token = m.token AND o.token = m.token AND q.phase < 2
  RETURNING q.id, q.attempt, q.version, q.error_code, q.error_message, m.timed_out, m.called, o.executor, o.token, o.entered_at, o.lease,
    o.leased_at, o.started_at, q.job
), pj AS (
  UPDATE provider_job p SET ended_at = now(), cancel_at = CASE WHEN p.status IN ('intended', 'queued', 'processing') THEN now() END
  WHERE p.task_id = ANY (ARRAY(SELECT id FROM back WHERE job > 0)) AND (p.ended_at IS NULL) IS TRUE
), uncounted AS (
  INSERT INTO stat_delta (day, tenant_id, creator, model_id, calls)
  SELECT (b.started_at AT TIME ZONE $9)::date, k.tenant_id, k.creator, k.model_id, -count(*)
  FROM back b JOIN task k ON k.id = ANY (ARRAY[b.id]) WHERE NOT b.called GROUP BY 1, 2, 3, 4
), a AS (
  INSERT INTO attempt (task_id, attempt, outcome, executor, token, called, entered_at, leased_at, started_at, ended_at, error_code, error_message)
  SELECT id, attempt, CASE WHEN timed_out THEN 'timeout' ELSE 'failed' END, executor, token, called, entered_at,
         least(leased_at, started_at), started_at, greatest(now(), started_at), error_code, error_message FROM back
), h AS (
  INSERT INTO history (task_id, kind, attempt, version, lease, detail) SELECT id, 'retry', attempt, version, lease, error_code FROM back
)
SELECT id FROM back

-- name: park_many
-- Storage does not take the output now: permit back, slot kept, the upload alone is due again after a delay.
WITH m AS MATERIALIZED (
  SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::float8[], $4::text[], $5::text[]) AS m(id, token, delay, code, message) ORDER BY id
), back AS (
  UPDATE dispatch q SET state = 2, due_at = now() + make_interval(secs => m.delay), class = 0, lease = NULL, token = NULL,
    executor = NULL, until = NULL, error_code = m.code, error_message = m.message, version = q.version + 1
  FROM m WHERE q.id = ANY (ARRAY[m.id]) AND q.token = m.token AND q.phase >= 2
  RETURNING q.id, q.attempt, q.version, q.error_code
), h AS (
  INSERT INTO history (task_id, kind, attempt, version, detail) SELECT id, 'park', attempt, version, error_code FROM back
)
SELECT id FROM back

-- name: call_again_many
-- The staged output is gone, or not what was written: this attempt is over, one more call follows from the head of the
-- queue, recorded.
WITH m AS MATERIALIZED (
  SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::text[]) AS m(id, token, message) ORDER BY id
), back AS (
  UPDATE dispatch q SET state = 0, class = 0, phase = 0, lost = q.lost + 1, staged = NULL, staged_size = NULL, staged_hash = NULL, staged_type = NULL,
    staged_files = NULL, generated_at = NULL, migrating_at = NULL, lease = NULL, leased_at = NULL, token = NULL, executor = NULL, started_at = NULL,
    until = NULL, entered_at = now(), version = q.version + 1, error_code = 'staging_lost', error_message = m.message
  FROM m, dispatch o WHERE o.id = ANY (ARRAY[m.id]) AND q.id = ANY (ARRAY[o.id]) AND q.token = m.token AND o.token = m.token
  RETURNING q.id, q.lane, q.class, q.priority, q.position, q.attempt, q.version, q.error_message, o.executor, o.token, o.lease,
    o.entered_at, o.leased_at, o.started_at, o.generated_at, o.migrating_at, o.staged_size
), a AS (
  INSERT INTO attempt (task_id, attempt, outcome, executor, token, entered_at, leased_at, started_at, generated_at, migrating_at,
                       staged_size, error_code, error_message)
  SELECT id, attempt, 'staging_lost', executor, token, entered_at, least(leased_at, started_at), started_at, generated_at, migrating_at, staged_size,
         'staging_lost', error_message FROM back
), so AS (
  DELETE FROM staged_output WHERE task_id = ANY (ARRAY(SELECT id FROM back))
), h AS (
  INSERT INTO history (task_id, kind, attempt, version, lease, detail) SELECT id, 'staging_lost', attempt, version, lease, error_message FROM back
)
SELECT id, lane, class, priority, position FROM back

-- name: unclaimed_partitions
-- Partitions with published rows that nobody has claimed: the truth behind the road's hints. With each its oldest row and
-- that row's age by this clock.
WITH RECURSIVE busy(lane) AS (
  (SELECT lane FROM dispatch WHERE state = 1 ORDER BY lane LIMIT 1)
  UNION ALL
  SELECT (SELECT q.lane FROM dispatch q WHERE q.state = 1 AND q.lane > b.lane ORDER BY q.lane LIMIT 1)
  FROM busy b WHERE b.lane IS NOT NULL)
SELECT l.model_id, p.partition, p.oldest, extract(epoch FROM now() - p.oldest)::float8 AS age
FROM busy b JOIN lane l ON l.id = b.lane JOIN model m ON m.id = l.model_id
CROSS JOIN LATERAL (
  SELECT (q.id % coalesce(l.partitions, m.partitions))::int AS "partition", min(q.leased_at) AS oldest FROM dispatch q
  WHERE q.lane = b.lane AND q.state = 1 AND q.token IS NULL AND q.held_by IS NULL GROUP BY 1) p

-- name: read_from
-- For each (lane, partition): the instant from which its log must be read so that nothing unclaimed is missed. Five seconds
-- are more than a turn's transaction and a send take. No row says that bytes which nobody understands were not read yet: so
-- from the last beat of who fell silent, until that is known to all, and from the last good stop, if nobody read since.
WITH lost AS MATERIALIZED (
  SELECT min(beat_at) AS at FROM executor
  WHERE beat_at < coalesce(stopped_at, now()) - interval '3 seconds' AND (stopped_at IS NULL OR stopped_at > now() - interval '10 seconds')
), gap AS MATERIALIZED (
  SELECT max(stopped_at) AS at FROM executor
  WHERE NOT EXISTS (SELECT FROM executor WHERE stopped_at IS NULL AND started_at < now() - interval '10 seconds')
)
SELECT x.lane, x.partition, least(now() - interval '5 seconds', lost.at - interval '5 seconds', gap.at - interval '5 seconds', (
  SELECT min(q.leased_at) FROM dispatch q
  WHERE q.lane = x.lane AND q.state = 1 AND q.token IS NULL AND q.held_by IS NULL AND q.id % coalesce(l.partitions, m.partitions) = x.partition
)) - interval '1 millisecond' AS since, now() AS now
FROM unnest($1::int[], $2::int[]) AS x(lane, partition) JOIN lane l ON l.id = x.lane JOIN model m ON m.id = l.model_id, lost, gap

-- name: ends_recorded
-- Which of these attempts have their row: an end whose answer was lost is read back here. $1 ids, $2 attempts, $3 tokens.
SELECT a.task_id AS id FROM unnest($1::bigint[], $2::int[], $3::uuid[]) AS m(id, attempt, token)
JOIN attempt a ON a.task_id = ANY (ARRAY[m.id]) AND a.attempt = m.attempt::smallint AND a.token = m.token AND a.outcome <> 'lost'

-- name: tokens_alive
-- Which of these attempts are still ours: asked after an outage, the others are aborted.
SELECT q.token FROM unnest($1::bigint[], $2::uuid[]) AS m(id, token) JOIN dispatch q ON q.id = ANY (ARRAY[m.id]) AND q.token = m.token

-- name: named_rows
-- Rows that name an executor as who runs or holds them, or was handed them.
SELECT q.id, q.lease, q.token FROM dispatch q
WHERE q.state = 1 AND (q.token IS NOT NULL AND q.executor = $1 OR q.token IS NULL AND q.held_by = $1)

-- name: disown
-- Of these, whoever $4 is knows nothing: they are executor 0's, who does not live, so that they are rescued. $1 ids,
-- $2 leases, $3 tokens, null for what is held.
UPDATE dispatch q SET executor = CASE WHEN q.token IS NULL THEN q.executor ELSE 0 END, held_by = CASE WHEN q.token IS NULL THEN 0 END,
  version = q.version + 1
FROM unnest($1::bigint[], $2::bigint[], $3::uuid[]) AS m(id, lease, token)
WHERE q.id = ANY (ARRAY[m.id]) AND q.lease = m.lease
  AND (q.token = m.token AND q.executor = $4 OR m.token IS NULL AND q.token IS NULL AND q.held_by = $4)

-- name: new_dispatcher
-- A number for a dispatcher process.
SELECT nextval('dispatcher_ids')::int AS id

-- name: bury_refused
-- Rows that the broker refused too often: their tasks fail as undeliverable, dead, with their event. One whose output was
-- staged keeps the file for a replay, and its attempt gets its row. Who was due again meanwhile has another chance: the
-- broker may have taken it, from another dispatcher.
WITH gone AS (
  DELETE FROM dispatch q WHERE q.id = ANY ($1::bigint[]) AND q.state = 2 AND q.error_code = 'publish_refused'
  RETURNING q.id, q.public_id, q.lane, q.phase, q.attempt, q.retries, q.version + 1 AS version, q.staged, q.staged_size, q.staged_hash,
    q.staged_type, q.staged_files, q.entered_at, q.started_at, q.generated_at, q.migrating_at
), a AS (
  INSERT INTO attempt (task_id, attempt, outcome, entered_at, started_at, generated_at, migrating_at, staged_size, error_code, error_message)
  SELECT id, attempt, 'failed', entered_at, started_at, generated_at, migrating_at, staged_size, 'undeliverable', $2 FROM gone WHERE phase >= 1
  ON CONFLICT DO NOTHING
), t AS (
  UPDATE task t SET status = 7, started_at = g.started_at, finished_at = now(), attempt = g.attempt, retries = g.retries,
    version = g.version, error_code = 'undeliverable', error_message = $2 FROM gone g WHERE t.id = ANY (ARRAY[g.id])
  RETURNING t.tenant_id, t.creator, t.quota_day, t.points, t.status
), given_back AS (
  UPDATE quota_usage u SET used = greatest(u.used - b.points, 0)
  FROM (SELECT tenant_id, creator, quota_day, sum(points) AS points FROM t WHERE points > 0 AND status > 6
        GROUP BY 1, 2, 3 ORDER BY 1, 2, 3) b
  WHERE u.tenant_id = ANY (ARRAY[b.tenant_id]) AND u.user_name = b.creator AND u.day = ANY (ARRAY[b.quota_day])
), dd AS (
  INSERT INTO dead_task (task_id, tenant_id, model_id, error_code, version, staged, staged_size, staged_hash, staged_type, staged_files)
  SELECT g.id, k.tenant_id, k.model_id, 'undeliverable', g.version, g.staged, g.staged_size, g.staged_hash, g.staged_type, g.staged_files
  FROM gone g JOIN task k ON k.id = ANY (ARRAY[g.id])
), ss AS (
  DELETE FROM task_secret WHERE task_id = ANY (ARRAY(SELECT id FROM gone WHERE staged IS NULL))
), pj AS (
  UPDATE provider_job p SET ended_at = now(), cancel_at = CASE WHEN p.status IN ('intended', 'queued', 'processing') THEN now() END
  WHERE p.task_id = ANY (ARRAY(SELECT id FROM gone WHERE phase = 1)) AND (p.ended_at IS NULL) IS TRUE
), ev AS (
  INSERT INTO event (task_id, version, status, attempt, started_at, error_code, error_message)
  SELECT id, version, 7, attempt, started_at, 'undeliverable', $2 FROM gone
)
SELECT public_id, lane FROM gone

-- name: spread_lanes
-- Over how many partitions the messages of these lanes are spread. $1 lanes, $2 partitions.
UPDATE lane l SET partitions = x.partitions
FROM (SELECT * FROM unnest($1::int[], $2::int[]) AS x(lane, partitions) ORDER BY lane) x
WHERE l.id = x.lane AND l.partitions IS DISTINCT FROM x.partitions
