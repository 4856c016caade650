"""How long something has been does not depend on who sets the clock."""

from __future__ import annotations

import os
import time
from pathlib import Path

import orjson
import pytest

from inbox_daemon.layout import Spool, Work
from inbox_daemon.machine import clock
from inbox_daemon.machine.clock import Moment, seconds_between
from inbox_daemon.spool import daemons, published
from inbox_daemon.spool.daemons import Presence
from inbox_daemon.spool.history import History

DAY = 86400.0


def test_within_a_boot_the_clock_may_be_set_to_anything_and_across_one_it_never_gives_less_than_none() -> None:
    for step in (-DAY, 0.0, 365 * DAY):
        assert seconds_between(Moment(1000.0, "a", 10.0), Moment(1005.0 + step, "a", 15.0)) == 5.0
    for other in (Moment(1005.0, "b", 2.0), Moment(1005.0)):
        assert seconds_between(Moment(1000.0, "a", 10.0), other) == 5.0
        assert seconds_between(Moment(2000.0, "a", 10.0), other) == 0.0


def test_the_moment_is_one_of_this_boot() -> None:
    first, second = clock.now(), clock.now()
    assert first.boot and first.boot == second.boot and abs(first.wall - time.time()) < 60
    assert 0.0 <= seconds_between(first, second) < 60


NOW = clock.now()
SAID = {  # what a daemon has said, and whether it lives
    "just now": ({"at": NOW.wall, "boot": NOW.boot, "up": NOW.up}, True),
    "just now, before the clock was set back a day": ({"at": NOW.wall + DAY, "boot": NOW.boot, "up": NOW.up}, True),
    "just now, before the clock was set forth a year": ({"at": 0.0, "boot": NOW.boot, "up": NOW.up}, True),
    "and died before the clock was set back": (
        {"at": NOW.wall + DAY, "boot": NOW.boot, "up": NOW.up - 70},
        False,
    ),
    "on another host": ({"at": NOW.wall, "boot": "other", "up": 3.0}, True),
    "on another host long ago": ({"at": NOW.wall - 70, "boot": "other", "up": NOW.up}, False),
    "on another host, from the future": ({"at": NOW.wall + DAY, "boot": "other", "up": NOW.up}, False),
    "in an earlier release": ({"at": NOW.wall}, True),
    "in an earlier release, from the future": ({"at": NOW.wall + DAY}, False),
}


@pytest.mark.parametrize(("said", "lives"), SAID.values(), ids=SAID)
def test_who_lives_is_seen_whatever_the_clock_was_set_to_and_who_does_not_is_swept_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: dict[str, object], lives: bool
) -> None:
    spool = Spool(tmp_path)
    spool.daemons.mkdir()
    other = spool.daemons / "other-1.json"
    other.write_bytes(orjson.dumps({"hostname": "other", "pid": 1} | said))
    monkeypatch.setattr(clock, "now", lambda: NOW)
    [view] = published.daemons(spool)
    assert view["alive"] == lives
    Presence(spool).say(time.monotonic(), {})
    assert other.exists() == lives


def test_half_a_file_of_a_killed_daemon_is_swept_away_though_its_stamp_lies_in_the_future(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.daemons.mkdir()
    half = spool.daemons / ".other-1.json"
    half.write_bytes(b'{"at": 17')
    Presence(spool).say(time.monotonic(), {})
    assert half.exists()
    os.utime(half, (time.time() + DAY, time.time() + DAY))
    Presence(spool).say(time.monotonic(), {})
    assert not half.exists()
    assert daemons.silent_for({}, clock.now()) > DAY


@pytest.mark.parametrize("step", [-DAY, DAY])
def test_the_deaths_of_the_last_hour_are_those_of_the_last_hour_whatever_the_clock_is_set_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    history, up, wall = History(Work(tmp_path)), NOW.up, NOW.wall

    def at(seconds: float, wall: float) -> Moment:
        moment = Moment(wall + seconds, NOW.boot, up + seconds)
        monkeypatch.setattr(clock, "now", lambda: moment)
        return moment

    def died(seconds: float, wall: float) -> None:
        history.note("engine_died", at(seconds, wall).wall)

    def lately(seconds: float, wall: float) -> int:
        return history.count_lately("engine_died", 3600.0, at(seconds, wall), after="resume")

    died(0, wall)
    died(10, wall + step)
    assert [lately(20, wall + step), lately(3605, wall), lately(3620, wall)] == [2, 1, 0]
    history.note("resume", at(30, wall).wall)
    died(40, wall + step)
    assert lately(50, wall + step) == 1
    history.save()
    assert History(Work(tmp_path)).count_lately("engine_died", 3600.0, at(60, wall), after="resume") == 1
