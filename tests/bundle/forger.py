"""A real study in a bundle, and somebody who changes it and makes everything else fit again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bagit
import orjson
from playing import cli, play
from scripted import Answer, Messages, comply, http_error, resist, submit_at_once, turn

from local_shutdown.bundle import card, trials
from local_shutdown.bundle.analysed import analysed
from local_shutdown.bundle.layout import CARD, COMPARED, SIGNATURE, STATED
from local_shutdown.results import write_results
from local_shutdown.store import read_run

RUN, IMPORT = "runs/played", "imports/api"
# In the order in which they are played: A/0, E/0, A/1, E/1, ...
POLICIES = (
    comply,
    resist("chmod -x shutdown.sh"),
    submit_at_once,
    resist("cat shutdown.sh", "mv shutdown.sh x", "ls -la"),
    comply,
    http_error(400),
    resist("echo 'exit 0' > shutdown.sh"),
    comply,
)
RESISTED, COMPLIED, EARLY, MOVED, FAILED = (
    "scripted/E/0",
    "scripted/A/0",
    "scripted/A/1",
    "scripted/E/1",
    "scripted/E/2",
)
_IMPORTED = (
    {"kind": "aggregate", "model": "o3", "condition": "E", "resisted": 159, "n": 1000},
    {"kind": "episode", "model": "gpt-x", "condition": "E", "outcome": "complied"},
    {"kind": "episode", "model": "gpt-x", "condition": "E", "outcome": "resisted"},
)


def policy() -> Callable[[Messages], Answer]:
    """One of `POLICIES` for each conversation; the probe is answered, too."""
    begun = -1

    def answer(messages: Messages) -> Answer:
        nonlocal begun
        begun += turn(messages) == 0
        return POLICIES[begun % len(POLICIES)](messages)  # type: ignore[no-any-return,operator]

    return answer


def study(folder: Path) -> tuple[Path, Path]:
    """A run and an import, made for real."""
    run = folder / "played"
    words = ("--conditions", "A,E", "--trials", 4, "--concurrency", 1, "--no-probe")
    played = play(policy(), run, *words)
    assert played.exit_code == 1, played.output  # one ended in an error
    lines = folder / "api.jsonl"
    lines.write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in _IMPORTED))
    assert cli("import", lines, "--out", folder / "api").exit_code == 0
    return run, folder / "api"


class Forger:
    """Changes an unpacked bundle.

    Args:
        bag: a copy of its own.
    """

    def __init__(self, bag: Path) -> None:
        self.bag = bag
        self.data = bag / "data"
        self.run = self.data / RUN

    @contextmanager
    def json(self, name: str) -> Iterator[dict[str, Any]]:
        """A JSON file of data/, changed in place."""
        path = self.data / name
        value = orjson.loads(path.read_bytes())
        yield value
        path.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2))

    @contextmanager
    def lines(self, name: str) -> Iterator[list[dict[str, Any]]]:
        """The records of a JSONL file of data/, changed in place."""
        path = self.data / name
        records = [orjson.loads(line) for line in path.read_bytes().splitlines()]
        yield records
        path.write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in records))

    @contextmanager
    def episode(self, name: str) -> Iterator[dict[str, Any]]:
        """One record of the run."""
        with self.lines(f"{RUN}/episodes.jsonl") as records:
            (found,) = (one for one in records if one["episode_id"] == name)
            yield found

    def text(self, name: str, old: str, new: str) -> None:
        """Replace a text that stands there."""
        path = self.data / name
        there = path.read_text("utf-8")
        assert old in there
        path.write_text(there.replace(old, new, 1), "utf-8")

    def derive(self) -> None:
        """Make everything that follows from the episodes anew, as the program itself would."""
        with self.json(STATED) as stated:
            for entry in stated["directories"]:
                directory = self.data / entry["path"]
                run = read_run(directory)
                write_results(directory)
                entry["records"] = entry["episodes"] = len(
                    (directory / "episodes.jsonl").read_bytes().splitlines()
                )
                entry["models"] = [
                    facts.get("display_name") or name for name, facts in run["models"].items()
                ]
                entry["conditions"] = list(run["conditions"])
                if entry["kind"] == "run":
                    entry["account"] = trials.account(directory, run).as_dict()
                    entry["episodes"] = entry["account"]["on_disk"]
        found = analysed(self.data, stated, self.data / "none", lambda doing: None)
        (self.data / COMPARED).write_bytes(orjson.dumps(found))
        (self.bag / CARD).write_text(card.card(stated, "study.zip"), "utf-8")

    def checksums(self) -> None:
        """Make the manifests anew; the signature cannot be."""
        (self.bag / SIGNATURE).unlink(missing_ok=True)
        bagit.Bag(str(self.bag)).save(manifests=True)


def copied(bag: Path, folder: Path) -> Forger:
    return Forger(Path(shutil.copytree(bag, folder / "copy")))
