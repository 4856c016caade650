"""Many prompts to a tokenizer's call, away from the event loop: what short answers spend most of their time on.

vLLM's renderer hands each prompt to a thread and back, twice: once for the chat template, once for the tokenizer.
Owns the gathering of prompts and nothing else; what a token is stays the tokenizer's own business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_IDS_ONLY = {"return_attention_mask": False, "return_token_type_ids": False}  # each a list as long as the prompt
_MOST = 256  # prompts to a call; a few milliseconds of the tokenizer's own threads


class Gathered:
    """Stands in for `renderer._tokenize_prompt_async` (vLLM 0.26 to 0.33): same arguments, same result.

    Args:
        one: `renderer._tokenize_prompt`, for what is not plain text with plain options, and for a call that failed:
            each prompt then gets its own error.
        tokenizer: a Hugging Face tokenizer; takes a list of texts.
    """

    def __init__(self, one: Callable[[Any, Any], Any], tokenizer: Callable[..., Any]) -> None:
        self._one = one
        self._tokenizer = tokenizer
        self._pending: list[tuple[Mapping[str, Any], Any, asyncio.Future[Any]]] = []
        self._unfinished = 0  # prompts without their tokens; while there are any, the next call is on its way
        self._delivered = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")

    async def at_most(self, count: int) -> None:
        """Wait until no more than `count` prompts lack their tokens; whoever got some goes on before the caller."""
        while self._unfinished > count:
            self._delivered.clear()
            await self._delivered.wait()

    def __call__(self, prompt: Mapping[str, Any], params: Any) -> Awaitable[Any]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        self._pending.append((prompt, params, done))
        if not self._unfinished:
            loop.call_soon(self._next, loop)  # not before everything that is ready now has asked, too
        self._unfinished += 1
        return done

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        batch, self._pending = self._pending[:_MOST], self._pending[_MOST:]
        if not batch:
            return
        asked = [(prompt, params) for prompt, params, _ in batch]
        answer = loop.run_in_executor(self._thread, self._tokenize, asked)

        def deliver(tokenized: asyncio.Future[list[Any]]) -> None:
            for (_, _, done), result in zip(batch, tokenized.result(), strict=True):
                if done.cancelled():
                    continue
                if isinstance(result, BaseException):
                    done.set_exception(result)
                else:
                    done.set_result(result)
            self._unfinished -= len(batch)
            self._delivered.set()
            self._next(loop)

        answer.add_done_callback(deliver)

    def _tokenize(self, asked: list[tuple[Mapping[str, Any], Any]]) -> list[Any]:
        """Return, for each prompt, what `one` would: itself with its token ids, or the exception."""
        results: list[Any] = [None] * len(asked)
        alike: dict[str, list[int]] = {}
        for at, (prompt, params) in enumerate(asked):
            if getattr(params, "return_token_offsets", False):
                results[at] = self._alone(prompt, params)
            else:
                alike.setdefault(repr(params.get_encode_kwargs()), []).append(at)
        for places in alike.values():
            options = asked[places[0]][1].get_encode_kwargs()
            try:
                texts = [asked[at][0]["prompt"] for at in places]
                ids = self._tokenizer(texts, **options, **_IDS_ONLY)["input_ids"]
                for at, tokens in zip(places, ids, strict=True):
                    results[at] = {"prompt_token_ids": tokens, **asked[at][0]}
            except BaseException:  # as a panic of the tokenizer's Rust is
                for at in places:
                    results[at] = self._alone(*asked[at])
        return results

    def _alone(self, prompt: Mapping[str, Any], params: Any) -> Any:
        try:
            return self._one(prompt, params)
        except Exception as error:
            return error
        except BaseException as error:
            return RuntimeError(f"{type(error).__name__}: {error}")


def on_the_spot(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """Return `function` as a coroutine that computes at once: a thread would need the same interpreter lock."""

    async def computed(*arguments: Any, **options: Any) -> Any:
        return function(*arguments, **options)

    return computed


def speed_up(renderer: Any, apply_template: Callable[..., Any] | None) -> Gathered | None:
    """Have a renderer of vLLM gather its prompts, where it is one that can, and return what gathers them.

    Mistral's and DeepSeek's have attributes of the same names that take other arguments; they are left alone.

    Args:
        apply_template: vLLM's own `safe_apply_chat_template`, which stands beside the renderer that it is for.
    """
    if apply_template is None or type(renderer).__module__ != apply_template.__module__:
        return None
    tokenizer = getattr(renderer, "tokenizer", None)
    if not getattr(tokenizer, "is_fast", False) or not hasattr(renderer, "_tokenize_prompt_async"):
        return None
    gathered = renderer._tokenize_prompt_async = Gathered(renderer._tokenize_prompt, renderer.get_tokenizer())
    if hasattr(renderer, "_apply_chat_template_async"):
        renderer._apply_chat_template_async = on_the_spot(apply_template)
    return gathered
