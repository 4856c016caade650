"""What only the network and the driver can say of the settings: can the model be fetched, and what GPUs are there.

Asks Hugging Face for one file's headers and NVML for one sample, each within a deadline. Downloads nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib import util
from pathlib import Path

from inbox_daemon.cli.preflight import Finding, Verdict, arguments
from inbox_daemon.config import Config
from inbox_daemon.config.models import Model, configured
from inbox_daemon.machine import nvml
from inbox_daemon.machine.gpu import ANSWERS_WITHIN, Sampler
from inbox_daemon.records import GpuDevice, GpuState

_HUB_WITHIN = 10.0  # seconds


def thorough(read: Config) -> Iterator[Finding]:
    """Yield what takes the network, the driver, or vLLM itself."""
    found = list(repository(read))
    yield from found
    reached = all(finding.verdict is Verdict.RIGHT for finding in found)
    yield from arguments(read, with_network=reached)
    yield from gpus(read)


def repository(read: Config) -> Iterator[Finding]:
    """Of a model that is a name, whether this host has it or may fetch it."""
    for model in configured(read):
        yield from _repository_of(model)


def _repository_of(model: Model) -> Iterator[Finding]:
    name, said = model.engine.model, model.said
    if model.engine.kind != "vllm" or not name or Path(name).exists() or name.startswith(("/", ".", "~")):
        return
    if util.find_spec("huggingface_hub") is None:
        yield Finding(Verdict.UNKNOWN, f"{said}: huggingface_hub is not installed, so nobody has asked for it")
        return
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

    revision = model.engine.arguments.get("revision")
    if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        yield Finding(Verdict.RIGHT, f"{said}: its configuration is in this host's cache")
        return
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision), timeout=_HUB_WITHIN)
    except GatedRepoError:
        how = f"accept its terms at https://huggingface.co/{name} and give the service a token (etc/docs/service.md)"
        yield Finding(Verdict.WRONG, f"{said}: it is gated: {how}")
    except RepositoryNotFoundError:
        how = "is the name right? A private one needs a token (etc/docs/service.md)"
        yield Finding(Verdict.WRONG, f"{said}: Hugging Face has no such model: {how}")
    except EntryNotFoundError:
        yield Finding(Verdict.UNKNOWN, f"{said}: it has no config.json; vLLM may know it by other files")
    except Exception as error:  # its own kinds, and those of whatever it speaks HTTP by
        why = " ".join(str(error).split())[:200]
        yield Finding(Verdict.NOT_NOW, f"{said}: not in this host's cache, and Hugging Face cannot be reached: {why}")
    else:
        yield Finding(Verdict.RIGHT, f"{said}: Hugging Face has it")


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
