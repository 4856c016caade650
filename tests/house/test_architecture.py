"""Who may import whom: each layer only lower ones, and vllm in two files only. Read from the imports themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from running import ROOT

PACKAGE = ROOT / "inbox_daemon"
ROOMS = (
    {"text", "slices", "setbacks", "__init__"},
    {"errors"},
    {"records", "layout", "weblayout", "wakeup", "privacy"},
    {"config", "journal", "commands"},
    {"settings"},
    {"machine"},
    {"hub"},
    {"request"},
    {"spool"},
    {"engine"},
    {"batch"},
    {"batches"},
    {"dispatch"},
    {"inbox"},
    {"ended"},
    {"watch"},
    {"daemon"},
    {"compare"},
    {"web"},
    {"cli"},
    {"__main__"},
)
STRANGERS = {  # rooms above that know nothing of rooms below them
    "engine": {"spool"},
    "batch": {"engine"},
    "batches": {"engine"},
    "dispatch": {"spool"},
    "inbox": {"engine", "dispatch"},
    "ended": {"engine", "dispatch", "inbox"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES = 300


def unit(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def layer(name: str) -> int:
    return next(number for number, names in enumerate(ROOMS) if name in names)


@cache
def import_nodes(path: Path) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]


def imports(path: Path) -> Iterator[str]:
    """Every name that a module imports, wherever in it it does."""
    for node in import_nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            assert not node.level, f"{path}: a relative import, which says less than a name"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_of(path: Path) -> str:
    """A module's full name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


NAMES = {name_of(path): path for path in MODULES}


def modules_of_ours(path: Path) -> set[str]:
    """The modules of the package that a module imports: of `from a.b import c` it is a.b.c, or a.b where c is in it."""
    found: set[str] = set()
    for node in import_nodes(path):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(name if name in NAMES else node.module for name in inner)
    return found & NAMES.keys() - {name_of(path)}


def test_every_module_has_a_room() -> None:
    units = [unit(path) for path in MODULES]
    assert set(units) == set().union(*ROOMS)
    assert sum(map(len, ROOMS)) == len(set().union(*ROOMS)), "a room in two layers"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_its_own_and_lower_layers(path: Path) -> None:
    units = {unit(NAMES[name]) for name in modules_of_ours(path)}
    for other in units - {unit(path)}:
        assert layer(other) < layer(unit(path)), other


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_knows_nothing_of_its_strangers(path: Path) -> None:
    """That one is above another does not mean that it may know it."""
    units = {unit(NAMES[name]) for name in modules_of_ours(path)}
    assert not units & STRANGERS.get(unit(path), set())


def test_no_module_imports_itself_by_way_of_others() -> None:
    sorter = TopologicalSorter({name_of(path): modules_of_ours(path) for path in MODULES})
    assert len(list(sorter.static_order())) == len(MODULES)


def test_nobody_but_run_imports_the_loop() -> None:
    """A view, or a verb that drops a file, works where no daemon could: it reads what one has written."""
    importers = {str(path.relative_to(PACKAGE)) for path in MODULES if "inbox_daemon.daemon" in modules_of_ours(path)}
    assert importers == {"cli/run.py"}


def test_nobody_but_its_verbs_imports_the_web_process() -> None:
    """No other verb, and no daemon, waits for a web framework."""
    importers = {
        path for path in MODULES if any(name.startswith("inbox_daemon.web.") for name in modules_of_ours(path))
    }
    outside = {str(path.relative_to(PACKAGE)) for path in importers if unit(path) != "web"}
    assert outside == {"cli/web.py", "cli/web_key.py"}


def test_of_the_worker_the_daemons_side_knows_only_its_name_and_how_to_ask_it_for_stacks() -> None:
    """It runs in a process with vLLM, and has no business in the daemon's."""
    worker = "inbox_daemon.engine.worker"
    importers = {
        str(path.relative_to(PACKAGE)): {name for name in modules_of_ours(path) if name.startswith(f"{worker}.")}
        for path in MODULES
        if "worker" not in path.relative_to(PACKAGE).parts
    }
    assert {path: names for path, names in importers.items() if names} == {
        "watch/stacks.py": {f"{worker}.lifeline"},
    }


def test_only_the_worker_imports_vllm_and_none_imports_torch() -> None:
    importers = {
        root: {path.name for path in MODULES if root in {name.split(".")[0] for name in imports(path)}}
        for root in ("vllm", "torch")
    }
    ours = {"architectures.py", "arguments.py", "coreless.py", "grammars.py", "serving.py", "vllm_host.py"}
    assert importers == {"vllm": ours, "torch": set()}


def test_two_modules_speak_with_the_hub() -> None:
    importers = {
        str(path.relative_to(PACKAGE))
        for path in MODULES
        if "huggingface_hub" in {name.split(".")[0] for name in imports(path)}
    }
    assert importers == {"engine/placement.py", "hub/child.py"}


def test_views_import_only_the_reading_half_of_the_spool() -> None:
    for path in (
        PACKAGE / "cli" / "status.py",
        PACKAGE / "cli" / "verify.py",
        PACKAGE / "cli" / "show.py",
        PACKAGE / "cli" / "top.py",
    ):
        spool = {name.split(".")[2] for name in imports(path) if name.startswith("inbox_daemon.spool.")}
        assert spool <= {"proof", "published", "shapes", "views"}, path


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
    lines = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in MODULES}
    assert {path: count for path, count in lines.items() if count > MOST_LINES} == {}


def test_every_script_that_names_its_interpreter_can_be_run_by_name() -> None:
    scripts = [path for path in (ROOT / "tools").rglob("*") if path.is_file() and path.read_bytes()[:2] == b"#!"]
    assert len(scripts) > 5
    assert [path for path in scripts if not path.stat().st_mode & 0o100] == []
