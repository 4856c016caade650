"""Where a thing may have been before, among very many."""

from __future__ import annotations

import pytest

from inbox_daemon.request.repeats import Repeats

MANY = 20_000


def test_every_repeat_is_found_at_its_first_place_and_nothing_else_is() -> None:
    repeats = Repeats()
    for place in range(MANY):
        assert repeats.add(2 * place, f"candidate-{place}" if place % 3 else None) is None
    for place in range(MANY):
        expected = 2 * place if place % 3 else None
        assert repeats.add(2 * MANY + place, f"candidate-{place}") == expected
    assert repeats.add(3 * MANY, "candidate-0") == 2 * MANY


def test_no_single_request_waits_until_all_before_it_are_sorted_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[int] = []
    grown = Repeats._grown

    def counted(repeats: Repeats, table: object) -> object:
        moved.append(sum(map(bool, table)))  # type: ignore[call-overload]
        return grown(repeats, table)  # type: ignore[arg-type]

    monkeypatch.setattr(Repeats, "_grown", counted)
    repeats = Repeats()
    for place in range(MANY):
        repeats.add(place, f"candidate-{place}")
    assert sum(moved) > MANY / 2
    assert max(moved) < MANY / 50
