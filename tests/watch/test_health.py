"""What is judged: progress, conditions, and which of them become alerts. No clock but the one that is passed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from inbox_daemon.config import AlertSettings, Config, EngineSettings
from inbox_daemon.records import AlertName, EngineState, GpuDevice, Gpus, GpuState, Host
from inbox_daemon.setbacks import Setback, Setbacks
from inbox_daemon.settings import Settings
from inbox_daemon.watch.alerts import RULES, Alerts, Edge
from inbox_daemon.watch.conditions import BatchFacts, Condition, EngineMoment, Moment, conditions
from inbox_daemon.watch.health import Health, Verdict

READY, LOADING, OFF = EngineState.READY, EngineState.LOADING, EngineState.OFF
BACKING_OFF = EngineState.BACKING_OFF
ENGINE = EngineSettings(load_timeout=1000.0, stall_after=600.0, stall_after_answers=300.0)
GB = 1 << 30


def an_engine(number: int, state: EngineState = READY, in_flight: int = 10, **changes: Any) -> EngineMoment:
    return EngineMoment(number, state, f"engine {number}", in_flight, **changes)


def one(state: EngineState = READY, in_flight: int = 10, **changes: Any) -> Moment:
    """A moment of a daemon with one engine; what else is so, of the engine or beside it."""
    of_engine = {name: changes.pop(name) for name in ("settled", "tokens", "deaths", "failures") if name in changes}
    return Moment((EngineMoment(1, state, in_flight=in_flight, **of_engine),), **changes)


def two(first: EngineMoment, second: EngineMoment, **changes: Any) -> Moment:
    return Moment((first, second), **changes)


BUSY = one()


def new_judge(progress_at: float = 0.0) -> Health:
    return Health(Settings(Config(engine=ENGINE)), progress_at)


def judged(*moments: tuple[float, Moment]) -> Verdict:
    """The verdict on the last of these moments."""
    health = new_judge()
    return [health.judge(moment, now) for now, moment in moments][-1]


def killed(*moments: tuple[float, Moment]) -> str:
    """Why the last of these moments has the only engine killed; "" where it has not."""
    kill = judged(*moments).kill
    assert kill.keys() <= {1}
    return kill.get(1, "")


def test_an_engine_that_never_answered_has_longer_than_one_that_has() -> None:
    first = one(settled=1)
    assert not killed((0, BUSY), (600, BUSY))
    assert "stall_after)" in killed((0, BUSY), (601, BUSY))
    assert not killed((0, BUSY), (500, first), (800, first))
    assert "stall_after_answers" in killed((0, BUSY), (500, first), (801, first))


@pytest.mark.parametrize("load", [30.0, 200.0, 600.0])
def test_engines_that_only_die_while_loading_are_an_alert_until_one_is_ready(load: float) -> None:
    """However long their loads, and the waits of up to five minutes between them, take."""
    health = new_judge()
    now, raised = 0.0, []
    for failures in range(40):
        for state, seconds in ((LOADING, load), (BACKING_OFF, 300.0)):
            moment = one(state, 0, deaths=failures, failures=failures)
            raised.append({condition.name for condition in health.judge(moment, now).conditions})
            now += seconds
    first = next(at for at, names in enumerate(raised) if AlertName.ENGINE_RESTARTING in names)
    assert first <= 8 and all(AlertName.ENGINE_RESTARTING in names for names in raised[first:])
    assert AlertName.NO_PROGRESS in raised[-1]  # there is work, and for longer than a load may take no engine
    assert not list(health.judge(one(deaths=40, settled=1), now + 1000).conditions)
    idle = replace(moment, wanted=False)
    assert not list(health.judge(idle, now + 2000).conditions)


def test_work_that_a_daemon_finds_at_its_start_has_waited_no_longer_than_the_daemon() -> None:
    booted = 50_000.0  # seconds on the host's clock, which are not this daemon's
    health = new_judge(booted)
    assert not health.judge(one(OFF, 0), booted).conditions
    assert not health.judge(one(OFF, 0), booted + 1000.0).conditions
    assert names(health.judge(one(OFF, 0), booted + 1001.0)) == ["NoProgress"]


BUSY_GPU = Gpus(GpuState.OK, 0, None, (GpuDevice(0, "u", "n", utilization=1.0),))


@pytest.mark.parametrize("mark", ["settled", "tokens"])
def test_any_growth_is_progress_and_a_busy_gpu_is_none(mark: str) -> None:
    spinning, moved = one(gpus=BUSY_GPU), one(gpus=BUSY_GPU, **{mark: 1})
    assert not killed((0, spinning), (599, moved), (899, moved))
    assert killed((0, spinning), (601, spinning))


def test_what_became_durable_is_progress_and_saves_no_engine_that_is_silent() -> None:
    """It was answered before; by which engine, nobody knows by then."""
    health = new_judge()
    health.judge(BUSY, 0)
    saved = one(durable=5)
    assert not health.judge(saved, 599).kill
    assert health.progress_at == 599
    assert health.judge(saved, 601).kill.keys() == {1}


def test_an_engine_with_nothing_to_do_is_not_stalled() -> None:
    idle = one(in_flight=0)
    assert not killed((0, idle), (5000, idle))
    assert not killed((0, idle), (5000, BUSY), (5600, BUSY))


def test_loading_has_a_bound_of_its_own_and_each_engine_starts_anew() -> None:
    loading = one(LOADING, 0)
    assert not killed((0, loading), (1000, loading))
    assert "load_timeout" in killed((0, loading), (1001, loading))
    assert not killed((0, loading), (900, BUSY), (1500, BUSY))


def test_counters_that_start_again_with_another_engine_are_no_progress() -> None:
    health = new_judge()
    health.judge(BUSY, 0.5)
    health.judge(one(tokens=500), 1)
    health.judge(one(OFF, 0), 2)
    health.judge(one(tokens=3), 3)
    assert health.progress_at == 1
    health.judge(one(tokens=4), 4)
    assert health.progress_at == 4


def names(verdict: Verdict) -> list[str]:
    return [condition.name.value for condition in verdict.conditions]


def test_a_stall_lasts_until_there_is_progress_again_or_nothing_to_do() -> None:
    stall = [(0.0, BUSY), (601.0, BUSY), (602.0, one(OFF, 0)), (603.0, one(LOADING, 0)), (650.0, BUSY)]
    assert names(judged(*stall)) == ["NoProgress"]
    assert names(judged(*stall, (651.0, one(settled=1)))) == []
    assert names(judged(*stall, (651.0, one(in_flight=0, wanted=False)))) == []


def test_an_engine_that_outlives_its_kill_is_for_systemd_to_end() -> None:
    assert judged((0, BUSY), (601, BUSY), (720, BUSY)).in_order
    assert not judged((0, BUSY), (601, BUSY), (722, BUSY)).in_order
    assert judged((0, BUSY), (601, BUSY), (722, BUSY), (723, one(OFF, 0))).in_order


def test_three_deaths_within_a_quarter_of_an_hour_are_too_many() -> None:
    dead = [(0.0, one(deaths=1)), (400.0, one(deaths=2, settled=1))]
    third = one(deaths=3, settled=2)
    assert names(judged(*dead, (450.0, third))) == ["EngineRestarting"]
    assert names(judged(*dead, (901.0, third))) == []


# -- several engines


def working_beside(silent: int, until: int) -> list[tuple[float, Moment]]:
    """Two engines, a moment every hundred seconds: one says nothing, the other answers all the time."""
    moments: list[tuple[float, Moment]] = []
    for now in range(0, until + 1, 100):
        engines = [an_engine(number, settled=0 if number == silent else now) for number in (1, 2)]
        moments.append((float(now), two(*engines, durable=now)))
    return moments


@pytest.mark.parametrize("silent", [1, 2])
def test_of_two_engines_the_silent_one_is_named_and_the_other_is_left_alone(silent: int) -> None:
    assert not judged(*working_beside(silent, until=600)).kill
    verdict = judged(*working_beside(silent, until=700))
    assert dict(verdict.kill) == {silent: "10 requests in flight and no progress for 700 s (engine.stall_after)"}
    [found] = verdict.conditions
    assert (found.name, found.subject) == (AlertName.NO_PROGRESS, str(silent))
    assert found.text == f"engine {silent}: {verdict.kill[silent]}"


def test_two_silent_engines_are_two_alerts_and_progress_of_one_ends_its_own_alone() -> None:
    both = two(an_engine(1), an_engine(2))
    silent = [(0.0, both), (601.0, both)]
    verdict = judged(*silent)
    assert verdict.kill.keys() == {1, 2}
    assert [condition.subject for condition in verdict.conditions] == ["1", "2"]
    assert sum(raised for _, raised in observed(Alerts({}), (601.0, verdict.conditions))) == 2
    after = judged(*silent, (602.0, two(an_engine(1, OFF, 0), an_engine(2, settled=1))))
    assert not after.kill
    assert [condition.subject for condition in after.conditions] == ["1"]


def test_each_engine_has_the_patience_that_its_own_answers_have_earned() -> None:
    start, first = two(an_engine(1), an_engine(2)), two(an_engine(1, settled=1), an_engine(2))
    verdict = judged((0, start), (100, first), (401, first))
    assert verdict.kill.keys() == {1} and "stall_after_answers" in verdict.kill[1]
    assert judged((0, start), (100, first), (601, first)).kill.keys() == {1, 2}


def test_an_engine_that_loads_for_too_long_is_killed_while_the_other_works() -> None:
    moments = [(100.0 * at, two(an_engine(1, settled=at), an_engine(2, LOADING, 0))) for at in range(12)]
    assert not judged(*moments[:11]).kill
    verdict = judged(*moments)
    assert verdict.kill.keys() == {2} and "load_timeout" in verdict.kill[2]


def test_one_engine_that_outlives_its_kill_is_for_systemd_to_end_though_the_other_works() -> None:
    silent = working_beside(1, until=900)
    assert judged(*silent[:8]).in_order
    assert not judged(*silent).in_order
    gone = two(an_engine(1, OFF, 0), an_engine(2, settled=901))
    assert judged(*silent, (901.0, gone)).in_order


def test_deaths_count_together_and_loads_that_fail_by_the_engine_they_fail_in() -> None:
    quiet = two(an_engine(1), an_engine(2))
    once = two(an_engine(1, deaths=1, settled=1), an_engine(2, deaths=2, settled=1))
    assert names(judged((0.0, quiet), (10.0, once))) == ["EngineRestarting"]
    failing = two(an_engine(1, settled=1), an_engine(2, BACKING_OFF, 0, deaths=3, failures=3))
    [found] = judged((0.0, failing), (5000.0, failing)).conditions[-1:]
    assert found.name is AlertName.ENGINE_RESTARTING and "3 engines in a row died while loading" in found.text
    some = two(an_engine(1, deaths=1, failures=1), an_engine(2, deaths=2, failures=2))
    assert names(judged((0.0, some), (1.0, some))) == ["EngineRestarting"]  # three deaths; no three in a row
    assert names(judged((0.0, quiet), (901.0, two(an_engine(1, settled=1), an_engine(2, settled=1))))) == []


def test_work_has_an_engine_as_long_as_one_of_them_is_ready() -> None:
    one_off = two(an_engine(1, OFF, 0), an_engine(2, in_flight=0))
    assert not judged((0.0, one_off), (5000.0, one_off)).conditions
    both_off = two(an_engine(1, OFF, 0), an_engine(2, OFF, 0))
    assert names(judged((0.0, both_off), (1001.0, both_off))) == ["NoProgress"]


def test_limits_that_a_reload_changes_hold_from_the_next_moment_on() -> None:
    health = new_judge()
    idle = replace(with_card(utilization=0.49), wall=0.0)
    assert names(health.judge(idle, 0.0)) == ["GpuUtilizationLow"]
    health.settings.take(Config(engine=ENGINE, alerts=AlertSettings(gpu_utilization=0.2)))
    assert names(health.judge(idle, 1.0)) == []


def test_engines_that_come_later_are_judged_from_then_on() -> None:
    alone = [(0.0, BUSY), (500.0, one(settled=1))]
    joined = two(an_engine(1, settled=2), an_engine(2, deaths=0))
    assert not judged(*alone, (650.0, joined), (900.0, two(an_engine(1, settled=3), an_engine(2)))).kill


CARD = GpuDevice(
    0, "u", "H100", utilization=0.9, memory_used_bytes=72 * GB, memory_total_bytes=80 * GB, temperature_celsius=60.0
)


def with_card(**changes: object) -> Moment:
    card = replace(CARD, **changes)  # type: ignore[arg-type]
    return replace(BUSY, gpus=Gpus(GpuState.OK, 100.0, None, (card,)), wall=100.0, reserved=0.9)


def with_batch(**facts: object) -> Moment:
    return replace(BUSY, batches=(BatchFacts("b", **facts),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("moment", "found", "lingers"),
    [
        (with_card(), [], False),
        (with_card(utilization=0.49), ["GpuUtilizationLow"], False),
        (with_card(utilization=0.52), ["GpuUtilizationLow"], True),
        (replace(with_card(utilization=0.0), engines=one(in_flight=0).engines), [], False),
        (replace(with_card(utilization=0.0), engines=one(LOADING).engines), [], False),
        (replace(with_card(utilization=0.0), engines=(an_engine(1), an_engine(2, in_flight=0))), [], False),
        (replace(with_card(utilization=0.0), engines=(an_engine(1), an_engine(2, LOADING, 0))), [], False),
        (replace(with_card(utilization=0.0), engines=()), [], False),
        (with_card(throttle=("sw_power_cap",)), [], False),
        (with_card(throttle=("hw_thermal_slowdown", "sw_power_cap")), ["GpuThrottled"], False),
        (with_card(xid=79, xid_at=50.0), ["GpuXid"], False),
        (replace(with_card(xid=79, xid_at=50.0), wall=700.0), [], False),
        (with_card(memory_used_bytes=75 * GB), ["GpuMemoryHigh"], True),
        (with_card(memory_used_bytes=77 * GB), ["GpuMemoryHigh"], False),
        (replace(with_card(memory_used_bytes=77 * GB), reserved=0.96), ["GpuMemoryHigh"], True),
        (replace(with_card(memory_used_bytes=77 * GB), reserved=0.99), [], False),
        (replace(BUSY, gpus=Gpus(GpuState.LOST, 1.0, "GPU 1 is gone")), ["GpuLost"], False),
        (replace(BUSY, gpus=Gpus(GpuState.SILENT, 1.0, "no answer", (replace(CARD, xid=8, xid_at=1.0),))),
         ["GpuSilent"], False),
        (replace(BUSY, gpus=Gpus(GpuState.NO_DRIVER, 1.0, "…")), [], False),
        (replace(BUSY, host=Host(0.96, 0.5, 1)), ["HostMemoryHigh"], False),
        (replace(BUSY, host=Host(0.94, 0.5, 1)), ["HostMemoryHigh"], True),
        (replace(BUSY, host=Host(None, 0.97, 1)), ["DiskHigh"], False),
        (with_batch(parked="died 30 times"), ["BatchParked"], False),
        (with_batch(lacking=5), ["DiskWillFill"], False),
        (with_batch(age=3000.0, eta=700.0), ["BatchLate"], False),
        (with_batch(age=3000.0, eta=500.0), ["BatchLate"], True),
        (with_batch(age=3000.0, eta=None), [], False),
        (replace(BUSY, setbacks=(Setback("b", "b", 3, 120.0, "…"),)), ["FilesFailing"], False),
        (replace(BUSY, setbacks=(Setback("b", "b", 9, 119.0, "…"), Setback("inbox", None, 2, 300.0, "…"))), [], False),
    ],
)  # fmt: skip
def test_a_moment_has_the_conditions_that_hold_in_it(moment: Moment, found: list[str], lingers: bool) -> None:
    seen = list(conditions(moment, AlertSettings(batch_deadline=3600.0)))
    assert [condition.name.value for condition in seen] == found
    assert all(condition.lingers is lingers for condition in seen)


def test_gpus_of_the_host_that_hold_no_model_may_idle() -> None:
    spare = replace(CARD, index=1, uuid="v", utilization=0.0, memory_used_bytes=GB)
    moment = replace(BUSY, gpus=Gpus(GpuState.OK, 1.0, None, (CARD, spare)))
    assert list(conditions(moment, AlertSettings())) == []
    working = replace(spare, memory_used_bytes=70 * GB)
    [found] = conditions(replace(moment, gpus=Gpus(GpuState.OK, 1.0, None, (CARD, working))), AlertSettings())
    assert "GPU 1" in found.text


IDLE = Condition(AlertName.GPU_UTILIZATION_LOW, "idle")
BARELY = replace(IDLE, lingers=True)


def observed(alerts: Alerts, *seen: tuple[float, Sequence[Condition]]) -> list[tuple[float, bool]]:
    edges: list[tuple[float, Edge]] = []
    for now, found in seen:
        edges += [(now, edge) for edge in alerts.observe(found, now, 1000.0 + now)]
    return [(now, edge.raised) for now, edge in edges]


def test_an_alert_is_said_once_when_it_has_held_and_once_when_it_has_been_gone() -> None:
    alerts = Alerts({AlertName.GPU_UTILIZATION_LOW: 5.0})
    assert observed(alerts, (10, [IDLE]), (14, [IDLE]), (15, [IDLE]), (16, [IDLE])) == [(15, True)]
    [alert] = alerts.raised
    assert (alert.since, alert.text, alert.severity) == (1010.0, "idle", "warning")
    assert observed(alerts, (20, []), (79, []), (80, []), (81, [])) == [(80, False)]
    assert alerts.raised == ()


def test_what_does_not_hold_long_enough_is_never_said() -> None:
    alerts = Alerts({AlertName.GPU_UTILIZATION_LOW: 5.0})
    assert observed(alerts, (0, [IDLE]), (4, [IDLE]), (5, []), (6, [IDLE]), (10, [IDLE]), (10.5, [BARELY])) == []
    assert observed(alerts, (11, [IDLE]), (15, [IDLE])) == []


def test_at_the_limit_an_alert_stays_and_none_is_raised() -> None:
    alerts = Alerts({AlertName.GPU_UTILIZATION_LOW: 0.0})
    assert observed(alerts, (0, [BARELY]), (1, [BARELY])) == []
    assert observed(alerts, (2, [IDLE]), (3, [BARELY]), (900, [BARELY])) == [(2, True)]
    assert observed(alerts, (901, []), (930, [BARELY]), (931, []), (990, []), (991, [])) == [(991, False)]


def test_each_batch_has_alerts_of_its_own() -> None:
    alerts = Alerts({})
    parked = [Condition(AlertName.BATCH_PARKED, "…", name) for name in ("a", "b")]
    assert observed(alerts, (0, parked), (1, parked[1:])) == [(0, True), (0, True), (1, False)]
    assert [alert.batch for alert in alerts.raised] == ["b"]


def test_each_gpu_and_each_of_its_xid_errors_is_an_alert_of_its_own() -> None:
    def moment(first: int, second: int) -> list[Condition]:
        cards = (replace(CARD, xid=first, xid_at=90.0), replace(CARD, index=1, uuid="v", xid=second, xid_at=90.0))
        return list(conditions(replace(with_card(), gpus=Gpus(GpuState.OK, 1.0, None, cards)), AlertSettings()))

    alerts = Alerts({})
    assert observed(alerts, (0, moment(31, 31))) == [(0, True), (0, True)]
    assert observed(alerts, (1, moment(79, 31))) == [(1, True), (1, False)]
    assert sorted(alert.text[:31] for alert in alerts.raised) == [
        "GPU 0 (H100) reported Xid 79; d",
        "GPU 1 (H100) reported Xid 31; d",
    ]


def test_a_setback_counts_from_its_first_failure_until_it_is_over_or_ten_minutes_old() -> None:
    setbacks = Setbacks()
    for now in (0.0, 500.0, 1000.0):
        setbacks.failed("id", f"at {now:.0f}", now, batch="b")
    setbacks.failed("inbox", "no", 1000.0)
    assert setbacks.known(1600.0) == (Setback("b", "b", 3, 1000.0, "at 1000"), Setback("inbox", None, 1, 0.0, "no"))
    setbacks.over("inbox")
    assert setbacks.known(1600.0) == (Setback("b", "b", 3, 1000.0, "at 1000"),)
    setbacks.failed("id", "anew", 1601.0, batch="b")
    assert setbacks.known(1601.0) == (Setback("b", "b", 1, 0.0, "anew"),)


def test_every_alert_has_a_rule() -> None:
    assert set(RULES) == set(AlertName)
