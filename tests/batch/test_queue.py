"""One batch's requests: the counts are those of the states, and no request is handed out twice at a time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from inbox_daemon.batch.queue import _DONE, _FOLLOWS, _IN_FLIGHT, _LEFT, _WITHHELD, Queue

REQUESTS = 12
NAMES = ("a/model", "b/model", "c/model")


def queue_of(which: Sequence[int], order: Sequence[int] = ()) -> Queue:
    """A queue in which each place is for the model of this number; some models may have none."""
    models = NAMES[: max(which, default=0) + 1]
    return Queue(len(which), order, models, which if len(models) > 1 else ())


def drained(queue: Queue) -> dict[str, list[int]]:
    return {lane.model: lane.take(len(queue)) for lane in queue.lanes}


# -- counts and states, whatever is done


class Handling(RuleBasedStateMachine):
    """Does to a queue what the daemon does, in any order, beside a plain model of what each place's state is."""

    @initialize(
        which=st.integers(1, 3).flatmap(lambda models: st.lists(st.integers(0, models - 1), max_size=REQUESTS)),
        order=st.none() | st.randoms(use_true_random=False),
    )
    def begin(self, which: list[int], order: object) -> None:
        places = list(range(len(which)))
        if order is not None:
            order.shuffle(places)  # type: ignore[attr-defined]
        self.queue = queue_of(which, places if order is not None else ())
        self.which = which
        self.model = [_LEFT] * len(which)
        self.out: set[int] = set()  # what was taken and neither given back nor settled

    def _where(self, *states: int) -> list[int]:
        return [place for place, state in enumerate(self.model) if state in states]

    def _chosen(self, data: st.DataObject, of: Sequence[int]) -> list[int]:
        return data.draw(st.lists(st.sampled_from(of), unique=True)) if of else []

    def _hand_out(self, taken: list[int]) -> None:
        assert len(taken) == len(set(taken))
        assert not self.out & set(taken), "taken twice, and not given back between"
        self.out.update(taken)
        for place in taken:
            self.model[place] = _IN_FLIGHT

    @rule(count=st.integers(0, REQUESTS), name=st.sampled_from(NAMES))
    def take(self, count: int, name: str) -> None:
        lane = self.queue.lane({name})
        if lane is None:
            assert name not in [one.model for one in self.queue.lanes]
            return
        count = min(count, lane.takeable)  # as `share` has it, so that nothing is taken of what is held
        taken = lane.take(count)
        assert len(taken) == count
        for place in taken:
            assert NAMES[self.which[place]] == name
            assert self.model[place] == _LEFT
        self._hand_out(taken)

    @rule(data=st.data())
    def take_these(self, data: st.DataObject) -> None:
        wanted = self._chosen(data, range(len(self.model)))
        may = [place for place in wanted if self.model[place] in (_LEFT, _WITHHELD) and not self.queue.held]
        taken = self.queue.take_these(wanted)
        assert taken == may
        self._hand_out(taken)

    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        """An answer, a copied answer, a fault, a conviction, one that a dying engine had sent already."""
        for place in self._chosen(data, range(len(self.model))):
            assert self.queue.settle(place) is (self.model[place] != _DONE)
            self.model[place] = _DONE
            self.out.discard(place)

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        places = self._chosen(data, range(len(self.model)))
        given_back = self.queue.give_back(places)
        assert given_back == sorted(set(places) & self.out)
        self.out.difference_update(given_back)
        for place in given_back:
            self.model[place] = _LEFT

    @rule(data=st.data())
    def follow(self, data: st.DataObject) -> None:
        for place in self._chosen(data, self._where(_LEFT)):
            self.queue.follow(place)
            self.model[place] = _FOLLOWS

    @rule(data=st.data())
    def withhold(self, data: st.DataObject) -> None:
        for place in self._chosen(data, range(len(self.model))):
            self.queue.withhold(place)
            self.model[place] = _WITHHELD if self.model[place] == _LEFT else self.model[place]

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        for place in self._chosen(data, range(len(self.model))):
            self.queue.release(place)
            self.model[place] = _LEFT if self.model[place] == _WITHHELD else self.model[place]

    @rule(held=st.booleans())
    def hold(self, held: bool) -> None:
        self.queue.held = held

    @invariant()
    def states_are_as_they_were_made(self) -> None:
        assert list(self.queue.state) == self.model
        assert {place for place, state in enumerate(self.queue.state) if state == _IN_FLIGHT} == self.out
        assert sorted(self.queue.remaining()) == self._where(_LEFT, _FOLLOWS, _WITHHELD)
        for place, state in enumerate(self.model):
            assert self.queue.is_done(place) is (state == _DONE)
            assert self.queue.is_left(place) is (not self.queue.held and state in (_LEFT, _WITHHELD))

    @invariant()
    def counts_agree_with_the_states(self) -> None:
        queue = self.queue
        assert len(queue) == len(self.model)
        assert queue.done == len(self._where(_DONE))
        assert queue.left == len(self._where(_LEFT, _FOLLOWS, _WITHHELD))
        assert queue.in_flight == len(self._where(_IN_FLIGHT)) == len(self.out)
        assert queue.takeable == (0 if queue.held else len(self._where(_LEFT)))

    @invariant()
    def each_lane_counts_its_own(self) -> None:
        for number, lane in enumerate(self.queue.lanes):
            states = [state for place, state in enumerate(self.model) if self.which[place] == number]
            assert lane.left == sum(state in (_LEFT, _FOLLOWS, _WITHHELD) for state in states)
            assert lane.in_flight == states.count(_IN_FLIGHT)
            assert lane.takeable == (0 if self.queue.held else states.count(_LEFT))
            may_go_out = not self.queue.held and (_LEFT in states or _WITHHELD in states)
            assert lane.wants_engine is (lane.in_flight > 0 or may_go_out)

    @precondition(lambda self: not self.queue.held)
    @rule()
    def drain(self) -> None:
        """All that may be taken can be, and nothing else: no place is lost, whatever was done to it."""
        for taken in drained(self.queue).values():
            for place in taken:
                assert self.model[place] == _LEFT
            self._hand_out(taken)
        assert not self._where(_LEFT)


TestAnySequence = Handling.TestCase


# -- which is next


@given(st.lists(st.integers(0, 2), max_size=30), st.randoms(use_true_random=False), st.integers(1, 7))
def test_each_lane_is_taken_in_order_to_its_end(which: list[int], chance: object, at_a_time: int) -> None:
    order = list(range(len(which)))
    chance.shuffle(order)  # type: ignore[attr-defined]
    for places in (order, ()):
        queue = queue_of(which, places)
        found: dict[str, list[int]] = {lane.model: [] for lane in queue.lanes}
        while queue.takeable:
            for lane in queue.lanes:
                found[lane.model] += lane.take(at_a_time)
        for number, model in enumerate(found):
            assert found[model] == [place for place in places or range(len(which)) if which[place] == number]


def test_what_comes_back_is_taken_first_and_in_order() -> None:
    queue = Queue(10)
    [lane] = queue.lanes
    assert lane.take(6) == [0, 1, 2, 3, 4, 5]
    assert queue.give_back([4, 1, 3]) == [1, 3, 4]
    assert lane.take(5) == [1, 3, 4, 6, 7]


def test_what_two_engines_give_back_goes_before_all_else() -> None:
    queue = Queue(10)
    [lane] = queue.lanes
    lane.take(6)
    queue.give_back([0, 2, 4])
    queue.give_back([1, 3, 5])
    assert lane.take(6) == [1, 3, 5, 0, 2, 4]
    assert lane.take(10) == [6, 7, 8, 9]


def test_what_is_withheld_is_given_to_nobody_but_who_asks_for_it_by_place_until_it_is_released() -> None:
    queue = Queue(6)
    [lane] = queue.lanes
    for place in (1, 2, 3):
        queue.withhold(place)
    assert (queue.left, queue.takeable) == (6, 3)
    assert lane.wants_engine
    assert queue.take_these([1]) == [1]
    assert lane.take(6) == [0, 4, 5]
    assert (queue.left, queue.takeable) == (2, 0)
    queue.release(2)
    assert lane.take(6) == [2]
    queue.give_back([1])
    assert lane.take(6) == [1], "what is given back is withheld no more"
    assert lane.take(6) == []
    queue.release(3)
    assert lane.take(6) == [3]


@pytest.mark.parametrize("state", ["in flight", "done", "follows"])
def test_withholding_concerns_only_what_is_left(state: str) -> None:
    queue = Queue(1)
    if state == "in flight":
        queue.take_these([0])
    elif state == "done":
        queue.settle(0)
    else:
        queue.follow(0)
    before = (bytes(queue.state), queue.left, queue.in_flight, queue.done, queue.takeable)
    queue.withhold(0)
    queue.release(0)
    assert (bytes(queue.state), queue.left, queue.in_flight, queue.done, queue.takeable) == before


def test_nothing_of_a_batch_that_is_held_is_handed_out_not_even_suspects() -> None:
    queue = Queue(4)
    queue.withhold(0)
    queue.held = True
    assert queue.takeable == 0
    assert queue.take_these([0, 1]) == []
    queue.held = False
    assert queue.take_these([0, 1]) == [0, 1]


def test_an_engine_gets_what_is_for_its_model_and_a_model_without_a_lane_gets_nothing() -> None:
    queue = queue_of([0, 1, 0, 1, 1])
    first, second = queue.lane({"a/model"}), queue.lane({"b/model"})
    assert first is not None and second is not None and queue.lane({"c/model"}) is None
    assert second.take(2) == [1, 3]
    assert first.take(5) == [0, 2]
    assert second.take(5) == [4]


def test_what_was_accepted_without_a_models_name_is_for_the_engines_that_are_for_that() -> None:
    queue = Queue(3)
    assert queue.lane({""}) is queue.lane({"a/model", ""}) is queue.lanes[0]
    assert queue.lane({"b/model"}) is None  # one of several models, and not the one for requests that name none
    assert queue_of([0, 1]).lane({""}) is None  # an engine without a name is not the one that was asked for
