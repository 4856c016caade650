"""`inbox-daemon models check`: of each model, can it be had, does this vLLM know it, is there room. Loads nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import util
from pathlib import Path
from typing import NamedTuple

import orjson

from inbox_daemon.cli import reach, show
from inbox_daemon.cli.preflight import Finding, Verdict
from inbox_daemon.config.models import Model
from inbox_daemon.errors import ConfigError
from inbox_daemon.hub import answers, contents
from inbox_daemon.hub.answers import Had, Seen
from inbox_daemon.hub.asking import parts_of
from inbox_daemon.machine import disk

_VLLM_WITHIN = 180.0  # seconds for importing vLLM, on a cold disk too
_SPEAKS = ("ForCausalLM", "ForConditionalGeneration")  # architectures of models that chat, if they have a template


def check(models: Sequence[Model]) -> int:
    """Say what was found of each model; return the exit status, as `config check` has it."""
    found = [(model, _parts(model)) for model in models]
    known = Known.of([name for _, parts in found for name in architectures(parts[0].seen)])
    worst = set()
    for model, parts in found:
        show.say(f"{model.name}{f' ({model.engine.model})' if model.engine.model != model.name else ''}")
        for finding in _findings(model, parts, known):
            worst.add(finding.verdict)
            show.say(f"  {finding.verdict.value:8} {finding.sentence}")
    if not found:
        show.say("no model is configured: name one in the settings, [engine] model = …")
    return ConfigError.STATUS if Verdict.WRONG in worst else 1 if Verdict.NOT_NOW in worst else 0


class Part(NamedTuple):
    """A model or an adapter: what the settings call it, what was found of it, and whether that is good."""

    named: str
    seen: Seen
    finding: Finding


class Known(NamedTuple):
    """What the vLLM that is installed says of architectures.

    Attributes:
        version: "": nobody could ask it; `why` says why not.
        own, by_transformers: architectures that it has code for, and those that it runs by that of transformers.
    """

    version: str
    own: Sequence[str] = ()
    by_transformers: Sequence[str] = ()
    why: str = ""

    @classmethod
    def of(cls, architectures: Sequence[str]) -> Known:
        """Ask it, in a child, which imports it."""
        if not architectures or util.find_spec("vllm") is None:
            return cls("", why="vLLM is not installed")
        command = [sys.executable, "-P", "-m", "inbox_daemon.engine.worker.architectures"]
        try:
            asked = subprocess.run(
                command, input=orjson.dumps(architectures), capture_output=True, timeout=_VLLM_WITHIN, check=True
            )
            return cls(**orjson.loads(asked.stdout.rstrip().rpartition(b"\n")[2]))
        except (OSError, ValueError, TypeError, subprocess.SubprocessError) as error:
            return cls("", why=f"vLLM could not be asked: {type(error).__name__}")


def _parts(model: Model) -> list[Part]:
    own, *adapters = parts_of(model.engine.model, model.engine.arguments)
    found = [Part(asked.model, *reach.had(asked, contents.ADAPTERS)) for asked in adapters]
    return [Part(own.model, *reach.had(own)), *found]


def _findings(model: Model, parts: Sequence[Part], known: Known) -> Iterator[Finding]:
    own, *adapters = parts
    yield own.finding
    if own.seen.good:
        yield from about(model, own.seen, known)
    for adapter in adapters:
        yield adapter.finding
        if adapter.seen.good:
            yield fits(adapter, model)
    yield from room([part for part in parts if part.seen.had is Had.OFFERED])


def about(model: Model, seen: Seen, known: Known) -> Iterator[Finding]:
    """Yield what a model's own files say of it."""
    if seen.licence:
        yield Finding(Verdict.RIGHT, f"licence: {seen.licence}")
    else:
        yield Finding(Verdict.UNKNOWN, "licence: its files do not say")
    names = architectures(seen)
    if not seen.config:
        yield Finding(Verdict.UNKNOWN, "config.json: none, or one that cannot be read; vLLM may know it by other files")
    elif not names:
        yield Finding(Verdict.UNKNOWN, "config.json: it does not name an architecture")
    elif not known.version:
        yield Finding(Verdict.UNKNOWN, f"config.json: {', '.join(names)}; whether vLLM knows it: {known.why}")
    else:
        yield _architecture(names, known, model.engine.arguments)
    yield from _template(model, seen, names)
    if size := answers.kv_bytes(seen.config, model.engine.arguments):
        weights = f"weights {show.size(seen.weights)}, " if seen.weights else ""
        yield Finding(Verdict.RIGHT, f"memory: {weights}KV cache {show.size(size)} a token, or less")


def architectures(seen: Seen) -> list[str]:
    return [str(name) for name in seen.config.get("architectures") or ()]


def _architecture(names: Sequence[str], known: Known, arguments: Mapping[str, object]) -> Finding:
    said = f"config.json: {', '.join(names)}"
    if any(name in known.own for name in names):
        return Finding(Verdict.RIGHT, f"{said}, which vLLM {known.version} knows")
    if any(name in known.by_transformers for name in names):
        return Finding(Verdict.RIGHT, f"{said}, which vLLM {known.version} runs by transformers' code, more slowly")
    if arguments.get("trust_remote_code"):
        return Finding(Verdict.UNKNOWN, f"{said}, which vLLM {known.version} may run by the code that comes with it")
    why = f"vLLM {known.version} has no code for it; take a newer vLLM, or another model"
    return Finding(Verdict.WRONG, f"{said}: {why}")


def _template(model: Model, seen: Seen, names: Sequence[str]) -> Iterator[Finding]:
    arguments = model.engine.arguments
    if seen.template or arguments.get("chat_template"):
        yield Finding(Verdict.RIGHT, "chat template: it has one")
    elif arguments.get("runner") != "pooling" and any(name.endswith(_SPEAKS) for name in names):
        yield Finding(Verdict.WRONG, f"chat template: {answers.a_base_model(model.engine.model)}")


def fits(adapter: Part, model: Model) -> Finding:
    """Return whether an adapter can be one of this model, by its rank and the model that it was made for."""
    said = f"adapter {adapter.named}"
    try:
        rank = answers.rank(adapter.seen.adapter)
    except (ValueError, TypeError, AttributeError):
        rank = 0
    if not rank:
        return Finding(Verdict.WRONG, f"{said}: adapter_config.json says no rank (r); it is no adapter as PEFT has it")
    most = model.engine.arguments.get("max_lora_rank")
    if isinstance(most, int) and rank > most:
        return Finding(Verdict.WRONG, f"{said}: rank {rank}, and max_lora_rank = {most}; leave that out, or raise it")
    base = str(adapter.seen.adapter.get("base_model_name_or_path") or "")
    ours = {Path(name).name for name in (model.name, model.engine.model)}
    if Path(base).name not in ours:
        made = f"made for {base}" if base else "it does not say for which model it was made"
        return Finding(Verdict.UNKNOWN, f"{said}: rank {rank}, {made}; is that {model.name}?")
    return Finding(Verdict.RIGHT, f"{said}: rank {rank}, made for {base}")


def room(parts: Sequence[Part]) -> Iterator[Finding]:
    """Yield whether there is room for what is to be fetched: of all of it together, where it lies on one disk."""
    needed = sum(part.seen.to_fetch for part in parts)
    if not needed:
        return
    lies = next(folder for folder in Path(parts[0].seen.store).parents if folder.exists())
    free = disk.use(lies)[1]
    said = f"disk: {show.size(needed)} to fetch into {Path(parts[0].seen.store).parent}, {show.size(free)} are free"
    lacking = disk.lacking(lies, needed)
    yield Finding(Verdict.NOT_NOW, f"{said}: make room") if lacking else Finding(Verdict.RIGHT, said)
