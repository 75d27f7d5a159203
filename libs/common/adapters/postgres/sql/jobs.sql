-- Jobs at providers. Statements by attempts compare the token: who has lost it changes nothing and is left out.

-- name: intend_jobs
-- Jobs are about to be submitted: each intent, under our own key, in the statement that moves its attempt to phase 1.
-- Asking twice gives the same answer, because an answer may be lost. An attempt whose model has another adapter by now
-- stays as it is, and comes back without an instant: the model's row is shared until this is committed, so either this
-- sees the change, or who makes it sees the job. $1 ids, $2 tokens, $3 keys, $4 adapters, $5 whether the provider can be
-- asked, $6 seconds for the job, $7 seconds more for taking its output.
WITH m AS MATERIALIZED (
  SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $4::text[], $5::boolean[], $6::int[])
    AS m(id, token, key, adapter, polls, seconds) ORDER BY id
), now_by AS MATERIALIZED (
  SELECT l.id AS lane, o.adapter FROM lane l JOIN model o ON o.id = l.model_id
  WHERE l.id = ANY (ARRAY(SELECT q.lane FROM m JOIN dispatch q ON q.id = ANY (ARRAY[m.id]))) ORDER BY l.id FOR SHARE OF o
), mine AS (
  UPDATE dispatch q SET phase = CASE WHEN n.adapter = m.adapter THEN 1 ELSE q.phase END,
    until = CASE WHEN n.adapter = m.adapter THEN least(now() + make_interval(secs => m.seconds + $7::int), q.deadline) ELSE q.until END
  FROM m, now_by n WHERE q.id = ANY (ARRAY[m.id]) AND q.token = m.token AND q.phase < 2 AND n.lane = q.lane
  RETURNING q.id, q.attempt, q.lane, m.token, m.key, m.adapter, m.polls, n.adapter = m.adapter AS as_ever,
    least(now() + make_interval(secs => m.seconds), q.deadline) AS deadline
), job AS (
  INSERT INTO provider_job (task_id, attempt, lane, intent_key, adapter, polls, permit_token, deadline)
  SELECT id, attempt, lane, key, adapter, polls, token, deadline FROM mine WHERE as_ever
  ON CONFLICT (task_id, attempt) DO UPDATE SET permit_token = EXCLUDED.permit_token
  RETURNING task_id, extract(epoch FROM intended_at)::float8 AS intended_at
)
SELECT task_id AS id, intended_at FROM job UNION ALL SELECT id, NULL FROM mine WHERE NOT as_ever

-- name: resume_jobs
-- Attempts that go on with a job that somebody else began. $1 ids, $2 tokens, $3 seconds for taking its output.
WITH m AS MATERIALIZED (SELECT * FROM unnest($1::bigint[], $2::uuid[]) AS m(id, token) ORDER BY id
), mine AS (
  UPDATE dispatch q SET until = least(p.deadline + make_interval(secs => $3::int), q.deadline)
  FROM m, provider_job p
  WHERE q.id = ANY (ARRAY[m.id]) AND q.token = m.token AND q.phase = 1 AND p.task_id = ANY (ARRAY[m.id]) AND p.attempt = q.attempt AND (p.ended_at IS NULL) IS TRUE
  RETURNING q.id, p.attempt
)
SELECT p.task_id AS id, p.intent_key, p.adapter, p.provider_id, p.permit_token, p.status, p.unit_progress, p.message,
  extract(epoch FROM p.intended_at)::float8 AS intended_at, extract(epoch FROM p.deadline - now())::float8 AS seconds_left
FROM mine x JOIN provider_job p ON p.task_id = ANY (ARRAY[x.id]) AND p.attempt = x.attempt

-- name: own_permits
-- The permits of resumed jobs are in Redis under the tokens of those that run them now. $1 ids, $2 tokens.
WITH m AS MATERIALIZED (SELECT * FROM unnest($1::bigint[], $2::uuid[]) AS m(id, token) ORDER BY id)
UPDATE provider_job p SET permit_token = m.token FROM m JOIN dispatch q ON q.id = ANY (ARRAY[m.id])
WHERE q.token = m.token AND q.phase = 1 AND p.task_id = ANY (ARRAY[m.id]) AND p.attempt = q.attempt AND (p.ended_at IS NULL) IS TRUE
RETURNING p.task_id AS id

-- name: job_news
-- What providers say of jobs, where it differs from what they said before. $1 ids, $2 tokens, $3 provider ids, $4 statuses,
-- $5 percentages, $6 messages, $7 whether they have begun: never taken back within an attempt. Where the answer to an
-- earlier submit named another job meanwhile (job_named_late), that one's id comes back, for nobody else knows it; who
-- has no name for a job says nothing of one that has.
WITH m AS MATERIALIZED (
  SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::text[], $5::float8[], $6::text[], $7::boolean[])
    AS m(id, token, provider_id, status, progress, message, begun) ORDER BY id
), mine AS (
  UPDATE dispatch q SET job = CASE WHEN m.begun OR q.job = 1 THEN 1 ELSE 2 END, version = q.version + 1
  FROM m WHERE q.id = ANY (ARRAY[m.id]) AND q.token = m.token AND q.phase = 1
  RETURNING q.id, q.attempt, m.provider_id, m.status, m.progress, m.message
), former AS MATERIALIZED (
  SELECT p.task_id, p.attempt, p.provider_id FROM mine x, provider_job p
  WHERE p.task_id = ANY (ARRAY[x.id]) AND p.attempt = x.attempt AND (p.ended_at IS NULL) IS TRUE FOR UPDATE OF p
)
UPDATE provider_job p SET provider_id = coalesce(x.provider_id, f.provider_id), unit_progress = x.progress, message = x.message,
  status = CASE WHEN x.provider_id IS NULL AND f.provider_id IS NOT NULL THEN p.status ELSE x.status END,
  submitted_at = coalesce(p.submitted_at, now()), told_at = now()
FROM mine x, former f WHERE f.task_id = x.id AND p.task_id = ANY (ARRAY[x.id]) AND p.attempt = f.attempt
RETURNING p.task_id AS id, CASE WHEN f.provider_id <> x.provider_id THEN f.provider_id ELSE '' END AS former

-- name: job_named_late
-- The answer to a submit reached somebody who had lost the attempt meanwhile. That there is a job is true all the same:
-- of one that nobody goes on with the provider is told. $1 key, $2 provider id.
UPDATE provider_job p SET provider_id = $2, submitted_at = now(), cancel_at = CASE WHEN p.ended_at IS NOT NULL THEN now() END
WHERE p.intent_key = $1 AND p.provider_id IS NULL
RETURNING p.task_id AS id

-- name: job_named
-- Whether this is the job on record, for an answer that came late to a row that has an id. A statement of its own, which
-- sees what the one before it waited for. $1 key, $2 provider id.
SELECT p.task_id AS id FROM provider_job p WHERE p.intent_key = $1 AND p.provider_id = $2

-- name: unwanted_permits
-- The permits of jobs that nobody wants any more: they go back whether or not their providers can be told. Who takes them
-- and dies leaves places that the reconcile frees. $1: at most so many.
WITH due AS MATERIALIZED (
  SELECT task_id, attempt FROM provider_job WHERE cancel_at IS NOT NULL AND NOT permit_back LIMIT $1 FOR UPDATE SKIP LOCKED
)
UPDATE provider_job p SET permit_back = true FROM due d WHERE p.task_id = ANY (ARRAY[d.task_id]) AND p.attempt = d.attempt
RETURNING p.lane, p.permit_token

-- name: unwanted_jobs
-- Jobs that nobody wants any more and whose providers have yet to be told so, of adapters that the asker knows ($4): taken
-- for $2 seconds, $1 at most. Of one lane at most $3 are told at a time, those included that the asker is at ($5 lanes, $6
-- how many): no lane's second one goes before another's first, so that a provider that hangs holds up its own jobs alone.
WITH RECURSIVE lanes AS (
  (SELECT lane, adapter FROM provider_job WHERE cancel_at IS NOT NULL ORDER BY lane, adapter LIMIT 1)
  UNION ALL
  SELECT n.lane, n.adapter FROM lanes l, LATERAL (
    SELECT p.lane, p.adapter FROM provider_job p WHERE p.cancel_at IS NOT NULL AND (p.lane, p.adapter) > (l.lane, l.adapter)
    ORDER BY p.lane, p.adapter LIMIT 1) n
), room AS (
  SELECT l.lane, l.adapter, coalesce(w.busy, 0) AS busy FROM lanes l
  LEFT JOIN unnest($5::int[], $6::int[]) AS w(lane, busy) ON w.lane = l.lane
  WHERE l.adapter = ANY ($4::text[]) AND coalesce(w.busy, 0) < $3::int
), due AS MATERIALIZED (
  SELECT d.task_id, d.attempt FROM room r, LATERAL (
    SELECT p.task_id, p.attempt, p.cancel_at FROM provider_job p
    WHERE p.lane = r.lane AND p.adapter = r.adapter AND p.cancel_at <= now()
    ORDER BY p.cancel_at LIMIT $3::int - r.busy FOR UPDATE SKIP LOCKED) d
  ORDER BY r.busy + row_number() OVER (PARTITION BY r.lane ORDER BY d.cancel_at), d.cancel_at LIMIT $1
)
UPDATE provider_job p SET cancel_at = now() + make_interval(secs => $2), cancel_tries = p.cancel_tries + 1
FROM due d, lane l WHERE p.task_id = ANY (ARRAY[d.task_id]) AND p.attempt = d.attempt AND l.id = p.lane
RETURNING p.intent_key, p.lane, l.model_id, p.adapter, p.provider_id, p.cancel_tries AS tries,
  extract(epoch FROM p.intended_at)::float8 AS intended_at, extract(epoch FROM now() - p.ended_at)::float8 AS ended_for

-- name: jobs_told_later
-- These providers are to be told at another time than everybody else ($2 seconds from now), and whether that was a try. Of
-- a row that somebody keeps locked nothing is noted, here and below: it is due again when the time for which it was taken is
-- over, and what is to be told of others does not wait for it. $1 keys, $3 tries.
WITH free AS MATERIALIZED (
  SELECT m.* FROM unnest($1::uuid[], $2::float8[], $3::boolean[]) AS m(key, seconds, tried) CROSS JOIN LATERAL (
    SELECT FROM provider_job x WHERE x.intent_key = m.key FOR NO KEY UPDATE SKIP LOCKED) f
)
UPDATE provider_job p SET cancel_at = now() + make_interval(secs => m.seconds), cancel_tries = CASE WHEN m.tried THEN p.cancel_tries ELSE p.cancel_tries - 1 END
FROM free m WHERE p.intent_key = ANY (ARRAY[m.key]) AND p.cancel_at IS NOT NULL
RETURNING p.task_id AS id

-- name: jobs_told
-- These providers were told, or cannot be; not where the id of the job, by which it can be ended, became known meanwhile.
-- $1 keys, $2 the ids that were known, empty for none.
WITH free AS MATERIALIZED (
  SELECT m.* FROM unnest($1::uuid[], $2::text[]) AS m(key, provider_id) CROSS JOIN LATERAL (
    SELECT FROM provider_job x WHERE x.intent_key = m.key FOR NO KEY UPDATE SKIP LOCKED) f
)
UPDATE provider_job p SET cancel_at = NULL FROM free m
WHERE p.intent_key = ANY (ARRAY[m.key]) AND coalesce(p.provider_id, '') = m.provider_id
RETURNING p.task_id AS id

-- name: keep_callback
-- A provider calls back about an open job: kept, as one of the newest $4, where the provider cannot be asked instead. Says
-- whose executor should look. $1 key, $2 headers, $3 body.
WITH job AS MATERIALIZED (
  SELECT p.task_id, p.attempt, p.polls FROM provider_job p WHERE p.intent_key = $1 AND (p.ended_at IS NULL) IS TRUE
), old AS (
  DELETE FROM job_callback WHERE id = ANY (ARRAY(
    SELECT c.id FROM job j CROSS JOIN LATERAL (
      SELECT c.id FROM job_callback c WHERE c.task_id = j.task_id AND c.attempt = j.attempt OFFSET 0) c ORDER BY c.id DESC OFFSET $4::int - 1))
), kept AS (
  INSERT INTO job_callback (task_id, attempt, headers, body) SELECT task_id, attempt, $2::jsonb, $3 FROM job WHERE NOT polls
)
SELECT task_id AS id FROM job

-- name: weigh_callbacks
-- How many bytes wait to be read of what providers called back with about these attempts. $1 ids, $2 attempts.
SELECT c.task_id AS id, sum(octet_length(c.body) + pg_column_size(c.headers))::bigint AS size
FROM unnest($1::bigint[], $2::int[]) AS m(id, attempt)
CROSS JOIN LATERAL (SELECT * FROM job_callback c WHERE c.task_id = m.id AND c.attempt = m.attempt::smallint OFFSET 0) c GROUP BY 1

-- name: read_callbacks
-- What providers called back with about these attempts, oldest first. $1 ids, $2 attempts.
SELECT c.id, c.task_id, c.headers, c.body FROM unnest($1::bigint[], $2::int[]) AS m(id, attempt)
CROSS JOIN LATERAL (SELECT * FROM job_callback c WHERE c.task_id = m.id AND c.attempt = m.attempt::smallint OFFSET 0) c ORDER BY c.id

-- name: drop_callbacks
-- These were read. $1 ids.
DELETE FROM job_callback WHERE id = ANY ($1::bigint[])

-- name: prune_callbacks
-- Callbacks about jobs that have ended, among the oldest $1.
DELETE FROM job_callback WHERE id = ANY (ARRAY(
  SELECT c.id FROM job_callback c WHERE c.id = ANY (ARRAY(SELECT id FROM job_callback ORDER BY id LIMIT $1))
    AND NOT EXISTS (SELECT 1 FROM provider_job p WHERE p.task_id = ANY (ARRAY[c.task_id]) AND p.attempt = c.attempt AND (p.ended_at IS NULL) IS TRUE)
  FOR UPDATE SKIP LOCKED))
RETURNING id
