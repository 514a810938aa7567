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


def assistant(**more: Any) -> dict[str, Any]:
    (found,) = normalise([{"role": "assistant", **more}], {}).messages
    return found


def test_each_role_becomes_one_of_ours() -> None:
    names = {
        "system": "system", "developer": "developer", "user": "user", "human": "user",
        "assistant": "assistant", "ai": "assistant", "model": "assistant", "tool": "tool",
        "function": "tool",
    }  # fmt: skip
    made = normalise([{"role": name, "content": "x"} for name in names], {}).messages
    assert [m["role"] for m in made] == list(names.values())
    for wrong in ("critic", "User", 5, ["user"], {}):
        with pytest.raises(Malformed, match=r"^messages\[1\]\.role is ") as refused:
            normalise([{"role": "user"}, {"role": wrong}], {})
        assert repr(wrong) in str(refused.value)


def test_results_go_to_the_calls_that_wait_for_one() -> None:
    def calls(*ids: str) -> dict[str, Any]:
        return {"role": "assistant", "tool_calls": [{"id": i, "name": "bash"} for i in ids]}

    def results(*messages: dict[str, Any]) -> list[tuple[str, str]]:
        made = normalise(messages, {}).messages
        return [(m["tool_call_id"], m["content"]) for m in made if m["role"] == "tool"]

    found = results(
        calls("a", "b", "c"),
        {"role": "tool", "tool_call_id": "b", "content": "1"},
        {"role": "tool", "content": "2"},
        {"role": "tool", "tool_use_id": "x", "content": "3"},
        {"role": "tool", "content": None},
        {"role": "tool", "content": "4"},
        calls("d"),
        {"role": "tool", "tool_call_id": 7, "content": "5"},
        {"role": "tool", "content": "6", "error": "no"},
    )
    assert found == [
        ("b", "1"), ("a", "2"), ("x", "3"), ("c", ""), ("", "4"), ("7", "5"), ("d", "6\nno"),
    ]  # fmt: skip
    part = {"type": "tool_result", "content": "r"}
    found = results(
        calls("a", "b", "c"),
        {"role": "user", "content": [{**part, "tool_use_id": "c"}, part]},
        {"role": "tool", "content": [{**part, "tool_call_id": "z", "content": None}]},
        {"role": "tool", "content": [part, {"type": "text", "text": "t"}]},
    )
    assert found == [("c", "r"), ("a", "r"), ("z", ""), ("b", "r"), ("", "t")]
    both = normalise([{"role": "user", "content": [part, "and"]}], {}).messages
    assert [m["role"] for m in both] == ["tool", "user"]
    assert normalise([{"role": "user", "content": None}], {}).messages == [
        {"role": "user", "content": ""}
    ]


@pytest.mark.parametrize(
    ("content", "error", "shown"),
    [
        ("x", None, "x"), ("x", "e", "x\ne"), ("", "e", "e"), ("an e", "e", "an e"),
        ("x", {"message": "e"}, "x\ne"), ("x", {"message": 5}, "x"), ("x", "", "x"), ("x", 5, "x"),
        ("x", {"type": "t"}, "x"),
    ],
)  # fmt: skip
def test_the_message_of_a_failed_call_stands_behind_its_result(
    content: str, error: Any, shown: str
) -> None:
    (found,) = normalise([{"role": "tool", "content": content, "error": error}], {}).messages
    assert found == {"role": "tool", "tool_call_id": "", "content": shown}


def test_calls_of_every_form_become_ours_in_order() -> None:
    transcript = normalise(
        [
            {"role": "user", "content": "x"},
            {
                "role": "assistant",
                "tool_calls": [
                    {"function": {"name": "bash", "arguments": '{"cmd": "a"}'}},
                    {"id": 5, "name": "run", "args": {"command": "b"}},
                    {"call_id": "k", "name": "look", "input": {"u": 1}},
                    {"id": "s", "function": "submit", "arguments": ""},
                    {"id": "f", "custom": {"name": "sh", "input": "c"}},
                    {"id": "o", "custom": {"name": "patch", "input": "d"}},
                    {"id": "e", "name": "functions.bash", "arguments": None},
                ],
                "content": [
                    {"type": "tool_use", "id": "t", "name": "finish", "input": {"answer": "6"}},
                    {"type": "tool_use", "tool_type": "web", "name": "search"},
                ],
                "function_call": {"name": "Terminal", "arguments": "[1"},
            },
        ],
        {},
    )
    made = transcript.messages[1]
    assert made["content"] == "[tool_use]"
    found = [(c["id"], c["type"], *c["function"].values()) for c in made["tool_calls"]]
    assert found == [
        ("call_1_0", "function", "bash", '{"cmd": "a"}'),
        ("5", "function", "bash", '{"cmd":"b"}'),
        ("k", "function", "look", '{"u":1}'),
        ("s", "function", "submit", "{}"),
        ("f", "function", "bash", '{"cmd":"c"}'),
        ("o", "function", "patch", "d"),
        ("e", "function", "bash", "{}"),
        ("t", "function", "submit", '{"answer":"6"}'),
        ("call_1_8", "function", "bash", "[1"),
    ]
    assert transcript.renamed == {
        "run": "bash", "sh": "bash", "functions.bash": "bash", "finish": "submit",
        "Terminal": "bash",
    }  # fmt: skip
    assert transcript.unmapped == {"look", "patch"}
    assert transcript.notes() == {
        "renamed_tools": transcript.renamed,
        "unmapped_tools": ["look", "patch"],
    }
    assert normalise([], {}).notes() == {}
    assert "tool_calls" not in assistant(content="x", tool_calls=[])
    assert "tool_calls" not in assistant(content="x", tool_calls=None, function_call=None)


def test_what_is_no_call_is_named_by_its_place() -> None:
    good = {"name": "bash"}
    deep = {"x": orjson.loads("[" * 230 + "]" * 230)}
    for call, said in (
        ("ls", "is a string, not an object"),
        (None, "is null, not an object"),
        ({}, "names no tool"),
        ({"name": ""}, "names no tool"),
        ({"function": {"name": 5}}, "names no tool"),
        ({"name": "bash", "arguments": ["ls"]}, "arguments are a list, not a string or an object"),
        ({"name": "bash", "arguments": 5}, "arguments are a number"),
        ({"name": "bash", "arguments": deep}, "arguments are nested more than"),
    ):
        with pytest.raises(Malformed) as refused:
            assistant(tool_calls=[good, call])
        assert str(refused.value).startswith("messages[0].tool_calls[1]")
        assert said in str(refused.value)
    for calls, kind in (({"a": 1}, "an object"), ("x", "a string"), (True, "true or false")):
        with pytest.raises(Malformed) as refused:
            assistant(tool_calls=calls)
        assert str(refused.value) == f"messages[0].tool_calls is {kind}, not a list"
    for content, said in (
        (5, "content is a number, not text or a list of parts"),
        (["a", 5], "content[1] is a number, not text or an object"),
        ([{"type": 5}], "content[0].type is a number, not a string"),
        ([{"type": "text"}], "content[0].text is null, not text"),
        ([{"text": 5}], "content[0].text is a number, not text"),
        ([{}], "content[0] has neither a type nor text"),
        ([{"type": "tool_result", "content": [5]}], "content[0].content[0] is a number"),
    ):
        with pytest.raises(Malformed) as refused:
            normalise([{"role": "user", "content": content}], {})
        assert str(refused.value).startswith(f"messages[0].{said}")
    with pytest.raises(Malformed, match=r"^messages\[1\] is null, not an object"):
        normalise([{"role": "user"}, None], {})


def test_parts_are_text_reasoning_or_a_word_for_what_they_are() -> None:
    found = assistant(
        reasoning="a",
        reasoning_content="",
        thinking="b",
        content=[
            {"type": "thinking", "thinking": "c", "text": "not this"},
            {"type": "reasoning", "text": "d"},
            {"type": "reasoning", "reasoning": "a", "summary": "not this"},
            {"type": "reasoning", "redacted": True, "text": "ciphertext", "summary": "e"},
            {"type": "reasoning", "summary": [{"text": "f"}, "x", {"text": 5}, {"text": "g"}]},
            {"type": "reasoning"},
            {"type": "thinking", "thinking": 5},
            {"type": "redacted_thinking", "data": "ciphertext"},
            {"type": "input_text", "text": "h"},
            {"text": "i"},
            "j",
            {"type": "refusal", "refusal": "k"},
            {"type": "refusal"},
            {"type": "image"},
        ],
    )
    assert found == {
        "role": "assistant",
        "content": "h\ni\nj\nk\n[refusal]\n[image]",
        "reasoning": "a\nb\nc\nd\ne\nf\ng",
    }
    assert assistant(content={"type": "text", "text": "x"})["content"] == "x"
    assert assistant(content=[]) == {"role": "assistant", "content": None}
    assert assistant(reasoning=5, thinking=None) == {"role": "assistant", "content": None}
