"""`check` and the worker that it asks, where that is another program than vLLM: it is there, it is gone, it dies."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from running import batch_of, jsonl, request

from inbox_daemon import cli
from inbox_daemon.cli import asking

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _frail(frail_worker: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in frail_worker.items():
        monkeypatch.setenv(name, value)


def checked(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, list[str]]:
    """Run it, see that nothing of it is left, and return its exit status and what it says."""
    before = psutil.Process().children()  # what other tests of this process keep
    status = cli.main(["check", *map(str, words)])
    assert [one for one in psutil.Process().children() if one not in before] == []
    return status, capsys.readouterr().out.splitlines()


def a_model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_a_worker_that_ends_while_it_is_asked_leaves_that_unknown_and_not_the_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, path = a_model(tmp_path / "model"), tmp_path / "b.jsonl"
    path.write_bytes(batch_of(50))
    assert checked(capsys, path, "--model", model) == (0, [f"{path}: 50 of 50 requests can run"])
    path.write_bytes(b"{\n" + jsonl([request("a"), request("poison", "x; always: killed"), request("b")]))
    status, said = checked(capsys, path, "--model", model)
    assert status == 1 and said[0].startswith(f"{path}:1: invalid_json: ")
    why = "what vLLM would refuse is not known: the worker was killed by SIGKILL"
    assert said[1:] == [f"{path}: 3 of 4 requests can run", f"{path}: {why}"]


def test_many_requests_are_shared_out_among_several_workers_and_nothing_is_left_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_workers_for", lambda requests: 3)
    model, path = a_model(tmp_path / "model"), tmp_path / "b.jsonl"
    path.write_bytes(batch_of(100))
    assert checked(capsys, path, path, "--model", model)[1] == [f"{path}: 100 of 100 requests can run"] * 2
    path.write_bytes(batch_of(100) + jsonl([request("poison", "x; always: killed")]))
    status, said = checked(capsys, path, path, "--model", model)
    assert status == 0 and len(said) == 4, said
    assert all("what vLLM would refuse is not known: the worker was killed by SIGKILL" in line for line in said[1::2])


def test_a_request_whose_media_would_have_to_be_fetched_is_not_asked_about_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, settings, path = a_model(tmp_path / "model"), tmp_path / "config.toml", tmp_path / "b.jsonl"
    settings.write_text('[requests]\nallowed_media_domains = ["media.example.org"]\n')
    shown = lambda url: [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]  # noqa: E731
    sound = {"url": "/v1/audio/transcriptions", "body": {"file_url": "http://media.example.org/a.wav"}}
    asked = [request("a"), request("b", messages=shown("https://media.example.org/a.png")), request("c") | sound]
    path.write_bytes(jsonl(asked))
    status, said = checked(capsys, path, "--model", model, "--config", settings)
    why = "it would have to fetch media for that"
    assert (status, said[1:]) == (0, [f"{path}: what vLLM would refuse of 2 requests is not known: {why}"])


def test_each_of_several_models_is_asked_about_its_own_requests_and_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [a_model(tmp_path / name) for name in ("one", "two", "three")]
    settings, path = tmp_path / "config.toml", tmp_path / "b.jsonl"
    settings.write_text("".join(f'[model."{model.name}"]\npath = "{model}"\n' for model in models))
    path.write_bytes(jsonl([request("a", model="two"), request("b"), request("c", model="two")]))
    status, [line] = checked(capsys, path, "--config", settings, "--json")
    assert (status, line.count('"model":"frail"')) == (0, 2)
    (tmp_path / "two" / "config.json").unlink()
    status, said = checked(capsys, path, "--config", settings)
    assert said[0] == f"{path}: 3 of 3 requests can run"
    assert said[1].startswith(f"{path}: what vLLM would refuse is not known: model.two.path = ")
