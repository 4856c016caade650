"""Names in the outbox, for whatever a dropped file is called."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from running import ROOT

from inbox_daemon.errors import SpoolError
from inbox_daemon.layout import Spool, batch_name, control_of
from inbox_daemon.spool import control, drop, published
from inbox_daemon.spool.meant import control_files
from inbox_daemon.spool.names import numbered

PACKAGE = ROOT / "inbox_daemon"


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


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../elsewhere", "a/b", "/etc", ".hidden", "a\nb", "a\u202eb", " a", "a "]
)
def test_a_name_that_is_no_folder_of_the_outbox_leads_nowhere(name: str, tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for ask in (
        lambda: spool.batch(name),
        lambda: published.status(spool, name),
        lambda: control.lives(spool, name),
        lambda: drop.drop_control(spool, name, "cancel"),
    ):
        with pytest.raises(SpoolError, match="no batch can be called"):
            ask()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("filename", ["b.jsonl", "x" * 300 + ".jsonl", "b.jsonl.jsonl", ". b.jsonl", "a/b\n.jsonl"])
def test_every_name_that_a_batch_may_get_leads_to_its_folder(filename: str, tmp_path: Path) -> None:
    for name in (batch_name(filename), numbered(batch_name(filename), 12)):
        assert Spool(tmp_path).batch(name).dir == tmp_path / "outbox" / name


def test_no_module_but_the_layout_makes_a_path_of_a_name_in_the_outbox() -> None:
    joins = re.compile(r"outbox\)? */|outbox\.joinpath|outbox\}/")
    found = [str(path) for path in PACKAGE.rglob("*.py") if path.name != "layout.py" and _joined(joins, path)]
    assert found == []


def _joined(joins: re.Pattern[str], path: Path) -> bool:
    return any(joins.search(line) and "`" not in line and "SPOOL/" not in line for line in path.read_text().split("\n"))


def test_names_that_look_alike_are_one_name_whatever_the_senders_file_system_made_of_them() -> None:
    """A Mac sends letter and mark apart; a keyboard types one character."""
    typed, sent = "Bewerber-M\u00e4rz", "Bewerber-Ma\u0308rz"
    assert batch_name(f"{sent}.jsonl") == batch_name(f"{typed}.jsonl") == typed
    assert control_of(f"{sent}.cancel") == control_of(f"{typed}.cancel") == (typed, "cancel")
    for source in (sent, typed):
        files = [file for file, _ in control_files(typed, f"{source}.jsonl")]
        assert {f"{sent}.cancel", f"{typed}.cancel"} <= set(files)
    assert batch_name("a\u200bb\u200e\ufeff.jsonl") == "a_b__", "what nobody sees is seen"
