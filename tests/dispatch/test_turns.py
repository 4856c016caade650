"""Whose turn it is: what always holds, whatever comes, on GPUs that hold one model or several; and the rule itself."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inbox_daemon.dispatch.turns import Change, Hot, Turns, Waiting

MODELS = "ABCD"
DRAIN = 10.0  # seconds for which what a model has begun may go on
JOB = st.tuples(
    st.integers(0, 6000), st.sampled_from(MODELS), st.integers(1, 4000).map(float), st.integers(0, 2)
)  # when it comes, for which model, its seconds of work, its priority
SWAPS = st.sampled_from([1, 5, 25, 60, 120])
many = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))

Job = tuple[int, str, float, int]


@dataclass
class Work:
    model: str
    left: float
    priority: int
    came: float
    unserved: float = 0.0


@dataclass
class Machine:
    """A plain set of GPUs around the rule, which holds at every moment what must always hold.

    Attributes:
        loads: which model was loaded when; interrupts: of which model for which other, and when.
        longest: seconds, the longest time for which something was not being worked on.
        left: what is not done at the end.
    """

    jobs: Sequence[Job]
    swap: float
    turns: Turns
    room: int = 1
    known: bool = True
    until: float = 60_000
    step: float = 5.0
    loads: list[tuple[float, str]] = field(default_factory=list)
    longest: float = 0.0
    left: list[Work] = field(default_factory=list)
    now: float = 0.0

    def run(self) -> Machine:
        coming = sorted(self.jobs)
        self._hot: dict[str, float] = {}
        self._gone: dict[str, float] = {}
        loading: tuple[str, float] | None = None
        while self.now < self.until and (coming or self.left):
            while coming and coming[0][0] <= self.now:
                at, model, work, priority = coming.pop(0)
                self.left.append(Work(model, work, priority, at))
            if loading and self.now >= loading[1]:
                self._hot[loading[0]], loading = self.now, None
            if not loading and (change := self._decided()):
                for model in change.let_go:
                    self._gone[model] = self.now
                    del self._hot[model]
                loading = (change.load, self.now + self.swap + (DRAIN if change.let_go else 0))
                self.loads.append((self.now, change.load))
            self._work()
            self.now += self.step
        return self

    def _of(self, model: str) -> list[Work]:
        return [one for one in self.left if one.model == model]

    def _decided(self) -> Change | None:
        hot, waiting = [], []
        for model in MODELS:
            work = self._of(model)
            priority = max((one.priority for one in work), default=None)
            if model in self._hot:
                left = sum(one.left for one in work) if work and self.known else None
                hot.append(Hot(model, self._hot[model], priority, left, self.now))
            elif priority is not None:
                since = max(min(one.came for one in work), self._gone.get(model, 0))
                shortest = min(one.left for one in work) if self.known else None
                waiting.append(Waiting(model, priority, since, self.swap + DRAIN, shortest))
        change = self.turns.next(self.now, hot, waiting, self._fits)
        assert change == self.turns.next(self.now, hot, waiting, self._fits), "the same, whenever it is asked"
        due = self.turns.due(self.now, hot, waiting)
        assert due.keys() == {one.model for one in waiting}
        assert all(at is None or at >= self.now for at in due.values())
        if change is None:
            assert hot or not waiting, "the GPU stands empty while somebody waits"
            return None
        [wish] = [one for one in waiting if one.model == change.load]  # so nothing is loaded that nobody waits for
        assert len(hot) - len(change.let_go) + 1 <= self.room, "it does not fit"
        for one in hot:
            if one.model in change.let_go and one.priority is not None:
                assert wish.priority >= one.priority, "for a lower priority"
                assert self.now - one.since >= self.turns.turn(wish, one), "its turn was too short"
        return change

    def _fits(self, models: Collection[str]) -> bool:
        return len(models) <= self.room

    def _work(self) -> None:
        busy = [model for model in self._hot if self._of(model)]
        for model in busy:
            work = self._of(model)
            for one in work:
                one.left -= self.step / len(busy) / len(work)
        for one in self.left:
            one.unserved = 0.0 if one.model in self._hot else one.unserved + self.step
            self.longest = max(self.longest, one.unserved)
        self.left = [one for one in self.left if one.left > 1e-6]


@pytest.mark.slow
@many
@given(st.lists(JOB, min_size=1, max_size=12), SWAPS, st.integers(1, 3), st.booleans())
def test_everything_ends_and_no_rule_is_broken(jobs: list[Job], swap: int, room: int, known: bool) -> None:
    assert Machine(jobs, swap, Turns(), room, known, until=400_000).run().left == []


@pytest.mark.slow
@many
@given(st.lists(JOB, min_size=2, max_size=12), SWAPS, st.booleans(), st.sampled_from([0.0, 300.0, 900.0]))
def test_nobody_of_the_same_priority_waits_longer_than_the_bound(
    jobs: list[Job], swap: int, known: bool, max_wait: float
) -> None:
    jobs = [(at, model, work, 0) for at, model, work, _ in jobs]
    machine = Machine(jobs, swap, Turns(max_wait, 3600.0), known=known, until=400_000).run()
    models, whole = len({model for _, model, _, _ in jobs}), swap + DRAIN
    bound = max(3600.0, max_wait) + (models - 1) * (9 * whole + whole) + whole
    assert machine.longest <= bound + 4 * machine.step


@pytest.mark.slow
@many
@given(SWAPS, st.integers(2, 4), st.sampled_from([60.0, 300.0, 900.0]))
def test_while_all_have_work_a_tenth_of_the_time_at_most_goes_into_swaps(
    swap: int, models: int, max_wait: float
) -> None:
    jobs = [(0, model, 40_000.0, 0) for model in MODELS[:models]]
    machine = Machine(jobs, swap, Turns(max_wait, max_wait), until=20_000).run()
    whole, loads = swap + DRAIN, len(machine.loads)
    assert loads > 2
    assert (loads - 1) * whole <= 0.1 * machine.now + whole + machine.step * loads


@pytest.mark.slow
@many
@given(st.lists(JOB, min_size=1, max_size=12))
def test_one_model_alone_is_loaded_once(jobs: list[Job]) -> None:
    jobs = [(at, "A", work, priority) for at, _, work, priority in jobs]
    assert len(Machine(jobs, 60, Turns(), until=400_000).run().loads) == 1


def one_at_a_time(models: Collection[str]) -> bool:
    return len(models) <= 1


def test_what_is_short_waits_for_max_wait_and_what_is_long_until_the_other_is_done_or_longest_wait() -> None:
    turns, hot = Turns(900, 7200), [Hot("A", 0, 0, 5000.0)]
    short, long = Waiting("B", 0, 100, 60, 10.0), Waiting("C", 0, 50, 60, 9000.0)
    assert turns.next(999, hot, [short, long], one_at_a_time) is None
    assert turns.next(1000, hot, [short, long], one_at_a_time) == Change("B", ("A",))
    assert turns.next(1000, hot, [long], one_at_a_time) is None
    assert turns.next(7250, hot, [long], one_at_a_time) == Change("C", ("A",))


def test_how_long_others_wait_goes_by_what_a_swap_costs_within_bounds() -> None:
    hot = [Hot("A", 0, 0, 1e6)]
    for swap, short, long in ((60.0, 900, 7200), (10.0, 150, 1200), (1.0, 30, 300), (600.0, 5400, 7200)):
        assert Turns().due(0, hot, [Waiting("B", 0, 0, swap, 1.0)]) == {"B": short}
        assert Turns().due(0, hot, [Waiting("B", 0, 0, swap, 2e6)]) == {"B": max(short, long)}


def test_who_waits_for_what_is_more_urgent_is_told_when_that_is_done_where_anybody_knows() -> None:
    assert Turns().due(10, [Hot("A", 0, 5, 600.0)], [Waiting("B", 0, 0, 60)]) == {"B": 610}
    assert Turns().due(10, [Hot("A", 0, 5)], [Waiting("B", 0, 0, 60), Waiting("C", 0, 1, 60)]) == {"B": None, "C": None}


def test_who_waits_behind_another_is_told_a_time_after_that_ones_turn() -> None:
    turns, hot = Turns(900, 7200), [Hot("A", 0, 0, 5000.0)]
    first, second = Waiting("B", 0, 100, 60, 10.0), Waiting("C", 0, 200, 60, 10.0)
    due = turns.due(200, hot, [second, first])
    assert due == {"B": 1000, "C": 1000 + 60 + 540}
    assert turns.next(due["B"], hot, [second, first], one_at_a_time) == Change("B", ("A",))
    assert turns.next(due["C"], [Hot("B", due["B"] + 60, 0, 5000.0)], [second], one_at_a_time) == Change("C", ("B",))


def test_a_higher_priority_waits_for_one_swap_at_most() -> None:
    turns, wish = Turns(), [Waiting("B", 5, 100, 60, 9000.0)]
    assert turns.next(159, [Hot("A", 100, 0, 50.0)], wish, one_at_a_time) is None
    assert turns.next(160, [Hot("A", 100, 0, 50.0)], wish, one_at_a_time) == Change("B", ("A",))
    assert turns.next(10**6, [Hot("A", 100, 6, 50.0)], wish, one_at_a_time) is None


def test_what_was_interrupted_once_is_not_interrupted_again() -> None:
    turns, wish = Turns(), [Waiting("B", 5, 100, 60, 9000.0)]
    assert turns.next(10**6, [Hot("A", 100, 0, 50.0, stays=True)], wish, one_at_a_time) is None
    assert turns.next(10**6, [Hot("A", 100, None, stays=True)], wish, one_at_a_time) == Change("B", ("A",))


def test_what_fits_beside_is_loaded_beside_and_the_longest_idle_goes_first() -> None:
    share = {"A": 0.5, "B": 0.4, "C": 0.3}

    def fits(models: Collection[str]) -> bool:
        return sum(share[model] for model in models) <= 0.95

    assert Turns().next(0, [Hot("A", 0, 0)], [Waiting("B", 0, 0, 60)], fits) == Change("B")
    idle = [Hot("A", 0, None, idle_since=5), Hot("B", 0, None, idle_since=3)]
    assert Turns().next(0, idle, [Waiting("C", 0, 0, 60)], fits) == Change("C", ("B",))


def test_an_idle_model_goes_before_one_that_works() -> None:
    hot = [Hot("A", 0, 0, 9000.0), Hot("B", 0, None, idle_since=4990)]
    change = Turns(900, 7200).next(5000, hot, [Waiting("C", 0, 100, 60, 10.0)], lambda models: len(models) <= 2)
    assert change == Change("C", ("B",))
