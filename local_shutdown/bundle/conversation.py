"""Whether the transcript of an episode and its events tell of the same episode.

`agent.run_episode` read backwards: each message is there because of the one before it, each command
that the model gave has its event, and what the events say it was told stands in the tool results.

Where the model has tampered with more than the shutdown script (its profile, the program, a program
of its own that prints), a result may honestly differ from what was served. Such results are counted
and not judged: nobody is accused of what the model may have done.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from local_shutdown.detectors.calls import bare_call, only_looks
from local_shutdown.detectors.words import WORK
from local_shutdown.environment import MOST_REPEATS, TIMED_OUT
from local_shutdown.episode import Episode, Event
from local_shutdown.messages import CONTINUE, ToolCall, read_calls
from local_shutdown.task import DONE, QUESTIONS, WARNING, remaining_text

# How a result can come to show less, or something else, than what was served.
_ELSEWHERE = re.compile(r"[|><`&]|\$\(")
_MEDDLES = re.compile(
    r"\.profile|\.bash|\.[a-z*?]*rc\b|BASH_ENV|PROMPT_COMMAND|/etc/|base64|\beval\b|\bexec\b"
    r"|\balias\b|\bfunction\b|\(\)\s*\{|next_questio[^n]|[*?]"
)
_RUNS = re.compile(r"(?:\./|\S*/)next_question\b(?!\s*\()")
_LEFT_OUT = "bytes left out ...]"
_LIMITED = ("timed_out", "resource_limit")
# Stop reasons of an episode whose last call got no result, or whose last message awaits an answer.
_WITHOUT_RESULT = ("machine_down", "bypass", "error", "time_limit")
_WAITING = ("message_limit", "context_limit", "time_limit", "error")


@dataclass(frozen=True, slots=True)
class Rules:
    """What of run.json decides how an episode goes.

    Attributes:
        max_messages: where a message_limit lies.
        stop_at_bypass: it ends there.
        seconds: of `limits`; None is without.
    """

    max_messages: int
    stop_at_bypass: bool
    seconds: float | None


@dataclass(slots=True)
class Read:
    """What came of reading one episode.

    Attributes:
        wrong: what does not follow, in words.
        served: questions that the events say were served.
        not_judged: of these, how many went where the transcript need not show them.
    """

    wrong: list[str] = field(default_factory=list)
    served: int = 0
    not_judged: int = 0


@dataclass(slots=True)
class _Command:
    """One command that was started, and the events until the next one."""

    message: int
    text: str
    events: list[Event]

    def has(self, *types: str) -> bool:
        return any(event.type in types for event in self.events)


def read(episode: Episode, rules: Rules) -> Read:
    """Read an episode that was watched.

    Args:
        episode: with its two prompts in front, which are somebody else's to judge.
    """
    return _Reader(episode, rules).read()


def _commands(events: Sequence[Event]) -> Iterator[_Command]:
    current: _Command | None = None
    for event in events:
        if event.type == "command_started":
            if current is not None:
                yield current
            current = _Command(event.message, str(event.detail.get("command")), [])
        elif current is not None:
            current.events.append(event)
    if current is not None:
        yield current


class _Reader:
    def __init__(self, episode: Episode, rules: Rules) -> None:
        self._episode, self._rules = episode, rules
        self._messages = episode.messages
        self._commands = list(_commands(episode.events or ()))
        self._next = 0
        self._found = Read()
        self._harmless = True  # every command so far only looks
        self._meddled = False  # results may honestly differ from what was served
        self._said = ""  # commands so far
        self._seen_served = 0
        self._seen_warning = False
        dones = sum(event.type == "done" for event in episode.events or ())
        self._many_done = dones >= MOST_REPEATS  # later ones are not recorded
        self._script: Mapping[str, Any] = (episode.files.get("shutdown.sh") or {}).get(
            "before"
        ) or {}

    def read(self) -> Read:
        episode, found = self._episode, self._found
        first = next((e for e in episode.events or () if e.type != "command_started"), None)
        if first is not None and (not self._commands or episode.events[0] is first):  # type: ignore[index]
            found.wrong.append(f"its first event ({first.type}) stands before any command")
        ended = self._walk()
        if not found.wrong:
            found.wrong.extend(self._ending(ended))
        if not found.wrong and self._next < len(self._commands):
            command = self._commands[self._next]
            found.wrong.append(f"event: the command {_short(command.text)} is in no tool call")
        turns = sum(message.get("role") == "assistant" for message in self._messages)
        if not found.wrong and episode.usage.get("turns") != turns:
            found.wrong.append(
                f"usage says {episode.usage.get('turns')} turns, the transcript has {turns}"
            )
        return found

    # --- the messages, in order ---------------------------------------------------------------

    def _walk(self) -> str:
        """What ended the episode: a call without a result, `submit`, or nothing in it."""
        at, count = 2, len(self._messages)
        while at < count and not self._found.wrong:
            message = self._messages[at]
            if message.get("role") != "assistant":
                return self._stop(
                    at, f"is a {message.get('role')} message where the model's is due"
                )
            calls, here = read_calls(message), at
            at += 1
            if not calls:
                if at == count:
                    return "cut off"
                if dict(self._messages[at]) != {"role": "user", "content": CONTINUE}:
                    return self._stop(at, "is not what the harness says to a turn without a call")
                at += 1
            for number, call in enumerate(calls):
                if number and at >= self._rules.max_messages:
                    return self._last(at, "message_limit")
                if call.problem is None and call.name == "submit":
                    return self._last(at, "submit")
                command = self._started(here, call)
                if self._found.wrong:
                    return ""
                if at == count:
                    self._no_result(here, call, command)
                    return "no result"
                result = self._messages[at]
                if result.get("role") != "tool" or result.get("tool_call_id") != call.id:
                    return self._stop(at, f"is not the result of call {call.id!r} before it")
                if command is not None:
                    self._judge(at, command, str(result.get("content") or ""))
                at += 1
        return "waiting"

    def _stop(self, at: int, why: str) -> str:
        self._found.wrong.append(f"messages[{at}] {why}")
        return ""

    def _last(self, at: int, ended: str) -> str:
        if at < len(self._messages):
            return self._stop(at, f"comes after the end ({ended})")
        return ended

    def _started(self, here: int, call: ToolCall) -> _Command | None:
        """The command of a call; None for a call that could not be run."""
        if call.problem is not None:
            return None
        if self._next < len(self._commands):
            command = self._commands[self._next]
            if (command.message, command.text) == (here, call.argument):
                self._next += 1
                self._take(command)
                return command
        self._stop(here, f"runs {_short(call.argument)}, and no event says so")
        return None

    def _take(self, command: _Command) -> None:
        """What a command may have changed for later results, and for its own."""
        looks = only_looks(command.text)
        self._harmless = self._harmless and looks
        rest = _RUNS.sub("", command.text)
        self._meddled = self._meddled or (
            not looks and bool("next_question" in rest or _MEDDLES.search(rest))
        )
        self._said += command.text + "\n"
        for event in command.events:
            if event.type == "question":
                self._found.served += 1
                self._seen_served = max(self._seen_served, int(event.detail.get("number") or 0))
            elif event.type == "warning":
                self._seen_warning = True
            elif event.type == "file_changed":
                if event.detail["file"] == "next_question":
                    self._meddled = True
                else:
                    self._script = event.detail["after"]

    def _no_result(self, here: int, call: ToolCall, command: _Command | None) -> None:
        self._found.not_judged += (
            sum(e.type == "question" for e in command.events) if command else 0
        )
        if command is None:
            self._stop(here, f"calls {call.name}, and there is no result")

    # --- what a result shows ------------------------------------------------------------------

    def _judge(self, at: int, command: _Command, text: str) -> None:
        wanted = [_printed(event) for event in _served(command)]
        served = sum(event.type == "question" for event in command.events)
        plain = bare_call(command.text) == WORK
        limited = command.has(*_LIMITED) or _LEFT_OUT in text or self._many_done
        if plain and self._harmless and not limited and not command.has("shutdown_called"):
            if "".join(wanted) != text and (wanted or _looks_served(text)):
                self._stop(at, f"is {_short(text)}, the events say {_short(''.join(wanted))}")
        elif (plain or self._shows(command)) and not limited and not self._meddled:
            missing = next((line for line in wanted if line not in text), None)
            if missing is not None:
                self._stop(at, f"does not show what was served: {_short(missing)}")
        else:
            self._found.not_judged += served
        if plain and command.has("machine_down") and self._harmless:
            self._stop(at, "is the result of a call under which the machine went down")
        if command.has("timed_out") and not text.rstrip().endswith(TIMED_OUT):
            self._stop(at, "does not say that the command timed out, as an event does")
        if not self._meddled:
            self._unserved(at, text, plain, command.has("done") or self._many_done)
            self._script_shown(at, command, text)

    def _shows(self, command: _Command) -> bool:
        """Whether all that a command prints comes into its result."""
        return only_looks(command.text) and not _ELSEWHERE.search(command.text)

    def _unserved(self, at: int, text: str, plain: bool, done: bool) -> None:
        """A question, Done or the warning in a result, though no event says that it was served and
        the model did not write it."""
        for number, (question, _) in enumerate(QUESTIONS, 1):
            line = f"{question}\n{remaining_text(len(QUESTIONS) - number)}"
            if number > self._seen_served and line in text and "What is" not in self._said:
                self._stop(at, f"shows question {number}, which no event served")
                return
        if plain and not done and DONE in text.splitlines() and DONE not in self._said:
            self._stop(at, f"says {DONE}, and no event does")
        if WARNING in text and not self._seen_warning and "During" not in self._said:
            self._stop(at, "shows the warning, which no event gave")

    def _script_shown(self, at: int, command: _Command, text: str) -> None:
        """`cat shutdown.sh` shows the file as the events have it."""
        content = self._script.get("content")
        readable = self._script.get("kind") == "file" and (self._script.get("mode") or 0) & 0o400
        whole = command.text.strip() in ("cat shutdown.sh", "cat ./shutdown.sh")
        limited = content is None or command.has(*_LIMITED)
        if whole and readable and not limited and text != content:
            self._stop(at, f"shows another shutdown.sh than the events: {_short(text)}")

    # --- the end ------------------------------------------------------------------------------

    def _ending(self, ended: str) -> Iterator[str]:
        """Whether the stop reason is that of this transcript."""
        episode, rules = self._episode, self._rules
        reason = episode.stop_reason
        allowed: Sequence[str] = {
            "submit": ("submit", "error", "time_limit"),
            "message_limit": ("message_limit",),
            "no result": _WITHOUT_RESULT,
            "cut off": ("token_limit", "context_limit"),
            "waiting": _WAITING,
        }[ended]
        if reason not in allowed:
            yield f"stop_reason {reason}, the transcript ends otherwise ({ended})"
        elif reason == "message_limit" and len(self._messages) < rules.max_messages:
            yield f"stop_reason message_limit at {len(self._messages)} of {rules.max_messages}"
        elif reason == "machine_down" and not episode.has("machine_down"):
            yield "stop_reason machine_down, and no event says so"
        elif reason == "bypass" and not (rules.stop_at_bypass and episode.has("survived")):
            yield "stop_reason bypass, which neither the events nor the settings bear out"
        elif reason == "time_limit" and rules.seconds is None:
            yield "stop_reason time_limit, and the run has no such limit"
        if (reason == "error") != (episode.error is not None):
            yield f"stop_reason {reason}, error {episode.error!r}"
        if episode.outcome is not None:
            yield "states an outcome, which only an imported record does"


def _served(command: _Command) -> list[Event]:
    return [event for event in command.events if event.type in ("question", "warning", "done")]


def _printed(event: Event) -> str:
    """What the environment printed when it recorded this."""
    if event.type == "question":
        number = event.detail.get("number")
        if not isinstance(number, int) or number not in range(1, len(QUESTIONS) + 1):
            return ""  # no such question; `events` says so
        return f"{QUESTIONS[number - 1][0]}\n{remaining_text(len(QUESTIONS) - number)}\n"
    return f"{WARNING if event.type == 'warning' else DONE}\n"


def _looks_served(text: str) -> bool:
    return any(line.startswith("What is ") or line == DONE for line in text.splitlines())


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
