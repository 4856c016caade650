#!/usr/bin/env python3
"""vLLM by hand, as `compare.py` times it: one `LLM`, and for each file that stdin names one call of `LLM.chat`.

Argument: a JSON object of engine arguments. A line of stdin: {"input": FILE, "output": FILE}. Says what it did in lines
that begin with PEER. The answers are written once the call is over, as a careful user would.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    from vllm import LLM

    model = LLM(**json.loads(sys.argv[1]))
    say({"ready": True})
    for line in sys.stdin:
        say(answer(model, **json.loads(line)))


def answer(model: Any, input: str, output: str) -> dict[str, Any]:
    """Answer one file; the clock runs from the first request's reading to the call, during it, and while writing."""
    from vllm import SamplingParams

    began = time.monotonic()
    with Path(input).open("rb") as file:
        bodies = [json.loads(line)["body"] for line in file]
    conversations = [body["messages"] for body in bodies]
    wanted = [
        SamplingParams(temperature=b["temperature"], max_tokens=b["max_tokens"], ignore_eos=b["ignore_eos"])
        for b in bodies
    ]
    called = time.monotonic()
    answers = model.chat(conversations, wanted, use_tqdm=False)
    over = time.monotonic()
    with Path(output).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": one.outputs[0].text}) + "\n" for one in answers)
    return {
        "answers": len(answers),
        "reading": called - began,
        "call": over - called,
        "writing": time.monotonic() - over,
        "input_tokens": sum(len(one.prompt_token_ids) for one in answers),
        "cached_tokens": sum(one.num_cached_tokens or 0 for one in answers),
        "output_tokens": sum(len(one.outputs[0].token_ids) for one in answers),
    }


def say(what: dict[str, Any]) -> None:
    print("PEER " + json.dumps(what), flush=True)


if __name__ == "__main__":  # vLLM starts processes of its own by importing this file again
    main()
