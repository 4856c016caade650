"""Names in the outbox, for whatever a dropped file is called."""

from __future__ import annotations

import pytest

from inbox_daemon.layout import batch_name, control_files


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


@pytest.mark.parametrize(
    ("source", "name", "control"),
    [
        ("b.jsonl", "b", "b.pause"),
        ("b.jsonl.zst", "b", "b.jsonl.zst.pause"),
        ("b.jsonl", "b.2", "b.2.pause"),
        (" b\x1b.jsonl", "b_", " b\x1b.pause"),
        (" b\x1b.jsonl", "b_", "b_.jsonl.pause"),
    ],
)
def test_a_batch_is_controlled_by_its_name_and_by_its_files(source: str, name: str, control: str) -> None:
    assert (control, "pause") in control_files(name, source)


def test_a_batch_that_did_not_get_its_files_name_is_not_controlled_by_it() -> None:
    assert not [file for file, _ in control_files("b.2", "b.jsonl") if not file.startswith("b.2.")]
