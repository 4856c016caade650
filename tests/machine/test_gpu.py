"""GPU sampling: whatever the child that asks NVML does, the daemon knows a state with a name and never waits."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import orjson
import psutil
import pytest
from running import eventually

from inbox_daemon.machine import nvml
from inbox_daemon.machine.gpu import Sampler
from inbox_daemon.records import GpuDevice, Gpus, GpuState

CARD = GpuDevice(
    0, "GPU-a", "H100", utilization=0.5, throttle=("hw_slowdown",), processes=({"pid": 7, "memory_bytes": 9},)
)
OTHER = GpuDevice(1, "GPU-b", "H100")

Make = Callable[..., Sampler]


def said(state: GpuState, *devices: GpuDevice, problem: str | None = None) -> str:
    """A line of Python that says one sample as the child does."""
    line = orjson.dumps(asdict(Gpus(state, 5.0, problem, devices))).decode()
    return f"print({line!r}, flush=True)\n"


@pytest.fixture
def sampler(tmp_path: Path) -> Iterator[Make]:
    """Make a Sampler whose child is this Python program."""
    made: list[Sampler] = []

    def make(program: str, answers_within: float = 10.0) -> Sampler:
        script = tmp_path / "child.py"
        script.write_text(f"import sys, time\n{program}")
        command = (sys.executable, str(script))
        made.append(Sampler(0.1, lambda: True, command=command, answers_within=answers_within))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def until(sampler: Sampler, state: GpuState) -> Gpus:
    def there() -> Gpus | None:
        gpus = sampler.look(time.monotonic(), time.time())
        return gpus if gpus.state is state and gpus.at else None

    return eventually(there, 20, f"GPUs are {state}")  # type: ignore[return-value]


def child_of(sampler: Sampler) -> psutil.Process:
    assert sampler._child is not None
    return psutil.Process(sampler._child.pid)


def test_a_sample_arrives_whole_in_whatever_pieces_it_is_written(sampler: Make) -> None:
    line = orjson.dumps(asdict(Gpus(GpuState.OK, 5.0, None, (CARD, OTHER)))).decode()
    writes = "".join(
        f"sys.stdout.write({piece!r}); sys.stdout.flush(); time.sleep(0.05)\n" for piece in (line[:9], line[9:], "\n")
    )
    assert until(sampler(f"{writes}time.sleep(60)"), GpuState.OK) == Gpus(GpuState.OK, 5.0, None, (CARD, OTHER))


def test_a_child_that_hangs_is_named_killed_and_replaced_and_the_last_values_stay(sampler: Make) -> None:
    one = sampler(said(GpuState.OK, CARD) + "time.sleep(60)", answers_within=2.0)
    until(one, GpuState.OK)
    hung = child_of(one)
    gpus = until(one, GpuState.SILENT)
    assert gpus.problem is not None and "not answered" in gpus.problem
    assert (gpus.at, gpus.devices) == (5.0, (CARD,))

    def replaced() -> bool:
        one.look(time.monotonic(), time.time())
        return one._child is not None and one._child.pid != hung.pid

    eventually(replaced, 20, "another child")
    assert not hung.is_running()
    until(one, GpuState.OK)


def test_a_child_that_dies_is_named_with_its_status(sampler: Make) -> None:
    gpus = until(sampler(said(GpuState.OK, CARD) + "sys.exit(3)"), GpuState.SILENT)
    assert gpus.problem == "what asks NVML ended with status 3"


def test_a_gpu_that_was_there_and_is_not_is_lost_and_the_others_go_on(sampler: Make) -> None:
    one = sampler(said(GpuState.OK, CARD, OTHER) + said(GpuState.OK, CARD) + "time.sleep(60)")
    gpus = until(one, GpuState.LOST)
    assert gpus.problem is not None and "GPU-b" in gpus.problem
    assert gpus.devices == (CARD,)


def test_a_driver_that_goes_away_makes_its_gpus_lost(sampler: Make) -> None:
    one = sampler(said(GpuState.OK, CARD) + said(GpuState.NO_DRIVER, problem="NVML: Driver Not Loaded"))
    gpus = until(one, GpuState.LOST)
    assert gpus.problem is not None and "GPU-a" in gpus.problem and "Driver Not Loaded" in gpus.problem


def test_an_xid_is_remembered_when_the_child_is_another(sampler: Make, tmp_path: Path) -> None:
    struck = GpuDevice(0, "GPU-a", "H100", xid=79, xid_at=4.0)
    mark = str(tmp_path / "second")
    later = f"import os\nif os.path.exists({mark!r}):\n    {said(GpuState.OK, CARD)}    time.sleep(60)\n"
    program = f"{later}open({mark!r}, 'w')\n{said(GpuState.OK, struck)}"
    one = sampler(program)
    first = until(one, GpuState.OK)
    assert first.devices[0].xid == 79

    def second() -> bool:
        gpus = one.look(time.monotonic(), time.time())
        return bool(gpus.devices and gpus.devices[0].utilization == 0.5 and gpus.devices[0].xid == 79)

    eventually(second, 20, "the second child's sample with the first one's Xid")


def test_nonsense_from_the_child_is_no_sample(sampler: Make) -> None:
    one = sampler("print('[1]\\n{\"state\": 1}\\n\\n', flush=True)\n" + said(GpuState.OK, CARD) + "time.sleep(60)")
    assert until(one, GpuState.OK).devices == (CARD,)


def test_the_child_does_not_outlive_its_parent(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys\n"
        "code = 'import time; from inbox_daemon.machine.parent import tie_to_parent; tie_to_parent()'\n"
        "code += '; print(1, flush=True); time.sleep(60)'\n"
        "child = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True); import time; time.sleep(60)\n"
    )
    with psutil.Popen([sys.executable, "-c", program], stdout=-1) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 10, "the child is gone")


def test_the_real_nvml_gives_this_host_a_state_with_a_name() -> None:
    one = Sampler(1.0, lambda: True)
    try:

        def there() -> Gpus | None:
            gpus = one.look(time.monotonic(), time.time())
            return gpus if gpus.at else None

        gpus = eventually(there, 60, "a first sample")
        assert gpus is not None
        if nvml.present():
            assert gpus.state in (GpuState.OK, GpuState.NO_DRIVER)
        else:
            assert (gpus.state, gpus.devices) == (GpuState.ABSENT, ())
            assert gpus.problem is not None and "NVML" in gpus.problem
    finally:
        with suppress(ValueError):
            one.stop()
