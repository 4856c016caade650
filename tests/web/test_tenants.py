"""Whose is what: a key sees what it made, one with `all` sees everything, and what is another's is not there."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from urllib.parse import quote

import orjson
import pytest
from fastapi.routing import APIRoute
from served import Served
from starlette.testclient import TestClient

from inbox_daemon.web import keys
from inbox_daemon.web.guard import Guard, Rules
from inbox_daemon.web.keys import Keys

PROMPT, ANSWER, STEM = "the-prompt-of-ann", "the-answer-to-ann", "the-file-of-ann"
REQUEST = {
    "custom_id": "r0",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"messages": [{"role": "user", "content": PROMPT}]},
}
RESULT = {
    "id": "x",
    "custom_id": "r0",
    "response": {
        "status_code": 200,
        "request_id": "r",
        "body": {"choices": [{"message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}]},
    },
    "error": None,
}
REST = {"filename": "results.jsonl", "verb": "cancel", "name": "app.css"}  # of a path, beside ids


class Scene:
    """Ann's upload and her batch, which has ended, and one that was dropped; asked for by four keys."""

    def __init__(self, folder: Path) -> None:
        self.served = Served(folder)
        every = {"ann": False, "bob": False, "boss": True}
        made = {name: keys.add(folder / "keys", name, every=all_) for name, all_ in every.items()}
        guard = Guard(self.served.app, Rules(keys=Keys(folder / "keys")))
        self.clients = {
            name: TestClient(
                guard,
                base_url="http://127.0.0.1:8001",
                headers={"authorization": f"Bearer {key}"},
                follow_redirects=False,
            )
            for name, key in made.items()
        }
        ann, content = self.clients["ann"], orjson.dumps(REQUEST) + b"\n"
        told = ann.post("/v1/files", files={"file": (f"{STEM}.jsonl", content)}, data={"purpose": "batch"}).json()
        asked = {"input_file_id": told["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = ann.post("/v1/batches", json=asked).json()
        self.name = self.served.taken(batch)
        files = {"input.jsonl": content, "results.jsonl": orjson.dumps(RESULT) + b"\n", "errors.jsonl": b""}
        files |= {"receipt.json": b"{}"}
        self.waiting = ann.post("/v1/batches", json=asked | {"metadata": {"a": "b"}}).json()  # nobody has taken it yet
        self.served.daemon(waiting={f"{self.waiting['inbox']['name']}.jsonl": "waits for its model"})
        self.served.says(self.name, "completed", files)
        self.served.says("dropped", "completed", files)
        batch = ann.get(f"/v1/batches/{batch['id']}").json()
        self.files = [told["id"], batch["output_file_id"], batch["output_file_id"].replace("results", "input")]
        self.batches = [batch["id"], self.name]
        self.dropped = "dropped"

    def targets(self, method: str) -> Iterator[str]:
        """Every route of the application that takes a method and something of ann's, with each of her ids."""
        for route in self.served.app.routes:
            if not isinstance(route, APIRoute) or method not in route.methods or not route.param_convertors:
                continue
            for values in product(*(self._values(route.path, name) for name in route.param_convertors)):
                path = route.path
                for name, value in zip(route.param_convertors, values, strict=True):
                    path = path.replace(f"{{{name}}}", quote(value))
                if not path.startswith("/static/"):
                    yield path

    def _values(self, path: str, name: str) -> list[str]:
        if name in REST:
            return [REST[name]]
        return self.files if name == "file_id" or "/files/{id}" in path else self.batches

    def lists(self) -> Iterator[str]:
        """Every page and list that takes no id in its path; those that take one elsewhere, with ann's."""
        query = "&".join(f"b={quote(id)}" for id in (*self.batches, self.dropped))
        for route in self.served.app.routes:
            if isinstance(route, APIRoute) and "GET" in route.methods and not route.param_convertors:
                yield f"{route.path}?{query}&id=r0"
                yield route.path


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_what_is_anothers_is_not_there_whatever_is_asked_of_it_and_nothing_of_it_happens(scene: Scene) -> None:
    bob = scene.clients["bob"]
    asked = [
        (method, target) for method in ("GET", "POST", "DELETE", "PUT", "PATCH") for target in scene.targets(method)
    ]
    assert len(asked) > 20
    found = [(*what, bob.request(*what, json={"priority": 1}).status_code) for what in asked]
    assert [each for each in found if each[2] != 404] == []
    ids = {"input_file_id": scene.files[0], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    assert bob.post("/v1/batches", json=ids).status_code == 404
    assert {path.suffix for path in scene.served.spool.inbox.iterdir()} == {".jsonl", ".sha256"}, "no control file"
    assert scene.clients["ann"].get(f"/v1/files/{scene.files[0]}").status_code == 200


def test_no_list_and_no_page_has_a_word_of_what_is_anothers(scene: Scene) -> None:
    secrets = [PROMPT, ANSWER, STEM, scene.waiting["id"], *scene.files, *scene.batches]
    for target in scene.lists():
        said = scene.clients["bob"].get(target).text
        for id in scene.batches:  # what he asked for himself may be said again
            said = said.replace(id, "") if "?" in target else said
        assert [word for word in secrets if word in said] == [], target


def test_a_key_sees_its_own_and_one_with_all_sees_what_was_dropped_too(scene: Scene) -> None:
    ann, boss = scene.clients["ann"], scene.clients["boss"]
    for client, dropped in ((ann, False), (boss, True)):
        batches = {batch["inbox"]["name"] for batch in client.get("/v1/batches").json()["data"]}
        assert (scene.name in batches, "dropped" in batches) == (True, dropped)
        assert set(scene.files) <= {file["id"] for file in client.get("/v1/files").json()["data"]}
        assert STEM in client.get("/").text
        assert client.get(f"/batches/{scene.batches[0]}").status_code == 200
        assert (client.get(f"/batches/batch_{len('dropped'):022x}").status_code == 200) == dropped
        for target in scene.targets("GET"):
            if target.startswith("/v1/"):
                assert client.get(target).status_code == (200 if not target.endswith(scene.name) else 404), target
        assert client.get(f"/v1/files/{scene.files[1]}/content").json() == RESULT
