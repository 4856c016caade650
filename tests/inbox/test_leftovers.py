"""What uploads leave that came to nothing, and an inbox full of what is no batch: said, and no live one touched."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
from running import batch_of

from inbox_daemon.config import Config, InboxSettings
from inbox_daemon.inbox import complaints, leftovers
from inbox_daemon.inbox.arrivals import Arrivals, Arriving
from inbox_daemon.inbox.leftovers import Leftover, judge
from inbox_daemon.settings import Settings

HOUR, DAY = 3601.0, 86401.0
OURS = ".1795845648518601023.jsonl"


def look(inbox: Path) -> Arrivals:
    settings = Settings(Config(inbox=InboxSettings(settle=0, settle_unproven=0, watch="poll")))
    looking = Arriving(inbox, settings, lambda: None)
    while (found := looking.look(time.monotonic())) is None:
        pass
    return found


@pytest.mark.parametrize(
    ("name", "whose"),
    [
        (OURS, Leftover.OURS),
        (f"{OURS}.gz", Leftover.OURS),
        (f".{OURS}", Leftover.OTHERS),
        (".b.jsonl.Xy12ab", Leftover.OTHERS),
        ("b.jsonl.part", Leftover.OTHERS),
        (".b.cancel.123", None),
        ("b.jsonl", None),
    ],
)
def test_half_an_upload_is_known_by_its_name_and_an_hour_without_a_change(
    tmp_path: Path, name: str, whose: Leftover | None
) -> None:
    path = tmp_path / name
    path.write_bytes(batch_of(1))
    now = path.lstat().st_ctime
    assert judge(path, now + HOUR) is whose
    assert judge(path, now + 3599) is None


def test_what_somebody_has_open_for_writing_is_no_leftover_however_old(tmp_path: Path) -> None:
    path = tmp_path / OURS
    with path.open("wb"):
        assert judge(path, time.time() + 100 * DAY) is None
    assert judge(path, time.time() + HOUR) is Leftover.OURS


def test_where_the_kernel_will_not_say_who_has_it_open_a_day_must_have_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / OURS
    path.touch()
    monkeypatch.setattr(leftovers.complete, "has_writer", lambda path: None)
    assert judge(path, time.time() + HOUR) is None
    assert judge(path, time.time() + DAY) is Leftover.OURS


def test_a_link_is_never_followed_and_never_a_leftover(tmp_path: Path) -> None:
    (tmp_path / OURS).symlink_to(tmp_path / "elsewhere")
    assert judge(tmp_path / OURS, time.time() + 100 * DAY) is None


def test_of_hundreds_of_files_that_are_no_batches_the_log_names_some_and_counts_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(100):
        (tmp_path / f"{number}.png").touch()
    with caplog.at_level(logging.WARNING):
        found = look(tmp_path)
    assert len(found.waiting) == 100
    assert len(caplog.records) == complaints._SAID + 1
    assert f"{100 - complaints._SAID} more files are not taken" in caplog.text
