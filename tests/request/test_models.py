"""Which models are configured, and under which names: `engine.model`, tables, aliases and adapters."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from running import jsonl, request

from inbox_daemon import config
from inbox_daemon.cli import configuration
from inbox_daemon.config.models import Model, configured, unlisted
from inbox_daemon.errors import ConfigError
from inbox_daemon.request.index import MOST_MODELS
from inbox_daemon.request.reading import Reading, rules_of

QWEN, GEMMA, LLAMA = "Qwen/Qwen3-8B", "google/gemma-3-4b-it", "meta-llama/Llama-3.2-3B-Instruct"


def built(engine: dict[str, Any], tables: dict[str, Any], **models: Any) -> config.Config:
    return config.build({"engine": engine, "model": tables, "models": models}, "/etc/c.toml")


def by_name(read: config.Config) -> dict[str, Model]:
    return {model.name: model for model in configured(read)}


def test_one_model_is_the_engines_own_with_its_settings_as_they_are() -> None:
    read = built({"model": QWEN, "args": {"max-model-len": 9}}, {})
    [only] = configured(read)
    assert (only.name, only.engine, only.front) == (QWEN, read.engine, True)
    assert only.lanes == {QWEN, ""}
    assert [model.name for model in configured(built({"kind": "null"}, {}))] == [""], "an engine without a model is one"


def test_a_table_is_a_model_with_the_engines_settings_and_arguments_where_it_says_nothing_else() -> None:
    engine = {"model": QWEN, "in_flight": 7, "args": {"max-model-len": 9, "seed": 1, "served_model_name": "judge"}}
    tables = {GEMMA: {"args": {"max_model_len": 5}, "gpus": [1]}, LLAMA: {"path": "/srv/llama"}}
    models = by_name(built(engine, tables))
    assert list(models) == [QWEN, GEMMA, LLAMA]
    assert models[GEMMA].engine.args == {"max_model_len": 5, "seed": 1} and models[GEMMA].engine.in_flight == 7
    assert models[GEMMA].gpus == (1,)
    assert (models[LLAMA].engine.model, models[LLAMA].served) == ("/srv/llama", [LLAMA]), "a folder answers as its name"
    assert models[QWEN].served == ["judge"], "what [engine.args] calls engine.model is no other model's name"
    assert [model.front for model in models.values()] == [True, False, False]
    assert models[GEMMA].lanes == {GEMMA}


def test_engine_model_may_name_a_table_and_without_it_the_first_table_is_for_requests_that_name_none() -> None:
    tables = {GEMMA: {}, QWEN: {"aliases": ["qwen"]}}
    named = configured(built({"model": QWEN, "args": {"served_model_name": [QWEN, "q"]}}, tables))
    assert [(model.name, model.front) for model in named] == [(QWEN, True), (GEMMA, False)]
    assert named[0].served == [QWEN, "q"] and named[1].served == [GEMMA]
    assert [model.name for model in configured(built({}, tables))] == [GEMMA, QWEN]


def test_adapters_of_a_table_are_loaded_with_it_and_have_lanes_of_their_own() -> None:
    tables = {GEMMA: {"adapters": {"screening": "/srv/a"}, "args": {"lora_modules": ["triage=/srv/b"]}}}
    gemma = by_name(built({"model": QWEN}, tables))[GEMMA]
    assert gemma.adapters == ["triage", "screening"] and gemma.lanes == {GEMMA, "triage", "screening"}


def test_a_request_is_bound_to_the_model_that_its_name_means_whichever_name_that_is() -> None:
    tables = {
        GEMMA: {"aliases": ["gemma"], "adapters": {"screening": "/srv/a"}},
        LLAMA: {"args": {"served_model_name": ["llama", "l"]}},
    }
    aliases = {"small": LLAMA, "judge": "gemma"}
    rules = rules_of(built({"model": QWEN}, tables, aliases=aliases, translate_ollama=True))
    meant = {
        QWEN: [QWEN, "qwen3:8b-q4_K_M"],
        GEMMA: [GEMMA, "gemma", "gemma3", "judge"],
        LLAMA: [LLAMA, "llama", "l", "small", "llama3.2:3b"],
        "screening": ["screening"],
    }
    for model, names in meant.items():
        assert [(rules.model_fault(name), rules.resolve(name)) for name in names] == [(None, model)] * len(names)
    assert (rules.model_fault(None), rules.resolve(None)) == (None, "")


def test_a_name_that_no_model_has_is_refused_with_all_that_are_served_and_how_to_add_one() -> None:
    rules = rules_of(built({"model": QWEN}, {GEMMA: {}}))
    sentence = str(rules.model_fault("mistral"))
    assert f'but "{QWEN}" and "{GEMMA}" are served' in sentence
    assert '[model."mistral"]' in sentence and "[models.aliases]" in sentence


@pytest.mark.parametrize(
    ("engine", "tables", "aliases", "words"),
    [
        ({}, {GEMMA: {"aliases": [QWEN]}}, {}, [repr(QWEN), f"the model {QWEN!r}", f"an alias of {GEMMA!r}"]),
        ({}, {GEMMA: {"aliases": ["x"]}, LLAMA: {"aliases": ["x"]}}, {}, ["'x' is there twice"]),
        ({}, {GEMMA: {"adapters": {"x": "/a"}}, LLAMA: {"adapters": {"x": "/a"}}}, {}, ["an adapter of", "'x'"]),
        ({}, {GEMMA: {"aliases": ["x"]}}, {"x": QWEN}, ["'x' is there twice", f"an alias of {QWEN!r}"]),
        ({}, {GEMMA: {"args": {"served_model_name": QWEN}}}, {}, [repr(QWEN), "Give each its own name"]),
        ({}, {GEMMA: {"args": {"enable-log-requests": True}}}, {}, [f'model."{GEMMA}".args.enable-log-requests']),
        ({}, {GEMMA: {"args": {"enable_lora": True}}}, {}, [f'model."{GEMMA}".args.enable_lora has no effect']),
        ({}, {GEMMA: {"adapters": {GEMMA: "/a"}}}, {}, ["is the model's name too"]),
        ({}, {GEMMA: {"gpus": [-1]}}, {}, [f'model."{GEMMA}".gpus = [-1]', "a list of GPUs' numbers"]),
        ({}, {GEMMA: {"pth": "/x"}}, {}, [f'model."{GEMMA}".pth', "did you mean", ".path?"]),
        ({}, {GEMMA: "x"}, {}, ["must be a table", '[model."NAME"]']),
    ],
)
def test_a_name_that_could_mean_two_things_or_a_mistake_in_a_table_is_said_with_file_and_place(
    engine: dict[str, Any], tables: dict[str, Any], aliases: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as refused:
        built({"model": QWEN} | engine, tables, aliases=aliases)
    for word in ["/etc/c.toml", *words]:
        assert word in str(refused.value)


def test_the_same_alias_twice_for_the_same_model_is_no_mistake() -> None:
    read = built({"model": QWEN}, {GEMMA: {"aliases": ["g"]}}, aliases={"g": GEMMA})
    assert rules_of(read).resolve("g") == GEMMA


def test_config_show_has_a_table_for_each_model_that_can_be_read_back(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f'[model."{GEMMA}-2.5"]\naliases = ["g"]\nargs = {{seed = 1}}\n')
    shown = "\n".join(configuration.lines(config.read(path, {}, {}), everything=False))
    assert f'[model."{GEMMA}-2.5"]\naliases = ["g"]' in shown and f"# {path}" in shown
    assert tomllib.loads(shown)["model"] == {f"{GEMMA}-2.5": {"aliases": ["g"], "args": {"seed": 1}}}


def test_with_allow_any_a_file_may_name_as_many_models_as_the_index_can_tell_apart() -> None:
    rules = rules_of(built({"model": QWEN}, {}, allow_any=True))
    names = [QWEN, *(f"org/m{at}" for at in range(300)), "org/m5"]
    reading = Reading(rules, lambda offset, end: b"", "x.jsonl")
    found = list(reading.feed(jsonl([request(f"r{at}", model=name) for at, name in enumerate(names)])))
    faults = [(number, fault.code) for number, fault in (entry[1:] for entry in found if entry)]
    assert faults == [(number, "model_mismatch") for number in range(MOST_MODELS + 1, 302)]
    assert len(reading.models) == MOST_MODELS and reading.index.models[301] == 6


def test_a_model_that_is_not_listed_has_the_settings_of_all_and_nothing_that_is_engine_models_alone() -> None:
    args = {"seed": 1, "served_model_name": "judge", "lora_modules": ["a=/srv/a"]}
    one = unlisted(built({"model": QWEN, "in_flight": 7, "args": args}, {}), "org/x")
    assert (one.engine.model, one.engine.in_flight, dict(one.engine.args)) == ("org/x", 7, {"seed": 1})
    assert one.lanes == {"org/x"} and "allow_any" in one.said and not one.front
