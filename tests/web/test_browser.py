"""The viewer in a real browser: it moves by itself, keys mark answers, and nothing of it is wider than a telephone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
import viewed
from browsing import Watched, browser
from playwright.sync_api import Browser, expect
from running import Daemon, batch_of, eventually
from webs import Web

from inbox_daemon.layout import Spool
from inbox_daemon.web import keys

pytestmark = pytest.mark.slow

THREE = "/compare?" + "&".join(f"b=batch_{number:022x}" for number in (1, 2, 3))
PAGES = ("/", THREE, f"{THREE}&show=differ&order=apart", f"/batches/batch_{1:022x}", "/marks", "/api", "/compare")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("web")
    viewed.tickets(Spool(folder / "spool"), 120)
    started = Web(folder / "spool", folder / "web.log")
    yield started
    started.kill()


def test_the_overview_moves_while_a_batch_runs_and_a_dropped_file_becomes_one(
    web: Web, chromium: Browser, start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    watched = Watched(chromium, web.url)
    page = watched.page
    page.goto("/")
    expect(page.locator("#notices")).to_contain_text("No daemon runs on this spool")
    daemon = start_daemon(web.spool.root, environment={"INBOX_DAEMON_ENGINE__NULL__RATE": "60"})
    expect(page.locator("#head")).to_contain_text("engine off until there is work")
    expect(page.locator("#notices")).to_be_empty()

    file = tmp_path / "requests.jsonl"
    file.write_bytes(batch_of(700))
    page.locator("#rows input").first.check()
    page.locator("#drop input").set_input_files(file)
    row = page.locator("#rows tr", has_text="requests")
    expect(row).to_contain_text("in progress")
    done = row.locator("progress")
    first = float(done.get_attribute("value") or 0)
    eventually(lambda: first < float(done.get_attribute("value") or 0) < 700, 20, "it moves")
    assert page.locator("#rows input:checked").count() == 1, "what the reader has marked stays marked"
    row.get_by_role("button", name="pause").click()
    expect(row).to_contain_text("paused")
    row.get_by_role("button", name="resume").click()
    expect(row).to_contain_text("in progress")
    row.get_by_role("button", name="cancel").click()
    expect(row).to_contain_text("cancelled")
    row.get_by_role("link", name="requests").first.click()
    expect(page.locator("#answers article")).to_have_count(50)
    page.get_by_role("button", name="again").click()
    expect(page.locator("#rows tr", has_text="-retry")).to_contain_text("in progress")
    assert watched.wrong == []
    daemon.stop()


def test_answers_are_marked_by_keys_and_stay_marked(web: Web, chromium: Browser, tmp_path: Path) -> None:
    watched = Watched(chromium, web.url)
    page = watched.page
    page.goto(THREE)
    rows = page.locator("#answers article")
    expect(rows).to_have_count(50)

    def press(keys: str) -> None:
        for key in keys.split():
            page.keyboard.press(key)

    def mark(row: int, side: int) -> str:
        return rows.nth(row).locator(".cell").nth(side).get_attribute("data-mark") or ""

    press("j g j l b j 3 j d u k k k l n")  # good; one to the right, bad; the third is best; for later, undone; a note
    page.get_by_label("Note", exact=True).fill("says <b>nothing</b>")
    page.keyboard.press("Control+Enter")
    expect(rows.nth(0).locator(".cell").nth(2).locator(".note")).to_have_text("says <b>nothing</b>")
    said = {(0, 0): "good", (1, 1): "bad", (2, 2): "best", (3, 2): "", (0, 2): ""}
    eventually(lambda: {at: mark(*at) for at in said} == said, 10, "marks are shown")
    page.wait_for_load_state("networkidle")
    page.reload()
    assert {at: mark(*at) for at in said} == said
    expect(rows.nth(0).locator(".cell").nth(2).locator(".note")).to_have_text("says <b>nothing</b>")
    press("x")
    expect(page.locator("#answers ins").first).to_be_visible()
    press("x ?")
    expect(page.locator("#keys")).to_be_visible()
    press("Escape /")
    page.keyboard.type("invoice")
    page.keyboard.press("Enter")
    expect(page.locator(".narrowing")).to_contain_text("has invoice")
    page.goto(THREE)
    press("]")
    expect(page.locator(".pages .at")).to_have_text("page 2 of 3")
    press("e")
    expect(page.locator("h1")).to_have_text("Marked")
    expect(rows).to_have_count(3)
    with page.expect_download() as began:
        page.locator("form[action*=few-shot] button").click()
    lines = [orjson.loads(line) for line in Path(began.value.path()).read_bytes().splitlines()]
    asked = [line["body"]["messages"] for line in viewed.requests(120)]
    assert [line["messages"][:-1] for line in lines] == [asked[0], asked[2]]
    assert all(line["messages"][-1]["role"] == "assistant" for line in lines)
    assert watched.wrong == []


def test_every_page_fits_a_telephone_is_legible_in_the_dark_and_says_what_may_be_pressed(
    web: Web, chromium: Browser
) -> None:
    for options in (
        {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
        {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    ):
        watched = Watched(chromium, web.url, **options)
        for path in PAGES:
            watched.page.goto(path)
            expect(watched.page.locator("[data-again]")).to_have_count(0)
            found = (watched.sideways(), watched.unnamed(), watched.faint())
            assert found == (0, [], []), (path, options)
        assert watched.wrong == []


def test_what_is_asked_of_a_batch_is_done_without_a_script_as_well(web: Web, chromium: Browser) -> None:
    viewed.running(web.spool, "running", 10, 100)
    watched = Watched(chromium, web.url, java_script_enabled=False)
    page = watched.page
    pause = page.get_by_role("button", name="pause running")
    eventually(lambda: page.goto("/") and pause.count(), 10, "it is listed")
    pause.click()
    expect(page.locator("h1")).to_have_text("Batches")
    eventually((web.spool.inbox / f"batch_{90:022x}.pause").exists, 5, "asked for")
    page.get_by_label("Mark tickets@qwen3-4b").check()
    page.get_by_label("Mark tickets@gemma-3-4b").check()
    page.get_by_role("button", name="Compare").click()
    eventually(lambda: page.goto(page.url) and page.locator("#answers article").count() == 50, 20, "side by side")
    page.locator("[rel=next]").click()
    expect(page.locator(".pages .at")).to_have_text("page 2 of 3")
    assert watched.wrong == []


def test_a_key_opens_the_pages_and_closes_them_again(tmp_path: Path, chromium: Browser) -> None:
    key = keys.add(tmp_path / "keys", "ann", every=True)
    web = Web(tmp_path / "spool", tmp_path / "web.log", environment={"INBOX_DAEMON_WEB__KEYS": str(tmp_path / "keys")})
    try:
        page = Watched(chromium, web.url).page
        page.goto("/?q=abc")
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Log in").click()
        expect(page.locator(".notice")).to_contain_text("no key of this server")
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("#q")).to_have_value("abc")
        page.get_by_role("button", name="log out").click()
        expect(page.locator("h1")).to_have_text("Log in")
        page.goto("/")
        expect(page.locator("h1")).to_have_text("Log in")
    finally:
        web.kill()
