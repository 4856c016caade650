"""What is known of a model by its own files, and what is said where it cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from inbox_daemon.hub import answers, contents
from inbox_daemon.hub.answers import Had, Seen

QWEN3_4B = {"num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
LLAMA_3B = {"num_hidden_layers": 28, "num_attention_heads": 24, "num_key_value_heads": 8, "hidden_size": 3072}
GEMMA3_4B = {"num_hidden_layers": 34, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}


@pytest.mark.parametrize(
    ("config", "arguments", "size"),
    [
        (QWEN3_4B, {}, 144 << 10),
        (LLAMA_3B, {}, 112 << 10),  # the size of a head is hidden_size / heads where nothing says
        ({"text_config": GEMMA3_4B | {"layer_types": ["sliding_attention", "full_attention"]}}, {}, 136 << 10),
        (QWEN3_4B, {"kv_cache_dtype": "fp8_e4m3"}, 72 << 10),
        (QWEN3_4B, {"dtype": "float32"}, 288 << 10),
        (QWEN3_4B | {"kv_lora_rank": 512}, {}, None),
        (QWEN3_4B | {"layer_types": ["linear_attention", "full_attention"]}, {}, None),
        ({"num_hidden_layers": "many"}, {}, None),
        ({}, {}, None),
    ],
)
def test_what_a_token_takes_is_said_as_config_json_has_it_and_not_where_that_would_be_wrong(
    config: dict[str, Any], arguments: dict[str, Any], size: int | None
) -> None:
    assert answers.kv_bytes(config, arguments) == size


def test_each_refusal_names_the_model_and_the_next_step() -> None:
    steps = {
        Had.NO_TOKEN: "accept it at https://huggingface.co/org/m, then give the token",
        Had.NOT_GRANTED: "ask for it at https://huggingface.co/org/m",
        Had.BAD_TOKEN: "make one at https://huggingface.co/settings/tokens",
        Had.NOT_FOUND: "look at the spelling",
        Had.NO_REVISION: "look at revision",
        Had.SHUT_OFF: "inbox-daemon models pull org/m, or hf download org/m) and copy the cache",
        Had.UNREACHABLE: "try again, or fetch it on a host with a network",
        Had.NO_LIBRARY: "tools/install",
        Had.NO_PLACE: "as the user that the daemon runs as",
        Had.NOT_HERE: "inbox-daemon models pull org/m",
    }
    assert steps.keys() == {had for had in Had if not Seen(had).good}
    for had, step in steps.items():
        said = answers.sentence(had, "org/m", "why {it} is so")
        assert "org/m" in said and step in said
    assert [had for had in steps if not Seen(had).lasting] == [
        Had.UNREACHABLE,
        Had.NO_LIBRARY,
        Had.NO_PLACE,
        Had.NOT_HERE,
    ]


def test_of_a_base_model_the_one_that_chats_is_named() -> None:
    for base in ("Qwen/Qwen3-4B-Base", "/srv/models/Qwen3-4B/"):
        assert "a base model; did you mean Qwen3-4B-Instruct or Qwen3-4B-it?" in answers.a_base_model(base)


def test_weights_are_counted_once_whatever_forms_they_are_there_in() -> None:
    files = {"model-00001-of-00002.safetensors": 5, "model-00002-of-00002.safetensors": 3, "config.json": 1}
    assert answers.weights(files | {"pytorch_model.bin": 8, "original/consolidated.00.pth": 8}) == 8
    assert answers.weights({"pytorch_model.bin": 7}) == 7
    assert answers.weights({"config.json": 1}) is None


def put(folder: Path, **files: object) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content if isinstance(content, bytes) else orjson.dumps(content))
    return folder


def test_a_folder_says_what_it_holds_and_what_is_lacking(tmp_path: Path) -> None:
    assert contents.lacking(put(tmp_path / "empty")) == ["config.json"]
    model = put(tmp_path / "model", config__json=QWEN3_4B)
    assert contents.lacking(model) == ["its weights"]
    parts = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    put(model, **{"model__safetensors__index__json": {"weight_map": parts}, "model-1__safetensors": b"12345"})
    assert contents.lacking(model) == ["model-2.safetensors"]
    (model / "model-2.safetensors").symlink_to(tmp_path / "blobs" / "gone")
    assert contents.lacking(model) == ["model-2.safetensors"]
    (model / "model-2.safetensors").unlink()
    put(model, **{"model-2__safetensors": b"123", "README__md": b"---\ntags: [x]\nlicense: apache-2.0\n---\n# It\n"})
    seen = contents.seen(model)
    assert (seen.why, seen.weights, seen.licence, seen.template, seen.config) == ("", 8, "apache-2.0", False, QWEN3_4B)
    put(model, tokenizer_config__json={"chat_template": "{{ messages }}"})
    assert contents.seen(model).template


def test_what_is_broken_or_hostile_in_a_folder_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    model = put(tmp_path / "model", config__json=b"[1]", tokenizer_config__json=b"{", adapter_config__json=b"\xff")
    (model / "README.md").symlink_to(model)
    seen = contents.seen(model)
    assert (seen.config, seen.adapter, seen.template, seen.licence) == ({}, {}, False, "")
