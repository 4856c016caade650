"""Which model a request asks for: the packaged table, its translation, and what the served model accepts."""

from __future__ import annotations

import re
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inbox_daemon import config
from inbox_daemon.request.catalog import Models, UnknownModel, look_up, table, translate_ollama
from inbox_daemon.request.reading import rules_of

ROWS = [(family, tag) for family, known in table().families.items() for tag in known.tags]
SERVED = "Qwen/Qwen3-8B"


@pytest.mark.parametrize(("family", "tag"), ROWS)
def test_every_row_is_lower_case_and_names_a_hugging_face_model_or_says_why_not(family: str, tag: str) -> None:
    entry = table().families[family].tags[tag]
    assert f"{family}:{tag}" == f"{family}:{tag}".lower()
    assert entry.note or entry.name
    assert entry.name is None or re.fullmatch(r"[A-Za-z0-9-]+/[A-Za-z0-9][A-Za-z0-9._-]+", entry.name)


@pytest.mark.parametrize(("family", "tag"), [row for row in ROWS if not row[1].endswith("*")])
def test_every_tag_of_the_table_is_found_by_its_own_name(family: str, tag: str) -> None:
    assert look_up(f"{family}:{tag}") is table().families[family].tags[tag]


@pytest.mark.parametrize("family", sorted(table().families))
def test_a_missing_tag_and_latest_mean_the_same(family: str) -> None:
    assert look_up(family) == look_up(f"{family}:latest") == look_up(f"{family}:")


@pytest.mark.parametrize(
    ("ollama", "hugging_face"),
    [
        ("gemma3", "google/gemma-3-4b-it"),
        ("gemma3n:e2b", "google/gemma-3n-E2B-it"),
        ("llama3.1", "meta-llama/Llama-3.1-8B-Instruct"),
        ("llama3.2", "meta-llama/Llama-3.2-3B-Instruct"),
        ("llama3.3", "meta-llama/Llama-3.3-70B-Instruct"),
        ("qwen2.5:72b", "Qwen/Qwen2.5-72B-Instruct"),
        ("qwen2.5-coder:7b", "Qwen/Qwen2.5-Coder-7B-Instruct"),
        ("qwen3", "Qwen/Qwen3-8B"),
        ("qwen3:4b-instruct", "Qwen/Qwen3-4B-Instruct-2507"),
        ("mistral", "mistralai/Mistral-7B-Instruct-v0.3"),
        ("mistral-nemo", "mistralai/Mistral-Nemo-Instruct-2407"),
        ("mixtral", "mistralai/Mixtral-8x7B-Instruct-v0.1"),
        ("phi4", "microsoft/phi-4"),
        ("gpt-oss", "openai/gpt-oss-20b"),
        ("deepseek-r1:14b", "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B"),
        ("granite3.3", "ibm-granite/granite-3.3-8b-instruct"),
        ("smollm2", "HuggingFaceTB/SmolLM2-1.7B-Instruct"),
        ("command-r", "CohereLabs/c4ai-command-r-08-2024"),
        ("nomic-embed-text", "nomic-ai/nomic-embed-text-v1.5"),
        ("mxbai-embed-large", "mixedbread-ai/mxbai-embed-large-v1"),
        ("bge-m3", "BAAI/bge-m3"),
        ("all-minilm", "sentence-transformers/all-MiniLM-L6-v2"),
    ],
)
def test_the_common_families_are_known(ollama: str, hugging_face: str) -> None:
    assert translate_ollama(ollama) == hugging_face


@pytest.mark.parametrize(
    ("quantized", "plain"),
    [
        ("llama3.1:8b-instruct-q4_K_M", "llama3.1:8b"),
        ("llama3.2:3b-instruct-fp16", "llama3.2:3b"),
        ("gemma3:4b-it-qat", "gemma3:4b"),
        ("gemma3:27b-it-q8_0", "gemma3:27b"),
        ("phi4:14b-q4_K_M", "phi4"),
        ("phi4:q8_0", "phi4"),
        ("mixtral:8x7b-instruct-v0.1-q5_K_S", "mixtral"),
        ("mistral:7b-instruct-v0.3-q4_K_M", "mistral:7b"),
        ("deepseek-r1:14b-qwen-distill-q4_K_M", "deepseek-r1:14b"),
        ("qwen3.5:35b-a3b-mlx-bf16", "qwen3.5:35b"),
        ("nomic-embed-text:137m-v1.5-fp16", "nomic-embed-text"),
        ("all-minilm:33m-l12-v2-fp16", "all-minilm:33m"),
        ("LLAMA3.1:8B-Instruct-Q4_K_M", "llama3.1:8b"),
        ("library/llama3.1:8b", "llama3.1:8b"),
        ("registry.ollama.ai/library/llama3.1", "llama3.1:8b"),
    ],
)
def test_quantization_case_and_registry_do_not_change_the_model(quantized: str, plain: str) -> None:
    assert translate_ollama(quantized) == translate_ollama(plain)


@pytest.mark.parametrize(
    ("tag", "now", "quantized"),
    [
        ("qwen3:4b", "Qwen/Qwen3-4B-Thinking-2507", "Qwen/Qwen3-4B"),
        ("qwen3:30b-a3b", "Qwen/Qwen3-30B-A3B-Thinking-2507", "Qwen/Qwen3-30B-A3B"),
    ],
)
def test_a_tag_that_moved_carries_a_note_and_its_quantized_tag_the_older_model(
    tag: str, now: str, quantized: str
) -> None:
    entry = look_up(tag)
    assert entry is not None
    assert (entry.name, bool(entry.note)) == (now, True)
    assert translate_ollama(f"{tag}-q4_K_M") == quantized


@pytest.mark.parametrize("name", ["qwen3:235b", "mistral:7b-instruct-q4_K_M", "mistral:q4_0"])
def test_a_tag_whose_model_is_not_certain_is_refused_with_the_choices(name: str) -> None:
    with pytest.raises(UnknownModel, match=f'^"{name}" may mean several models: .*say which one'):
        translate_ollama(name)


@pytest.mark.parametrize("name", ["hf.co/bartowski/Phi-4-GGUF:Q4_K_M", "huggingface.co/bartowski/Phi-4-GGUF"])
def test_a_hugging_face_name_in_ollamas_form_gives_its_repository(name: str) -> None:
    assert translate_ollama(name) == "bartowski/Phi-4-GGUF"


@pytest.mark.parametrize(
    "name", ["Qwen/Qwen3-8B", "meta-llama/Llama-3.2-3B", "/srv/models/a:b", "./model", "../m", "~/m", "models/a/b"]
)
def test_hugging_face_names_and_paths_pass_through(name: str) -> None:
    assert translate_ollama(name) == name


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("llama3.2:7b", "llama3.2:3b"),
        ("lama3.1:8b", "llama3.1:8b"),
        ("qwen3-vl:8b", "qwen3-vl:8b-instruct"),
        ("deepseek-r1:7b-q", "deepseek-r1:7b"),
        ("llama3.2:1b-text-q4_K_M", "llama3.2:1b"),
    ],
)
def test_an_unknown_name_is_refused_with_the_names_close_to_it(name: str, close: str) -> None:
    with pytest.raises(UnknownModel, match=f'^"{re.escape(name)}" is not a model name') as refusal:
        translate_ollama(name)
    assert close in str(refusal.value).partition("; close to it: ")[2].split(", ")


@pytest.mark.parametrize(
    "name", ["", ":", "gpt-4o-mini", "somebody/llama3.1:8b", "registry.ollama.ai/somebody/x", "hf.co/x", "a b/c"]
)
def test_a_name_of_no_known_form_is_refused(name: str) -> None:
    with pytest.raises(UnknownModel):
        translate_ollama(name)


def test_a_name_of_a_megabyte_makes_a_short_message() -> None:
    with pytest.raises(UnknownModel) as refusal:
        translate_ollama("x" * 1_000_000)
    assert len(str(refusal.value)) < 1_000


NAMES = st.one_of(
    st.sampled_from([f"{family}:{tag}" for family, tag in ROWS]),
    st.text(alphabet="abqk04:/.-_ \n", max_size=30),
    st.text(max_size=30),
)


@given(NAMES, st.sampled_from(["", "-q4_K_M", "-fp16", "-instruct", ":latest"]))
def test_translating_ends_in_a_name_that_stays_or_in_a_refusal(name: str, suffix: str) -> None:
    try:
        translated = translate_ollama(name + suffix)
    except UnknownModel:
        return
    assert "/" in translated or translated.startswith("~")
    assert translate_ollama(translated) == translated


@pytest.mark.parametrize("key", ["served_model_name", "served-model-name"])
def test_the_name_that_vllm_serves_is_accepted_however_its_setting_is_written(key: str) -> None:
    rules = rules_of(config.build({"engine": {"model": "Qwen/Qwen3-4B", "args": {key: "judge"}}}, "test"))
    assert rules.model_fault("judge") is None and rules.model_fault("Qwen/Qwen3-4B") is None


def test_a_request_without_a_model_or_with_the_served_one_is_accepted() -> None:
    models = Models(SERVED, {}, False)
    assert models.accepts(None) is None
    assert models.accepts(SERVED) is None


def test_an_alias_is_accepted_whatever_it_is_called() -> None:
    models = Models(SERVED, {"gpt-4o-mini": SERVED, "small": "/srv/other"}, False)
    assert models.accepts("gpt-4o-mini") is None
    assert '"small" (which stands for "/srv/other")' in str(models.accepts("small"))


def test_the_alias_for_any_name_stands_for_every_name_that_is_not_known() -> None:
    models = Models(SERVED, {"small": "org/other", "*": SERVED}, False, frozenset({"screening"}))
    assert models.accepts("whatever") is None and models.accepts("gpt-4o-mini") is None
    assert models.accepts(SERVED) is None and models.accepts("screening") is None
    assert models.accepts("small") is not None  # it has a meaning of its own
    assert [models.answering(name) for name in ("whatever", SERVED, "screening")] == [SERVED, SERVED, "screening"]


def test_every_served_name_is_accepted_and_an_adapters_requests_are_for_the_adapter() -> None:
    arguments = {
        "served_model_name": ["first", "second"],
        "lora_modules": ["a=/srv/a", {"name": "b", "path": "/srv/b"}],
    }
    tree = {"engine": {"model": SERVED, "args": arguments}, "models": {"aliases": {"short": "b"}}}
    rules = rules_of(config.build(tree, source="test"))
    for name in ("first", "second", SERVED, "a", "b", "short", None):
        assert rules.model_fault(name) is None, name
    assert [rules.resolve(name) for name in ("first", "second", SERVED)] == [SERVED] * 3
    assert [rules.resolve(name) for name in ("a", "b", "short", None)] == ["a", "b", "b", ""]
    sentence = rules.model_fault("c")
    assert sentence is not None and '"first" with the adapters "a", "b" is served' in sentence


def test_an_ollama_name_is_accepted_only_where_translation_is_switched_on() -> None:
    assert Models(SERVED, {}, True).accepts("qwen3:8b-q4_K_M") is None
    assert Models(SERVED, {"m": "qwen3"}, True).accepts("m") is None
    refusal = Models(SERVED, {}, False).accepts("qwen3")
    assert "set translate_ollama = true under [models]" in str(refusal)


def test_a_refusal_names_both_models_and_the_next_step() -> None:
    assert Models(SERVED, {}, True).accepts("llama3.2:3b") == (
        'the request asks for "llama3.2:3b" (which stands for "meta-llama/Llama-3.2-3B-Instruct"), '
        'but "Qwen/Qwen3-8B" is served; '
        "rewrite the file with tools/fix_batch_model_names.py IN OUT Qwen/Qwen3-8B, "
        'or add "llama3.2:3b" = "Qwen/Qwen3-8B" to [models.aliases] in the configuration'
    )


def test_a_refusal_of_an_ambiguous_tag_says_what_it_has_meant() -> None:
    refusal = Models("Qwen/Qwen3-4B", {}, True).accepts("qwen3:4b")
    assert "was Qwen/Qwen3-4B until August 2025" in str(refusal)


def test_a_million_requests_with_the_same_names_are_judged_in_seconds() -> None:
    models = Models(SERVED, {}, True)
    begin = time.process_time()
    for _ in range(333_334):
        models.accepts(SERVED)
        models.accepts("qwen3:8b")
        models.accepts("llama3.2:3b")
    assert time.process_time() - begin < 10


@pytest.mark.parametrize(("count", "length"), [(6_000, 100), (1_000, 100_000)])
def test_a_new_name_in_every_request_does_not_fill_the_memory(count: int, length: int) -> None:
    models = Models(SERVED, {}, False)
    tracemalloc.start()
    try:
        for number in range(count):
            assert models.accepts(f"{number:0{length}}")
        assert tracemalloc.get_traced_memory()[0] < 2_000_000
    finally:
        tracemalloc.stop()


def test_with_allow_any_a_name_on_hugging_face_is_a_model_and_no_path_is_one() -> None:
    models = Models(SERVED, {"short": "org/else"}, True, any=True)
    answering = {
        "org/x": "org/x",
        "gemma3": "google/gemma-3-4b-it",
        "short": "org/else",
        SERVED: SERVED,
    }
    assert {name: models.answering(name) for name in answering} == answering
    assert all(models.accepts(name) is None for name in answering)
    paths = ("../x", "./x", "/srv/x", "~/x", "org/..", "org/../x", "x", "a/b/c", ".hidden/x", "", "org/" + "x" * 300)
    assert [name for name in paths if models.answering(name) or models.accepts(name) is None] == []
    assert models.lists(SERVED) and not models.lists("org/x") and Models(SERVED, {}, True).answering("org/x") is None
    assert Models(SERVED, {"*": SERVED}, True, any=True).answering("org/x") == SERVED, "that alias is for any name"
