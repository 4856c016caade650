"""What only the network and the driver can say of the settings: can the model be fetched, and what GPUs are there.

Has Hugging Face asked for what describes a model and NVML for one sample, each within a deadline. Fetches no weights.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from inbox_daemon.cli.preflight import Finding, Verdict, arguments, folder_at
from inbox_daemon.config import Config
from inbox_daemon.config.models import Model, configured
from inbox_daemon.hub import contents
from inbox_daemon.hub.answers import Had, Seen
from inbox_daemon.hub.asking import Asked, look, parts_of
from inbox_daemon.machine import nvml
from inbox_daemon.machine.gpu import ANSWERS_WITHIN, Sampler
from inbox_daemon.records import GpuDevice, GpuState


def thorough(read: Config) -> Iterator[Finding]:
    """Yield what takes the network, the driver, or vLLM itself."""
    found = list(repository(read))
    yield from found
    reached = all(finding.verdict is Verdict.RIGHT for finding in found)
    yield from arguments(read, with_network=reached)
    yield from gpus(read)


def repository(read: Config) -> Iterator[Finding]:
    """Of each model and each adapter that is a name, whether this host has it or may fetch it."""
    for model in configured(read):
        yield from _repository_of(model)


def _repository_of(model: Model) -> Iterator[Finding]:
    if model.engine.kind != "vllm" or not model.engine.model:
        return
    for asked in parts_of(model.engine.model, model.engine.arguments):
        if not contents.is_path(asked.model):
            said = model.said if asked.model == model.engine.model else f"{model.said_of_args} lora_modules"
            _, finding = had(asked)
            yield Finding(finding.verdict, f"{said}: {finding.sentence}")


def had(asked: Asked, described: Sequence[str] = contents.MODELS) -> tuple[Seen, Finding]:
    """Return what is known of a model or an adapter, and whether it can be had.

    Args:
        described: the files of which it must have one.
    """
    if contents.is_path(asked.model):
        finding = folder_at(asked.model, asked.model, described)
        if finding.verdict is not Verdict.RIGHT:
            return Seen(Had.NOT_HERE), finding
    seen = look([asked])[0]
    sentence = seen.sentence(asked.model)
    if seen.lasting:
        return seen, Finding(Verdict.WRONG, sentence)
    if not seen.good:
        return seen, Finding(Verdict.UNKNOWN if seen.had is Had.NO_LIBRARY else Verdict.NOT_NOW, sentence)
    if seen.why:
        return seen, Finding(Verdict.WRONG, f"{sentence} and not whole: {seen.why} is lacking; fetch it again")
    if not seen.files.keys() & set(described):
        return seen, Finding(Verdict.UNKNOWN, f"{sentence}, without {described[0]}; vLLM may know it by other files")
    return seen, Finding(Verdict.RIGHT, sentence)


def gpus(read: Config) -> Iterator[Finding]:
    """What NVML says at this moment."""
    if read.engine.kind != "vllm":
        return
    sampler, until = Sampler(1.0, nvml.present), time.monotonic() + ANSWERS_WITHIN
    try:
        while not (seen := sampler.look(time.monotonic(), time.time())).at and time.monotonic() < until:
            time.sleep(0.05)
    finally:
        sampler.stop()
    for device in seen.devices:
        yield Finding(Verdict.RIGHT, f"GPU {device.index}: {device.name}{_held(device)}")
    if seen.state is GpuState.ABSENT:
        yield Finding(Verdict.UNKNOWN, "GPU: this host has none of NVIDIA's; vLLM's CPU build needs none")
    elif seen.state is not GpuState.OK:
        yield Finding(Verdict.NOT_NOW, f"GPU: {seen.problem or 'NVML does not answer'}; what does nvidia-smi say?")


def _held(device: GpuDevice) -> str:
    if device.memory_used_bytes is None or device.memory_total_bytes is None:
        return ""
    return f", {device.memory_used_bytes / 1e9:.1f} of {device.memory_total_bytes / 1e9:.1f} GB in use"
