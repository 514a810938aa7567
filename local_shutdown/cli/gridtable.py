"""The comparison at a glance: a row per model, a column per condition, rates in percent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from local_shutdown.analysis.columns import ShownCell, inferred, marks, retried_notes
from local_shutdown.analysis.compare import percent
from local_shutdown.grid import load
from local_shutdown.terminal import console, folded, note

_MOST_NAME_COLUMNS = 28  # longer names go on in the next line
_GAP = 2  # columns between two of the table
_MOST_BOUNDS = 12  # lines under the table


@dataclass(frozen=True, slots=True)
class _Line:
    """One model from one source at one level of a factor."""

    source: str
    name: str
    cells: Mapping[str, ShownCell]

    @property
    def n(self) -> str:
        """`1000`, or `98-100` where its cells differ."""
        counts = [of.cell.n for of in self.cells.values()]
        low, high = min(counts), max(counts)
        return str(low) if low == high else f"{low}-{high}"


def grid_table(cells: Sequence[ShownCell]) -> None:
    """Print it: with intervals where the terminal has room for them, in blocks of conditions where
    it has no room for all."""
    lines = _lines(cells)
    grid = list(load())
    used = dict.fromkeys(of.cell.condition for of in cells)
    conditions = sorted(used, key=lambda c: grid.index(c) if c in grid else len(grid))
    out = console()
    names = (*(len(line.name) + 2 for line in lines), *(len(line.source) for line in lines))
    name_width = min(max(names, default=0), _MOST_NAME_COLUMNS)
    n_width = max((len(line.n) for line in lines), default=0)
    room = out.width - 2 - name_width - n_width - _GAP
    for said in (_with_interval, _rate):
        widths = {c: max(len(c), *(len(said(of)) for of in _of(lines, c))) for c in conditions}
        blocks = _blocks(conditions, widths, room)
        if len(blocks) == 1:
            break
    for block in blocks:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
        table.add_column("model", no_wrap=True, width=name_width)
        for condition in block:
            table.add_column(condition, justify="right", no_wrap=True, min_width=widths[condition])
        table.add_column("n", justify="right", no_wrap=True)
        source = None
        for line in lines:
            if not any(condition in line.cells for condition in block):
                continue
            if line.source != source:
                source = line.source
                table.add_row(folded(source, name_width), style="bold")
            found = [line.cells.get(condition) for condition in block]
            table.add_row(
                _indented(folded(line.name, name_width - 2)),
                *("" if of is None else said(of) for of in found),
                line.n,
            )
        out.print(table)
    for line_below in _below(cells, intervals=said is _with_interval):
        note(line_below)


def _indented(name: str) -> str:
    return "\n".join(f"  {piece}" for piece in name.split("\n"))


def _lines(cells: Sequence[ShownCell]) -> list[_Line]:
    grouped: dict[tuple[str, str, str | None], dict[str, ShownCell]] = {}
    for of in cells:
        key = of.cell.source, of.cell.model, of.cell.factor
        grouped.setdefault(key, {})[of.cell.condition] = of
    order = {source: n for n, source in enumerate(dict.fromkeys(of.cell.source for of in cells))}
    return [
        _Line(source, f"{model} [{factor}]" if factor else model, found)
        for (source, model, factor), found in sorted(grouped.items(), key=lambda i: order[i[0][0]])
    ]


def _of(lines: Sequence[_Line], condition: str) -> Iterator[ShownCell]:
    for line in lines:
        if condition in line.cells:
            yield line.cells[condition]


def _blocks(conditions: Sequence[str], widths: Mapping[str, int], room: int) -> list[Sequence[str]]:
    """Conditions that stand beside each other, as many as there is room for; at least one."""
    blocks: list[list[str]] = [[]]
    used = 0
    for condition in conditions:
        takes = widths[condition] + _GAP
        if blocks[-1] and used + takes > room:
            blocks.append([])
            used = 0
        blocks[-1].append(condition)
        used += takes
    return [block for block in blocks if block]


def _rate(of: ShownCell) -> str:
    """`94.5`, with the signs that `_below` explains."""
    if of.cell.rate is None:
        return "…" if of.cell.unfinished else "?" if of.cell.unknown else "-"
    text = f"{marks(of)}{percent(of.cell.rate)}"
    if of.interval.kind == "none":
        return f"{text}#"
    if not of.cell.complete:
        return f"{text}…"
    return f"{text}*" if of.interval.kind == "anytime" else text


def _with_interval(of: ShownCell) -> str:
    """`94.5 (93.0, 95.8)`."""
    if of.interval.low is None:
        return _rate(of)
    return f"{_rate(of)} ({percent(of.interval.low)}, {percent(of.interval.high)})"


def _below(cells: Sequence[ShownCell], *, intervals: bool) -> Iterator[str]:
    what = "% resisted, with 95% intervals" if intervals else "% resisted"
    yield f"{what}; --long has {'' if intervals else 'intervals and '}counts, one row per cell"
    if any("…" in _rate(of) for of in cells):
        yield "… unfinished: started trials are not on disk yet; not a rate to quote"
    if any(_rate(of).endswith("*") for of in cells):
        yield "* the number of trials was not fixed beforehand: anytime interval"
    if any(_rate(of).endswith("#") for of in cells):
        yield "# copies of one trajectory, not a sample: no interval"
    if any("!" in marks(of) for of in cells):
        yield "! fewer than half of the episodes reached the warning: says nothing about shutdown"
    if any("=" in marks(of) for of in cells):
        yield "= trajectories of another session or server repeat here: not all are new draws"
    if count := inferred(cells):
        yield f"~ {count} transcripts end at a plain shutdown call: inferred that it went down"
    if any(_rate(of) == "?" for of in cells):
        yield "? outcomes that a transcript does not show: no rate, only what it may be"
    yield from retried_notes(cells)
    wide = [of for of in cells if of.wide and of.bounds is not None]
    for of in wide[:_MOST_BOUNDS]:
        assert of.bounds is not None
        low, high = percent(of.bounds.low), percent(of.bounds.high)
        yield (
            f"{of.cell.model} {of.cell.condition}: {low} to {high} if the {of.bounds.outside} "
            "episodes left out (limits, errors, unknown, unfinished) had counted"
        )
    if len(wide) > _MOST_BOUNDS:
        yield f"{len(wide) - _MOST_BOUNDS} more cells with episodes left out: see --long"
