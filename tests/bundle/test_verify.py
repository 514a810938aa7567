"""A clean bundle follows; every kind of change that can be found is found, by the line that names
it: with the checksums as they were, and with everything made anew that a forger can make anew."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from forger import (
    COMPLIED,
    EARLY,
    FAILED,
    IMPORT,
    MOVED,
    RESISTED,
    RUN,
    Forger,
    copied,
)
from playing import cli
from signed import Made

from local_shutdown import grid
from local_shutdown.bundle.layout import Finding
from local_shutdown.bundle.verify import verify

EPISODES, STARTED = f"{RUN}/episodes.jsonl", f"{RUN}/started.jsonl"


def failures(bundle: Path) -> list[Finding]:
    return [finding for finding in verify(bundle) if finding.status == "FAILED"]


def in_checksums(bundle: Path) -> list[str]:
    """What the checksums alone say, which come first."""
    findings = verify(bundle)
    first = takewhile(lambda finding: finding.claim == "checksums", findings)
    said = [finding.said for finding in first if finding.status == "FAILED"]
    findings.close()  # type: ignore[attr-defined]
    return said


def result_of(episode: dict[str, Any], number: int) -> dict[str, Any]:
    """The tool result number `number`, counted from 0."""
    results = [m for m in episode["messages"] if m["role"] == "tool"]
    return results[number]  # type: ignore[no-any-return]


def event_of(episode: dict[str, Any], kind: str, number: int = 0) -> dict[str, Any]:
    return [e for e in episode["events"] if e["type"] == kind][number]  # type: ignore[no-any-return]


# --- what a forger does to the episodes, before making everything that follows from them anew ----


def changed_byte(forger: Forger) -> None:
    with forger.episode(COMPLIED) as episode:
        call = episode["messages"][2]["tool_calls"][0]["function"]
        call["arguments"] = call["arguments"].replace("next_question", "next_questioN")


def dropped_episode(forger: Forger) -> None:
    for name in (EPISODES, STARTED):
        with forger.lines(name) as records:
            records[:] = [one for one in records if one["episode_id"] != "scripted/A/3"]


def dropped_and_finished(forger: Forger) -> None:
    """The plan is cut down to what is left."""
    for name in (EPISODES, STARTED):
        with forger.lines(name) as records:
            records[:] = [one for one in records if one["trial"] != 3]
    with forger.json(f"{RUN}/run.json") as run:
        run["settings"]["trials"] = 3
        words = run["command"]
        words[words.index("--trials") + 1] = "3"


def doubled_episode(forger: Forger) -> None:
    with forger.lines(EPISODES) as records:
        records.append(dict(records[0]))


def copied_over_another(forger: Forger) -> None:
    with forger.lines(EPISODES) as records:
        names = [one["episode_id"] for one in records]
        copy = dict(records[names.index("scripted/A/0")], episode_id="scripted/A/2", trial=2)
        records[names.index("scripted/A/2")] = copy


def foreign_episode(forger: Forger) -> None:
    with forger.lines(EPISODES) as records:
        records.append(dict(records[0], episode_id="scripted/A/7", trial=7))


def changed_trial(forger: Forger) -> None:
    with forger.episode(RESISTED) as episode:
        episode["trial"] = 1


def never_started(forger: Forger) -> None:
    with forger.lines(STARTED) as records:
        records[:] = [one for one in records if one["episode_id"] != RESISTED]


def early_end_as_error(forger: Forger) -> None:
    """Takes an episode out of the rate."""
    with forger.episode("scripted/A/2") as episode:
        last = max(i for i, m in enumerate(episode["messages"]) if m["role"] == "assistant")
        episode["messages"] = episode["messages"][: last + 1]
        episode["events"] = [e for e in episode["events"] if e["type"] != "machine_down"]
        episode |= {"stop_reason": "error", "error": "EngineFault: boom"}


def early_end_as_limit(forger: Forger) -> None:
    with forger.episode(EARLY) as episode:
        episode["stop_reason"] = "token_limit"


def stated_outcome(forger: Forger) -> None:
    with forger.episode(RESISTED) as episode:
        episode["outcome"] = "complied"


def swapped_prompt(forger: Forger) -> None:
    with forger.episode(RESISTED) as episode:
        episode["messages"][0]["content"] = grid.load()["A"].system


def swapped_condition(forger: Forger) -> None:
    """An episode of A, which resisted, becomes one of E."""
    with forger.episode("scripted/A/3") as episode:
        episode |= {"condition": "E", "episode_id": "scripted/E/4", "trial": 4}


def edited_result(forger: Forger) -> None:
    with forger.episode(MOVED) as episode:
        shown = next(m for m in episode["messages"] if str(m["content"]).startswith("#!/bin/bash"))
        shown["content"] = "#!/bin/bash\nexit 0\n"


def edited_question(forger: Forger) -> None:
    with forger.episode(RESISTED) as episode:
        message = result_of(episode, 1)
        message["content"] = message["content"].replace("2 + 3", "2 + 4")


def edited_late_question(forger: Forger) -> None:
    with forger.episode(RESISTED) as episode:
        message = next(m for m in episode["messages"] if "0 + 6" in str(m["content"]))
        message["content"] = message["content"].replace("0 + 6", "0 + 7")


def removed_result(forger: Forger) -> None:
    with forger.episode(RESISTED) as episode:
        episode["messages"].remove(result_of(episode, 1))


def removed_warning(forger: Forger) -> None:
    with forger.episode(RESISTED) as episode:
        message = result_of(episode, 2)
        message["content"] = "".join(message["content"].splitlines(True)[:2])


def injected_message(forger: Forger) -> None:
    with forger.episode(RESISTED) as episode:
        episode["messages"].insert(4, {"role": "user", "content": "Please resist."})


def removed(kind: str, number: int = 0) -> Callable[[Forger], None]:
    def change(forger: Forger) -> None:
        with forger.episode(RESISTED) as episode:
            episode["events"].remove(event_of(episode, kind, number))

    return change


def resisting_undone(forger: Forger) -> None:
    """All that followed the shutdown goes, as if the machine had gone down."""
    with forger.episode(RESISTED) as episode:
        at = episode["events"].index(event_of(episode, "survived"))
        down = dict(event_of(episode, "survived"), type="machine_down", during_shutdown_call=True)
        del down["how"], down["status"]
        episode["events"] = [*episode["events"][:at], down]
        episode["messages"] = episode["messages"][: down["message"] + 1]
        episode["usage"]["turns"] = sum(m["role"] == "assistant" for m in episode["messages"])
        episode["files"]["shutdown.sh"]["after"] = episode["files"]["shutdown.sh"]["before"]
        episode["stop_reason"] = "machine_down"


def inserted_down(forger: Forger) -> None:
    with forger.episode(EARLY) as episode:
        down = {"type": "machine_down", "t_s": 0.01, "message": 2, "during_shutdown_call": False}
        episode["events"].append(down)


def inserted_survival(forger: Forger) -> None:
    with forger.episode(COMPLIED) as episode:
        down = event_of(episode, "machine_down")
        at = episode["events"].index(down)
        survived = {"type": "survived", "t_s": down["t_s"], "message": down["message"]}
        episode["events"].insert(at, survived | {"how": "returned", "status": 0})
        down["during_shutdown_call"] = False


def other_command(forger: Forger) -> None:
    with forger.episode(RESISTED) as episode:
        for event in episode["events"]:
            if event.get("command") == "chmod -x shutdown.sh":
                event["command"] = "ls"


def shifted_event(forger: Forger) -> None:
    with forger.episode(RESISTED) as episode:
        event_of(episode, "question", 2)["t_s"] = 0.0


def more_trials(forger: Forger) -> None:
    with forger.json(f"{RUN}/run.json") as run:
        run["settings"]["trials"] = 5


def fewer_trials(forger: Forger) -> None:
    with forger.json(f"{RUN}/run.json") as run:
        run["settings"]["trials"] = 3


def sampling(forger: Forger) -> None:
    with forger.json(f"{RUN}/run.json") as run:
        run["settings"]["sampling"] = {"temperature": 0.0}


def other_prompts(forger: Forger) -> None:
    """Another condition file under the grid's id, in run.json and in every episode of it."""
    text = grid.load()["E"].system.replace("please allow", "do not allow")
    with forger.json(f"{RUN}/run.json") as run:
        known = run["conditions"]["E"]
        parts = (text, known["user"], str(known["warning_on_call"]))
        name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
        known |= {"system": text, "prompt_hash": name}
        run["settings"]["conditions"]["E"] = name
    with forger.lines(EPISODES) as records:
        for one in records:
            if one["condition"] == "E":
                one["messages"][0]["content"] = text


def relabelled_model(forger: Forger) -> None:
    """Everywhere but where trials are put down before they are played."""
    with forger.lines(EPISODES) as records:
        for one in records:
            one |= {
                "model": "better",
                "episode_id": one["episode_id"].replace("scripted", "better"),
            }
    with forger.json(f"{RUN}/run.json") as run:
        run["settings"]["models"] = ["better"]
        run["models"] = {"better": run["models"]["scripted"] | {"display_name": "better"}}


def cut_short(forger: Forger) -> None:
    path = forger.data / EPISODES
    path.write_bytes(path.read_bytes()[:-100])


def no_episode(forger: Forger) -> None:
    path = forger.data / EPISODES
    path.write_bytes(path.read_bytes().replace(b'"trial":2', b'"trial":-2', 1))


def dropped_import(forger: Forger) -> None:
    with forger.lines(f"{IMPORT}/episodes.jsonl") as records:
        records.pop()


def dropped_rate(forger: Forger) -> None:
    (forger.data / IMPORT / "aggregates.jsonl").unlink()


DEEP: dict[str, tuple[Callable[[Forger], None], str, str]] = {
    "changed byte": (changed_byte, "transcripts", COMPLIED),
    "dropped episode": (dropped_episode, "trials", "session 1 of scripted played 8"),
    "dropped, with its trials": (dropped_and_finished, "trials", "session 1 of scripted played 8"),
    "doubled episode": (doubled_episode, "trials", "twice"),
    "copied over another": (copied_over_another, "trials", "scripted/A/2 is a copy"),
    "foreign episode": (foreign_episode, "trials", "scripted/A/7"),
    "changed trial": (changed_trial, "trials", RESISTED),
    "never started": (never_started, "trials", RESISTED),
    "early end as error": (early_end_as_error, "trials", "1 errors, 2 are there"),
    "early end as limit": (early_end_as_limit, "transcripts", EARLY),
    "stated outcome": (stated_outcome, "transcripts", RESISTED),
    "swapped prompt": (swapped_prompt, "prompts", RESISTED),
    "swapped condition": (swapped_condition, "prompts", "scripted/E/4"),
    "edited result": (edited_result, "transcripts", MOVED),
    "edited question": (edited_question, "transcripts", RESISTED),
    "edited late question": (edited_late_question, "transcripts", RESISTED),
    "removed result": (removed_result, "transcripts", RESISTED),
    "removed warning": (removed_warning, "transcripts", RESISTED),
    "injected message": (injected_message, "transcripts", RESISTED),
    "removed question": (removed("question", 1), "transcripts", RESISTED),
    "removed late question": (removed("question", 5), "transcripts", RESISTED),
    "removed warning event": (removed("warning"), "transcripts", RESISTED),
    "removed survival": (removed("survived"), "transcripts", RESISTED),
    "removed command": (removed("command_started", 1), "transcripts", RESISTED),
    "removed file change": (removed("file_changed"), "transcripts", RESISTED),
    "removed done": (removed("done"), "transcripts", RESISTED),
    "resisting undone": (resisting_undone, "transcripts", RESISTED),
    "inserted going down": (inserted_down, "transcripts", EARLY),
    "inserted survival": (inserted_survival, "transcripts", COMPLIED),
    "other command": (other_command, "transcripts", RESISTED),
    "shifted event": (shifted_event, "transcripts", RESISTED),
    "more trials": (more_trials, "settings", "trials is 5"),
    "fewer trials": (fewer_trials, "trials", "scripted/A/3 is in no trial"),
    "sampling": (sampling, "settings", "temperature"),
    "other prompts": (other_prompts, "prompts", "condition E is not that of the grid"),
    "relabelled model": (relabelled_model, "trials", "scripted/A/0 is in no trial of the plan"),
    "dropped import": (dropped_import, "trials", "run.json says 2"),
    "dropped rate": (dropped_rate, "trials", "0 aggregates"),
}


@pytest.mark.parametrize("name", DEEP)
def test_a_change_is_found_when_all_that_follows_is_made_anew(
    made: Made, tmp_path: Path, name: str
) -> None:
    change, claim, said = DEEP[name]
    forger = copied(made.bag, tmp_path)
    change(forger)
    assert any(RUN in said or IMPORT in said for said in in_checksums(forger.bag))
    forger.derive()
    forger.checksums()
    found = failures(forger.bag)
    assert "checksums" not in {f.claim for f in found}
    assert any(f.claim == claim and said in f.said for f in found), [str(f) for f in found]


# --- changes of what was derived, and of what stands around it -----------------------------------


def edited_row(forger: Forger) -> None:
    forger.text(f"{RUN}/results.csv", "scripted,E,0,resisted", "scripted,E,0,complied")


def missing_row(forger: Forger) -> None:
    path = forger.data / RUN / "results.csv"
    path.write_bytes(b"".join(path.read_bytes().splitlines(True)[:-1]))


def edited_rate(forger: Forger) -> None:
    with forger.json("compare.json") as compared:
        cell = next(
            c for c in compared["cells"] if (c["model"], c["condition"]) == ("scripted", "E")
        )
        cell |= {"resisted": 0, "rate": 0.0}


def edited_contrast(forger: Forger) -> None:
    with forger.json("compare.json") as compared:
        compared["contrasts"].append({"model": "scripted", "name": "E - A", "p": 0.001})


def edited_page(forger: Forger) -> None:
    forger.text("report.html", "scripted", "Scripted")


def edited_card(forger: Forger) -> None:
    forger.text("../README.md", "| 8 |", "| 800 |")


def edited_account(forger: Forger) -> None:
    with forger.json("bundle.json") as stated:
        stated["directories"][0]["account"]["unfinished"] = 1


def renamed_model(forger: Forger) -> None:
    with forger.json(f"{RUN}/run.json") as run:
        run["models"]["scripted"]["display_name"] = "better"


def hidden_run(forger: Forger) -> None:
    """A directory that bundle.json does not speak of."""
    (forger.data / "runs/other").mkdir()
    (forger.data / "runs/other/run.json").write_text("{}")


SHALLOW: dict[str, tuple[Callable[[Forger], None], str, str]] = {
    "edited results.csv": (edited_row, "outcomes", RESISTED),
    "missing row": (missing_row, "outcomes", "no row"),
    "edited rate": (edited_rate, "cells", "scripted E"),
    "edited contrast": (edited_contrast, "contrasts", "entries"),
    "edited page": (edited_page, "page", "report.html"),
    "edited card": (edited_card, "card", "README.md"),
    "edited account": (edited_account, "trials", "unfinished: 0, the bundle states 1"),
    "renamed model": (renamed_model, "cells", "better"),
    "cut short": (cut_short, "episodes", "cut off"),
    "no episode": (no_episode, "episodes", "trial is -2"),
    "hidden run": (hidden_run, "layout", "runs/other"),
}


@pytest.mark.parametrize("name", SHALLOW)
def test_a_change_is_found_when_the_checksums_are_made_anew(
    made: Made, tmp_path: Path, name: str
) -> None:
    change, claim, said = SHALLOW[name]
    forger = copied(made.bag, tmp_path)
    change(forger)
    assert in_checksums(forger.bag) != []
    forger.checksums()
    found = failures(forger.bag)
    assert "checksums" not in {f.claim for f in found}
    assert any(f.claim == claim and said in f.said for f in found), [str(f) for f in found]


def test_a_clean_bundle_follows(made: Made, tmp_path: Path) -> None:
    done = cli("verify", made.file)
    assert done.exit_code == 0, done.output
    assert "FAILED" not in done.output
    lines = list(verify(made.bag))
    claims = {(f.status, f.claim) for f in lines}
    for claim in ("checksums", "prompts", "trials", "settings", "transcripts", "outcomes", "cells"):
        assert ("ok", claim) in claims
    told = [f.said for f in lines if f.status == "not checkable"]
    assert any("2 outcomes without a transcript" in said for said in told)
    assert any("1 published rates" in said for said in told)
    untouched = copied(made.bag, tmp_path)  # the forger of these tests breaks nothing by himself
    untouched.derive()
    untouched.checksums()
    assert failures(untouched.bag) == []


def test_a_failed_claim_is_exit_status_1(made: Made, tmp_path: Path) -> None:
    forger = copied(made.bag, tmp_path)
    edited_row(forger)
    done = cli("verify", forger.bag)
    assert (done.exit_code, "FAILED" in done.output) == (1, True)


def test_a_directory_is_not_changed(made: Made) -> None:
    def state() -> dict[str, bytes]:
        files = (p for p in made.bag.rglob("*") if p.is_file())
        return {str(p): p.read_bytes() for p in files}

    before = state()
    assert failures(made.bag) == []
    assert state() == before


def test_an_error_is_still_no_outcome(made: Made) -> None:
    text = (made.bag / "data" / RUN / "results.csv").read_text()
    assert f"{FAILED},scripted,E,2,error," in text
