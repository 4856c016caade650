"""Who may import whom: each layer only lower ones, and vllm in one file only. Read from the imports themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import ROOT

PACKAGE = ROOT / "inbox_daemon"
ROOMS = (
    {"errors", "text", "slices", "setbacks", "__init__"},
    {"records", "layout", "wakeup", "privacy"},
    {"config", "journal"},
    {"machine"},
    {"request"},
    {"spool"},
    {"engine"},
    {"batch"},
    {"dispatch"},
    {"inbox"},
    {"watch"},
    {"daemon"},
    {"cli"},
    {"__main__"},
)
MODULES = sorted(PACKAGE.rglob("*.py"))


def unit(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def layer(name: str) -> int:
    return next(number for number, names in enumerate(ROOMS) if name in names)


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_its_own_and_lower_layers(path: Path) -> None:
    units = {name.split(".")[1] for name in imports(path) if name.startswith("inbox_daemon.")}
    for other in units & set().union(*ROOMS) - {unit(path)}:
        assert layer(other) < layer(unit(path)), other


def test_only_one_file_imports_vllm_and_none_imports_torch() -> None:
    importers = {
        root: {path.name for path in MODULES if root in {name.split(".")[0] for name in imports(path)}}
        for root in ("vllm", "torch")
    }
    assert importers == {"vllm": {"vllm_host.py"}, "torch": set()}


def test_views_import_only_the_reading_half_of_the_spool() -> None:
    for path in (
        PACKAGE / "cli" / "status.py",
        PACKAGE / "cli" / "verify.py",
        PACKAGE / "cli" / "show.py",
        PACKAGE / "cli" / "top.py",
    ):
        spool = {name.split(".")[2] for name in imports(path) if name.startswith("inbox_daemon.spool.")}
        assert spool <= {"published"}, path


# Not `replace`: str.replace and dataclasses.replace share its name.
CHANGES_THE_DISK = {"rename", "unlink", "rmdir", "link", "symlink", "truncate", "ftruncate", "fsync", "touch"}


def test_only_the_spool_package_changes_the_spool() -> None:
    for path in MODULES:
        called = {
            node.func.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        touched = called & CHANGES_THE_DISK
        assert not touched or unit(path) == "spool", (path, touched)


def test_no_module_has_outgrown_its_reader() -> None:
    assert [path for path in MODULES if len(path.read_text().splitlines()) > 321] == []


def test_every_script_that_names_its_interpreter_can_be_run_by_name() -> None:
    scripts = [path for path in (ROOT / "tools").rglob("*") if path.is_file() and path.read_bytes()[:2] == b"#!"]
    assert len(scripts) > 5
    assert [path for path in scripts if not path.stat().st_mode & 0o100] == []
