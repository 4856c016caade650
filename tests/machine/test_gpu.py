"""GPU sampling: whatever the child that asks NVML does, the daemon knows a state with a name and never waits."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import psutil
import pynvml
import pytest
from running import ROOT, Daemon, eventually

from inbox_daemon.machine import nvml
from inbox_daemon.machine.gpu import Sampler
from inbox_daemon.records import GpuDevice, Gpus, GpuState

CARD = GpuDevice(
    0, "GPU-a", "H100", utilization=0.5, throttle=("hw_slowdown",), processes=({"pid": 7, "memory_bytes": 9},)
)
OTHER = GpuDevice(1, "GPU-b", "H100")

Make = Callable[..., Sampler]
Start = Callable[..., Daemon]


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


@pytest.mark.slow
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


@pytest.mark.slow
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


class Driver:
    """The driver's answers in place of this host's, two GPUs of them, some as drivers in bug reports gave them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **odd: Any) -> None:
        self.denied: dict[int, Exception] = {}
        sizes = SimpleNamespace(total=85 * 10**9, used=10**9)
        usual = {
            "nvmlInit": lambda: None,
            "nvmlEventSetCreate": lambda: _raise(pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)),
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": self._handle,
            "nvmlDeviceGetUUID": lambda h: f"GPU-{h}",
            "nvmlDeviceGetName": lambda h: "NVIDIA H100",
            "nvmlDeviceGetPowerUsage": lambda h: 100_000,
            "nvmlDeviceGetEnforcedPowerLimit": lambda h: 700_000,
            "nvmlDeviceGetMemoryInfo": lambda h: sizes,
            "nvmlDeviceGetClockInfo": lambda h, k: 1500,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda h: 0,
            "nvmlDeviceGetComputeRunningProcesses": lambda h: [SimpleNamespace(pid=1, usedGpuMemory=10**9)],
            "nvmlDeviceGetUtilizationRates": lambda h: SimpleNamespace(gpu=50),
            "nvmlDeviceGetTemperature": lambda h, k: 40,
            "nvmlDeviceGetTotalEccErrors": lambda h, k, c: 0,
        }
        for name, answer in (usual | odd).items():
            monkeypatch.setattr(pynvml, name, answer)

    def _handle(self, index: int) -> int:
        if index in self.denied:
            raise self.denied[index]
        return index


def _raise(error: Exception) -> None:
    raise error


def test_a_gpu_that_never_was_ours_is_left_out_and_only_one_that_answered_can_be_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = Driver(monkeypatch)
    driver.denied[1] = pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)
    watch = nvml.Watch()
    gpus = watch.sample()
    assert (gpus.state, [one.index for one in gpus.devices]) == (GpuState.OK, [0])
    assert gpus.problem == "GPU 1: Insufficient Permissions"
    driver.denied[0] = pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)
    assert watch.sample().state is GpuState.LOST
    driver.denied = {1: pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)}
    assert nvml.Watch().sample().state is GpuState.LOST, "and what NVML itself calls lost"


def test_what_cannot_be_read_of_one_gpu_costs_that_value_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_text(handle: int) -> str:
        return b"\xf8\x91\xff".decode() if handle == 0 else "NVIDIA H100"

    def broken(handle: int) -> int:
        raise OSError("a driver that is half installed")

    Driver(monkeypatch, nvmlDeviceGetName=no_text, nvmlDeviceGetPowerUsage=broken)
    gpus = nvml.Watch().sample()
    assert (gpus.state, gpus.problem) == (GpuState.OK, None)
    assert [(one.name, one.power_watts, one.utilization) for one in gpus.devices] == [
        ("a GPU without a name", None, 0.5),
        ("NVIDIA H100", None, 0.5),
    ]


def test_a_value_that_no_gpu_can_have_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    minus_one, all_ones = (1 << 32) - 1, (1 << 64) - 1
    Driver(
        monkeypatch,
        nvmlDeviceGetMemoryInfo=lambda h: SimpleNamespace(total=85 * 10**9 if h else 0, used=all_ones - 4095),
        nvmlDeviceGetUtilizationRates=lambda h: SimpleNamespace(gpu=minus_one),
        nvmlDeviceGetTemperature=lambda h, k: minus_one,
        nvmlDeviceGetPowerUsage=lambda h: minus_one,
        nvmlDeviceGetClockInfo=lambda h, k: minus_one,
        nvmlDeviceGetComputeRunningProcesses=lambda h: [SimpleNamespace(pid=1, usedGpuMemory=all_ones)],
    )
    first, second = nvml.Watch().sample().devices
    assert (first.memory_total_bytes, second.memory_total_bytes) == (None, 85 * 10**9)
    for one in (first, second):
        values = (one.memory_used_bytes, one.utilization, one.temperature_celsius, one.power_watts, one.sm_clock_hertz)
        assert values == (None,) * 5 and one.processes == ({"pid": 1, "memory_bytes": None},)


def test_xids_by_the_thousand_make_a_sample_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    event = SimpleNamespace(device=0, eventData=13)
    Driver(
        monkeypatch,
        nvmlEventSetCreate=object,
        nvmlDeviceRegisterEvents=lambda d, k, s: None,
        nvmlEventSetWait_v2=lambda s, ms: event,
        nvmlDeviceGetIndex=lambda d: 0,
    )
    watch = nvml.Watch()
    monkeypatch.setattr(time, "sleep", slept.append)
    watch.sleep(5.0)
    assert 0.9 < sum(slept) <= 1.0 and watch.sample().devices[0].xid == 13


def test_a_driver_that_does_not_fit_is_said_in_the_log_once(start_daemon: Start, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import pynvml\n"
        "def nvmlInit(): raise pynvml.NVMLError(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)\n"
        "pynvml.nvmlInit = nvmlInit\n"
        "from pathlib import Path\n"
        "exists = Path.exists\n"
        "Path.exists = lambda self: str(self) == '/dev/nvidiactl' or exists(self)\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    daemon = start_daemon(environment={"PYTHONPATH": path, "INBOX_DAEMON_DAEMON__GPU_EVERY": "0.1"})
    eventually(lambda: "GPUs: NVML: RM has detected an NVML/RM version mismatch." in daemon.text(), 20)
    assert daemon.text().count("GPUs: ") == 1


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
