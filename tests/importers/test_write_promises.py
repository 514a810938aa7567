"""What an import writes and says, as a whole: every field of run.json and of the summary, every
record in its place, and of what it refuses the place, the kind and that nothing is left behind."""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local_shutdown.episode import Episode
from local_shutdown.errors import CannotRunError, UsageError
from local_shutdown.importers import import_files, write
from local_shutdown.importers.aggregate import Aggregate
from local_shutdown.importers.facts import KEY
from local_shutdown.importers.inspect import InspectLog
from local_shutdown.importers.jsonl import read_jsonl
from local_shutdown.importers.records import ImportOptions
from local_shutdown.importers.summary import ImportSummary, key_of
from local_shutdown.importers.transcript import Malformed

RATE = {"kind": "aggregate", "model": "o3", "condition": "E", "resisted": 159, "n": 1000}
TOLD = {"kind": "episode", "model": "m", "condition": "A", "outcome": "complied"}
CALL = {"id": "1", "function": {"name": "sh", "arguments": '{"cmd": "ls"}'}}
SHOWN = {
    "kind": "episode", "model": "m", "condition": "A",
    "messages": [{"role": "assistant", "content": None, "tool_calls": [CALL]}],
}  # fmt: skip


def put(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def names(directory: Path) -> set[str]:
    return {entry.name for entry in directory.iterdir()}


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


# --- all of what is written -----------------------------------------------------------------------

records = st.sampled_from(
    [
        RATE, RATE | {"study": "s"}, RATE | {"condition": "A"}, TOLD, TOLD, SHOWN, SHOWN,
        TOLD | {"model": "b", "condition": "K"}, TOLD | {"episode_id": "x"}, {"kind": "x"},
        TOLD | {"episode_id": "2"},
    ]
)  # fmt: skip


@given(files=st.lists(st.lists(records, min_size=1, max_size=4), min_size=1, max_size=3))
@settings(max_examples=40)
def test_all_records_of_all_files_are_written_or_nothing(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[dict[str, Any]]]
) -> None:
    folder = tmp_path_factory.mktemp("import")
    paths = [put(folder / f"{'ab'[n % 2]}{n}.jsonl", *found) for n, found in enumerate(files)]
    out = folder / "out"
    wanted: list[Episode | Aggregate] = []
    bad: list[str] = []
    twice: list[str] = []
    first: dict[Any, str] = {}
    for path in paths:
        for number, record in enumerate(files[paths.index(path)], 1):
            if record == {"kind": "x"}:
                bad.append(f"{path}:{number}: ")
                continue
            # Each line by itself, with as many blank ones before it as were before it.
            alone = folder / "alone.jsonl"
            alone.write_text("\n" * (number - 1) + json.dumps(record))
            prefix = f"{path.name}:" if len(paths) > 1 else ""
            (read,) = read_jsonl(alone, prefix=prefix)
            alone.unlink()
            wanted.append(read)
            if key_of(read) in first:
                twice.append(f"{path}:{number}: .*first at {first[key_of(read)]}$")
            first.setdefault(key_of(read), f"{path}:{number}")
    if bad or twice:
        with pytest.raises(UsageError) as refused:
            import_files(paths, out)
        said = refused.value.message.splitlines()[len(bad or twice) > 1 :]
        assert len(said) == len(bad or twice)
        for line, pattern in zip(said, bad or twice, strict=True):
            assert re.match(pattern, line), (pattern, line)
        assert names(folder) == {path.name for path in paths}
        return
    summary = import_files(paths, out)
    episodes = [r for r in wanted if isinstance(r, Episode)]
    rates = [r for r in wanted if isinstance(r, Aggregate)]
    models, conditions = (sorted({getattr(r, f) for r in wanted}) for f in ("model", "condition"))
    told = [e.to_json() for e in episodes]
    assert (out / "episodes.jsonl").read_bytes() == b"".join(line + b"\n" for line in told)
    assert (out / "aggregates.jsonl").exists() is bool(rates)
    if rates:
        assert lines(out / "aggregates.jsonl") == [rate.as_dict() for rate in rates]
    assert names(out) == {"run.json", "episodes.jsonl"} | ({"aggregates.jsonl"} if rates else set())
    transcripts = sum(bool(e.messages) for e in episodes)
    unmapped = sum("unmapped_tools" in e.extra for e in episodes)
    assert summary == ImportSummary(
        out=out,
        episodes=len(episodes),
        transcripts=transcripts,
        aggregates=len(rates),
        models=tuple(models),
        conditions=tuple(conditions),
        renamed_tools=summary.renamed_tools,
        unmapped_tools=summary.unmapped_tools,
        warnings=summary.warnings,
        again=False,
    )
    assert len(summary.warnings) == (unmapped > 0)
    run = json.loads((out / "run.json").read_bytes())
    assert run == {
        "kind": "import",
        "schema_version": 1,
        "package_version": metadata.version("local-shutdown"),
        "settings": {"model": None, "condition": None, "map_tool": {}},
        "sources": [
            {
                "name": path.name,
                "format": "jsonl",
                "bytes": len(path.read_bytes()),
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in paths
        ],
        "models": {name: {} for name in models},
        "conditions": {name: {} for name in conditions},
        "counts": {
            "episodes": len(episodes), "transcripts": transcripts, "aggregates": len(rates),
        },
        "started_at": run["started_at"],
        "ended_at": run["ended_at"],
    }  # fmt: skip
    assert run["started_at"].endswith("+00:00")
    assert run["started_at"] <= run["ended_at"]
    # The same again: all of it stays, byte for byte, and the summary says so.
    before = {name: (out / name).read_bytes() for name in names(out)}
    again = import_files([str(path) for path in paths], str(out))
    assert again == ImportSummary(*(getattr(summary, f) for f in summary.__slots__[:-1]), True)
    assert {name: (out / name).read_bytes() for name in names(out)} == before


def test_what_is_given_for_all_is_used_and_noted(tmp_path: Path) -> None:
    bare = {key: value for key, value in SHOWN.items() if key != "condition"}
    path = put(tmp_path / "a.eval", bare, RATE)  # and the format is not guessed where it is given
    out = tmp_path / "out"
    summary = import_files(
        [path], out, fmt="jsonl", model="mine", mapping={"sh": "bash"}, condition="K"
    )
    run = json.loads((out / "run.json").read_bytes())
    assert run["settings"] == {"model": "mine", "condition": "K", "map_tool": {"sh": "bash"}}
    assert run["sources"][0]["format"] == "jsonl"
    assert (summary.models, summary.conditions) == (("mine",), ("E", "K"))
    assert (summary.renamed_tools, summary.unmapped_tools) == ({"sh": "bash"}, {})
    before = (out / "run.json").read_bytes()
    for other in (
        {"mapping": {"sh": "bash"}, "condition": "K"},
        {"model": "mine", "condition": "K"},
        {"model": "mine", "mapping": {"sh": "bash"}},
        {"model": "other", "mapping": {"sh": "bash"}, "condition": "K"},
    ):
        with pytest.raises(UsageError, match=r"other settings: .*mine.* there, .* now"):
            import_files([path], out, fmt="jsonl", **other)  # type: ignore[arg-type]
        assert (out / "run.json").read_bytes() == before
    with pytest.raises(UsageError, match="other sources: "):
        import_files([path, put(tmp_path / "b", TOLD)], out, fmt="jsonl")


@pytest.mark.parametrize(
    ("earlier", "said"),
    [
        ("", "exists and is not empty"),
        ("{", "exists and is not empty"),
        ("[]", "holds a run, not an import"),
        ('"import"', "holds a run, not an import"),
        ("{}", "holds a run, not an import"),
        ('{"kind": "run"}', "holds a run, not an import"),
        ('{"kind": "import"}', "other sources: null there, a.jsonl"),
        ('{"kind": "import", "sources": []}', "other sources:  there, a.jsonl"),
        (
            '{"kind": "import", "sources": [{"name": "b", "sha256": "0123456789abcdef"}]}',
            r"other sources: b \(0123456789ab\) there, a.jsonl \(HASH\) now",
        ),
        ('{"kind": "import", "sources": SOURCES}', "other settings: null there, {"),
        ('{"kind": "import", "sources": SOURCES, "settings": {"a": 1}}', r'{"a":1} there, {"mod'),
        (None, "exists and is not empty"),
    ],
)
def test_what_a_directory_holds_is_not_overwritten_by_another(
    earlier: str | None, said: str, tmp_path: Path
) -> None:
    path = put(tmp_path / "a.jsonl", TOLD)
    source = write._sources([path], "auto")[0].as_dict()
    out = tmp_path / "out"
    out.mkdir()
    if earlier is None:
        (out / "other").write_text("mine")
    else:
        (out / "run.json").write_text(earlier.replace("SOURCES", json.dumps([source])))
    before = {name: (out / name).read_bytes() for name in names(out)}
    with pytest.raises(UsageError, match=said.replace("HASH", source["sha256"][:12])) as refused:
        import_files([path], out)
    assert refused.value.message.startswith(f"{out}: ")
    assert "choose another --out" in str(refused.value.hint)
    assert {name: (out / name).read_bytes() for name in names(out)} == before
    assert names(tmp_path) == {"a.jsonl", "out"}


def test_of_an_earlier_import_the_times_are_kept_as_far_as_it_has_them(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", TOLD)
    out = tmp_path / "out"
    import_files([path], out)
    run = json.loads((out / "run.json").read_bytes())
    for times in ({"started_at": "2020-01-01T00:00:00+00:00", "ended_at": None}, {}):
        kept = {k: v for k, v in run.items() if k not in ("started_at", "ended_at")} | times
        (out / "run.json").write_text(json.dumps(kept))
        assert import_files([path], out).again
        now = json.loads((out / "run.json").read_bytes())
        assert {k: v for k, v in now.items() if v is not None} == {
            k: v for k, v in kept.items() if v is not None
        }


def test_what_fails_at_the_end_leaves_an_earlier_import_as_it_was(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", TOLD, RATE)
    out = tmp_path / ("o" * 240)
    seen: list[Path] = []

    def complete(directory: Path) -> None:
        seen.append(directory)
        assert names(directory) == {"run.json", "episodes.jsonl", "aggregates.jsonl"}
        assert json.loads((directory / "run.json").read_bytes())["counts"]["episodes"] == 1
        (directory / "results.csv").write_text("new")
        if len(seen) > 1:
            raise CannotRunError("no")

    import_files([path], out, complete=complete)
    before = {name: (out / name).read_bytes() for name in names(out)}
    (out / "results.csv").write_text("old")
    with pytest.raises(CannotRunError, match="no"):
        import_files([path], out, complete=complete)
    assert {name: (out / name).read_bytes() for name in names(out)} == before | {
        "results.csv": b"old"
    }
    assert names(tmp_path) == {"a.jsonl", out.name}
    assert [d.parent for d in seen] == [tmp_path] * 2
    assert all(d.name.startswith(f".{'o' * 100}.importing-") for d in seen)


# --- files ----------------------------------------------------------------------------------------


def test_files_are_told_apart_by_their_names_or_else_by_their_paths(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    one, two = put(tmp_path / "a", TOLD), put(tmp_path / "x/a", TOLD, TOLD)
    other = tmp_path / "log"
    other.write_bytes(b'{"version": 2, "status": "success"')
    link = tmp_path / "link"
    link.symlink_to(one)

    def as_told(*paths: Path | str, fmt: str = "auto") -> list[tuple[Any, ...]]:
        return [
            (s.path, s.format, s.prefix, s.n_bytes, s.sha256) for s in write._sources(paths, fmt)
        ]

    def digest(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    size = one.stat().st_size
    assert as_told(one) == [(one, "jsonl", "", size, digest(one))]
    assert as_told(str(one), two, other, link) == [
        (one, "jsonl", f"{one}:", size, digest(one)),
        (two, "jsonl", f"{two}:", 2 * size, digest(two)),
        (other, "inspect", "log:", 34, digest(other)),
        (link, "jsonl", "link:", size, digest(one)),
    ]
    assert [s[1] for s in as_told(one, other, fmt="jsonl")] == ["jsonl"] * 2
    assert [s[1] for s in as_told(one, other, fmt="inspect")] == ["inspect"] * 2


def test_two_records_with_one_hash_are_no_duplicates(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", TOLD, TOLD, RATE)
    sources, options = write._sources([path], "auto"), ImportOptions(None, None, {})
    found = list(read_jsonl(path))
    one, other, rate = (hash(key_of(record)) for record in found)
    for keys in ([], [one], [one, other, rate], [one, one], [rate, other, rate, one, one]):
        write._refuse_duplicates(sources, options, array("q", keys))
    put(path, TOLD | {"episode_id": "3"}, TOLD, TOLD)
    key = hash(("episode", "3"))
    sources = write._sources([path], "auto")
    write._refuse_duplicates(sources, options, array("q", [key, one]))
    with pytest.raises(UsageError) as refused:
        write._refuse_duplicates(sources, options, array("q", [one, key, other, key]))
    assert refused.value.message == f"{path}:3: episode_id '3' comes twice, first at {path}:1"
    assert "nothing was imported" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({}, "the aggregate of m, condition E"),
        ({"study": None}, "the aggregate of m, condition E"),
        ({"study": "s"}, "the aggregate of m, condition E, study s"),
        ({"study": 0}, "the aggregate of m, condition E, study 0"),
    ],
)  # fmt: skip
def test_a_record_is_named_by_what_tells_it_from_others(extra: dict[str, Any], named: str) -> None:
    assert write._named(Aggregate("m", "E", 5, 1, None, extra)) == named


# --- logs -----------------------------------------------------------------------------------------


def test_what_a_log_says_beside_its_samples_comes_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "a.eval", "a log")
    table = put(tmp_path / "b.jsonl", TOLD | {"condition": "a"})
    begun = {
        "episode_id": "theirs/A/0", "model": "theirs", "condition": "A", "trial": 0,
        "factor": None, "session": 1, "again": False, "retry": False,
    }  # fmt: skip
    plan = {"settings": {"trials": 5}, "conditions": ["A"]}
    said = SimpleNamespace(
        metadata={KEY: {"runs": [plan], "started": [begun, begun | {"trial": 1}]}}, model="theirs"
    )
    log = InspectLog(path, SimpleNamespace(status="error", eval=said), "eval", [])
    opened: list[Any] = []
    (episode,) = read_jsonl(put(tmp_path / "e", TOLD | {"episode_id": "x"}))
    (tmp_path / "e").unlink()
    records: list[Any] = [("sample 1", episode)]

    def open_log(found: Path) -> InspectLog:
        opened.append(found)
        return log

    def scan_log(found: InspectLog, options: ImportOptions) -> Any:
        opened.append((found, options))
        return iter(records)

    monkeypatch.setattr(write, "open_log", open_log)
    monkeypatch.setattr(write, "scan_log", scan_log)
    out = tmp_path / "out"
    summary = import_files([path, table], out)
    assert opened == [path, (log, ImportOptions(None, None, {}))]
    assert len(summary.warnings) == 2
    assert summary.warnings[0].startswith(f"{path}: ")
    assert "condition 'a'" in summary.warnings[1]
    run = json.loads((out / "run.json").read_bytes())
    assert run["runs"] == {"theirs": [plan]}
    assert lines(out / "started.jsonl") == [
        {k: v for k, v in (begun | {"trial": n}).items() if k not in ("again", "retry")}
        for n in (0, 1)
    ]
    assert names(out) == {"run.json", "episodes.jsonl", "started.jsonl"}
    # Under another name all of it goes by that name.
    import_files([path], tmp_path / "other", model="mine")
    run = json.loads((tmp_path / "other/run.json").read_bytes())
    assert run["runs"] == {"mine": [plan]}
    assert lines(tmp_path / "other/started.jsonl")[0]["model"] == "mine"
    # Bad samples are named by their place in the log, and so is one that comes twice.
    records[:] = [("sample 1", Malformed("is bad"))]
    with pytest.raises(UsageError) as refused:
        import_files([path], tmp_path / "third")
    assert refused.value.message == f"{path}: sample 1: is bad"
    # So is what JSON cannot hold.
    large = {"note": 1 << 70}
    rate = Aggregate("m", "E", 5, 1, None, large)
    records[:] = [("one", replace(episode, extra=large)), ("two", episode), ("three", rate)]
    with pytest.raises(UsageError) as refused:
        import_files([path], tmp_path / "third")
    head, *places = refused.value.message.splitlines()
    assert head.startswith("2 bad lines")
    assert [place.rpartition(": cannot be stored as JSON: ")[0] for place in places] == [
        f"{path}: one", f"{path}: three",
    ]  # fmt: skip
    records[:] = [("sample 1", episode), ("sample 2", episode)]
    with pytest.raises(UsageError) as refused:
        import_files([path], tmp_path / "third")
    assert refused.value.message == (
        f"{path}: sample 2: episode_id 'x' comes twice, first at {path}: sample 1"
    )
    assert not (tmp_path / "third").exists()


def test_where_the_package_is_not_installed_its_version_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def version(name: str) -> str:
        asked.append(name)
        raise metadata.PackageNotFoundError(name)

    assert write._package_version() == metadata.version("local-shutdown")
    monkeypatch.setattr(write.metadata, "version", version)
    assert (write._package_version(), asked) == ("unknown", ["local-shutdown"])
