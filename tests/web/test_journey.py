"""What somebody does in an afternoon: the same requests to three models, which answers are good, the next batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from browsing import Watched, browser
from playwright.sync_api import expect
from running import Daemon, jsonl, lines, request
from webs import Web

pytestmark = pytest.mark.slow

MODELS = "".join(f'[model."org/{name}"]\npath = "/models/{name}"\n' for name in ("north", "south", "heath"))
COUNT = 60


def test_from_a_dropped_file_to_examples_that_go_into_the_next_batch(
    tmp_path: Path, start_daemon: Callable[..., Daemon]
) -> None:
    """The null engine answers with how long a request is: where a third of one file's are longer, answers differ."""
    web = Web(tmp_path / "spool", tmp_path / "web.log")
    daemon = start_daemon(web.spool.root, settings=MODELS, environment={"INBOX_DAEMON_MODELS__SLEEP": "false"})
    try:
        with browser() as chromium:
            watched = Watched(chromium, web.url)
            _compare(watched, tmp_path)
            chosen = _choose(watched)
            _go_on(watched, daemon, tmp_path, chosen)
            assert watched.wrong == []
    finally:
        web.kill()


def _compare(watched: Watched, folder: Path) -> None:
    """Send the same requests to three models, and open their answers side by side."""
    page = watched.page
    page.goto("/")
    expect(page.locator("#empty")).to_contain_text("There is nothing here yet")
    for model, every in (("north", COUNT), ("south", 3), ("heath", COUNT)):
        asked = [request(f"r{n}", "is it urgent?" + "!" * (n % every == 0), model=f"org/{model}") for n in range(COUNT)]
        file = folder / f"tickets-{model}.jsonl"
        file.write_bytes(jsonl(asked))
        page.locator("#drop input").set_input_files(file)
    rows = page.locator("#rows tr")
    expect(rows).to_have_count(3)
    expect(page.locator("#rows tr.good")).to_have_count(3, timeout=60_000)
    for name in ("north", "south", "heath"):
        page.locator("#rows tr", has_text=f"tickets-{name}").locator("input").check()
    page.get_by_role("button", name="Compare 3 batches").click()
    expect(page.locator("#answers article")).to_have_count(50)


def _choose(watched: Watched) -> list[dict[str, Any]]:
    """Look at what only one model says, mark answers by key, and take the good ones away as examples."""
    page = watched.page
    letter = page.locator("h1 span", has_text="tickets-south").locator(".letter").inner_text()
    page.get_by_role("link", name=f"only {letter}").click()
    expect(page.locator(".count")).to_contain_text(f"{COUNT // 3 - 1} of {COUNT}")
    for key in "jgjlbj1j":
        page.keyboard.press(key)
    expect(page.locator('[data-mark="good"]')).to_have_count(1)
    expect(page.locator('[data-mark="best"]')).to_have_count(1)
    with page.expect_response("**/api/marks"):
        page.keyboard.press("d")
    page.keyboard.press("e")
    expect(page.locator("#answers article")).to_have_count(4)
    with page.expect_download() as began:
        page.locator("form[action*=few-shot] button").click()
    return [orjson.loads(line) for line in Path(began.value.path()).read_bytes().splitlines()]


def _go_on(watched: Watched, daemon: Daemon, folder: Path, chosen: list[dict[str, Any]]) -> None:
    """Put the examples before new questions, and have those answered."""
    page = watched.page
    examples = [message for example in chosen for message in example["messages"]]
    assert [message["role"] for message in examples] == ["user", "assistant"] * 2
    asked = [
        {
            **request(f"next-{n}"),
            "body": {"model": "org/north", "messages": [*examples, {"role": "user", "content": "?"}]},
        }
        for n in range(3)
    ]
    file = folder / "next.jsonl"
    file.write_bytes(jsonl(asked))
    page.goto("/")
    page.locator("#drop input").set_input_files(file)
    page.get_by_role("link", name="sent; it is a batch now").click()
    expect(page.locator("#state")).to_have_text("completed", timeout=60_000)
    expect(page.locator("#answers article")).to_have_count(3)
    expect(page.locator("#answers .prompt").first).to_contain_text("null engine:")
    [batch] = [path for path in (daemon.spool / "outbox").iterdir() if path.name.startswith("next")]
    assert [line["custom_id"] for line in lines(batch / "results.jsonl")] == ["next-0", "next-1", "next-2"]
