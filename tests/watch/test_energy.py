"""What a batch has cost of the GPUs' energy."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inbox_daemon.records import GpuDevice, Gpus, GpuState
from inbox_daemon.watch.energy import Energy


def sample(at: float, *joules: float | None, used: float = 0.8) -> Gpus:
    devices = tuple(
        GpuDevice(number, f"GPU-{number}", "H100", memory_used_bytes=int(used * 80), memory_total_bytes=80,
                  energy_joules=spent)
        for number, spent in enumerate(joules)
    )  # fmt: skip
    return Gpus(GpuState.OK, at, None, devices)


def test_what_gpus_spend_is_shared_by_the_work_done_meanwhile() -> None:
    energy = Energy()
    assert energy.look(sample(1, 1000, 5000), {1: 0, 2: 500}, True) == {}
    assert energy.look(sample(1, 1000, 5000), {1: 30, 2: 500}, True) == {}, "no new sample"
    assert energy.look(sample(2, 1300, 5100), {1: 100, 2: 800}, True) == {1: 100.0, 2: 300.0}
    assert energy.look(sample(3, 1400, 5100), {2: 800, 3: 0}, True) == {}, "spent, and nothing done with it yet"
    assert energy.look(sample(4, 1400, 5200), {2: 800, 3: 7}, True) == {3: 200.0}


def test_an_idle_gpu_one_that_holds_nothing_and_one_that_cannot_say_cost_no_batch_anything() -> None:
    energy = Energy()
    energy.look(sample(1, 1000), {}, False)
    energy.look(sample(2, 9000), {1: 0}, False)
    assert energy.look(sample(3, 9010), {1: 5}, True) == {1: 10.0}
    assert energy.look(sample(4, 9999, used=0.01), {1: 9}, True) == {}
    assert energy.look(sample(5, None), {1: 12}, True) == {}
    assert energy.look(sample(6, 20.0), {1: 15}, True) == {1: 0.0}, "the driver was loaded anew, or the GPU is another"


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 1000)), min_size=2, max_size=30))
def test_no_joule_is_counted_twice(steps: list[tuple[int, int, int]]) -> None:
    energy, done, spent, given_out = Energy(), {1: 0, 2: 0}, 0, 0.0
    energy.look(sample(0.5, 0.0), done, True)
    for at, (first, second, joules) in enumerate(steps, 1):
        done, spent = {1: done[1] + first, 2: done[2] + second}, spent + joules
        given_out += sum(energy.look(sample(at, float(spent)), done, True).values())
    assert given_out <= spent + 1e-6
    assert not any(step[0] + step[1] for step in steps[-1:]) or abs(given_out - spent) < 1e-6
