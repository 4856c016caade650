"""README and etc/docs: what they link to is there, and what they name exists under that name."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import ROOT

from inbox_daemon import cli, config
from inbox_daemon.spool.shapes import BatchObject

PACKAGE = ROOT / "inbox_daemon"
PAGES = [ROOT / "README.md", *sorted((ROOT / "etc/docs").glob("*.md")), *sorted((ROOT / "etc/examples").glob("*/*.md"))]


def anchors(page: Path) -> set[str]:
    """What may stand behind `#` in a link to this page: its headings as GitHub spells them, and anchors of its own."""
    text = page.read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    spelt = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return spelt | set(re.findall(r'<a id="([^"]+)">', text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_linked_from_the_readme() -> None:
    readme = PAGES[0].read_text()
    assert [page.name for page in PAGES[1:] if f"]({page.relative_to(ROOT)})" not in readme] == []


def codes() -> Iterator[str]:
    """The codes that a request's error may have, as they are written in the source."""
    for path in (PACKAGE / "request").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func) == "Fault"
                and isinstance(node.args[0], ast.Constant)
            ):
                yield str(node.args[0].value)


def test_the_contract_has_every_code_of_an_error() -> None:
    contract = (ROOT / "etc/docs/api.md").read_text()
    found = set(codes())
    assert len(found) > 10
    assert sorted(code for code in found if f"`{code}`" not in contract) == []


def test_the_contract_has_every_field_of_a_batchs_status() -> None:
    contract = (ROOT / "etc/docs/api.md").read_text()
    stamps = {"created_at", "completed_at", "failed_at", "cancelled_at"}  # `*_at`
    named = set(re.findall(r"`([a-z_0-9]+)`", contract))
    assert BatchObject.__annotations__.keys() - stamps - named == set()


def test_the_pages_name_every_verb_and_no_other() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"(?m)(?:^|`)inbox-daemon ([a-z]+(?:-[a-z]+)*)\b", text))
    (verbs,) = [action.choices for action in cli.parser()._actions if action.dest == "verb"]
    assert verbs is not None
    assert named == set(verbs)


def test_every_setting_that_a_page_names_exists() -> None:
    sections = [field.name for field in dataclasses.fields(config.Config)]
    known = {f"{section}.{field.name}" for section in sections for field in fields_of(section)}
    names = "|".join(sections)
    for page in PAGES:
        for name in re.findall(rf"`((?:{names})\.[a-z_]+)(?! *[a-z(])", page.read_text()):
            assert name in known or name.endswith(".jsonl"), f"{page.name}: {name}"


def fields_of(section: str) -> tuple[dataclasses.Field[object], ...]:
    value = getattr(config.Config(), section)
    return dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
