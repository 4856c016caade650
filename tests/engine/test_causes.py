"""Which ends of a load are for ever, in the words of vLLM 0.32 and of what it loads with, and which may pass."""

from __future__ import annotations

import pytest

from inbox_daemon.config import EngineSettings
from inbox_daemon.config.models import Model
from inbox_daemon.engine.causes import lasting

ORG_M = Model("org/m", EngineSettings(model="org/m"), True)
CORE = "(EngineCore pid=7) ERROR 11-28 05:46:39 [core.py:1284] "
GATED = "OSError: You are trying to access a gated repo.\nMake sure to have access to it.\n"
WRONG = "pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig\n  Value error, "
FOR_EVER = [
    (
        f"{GATED}401 Client Error.\nCannot access gated repo for url http://hub/org/m/resolve/main/config.json.",
        ["needs a licence and a token", "https://huggingface.co/org/m", "HF_TOKEN"],
    ),
    (f"{GATED}403 Client Error.\nCannot access gated repo for url x.", ["has not been granted org/m"]),
    (
        "OSError: org/m is not a local folder and is not a valid model identifier listed on 'https://huggingface.co'",
        ["there is no org/m", "spelling"],
    ),
    (
        "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder for the "
        "specified revision on the local disk and outgoing traffic has been disabled. To enable repo look-ups",
        ["not in this host's cache", "hf download org/m"],
    ),
    (
        f"{WRONG}Model architectures ['NoSuchForCausalLM'] are not supported for now. [type=value_error",
        ["has no code for org/m", "NoSuchForCausalLM", "newer vLLM"],
    ),
    (
        f"{WRONG}The checkpoint you are trying to load has model type `nosuch` but Transformers does not recognize",
        ["has no code for org/m", "nosuch"],
    ),
    ("OSError: It looks like the config file at '/m/config.json' is not a valid JSON file.", ["not whole", "config"]),
    (f"{CORE}RuntimeError: Cannot find any model weights with `/m`", ["not whole", "weights"]),
    (
        f"{CORE}ValueError: To serve at least one request with the model's max seq len (40960), (5.62 GiB KV cache is "
        "needed, which is larger than the available KV cache memory (0.97 GiB).",
        ["not enough memory for org/m", "max seq len (40960)", "max_model_len"],
    ),
    (f"{CORE}ValueError: No available memory for the cache blocks. Try increasing", ["not enough memory"]),
    ("ValueError: LoRA rank 64 is greater than max_lora_rank 16.", ["lora_modules", "LoRA rank 64"]),
    ("KeyError: \"Reasoning parser 'nope' not found. Available: a, b\"", ["[engine.args]", "'nope' not found"]),
    (
        f"{WRONG}Total number of attention heads (4) must be divisible by tensor parallel size (3). [type=x",
        ["does not accept [engine.args] for org/m", "divisible by tensor parallel size (3)"],
    ),
]
MAY_PASS = [
    "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in the cache.",
    f"{CORE}torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of",
    f"{CORE}ValueError: Free memory on device (10.2/79.3 GiB) on startup is less than desired GPU memory utilization",
    "ValueError: Available memory on node 0 (3.1/12.0 GiB) on startup is less than desired CPU memory utilization",
    "RuntimeError: Engine core initialization failed. See root cause above.",
    "",
]


@pytest.mark.parametrize(("log", "words"), FOR_EVER)
def test_what_no_other_try_mends_is_said_with_the_cause_and_the_next_step(log: str, words: list[str]) -> None:
    before = "INFO 11-28 05:46:39 [model.py:733] Resolved architecture: Qwen3ForCausalLM"
    after = "RuntimeError: Engine core initialization failed. See root cause above."
    sentence = lasting([before, *log.splitlines(), after], ORG_M)
    assert sentence is not None
    for word in words:
        assert word in sentence
    assert "\n" not in sentence and "{" not in sentence


@pytest.mark.parametrize("log", MAY_PASS)
def test_what_may_pass_is_tried_again(log: str) -> None:
    assert lasting(log.splitlines(), ORG_M) is None


def test_of_one_of_several_models_the_next_step_names_its_own_table() -> None:
    folder = Model("org/m", EngineSettings(model="/srv/m"), False, 'model."org/m"')
    log = ["OSError: It looks like the config file at '/srv/m/config.json' is not a valid JSON file."]
    assert str(lasting(log, folder)).endswith('or name another folder in model."org/m".path')
