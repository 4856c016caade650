"""Names in the outbox, for whatever a dropped file is called."""

from __future__ import annotations

import pytest

from inbox_daemon.layout import batch_name


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ("b.jsonl", "b"),
        ("b.jsonl.zst", "b"),
        (" b .jsonl", "b"),
        (" .b.jsonl", "_b"),
        ("\u00a0..b.jsonl", "_.b"),
        (" ..jsonl", "_"),
        (" .jsonl", "batch"),
        ("x" * 179 + " y.jsonl", "x" * 179),
        (" ." + "x" * 300 + ".jsonl", "_" + "x" * 179),
        ("\x1b/\udcff.jsonl", "___"),
        ("b.jsonl.jsonl", "b.jsonl"),
    ],
)
def test_a_batchs_name_hides_no_folder_and_a_file_called_after_it_has_it_too(filename: str, name: str) -> None:
    assert batch_name(filename) == name
    assert batch_name(f"{name}.jsonl.gz") == name
