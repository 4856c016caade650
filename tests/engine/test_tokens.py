"""Prompts are tokenized many to a call, and requests go to the engine in the order in which they came."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from inbox_daemon.engine.worker.tokens import Gathered, speed_up


class _Plain:
    """Options of a prompt with nothing special about it."""

    return_token_offsets = False

    def get_encode_kwargs(self) -> dict[str, Any]:
        return {"add_special_tokens": False}


def _letters(text: str) -> list[int]:
    if "?" in text:
        raise ValueError(f"{text} has no tokens")
    return [ord(letter) for letter in text]


class _Tokenizer:
    """Takes a list of texts, as a Hugging Face tokenizer does; a letter is a token."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, texts: Sequence[str], **options: Any) -> dict[str, list[list[int]]]:
        self.calls.append(len(texts))
        return {"input_ids": [_letters(text) for text in texts]}


def _alone(prompt: Any, params: Any) -> dict[str, Any]:
    return {"prompt_token_ids": _letters(prompt["prompt"]), **prompt}


def _run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 20))


def test_prompts_that_are_ready_together_are_one_call() -> None:
    async def story() -> None:
        tokenizer = _Tokenizer()
        gathered = Gathered(_alone, tokenizer)
        got = await asyncio.gather(*(gathered({"prompt": word}, _Plain()) for word in ("ab", "c", "")))
        assert [one["prompt_token_ids"] for one in got] == [[97, 98], [99], []]
        assert tokenizer.calls == [3]

    _run(story())


def test_a_prompt_that_cannot_be_tokenized_costs_its_neighbours_nothing() -> None:
    async def story() -> None:
        gathered = Gathered(_alone, _Tokenizer())
        asked = [gathered({"prompt": word}, _Plain()) for word in ("ab", "?", "c")]
        first, second, third = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(first, dict) and isinstance(third, dict)
        assert [first["prompt_token_ids"], third["prompt_token_ids"]] == [[97, 98], [99]]
        assert isinstance(second, ValueError) and str(second) == "? has no tokens"
        await gathered.at_most(0)

    _run(story())


def test_whoever_waits_for_tokens_goes_on_before_more_is_begun() -> None:
    """Else the engine has its first request only when thousands have been read."""

    async def story() -> None:
        gathered = Gathered(_alone, _Tokenizer())
        with_engine: list[int] = []

        async def request(number: int) -> None:
            await gathered({"prompt": "word"}, _Plain())
            with_engine.append(number)

        begun = []
        for number in range(1000):
            begun.append(asyncio.create_task(request(number)))
            if number % 10 == 9:
                await asyncio.sleep(0)
                await gathered.at_most(10)
                assert number + 1 - len(with_engine) <= 10
        await asyncio.gather(*begun)
        assert with_engine == list(range(1000))

    _run(story())


class _Renderer:
    """As vLLM's for Hugging Face tokenizers, in a module with the function that applies a template."""

    def __init__(self) -> None:
        self.tokenizer = type("Fast", (), {"is_fast": True})()
        self._tokenize_prompt_async = self._apply_chat_template_async = self.theirs

    async def theirs(self) -> str:
        return "theirs"

    def _tokenize_prompt(self) -> None: ...

    def get_tokenizer(self) -> Any:
        return self.tokenizer


def _template() -> str:
    return "ours"


def test_only_the_renderer_that_a_template_function_is_for_gets_it() -> None:
    ours, theirs = _Renderer(), type("MistralRenderer", (_Renderer,), {"__module__": "vllm.renderers.mistral"})()
    assert speed_up(ours, _template) is not None and speed_up(theirs, _template) is None
    assert asyncio.run(ours._apply_chat_template_async()) == "ours"
    assert asyncio.run(theirs._apply_chat_template_async()) == "theirs"
    assert speed_up(_Renderer(), None) is None


class _Panics(BaseException):
    pass


def test_a_tokenizer_that_panics_costs_the_prompt_and_holds_up_no_other() -> None:
    def alone(prompt: Any, params: Any) -> Any:
        if "?" in prompt["prompt"]:
            raise _Panics("index out of range")
        return _alone(prompt, params)

    class Panicking(_Tokenizer):
        def __call__(self, texts: Sequence[str], **options: Any) -> Any:
            raise _Panics("index out of range")

    async def story() -> None:
        gathered = Gathered(alone, Panicking())
        asked = [gathered({"prompt": word}, _Plain()) for word in ("ab", "?", "c")]
        good, bad, other = await asyncio.gather(*asked, return_exceptions=True)
        assert (good["prompt_token_ids"], other["prompt_token_ids"]) == ([97, 98], [99])
        assert isinstance(bad, RuntimeError) and "_Panics: index out of range" in str(bad)

    _run(story())
