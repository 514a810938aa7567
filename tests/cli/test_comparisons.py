"""What a comparison on the command line must not claim: commands, files and JSON alone are used, so
that each of these can be held against any version of the program."""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import scripted
from playing import cli, compared, play
from scripted import Messages, comply, http_error, resist, turn

from local_shutdown import load
from local_shutdown.resources import data

PUBLISHED = [json.loads(line) for line in data("paper_results.jsonl").read_text().splitlines()]


def imported(folder: Path, lines: Iterable[Mapping[str, Any]], name: str = "ours") -> Path:
    """Aggregates, as `import` takes them."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.jsonl"
    records = [{"kind": "aggregate", "condition": "E", "n": 1000, **line} for line in lines]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    done = cli("import", file, "--out", folder / name)
    assert done.exit_code == 0, done.output
    return folder / name


def rows_of(said: str, title: str) -> list[str]:
    """The lines of one table of the terminal, up to the next empty one after its head."""
    below = said[said.index(title) :].splitlines()[1:]
    body = itertools.dropwhile(lambda line: "─" not in line, below)
    return [
        line.strip() for line in itertools.takewhile(str.strip, itertools.islice(body, 1, None))
    ]


# --- open against closed --------------------------------------------------------------------------

OPEN = ("qwen3-8b", "Qwen/Qwen3-32B", "openai/gpt-oss-120b", "our-own-model")
CLOSED = ("o3", "Grok 4", "claude-opus-4", "gpt-5", "google/gemini-2.5-pro", "a-closed-one")
STATED = {"our-own-model": "open", "a-closed-one": "closed"}


def four_and_six() -> list[dict[str, Any]]:
    return [
        {"model": model, "resisted": 50 * number}
        | ({"weights": STATED[model]} if model in STATED else {})
        for number, model in enumerate((*OPEN, *CLOSED))
    ]


def test_four_open_and_six_closed_imported_models_are_compared(tmp_path: Path) -> None:
    """Seen: imported models had no kind, so only the paper's ever entered."""
    out = imported(tmp_path, four_and_six())
    found = compared(out)
    assert len(found["open_closed"]) == 1
    (entry,) = found["open_closed"]
    assert (len(entry["open_models"]), len(entry["closed_models"])) == (4, 6)
    assert entry["diff"] == pytest.approx(0.075 - 0.325)
    assert {cell["model"]: cell["weights"] for cell in found["cells"]} == {
        **dict.fromkeys(OPEN, "open"),
        **dict.fromkeys(CLOSED, "closed"),
    }
    (row,) = rows_of(cli("compare", out).stdout, "open against closed")
    assert re.findall(r"\b\d+ in \d+\b", row)[0].startswith("4 in ")
    assert re.findall(r"\b\d+ in \d+\b", row)[1].startswith("6 in ")
    page = tmp_path / "r.html"
    assert cli("report", out, "--out", page).exit_code == 0
    assert "Open against closed weights" in page.read_text()
    assert sorted(load(out).cells["weights"]) == ["closed"] * 6 + ["open"] * 4


@pytest.mark.parametrize(("name", "weights"), [("gpt-4o", "closed"), ("qwen3-8b", "open")])
def test_a_model_behind_an_endpoint_is_known_by_its_name(
    tmp_path: Path, name: str, weights: str
) -> None:
    with scripted.serve_beside(comply, name) as model:
        done = cli(
            "run", "--base-url", model.base_url, "--model", name, "--no-probe", "--conditions", "E",
            "--trials", 1, "--out", tmp_path / "run",
        )  # fmt: skip
    assert done.exit_code == 0, done.output
    (cell,) = compared(tmp_path / "run")["cells"]
    assert cell["weights"] == weights


def twins() -> list[dict[str, Any]]:
    """Open models that do just what the published closed ones do, and had A to K all played: where
    a model was not published, it is one that did not resist."""
    by_model: dict[str, dict[str, Any]] = defaultdict(dict)
    for record in PUBLISHED:
        if record["model"] != "gpt-oss-120b":
            by_model[record["model"]][record["condition"]] = record
    return [
        {
            "model": f"twin-of-{model}", "weights": "open", "condition": condition,
            "resisted": cells[condition]["resisted"] if condition in cells else 0,
        }
        for model, cells in by_model.items()
        for condition in "ABCDEK"
    ]  # fmt: skip


def test_twins_of_the_published_models_do_not_differ_from_them(tmp_path: Path) -> None:
    """B, C and D were published of 6 or 7 models that were chosen because they resist: open twins
    of all of them came out at half their rates."""
    out = imported(tmp_path, twins())
    found = compared(out, "--reference", "paper")["open_closed"]
    compare = {entry["condition"]: entry for entry in found}
    assert {"A", "E"} <= {c for c, entry in compare.items() if entry["diff"] is not None}
    for entry in found:
        if entry["diff"] is not None:
            models = entry["open_models"], entry["closed_models"]
            twin = {name.removeprefix("twin-of-") for name in models[0]} - {"gpt-oss-120b"}
            assert twin == set(models[1])
    assert all(compare[c]["diff"] is None and compare[c]["reason"] for c in "BCD")
    assert "not compared" in cli("compare", out, "--reference", "paper").stdout


def test_where_no_condition_is_left_it_is_said(tmp_path: Path) -> None:
    lines = [{"model": "x", "weights": "open", "condition": "A", "resisted": 1},
             {"model": "y", "weights": "closed", "resisted": 1}]  # fmt: skip
    out = imported(tmp_path, lines)
    assert all(entry["diff"] is None for entry in compared(out)["open_closed"])
    assert "not compared" in cli("compare", out).stdout


def test_checkpoints_of_one_developer_are_not_independent(tmp_path: Path) -> None:
    """Six checkpoints each of two open developers against six each of two closed ones, far apart:
    24 independent models would give p = 7e-7, four developers give no less than 1/3."""
    lines = [
        {"model": f"{weights}{family}-{number}", "weights": weights, "family": f"{weights}{family}",
         "resisted": base + 7 * number}
        for weights, base in (("open", 50), ("closed", 700))
        for family in (1, 2)
        for number in range(6)
    ]  # fmt: skip
    found = compared(imported(tmp_path, lines))["open_closed"]
    assert len(found) == 1
    (entry,) = found
    assert entry["p"] >= 1 / 3
    assert entry["diff"] == pytest.approx(-0.65)


# --- the same model twice -------------------------------------------------------------------------


def test_a_model_measured_twice_can_be_claimed_the_same(tmp_path: Path) -> None:
    (theirs,) = (r for r in PUBLISHED if (r["model"], r["condition"]) == ("gpt-oss-120b", "E"))
    same = {"model": "openai/gpt-oss-120b", "resisted": theirs["resisted"] + 3}
    few = {"model": "openai/gpt-oss-120b", "resisted": 0, "n": 5}
    findings = {}
    for name, line in (("same", same), ("few", few)):
        out = imported(tmp_path, [line], name)
        done = cli("compare", out, "--reference", "paper", "--margin", 0.05, "--json")
        assert done.exit_code == 0, done.output
        (entry,) = json.loads(done.stdout)["same_model"]
        findings[name] = entry["finding"]
    assert findings == {"same": "same", "few": "undecided"}


# --- contrasts ------------------------------------------------------------------------------------


def test_intervals_of_contrasts_hold_all_at_once_and_their_family_is_said(tmp_path: Path) -> None:
    """Five contrasts of two models; p just below .05 alone, and above it among the five."""
    rates = {"A": 100, "B": 128, "C": 100, "D": 100, "E": 100, "F": 100}
    lines = [
        {"model": model, "condition": condition, "resisted": resisted}
        for model in ("x", "y")
        for condition, resisted in rates.items()
    ]
    out = imported(tmp_path, lines)
    found = [c for c in compared(out)["contrasts"] if c["name"] == "A-B"]
    assert len(found) == 2
    for contrast in found:
        assert contrast["p"] < 0.06 < contrast["p_holm"]
    said = cli("compare", out).stdout
    shown = [row for row in rows_of(said, "declared contrasts") if "A-B" in row]
    assert len(shown) == 2
    for row in shown:
        low, high = map(float, re.findall(r"\(([-+][\d.]+), ([-+][\d.]+)\)", row)[0])
        assert low < 0 < high
        plain = [100 * found[0][end] for end in ("ci_low", "ci_high")]
        assert high - low > 1.2 * (plain[1] - plain[0])
    assert re.search(r"this command's 8 contrasts", said)


def test_what_is_left_out_of_two_rates_stands_beside_their_difference(tmp_path: Path) -> None:
    """Of four trials each: D one fails, E none; the others comply."""

    def policy(messages: Messages) -> scripted.Answer:
        answer = comply(messages)
        assert isinstance(answer, dict)
        if turn(messages) == 0:
            seen.append(1)
        if len(seen) == 1:
            return http_error(400, "no")(messages)  # type: ignore[return-value]
        return {**answer, "content": f"this is {len(seen)}"}

    seen: list[int] = []
    args = ("--conditions", "D,E", "--trials", 4, "--concurrency", 1, "--no-probe")
    play(policy, tmp_path / "run", *args)
    assert "+0.0 to +25.0" in cli("compare", tmp_path / "run").stdout
    (contrast,) = compared(tmp_path / "run")["contrasts"]
    ends = contrast["bound_low"], contrast["bound_high"]
    assert ends == pytest.approx((0, 0.25))
    page = tmp_path / "r.html"
    assert cli("report", tmp_path / "run", "--out", page).exit_code == 0
    assert "bounds +0.0 to +25.0" in page.read_text()


# --- paths that break -----------------------------------------------------------------------------


def test_a_report_of_an_import_is_made(tmp_path: Path) -> None:
    """Seen: a traceback, 'dict object' has no attribute 'title'."""
    line = {"kind": "episode", "outcome": "resisted", "model": "o3"}
    out = imported(tmp_path, [line, {"model": "o4", "resisted": 3}])
    done = cli("report", out, "--reference", "paper", "--out", tmp_path / "r.html")
    assert done.exit_code == 0, done.output
    assert done.exception is None
    assert "o4" in (tmp_path / "r.html").read_text()


def test_aggregates_and_episodes_of_one_model_are_compared(tmp_path: Path) -> None:
    """Seen: the example of docs/formats.md was imported and then refused by `compare`."""
    episodes = [{"kind": "episode", "outcome": "resisted", "model": "o3"} for _ in range(3)]
    out = imported(tmp_path, [{"model": "o3", "resisted": 159}, *episodes])
    found = {(c["source"], c["resisted"], c["n"]) for c in compared(out)["cells"]}
    assert found == {("ours", 3, 3), ("ours (aggregates)", 159, 1000)}


def test_exports_do_not_get_in_the_way_of_the_next_comparison(tmp_path: Path) -> None:
    """Seen: `export` put runs/x-inspect/ where `compare runs/*` tripped over it."""
    pytest.importorskip("pyarrow")
    runs = tmp_path / "runs"
    assert (
        play(resist("rm shutdown.sh"), runs / "x", "--conditions", "E", "--trials", 1).exit_code
        == 0
    )
    assert cli("export", runs / "x", "--format", "parquet").exit_code == 0
    done = cli("compare", *sorted(runs.iterdir()))
    assert done.exit_code == 0, done.output
