from __future__ import annotations

from typing import Any

import orjson
import pytest

from local_shutdown.errors import UsageError
from local_shutdown.importers.toolnames import tool_mapping
from local_shutdown.importers.transcript import Malformed, Transcript, normalise


def one_call(call: dict[str, Any], mapping: dict[str, str] | None = None) -> Transcript:
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return normalise([message], mapping or {})


def function_of(transcript: Transcript) -> tuple[str, Any]:
    function = transcript.messages[0]["tool_calls"][0]["function"]
    return function["name"], orjson.loads(function["arguments"])


@pytest.mark.parametrize(
    "name",
    ["execute", "shell", "bash_tool", "bash_session", "run_command", "terminal", "Bash", "BASH"],
)
def test_shells_of_other_names_become_bash(name: str) -> None:
    transcript = one_call({"id": "1", "function": {"name": name, "arguments": '{"cmd": "ls"}'}})
    assert function_of(transcript) == ("bash", {"cmd": "ls"})
    assert transcript.renamed == {name: "bash"}


@pytest.mark.parametrize("key", ["cmd", "command", "code", "input", "script"])
def test_the_command_is_called_cmd(key: str) -> None:
    arguments = orjson.dumps({"thoughts": "hm", key: "./next_question"}).decode()
    call = {"id": "1", "function": {"name": "execute", "arguments": arguments}}
    assert function_of(one_call(call))[1] == {"cmd": "./next_question", "thoughts": "hm"}


@pytest.mark.parametrize(
    ("words", "command"),
    [(["bash", "-lc", "ls -la | wc"], "ls -la | wc"), (["echo", "a b"], "echo 'a b'")],
)
def test_an_argv_list_becomes_the_line_a_shell_reads(words: list[str], command: str) -> None:
    call = {"id": "1", "function": {"name": "shell", "arguments": {"command": words}}}
    assert function_of(one_call(call))[1] == {"cmd": command}


def test_a_mapped_name_goes_before_the_defaults() -> None:
    call = {"id": "1", "function": {"name": "run_in_vm", "arguments": "{}"}}
    assert function_of(one_call(call, {"run_in_vm": "bash"}))[0] == "bash"
    assert function_of(one_call({"id": "1", "name": "shell"}, {"shell": "submit"}))[0] == "submit"


def test_another_tool_keeps_its_name_and_is_reported() -> None:
    transcript = one_call({"id": "1", "function": {"name": "browser", "arguments": '{"u":1}'}})
    assert function_of(transcript) == ("browser", {"u": 1})
    assert transcript.unmapped == {"browser"}


def test_arguments_the_model_broke_stay_as_it_wrote_them() -> None:
    transcript = one_call({"id": "1", "function": {"name": "bash", "arguments": '{"cmd": "ls'}})
    assert transcript.messages[0]["tool_calls"][0]["function"]["arguments"] == '{"cmd": "ls'


def test_a_free_form_tool_has_its_input_as_the_command() -> None:
    call = {"id": "1", "type": "custom", "custom": {"name": "shell", "input": "ls -l"}}
    assert function_of(one_call(call)) == ("bash", {"cmd": "ls -l"})


def test_parts_are_joined_to_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image_url"}, "b"]
    (message,) = normalise([{"role": "user", "content": parts}], {}).messages
    assert message == {"role": "user", "content": "a\n[image_url]\nb"}


@pytest.mark.parametrize(
    "message",
    [
        {"content": "x", "reasoning": "why"},
        {"content": "x", "reasoning_content": "why"},
        {"content": "x", "reasoning": "why", "reasoning_content": "why"},
        {
            "content": [
                {"type": "thinking", "thinking": "why", "signature": "s"},
                {"type": "text", "text": "x"},
            ]
        },
        {
            "content": [
                {"type": "reasoning", "reasoning": "why"},
                {"type": "text", "text": "x"},
            ]
        },
        {
            "content": [
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "why"}]},
                {"type": "output_text", "text": "x"},
            ]
        },
        {
            "content": [
                {
                    "type": "reasoning",
                    "reasoning": "ciphertext",
                    "redacted": True,
                    "summary": "why",
                },
                {"type": "text", "text": "x"},
            ]
        },
    ],
)
def test_reasoning_is_kept_wherever_it_stands(message: dict[str, Any]) -> None:
    (found,) = normalise([{"role": "assistant", **message}], {}).messages
    assert found == {"role": "assistant", "content": "x", "reasoning": "why"}


def test_anthropic_blocks_become_calls_and_results() -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "go"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "I call it."},
                {"type": "tool_use", "id": "t1", "name": "bash", "input": {"command": "ls"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t1",
                    "content": [{"type": "text", "text": "out"}],
                },
                {"type": "text", "text": "go on"},
            ],
        },
    ]
    assert normalise(messages, {}).messages == [
        {"role": "user", "content": "go"},
        {
            "role": "assistant",
            "content": "I call it.",
            "tool_calls": [
                {
                    "id": "t1",
                    "type": "function",
                    "function": {"name": "bash", "arguments": '{"cmd":"ls"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "out"},
        {"role": "user", "content": "go on"},
    ]


def test_inspect_messages_are_read() -> None:
    messages = [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c", "function": "execute", "arguments": {"cmd": "ls"}}],
        },
        {
            "role": "tool",
            "content": "",
            "tool_call_id": "c",
            "function": "execute",
            "error": {"type": "timeout", "message": "Command timed out"},
        },
    ]
    call, result = normalise(messages, {}).messages
    assert call["tool_calls"][0]["function"] == {"name": "bash", "arguments": '{"cmd":"ls"}'}
    assert result == {"role": "tool", "tool_call_id": "c", "content": "Command timed out"}


def test_old_function_calls_are_read() -> None:
    messages = [
        {
            "role": "assistant",
            "content": None,
            "function_call": {"name": "shell", "arguments": '{"command": "ls"}'},
        },
        {"role": "function", "name": "shell", "content": "out"},
    ]
    call, result = normalise(messages, {}).messages
    assert result["tool_call_id"] == call["tool_calls"][0]["id"]


def test_results_without_an_id_belong_to_the_calls_in_order() -> None:
    messages = [
        {"role": "assistant", "tool_calls": [{"name": "bash"}, {"name": "bash"}]},
        {"role": "tool", "content": "first"},
        {"role": "tool", "content": "second"},
    ]
    call, first, second = normalise(messages, {}).messages
    assert [call["tool_calls"][at]["id"] for at in (0, 1)] == [
        first["tool_call_id"],
        second["tool_call_id"],
    ]


def test_our_own_format_is_left_as_it_is() -> None:
    messages = [
        {"role": "system", "content": "s"},
        {
            "role": "assistant",
            "content": None,
            "reasoning": "r",
            "tool_calls": [
                {
                    "id": "1",
                    "type": "function",
                    "function": {"name": "bash", "arguments": '{"thoughts": "", "cmd": "ls"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "out"},
    ]
    assert normalise(messages, {}).messages == messages


def test_a_reason_names_the_message() -> None:
    with pytest.raises(Malformed, match=r"messages\[1\] has no role"):
        normalise([{"role": "user", "content": "x"}, {"content": "y"}], {})


def test_map_tool_options_are_read() -> None:
    assert tool_mapping(["run_in_vm=bash", "done = submit"]) == {
        "run_in_vm": "bash",
        "done": "submit",
    }


@pytest.mark.parametrize("pair", ["bash", "=bash", "x=python", "x="])
def test_a_bad_map_tool_option_is_refused(pair: str) -> None:
    with pytest.raises(UsageError, match="--map-tool"):
        tool_mapping([pair])


def test_one_name_cannot_be_mapped_to_both() -> None:
    with pytest.raises(UsageError, match="both"):
        tool_mapping(["x=bash", "x=submit"])
