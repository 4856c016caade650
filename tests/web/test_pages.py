"""The pages, as a browser gets them: what they show, and that what is of unknown origin is text and nothing more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlencode

import orjson
import pytest
import viewed
from hostile import PAYLOADS
from running import eventually
from served import As
from starlette.testclient import TestClient

from inbox_daemon.config import Config
from inbox_daemon.layout import Spool, batch_name
from inbox_daemon.spool import submitted
from inbox_daemon.spool.submitted import Asked
from inbox_daemon.web.app import application
from inbox_daemon.web.site import Site

ELEMENTS = {"script": {"src", "type"}, "link": {"rel", "href", "type"}, "meta": {"charset", "name", "content"}}
INLINE = {"bdi", "b", "ins", "del"}
NEVER = {"style", "iframe", "object", "embed", "base", "video", "audio", "math"}


class Page(HTMLParser):
    """What a browser would make of a page: each element with its attributes, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.source = "", html
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.text += " " * (tag not in INLINE)

    def handle_endtag(self, tag: str) -> None:
        self.text += " " * (tag not in INLINE)

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool")
    made.inbox.mkdir(parents=True)
    made.outbox.mkdir()
    return made


@pytest.fixture
def client(spool: Spool, tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(application(Site(spool, Config(), tmp_path / "cache")), follow_redirects=False) as client:
        yield client


def got(client: TestClient, path: str, status: int = 200) -> Page:
    answer = client.get(path)
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return harmless(Page(answer.text))


def harmless(page: Page) -> Page:
    """Nothing runs or loads on a page but our one script and our one style sheet, and nothing is styled in place."""
    for tag, attributes in page.elements:
        assert tag not in NEVER, (tag, attributes)
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "srcdoc")], attributes
        for name in ("href", "src", "action", "formaction"):
            assert re.match(r"[/?#]|$", attributes.get(name) or ""), attributes
            assert not (attributes.get(name) or "").startswith("//"), attributes
        assert attributes.keys() <= ELEMENTS.get(tag, attributes.keys()), attributes
    assert [(script["src"] or "").split("?")[0] for script in page.all("script")] == ["/static/app.js"]
    return page


def test_an_empty_spool_says_what_to_do_first(client: TestClient, spool: Spool) -> None:
    page = got(client, "/")
    assert "There is nothing here yet" in page.text
    assert f"scp requests.jsonl HOST:{spool.inbox}/" in page.text
    assert "No daemon runs on this spool" in page.text


def test_the_overview_says_of_each_batch_how_it_stands(client: TestClient, spool: Spool) -> None:
    viewed.tickets(spool, 20)
    viewed.daemon(spool)
    viewed.running(spool, "candidates", 3312, 5000)
    viewed.running(spool, "of-a-program.batch_1a2221762b5781ac@qwen", 1, 5, 92, requests_per_second=0.0)
    viewed.running(spool, "halted", 10, 100, 91, paused=True, requests_per_second=0.0, eta_seconds=None)
    text = " ".join(got(client, "/").text.split())
    assert "6 in all, 3 at work" in text
    assert " of-a-program@qwen " in text, "the id that a program's batch has in its name is not what it is called"
    assert "engine ready" in text and "GPU 96%" in text and "97 requests/s" in text
    assert re.search(r"candidates .{,80} in progress 3,312 of 5,000 66 % 17 s left 97.1 2 pause cancel", text), text
    assert re.search(r"halted .{,80}paused 10 of 100", text) and "resume cancel" in text
    assert "the same requests: tickets@qwen3-4b, tickets@gemma-3-4b, tickets@llama-3.2-3b. Compare" in text
    found = got(client, "/?q=gemma")
    assert "tickets@gemma-3-4b" in found.text and "tickets@qwen3-4b" not in found.text
    assert "No batch has “<b>” in its name" in got(client, "/?q=%3Cb%3E").text


def test_a_batchs_page_has_its_facts_its_files_and_its_history(client: TestClient, spool: Spool) -> None:
    viewed.tickets(spool, 20)
    page = got(client, "/batches/batch_0000000000000000000001")
    text = " ".join(page.text.split())
    assert "20 of 20" in text and "results.jsonl every answer" in text and "first request handed to the engine" in text
    link = next(a["href"] for a in page.all("a") if (a["href"] or "").endswith("-results/content"))
    answer = client.get(str(link))
    assert answer.content == (spool.batch("tickets@qwen3-4b").dir / "results.jsonl").read_bytes()
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")
    receipt = client.get("/batches/batch_0000000000000000000001/files/receipt.json")
    assert receipt.json()["id"] == "batch_0000000000000000000001"
    assert receipt.headers["content-disposition"].startswith("attachment")
    assert client.get("/batches/batch_0000000000000000000001/files/..%2Fstatus.json").status_code == 404
    assert "Unknown request URL" in harmless(Page(client.get("/nowhere", headers={"accept": "text/html"}).text)).text
    assert "is not here" in got(client, "/batches/batch_00000000000000000000ff", 404).text


def test_a_link_in_a_batchs_folder_is_not_followed(client: TestClient, spool: Spool, tmp_path: Path) -> None:
    viewed.tickets(spool, 3)
    secret = tmp_path / "secret"
    secret.write_text("do not tell")
    (spool.batch("tickets@qwen3-4b").dir / "retry.jsonl").symlink_to(secret)
    assert client.get("/batches/batch_0000000000000000000001/files/retry.jsonl").status_code == 404


def test_a_button_drops_the_file_that_a_command_would(client: TestClient, spool: Spool) -> None:
    viewed.running(spool, "candidates", 10, 100)
    id = f"batch_{90:022x}"
    answer = client.post(f"/batches/{id}/pause", data={"back": f"/batches/{id}"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/batches/{id}")
    assert (spool.inbox / f"{id}.pause").exists()
    assert client.post(f"/batches/{id}/cancel", data={"back": "//evil.test"}).headers["location"] == "/"
    assert client.post(f"/batches/{id}/rm").status_code == 404
    assert {path.name for path in spool.inbox.iterdir()} == {f"{id}.pause", f"{id}.cancel"}


def test_what_may_be_run_again_is_dropped_as_a_batch_of_its_own(client: TestClient, spool: Spool) -> None:
    lines = viewed.requests(4)
    folder = viewed.answered(spool, "some@gemma", lines, lambda place: ("yes", "stop") if place else None, number=1)
    retry = orjson.dumps(lines[0]) + b"\n"
    (folder.dir / "retry@gemma.jsonl").write_bytes(retry)
    receipt = orjson.loads(folder.receipt.read_bytes())
    folder.receipt.write_bytes(orjson.dumps(receipt | {"files": {"retry@gemma.jsonl": {"lines": 1}}}))
    page = got(client, f"/batches/batch_{1:022x}")
    assert "Run 1 again" in page.text
    assert client.post(f"/batches/batch_{1:022x}/again").status_code == 303
    assert (spool.inbox / "some-retry@gemma.jsonl").read_bytes() == retry


def test_with_a_key_nothing_of_others_is_shown_and_what_is_run_again_stays_the_keys(
    spool: Spool, tmp_path: Path
) -> None:
    app = application(Site(spool, Config(), tmp_path / "cache"))
    client = TestClient(As(app, "ann", False), follow_redirects=False)
    (spool.web / "batches").mkdir(parents=True)
    source = tmp_path / "mine.jsonl"
    asked = Asked(input_file_id="file-1", endpoint="/v1/chat/completions", completion_window="24h", key="ann")
    source.write_bytes(orjson.dumps(viewed.requests(1)[0]) + b"\n")
    made = submitted.create(spool, source, "mine@qwen.jsonl", asked, None, 9)
    folder = viewed.answered(spool, made.name, viewed.requests(2), lambda place: ("yes", "stop") if place else None)
    (folder.dir / "retry@qwen.jsonl").write_bytes(source.read_bytes())
    viewed.running(spool, "of-another", 3, 10)
    viewed.daemon(spool, alerts=[{"text": "batch of-another is parked", "severity": "critical"}], waiting={"a": "b"})
    page = got(client, "/")
    assert "mine" in page.text and "of-another" not in page.text and "key ann" in " ".join(page.text.split())
    assert got(client, f"/batches/batch_{90:022x}", 404)
    assert client.post(f"/batches/{made.id}/again").status_code == 303
    again = next(one for one in submitted.all_of(spool) if one.id != made.id)
    assert (again.key, again.name) == ("ann", f"mine-retry.{again.id}@qwen")


def read(client: TestClient, path: str, status: int = 200) -> Page:
    """A page of answers, once they have been read for the first time."""

    def there() -> Page | None:
        page = got(client, path, status)
        return None if any("data-again" in attributes for _, attributes in page.elements) else page

    found = eventually(there, 20, "answers are read")
    assert found is not None
    return found


IDS = [f"batch_{number:022x}" for number in range(1, 7)]
THREE = "/compare?" + "&".join(f"b={id}" for id in IDS[:3])


def chips(page: Page) -> dict[str, str]:
    """The choices of a page of answers: what each is called, and where it leads."""
    return dict(re.findall(r'<a href="([^"]*)"[^>]*>([^<]+)', page.source.split('class="chips"')[1].split("</nav>")[0]))


def test_answers_stand_side_by_side_and_every_filter_is_an_address(client: TestClient, spool: Spool) -> None:
    viewed.tickets(spool, 200)
    page = read(client, THREE)
    assert "200 requests; the answers differ on" in page.text and "s \N{GREEK SMALL LETTER ALPHA} 0." in page.text
    assert len(page.all("article")) == 50 and len([a for a in page.all("a") if a.get("rel") == "next"]) == 1
    for name in ("disagree", "only A", "only C", "errors", "cut off", "no JSON"):
        [link] = [link for link, said in chips(page).items() if unescape(said).strip() == name]
        narrowed = got(client, unescape(link))
        found = re.search(r"(\d+)\s+of 200", narrowed.text)
        assert found and 0 < int(found[1]) < 200, (name, found)
        assert 'aria-current="true">' + name in narrowed.source
    alone = got(client, f"{THREE}&q=no-such-words")
    assert "No row is like that" in alone.text and "has no-such-words" in alone.text
    assert "names a side" in got(client, f"{THREE}&only=F", 400).text
    row = got(client, f"/row?b={IDS[0]}&b={IDS[1]}&id=ticket-00003")
    assert "You sort support tickets" in row.text and "This is ticket 3;" in row.text
    assert "No request in these batches" in got(client, f"/row?b={IDS[0]}&id=nobody", 404).text
    assert "tickets@qwen3-4b, tickets@gemma-3-4b, tickets@llama-3.2-3b" in got(client, "/compare").text


def test_hostile_text_is_text_on_every_page(client: TestClient, spool: Spool) -> None:
    written = [payload.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for payload in PAYLOADS]
    names = [batch_name(f"{payload}.jsonl") for payload in PAYLOADS]
    for number, (name, text) in enumerate(zip(names, written, strict=True)):
        problem = {"data": [{"code": text, "message": text, "line": 1}]}
        told = {"model": text, "input_file_id": text, "warnings": [text], "parked": text}
        viewed.running(spool, f"{name}.{number}", 3, 10, 100 + number, **told)
        viewed.running(spool, f"{name}.{number}.2", 0, 0, 200 + number, status="failed", failed_at=9, errors=problem)
    viewed.daemon(spool, waiting={text: text for text in written}, alerts=[{"text": text} for text in written])
    lines = [viewed.requests(1)[0] | {"custom_id": text} for text in written]
    for line, text in zip(lines, written, strict=True):
        line["body"] = {"messages": [{"role": text, "content": text}]}
    said = [
        text if place % 2 else orjson.dumps({text: text, "label": text}).decode() for place, text in enumerate(written)
    ]
    hostile = batch_name(f"{PAYLOADS[0]}{PAYLOADS[12]}")
    for number in (1, 2):
        answers = [(text, "stop") for text in (said if number == 1 else [*reversed(said)])]
        viewed.answered(spool, f"{hostile}{number}", lines, answers.__getitem__, model=written[0], number=number)
    both = f"/compare?b={IDS[0]}&b={IDS[1]}"
    pages = {path: read(client, path) for path in (both, f"/batches/{IDS[0]}")}
    pages |= {path: got(client, path) for path in ("/", "/?page=2", *(f"/batches/batch_{n:022x}" for n in (100, 200)))}
    pages |= {f"q={text}": got(client, f"{both}&{urlencode({'q': text})}") for text in written[:3]}
    pages |= {
        f"is={text}": got(client, f"{both}&{urlencode({'is': f'A:{text}:{text}'.replace('%', '')})}")
        for text in ("<b>",)
    }
    pages |= {text: got(client, f"/row?b={IDS[0]}&b={IDS[1]}&{urlencode({'id': text})}") for text in written}
    for path, page in pages.items():
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x07\x1b]", page.text), path
    text = pages[both].text
    assert [payload for payload in PAYLOADS[:-1] if payload not in text] == []
