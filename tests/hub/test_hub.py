"""The hub is asked by Hugging Face's own library: each of its answers, the cache, a network that is not there."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import hubs
import pytest
from hubs import Hub

from inbox_daemon.engine.worker import refusals
from inbox_daemon.errors import ConfigError
from inbox_daemon.hub import asking
from inbox_daemon.hub.answers import Had, Seen
from inbox_daemon.hub.asking import Asked

MODEL = {
    "config.json": b'{"architectures": ["Qwen3ForCausalLM"]}',
    "tokenizer_config.json": b'{"chat_template": "x"}',
    "model.safetensors.index.json": b'{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}',
    "model-1.safetensors": b"1" * 1000,
    "model-2.safetensors": b"2" * 500,
    "original/consolidated.00.pth": b"3" * 1500,
    "pytorch_model.bin": b"4" * 1500,
}
REPOSITORIES = {"org/there": MODEL, "org/gated": MODEL, "org/odd": {"notes.txt": b"1"}}

Environment = Callable[..., None]


@pytest.fixture
def asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """Have whoever asks from now on ask this hub, with a cache of its own."""
    monkeypatch.delenv("HF_TOKEN", raising=False)

    def asks(hub: Hub, **more: str) -> None:
        for name, value in hub.environment(tmp_path, **more).items():
            monkeypatch.setenv(name, value)

    return asks


def look(*names: str) -> Sequence[Seen]:
    return asking.look([Asked(name) for name in names])


@pytest.mark.slow
def test_each_answer_of_the_hubs_is_told_from_the_others(asks: Environment) -> None:
    with hubs.serving(REPOSITORIES, frozenset({"org/gated"})) as hub:
        asks(hub)
        there, gated, gone, odd, wrong = look("org/there", "org/gated", "org/gone", "org/odd", "a/b/c")
        revision = asking.look([Asked("org/there", "v9")])[0]
        with_tokens = []
        for token in ("hf_known", "hf_granted", "hf_nobody"):
            asks(hub, HF_TOKEN=token)
            with_tokens += [look("org/gated")[0].had]
        asks(hub, HF_HUB_OFFLINE="1")
        shut_off = look("org/there")[0]
    assert (there.had, there.weights, there.template, there.licence) == (Had.OFFERED, 1500, True, "apache-2.0")
    assert there.config == {"architectures": ["Qwen3ForCausalLM"]}
    assert there.to_fetch == sum(len(MODEL[name]) for name in MODEL if not name.endswith((".pth", ".bin")))
    assert [one.had for one in (gated, gone, odd, wrong)] == [Had.NO_TOKEN, Had.NOT_FOUND, Had.OFFERED, Had.NOT_FOUND]
    assert revision.had is Had.NO_REVISION
    assert with_tokens == [Had.NOT_GRANTED, Had.OFFERED, Had.BAD_TOKEN]
    assert shut_off.had is Had.SHUT_OFF
    asks(hub)
    gone_away = look("org/there")[0]  # nobody listens there any more
    assert gone_away.had is Had.UNREACHABLE and gone_away.why
    assert not list(Path(there.store).parent.parent.glob("hub/*")), "to ask puts nothing into the cache"


@pytest.mark.slow
def test_what_the_cache_has_whole_needs_no_hub_and_what_it_has_in_part_is_fetched_to_the_end(asks: Environment) -> None:
    with hubs.serving(REPOSITORIES) as hub:
        asks(hub)
        before = look("org/there")[0]
        first = asking.pulled(asking.pull(Asked("org/there")))
        assert (first.had, Path(first.folder, "model-1.safetensors").read_bytes()) == (Had.CACHED, b"1" * 1000)
        assert not list(Path(first.folder).rglob("*.pth")) and not list(Path(first.folder).glob("*.bin"))
        second = Path(first.folder, "model-2.safetensors")
        second.resolve().unlink()
        second.unlink()
        part = look("org/there")[0]
        assert (part.had, part.to_fetch) == (Had.OFFERED, 500)
        hub.asked.clear()
        again = asking.pulled(asking.pull(Asked("org/there")))
        assert again.had is Had.CACHED
        fetched = [one.rpartition("/")[2] for one in hub.asked if one.startswith("GET") and "safetensors" in one]
        assert fetched == ["model-2.safetensors"], "what has come whole is not fetched again"
    asks(hub, HF_HUB_OFFLINE="1")
    assert (look("org/there")[0].had, before.had) == (Had.CACHED, Had.OFFERED)
    second.unlink()
    lacking = look("org/there")[0]
    assert lacking.had is Had.SHUT_OFF and "model-2.safetensors of it is lacking" in lacking.why


@pytest.mark.slow
def test_a_hub_that_accepts_and_says_nothing_costs_so_much_time_and_no_more(
    asks: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_WITHIN", 1.5)
    monkeypatch.setattr(asking, "_BEGUN_WITHIN", 1.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        asks(Hub({}, endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}"))
        seen = look("org/there")[0]
    assert seen.had is Had.UNREACHABLE and "nothing within 3 s" in seen.why


@pytest.mark.slow
def test_a_cache_that_is_somebody_elses_is_said_with_the_user_who_may(asks: Environment, tmp_path: Path) -> None:
    with hubs.serving(REPOSITORIES) as hub:
        (tmp_path / "hub").write_bytes(b"a file, so that not even root may make a folder below it")
        asks(hub)
        seen = asking.pulled(asking.pull(Asked("org/there")))
    assert seen.had is Had.NO_PLACE
    assert "run this as the user that the daemon runs as" in seen.sentence("org/there")


@pytest.mark.slow
def test_a_load_that_fails_ends_with_the_hubs_reason_where_it_has_one_and_with_its_own_where_not(
    asks: Environment, tmp_path: Path
) -> None:
    class WhateverVllmSays(Exception):
        """In the words of no release."""

    def loads(model: str, **arguments: object) -> None:
        with refusals.told_apart(model, arguments):
            raise WhateverVllmSays

    with hubs.serving(REPOSITORIES, frozenset({"org/gated"})) as hub:
        asks(hub)
        adapters = [{"name": "mine", "path": str(tmp_path)}, "theirs=org/gated"]
        for model, arguments in (("org/gated", {}), ("org/there", {"lora_modules": adapters})):
            with pytest.raises(ConfigError, match=r"^org/gated needs a licence and a token"):
                loads(model, **arguments)
        for model in ("org/there", str(tmp_path)):
            with pytest.raises(WhateverVllmSays):
                loads(model)
    with pytest.raises(WhateverVllmSays):
        loads("org/there")  # a network that is down may be up again
