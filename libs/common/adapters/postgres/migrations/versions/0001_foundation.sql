-- Sequences. CACHE 1 everywhere: lease numbers of a lane must only grow, and the event relay's gaps must stay small.
CREATE SEQUENCE task_ids CACHE 1;
CREATE SEQUENCE model_ids CACHE 1;
CREATE SEQUENCE lease_ids CACHE 1;
CREATE SEQUENCE event_ids CACHE 1;
CREATE SEQUENCE executor_ids AS int CACHE 1;
CREATE SEQUENCE dispatcher_ids AS int CACHE 1;

CREATE TABLE tenant (
  id bigint PRIMARY KEY,
  weight smallint NOT NULL DEFAULT 1 CHECK (weight BETWEEN 1 AND 1000),
  paused boolean NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX tenant_changed ON tenant (updated_at);

CREATE TABLE api_key (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant_id bigint NOT NULL,
  name text NOT NULL DEFAULT '',
  digest bytea NOT NULL UNIQUE,
  scopes text[] NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  revoked_at timestamptz
);

-- Who is signed in to the console, and by which key; the cookie's digest is all that is known of it.
CREATE TABLE console_session (
  digest bytea PRIMARY KEY,
  key_id bigint NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz NOT NULL
);
CREATE INDEX console_session_end ON console_session (expires_at);

CREATE TABLE model (
  id bigint PRIMARY KEY DEFAULT nextval('model_ids'),
  tenant_id bigint NOT NULL,
  name text NOT NULL,
  base_url text NOT NULL,
  route text NOT NULL DEFAULT '',
  http_method text NOT NULL DEFAULT 'POST',
  bindings bytea,
  enabled boolean NOT NULL DEFAULT true,
  max_concurrency int NOT NULL DEFAULT 10 CHECK (max_concurrency > 0),
  queue_limit int NOT NULL DEFAULT 1000 CHECK (queue_limit > 0),
  timeout_seconds int NOT NULL DEFAULT 60 CHECK (timeout_seconds > 0),
  expected_seconds int NOT NULL DEFAULT 0,
  retry_times smallint NOT NULL DEFAULT 0,
  retry_queue_max_seconds int NOT NULL DEFAULT 0,
  auto_clean_seconds int NOT NULL DEFAULT 86400 CHECK (auto_clean_seconds > 0),
  adapter text NOT NULL DEFAULT 'plain-http',
  adapter_config text NOT NULL DEFAULT '{}',
  poll_seconds int NOT NULL DEFAULT 3,
  job_timeout_seconds int NOT NULL DEFAULT 3600,
  price int NOT NULL DEFAULT 0,
  remark text NOT NULL DEFAULT '',
  partitions int NOT NULL DEFAULT 1 CHECK (partitions > 0),
  creator text NOT NULL DEFAULT '',
  updater text NOT NULL DEFAULT '',
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  deleted_at timestamptz,
  version int NOT NULL DEFAULT 1
);
CREATE UNIQUE INDEX model_name ON model (tenant_id, name) WHERE deleted_at IS NULL;
-- Who had a name before: what was counted for a deleted model can still be read.
CREATE INDEX model_name_once ON model (tenant_id, name, deleted_at) WHERE deleted_at IS NOT NULL;
CREATE INDEX model_changed ON model (updated_at);
ALTER SEQUENCE model_ids OWNED BY model.id;

-- A lane is one tenant's one model as the queue sees it. Configuration only: nothing counts in it.
CREATE TABLE lane (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  model_id bigint NOT NULL UNIQUE REFERENCES model,
  tenant_id bigint NOT NULL,
  window_size int NOT NULL CHECK (window_size > 0),
  partitions int CHECK (partitions > 0), -- over which its messages are spread; NULL: over as many as its model asks for
  paused boolean NOT NULL DEFAULT false,
  closed boolean NOT NULL DEFAULT false
);

-- What is paused now, and what was: nothing of it starts meanwhile. A pause of a tenant or a lane is marked on its own row,
-- too, where a turn looks anyway; one of everything, and that of a webhook, are here alone. Waits are counted without the
-- pauses they span; that of a webhook holds deliveries, and no task.
CREATE TABLE pause (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  scope text NOT NULL CHECK (scope IN ('all', 'tenant', 'model', 'webhook')),
  tenant_id bigint CHECK ((scope = 'all') = (tenant_id IS NULL)),
  lane int CHECK ((scope = 'model') = (lane IS NOT NULL)),
  webhook_id bigint CHECK ((scope = 'webhook') = (webhook_id IS NOT NULL)),
  began timestamptz NOT NULL DEFAULT now(),
  ended timestamptz,
  paused_by text NOT NULL,
  reason text NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX pause_open ON pause (scope, tenant_id, lane, webhook_id) NULLS NOT DISTINCT WHERE ended IS NULL;
CREATE INDEX pause_ended ON pause (ended);

-- What operators did; kept for ever.
CREATE TABLE operator_action (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT now(),
  done_by text NOT NULL,
  action text NOT NULL CHECK (action IN ('pause', 'resume', 'drain', 'undrain', 'create_key', 'revoke_key')),
  tenant_id bigint,
  subject text NOT NULL,
  reason text NOT NULL DEFAULT ''
);

-- Wide; written at create, once at the end, and when fetched. No index, predicate included, may name a column that
-- the end writes: that would take away HOT updates.
CREATE TABLE task (
  id bigint PRIMARY KEY DEFAULT nextval('task_ids'),
  public_id uuid NOT NULL,
  tenant_id bigint NOT NULL,
  model_id bigint NOT NULL,
  lane int NOT NULL,
  creator text NOT NULL DEFAULT '',
  biz_name text NOT NULL DEFAULT '',
  input_ref text NOT NULL DEFAULT '',
  priority smallint NOT NULL DEFAULT 0,
  status smallint NOT NULL CHECK (status BETWEEN 0 AND 9),
  attempt smallint NOT NULL DEFAULT 0,
  retries smallint NOT NULL DEFAULT 0,
  version int NOT NULL DEFAULT 1,
  output_count int NOT NULL DEFAULT 1,
  points int NOT NULL DEFAULT 0,
  quota_day date,
  uploads smallint NOT NULL DEFAULT 0, -- attempts that a replay began with the output staged: they called nothing
  not_before timestamptz,
  start_by timestamptz,
  deadline timestamptz,
  trace text,
  created_at timestamptz NOT NULL DEFAULT now(),
  started_at timestamptz,
  finished_at timestamptz,
  fetched_at timestamptz,
  expire_at timestamptz,
  executor int,
  oss_file text,
  file_type text,
  file_size bigint,
  files jsonb,
  error_code text,
  error_message text,
  webhook_url text,
  webhook_events smallint,
  CHECK ((status >= 6) = (finished_at IS NOT NULL))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000);
CREATE UNIQUE INDEX task_public ON task (tenant_id, public_id);
CREATE INDEX task_newest ON task (tenant_id, id);
CREATE INDEX task_expiry ON task (expire_at) WHERE expire_at IS NOT NULL;
ALTER SEQUENCE task_ids OWNED BY task.id;

CREATE TABLE task_input (
  task_id bigint PRIMARY KEY,
  payload bytea NOT NULL
);

CREATE TABLE task_secret (
  task_id bigint PRIMARY KEY,
  sealed bytea NOT NULL
);

-- Small outputs of one file between the model's answer and their upload; others lie in a staging folder. Uncompressed and, up to
-- a page, in line: they are written once, read only after a fault, and deleted.
CREATE TABLE staged_output (
  task_id bigint PRIMARY KEY,
  content bytea NOT NULL
) WITH (toast_tuple_target = 8160, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE staged_output ALTER COLUMN content SET STORAGE EXTERNAL;

-- One narrow row per open task, from create to the end. In flight = rows with state 1, so that it cannot drift.
-- staged_files is null where the output is one file. Of several it names all; staged, its hash and type are the first's,
-- and staged_size is the size of all together.
-- job: 0 the model answers in the call, 1 the last attempt was a provider's job, 2 the same, and the provider has not begun.
CREATE TABLE dispatch (
  id bigint PRIMARY KEY,
  public_id uuid NOT NULL,
  lane int NOT NULL,
  state smallint NOT NULL CHECK (state BETWEEN 0 AND 3),
  phase smallint NOT NULL DEFAULT 0 CHECK (phase BETWEEN 0 AND 3),
  job smallint NOT NULL DEFAULT 0 CHECK (job BETWEEN 0 AND 2),
  class smallint NOT NULL DEFAULT 1 CHECK (class IN (0, 1)),
  priority smallint NOT NULL DEFAULT 0,
  position bigint NOT NULL,
  attempt smallint NOT NULL DEFAULT 0,
  retries smallint NOT NULL DEFAULT 0,
  lost smallint NOT NULL DEFAULT 0,
  sends smallint NOT NULL DEFAULT 0,
  version int NOT NULL DEFAULT 1,
  input_size int NOT NULL DEFAULT 0,
  lease bigint,
  leased_at timestamptz,
  due_at timestamptz,
  until timestamptz,
  entered_at timestamptz NOT NULL DEFAULT now(),
  held_by int,
  executor int,
  token uuid,
  started_at timestamptz,
  generated_at timestamptz,
  migrating_at timestamptz,
  staged text,
  staged_size bigint,
  staged_hash bytea,
  staged_type text,
  staged_files jsonb,
  error_code text,
  error_message text,
  start_by timestamptz,
  deadline timestamptz,
  expires_at timestamptz,
  CHECK ((state = 1) = (lease IS NOT NULL)),
  CHECK (state = 1 OR (token IS NULL AND held_by IS NULL)),
  CHECK (token IS NULL OR (executor IS NOT NULL AND started_at IS NOT NULL)),
  CHECK (state IN (0, 1) OR due_at IS NOT NULL),
  CHECK (phase < 2 OR staged IS NOT NULL)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000);
CREATE INDEX dispatch_ready ON dispatch (lane, class, priority, position) WHERE state = 0;
CREATE INDEX dispatch_in_flight ON dispatch (lane, lease) WHERE state = 1;
-- No second index of state 2 alone: a plan made while nothing waited would take either, and walk it later on.
CREATE INDEX dispatch_later ON dispatch (due_at) WHERE state = 2;
CREATE INDEX dispatch_retry ON dispatch (due_at) WHERE state = 3;
-- What of a lane waits for its time, in order. Who reads it says `state >= 3`, or `>= 2 AND state < 3`: for `= 3` and `= 2`
-- the planner may walk through those by due_at alone, where rows of one lane may be far between.
CREATE INDEX dispatch_waits ON dispatch (lane, state, due_at) WHERE state >= 2;
-- Rows that may not wait for ever, by their next limit: start_by or deadline before the first start, deadline after it.
-- It names nothing that changes on rows without limits, or their start would be no HOT update any more.
CREATE INDEX dispatch_expiring ON dispatch (expires_at) WHERE expires_at IS NOT NULL;

-- A dispatcher's batch between taking and acknowledgement: published = in flight and its lease row is gone.
CREATE TABLE lease (
  id bigint PRIMARY KEY,
  dispatcher int NOT NULL,
  taken_at timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE TABLE executor (
  id int PRIMARY KEY,
  name text NOT NULL,
  beat bigint NOT NULL DEFAULT 0,
  beat_at timestamptz NOT NULL DEFAULT now(),
  started_at timestamptz NOT NULL DEFAULT now(),
  stopped_at timestamptz,
  slots int NOT NULL,
  running int NOT NULL DEFAULT 0,
  held int NOT NULL DEFAULT 0,
  reading boolean NOT NULL DEFAULT true,
  posture text NOT NULL DEFAULT 'reading',
  draining boolean NOT NULL DEFAULT false,
  stores text[] NOT NULL DEFAULT '{}',
  adapters text[] NOT NULL DEFAULT '{}',
  version text NOT NULL DEFAULT ''
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

-- Dispatchers and janitors, which say every few seconds that they live, and what they know of the broker: of each lane
-- whose topic it refuses (`refused_lanes`), why (`refused_causes`, at the same place); and why it refuses that of events.
CREATE TABLE process (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  role text NOT NULL CHECK (role IN ('dispatcher', 'janitor')),
  name text NOT NULL,
  version text NOT NULL DEFAULT '',
  started_at timestamptz NOT NULL DEFAULT now(),
  beat_at timestamptz NOT NULL DEFAULT now(),
  broker_reachable boolean,
  last_error text NOT NULL DEFAULT '',
  refused_lanes int[] NOT NULL DEFAULT '{}',
  refused_causes text[] NOT NULL DEFAULT '{}',
  events_refused text NOT NULL DEFAULT ''
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

CREATE TABLE cancel_request (
  task_id bigint PRIMARY KEY,
  requested_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE attempt (
  task_id bigint NOT NULL,
  attempt smallint NOT NULL,
  outcome text NOT NULL CHECK (outcome IN ('success', 'failed', 'timeout', 'canceled', 'lost', 'staging_lost')),
  executor int,
  token uuid,
  called boolean NOT NULL DEFAULT true,
  entered_at timestamptz,
  leased_at timestamptz,
  started_at timestamptz,
  generated_at timestamptz,
  migrating_at timestamptz,
  ended_at timestamptz NOT NULL DEFAULT now(),
  staged_size bigint,
  error_code text,
  error_message text,
  PRIMARY KEY (task_id, attempt)
);
-- Attempts of which no model has heard: the few by which attempts begun and calls counted differ (audit, I16).
CREATE INDEX attempt_uncalled ON attempt (task_id) WHERE NOT called;
CREATE INDEX attempt_ended ON attempt (ended_at);

CREATE TABLE history (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  task_id bigint NOT NULL,
  at timestamptz NOT NULL DEFAULT now(),
  kind text NOT NULL CHECK (kind IN ('retry', 'rescue', 'release', 'heal', 'cancel', 'park', 'replay', 'drop', 'staging_lost', 'import')),
  attempt smallint NOT NULL,
  version int NOT NULL,
  lease bigint,
  detail text NOT NULL DEFAULT ''
);
CREATE INDEX history_task ON history (task_id, id);

CREATE TABLE dead_task (
  task_id bigint PRIMARY KEY,
  tenant_id bigint NOT NULL,
  model_id bigint NOT NULL,
  died_at timestamptz NOT NULL DEFAULT now(),
  error_code text NOT NULL,
  version int NOT NULL,
  staged text,
  staged_size bigint,
  staged_hash bytea,
  staged_type text,
  staged_files jsonb,
  dropped_at timestamptz -- off the list; the task goes with its retention
);
-- By age, for retention alone: an index that lists could take for their order leads the page of a tenant that has nothing
-- dead past everybody's. So it is with dead events and deliveries.
CREATE INDEX dead_task_age ON dead_task ((died_at AT TIME ZONE 'UTC'));
CREATE INDEX dead_task_list ON dead_task (died_at, task_id) WHERE dropped_at IS NULL;
CREATE INDEX dead_task_tenant ON dead_task (tenant_id, died_at, task_id) WHERE dropped_at IS NULL;

-- Bytes on a topic of ours that could not be understood. `lettered_at`: since when they are on the dead-letter topic, too.
-- `settled_at`: replayed or dropped; the row proves that the record was seen, as long as the topic holds it. `size` is the
-- value's: of a large one only the beginning is kept.
CREATE TABLE dead_message (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  topic text NOT NULL,
  "partition" int NOT NULL,
  "offset" bigint NOT NULL,
  digest bytea NOT NULL,
  key bytea,
  value bytea,
  size int NOT NULL DEFAULT 0,
  headers jsonb NOT NULL DEFAULT '[]',
  code text NOT NULL DEFAULT 'unreadable',
  cause text NOT NULL,
  died_at timestamptz NOT NULL DEFAULT now(),
  lettered_at timestamptz,
  settled_at timestamptz,
  UNIQUE (topic, "partition", "offset", digest)
);
CREATE INDEX dead_message_list ON dead_message (died_at, id) WHERE settled_at IS NULL;
CREATE INDEX dead_message_unlettered ON dead_message (id) WHERE lettered_at IS NULL;

-- What operators had replayed or dropped, kept for ever: who, when, why, and what became of each. A job's `tenant_id` is
-- the one whose dead it may touch, null for everybody's. Who works it off says so in `runner`, for some seconds each time.
CREATE TABLE replay_job (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant_id bigint,
  action text NOT NULL CHECK (action IN ('replay', 'drop')),
  kind text NOT NULL CHECK (kind IN ('task', 'event', 'delivery', 'message')),
  asked jsonb NOT NULL,
  most int NOT NULL,
  rate double precision NOT NULL CHECK (rate > 0),
  reason text NOT NULL,
  asked_by text NOT NULL,
  mended bytea,
  state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'paused', 'stopped', 'done')),
  total int NOT NULL DEFAULT 0,
  replayed int NOT NULL DEFAULT 0,
  dropped int NOT NULL DEFAULT 0,
  gone int NOT NULL DEFAULT 0,
  refused int NOT NULL DEFAULT 0,
  stopped int NOT NULL DEFAULT 0,
  refusals int NOT NULL DEFAULT 0,
  note text NOT NULL DEFAULT '',
  runner uuid,
  runner_until timestamptz,
  paced_at timestamptz NOT NULL DEFAULT now(),
  created_at timestamptz NOT NULL DEFAULT now(),
  changed_at timestamptz NOT NULL DEFAULT now(),
  ended_at timestamptz
);
CREATE INDEX replay_job_running ON replay_job (paced_at) WHERE state = 'running';
CREATE INDEX replay_job_tenant ON replay_job (tenant_id, id);

-- A job as it is shown: without the bytes that a message is sent as instead.
CREATE VIEW replay_face AS
SELECT id, tenant_id, action, kind, asked, most, rate, reason, asked_by, state, total, replayed, dropped, gone, refused, stopped,
  refusals, note, created_at, changed_at, ended_at FROM replay_job;

-- Each dead thing of a job. What an open item has in hand, no other job takes. `lane` is a task's, 0 for what needs no slot.
CREATE TABLE replay_item (
  job_id bigint NOT NULL,
  kind text NOT NULL,
  target bigint NOT NULL,
  lane int NOT NULL DEFAULT 0,
  public_id text NOT NULL,
  tenant_id bigint,
  error_code text NOT NULL,
  result text CHECK (result IN ('replayed', 'dropped', 'gone', 'refused', 'stopped')),
  detail text NOT NULL DEFAULT '',
  tries int NOT NULL DEFAULT 0,
  due_at timestamptz NOT NULL DEFAULT now(),
  ended_at timestamptz,
  PRIMARY KEY (job_id, target)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
CREATE UNIQUE INDEX replay_item_open ON replay_item (kind, target) WHERE result IS NULL;
CREATE INDEX replay_item_due ON replay_item (job_id, lane, due_at, target) WHERE result IS NULL;
CREATE INDEX replay_item_target ON replay_item (kind, target);

-- Completion events on their way out: what may still change on the task is kept as it was; the rest is joined.
CREATE TABLE event (
  id bigint PRIMARY KEY DEFAULT nextval('event_ids'),
  task_id bigint NOT NULL,
  version int NOT NULL,
  status smallint NOT NULL,
  attempt smallint NOT NULL,
  started_at timestamptz,
  finished_at timestamptz NOT NULL DEFAULT now(),
  oss_file text,
  file_type text,
  file_size bigint,
  files jsonb,
  error_code text,
  error_message text,
  sends smallint NOT NULL DEFAULT 0,
  due_at timestamptz,
  last_error text
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000);
CREATE INDEX event_due ON event (due_at) WHERE due_at IS NOT NULL;
ALTER SEQUENCE event_ids OWNED BY event.id;

-- Events that the broker refused for good, under their ids: out of the way of those that have to leave, of which the relay
-- and every look at the outbox read the first. A replay takes them back.
CREATE TABLE dead_event (
  id bigint PRIMARY KEY,
  task_id bigint NOT NULL,
  tenant_id bigint NOT NULL,
  model_id bigint NOT NULL,
  version int NOT NULL,
  status smallint NOT NULL,
  attempt smallint NOT NULL,
  started_at timestamptz,
  finished_at timestamptz NOT NULL,
  oss_file text,
  file_type text,
  file_size bigint,
  files jsonb,
  error_code text,
  error_message text,
  sends smallint NOT NULL,
  last_error text NOT NULL,
  dead_at timestamptz NOT NULL DEFAULT now(),
  dropped_at timestamptz -- off the list; a proof, until its retention is over, that the end was to be announced
);
CREATE INDEX dead_event_age ON dead_event ((dead_at AT TIME ZONE 'UTC'));
CREATE INDEX dead_event_list ON dead_event (dead_at, id) WHERE dropped_at IS NULL;
CREATE INDEX dead_event_tenant ON dead_event (tenant_id, dead_at, id) WHERE dropped_at IS NULL;
CREATE INDEX dead_event_task ON dead_event (task_id);

-- Where tenants want to be told of ends: endpoints of theirs, and (kind 'tasks', one a tenant, without an address) what
-- signs for the address that a task brought along. `events` has a bit for each final status, 1 for success. `paused` is
-- the tenant's own word; an operator's is a row of `pause`. Removed ones are kept while they have deliveries.
CREATE TABLE webhook (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant_id bigint NOT NULL,
  kind text NOT NULL CHECK (kind IN ('endpoint', 'tasks')),
  url text NOT NULL,
  events smallint NOT NULL DEFAULT 15 CHECK (events BETWEEN 1 AND 15),
  secrets bytea NOT NULL,
  description text NOT NULL DEFAULT '',
  paused boolean NOT NULL DEFAULT false,
  failing_since timestamptz,
  disabled_at timestamptz,
  disabled_reason text,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  deleted_at timestamptz,
  CHECK ((kind = 'tasks') = (url = '')),
  CHECK ((disabled_at IS NULL) = (disabled_reason IS NULL))
);
CREATE INDEX webhook_tenant ON webhook (tenant_id, id) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX webhook_tasks ON webhook (tenant_id) WHERE kind = 'tasks' AND deleted_at IS NULL;

-- A completion event on its way to one address: rows of the outbox, filled by the statement that forgets the event.
-- What shares a `line` is sent a few at a time, so that a slow one holds up no other. `round` is how many attempts were
-- made before it was last asked for by hand.
CREATE TABLE delivery (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant_id bigint NOT NULL,
  webhook_id bigint NOT NULL,
  line text NOT NULL,
  url text NOT NULL,
  task_id uuid NOT NULL,
  message_id text NOT NULL,
  type text NOT NULL,
  body text NOT NULL,
  status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'dead')),
  attempts smallint NOT NULL DEFAULT 0,
  round smallint NOT NULL DEFAULT 0,
  next_at timestamptz DEFAULT now(),
  last_code smallint,
  last_error text,
  created_at timestamptz NOT NULL DEFAULT now(),
  ended_at timestamptz,
  dead_at timestamptz,
  dropped_at timestamptz,
  CHECK ((status = 'pending') = (next_at IS NOT NULL)),
  CHECK ((status = 'dead') = (dead_at IS NOT NULL)),
  CHECK ((status = 'pending') = (ended_at IS NULL))
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX delivery_pending ON delivery (webhook_id, line, next_at) WHERE status = 'pending';
CREATE INDEX delivery_newest ON delivery (webhook_id, id);
CREATE INDEX delivery_delivered ON delivery (ended_at) WHERE status = 'delivered';
CREATE INDEX delivery_dead ON delivery ((dead_at AT TIME ZONE 'UTC')) WHERE dead_at IS NOT NULL;
CREATE INDEX delivery_dead_list ON delivery (dead_at, id) WHERE dead_at IS NOT NULL AND dropped_at IS NULL;
CREATE INDEX delivery_dead_tenant ON delivery (tenant_id, dead_at, id) WHERE dead_at IS NOT NULL AND dropped_at IS NULL;
CREATE INDEX delivery_dead_webhook ON delivery (webhook_id, dead_at, id) WHERE dead_at IS NOT NULL AND dropped_at IS NULL;

-- What each attempt of a delivery was answered.
CREATE TABLE delivery_try (
  delivery_id bigint NOT NULL,
  attempt smallint NOT NULL,
  at timestamptz NOT NULL DEFAULT now(),
  code smallint,
  error text,
  cost_ms int NOT NULL,
  answer text NOT NULL DEFAULT '',
  PRIMARY KEY (delivery_id, attempt)
);

CREATE TABLE idempotency (
  tenant_id bigint NOT NULL,
  route text NOT NULL,
  key_hash bytea NOT NULL,
  body_hash bytea NOT NULL,
  public_id uuid NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, route, key_hash)
);
CREATE INDEX idempotency_age ON idempotency (created_at);

-- A job at a provider, one for each attempt that has one: written before the submit, open exactly as long as its task's
-- dispatch row is in phase 1. permit_token is who holds its lane's permit, also while nobody runs the attempt.
-- cancel_at: nobody wants it any more, and when its provider is told so (again); permit_back: its permit waits for that
-- no longer.
CREATE TABLE provider_job (
  task_id bigint NOT NULL,
  attempt smallint NOT NULL,
  lane int NOT NULL,
  intent_key uuid NOT NULL UNIQUE,
  adapter text NOT NULL,
  polls boolean NOT NULL,
  provider_id text,
  permit_token uuid NOT NULL,
  status text NOT NULL DEFAULT 'intended'
    CHECK (status IN ('intended', 'queued', 'processing', 'succeeded', 'failed', 'canceled', 'gone')),
  unit_progress double precision CHECK (unit_progress BETWEEN 0 AND 100),
  message text NOT NULL DEFAULT '',
  intended_at timestamptz NOT NULL DEFAULT now(),
  submitted_at timestamptz,
  told_at timestamptz,
  deadline timestamptz NOT NULL,
  ended_at timestamptz,
  cancel_at timestamptz,
  cancel_tries smallint NOT NULL DEFAULT 0,
  permit_back boolean NOT NULL DEFAULT false,
  PRIMARY KEY (task_id, attempt)
);
CREATE INDEX provider_job_open ON provider_job (lane) WHERE ended_at IS NULL;
CREATE UNIQUE INDEX provider_job_id ON provider_job (lane, provider_id) WHERE provider_id IS NOT NULL;
CREATE INDEX provider_job_unwanted ON provider_job (lane, adapter, cancel_at) WHERE cancel_at IS NOT NULL;
CREATE INDEX provider_job_permit ON provider_job (task_id, attempt) WHERE cancel_at IS NOT NULL AND NOT permit_back;

-- What providers that cannot be asked have called back with, until it is read: of open jobs alone, the newest few of each.
CREATE TABLE job_callback (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  task_id bigint NOT NULL,
  attempt smallint NOT NULL,
  received_at timestamptz NOT NULL DEFAULT now(),
  headers jsonb NOT NULL,
  body bytea NOT NULL
);
CREATE INDEX job_callback_job ON job_callback (task_id, attempt);

-- Every attempt to create a task, accepted or refused, by route. Ids grow about as time does. Rows stay inline and
-- uncompressed (request and response are cut before): each is written once, on the way of a create, and seldom read.
CREATE TABLE op_log (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant_id bigint NOT NULL,
  creator text NOT NULL DEFAULT '',
  created_at timestamptz NOT NULL DEFAULT now(),
  ip text NOT NULL DEFAULT '',
  user_agent text NOT NULL DEFAULT '',
  api_path text NOT NULL DEFAULT '',
  http_method text NOT NULL DEFAULT '',
  biz_name text NOT NULL DEFAULT '',
  model_name text NOT NULL DEFAULT '',
  task_id uuid,
  op_type text NOT NULL DEFAULT 'createTask',
  success boolean NOT NULL,
  replayed boolean NOT NULL DEFAULT false,
  error_msg text NOT NULL DEFAULT '',
  cost_ms bigint,
  request_payload text,
  response_payload text
) WITH (toast_tuple_target = 8160, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50000);
CREATE INDEX op_log_newest ON op_log (tenant_id, id);
-- A task is made once, so it has one entry that made it, whoever writes it first; repeated requests name it again.
CREATE UNIQUE INDEX op_log_task ON op_log (task_id, (CASE WHEN success AND NOT replayed THEN 0 ELSE id END)) WHERE task_id IS NOT NULL;

-- How far the operation log has been proved complete: every task up to `upto` has its entry. Up to `candidate` nothing
-- can commit any more once every transaction before `horizon` is over.
CREATE TABLE op_log_mark (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  upto bigint NOT NULL,
  candidate bigint NOT NULL,
  horizon xid8 NOT NULL,
  marked_at timestamptz NOT NULL DEFAULT now()
);

-- Calls counted by the statement that starts them, folded into model_stat by the janitor.
CREATE TABLE stat_delta (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  day date NOT NULL,
  tenant_id bigint NOT NULL,
  creator text NOT NULL,
  model_id bigint NOT NULL,
  calls int NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE TABLE model_stat (
  day date NOT NULL,
  tenant_id bigint NOT NULL,
  creator text NOT NULL,
  model_name text NOT NULL,
  request_count bigint NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (day, tenant_id, creator, model_name)
);

-- Ended attempts and the backlog for plots: of all (scope 0), each tenant (1) and each lane (2), by minute (step 1) and
-- hour (60). Histograms are pairs of arrays, buckets and how many (libs/common/domain/buckets.py).
CREATE TABLE series (
  scope smallint NOT NULL CHECK (scope IN (0, 1, 2)),
  subject bigint NOT NULL,
  step smallint NOT NULL CHECK (step IN (1, 60)),
  at timestamptz NOT NULL,
  success int NOT NULL,
  failed int NOT NULL,
  timeout int NOT NULL,
  canceled int NOT NULL,
  lost int NOT NULL,
  wait_at smallint[] NOT NULL,
  wait_n int[] NOT NULL,
  run_at smallint[] NOT NULL,
  run_n int[] NOT NULL,
  backlog bigint,
  oldest_seconds real,
  PRIMARY KEY (scope, subject, step, at)
);
CREATE INDEX series_age ON series (step, at);

-- Up to when attempts were folded into minutes, and minutes into hours.
CREATE TABLE series_mark (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  upto timestamptz NOT NULL,
  hours_upto timestamptz NOT NULL
);

-- How many tasks are no longer stored, and their calls. With them calls counted = attempts that called, for ever, and an event
-- of an unknown task is told from one of a task that was cleaned (audit, I16 and I7).
CREATE TABLE cleaned (
  tenant_id bigint NOT NULL,
  creator text NOT NULL,
  tasks bigint NOT NULL,
  calls bigint NOT NULL,
  PRIMARY KEY (tenant_id, creator)
);

-- What was taken over from an old gateway's tables (docs/go-gateway-import.md). `source` names one old database.
-- How far each table was copied, and how many of its rows: written by the transaction that writes the rows.
CREATE TABLE legacy_import (
  source text NOT NULL,
  "table" text NOT NULL,
  last_id bigint NOT NULL DEFAULT -9223372036854775808,
  copied bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (source, "table")
);

-- Which model of ours an old model's name stands for.
CREATE TABLE legacy_model (
  source text NOT NULL,
  tenant_id bigint NOT NULL,
  name text NOT NULL,
  model_id bigint NOT NULL,
  PRIMARY KEY (source, tenant_id, name)
);

-- The part of an old count that is in model_stat already: only what exceeds it is added.
CREATE TABLE legacy_stat (
  source text NOT NULL,
  day date NOT NULL,
  tenant_id bigint NOT NULL,
  creator text NOT NULL,
  model_name text NOT NULL,
  request_count bigint NOT NULL,
  PRIMARY KEY (source, day, tenant_id, creator, model_name)
);

-- Rows that could not be taken over as they were, and what became of them.
CREATE TABLE legacy_note (
  source text NOT NULL,
  "table" text NOT NULL,
  id bigint NOT NULL,
  code text NOT NULL,
  detail text NOT NULL
);
-- Statistics have no ids: their notes tell their rows apart.
CREATE UNIQUE INDEX legacy_note_once ON legacy_note (source, "table", id, code, md5(detail));

-- The limit of each user that has one of its own; '' is that of all other users of the tenant.
CREATE TABLE quota_limit (
  tenant_id bigint NOT NULL,
  user_name text NOT NULL,
  points_per_day bigint NOT NULL CHECK (points_per_day >= 0),
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, user_name)
);

-- Points that a user's tasks of a day cost, without those that were given back. `cleaned` is the part of it whose tasks
-- are no longer stored (audit, I23).
CREATE TABLE quota_usage (
  tenant_id bigint NOT NULL,
  user_name text NOT NULL,
  day date NOT NULL,
  used bigint NOT NULL DEFAULT 0 CHECK (used >= 0),
  cleaned bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (tenant_id, user_name, day)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX quota_usage_day ON quota_usage (day);

-- Reserves points for priced tasks on today's account of their users: each task all of its points or none, in the order
-- given, so that a task too dear does not stand in the way of a cheaper one behind it. Answers a row for each, by its place
-- (from 1): whether it fits, the day to note on the task, the limit that holds for the user (null: none) and what is
-- used now. Accounts are locked in the order of their keys, until the transaction ends: creates and replays that are
-- refused, or whose rows are not written after all, must not leave points behind (see give_back_points).
CREATE FUNCTION quota_reserve(a_tenants bigint[], a_users text[], a_points int[], a_zone text)
RETURNS TABLE (place int, fits boolean, day date, points_per_day bigint, used bigint)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  a_account record;
  a_before bigint;
BEGIN
  day := (now() AT TIME ZONE a_zone)::date;
  FOR a_account IN
    SELECT x.tenant, x.user_name, array_agg(x.place::int ORDER BY x.place) AS places, array_agg(x.points ORDER BY x.place) AS points
    FROM unnest(a_tenants, a_users, a_points) WITH ORDINALITY AS x(tenant, user_name, points, place)
    GROUP BY x.tenant, x.user_name ORDER BY x.tenant, x.user_name
  LOOP
    INSERT INTO quota_usage (tenant_id, user_name, day) VALUES (a_account.tenant, a_account.user_name, quota_reserve.day)
    ON CONFLICT DO NOTHING;
    SELECT u.used INTO a_before FROM quota_usage u
    WHERE u.tenant_id = a_account.tenant AND u.user_name = a_account.user_name AND u.day = quota_reserve.day FOR NO KEY UPDATE;
    points_per_day := (SELECT l.points_per_day FROM quota_limit l
                       WHERE l.tenant_id = a_account.tenant AND l.user_name IN (a_account.user_name, '')
                       ORDER BY l.user_name DESC LIMIT 1);
    used := a_before;
    FOR i IN 1 .. cardinality(a_account.places) LOOP
      place := a_account.places[i];
      fits := quota_reserve.points_per_day IS NULL OR quota_reserve.used + a_account.points[i] <= quota_reserve.points_per_day;
      IF fits THEN
        used := quota_reserve.used + a_account.points[i];
      END IF;
      RETURN NEXT;
    END LOOP;
    IF quota_reserve.used > a_before THEN
      UPDATE quota_usage u SET used = quota_reserve.used
      WHERE u.tenant_id = a_account.tenant AND u.user_name = a_account.user_name AND u.day = quota_reserve.day;
    END IF;
  END LOOP;
END
$$;

-- The status that callers see, derived from the one place that owns each part. What was queued and is given back to wait once
-- more stays so: within an attempt nothing goes backwards, and `leased` ends with the attempt.
CREATE FUNCTION task_status(stored smallint, state smallint, phase smallint, started boolean, attempt smallint, leased boolean, job smallint)
RETURNS smallint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
  WHEN state IS NULL THEN stored
  WHEN state = 3 THEN 7
  WHEN phase = 3 THEN 5
  WHEN phase = 2 THEN 4
  WHEN job = 2 AND (started OR phase = 1) THEN 2
  WHEN started OR phase = 1 THEN 3
  WHEN state = 1 OR leased THEN 2
  WHEN state = 2 AND attempt = 0 THEN 0
  ELSE 1
END::smallint;

-- A task as callers read it: what is open comes from its dispatch row, what is final from the task.
CREATE VIEW task_face AS
SELECT t.id, t.public_id, t.tenant_id, t.model_id, t.lane, t.creator, t.biz_name, t.input_ref, t.priority, t.output_count, t.points,
  task_status(t.status, d.state, d.phase, d.token IS NOT NULL, d.attempt, d.leased_at IS NOT NULL, d.job) AS status,
  coalesce(d.attempt, t.attempt) AS attempt, coalesce(d.retries, t.retries) AS retries, coalesce(d.version, t.version) AS version,
  t.not_before, t.start_by, t.deadline, t.created_at,
  coalesce(d.entered_at, t.created_at) AS entered_at, d.leased_at, coalesce(d.started_at, t.started_at) AS started_at,
  CASE WHEN d.id IS NULL THEN a.generated_at ELSE d.generated_at END AS generated_at, d.migrating_at, t.finished_at, t.fetched_at, t.expire_at,
  coalesce(d.executor, d.held_by, t.executor) AS executor, d.due_at, d.until,
  t.oss_file, t.file_type, t.file_size, t.files,
  coalesce(d.error_code, t.error_code) AS error_code, coalesce(d.error_message, t.error_message) AS error_message,
  d.id IS NOT NULL AS open, d.state AS dispatch_state, d.phase,
  p.provider_id AS provider_job_id, p.unit_progress, p.message AS job_message, p.told_at AS job_told_at
FROM task t LEFT JOIN dispatch d ON d.id = t.id
LEFT JOIN attempt a ON a.task_id = t.id AND a.attempt = t.attempt AND d.id IS NULL
LEFT JOIN provider_job p ON p.task_id = t.id AND p.attempt = coalesce(d.attempt, t.attempt);

-- Since when the oldest ready row of a lane waits: of the next of each class and priority, twenty of them at most. So it
-- costs by priorities and not by rows; behind a row that came late to an early place an older one may stand unseen.
CREATE FUNCTION oldest_ready(a_lane int) RETURNS timestamptz LANGUAGE sql STABLE AS $$
  WITH RECURSIVE head(class, priority, entered_at) AS (
    (SELECT class, priority, entered_at FROM dispatch WHERE state = 0 AND lane = a_lane ORDER BY lane, class, priority, position LIMIT 1)
    UNION ALL
    SELECT n.class, n.priority, n.entered_at FROM head h CROSS JOIN LATERAL (
      SELECT q.class, q.priority, q.entered_at FROM dispatch q
      WHERE q.state = 0 AND q.lane = a_lane AND (q.class, q.priority) > (h.class, h.priority)
      ORDER BY q.lane, q.class, q.priority, q.position LIMIT 1) n
  )
  SELECT min(f.entered_at) FROM (SELECT entered_at FROM head LIMIT 20) f
$$;

-- How long a gate slot of a model lives unrenewed: max(1 h, min(24 h, 10 x expected_seconds)).
CREATE FUNCTION slot_ttl_ms(expected_seconds int) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN greatest(3600, 10 * least(8640, expected_seconds)) * 1000;

-- Of what ended before this every event has left, apart from those that died: event rows have no index on their task, but
-- they carry the end's very time. A minute for transactions that overlap.
CREATE VIEW announced AS
SELECT coalesce((SELECT finished_at FROM event ORDER BY id LIMIT 1) - interval '1 minute', 'infinity') AS before;

-- An event with all that is told of its end, and whether its tenant has any webhook.
CREATE VIEW event_face AS
SELECT e.*, t.public_id, t.tenant_id, t.creator, t.biz_name, t.created_at, m.name AS model_name, t.webhook_url, t.webhook_events,
  EXISTS (SELECT 1 FROM webhook w WHERE w.tenant_id = t.tenant_id AND w.deleted_at IS NULL) AS hooked
FROM event e JOIN task t ON t.id = ANY (ARRAY[e.task_id]) JOIN model m ON m.id = t.model_id;

-- The bucket of a duration, as libs/common/domain/buckets.py has it.
CREATE FUNCTION duration_bucket(duration interval) RETURNS smallint LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE WHEN extract(epoch FROM duration) <= 0.001 THEN 0
       ELSE least(ceil(log(2, extract(epoch FROM duration) / 0.001) * 4), 107) END::smallint;

-- The stable code of a webhook delivery that died.
CREATE FUNCTION delivery_code(answered smallint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN answered IS NULL THEN 'webhook_unreachable' ELSE 'webhook_http_' || answered END;

-- How many items a replay job of so many a second may do after so long. One that was not looked at for long has saved up
-- little; a slow one saves up its next item, and a bit more than that, for what floats make of a rate.
CREATE FUNCTION replay_budget(rate float8, waited interval) RETURNS int LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN floor(rate * least(extract(epoch FROM waited)::float8, greatest(1.5, 1.001 / rate)))::int;

-- Everything dead that is on the list, in one vocabulary; what an order of a replay is chosen from.
CREATE VIEW dead_face AS
SELECT 'task' AS kind, d.task_id AS key, t.public_id::text AS public_id, d.tenant_id, d.model_id, t.lane, d.error_code AS code,
  t.error_message AS message, d.died_at, NULL::bigint AS webhook_id
FROM dead_task d JOIN task t ON t.id = d.task_id WHERE d.dropped_at IS NULL
UNION ALL
SELECT 'event', e.id, e.id::text, e.tenant_id, e.model_id, 0, 'publish_refused', e.last_error, e.dead_at, NULL
FROM dead_event e WHERE e.dropped_at IS NULL
UNION ALL
SELECT 'delivery', d.id, d.id::text, d.tenant_id, t.model_id, 0, delivery_code(d.last_code), concat_ws(': ', nullif(split_part(d.url, '?', 1), ''), d.last_error),
  d.dead_at, d.webhook_id
FROM delivery d LEFT JOIN task t ON t.tenant_id = d.tenant_id AND t.public_id = d.task_id WHERE d.dead_at IS NOT NULL AND d.dropped_at IS NULL
UNION ALL
SELECT 'message', x.id, x.id::text, NULL, NULL, 0, x.code, x.cause, x.died_at, NULL FROM dead_message x WHERE x.settled_at IS NULL;

-- One turn of a dispatcher: lock the lanes, count the room of each, take the heads of both classes one to one, mark
-- them in flight under a new lease number, and forget the leases that were acknowledged. One that somebody keeps locked
-- stays: when it is free the janitor takes its dispatcher for dead, and what nobody has claimed by then is sent twice.
-- Which class goes first is the dispatcher's to say: a lane that gives one row a turn would give returning ones only.
-- A function, because a turn is four round trips otherwise. Not one statement: each statement in it has a snapshot of
-- its own, and a count that is older than the lock that protects it overruns the window.
CREATE FUNCTION take_turn(
  a_lanes int[], a_quanta int[], a_lows bigint[], a_priority0 smallint[], a_position0 bigint[], a_priority1 smallint[],
  a_position1 bigint[], a_fresh_first boolean[], a_batch int, a_dispatcher int, a_acknowledged bigint[])
RETURNS TABLE (kind smallint, lane int, room int, low bigint, id bigint, class smallint, priority smallint, "position" bigint,
  attempt smallint, lease bigint, phase smallint, input_size int, leased_at timestamptz)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  a_mine boolean[];
BEGIN
  SELECT array_agg(pg_try_advisory_xact_lock(7001, l)) INTO a_mine FROM unnest(a_lanes) AS l;
  RETURN QUERY
  WITH closed AS (
    DELETE FROM lease WHERE id = ANY (ARRAY(
      SELECT c.id FROM lease c WHERE c.id = ANY (a_acknowledged) FOR UPDATE SKIP LOCKED))
  ), want AS MATERIALIZED (
    SELECT l.id AS lane, x.quantum, x.turn, greatest(least(l.window_size - f.n, x.quantum), 0) AS take,
           l.window_size - f.n AS room, f.low, x.pri0, x.pos0, x.pri1, x.pos1, x.fresh_first
    FROM unnest(a_lanes, a_quanta, a_lows, a_priority0, a_position0, a_priority1, a_position1, a_fresh_first, a_mine)
      WITH ORDINALITY AS x(lane, quantum, low, pri0, pos0, pri1, pos1, fresh_first, mine, turn)
    JOIN lane l ON l.id = x.lane AND x.mine AND NOT l.paused AND NOT l.closed
    JOIN tenant tn ON tn.id = l.tenant_id AND NOT tn.paused
    CROSS JOIN LATERAL (SELECT count(*)::int AS n, min(q.lease) AS low FROM dispatch q
                        WHERE q.state = 1 AND q.lane = l.id AND q.lease >= x.low) f
    WHERE NOT EXISTS (SELECT FROM pause WHERE scope = 'all' AND ended IS NULL)
  ), pick AS MATERIALIZED (
    SELECT h.id FROM want w CROSS JOIN LATERAL (
      SELECT c.id, row_number() OVER (ORDER BY c.nth, (c.class = 1) <> w.fresh_first) AS nth FROM (
        SELECT r.id, 0 AS class, row_number() OVER () AS nth FROM (
          SELECT q.id FROM dispatch q
          WHERE q.state = 0 AND q.lane = w.lane AND q.class = 0 AND (q.priority, q.position) >= (w.pri0, w.pos0)
          ORDER BY q.lane, q.class, q.priority, q.position LIMIT w.take FOR UPDATE SKIP LOCKED) r
        UNION ALL
        SELECT r.id, 1 AS class, row_number() OVER () AS nth FROM (
          SELECT q.id FROM dispatch q
          WHERE q.state = 0 AND q.lane = w.lane AND q.class = 1 AND (q.priority, q.position) >= (w.pri1, w.pos1)
          ORDER BY q.lane, q.class, q.priority, q.position LIMIT w.take FOR UPDATE SKIP LOCKED) r) c
      ORDER BY c.nth, (c.class = 1) <> w.fresh_first LIMIT w.take) h
    WHERE w.take > 0
    ORDER BY h.nth::float8 / w.quantum, w.turn LIMIT a_batch
  ), opened AS (
    INSERT INTO lease (id, dispatcher) SELECT nextval('lease_ids'), a_dispatcher FROM pick LIMIT 1 RETURNING id
  ), mark AS (
    UPDATE dispatch q SET state = 1, lease = (SELECT id FROM opened), leased_at = now(), version = q.version + 1
    WHERE q.id = ANY (ARRAY(SELECT id FROM pick))
    RETURNING q.id, q.lane, q.class, q.priority, q.position, q.attempt, q.lease, q.phase, q.input_size, q.leased_at
  )
  SELECT 0::smallint, w.lane, w.room, w.low, NULL::bigint, NULL::smallint, NULL::smallint, NULL::bigint, NULL::smallint,
         NULL::bigint, NULL::smallint, NULL::int, NULL::timestamptz
  FROM want w
  UNION ALL
  SELECT 1::smallint, m.lane, NULL, NULL, m.id, m.class, m.priority, m.position, m.attempt, m.lease, m.phase, m.input_size, m.leased_at
  FROM mark m
  UNION ALL
  SELECT 2::smallint, x.lane, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
  FROM unnest(a_lanes, a_mine) AS x(lane, mine) WHERE NOT x.mine;
END
$$;
