"""What vLLM says of a request, as it is told to who asked."""

from __future__ import annotations

import pytest

from inbox_daemon.engine.worker.outputs import in_settings

TOOLS = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'


def test_flags_of_vllms_command_line_are_called_as_the_settings_call_them() -> None:
    assert in_settings(TOOLS) == (
        '"auto" tool choice requires enable_auto_tool_choice and tool_call_parser to be set (settings of [engine.args])'
    )


@pytest.mark.parametrize("sentence", ["a -- dash", "1--2", "x --y", "the text `a--b-c` is no flag", ""])
def test_what_is_no_flag_stays_as_it_is(sentence: str) -> None:
    assert in_settings(sentence) == sentence
