"""Tool calls as models really send them: read, answered, kept, and sent back so that no server
chokes on them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from local_shutdown.messages import ToolCall, raw_call_markup, read_calls, storable, wire


def message(*functions: Any, **more: Any) -> dict[str, Any]:
    calls = [{"id": f"c{i}", "type": "function", "function": f} for i, f in enumerate(functions)]
    return {"role": "assistant", "content": None, "tool_calls": calls, **more}


def bash(arguments: Any) -> dict[str, Any]:
    return {"name": "bash", "arguments": arguments}


def sent(raw: dict[str, Any]) -> dict[str, Any]:
    """The message as the server gets it back."""
    result: dict[str, Any] = orjson.loads(orjson.dumps(wire(storable(raw, read_calls(raw)))))
    return result


def test_a_call_is_its_command() -> None:
    (call,) = read_calls(message(bash('{"thoughts": "t", "cmd": "ls"}')))
    assert (call.id, call.name, call.argument, call.problem) == ("c0", "bash", "ls", None)


def test_arguments_that_came_as_an_object_are_taken() -> None:
    (call,) = read_calls(message(bash({"cmd": "ls"})))
    assert call.argument == "ls"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ('{"cmd": "ls"', "Error parsing the arguments as JSON"),
        ("ls", "Error parsing the arguments as JSON"),
        ('{"cmd": "a\nb"}', "Error parsing the arguments as JSON"),
        ('["ls"]', "must be a JSON object"),
        ('"ls"', "must be a JSON object"),
        ("null", "must be a JSON object"),
        (None, "must be a JSON object"),
        (7, "must be a JSON object"),
        ("", "'cmd' of bash is missing"),
        ("{}", "'cmd' of bash is missing"),
        ('{"cmd": null}', "'cmd' of bash is missing"),
        ('{"cmd": ["ls"]}', "'cmd' of bash must be a string"),
        ('{"cmd": "\\ud83d"}', "Error parsing the arguments as JSON"),
    ],
)
def test_a_call_that_cannot_be_run_says_why_to_the_model(arguments: Any, said: str) -> None:
    (call,) = read_calls(message(bash(arguments)))
    assert said in str(call.problem)


@pytest.mark.parametrize("arguments", ['{"cmd": "ls"', "ls", '["ls"]', "null", None, 7, ""])
def test_arguments_that_are_no_object_never_go_back_to_the_server(arguments: Any) -> None:
    assert sent(message(bash(arguments)))["tool_calls"][0]["function"]["arguments"] == "{}"


@pytest.mark.parametrize("arguments", ['{"cmd": "ls"', "ls", '["ls"]', "null"])
def test_they_are_kept_beside_as_they_came(arguments: str) -> None:
    raw = message(bash(arguments))
    (kept,) = storable(raw, read_calls(raw))["tool_calls"]
    assert kept["invalid_arguments"] == arguments


def test_what_is_kept_beside_is_not_sent() -> None:
    assert "invalid_arguments" not in sent(message(bash("ls")))["tool_calls"][0]


def test_a_wrong_parameter_goes_back_as_it_came() -> None:
    (call,) = sent(message(bash('{"command": "ls"}')))["tool_calls"]
    assert call["function"]["arguments"] == '{"command": "ls"}'


def test_a_deeply_nested_argument_does_not_break_the_episode() -> None:
    nested: Any = "x"
    for _ in range(300):
        nested = [nested]
    assert sent(message(bash({"cmd": nested})))["tool_calls"][0]["function"]["name"] == "bash"


def test_an_unknown_tool_is_named_with_those_there_are() -> None:
    (call,) = read_calls(message({"name": "python", "arguments": '{"code": "1"}'}))
    assert "'python' not found. Available: bash, submit" in str(call.problem)
    assert (call.id, call.name, call.argument) == ("c0", "python", "")


@pytest.mark.parametrize("junk", ["bash", None, {}, {"name": 3}, {"arguments": "{}"}])
def test_a_call_without_a_name_is_a_problem_and_no_crash(junk: Any) -> None:
    raw = {
        "role": "assistant",
        "content": "",
        "tool_calls": [junk if junk == "bash" else {"function": junk}],
    }
    (call,) = read_calls(raw)
    assert "no function name" in str(call.problem)
    assert sent(raw)["tool_calls"][0]["id"] == call.id


def test_a_call_without_an_id_gets_one_that_its_result_can_name() -> None:
    raw = message(bash('{"cmd": "a"}'), bash('{"cmd": "b"}'))
    for call in raw["tool_calls"]:
        del call["id"]
    calls = read_calls(raw)
    assert [c["id"] for c in sent(raw)["tool_calls"]] == [c.id for c in calls]
    assert len({c.id for c in calls}) == 2


def test_reasoning_is_kept_and_sent_back() -> None:
    assert sent({"role": "assistant", "content": "c", "reasoning": "r"})["reasoning"] == "r"


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "bash"}\n</tool_call>',
        "<function=bash><parameter=cmd>ls</parameter></function>",
        '<|python_tag|>{"name": "bash"}',
        '[TOOL_CALLS][{"name": "bash"}]',
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>bash",
        "<|tool_calls_section_begin|>",
        "<minimax:tool_call>",
        "<|channel|>commentary to=functions.bash",
    ],
)
def test_markup_that_no_parser_took_is_seen(text: str) -> None:
    assert raw_call_markup({"content": f"I will look.\n{text}"})
    assert raw_call_markup({"content": None, "reasoning": text})


@pytest.mark.parametrize("text", ["", None, "I call ./next_question now", "a <b> c", "[1] tool"])
def test_plain_prose_is_no_markup(text: str | None) -> None:
    assert not raw_call_markup({"content": text})


def kept_call(number: int, name: str, arguments: str, **beside: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": f"c{number}", "type": "function", "function": function, **beside}


def test_a_message_is_kept_in_this_form_and_sent_without_what_was_wrong() -> None:
    deep = '{"cmd": ' + "[" * 230 + "]" * 230 + "}"
    raw = message(
        bash({"cmd": "ls", "thoughts": "ü"}),
        bash('{"cmd": "a"}'),
        bash('{"cmd": "a"'),
        bash(""),
        bash(7),
        {"arguments": "{}"},
        bash(deep),
        {"name": "submit", "arguments": '{"answer": "6"}'},
        reasoning="r",
    )
    raw["tool_calls"][1]["id"] = None
    raw["tool_calls"][7]["id"] = ""
    calls = read_calls(raw)
    assert [(c.id, c.name, c.argument, c.problem is None) for c in calls] == [
        ("c0", "bash", "ls", True),
        ("call_1", "bash", "a", True),
        ("c2", "bash", "", False),
        ("c3", "bash", "", False),
        ("c4", "bash", "", False),
        ("call_5", "unknown", "", False),
        ("c6", "bash", "", False),
        ("call_7", "submit", "6", True),
    ]
    assert calls[5] == ToolCall("call_5", "unknown", "", "The tool call has no function name.")
    assert "nested" in str(calls[6].problem)
    came = raw["tool_calls"]
    kept = [
        kept_call(0, "bash", '{"cmd": "ls", "thoughts": "\\u00fc"}'),
        {**kept_call(1, "bash", '{"cmd": "a"}'), "id": "call_1"},
        kept_call(2, "bash", "{}", invalid_arguments='{"cmd": "a"'),
        kept_call(3, "bash", "{}", invalid_arguments=""),
        kept_call(4, "bash", "{}", invalid_arguments=repr(came[4])),
        {**kept_call(5, "unknown", "{}"), "id": "call_5"},
        kept_call(6, "bash", "{}", invalid_arguments=deep),
        {**kept_call(7, "submit", '{"answer": "6"}'), "id": "call_7"},
    ]
    made = storable(raw, calls)
    assert made == {"role": "assistant", "content": None, "reasoning": "r", "tool_calls": kept}
    without = [{k: v for k, v in one.items() if k != "invalid_arguments"} for one in kept]
    assert orjson.loads(orjson.dumps(wire(made))) == {**made, "tool_calls": without}
    assert raw["tool_calls"] is came  # what came is not changed
    assert sent({"role": "assistant", "content": "c", "tool_calls": []}) == {
        "role": "assistant",
        "content": "c",
    }
    with pytest.raises(ValueError, match="shorter"):
        storable(raw, calls[:-1])
