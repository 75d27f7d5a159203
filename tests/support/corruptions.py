"""Ways to break one store, each with the invariant that it violates."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from uuid import uuid4

import orjson

from libs.common.domain.model import Model
from libs.common.ports import PermitRequest, SlotRequest
from libs.common.ports_attempts import Attempt
from services.janitor.sweeps.statistics import Statistics
from tests.support.auditing import EVENTS, Audited
from tests.support.house import SLOT_MS, House


@dataclass
class Scene:
    """A lane with something in every state, and nothing wrong."""

    stores: Audited
    model: Model
    succeeded: Attempt
    result: Path
    second: Path  #: the other file of the same result
    dead: Attempt
    running: Attempt
    waiting: int
    executor: int

    @property
    def house(self) -> House:
        return self.stores.house

    async def sql(self, query: str, *arguments: object) -> None:
        await self.house.sql(query, *arguments)


Corruption: TypeAlias = Callable[[Scene], Awaitable[object]]


async def a_key_names_nobody(scene: Scene) -> None:
    await scene.sql(
        "INSERT INTO idempotency (tenant_id, route, key_hash, body_hash, public_id) VALUES (1, 'r', '', '', $1)",
        uuid4(),
    )


async def a_submitted_attempt_has_no_job(scene: Scene) -> None:
    await scene.sql("UPDATE dispatch SET phase = 1, job = 1 WHERE id = $1", scene.running.id)


async def a_job_outlives_its_task(scene: Scene) -> None:
    await _a_job(scene, scene.succeeded.id, scene.model.lane, "NULL")


async def a_job_serves_two_tasks(scene: Scene) -> None:
    other = await scene.house.model()
    for task, lane in ((scene.succeeded.id, scene.model.lane), (scene.dead.id, other.lane)):
        await _a_job(scene, task, lane, "now()")


async def _a_job(scene: Scene, task: int, lane: int, ended: str) -> None:
    await scene.sql(
        "INSERT INTO provider_job (task_id, attempt, lane, intent_key, adapter, polls, provider_id, permit_token,"
        f" deadline, ended_at) VALUES ($1, 1, $2, $3, 'test', true, 'p1', $3, now(), {ended})",
        task, lane, uuid4(),
    )  # fmt: skip


async def an_open_task_lost_its_row(scene: Scene) -> None:
    await scene.sql("DELETE FROM dispatch WHERE id = $1", scene.waiting)
    await scene.house.gate.release_many([(scene.model.lane, (await scene.house.public([scene.waiting]))[0])])


async def an_open_task_lost_its_row_and_its_payload(scene: Scene) -> None:
    await an_open_task_lost_its_row(scene)
    await scene.sql("DELETE FROM task_input WHERE task_id = $1", scene.waiting)


async def a_row_is_in_another_lane_than_its_task(scene: Scene) -> None:
    other = await scene.house.model(tenant=scene.model.tenant_id)
    member = (await scene.house.public([scene.waiting]))[0]
    await scene.sql("UPDATE dispatch SET lane = $2 WHERE id = $1", scene.waiting, other.lane)
    await scene.house.gate.release_many([(scene.model.lane, member)])
    await scene.house.gate.restore(other.lane, [(member, SLOT_MS)])


async def a_final_task_has_a_row(scene: Scene) -> None:
    await scene.sql(
        "INSERT INTO dispatch (id, public_id, lane, state, attempt, version, position, due_at)"
        " SELECT id, public_id, lane, 3, attempt, version, id, now() + interval '1 h' FROM task WHERE id = $1",
        scene.succeeded.id,
    )


async def a_row_has_no_task(scene: Scene) -> None:
    await scene.sql(
        "INSERT INTO dispatch (id, public_id, lane, state, position, due_at)"
        " VALUES ($1, $2, $3, 3, 1, now() + interval '1 h')",
        10**6, uuid4(), scene.model.lane,
    )  # fmt: skip


async def nobody_promotes_it(scene: Scene) -> None:
    await scene.sql("UPDATE dispatch SET state = 2, due_at = now() - interval '2 min' WHERE id = $1", scene.waiting)


async def its_executor_is_gone(scene: Scene) -> None:
    await scene.sql("UPDATE executor SET stopped_at = now() - interval '2 min'")


async def its_executor_is_silent(scene: Scene) -> None:
    await scene.sql("UPDATE executor SET beat_at = now() - interval '2 min'")


async def it_runs_for_ever(scene: Scene) -> None:
    await scene.sql("UPDATE dispatch SET until = now() - interval '1 h' WHERE id = $1", scene.running.id)


async def its_time_has_passed(scene: Scene) -> None:
    await scene.sql("UPDATE dispatch SET expires_at = now() - interval '1 h' WHERE id = $1", scene.waiting)


async def its_lane_does_not_exist(scene: Scene) -> None:
    member = (await scene.house.public([scene.waiting]))[0]
    await scene.sql("UPDATE task SET lane = 999999 WHERE id = $1", scene.waiting)
    await scene.sql("UPDATE dispatch SET lane = 999999 WHERE id = $1", scene.waiting)
    await scene.house.gate.release_many([(scene.model.lane, member)])


async def its_model_was_deleted(scene: Scene) -> None:
    await scene.sql("UPDATE lane SET closed = true")
    await scene.sql("UPDATE model SET deleted_at = now() - interval '2 min'")


async def a_lease_was_never_closed(scene: Scene) -> None:
    await scene.sql("INSERT INTO lease (id, dispatcher, taken_at) VALUES (999999, 1, now() - interval '2 min')")


async def an_attempt_is_missing(scene: Scene) -> None:
    await scene.sql("UPDATE task SET attempt = 2 WHERE id = $1", scene.dead.id)
    await scene.sql("UPDATE attempt SET attempt = 2 WHERE task_id = $1", scene.dead.id)
    await scene.sql("INSERT INTO stat_delta (day, tenant_id, creator, model_id, calls) SELECT now(), $1, 'c', $2, 1",
                    scene.model.tenant_id, scene.model.id)  # fmt: skip
    scene.stores.log.records.clear()
    await scene.sql("UPDATE task SET finished_at = now() - interval '1 h' WHERE finished_at IS NOT NULL")


async def an_attempt_ended_before_it_ended(scene: Scene) -> None:
    await scene.sql("INSERT INTO attempt (task_id, attempt, outcome) VALUES ($1, 1, 'failed')", scene.running.id)


async def a_failure_has_a_successful_attempt(scene: Scene) -> None:
    await scene.sql("UPDATE attempt SET outcome = 'success' WHERE task_id = $1", scene.dead.id)


async def a_success_has_none(scene: Scene) -> None:
    await scene.sql("UPDATE attempt SET outcome = 'failed' WHERE task_id = $1", scene.succeeded.id)


async def a_step_is_newer_than_its_task(scene: Scene) -> None:
    await scene.sql("INSERT INTO history (task_id, kind, attempt, version) VALUES ($1, 'retry', 1, 99)", scene.dead.id)


async def steps_go_back(scene: Scene) -> None:
    for version in (3, 2):
        await scene.sql(
            "INSERT INTO history (task_id, kind, attempt, version) VALUES ($1, 'release', 1, $2)",
            scene.running.id, version,
        )  # fmt: skip


async def an_attempt_ended_before_it_began(scene: Scene) -> None:
    await scene.sql("UPDATE attempt SET started_at = ended_at + interval '1 s' WHERE task_id = $1", scene.dead.id)


async def an_end_changed_without_a_replay(scene: Scene) -> None:
    await scene.sql("UPDATE task SET version = version + 1, error_code = 'other' WHERE id = $1", scene.dead.id)
    await scene.sql("UPDATE dead_task SET version = version + 1 WHERE task_id = $1", scene.dead.id)
    await scene.sql(
        "INSERT INTO event (task_id, version, status, attempt, finished_at, error_code, error_message)"
        " SELECT id, version, status, attempt, finished_at, error_code, error_message FROM task WHERE id = $1",
        scene.dead.id,
    )
    await scene.stores.announce()


async def an_event_says_something_else_the_second_time(scene: Scene) -> None:
    record = scene.stores.log.records[EVENTS][-1]
    value = orjson.dumps(orjson.loads(record.value or b"") | {"errorMsg": "something else"})
    scene.stores.log.again(record, value=value)


async def an_event_contradicts_its_row(scene: Scene) -> None:
    await scene.sql(
        "UPDATE task SET oss_file = 'file:///elsewhere', files = NULL, file_size = 1 WHERE id = $1", scene.dead.id
    )


async def an_event_was_lost(scene: Scene) -> None:
    scene.stores.log.records[EVENTS].pop()


async def an_event_of_nobody_waits(scene: Scene) -> None:
    await scene.sql("INSERT INTO event (task_id, version, status, attempt) VALUES (424242, 1, 6, 1)")


async def a_dead_event_is_of_nobody(scene: Scene) -> None:
    await scene.sql(
        "INSERT INTO dead_event (id, task_id, tenant_id, model_id, version, status, attempt, finished_at, sends,"
        " last_error) VALUES (424242, 424242, 1, 1, 1, 6, 1, now(), 20, 'no')"
    )


async def an_event_waits_for_what_is_still_open(scene: Scene) -> None:
    await scene.sql("INSERT INTO event (task_id, version, status, attempt) VALUES ($1, 9, 6, 1)", scene.running.id)


async def a_phantom_is_on_the_topic(scene: Scene) -> None:
    record = scene.stores.log.records[EVENTS][-1]
    task = str(uuid4())
    value = orjson.dumps(orjson.loads(record.value or b"") | {"taskId": task})
    headers = dict(record.headers) | {"ce_id": f"{task}:{dict(record.headers)['ce_sequence'].decode()}".encode()}
    scene.stores.log.again(record, value=value, key=task.encode(), headers=tuple(headers.items()))


async def an_event_is_ahead_of_its_task(scene: Scene) -> None:
    record = scene.stores.log.records[EVENTS][-1]
    task = (record.key or b"").decode()
    headers = dict(record.headers) | {"ce_sequence": b"77", "ce_id": f"{task}:77".encode()}
    scene.stores.log.again(record, headers=tuple(headers.items()))


async def rubbish_is_on_the_events_topic(scene: Scene) -> None:
    scene.stores.log.append(EVENTS, b"\xffnot json")


def _an_event_of_a_stranger(sequence: str = "1", **changes: object) -> Corruption:
    """Headers and form are those of an event of ours; nothing of ours writes such a value."""

    async def corrupt(scene: Scene) -> None:
        record = scene.stores.log.records[EVENTS][-1]
        task = str(uuid4())
        value = json.dumps(json.loads(record.value or b"") | {"taskId": task} | changes).encode()
        headers = dict(record.headers) | {"ce_sequence": sequence.encode(), "ce_id": f"{task}:{sequence}".encode()}
        scene.stores.log.again(record, value=value, key=task.encode(), headers=tuple(headers.items()))

    corrupt.__name__ = "an_event_has_" + "_".join((f"sequence_{sequence:.4}", *changes))
    return corrupt


#: Each was written by somebody else, and ended an audit with a traceback.
STRANGE_EVENTS: list[Corruption] = [
    _an_event_of_a_stranger(tenantId="a word"),
    _an_event_of_a_stranger(tenantId=str(2**63)),
    _an_event_of_a_stranger(sequence=str(10**30)),
    _an_event_of_a_stranger(attempt=10**30),
    _an_event_of_a_stranger(fileSize=10**30),
    _an_event_of_a_stranger(finishedAt="9999-12-31T23:59:59-10:00"),
    _an_event_of_a_stranger(creator="a\0b"),
    _an_event_of_a_stranger(more=float("nan")),
]


async def it_was_sent_too_often(scene: Scene) -> None:
    await scene.sql("UPDATE dispatch SET sends = 21 WHERE id = $1", scene.waiting)


async def an_event_never_dies(scene: Scene) -> None:
    await scene.sql(
        "INSERT INTO event (task_id, version, status, attempt, sends, due_at)"
        " SELECT id, version, status, attempt, 20, now() + interval '1 h' FROM task WHERE id = $1",
        scene.dead.id,
    )


async def an_event_was_sent_after_its_death(scene: Scene) -> None:
    await scene.sql(
        "INSERT INTO dead_event (id, task_id, tenant_id, model_id, version, status, attempt, finished_at, sends,"
        " last_error) SELECT 424242, id, tenant_id, model_id, version, status, attempt, now(), 21, 'no' FROM task"
        " WHERE id = $1",
        scene.dead.id,
    )


async def nobody_claims_it(scene: Scene) -> None:
    await scene.house.lease(scene.model)
    await scene.sql("UPDATE executor SET started_at = now() - interval '1 h'")
    await scene.sql("UPDATE dispatch SET leased_at = now() - interval '2 min' WHERE id = $1", scene.waiting)


async def poison_left_no_trace(scene: Scene) -> None:
    scene.stores.log.append(scene.stores.topic(scene.model), b"poison")
    rows = await scene.house.lease(scene.model)
    scene.stores.publish(scene.model, rows)
    await scene.house.hold(scene.executor, rows)


async def a_gate_is_over_its_limit(scene: Scene) -> None:
    await scene.house.gate.restore(scene.model.lane, [(str(uuid4()), SLOT_MS) for _ in range(60)])


async def a_slot_has_no_owner(scene: Scene) -> None:
    await scene.house.gate.take_many([SlotRequest(scene.model.lane, str(uuid4()), 50, SLOT_MS)])


async def an_open_task_lost_its_slot(scene: Scene) -> None:
    await scene.house.gate.release_many([(scene.model.lane, str(scene.running.public_id))])


async def a_permit_has_no_owner(scene: Scene) -> None:
    await scene.house.permits.acquire_many([PermitRequest(scene.model.lane, "not-even-a-token", 50, SLOT_MS)])


async def a_call_lost_its_permit(scene: Scene) -> None:
    await scene.house.permits.release_many([(scene.model.lane, str(scene.running.token))])


async def a_job_that_nobody_runs_lost_its_permit(scene: Scene) -> None:
    await scene.sql(
        "UPDATE dispatch SET state = 0, phase = 1, job = 1, class = 0, lease = NULL, token = NULL, executor = NULL,"
        " until = NULL, started_at = NULL WHERE id = $1",
        scene.running.id,
    )
    await scene.sql(
        "INSERT INTO provider_job (task_id, attempt, lane, intent_key, adapter, polls, provider_id, permit_token,"
        " deadline) VALUES ($1, 1, $2, $3, 'test', true, 'p1', $3, now() + interval '1 h')",
        scene.running.id, scene.model.lane, scene.running.token,
    )  # fmt: skip
    await scene.house.permits.release_many([(scene.model.lane, str(scene.running.token))])


async def two_attempts_share_a_token(scene: Scene) -> None:
    await scene.sql("UPDATE attempt SET token = $1 WHERE task_id = $2", scene.succeeded.token, scene.dead.id)


async def a_zombie_wrote_an_end(scene: Scene) -> None:
    await scene.sql(
        "INSERT INTO history (task_id, kind, attempt, version, detail) VALUES ($1, 'rescue', 1, 2, $2)",
        scene.dead.id, f"executor 1, token {scene.dead.token}",
    )  # fmt: skip


async def a_call_was_counted_twice(scene: Scene) -> None:
    await Statistics(scene.house.sweeps).sweep()
    await scene.sql("UPDATE model_stat SET request_count = request_count + 1")


async def a_result_is_not_what_was_staged(scene: Scene) -> None:
    scene.result.write_bytes(b"RESULT")


async def its_second_file_is_not_what_was_staged(scene: Scene) -> None:
    scene.second.write_bytes(b"AND MORE")


async def fewer_bytes_were_staged(scene: Scene) -> None:
    await scene.sql("UPDATE attempt SET staged_size = 5 WHERE task_id = $1", scene.succeeded.id)


async def a_result_is_gone(scene: Scene) -> None:
    scene.result.unlink()


async def its_second_file_is_gone(scene: Scene) -> None:
    scene.second.unlink()


async def its_second_file_is_not_recorded(scene: Scene) -> None:
    await scene.sql("UPDATE task SET files = files - 1 WHERE id = $1", scene.succeeded.id)


async def a_result_was_cut(scene: Scene) -> None:
    scene.result.write_bytes(b"resul")


async def a_success_names_no_file(scene: Scene) -> None:
    await scene.sql("UPDATE task SET files = NULL WHERE id = $1", scene.succeeded.id)


async def _files_of_a_success(scene: Scene, files: str) -> None:
    await scene.sql("UPDATE task SET files = $2::jsonb WHERE id = $1", scene.succeeded.id, files)


async def its_files_are_no_list(scene: Scene) -> None:
    await _files_of_a_success(scene, '{"url": "file:///elsewhere"}')


async def a_file_of_it_is_a_number(scene: Scene) -> None:
    await _files_of_a_success(scene, "[1]")


async def a_file_of_it_has_a_number_as_its_address(scene: Scene) -> None:
    await _files_of_a_success(scene, '[{"url": 5, "size": 5, "sha256": ""}]')


async def a_file_of_it_has_a_word_as_its_size(scene: Scene) -> None:
    await _files_of_a_success(scene, f'[{{"url": "{scene.result.as_uri()}", "size": "six", "sha256": ""}}]')


async def a_file_of_it_has_an_address_that_no_object_can_have(scene: Scene) -> None:
    url = f"{scene.stores.objects.as_uri()}/../elsewhere"
    await scene.sql(
        "UPDATE task SET oss_file = $2, files ="
        " jsonb_build_array(jsonb_build_object('url', $2::text, 'size', file_size)) WHERE id = $1",
        scene.succeeded.id, url,
    )  # fmt: skip
    await scene.sql("UPDATE attempt SET staged_size = NULL WHERE task_id = $1", scene.succeeded.id)
    scene.stores.log.records.clear()


async def a_staged_file_was_left_behind(scene: Scene) -> None:
    await scene.stores.stage(scene.succeeded.public_id, age=300)


async def half_a_staged_file_was_left_behind(scene: Scene) -> None:
    await scene.stores.stage(uuid4(), age=300, commit=False)


async def a_staged_output_was_left_behind(scene: Scene) -> None:
    await scene.sql("INSERT INTO staged_output (task_id, content) VALUES ($1, 'x')", scene.succeeded.id)


async def an_open_task_has_a_staged_output_that_it_does_not_name(scene: Scene) -> None:
    await scene.sql("INSERT INTO staged_output (task_id, content) VALUES ($1, 'x')", scene.running.id)


async def a_staged_output_is_gone(scene: Scene) -> None:
    await scene.sql("UPDATE dead_task SET staged = 'database:'")


async def an_accepted_task_is_not_in_the_operation_log(scene: Scene) -> None:
    await scene.sql("UPDATE task SET created_at = now() - interval '2 min' WHERE id = $1", scene.waiting)


async def an_accepted_task_is_logged_as_refused(scene: Scene) -> None:
    await an_accepted_task_is_not_in_the_operation_log(scene)
    for success in (True, False):
        await scene.sql(
            "INSERT INTO op_log (tenant_id, task_id, success, replayed)"
            " SELECT tenant_id, public_id, $2, NOT $2 FROM task WHERE id = $1",
            scene.waiting, success,
        )  # fmt: skip


async def a_lane_is_held_and_no_pause_says_so(scene: Scene) -> None:
    await scene.sql("UPDATE lane SET paused = true WHERE id = $1", scene.model.lane)


async def a_tenant_is_held_and_no_pause_says_so(scene: Scene) -> None:
    await scene.sql("INSERT INTO tenant (id) VALUES ($1) ON CONFLICT DO NOTHING", scene.model.tenant_id)
    await scene.sql("UPDATE tenant SET paused = true WHERE id = $1", scene.model.tenant_id)


async def a_pause_of_a_lane_holds_nothing(scene: Scene) -> None:
    await scene.sql(
        "INSERT INTO pause (scope, tenant_id, lane, paused_by) VALUES ('model', $1, $2, 'ann')",
        scene.model.tenant_id, scene.model.lane,
    )  # fmt: skip


async def a_pause_of_a_tenant_holds_nothing(scene: Scene) -> None:
    await scene.sql(
        "INSERT INTO pause (scope, tenant_id, paused_by) VALUES ('tenant', $1, 'ann')", scene.model.tenant_id
    )


async def a_failure_is_not_listed(scene: Scene) -> None:
    await scene.sql("DELETE FROM dead_task")


async def a_dead_task_has_no_payload(scene: Scene) -> None:
    await scene.sql("DELETE FROM task_input WHERE task_id = $1", scene.dead.id)


async def nobody_is_listed_as_dead(scene: Scene) -> None:
    await scene.sql(
        "INSERT INTO dead_task (task_id, tenant_id, model_id, error_code, version) VALUES (424242, 1, 1, '', 1)"
    )


async def a_death_has_another_version(scene: Scene) -> None:
    await scene.sql("UPDATE dead_task SET version = version + 1")


async def a_success_is_listed_as_dead(scene: Scene) -> None:
    await scene.sql(
        "INSERT INTO dead_task (task_id, tenant_id, model_id, error_code, version)"
        " SELECT id, tenant_id, model_id, '', version FROM task WHERE id = $1",
        scene.succeeded.id,
    )


async def points_were_not_given_back(scene: Scene) -> None:
    await scene.sql("UPDATE task SET points = 5, quota_day = current_date WHERE id = $1", scene.dead.id)
    await scene.sql(
        "INSERT INTO quota_usage (tenant_id, user_name, day, used) VALUES ($1, 'c', current_date, 5)",
        scene.model.tenant_id,
    )


async def points_were_given_back_twice(scene: Scene) -> None:
    await scene.sql("UPDATE task SET points = 5, quota_day = current_date WHERE id = $1", scene.succeeded.id)
    await scene.sql("UPDATE task SET points = 4, quota_day = current_date WHERE id = $1", scene.waiting)
    await scene.sql(
        "INSERT INTO quota_usage (tenant_id, user_name, day, used) VALUES ($1, 'c', current_date, 5)",
        scene.model.tenant_id,
    )


async def points_were_reserved_nowhere(scene: Scene) -> None:
    await scene.sql("UPDATE task SET points = 4, quota_day = current_date WHERE id = $1", scene.waiting)


async def points_have_no_day(scene: Scene) -> None:
    await scene.sql("UPDATE task SET points = 4 WHERE id = $1", scene.waiting)


async def a_replay_is_not_in_the_history(scene: Scene) -> None:
    await scene.sql(
        "WITH j AS (INSERT INTO replay_job (action, kind, asked, most, rate, reason, asked_by, state, total, replayed)"
        " VALUES ('replay', 'task', '{}', 1, 1, 'r', 'b', 'done', 1, 1) RETURNING id)"
        " INSERT INTO replay_item (job_id, kind, target, public_id, error_code, result)"
        " SELECT id, 'task', $1, 'x', 'x', 'replayed' FROM j",
        scene.dead.id,
    )


async def a_replay_job_lost_an_item(scene: Scene) -> None:
    await scene.sql(
        "INSERT INTO replay_job (action, kind, asked, most, rate, reason, asked_by, total)"
        " VALUES ('replay', 'task', '{}', 1, 1, 'r', 'b', 1)"
    )


async def a_replay_job_ended_too_early(scene: Scene) -> None:
    await scene.sql(
        "WITH j AS (INSERT INTO replay_job (action, kind, asked, most, rate, reason, asked_by, state, total)"
        " VALUES ('drop', 'task', '{}', 1, 1, 'r', 'b', 'done', 1) RETURNING id)"
        " INSERT INTO replay_item (job_id, kind, target, public_id, error_code) SELECT id, 'task', $1, 'x', 'x' FROM j",
        scene.dead.id,
    )


async def a_dead_task_lives_again_without_a_replay(scene: Scene) -> None:
    """Its first end was announced; nobody recorded why it has a second one."""
    await scene.sql("DELETE FROM dead_task WHERE task_id = $1", scene.dead.id)
    await scene.sql(
        "UPDATE task SET status = 1, version = version + 2, finished_at = NULL, error_code = NULL, error_message = NULL"
        " WHERE id = $1",
        scene.dead.id,
    )
    await scene.sql(
        "INSERT INTO dispatch (id, public_id, lane, state, attempt, version, position)"
        " SELECT id, public_id, lane, 0, attempt, version, id FROM task WHERE id = $1",
        scene.dead.id,
    )
    await scene.house.gate.restore(scene.model.lane, [(str(scene.dead.public_id), SLOT_MS)])


CORRUPTIONS: list[tuple[str, Corruption]] = [
    ("I2", a_key_names_nobody),
    ("I3", an_open_task_lost_its_row),
    ("I3", an_open_task_lost_its_row_and_its_payload),
    ("I3", a_row_is_in_another_lane_than_its_task),
    ("I3", a_final_task_has_a_row),
    ("I3", a_row_has_no_task),
    ("I4", nobody_promotes_it),
    ("I4", its_executor_is_gone),
    ("I4", its_executor_is_silent),
    ("I4", it_runs_for_ever),
    ("I4", its_lane_does_not_exist),
    ("I4", its_model_was_deleted),
    ("I4", its_time_has_passed),
    ("I4", a_lease_was_never_closed),
    ("I5", an_attempt_is_missing),
    ("I5", an_attempt_ended_before_it_ended),
    ("I5", a_failure_has_a_successful_attempt),
    ("I5", a_success_has_none),
    ("I5", a_step_is_newer_than_its_task),
    ("I5", steps_go_back),
    ("I5", an_attempt_ended_before_it_began),
    ("I5", an_end_changed_without_a_replay),
    ("I6", an_event_says_something_else_the_second_time),
    ("I6", an_event_contradicts_its_row),
    ("I7", an_event_was_lost),
    ("I7", an_event_of_nobody_waits),
    ("I7", a_dead_event_is_of_nobody),
    ("I7", an_event_waits_for_what_is_still_open),
    ("I7", a_phantom_is_on_the_topic),
    ("I7", an_event_is_ahead_of_its_task),
    ("I7", rubbish_is_on_the_events_topic),
    *(("I7", strange) for strange in STRANGE_EVENTS),
    ("I8", it_was_sent_too_often),
    ("I8", an_event_never_dies),
    ("I8", an_event_was_sent_after_its_death),
    ("I10", nobody_claims_it),
    ("I10", poison_left_no_trace),
    ("I11", a_gate_is_over_its_limit),
    ("I13", a_slot_has_no_owner),
    ("I13", an_open_task_lost_its_slot),
    ("I13", a_permit_has_no_owner),
    ("I13", a_call_lost_its_permit),
    ("I13", a_job_that_nobody_runs_lost_its_permit),
    ("I15", two_attempts_share_a_token),
    ("I15", a_zombie_wrote_an_end),
    ("I16", a_call_was_counted_twice),
    ("I17", a_result_is_not_what_was_staged),
    ("I17", its_second_file_is_not_what_was_staged),
    ("I17", its_second_file_is_not_recorded),
    ("I17", fewer_bytes_were_staged),
    ("I19", a_result_is_gone),
    ("I18", a_submitted_attempt_has_no_job),
    ("I18", a_job_outlives_its_task),
    ("I18", a_job_serves_two_tasks),
    ("I19", its_second_file_is_gone),
    ("I19", a_result_was_cut),
    ("I19", a_success_names_no_file),
    ("I19", its_files_are_no_list),
    ("I19", a_file_of_it_is_a_number),
    ("I19", a_file_of_it_has_a_number_as_its_address),
    ("I19", a_file_of_it_has_a_word_as_its_size),
    ("I19", a_file_of_it_has_an_address_that_no_object_can_have),
    ("I20", a_staged_file_was_left_behind),
    ("I20", half_a_staged_file_was_left_behind),
    ("I20", a_staged_output_was_left_behind),
    ("I20", an_open_task_has_a_staged_output_that_it_does_not_name),
    ("I20", a_staged_output_is_gone),
    ("I23", points_were_not_given_back),
    ("I23", points_were_given_back_twice),
    ("I23", points_were_reserved_nowhere),
    ("I23", points_have_no_day),
    ("I24", an_accepted_task_is_not_in_the_operation_log),
    ("I24", an_accepted_task_is_logged_as_refused),
    ("I28", a_lane_is_held_and_no_pause_says_so),
    ("I28", a_tenant_is_held_and_no_pause_says_so),
    ("I28", a_pause_of_a_lane_holds_nothing),
    ("I28", a_pause_of_a_tenant_holds_nothing),
    ("I27", a_failure_is_not_listed),
    ("I27", a_dead_task_has_no_payload),
    ("I27", nobody_is_listed_as_dead),
    ("I27", a_death_has_another_version),
    ("I27", a_success_is_listed_as_dead),
    ("I27", a_replay_is_not_in_the_history),
    ("I27", a_replay_job_lost_an_item),
    ("I27", a_replay_job_ended_too_early),
    ("I5", a_dead_task_lives_again_without_a_replay),
]
#: A gate over its limit has members that nobody owns, too.
ALSO = {a_gate_is_over_its_limit: {"I13"}}
#: What the audit repairs by itself. Nothing else is safe to repair, and it says so.
REPAIRED: set[Corruption] = {
    an_open_task_lost_its_row,
    a_final_task_has_a_row,
    a_row_has_no_task,
    a_gate_is_over_its_limit,
    a_slot_has_no_owner,
    an_open_task_lost_its_slot,
    a_permit_has_no_owner,
    a_call_lost_its_permit,
    a_job_that_nobody_runs_lost_its_permit,
    a_staged_file_was_left_behind,
    half_a_staged_file_was_left_behind,
    a_staged_output_was_left_behind,
    a_lane_is_held_and_no_pause_says_so,
    a_tenant_is_held_and_no_pause_says_so,
    a_pause_of_a_lane_holds_nothing,
    a_pause_of_a_tenant_holds_nothing,
}
