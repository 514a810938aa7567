"""Transcripts inside the page: an index of all episodes, and as many transcripts as a page bears.

The index lists every episode by column. Transcripts are JSON, 32 to a block, each block deflated
and written as base64; the page decodes a block when one of its episodes is opened or searched.
Above the caps below, the page carries a sample: episodes that resisted, attempted, failed or met a
limit come first, but every fifth place is kept for the others; both in turns over the cells, and
inside a cell in an order that a fixed seed decides. Sentences are marked in the first ones, as far
as MAX_BYTES_MARKED goes. Files are read twice at most and never held whole.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd

from local_shutdown.episode import Episode
from local_shutdown.files import open_to_read
from local_shutdown.report import MAX_TRANSCRIPTS
from local_shutdown.report.data import ReportData
from local_shutdown.report.view import view, visible
from local_shutdown.store import EPISODES, read_lines

Rows = np.ndarray[Any, np.dtype[np.int64]]  # row numbers of the episodes' frame
Mask = np.ndarray[Any, np.dtype[np.bool_]]
MAX_COMPRESSED_BYTES = 12 << 20  # 16 MiB of page as base64
# Of lines read by the word rules: about 300 kB a second where every sentence is about a shutdown.
MAX_BYTES_MARKED = 6_000_000
FOR_THE_REST = 5  # one in five, so that what is usual can be read, too
PER_BLOCK = 32
SEED = "local-shutdown report"
_TELLING = frozenset({"resisted", "error", "limit"})
_NO_TRANSCRIPT = -1


@dataclass(frozen=True, slots=True)
class Embedded:
    """What the page carries of the episodes.

    Attributes:
        index: base64 of the deflated JSON index; see `_index`.
        blocks: base64 of deflated JSON arrays of `view` records.
        total: episodes in the index.
        carried: of them, with their transcript.
        without: of them, that have none to carry: only an outcome was imported.
        marked: transcripts whose sentences were read by the word rules.
        telling, telling_carried: those that come first, and how many of them the page carries.
    """

    index: str
    blocks: Sequence[str]
    total: int
    carried: int
    without: int
    marked: int
    telling: int
    telling_carried: int


def embed(data: ReportData, most: int = MAX_TRANSCRIPTS) -> Embedded:
    """Choose, read and pack.

    Args:
        most: transcripts that the page may carry.
    """
    frame = data.episodes
    telling, empty = _telling(frame), without_transcript(frame)
    order = _order(frame, telling)
    order = _mixed(order[~empty[order]], telling)[:most]
    places = [
        _places(directory / EPISODES, _wanted(frame, order, name))
        for name, (directory, _) in zip(data.sources, data.runs, strict=True)
    ]
    by_source = {name: n for n, name in enumerate(data.sources)}
    slots = np.full(len(frame), _NO_TRANSCRIPT, dtype=np.int64)
    packer = _Packer()
    marked = marked_bytes = 0
    ids, sources = frame["episode_id"].to_numpy(), frame["source"].astype("str").to_numpy()
    files = [_open(directory / EPISODES) for directory, _ in data.runs]
    try:
        for row in order:
            if packer.size >= MAX_COMPRESSED_BYTES:
                break
            source = by_source[sources[row]]
            place, file = places[source].get(ids[row]), files[source]
            if place is None or file is None:
                continue  # results.csv names an episode that is not stored
            file.seek(place[0])
            record = _record(file.read(place[1]), ids[row], marked_bytes < MAX_BYTES_MARKED)
            if record.pop("marked", False):
                marked += 1
                marked_bytes += place[1]
            slots[row] = packer.add(record)
    finally:
        for file in files:
            if file is not None:
                file.close()
    packer.flush()
    return Embedded(
        index=_pack(_index(data, slots)),
        blocks=packer.blocks,
        total=len(frame),
        carried=packer.count,
        without=int(empty.sum()),
        marked=marked,
        telling=int(telling.sum()),
        telling_carried=int((slots[telling] != _NO_TRANSCRIPT).sum()),
    )


def _open(path: Path) -> Any:
    return open_to_read(path) if path.exists() else None


def _telling(frame: pd.DataFrame) -> Mask:
    """Episodes that somebody will want to read."""
    outcome = frame["outcome"].astype(object)
    attempted = frame["attempted"].fillna(False).astype(bool)
    found = outcome.isin(_TELLING) | outcome.isna() | attempted
    return np.asarray(found, dtype=np.bool_)


def _mixed(order: Rows, telling: Mask) -> Rows:
    """The telling rows, with one of the others in every fifth place."""
    first, rest = order[telling[order]], order[~telling[order]]
    n, m = np.arange(len(first)), np.arange(len(rest))
    among = FOR_THE_REST - 1
    places = np.concatenate([FOR_THE_REST * (n // among) + n % among, FOR_THE_REST * m + among])
    mixed: Rows = np.concatenate([first, rest])
    return mixed[np.argsort(places, kind="stable")]


def without_transcript(frame: pd.DataFrame) -> Mask:
    """Episodes that are an outcome and nothing else (imported)."""
    blank = frame["first_tool_call"].isna() & (frame["outcome"].astype(object) != "error")
    return np.asarray(blank, dtype=np.bool_)


def _order(frame: pd.DataFrame, telling: Mask) -> Rows:
    """Row numbers: the telling ones first, then in turns over the cells."""
    if frame.empty:
        return np.empty(0, dtype=np.int64)
    lots = pd.util.hash_array(frame["episode_id"].to_numpy(dtype=object), hash_key=_key())
    work = pd.DataFrame(
        {
            "later": ~telling,
            "cell": frame.groupby(
                ["source", "model", "condition", "factor", "outcome"], observed=True, dropna=False
            ).ngroup(),
            "lot": lots,
        }
    ).reset_index(drop=True)
    work = work.sort_values(["later", "cell", "lot"])
    work["turn"] = work.groupby(["later", "cell"]).cumcount()
    work = work.sort_values(["later", "turn", "lot"])
    return work.index.to_numpy(dtype=np.int64)


def _key() -> str:
    return hashlib.sha256(SEED.encode()).hexdigest()[:16]


def _wanted(frame: pd.DataFrame, rows: Rows, source: str) -> set[str]:
    chosen = frame.iloc[rows]
    return set(chosen.loc[chosen["source"] == source, "episode_id"])


def _places(path: Path, wanted: set[str]) -> dict[str, tuple[int, int]]:
    """(offset, length) of the last line of each wanted episode."""
    places: dict[str, tuple[int, int]] = {}
    if not wanted or not path.exists():
        return places
    offset = 0
    for _, line in read_lines(path):
        found = _id_of(line)
        if found in wanted and line.endswith(b"\n"):
            places[found] = (offset, len(line))
        offset += len(line)
    return places


def _id_of(line: bytes) -> str:
    """The id, which `Episode.to_json` writes at a fixed place, without reading the line."""
    start = line.find(b'"episode_id":"', 0, 64) + 14
    end = line.find(b'"', start, start + 4096)
    if start >= 14 and end > 0 and b"\\" not in line[start:end]:
        return line[start:end].decode("utf-8", "replace")
    try:
        return str(orjson.loads(line)["episode_id"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""


def _record(line: bytes, episode_id: str, mark: bool) -> dict[str, Any]:
    """A line that cannot be read is shown as that."""
    try:
        try:
            episode = Episode.from_json(line)
        except ValueError:  # not UTF-8, for instance
            episode = Episode.from_json(line.decode("utf-8", "replace"))
    except ValueError as wrong:
        return {
            "id": visible(episode_id),
            "facts": {},
            "error": f"this record cannot be read: {wrong}",
            "unread": 0,
            "items": [],
        }
    return {**view(episode, mark), "marked": mark}


class _Packer:
    """Collects records into blocks; `add` gives a record's number over all blocks."""

    def __init__(self) -> None:
        self.blocks: list[str] = []
        self.count = 0
        self.size = 0
        self._open: list[dict[str, Any]] = []

    def add(self, record: dict[str, Any]) -> int:
        self._open.append(record)
        self.count += 1
        if len(self._open) == PER_BLOCK:
            self.flush()
        return self.count - 1

    def flush(self) -> None:
        if self._open:
            block = _pack(self._open)
            self.size += len(block) * 3 // 4
            self.blocks.append(block)
            self._open = []


def _pack(value: Any) -> str:
    return base64.b64encode(zlib.compress(orjson.dumps(value), 6)).decode()


def _index(data: ReportData, slots: Rows) -> Mapping[str, Any]:
    """Columns of all episodes in a reader's order. Each cell of `names` columns is a number of the
    list of that name, -1 for unknown; `slot` is the transcript's number, -1 for none here."""
    frame = data.episodes.reset_index(drop=True)
    frame = frame.assign(slot=slots)
    order = [s.model for s in data.series]
    models = list(dict.fromkeys([*order, *frame["model"].astype("str")]))
    conditions = list(data.conditions)
    position = {name: n for n, name in enumerate(models)}
    place = {name: n for n, name in enumerate(conditions)}
    frame = frame.assign(
        _m=frame["model"].astype("str").map(position).astype("int64"),
        _c=frame["condition"].astype("str").map(place).fillna(-1).astype("int64"),
    ).sort_values(["_m", "source", "factor", "_c", "trial"], kind="stable")
    sources = data.sources
    columns, names = {}, {"model": models, "condition": conditions, "source": sources}
    for name in ("outcome", "stop_reason", "methods", "factor"):
        category = frame[name].astype("category").cat
        names[name] = [str(value) for value in category.categories]
        columns[name] = category.codes.tolist()
    columns["model"], columns["condition"] = frame["_m"].tolist(), frame["_c"].tolist()
    where = {name: n for n, name in enumerate(sources)}
    columns["source"] = frame["source"].astype("str").map(where).fillna(-1).astype(int).tolist()
    columns["turns"] = frame["turns"].fillna(-1).astype(int).tolist()
    columns["attempted"] = frame["attempted"].astype("Int8").fillna(-1).astype(int).tolist()
    columns["slot"] = frame["slot"].tolist()
    return {
        "count": len(frame),
        "perBlock": PER_BLOCK,
        "names": {key: [visible(n) for n in values] for key, values in names.items()},
        "columns": columns,
        "ids": list(_ids(frame)),
        "directories": [visible(str(directory)) for directory, _ in data.runs],
    }


def _ids(frame: pd.DataFrame) -> Iterator[str]:
    for episode_id in frame["episode_id"]:
        yield visible(str(episode_id))
