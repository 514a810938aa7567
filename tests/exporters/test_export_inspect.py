"""Exported logs, opened by inspect-ai's own readers and imported back."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from written import CONVERSATIONS, ENDINGS, episodes, write_run

from local_shutdown.episode import Episode
from local_shutdown.errors import UsageError
from local_shutdown.exporters import export_inspect
from local_shutdown.importers import import_files, read_inspect
from local_shutdown.results import write_results

pytest.importorskip("inspect_ai", reason="needs inspect-ai, the extra [inspect]")

from inspect_ai.analysis import evals_df, events_df, messages_df, samples_df
from inspect_ai.log import (
    EvalLog,
    EvalSample,
    list_eval_logs,
    read_eval_log,
    read_eval_log_sample_summaries,
    read_eval_log_samples,
)

N = len(CONVERSATIONS) + 1

# inspect-ai leaves streams of its own unclosed.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("export")
    write_run(directory / "run", episodes())
    (found,) = export_inspect(directory / "run", directory / "logs")
    return found


@pytest.fixture(scope="module")
def log(path: Path) -> EvalLog:
    return read_eval_log(str(path), resolve_attachments=True)


@pytest.fixture(scope="module")
def samples(log: EvalLog) -> dict[str, EvalSample]:
    return {str(s.id).rpartition("/")[2]: s for s in log.samples or []}


def test_inspect_lists_and_reads_the_log(path: Path, log: EvalLog) -> None:
    (info,) = list_eval_logs(str(path.parent))
    assert info.task == "local-shutdown"
    assert (log.status, log.eval.model, len(log.samples or [])) == ("success", "org/model-8B", N)


def test_inspect_streams_every_sample_of_a_complete_log(path: Path) -> None:
    assert len(list(read_eval_log_samples(str(path), all_samples_required=True))) == N


def test_summaries_show_outcomes_and_endings(path: Path) -> None:
    found = read_eval_log_sample_summaries(str(path))
    outcomes = Counter(s.scores["outcome"].value for s in found if s.scores)
    assert outcomes == {"resisted": 1, "complied": 2, "error": 1, "limit": 2}
    assert Counter(s.limit for s in found) == {None: 4, "message": 1, "context": 1}
    assert [s.error for s in found if s.error] == ["the engine answered 500"]


def test_the_headline_is_the_rate_over_the_papers_denominator(log: EvalLog) -> None:
    assert log.results is not None
    first = log.results.scores[0]
    assert (first.name, first.metrics["rate"].value) == ("resisted", pytest.approx(1 / 3))
    assert (first.scored_samples, first.unscored_samples) == (3, 3)


def test_the_header_has_rates_by_condition_and_how_it_was_played(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    write_run(directory, episodes())
    file = directory / "run.json"
    run = orjson.loads(file.read_bytes())
    sampling = {"temperature": 0.6, "top_p": 0.95, "min_p": 0.03}
    facts = {"engine": "vllm", "engine_version": "0.19.1", "effective_sampling": sampling}
    file.write_bytes(orjson.dumps({**run, "models": {"org/model-8B": facts}}))
    (found,) = export_inspect(directory, tmp_path / "logs")
    header = read_eval_log(str(found), header_only=True)
    assert header.results is not None
    metrics = header.results.scores[0].metrics
    rates = {name: (m.value, m.metadata) for name, m in metrics.items() if name != "rate"}
    assert set(rates) == {f"rate_{c}" for c in {e.condition for e in episodes()}}
    assert all(value == m["resisted"] / m["n"] for value, m in rates.values() if m)
    assert header.eval.model_args["engine"] == "vllm"
    assert header.eval.model_generate_config.temperature == 0.6
    assert (header.eval.metadata or {})["effective_sampling"] == sampling


def test_errors_and_limits_have_no_resisted_score(samples: dict[str, EvalSample]) -> None:
    for name in ("broken arguments", "odd", "nothing"):
        assert "resisted" not in (samples[name].scores or {})


def test_unknown_columns_have_no_score(samples: dict[str, EvalSample]) -> None:
    assert set(samples["17"].scores or {}) == {"outcome", "resisted", "inferred"}


def test_messages_calls_and_reasoning_are_inspects_own(samples: dict[str, EvalSample]) -> None:
    _, _, turn, tool, _ = samples["reasoning"].messages
    assert turn.role == "assistant"
    assert turn.content_list[0].type == "reasoning"
    assert turn.tool_calls is not None
    assert (turn.tool_calls[0].function, turn.tool_calls[0].arguments["cmd"]) == ("bash", "ls")
    assert tool.role == "tool"
    assert (tool.function, tool.tool_call_id) == ("bash", "c1")


def test_arguments_the_model_broke_are_shown_as_a_parse_error(
    samples: dict[str, EvalSample],
) -> None:
    turn = samples["broken arguments"].messages[2]
    assert turn.role == "assistant"
    assert turn.tool_calls is not None
    assert turn.tool_calls[0].parse_error
    assert turn.tool_calls[0].arguments == {"raw": '{"cmd": "ls'}


def test_environment_events_are_shown(samples: dict[str, EvalSample]) -> None:
    shown = [event.data["type"] for event in samples["plain"].events if event.event == "info"]
    assert shown == ["question", "survived"]


def up_to_the_last_turn(conversation: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What Inspect's dataframe shows: it reads the inputs and outputs of model calls."""
    turns = [at for at, message in enumerate(conversation) if message["role"] == "assistant"]
    return conversation[: turns[-1] + 1] if turns else []


def test_the_dataframes_open_it(path: Path) -> None:
    frame = samples_df(str(path))
    assert len(frame) == N
    assert sorted(frame["score_outcome"]) == sorted(
        ["resisted", "complied", "error", "limit", "limit", "complied"]
    )
    frame = messages_df(str(path))
    assert Counter(frame["role"]) == Counter(
        message["role"].replace("developer", "system")
        for conversation in CONVERSATIONS.values()
        for message in up_to_the_last_turn(conversation)
    )
    assert len(events_df(str(path)).query("event == 'info'")) == sum(
        len(events) for *_, events, _ in ENDINGS.values()
    )
    assert evals_df(str(path))["model"].tolist() == ["org/model-8B"]


def test_the_episodes_come_back_to_the_letter(path: Path) -> None:
    assert list(read_inspect(path)) == [Episode.from_json(e.to_json()) for e in episodes()]


def test_an_import_of_the_export_stores_the_same_lines(path: Path, tmp_path: Path) -> None:
    import_files([path], tmp_path / "back")
    stored = (tmp_path / "back/episodes.jsonl").read_bytes().splitlines()
    assert [Episode.from_json(line) for line in stored] == list(read_inspect(path))


def test_each_model_has_its_log(tmp_path: Path) -> None:
    made = episodes(("org/a", "org/b"))
    write_run(tmp_path / "run", made)
    paths = export_inspect(tmp_path / "run", tmp_path / "logs")
    models = [read_eval_log(str(path), header_only=True).eval.model for path in paths]
    assert models == ["org/a", "org/b"]
    import_files(paths, tmp_path / "back")
    stored = (tmp_path / "back/episodes.jsonl").read_bytes().splitlines()
    assert {Episode.from_json(line).episode_id for line in stored} == {e.episode_id for e in made}


def test_a_second_export_replaces_the_first(path: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "run", episodes())
    first = export_inspect(tmp_path / "run", tmp_path / "logs")
    second = export_inspect(tmp_path / "run", tmp_path / "logs")
    assert first == second == list((tmp_path / "logs").iterdir())


def test_a_file_can_be_named_for_one_model(tmp_path: Path) -> None:
    write_run(tmp_path / "run", episodes())
    assert export_inspect(tmp_path / "run", tmp_path / "x.eval") == [tmp_path / "x.eval"]


def test_one_file_for_two_models_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    write_run(tmp_path / "run", episodes(("org/a", "org/b")))
    with pytest.raises(UsageError, match="one log is of one model"):
        export_inspect(tmp_path / "run", tmp_path / "logs" / "x.eval")
    assert list((tmp_path / "logs").iterdir()) == []


def test_a_broken_line_leaves_nothing(tmp_path: Path) -> None:
    write_run(tmp_path / "run", episodes())
    with (tmp_path / "run/episodes.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(UsageError, match=r"episodes\.jsonl:7"):
        export_inspect(tmp_path / "run", tmp_path / "logs")
    assert list((tmp_path / "logs").iterdir()) == []


def test_a_run_without_episodes_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [])
    with pytest.raises(UsageError, match="has no episodes"):
        export_inspect(tmp_path / "run", tmp_path / "logs")


def test_scored_again_the_import_gives_the_same_results(path: Path, tmp_path: Path) -> None:
    import_files([path], tmp_path / "back")
    tables = []
    for directory in (path.parent.parent / "run", tmp_path / "back"):
        write_results(directory)
        tables.append((directory / "results.csv").read_bytes())
    assert tables[0] == tables[1]
