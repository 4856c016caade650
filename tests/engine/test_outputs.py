"""What vLLM says of a request, as it is told to who asked."""

from __future__ import annotations

import pytest

from inbox_daemon.engine.worker.outputs import field, in_settings, without_place

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
