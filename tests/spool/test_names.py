"""Names and statuses where the outbox holds folders by the ten thousand: what is looked at, counted."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from inbox_daemon.layout import Spool
from inbox_daemon.spool import names, published
from inbox_daemon.spool.names import numbered


@pytest.mark.parametrize("there", [0, 1, 2, 3, 4, 5, 7, 8, 9, 1000, 50_000])
def test_a_free_name_is_found_with_few_looks_however_many_are_taken(there: int) -> None:
    taken = {numbered("b", n) for n in range(1, there + 1)}
    looks: list[str] = []
    found = names.free("b", lambda name: bool(looks.append(name)) or name in taken)
    assert found == numbered("b", there + 1)
    assert len(looks) <= 2 * max(1, there).bit_length() + 1


def test_where_names_have_been_given_back_a_free_one_is_still_found() -> None:
    for gap in range(2, 40):
        taken = {numbered("b", n) for n in range(1, 41)} - {numbered("b", gap)}
        assert names.free("b", taken.__contains__) not in taken


def test_of_batches_that_have_ended_the_status_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)

    def tell(name: str, **status: object) -> None:
        spool.batch(name).dir.mkdir(parents=True, exist_ok=True)
        spool.batch(name).status.write_bytes(orjson.dumps({"id": name, "name": name, "created_at": 1, **status}))

    for number in range(20):
        tell(f"ended-{number}", status="completed", completed_at=2)
    tell("runs", status="in_progress", completed_at=None)
    read: list[str] = []
    content = published._content
    monkeypatch.setattr(published, "_content", lambda path: read.append(path.parent.name) or content(path))
    statuses = published.Statuses(spool)
    assert len(statuses.read()) == 21 == len(read)
    read.clear()
    tell("runs", status="completed", completed_at=3)
    tell("new", status="validating")
    spool.batch("ended-3").dir.rename(tmp_path / "moved away")
    assert {status["name"]: status["status"] for status in statuses.read()} == {
        **{f"ended-{number}": "completed" for number in range(20) if number != 3},
        "runs": "completed",
        "new": "validating",
    }
    assert sorted(read) == ["new", "runs"]
