"""What is known of a model before it is loaded and, where it cannot be had, the cause and the next step. Pure.

How Hugging Face says no is told apart by the kinds of error of its own library (huggingface_hub.errors), not by their
words, which change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

_TOKEN = "give the token to the user that runs the daemon: HF_TOKEN, or as etc/docs/service.md says"
_ELSEWHERE = (
    "fetch it on a host with a network (inbox-daemon models pull {model}, or hf download {model}) and copy the cache, "
    "or name a folder in its place"
)
_WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")  # those of the first kind that there is


class Had(StrEnum):
    """Whether a model's files can be had; if so, from where, and if not, why."""

    FOLDER = "folder"
    CACHED = "cache"  # whole, in the hub's cache on this host
    OFFERED = "hub"  # to whoever asks with our token
    NOT_HERE = "not here"  # and nobody was to ask the hub
    NO_TOKEN = "no token"  # gated, and nobody said who asks (401)
    NOT_GRANTED = "not granted"  # gated, and the token's account may not have it (403)
    BAD_TOKEN = "bad token"
    NOT_FOUND = "not found"  # or private: the hub does not tell
    NO_REVISION = "no revision"
    SHUT_OFF = "shut off"  # HF_HUB_OFFLINE, and it is not in the cache
    UNREACHABLE = "unreachable"  # and it is not in the cache
    NO_LIBRARY = "no library"  # nobody can ask
    NO_PLACE = "no place"  # for it in the cache


_SENTENCES = {
    Had.FOLDER: "{model} is a folder of this host",
    Had.CACHED: "{model} is in this host's cache",
    Had.OFFERED: "Hugging Face has {model}",
    Had.NOT_HERE: "{model} is not on this host: fetch it with inbox-daemon models pull {model}, or its first load will",
    Had.NO_TOKEN: "{model} needs a licence and a token: accept it at https://huggingface.co/{model}, then "
    f"{_TOKEN}",
    Had.NOT_GRANTED: "the token's account has not been granted {model}: ask for it at https://huggingface.co/{model}",
    Had.BAD_TOKEN: "Hugging Face does not know the token that asks for {model}: make one at "
    f"https://huggingface.co/settings/tokens, then {_TOKEN}",
    Had.NOT_FOUND: "there is no {model} on Hugging Face, or it is private: look at the spelling; for a private one "
    f"{_TOKEN}",
    Had.NO_REVISION: "{model} has no such revision: look at revision among its arguments",
    Had.SHUT_OFF: f"{{model}} is not in this host's cache, and HF_HUB_OFFLINE shuts the network off: {_ELSEWHERE}",
    Had.UNREACHABLE: "{model} is not in this host's cache, and Hugging Face cannot be reached{why}: try again, or "
    + _ELSEWHERE,
    Had.NO_LIBRARY: "nobody can ask for {model}: huggingface_hub is not installed{why}; it comes with vLLM "
    "(tools/install, or pip install '.[gpu]')",
    Had.NO_PLACE: "{model} cannot be put into the cache{why}: run this as the user that the daemon runs as "
    "(etc/docs/service.md)",
}
_GOOD = frozenset({Had.FOLDER, Had.CACHED, Had.OFFERED})
_FOR_EVER = frozenset({Had.NO_TOKEN, Had.NOT_GRANTED, Had.BAD_TOKEN, Had.NOT_FOUND, Had.NO_REVISION, Had.SHUT_OFF})


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found out about one model, or one adapter.

    Attributes:
        why: what the library said, or which files are lacking; for people.
        folder: where its files are on this host; "": they are not.
        store: the folder of the cache into which they would be put; "" of a folder that is none of the cache's.
        files: bytes of each file that vLLM may load, by its name.
        to_fetch: bytes of those that are not on this host yet.
        config: of config.json; {} where there is none.
        adapter: of adapter_config.json; {}: it is no adapter.
        template: whether it has a chat template.
        licence: by its short name; "": its files do not say.
    """

    had: Had
    why: str = ""
    folder: str = ""
    store: str = ""
    files: Mapping[str, int] = field(default_factory=dict)
    to_fetch: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    adapter: Mapping[str, Any] = field(default_factory=dict)
    template: bool = False
    licence: str = ""

    @property
    def good(self) -> bool:
        """Whether it can be had."""
        return self.had in _GOOD

    @property
    def lasting(self) -> bool:
        """Whether it cannot be had until somebody does something."""
        return self.had in _FOR_EVER

    @property
    def weights(self) -> int | None:
        """Bytes of its weights; None where nothing says."""
        return weights(self.files)

    def sentence(self, model: str) -> str:
        return sentence(self.had, model, self.why)


def sentence(had: Had, model: str, why: str = "") -> str:
    """Return what is to be said of a model: the cause and the next step."""
    return _SENTENCES[had].format(model=model, why=f" ({why})" if why else "")


def a_base_model(model: str) -> str:
    """Return what is to be said of a model without a chat template where somebody wants to chat with it."""
    end = model.rstrip("/").rpartition("/")[2].removesuffix("-Base")
    instead = f"did you mean {end}-Instruct or {end}-it?"
    return (
        f"{model} has no chat template: a base model; {instead} It takes /v1/completions, or a chat_template in its "
        "arguments"
    )


def weights(files: Mapping[str, int]) -> int | None:
    """Return the bytes of a model's weights by its files; None where there are none.

    Those in folders below it are other forms of the same: `original/`, `onnx/`.
    """
    for suffix in _WEIGHTS:
        if size := sum(size for name, size in files.items() if name.endswith(suffix) and "/" not in name):
            return size
    return None


def needed(names: Mapping[str, int]) -> dict[str, list[str]]:
    """Return what to fetch of a repository, as the hub's library takes it: what vLLM loads, and the licence.

    Args:
        names: of all its files. The weights in their first form, as vLLM takes them, and not those that some
            repositories have once more under `original/`.
    """
    top = [name for name in names if "/" not in name]
    kind = next((suffix for suffix in _WEIGHTS[:3] if any(name.endswith(suffix) for name in top)), _WEIGHTS[0])
    texts = ["*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.py", "tokenizer*", "README.md", "LICENSE*"]
    return {"allow_patterns": [f"*{kind}", *texts], "ignore_patterns": ["original/*", "onnx/*", "training_args.bin"]}


def rank(adapter: Mapping[str, Any]) -> int:
    """Return an adapter's rank by its adapter_config.json, the largest where its modules differ; 0 where none is said.

    Raises:
        ValueError, TypeError, AttributeError: it is not written as PEFT writes it.
    """
    return max(int(adapter.get("r") or 0), *map(int, (adapter.get("rank_pattern") or {0: 0}).values()))


def kv_bytes(config: Mapping[str, Any], arguments: Mapping[str, Any]) -> int | None:
    """Return the bytes that a token takes in the KV cache, for advice; None where config.json does not tell.

    2 x layers x KV heads x size of a head x bytes of a number. A model whose layers look at a window only takes less;
    of latent attention (MLA) and of layers that are no attention at all nothing is said.

    Args:
        arguments: vLLM's, which may say of what type the numbers are.
    """
    text = next((found for key in ("text_config", "llm_config") if isinstance(found := config.get(key), dict)), config)
    kinds = text.get("layer_types") or []
    if text.get("kv_lora_rank") or any(not str(kind).endswith("attention") or "linear" in str(kind) for kind in kinds):
        return None
    heads = text.get("num_attention_heads")
    try:
        size = text.get("head_dim") or text["hidden_size"] // heads
        each = 2 * text["num_hidden_layers"] * (text.get("num_key_value_heads") or heads) * size
    except (KeyError, TypeError, ZeroDivisionError):
        return None
    cache = str(arguments.get("kv_cache_dtype", "auto"))
    kind = str(arguments.get("dtype", "auto")) if cache == "auto" else cache
    return int(each) * (1 if kind.startswith(("fp8", "int8")) else 4 if kind in ("float", "float32") else 2)
