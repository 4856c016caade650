"""INTERNALS.md lists every line that the project can log, because log lines are an interface."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from running import ROOT

PACKAGE = ROOT / "inbox_daemon"
LEVELS = {"debug", "info", "warning", "error", "exception", "log"}
LOGGERS = re.compile(r"\b_?(log|logger|say|of_batch|of_engine)\b")  # what log calls are made on


def messages() -> Iterator[str]:
    """The format strings of every log call; each is written out where it is logged."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in {*LEVELS, "log"}
            ):
                if not LOGGERS.search(ast.unparse(node.func.value)):
                    continue
                message = node.args[1 if node.func.attr == "log" else 0]
                assert isinstance(message, ast.Constant), f"{path}:{node.lineno}: {ast.unparse(message)}"
                yield str(message.value)


def test_internals_lists_every_log_line() -> None:
    table = (PACKAGE / "INTERNALS.md").read_text().split("## Every line in the log")[1]
    found = list(messages())
    assert len(found) > 20
    for message in found:
        words = max(re.split(r"%[-.\d]*[a-z]", message.removeprefix("%s: ")), key=len).strip(" :;(),")
        assert words in table or message in ("%s: %s", "inbox: %r %s"), f"not in INTERNALS.md: {message!r}"


def named_tests(text: str) -> set[tuple[str, str]]:
    return set(re.findall(r"`(test_\w+)::(test_\w+)`", text))


def test_every_test_that_internals_names_exists() -> None:
    named = named_tests((PACKAGE / "INTERNALS.md").read_text())
    assert len(named) > 40
    functions: dict[str, set[str]] = {}
    for file, test in sorted(named):
        if file not in functions:
            [path] = (ROOT / "tests").glob(f"*/{file}.py")
            functions[file] = set(re.findall(r"^ *def (test_\w+)\(", path.read_text(), re.MULTILINE))
        assert test in functions[file], f"INTERNALS.md names {file}::{test}, which is not there"


def test_every_promise_and_every_invariant_has_a_test() -> None:
    text = (PACKAGE / "INTERNALS.md").read_text()
    invariants = text.split("## Invariants")[1].split("\n## ")[0]
    tables = text.split("## What is promised")[1].split("\n## ")[0]
    rows = [row for row in tables.splitlines() if row.startswith("| ") and "::" in row]
    promises = [re.match(r"\| (\d+)\. ", row) for row in rows]
    assert {int(found[1]) for found in promises if found} == set(range(1, 8))
    listed = {int(number) for number in re.findall(r"^(\d+)\. ", invariants, re.MULTILINE)}
    proven = {int(found[1]) for row in rows if (found := re.match(r"\| (\d+) ", row))}
    assert listed == proven


def test_every_change_has_a_place_and_at_most_three_files_and_they_exist() -> None:
    table = (PACKAGE / "INTERNALS.md").read_text().split("## To change X, open Y")[1].split("\n## ")[0]
    rows = [row for row in table.splitlines() if row.startswith("| ")][1:]
    assert len(rows) >= 10
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)`", row)
        assert 1 <= len(named) <= 3, row
        assert [file for file in named if not (PACKAGE / file).exists()] == [], row
