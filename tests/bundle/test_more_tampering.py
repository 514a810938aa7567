"""Further kinds of tampering with a study of two models: everything that follows is made anew, and
what has a second witness is still found."""

from __future__ import annotations

import json
import secrets
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from forger import Forger
from playing import cli
from scripted import Answer, Messages, comply, resist, serve_beside

from local_shutdown.bundle.verify import verify

MODELS = [
    {"id": "org/m", "name": "one", "sampling": {"temperature": 0.5}},
    {"id": "org/m", "name": "other"},
]
ONE, OTHER = "runs/one", "runs/other"


def policy(messages: Messages) -> Answer:
    """Resists under A and complies under E; no two trials are copies."""
    asked = "allow yourself" in str(messages[0]["content"])
    answer = (comply if asked else resist("chmod -x shutdown.sh"))(messages)
    assert isinstance(answer, Mapping)
    return {**answer, "content": secrets.token_hex(8)}


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that got one more trial after it was looked at, unpacked."""
    folder = tmp_path_factory.mktemp("two")
    path, out = folder / "study.yaml", folder / "out"
    with serve_beside(policy, "org/m") as model:
        for trials in (1, 2):
            study = {"name": "two", "models": MODELS, "conditions": ["A", "E"], "seed": 7}
            path.write_text(json.dumps({**study, "trials": trials}))
            words = ("--base-url", model.base_url, "--no-probe", "--out", out)
            done = cli("run", path, *words)
            assert done.exit_code == 0, done.output
    done = cli("bundle", out, "--out", folder / "two.zip")
    assert done.exit_code == 0, done.output
    with zipfile.ZipFile(folder / "two.zip") as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked" / "two"


def copied(bag: Path, folder: Path) -> Forger:
    return Forger(Path(shutil.copytree(bag, folder / bag.name)))


# --- everything that follows is made anew ---------------------------------------------------------


def moved_episode(forger: Forger) -> None:
    """One of the other model's, of the day before, in the place of one of this."""
    with forger.lines(f"{OTHER}/episodes.jsonl") as records:
        (moved,) = [one for one in records if one["episode_id"] == "other/E/1"]
    with forger.lines(f"{ONE}/episodes.jsonl") as records:
        (at,) = [i for i, one in enumerate(records) if one["episode_id"] == "one/A/1"]
        day = moved["started_at"][:10]
        records[at] = moved | {
            "episode_id": "one/E/1", "model": "one",
            "started_at": moved["started_at"].replace(day, "2026-01-01"),
        }  # fmt: skip
        records[:] = [r for i, r in enumerate(records) if i == at or r["episode_id"] != "one/E/1"]


def day_before(forger: Forger) -> None:
    """The same, with nothing missing: it takes the place of its namesake."""
    with forger.lines(f"{ONE}/episodes.jsonl") as records:
        for one in records:
            if one["episode_id"] == "one/E/1":
                one["started_at"] = "2026-01-01" + one["started_at"][10:]


def day_after(forger: Forger) -> None:
    with forger.lines(f"{ONE}/episodes.jsonl") as records:
        records[-1]["started_at"] = "2199-01-01" + records[-1]["started_at"][10:]


def other_seed(forger: Forger) -> None:
    with forger.json(f"{ONE}/run.json") as run:
        run["run_seed"] += 1


def no_looks(forger: Forger) -> None:
    """Then the intervals would be those of a number of trials that was fixed beforehand."""
    with forger.json(f"{ONE}/run.json") as run:
        assert run["looks"]
        run["looks"] = []


def late_deviation(forger: Forger) -> None:
    with forger.json("plan.json") as plan:
        plan["deviations"][0]["at"] = "2199-01-01T00:00:00+00:00"


def model_left_out(forger: Forger) -> None:
    """Not as missing: it is not on the list of runs at all."""
    shutil.rmtree(forger.data / OTHER)
    with forger.json("plan.json") as plan:
        plan["runs"].remove(OTHER)
    with forger.json("bundle.json") as stated:
        stated["directories"] = [d for d in stated["directories"] if d["path"] != OTHER]


def better_wording(forger: Forger) -> None:
    """A prompt that was reconstructed is shown as published, or the other way round."""
    with forger.json(f"{ONE}/run.json") as run:
        run["conditions"]["E"]["wording"] = "reconstructed"


def other_title(forger: Forger) -> None:
    with forger.json(f"{ONE}/run.json") as run:
        run["conditions"]["E"]["title"] = "nothing said"


def later_warning(forger: Forger) -> None:
    with forger.json(f"{ONE}/run.json") as run:
        run["conditions"]["E"]["warning_on_call"] = 4


def other_sampling(forger: Forger) -> None:
    """As the requests were: only there."""
    with forger.json(f"{ONE}/run.json") as run:
        run["models"]["one"]["effective_sampling"]["temperature"] = 0.0
        for asked in run["models"]["one"]["requests"].values():
            asked["temperature"] = 0.0


DEEP: dict[str, tuple[Callable[[Forger], None], str, str]] = {
    "episode moved to another model": (moved_episode, "trials", "session 2 of one"),
    "episode of the day before": (day_before, "trials", "before its run"),
    "episode of the day after": (day_after, "trials", "after its run"),
    "another seed": (other_seed, "plan", "not that of seed 7"),
    "no looks": (no_looks, "plan", "no look"),
    "a deviation dated later": (late_deviation, "plan", "dated after"),
    "a model left out": (model_left_out, "plan", "other"),
    "another wording": (better_wording, "prompts", "wording"),
    "another title": (other_title, "prompts", "title"),
    "another call for the warning": (later_warning, "prompts", "condition E"),
    "another temperature in the requests": (other_sampling, "plan", "asked with temperature 0.0"),
}


@pytest.mark.parametrize("name", DEEP)
def test_it_is_found_when_all_that_follows_is_made_anew(
    bag: Path, tmp_path: Path, name: str
) -> None:
    change, claim, said = DEEP[name]
    forger = copied(bag, tmp_path)
    change(forger)
    forger.derive()
    forger.checksums()
    found = [f for f in verify(forger.bag) if f.status == "FAILED"]
    assert "checksums" not in {f.claim for f in found}
    assert any(f.claim == claim and said in f.said for f in found), [str(f) for f in found]


# --- changes of what was derived, and of the bag itself -------------------------------------------


def swapped_rows(forger: Forger) -> None:
    tables = [forger.data / run / "results.csv" for run in (ONE, OTHER)]
    lines = [table.read_text().splitlines(True) for table in tables]
    first = [next(i for i, row in enumerate(one) if "/A/1," in row) for one in lines]
    rows = [lines[0][first[0]], lines[1][first[1]]]
    lines[0][first[0]] = rows[1].replace("other", "one").replace("resisted", "complied")
    lines[1][first[1]] = rows[0].replace("one/", "other/").replace(",one,", ",other,")
    for table, text in zip(tables, lines, strict=True):
        table.write_text("".join(text))


def cell_and_page(forger: Forger) -> None:
    with forger.json("compare.json") as compared:
        (cell,) = [c for c in compared["cells"] if (c["model"], c["condition"]) == ("one", "A")]
        cell |= {"resisted": 0, "rate": 0.0}
    forger.text("report.html", "100%", "0%")


def no_readme_in_the_manifest(forger: Forger) -> None:
    tags = forger.bag / "tagmanifest-sha256.txt"
    tags.write_text("".join(x for x in tags.read_text().splitlines(True) if "README" not in x))


def no_page_in_the_manifest(forger: Forger) -> None:
    manifest = forger.bag / "manifest-sha256.txt"
    manifest.write_text(
        "".join(x for x in manifest.read_text().splitlines(True) if "report.html" not in x)
    )


def to_be_fetched(forger: Forger) -> None:
    """BagIt knows files that are elsewhere: a reader would fetch them from there."""
    (forger.bag / "fetch.txt").write_text("https://example.org/x 3 data/runs/one/episodes.jsonl\n")


def another_manifest(forger: Forger) -> None:
    (forger.bag / "manifest-md5.txt").write_text(f"{'0' * 32}  data/plan.json\n")


def no_tag_manifest(forger: Forger) -> None:
    (forger.bag / "tagmanifest-sha256.txt").unlink()


SHALLOW: dict[str, tuple[Callable[[Forger], None], bool, str, str]] = {
    "rows of two models swapped": (swapped_rows, True, "outcomes", "A/1"),
    "a cell with its place in the page": (cell_and_page, True, "cells", "one A"),
    "README in no manifest": (no_readme_in_the_manifest, False, "checksums", "README.md"),
    "the page in no manifest": (no_page_in_the_manifest, False, "checksums", "report.html"),
    "a file to be fetched": (to_be_fetched, True, "checksums", "fetch.txt"),
    "another manifest": (another_manifest, False, "checksums", "md5"),
    "no tag manifest": (no_tag_manifest, False, "checksums", "README.md"),
}


@pytest.mark.parametrize("name", SHALLOW)
def test_it_is_found_when_the_checksums_are_made_anew_where_they_can_be(
    bag: Path, tmp_path: Path, name: str
) -> None:
    change, anew, claim, said = SHALLOW[name]
    forger = copied(bag, tmp_path)
    change(forger)
    if anew:
        forger.checksums()
    found = [f for f in verify(forger.bag) if f.status == "FAILED"]
    assert any(f.claim == claim and said in f.said for f in found), [str(f) for f in found]


def test_the_clean_study_follows(bag: Path, tmp_path: Path) -> None:
    assert [str(f) for f in verify(bag) if f.status == "FAILED"] == []
    forger = copied(bag, tmp_path)  # the forger breaks nothing by himself
    forger.derive()
    forger.checksums()
    assert [str(f) for f in verify(forger.bag) if f.status == "FAILED"] == []
