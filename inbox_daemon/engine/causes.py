"""Why an engine could not be loaded, where loading it again cannot help: the cause and the operator's next step.

Pure. Reads the last lines of an engine that ended while it loaded, in the words of vLLM, transformers and
huggingface_hub. What it does not know may pass, as a network does that is down or a GPU that somebody else has filled:
then the engine is started again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_TOKEN = "give the token to the user that runs the daemon: HF_TOKEN, or as etc/docs/service.md says"
_LONGEST = 300

# What the log says, and what it means; {model}, and {said}, the first group of the pattern.
_CAUSES = (
    (
        r"401 Client Error.*gated repo|gated repo.*401 Client Error",
        "{model} needs a licence and a token: accept it at https://huggingface.co/{model}, then " + _TOKEN,
    ),
    (
        r"403 Client Error.*gated repo|gated repo.*403 Client Error",
        "the token's account has not been granted {model}: ask for it at https://huggingface.co/{model}",
    ),
    (
        r"is not a valid model identifier|RepositoryNotFoundError|Repository Not Found",
        "there is no {model} on Hugging Face, or it is private: look at the spelling of engine.model; "
        "for a private one " + _TOKEN,
    ),
    (
        r"RevisionNotFoundError|is not a valid git identifier",
        "{model} has no such revision: look at [engine.args] revision",
    ),
    (
        r"outgoing traffic has been disabled|OfflineModeIsEnabled",
        "{model} is not in this host's cache, and HF_HUB_OFFLINE shuts the network off: fetch it on a host with a "
        "network (hf download {model}) and copy the cache, or name a folder in engine.model",
    ),
    (
        r"(model type `[^`]*` but Transformers does not recognize|[Aa]rchitectures? \[.*?\] (?:are|is|failed)[^.]*)",
        "this vLLM has no code for {model}: {said}; take a newer vLLM, or another model",
    ),
    (
        r"(config file at '[^']*' is not a valid JSON file|Cannot find any model weights|does not appear to have a file"
        r" named [^.]*\.\w+|Can't load tokenizer for '[^']*'|Invalid repository ID or local directory)",
        "{model} is not whole: {said}; fetch it again, or name another folder in engine.model",
    ),
    (
        r"(To serve at least one request with the models?'s max seq len[^.]*?(?=, which|\.|$)"
        r"|No available memory for the cache blocks|is larger than the available KV cache memory)",
        "the engine has not enough memory for {model} with these settings: {said}; set a smaller max_model_len, or "
        "more memory (gpu_memory_utilization; on a CPU VLLM_CPU_KVCACHE_SPACE), in [engine.args]",
    ),
    (
        r"(LoRA rank \d+ is greater than max_lora_rank[^.]*|No adapter found for \S+"
        r"|LoRAAdapterNotFoundError[^\n]*|Loading lora \S+ failed[^\n]*|target modules? [^\n]*LoRA[^\n]*)",
        "an adapter of [engine.args] lora_modules cannot be loaded: {said}",
    ),
    (
        r"((?:Reasoning|Tool) parser '[^']*' not found|invalid (?:tool call|reasoning) parser: \S+)",
        "[engine.args]: {said}; vLLM's own list of them is in its documentation",
    ),
    (
        r"ValidationError: .*?Value error, (.+?)(?:\. |\.?\s*\[type=)",
        "vLLM does not accept [engine.args] for {model}: {said}",
    ),
    (
        r"([Bb][Ff]loat16 is only supported on GPUs[^.]*|The quantization method [^.]*is not supported[^.]*)",
        "{said}: set another dtype or quantization in [engine.args]",
    ),
)
_KNOWN = tuple((re.compile(pattern, re.DOTALL), sentence) for pattern, sentence in _CAUSES)
_PREFIX = re.compile(r"^(?:\(\w+ pid=\d+\) )?(?:[A-Z]+ \d\d-\d\d [\d:.]+ \[[^\]]*\] ?)?")


def lasting(log: Sequence[str], model: str) -> str | None:
    """Return what is to be done about an engine that ended while it loaded; None where trying again may help.

    Args:
        log: its last lines, oldest first.
        model: as engine.model names it.
    """
    text = "\n".join(_PREFIX.sub("", line) for line in log)
    for pattern, sentence in _KNOWN:
        if found := pattern.search(text):
            said = " ".join((found[1] if pattern.groups else "").split())[:_LONGEST]
            return sentence.format(model=model, said=said)
    return None
