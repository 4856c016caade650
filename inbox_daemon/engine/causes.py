"""Why an engine could not be loaded, where loading it again cannot help: the cause and the operator's next step.

Pure. Reads the last lines of an engine that ended while it loaded, in the words of vLLM, transformers and
huggingface_hub. Why the hub did not give a model the worker has found out for itself (`worker/refusals`); its words are
read where nobody could ask. What is not known may pass, as a network does that is down or a GPU that somebody else has
filled: then the engine is started again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from inbox_daemon.config.models import Model
from inbox_daemon.hub.answers import Had, sentence

_LONGEST = 300
_EXCEPTION = re.compile(r"\b(?:[a-zA-Z_]\w*\.)*[A-Z]\w*(?:Error|Exception): .+")
_POINTS_AT_ANOTHER = re.compile(r"EngineDeadError|[Ss]ee root cause above|may quote a request")
_WORDS_LIMIT = 400


def _hub(had: Had) -> str:
    return sentence(had, "{model}")


# What the log says, and what it means: {model}; {said}, the first group of the pattern; which {setting} names it, and
# where its {args} are.
_CAUSES = (
    (r"401 Client Error.*gated repo|gated repo.*401 Client Error", _hub(Had.NO_TOKEN)),
    (r"403 Client Error.*gated repo|gated repo.*403 Client Error", _hub(Had.NOT_GRANTED)),
    (r"is not a valid model identifier|RepositoryNotFoundError|Repository Not Found", _hub(Had.NOT_FOUND)),
    (r"RevisionNotFoundError|is not a valid git identifier", _hub(Had.NO_REVISION)),
    (r"outgoing traffic has been disabled|OfflineModeIsEnabled", _hub(Had.SHUT_OFF)),
    (
        r"(model type `[^`]*` but Transformers does not recognize|[Aa]rchitectures? \[.*?\] (?:are|is|failed)[^.]*)",
        "this vLLM has no code for {model}: {said}; take a newer vLLM, or another model",
    ),
    (
        r"(config file at '[^']*' is not a valid JSON file|Cannot find any model weights|does not appear to have a file"
        r" named [^.]*\.\w+|Can't load tokenizer for '[^']*'|Invalid repository ID or local directory)",
        "{model} is not whole: {said}; fetch it again, or name another folder in {setting}",
    ),
    (
        r"(To serve at least one request with the models?'s max seq len[^.]*?(?=, which|\.|$)"
        r"|No available memory for the cache blocks|is larger than the available KV cache memory)",
        "the engine has not enough memory for {model} with these settings: {said}; set a smaller max_model_len, or "
        "more memory (gpu_memory_utilization; on a CPU VLLM_CPU_KVCACHE_SPACE), in {args}",
    ),
    (
        r"(LoRA rank \d+ is greater than max_lora_rank[^.]*|No adapter found for \S+"
        r"|LoRAAdapterNotFoundError[^\n]*|Loading lora \S+ failed[^\n]*|target modules? [^\n]*LoRA[^\n]*)",
        "an adapter of {args} lora_modules cannot be loaded: {said}",
    ),
    (
        r"((?:Reasoning|Tool) parser '[^']*' not found|invalid (?:tool call|reasoning) parser: \S+)",
        "{args}: {said}; vLLM's own list of them is in its documentation",
    ),
    (
        r"ValidationError: .*?Value error, (.+?)(?:\. |\.?\s*\[type=)",
        "vLLM does not accept {args} for {model}: {said}",
    ),
    (
        r"([Bb][Ff]loat16 is only supported on GPUs[^.]*|The quantization method [^.]*is not supported[^.]*)",
        "{said}: set another dtype or quantization in {args}",
    ),
)
_KNOWN = tuple((re.compile(pattern, re.DOTALL), sentence) for pattern, sentence in _CAUSES)
_PREFIX = re.compile(r"^(?:\(\w+ pid=\d+\) )?(?:[A-Z]+ \d\d-\d\d [\d:.]+ \[[^\]]*\] ?)?")


def lasting(log: Sequence[str], model: Model) -> str | None:
    """Return what is to be done about an engine that ended while it loaded; None where trying again may help.

    Args:
        log: its last lines, oldest first.
        model: which it was to load.
    """
    text = "\n".join(_PREFIX.sub("", line) for line in log)
    for pattern, cause in _KNOWN:
        if found := pattern.search(text):
            said = " ".join((found[1] if pattern.groups else "").split())[:_LONGEST]
            setting = f"{model.table}.path" if model.table else "engine.model"
            return cause.format(model=model.engine.model, said=said, setting=setting, args=model.said_of_args)
    return None


def last_words(log: Sequence[str]) -> str:
    """Return the last exception in the log of a process that ended, or "". One that only points at another is none."""
    for at in range(len(log) - 1, -1, -1):
        found = _EXCEPTION.search(log[at])
        if found and not _POINTS_AT_ANOTHER.search(found[0]):
            lines = 3 if "ValidationError" in found[0] else 1  # what pydantic found wrong stands below its own line
            return " ".join([found[0], *(line.strip() for line in list(log)[at + 1 : at + lines])])[:_WORDS_LIMIT]
    return ""
