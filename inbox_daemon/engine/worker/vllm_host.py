"""vLLM inside the worker: with `arguments`, `grammars` and `serving` all that imports vllm.

Built on the parts of vLLM's own offline batch runner (vllm/entrypoints/.../run_batch.py, 0.26 to 0.33), so every
endpoint it serves works here, in its wire form. Never sends, never decides what runs next.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import traceback
from argparse import Namespace
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
import vllm
from pydantic import ValidationError
from vllm.envs import enable_envs_cache
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext

try:  # since 0.29
    from vllm.entrypoints.launchers import run_batch as runner
    from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
except ImportError:
    from vllm.entrypoints.openai import run_batch as runner
    from vllm.entrypoints.openai.api_server import build_async_engine_client

try:
    from vllm.renderers.hf import safe_apply_chat_template
except ImportError:
    safe_apply_chat_template = None

from inbox_daemon.engine import placement
from inbox_daemon.engine.worker import (
    arguments,
    coreless,
    counters,
    grammars,
    numbers,
    outputs,
    refusals,
    serving,
    tokens,
    words,
)
from inbox_daemon.engine.worker.arguments import EXIT_CONFIG
from inbox_daemon.engine.worker.asked import Asked, Watch
from inbox_daemon.hub import answers
from inbox_daemon.machine import nvml
from inbox_daemon.records import EngineStats, Fault, Outcome, Request
from inbox_daemon.request.output import answer_line, error_line

_SURE_AFTER = 1.0  # seconds for vLLM to notice that its EngineCore is gone


class VllmHost:
    def __init__(
        self,
        client: Any,
        handlers: Mapping[str, serving.Handler | None],
        args: Namespace,
        gathered: tokens.Gathered | None,
    ) -> None:
        self._client = client
        self._gathered = gathered
        self._handlers = handlers
        self._config = client.vllm_config
        self._served = _served_name(args)
        self._adapters = frozenset(one.name for one in args.lora_modules or ())
        self._counters = counters.put_into(client)
        self._watch = Watch(client)
        self._has_said = False  # that the model computes what is no number
        self._grammars = grammars.Grammars(self._config)
        self._by_turn = self._config.scheduler_config.policy == "priority"

    @classmethod
    def places(cls, options: Mapping[str, Any]) -> list[str]:
        """Return the GPUs of each replica that this host is to have, as CUDA_VISIBLE_DEVICES names them, or "".

        Exits with 78 where the settings ask for more GPUs than there are.
        """
        settings = options["args"]
        visible: list[str] = []
        if current_platform.is_cuda_alike():
            there = current_platform.device_count()  # CUDA goes by the list up to the first name that it does not know
            named = os.environ.get(placement.VISIBLE, "")
            visible = named.split(",")[:there] if named else [str(at) for at in range(there)]
        several = range(len(visible)) if len(visible) > 1 else []
        memory = [current_platform.get_device_total_memory(at) for at in several]

        def weights() -> int | None:
            if (size := placement.weights_of(options["model"], settings.get("revision"))) is None:
                print(f"inbox-daemon: nothing says how large the weights are; only one of {len(visible)} GPUs is used")
            return size

        try:
            places = placement.share_out(placement.count(weights, memory, settings), visible, settings)
        except (ValueError, TypeError) as error:
            print(f"[engine.args] data_parallel_size, or what else says which GPUs: {error}", file=sys.stderr)
            raise SystemExit(EXIT_CONFIG) from error
        if len(places) > 1 and places[0]:
            print(f"inbox-daemon: {len(places)} replicas of the model, on GPUs {' | '.join(places)}")
            os.environ[placement.VISIBLE] = places[0]
        return places

    @classmethod
    @asynccontextmanager
    async def load(cls, options: Mapping[str, Any]) -> AsyncIterator[VllmHost]:
        """Build vLLM's engine client; the context's end shuts it down.

        LLM_CLASS makes vLLM choose its offline defaults for the GPU at hand; OPENAI_BATCH_RUNNER would mean
        max_num_seqs 128 on any GPU.
        """
        words.watch_over_loggers()
        args = arguments.read(options)
        # Without it, what is no number is answered with whatever it happens to mean.
        os.environ.setdefault("VLLM_COMPUTE_NANS_IN_LOGITS", "1")
        if hasattr(runner, "ignore_admission_limits"):
            runner.ignore_admission_limits(args)
        building = build_async_engine_client(args, usage_context=UsageContext.LLM_CLASS)
        async with AsyncExitStack() as stack:
            with refusals.told_apart(options["model"], options["args"]):
                made = building if options["computes"] else coreless.without_engine(building)
                client = await stack.enter_async_context(made)
                handlers = await serving.handlers(client, args)
            renderer = getattr(client, "renderer", None)
            gathered = tokens.speed_up(renderer, safe_apply_chat_template) if renderer else None
            _spare_the_collector()
            enable_envs_cache()  # vLLM looks its environment up anew for every token
            words.begin()
            yield cls(client, handlers, args, gathered)

    def describe(self) -> dict[str, Any]:
        """Return what `records.EngineInfo` holds, less the load time."""
        scheduler, cache, model = self._config.scheduler_config, self._config.cache_config, self._config.model_config
        parallel = self._config.parallel_config
        replicas = parallel.data_parallel_size  # 1, but where vLLM makes them itself
        max_seqs = scheduler.max_num_seqs * replicas
        settings = {
            "max_num_seqs": scheduler.max_num_seqs,
            "max_num_batched_tokens": scheduler.max_num_batched_tokens,
            "max_model_len": model.max_model_len,
            "dtype": str(model.dtype).removeprefix("torch."),
            "quantization": model.quantization,
            "kv_cache_dtype": str(cache.cache_dtype),
            "enable_prefix_caching": cache.enable_prefix_caching,
            "gpu_memory_utilization": cache.gpu_memory_utilization,
            "tensor_parallel_size": parallel.tensor_parallel_size,
            "data_parallel_size": parallel.data_parallel_size,
            "enforce_eager": model.enforce_eager,
            "revision": model.revision,
            "adapters": sorted(self._adapters),
            "enable_sleep_mode": bool(getattr(model, "enable_sleep_mode", False)),
        }
        return {
            "kind": "vllm",
            "version": vllm.__version__,
            "model": self._served,
            "in_flight": max(2 * max_seqs, max_seqs + 512),
            "max_seqs": max_seqs,
            "settings": settings,
            "gpus": _gpus(parallel.world_size * replicas),
            "replicas": replicas,
            "weights_bytes": placement.weights_here(model.model, model.revision),
        }

    @property
    def dead(self) -> bool:
        return bool(self._client.errored)

    async def caught_up(self, count: int) -> None:
        """Wait until at most `count` of the requests begun are on their way to the engine and not with it yet."""
        if self._gathered:
            await self._gathered.at_most(count)

    async def answer(self, request: Request) -> Outcome | None:
        """Compute one request; None when it has no outcome because the engine is dead."""
        parsed = orjson.loads(request.line)
        # The daemon has checked what the user's name may mean; `model` says which, where it is an adapter.
        parsed["body"]["model"] = request.model if request.model in self._adapters else self._served
        if self._by_turn:
            parsed["body"]["priority"] = request.turn
        try:
            return await self._compute(request, parsed)
        except Exception as error:  # whatever vLLM raises unforeseen costs this request, and never leaves it waiting
            traceback.print_tb(error.__traceback__)  # without the message, which may quote the prompt
            return self._refused(request, parsed, 500, "engine_error", f"{type(error).__name__}: {error}")

    async def _compute(self, request: Request, parsed: Any) -> Outcome | None:
        handler = self._handlers.get(parsed["url"])
        if handler is None:
            sentence = f"{parsed['body']['model']} does not serve {parsed['url']}"
            return self._refused(request, parsed, 400, "unsupported_endpoint", sentence)
        try:
            line = serving.read(parsed)
        except ValidationError as error:
            problem, param = outputs.first_problem(error), outputs.first_field(error)
            return self._refused(request, parsed, 400, "invalid_request", problem, param)
        except Exception as error:  # vLLM's own validators raise what they like, and pydantic lets it through
            known = type(error).__module__.startswith("vllm")
            sentence = str(error) if known else f"body: vLLM cannot read it ({type(error).__name__}: {error})"
            param = outputs.field(getattr(error, "parameter", None), parsed["body"])
            return self._refused(request, parsed, 400, "invalid_request", sentence, param)
        with self._watch.request() as asked:
            response = await serving.respond(handler, line.body)
            if self._watch.has_no_numbers(asked):
                return self._without_numbers(request, parsed)
        if coreless.is_all(asked, response, parsed["url"]):
            return await self._not_computed(request, parsed, asked)
        answer, output = await serving.understood(response, line)
        if numbers.lacking(response, answer, parsed["body"]):
            return self._without_numbers(request, parsed)
        if answer is not None and not outputs.aborted(answer):
            return outputs.answered(request, parsed["custom_id"], answer)
        status, code, sentence, param = outputs.why(output)
        if outputs.lacks_template(sentence):
            return self._refused(request, parsed, 400, "model_mismatch", answers.a_base_model(self._served))
        if status is None or status >= 500 or parsed["url"].startswith("/v1/audio/"):  # 400, whatever has happened
            # An engine that is dying blames its requests first. Wait until it would be known to be dead.
            await asyncio.sleep(_SURE_AFTER)
            if self.dead:
                return None
            if reason := await self._fault_of_request(asked, response, status, sentence):
                status, code, sentence = 400, "invalid_request", reason
        param = outputs.field(param, parsed["body"])
        return self._refused(request, parsed, status, code, grammars.with_hint(sentence), param)

    async def _fault_of_request(self, asked: Asked, response: Any, status: int | None, sentence: str) -> str | None:
        """Say what is wrong with a request for which vLLM blames the engine; None where it is the engine's fault."""
        if asked.ids:
            return await self._grammars.fault(asked.params) if status == 500 else None
        if status == 501:  # not implemented, now or later
            return sentence
        if outputs.is_of_content(response):
            return f"body: vLLM cannot read it ({type(response).__name__}: {response})"
        return None

    async def _not_computed(self, request: Request, parsed: Any, asked: Asked) -> Outcome:
        """Answer a request against which vLLM has nothing, where no engine is there: with nothing."""
        if asked.params is not None and (why := await self._grammars.fault(asked.params, has_failed=False)):
            return self._refused(request, parsed, 400, "invalid_request", grammars.with_hint(why))
        return Outcome(request.ticket, answer_line(request.id, parsed["custom_id"], b"null"), is_error=False)

    def _without_numbers(self, request: Request, parsed: Any) -> Outcome:
        if not self._has_said:
            self._has_said = True
            words.say(numbers.SENTENCE)
        return self._refused(request, parsed, None, "engine_error", numbers.SENTENCE)

    async def sleep(self) -> None:
        """Move the weights into the host's memory and drop the KV cache.

        Level 2 would answer nonsense after waking, and any mode but "keep" would end a request that is still there.
        """
        await self._client.sleep(level=1, mode="keep")

    async def wake(self) -> None:
        await self._client.wake_up()

    def stats(self) -> EngineStats:
        return self._counters.stats()

    def _refused(
        self, request: Request, parsed: Any, status: int | None, code: str, sentence: str, param: str | None = None
    ) -> Outcome:
        fault = Fault(code, sentence, param, parsed["custom_id"])
        return Outcome(request.ticket, error_line(request.id, fault, request.number, status), is_error=True)


def _gpus(count: int) -> list[str]:
    """Name the GPUs that an engine of so many computes on; [] on a CPU. Asks without a CUDA context of its own."""
    if not current_platform.is_cuda_alike():
        return []
    driver = f" (driver {known})" if (known := nvml.driver()) else ""
    there = min(count, current_platform.device_count())
    return [f"{current_platform.get_device_name(at)}{driver}" for at in range(there)]


def _spare_the_collector() -> None:
    """Keep what loading made out of every later collection: a full one walks millions of objects for 200 ms."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _served_name(args: Namespace) -> str:
    served = getattr(args, "served_model_name", None)
    return str(served[0] if isinstance(served, list) and served else served or args.model)
