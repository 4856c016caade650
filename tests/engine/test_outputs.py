"""What vLLM says of a request, as it is told to who asked."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

from inbox_daemon.engine.worker.outputs import field, in_settings, lacks_template, without_place

TOOLS = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'


def test_flags_of_vllms_command_line_are_called_as_the_settings_call_them() -> None:
    assert in_settings(TOOLS) == (
        '"auto" tool choice requires enable_auto_tool_choice and tool_call_parser to be set (settings of [engine.args])'
    )


@pytest.mark.parametrize("sentence", ["a -- dash", "1--2", "x --y", "the text `a--b-c` is no flag", ""])
def test_what_is_no_flag_stays_as_it_is(sentence: str) -> None:
    assert in_settings(sentence) == sentence


def test_a_parameter_of_vllms_is_named_as_the_field_of_the_line_and_one_that_no_line_has_is_not() -> None:
    body = {"temperature": 99, "tool_choice": {}, "messages": []}
    named = ["temperature", "tool_choice.function.name", "messages[0]", "input_tokens", None]
    expected = ["body.temperature", "body.tool_choice.function.name", "body.messages[0]", None, None]
    assert [field(name, body) for name in named] == expected


def test_where_in_its_own_source_a_compiler_failed_and_when_is_not_said() -> None:
    said = 'Failed to transform json schema into a grammar: [08:34:02] <path>:4944: Unsupported type "thing"'
    assert without_place(said) == 'Failed to transform json schema into a grammar: Unsupported type "thing"'
    assert without_place("what [12:00] means: 5") == "what [12:00] means: 5"


def test_a_model_without_a_chat_template_is_known_by_what_the_installed_vllm_says_of_it() -> None:
    vllm = find_spec("vllm")
    assert vllm is not None and vllm.origin is not None
    renderer = Path(vllm.origin).parent / "renderers/hf.py"
    texts = [node.value for node in ast.walk(ast.parse(renderer.read_text())) if isinstance(node, ast.Constant)]
    assert [lacks_template(text) for text in texts if isinstance(text, str)].count(True) == 1
