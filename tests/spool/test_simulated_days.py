"""Days of use on a simulated clock: drops, control files, deaths, hangs, crashes, full disks and stepped clocks.

`simulating` says what happens and what must hold. A seed is a run: what one has found is found again.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from simulated import BROKEN
from simulating import Report, several, simulated

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

HAPPENS = ("deaths", "hangs", "kills", "crashes", "stops", "full disks", "failed operations", "clock steps", "re-sends")


def held(report: Report) -> None:
    """Every promise was held, and it was put to the test."""
    assert report.violations == [], f"python tests/simulating.py --seed {report.seed}: {report}"
    assert report.counts["answers"] > 100 * report.hours
    assert {what for what in HAPPENS if not report.counts[what]} == set()


def test_72_simulated_hours_of_everything_at_once_hold_every_promise(record_property: Any) -> None:
    for report in several(range(1)):
        record_property(f"seed {report.seed}", str(report))
        held(report)


def test_a_simulated_day_with_two_models_that_take_turns_holds_every_promise(record_property: Any) -> None:
    report = simulated(3, 24, weather="two models")
    record_property("two models", str(report))
    held(report)
    assert report.counts["swaps"] > 24


def test_a_seed_gives_the_same_run_again() -> None:
    one, again, another = several((7, 7, 8), hours=8)
    assert one.digest == again.digest, f"{one} and then {again}"
    assert one.digest != another.digest


@pytest.mark.parametrize("broken", sorted(BROKEN))
def test_a_daemon_that_is_broken_on_purpose_is_found_out(broken: str) -> None:
    assert any(simulated(seed, 48, broken).violations for seed in range(3))


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_many_more_days_hold_every_promise(record_property: Any) -> None:
    for report in several(range(int(os.environ.get("SIMULATED_SEEDS", "10")))):
        print(report)
        record_property(f"seed {report.seed}", str(report))
        held(report)
