"""`[engine.args]` as vLLM reads them: by its own parser and, where the model is at hand, by its own configuration.

Run as a program (`python -m inbox_daemon.engine.worker.arguments`, what the worker would be told on stdin) it says
whether vLLM accepts them, without an engine and without a GPU: exit status 78 where it does not, why on stderr.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from argparse import Namespace
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson
import vllm
from pydantic import ValidationError
from vllm.engine.arg_utils import AsyncEngineArgs, EngineArgs
from vllm.platforms import current_platform
from vllm.reasoning import ReasoningParserManager
from vllm.usage.usage_lib import UsageContext

try:  # since 0.29
    from vllm.entrypoints.launchers import run_batch as runner
except ImportError:
    from vllm.entrypoints.openai import run_batch as runner

try:
    from vllm.utils.argparse_utils import FlexibleArgumentParser
except ImportError:
    from vllm.utils import FlexibleArgumentParser

try:
    from vllm.tool_parsers import ToolParserManager
except ImportError:
    from vllm.entrypoints.openai.tool_parsers import ToolParserManager

from inbox_daemon.engine import placement
from inbox_daemon.engine.worker import adapters, cpu_memory, grammars, graphs
from inbox_daemon.engine.worker.outputs import first_problem
from inbox_daemon.machine import host

EXIT_CONFIG = 78


def read(options: Mapping[str, Any]) -> Namespace:
    """Return what vLLM is to be started with, of what `local` tells a worker.

    Exits with 78 where vLLM does not know or accept an argument.
    """
    settings = dict(options["args"])
    if placement.are_ours(settings):
        settings.pop("data_parallel_size", None)
    defaults = _defaults(options["model"], settings)
    if options["sleeps"] and current_platform.is_cuda():
        defaults["enable_sleep_mode"] = True
    args = parse(options["model"], defaults | settings)
    vars(args).update(options["rules"])  # not as flags: releases before 0.32 do not have all of them
    grammars.settle(args.structured_outputs_config)
    if why := adapters.problem(settings, current_platform.is_cuda_alike()):
        print(f"[engine.args] {why}", file=sys.stderr)
        raise SystemExit(EXIT_CONFIG)
    _take_in_plugins(args)
    runner.validate_run_batch_args(args)
    return args


def _defaults(model: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that this host and our way of feeding the engine make better than vLLM's own defaults."""
    chosen: dict[str, Any] = {"scheduling_policy": "priority"}  # so that `Request.turn` decides who waits
    if current_platform.is_cuda_alike():
        seats = settings.get("max_num_seqs") or EngineArgs.get_batch_defaults(1)[1][UsageContext.LLM_CLASS]
        if sizes := graphs.sizes(int(seats), settings):
            chosen["cudagraph_capture_sizes"] = sizes
    elif current_platform.is_cpu():
        taken, whole = host.memory()
        weights = lambda: placement.weights_of(model, settings.get("revision"))  # noqa: E731
        if size := cpu_memory.for_kv_cache(settings, os.environ, whole - taken, weights):
            chosen["kv_cache_memory_bytes"] = size
            os.environ.pop(cpu_memory.DECIDED_BY, None)  # there and empty it is no number to vLLM
    return chosen | adapters.arguments(settings, current_platform.is_cuda_alike())


def _take_in_plugins(args: Namespace) -> None:
    """Have vLLM know the parsers that files of the user's add, as its server does and its batch runner does not.

    Exits with 78 where such a file cannot be read.
    """
    for name, parsers in (
        ("tool_parser_plugin", ToolParserManager),
        ("reasoning_parser_plugin", ReasoningParserManager),
    ):
        if not (path := getattr(args, name, None)):
            continue
        if not Path(path).is_file() and not find_spec(path):  # vLLM would write a line into its log, and go on
            print(f"[engine.args] {name} = {path!r}: there is no such file or module", file=sys.stderr)
            raise SystemExit(EXIT_CONFIG)
        getattr(parsers, f"import_{name.removesuffix('_plugin')}")(path)


def parse(model: str, settings: Mapping[str, Any]) -> Namespace:
    """Read `[engine.args]` with vLLM's own argument parser; exits with 78 where vLLM does not know or accept one."""
    flags = ["--input-file", "unused", "--output-file", "unused", "--model", model, "--enable-prompt-tokens-details"]
    for key, value in settings.items():
        flag = "--" + key.replace("_", "-")
        if value is True:
            flags.append(flag)
        elif value is False:
            flags.append("--no-" + flag[2:])
        elif isinstance(value, list):
            flags += [flag, *map(_text, value)]
        else:
            flags += [flag, _text(value)]
    said = io.StringIO()  # a thousand lines of usage, and in the last of them what is wrong
    try:
        with contextlib.redirect_stderr(said):
            parsed: Namespace = runner.make_arg_parser(FlexibleArgumentParser()).parse_args(flags)
    except SystemExit as refused:
        problem = said.getvalue().rpartition("error: ")[2].strip()
        print(f"vLLM {vllm.__version__} does not accept [engine.args]: {problem}", file=sys.stderr)
        raise SystemExit(EXIT_CONFIG) from refused
    return parsed


def _text(value: Any) -> str:
    return orjson.dumps(value).decode() if isinstance(value, dict) else str(value)


def refused(args: Namespace) -> str:
    """Return why vLLM would not make an engine of the model with these arguments; "" where it would try.

    Reads the model's configuration, from Hugging Face where it is not on this host.
    """
    try:
        AsyncEngineArgs.from_cli_args(args).create_engine_config(UsageContext.LLM_CLASS)
    except ValidationError as error:
        where, _, why = first_problem(error).partition(": ")
        why = why.removeprefix("Value error, ").partition(". ")[0]  # some go on for a page
        return f"{where}: {why}" if where else why
    return ""


def main() -> None:
    """Say whether vLLM accepts what is told on stdin; look at the model too where it is told to."""
    options = orjson.loads(sys.stdin.buffer.read())
    args = read(options)
    if options["with_model"] and (why := refused(args)):
        print(f"vLLM {vllm.__version__} does not accept [engine.args] for {args.model}: {why}", file=sys.stderr)
        raise SystemExit(EXIT_CONFIG)


if __name__ == "__main__":
    main()
