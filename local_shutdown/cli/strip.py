"""P(resist) along an episode, for a terminal, and the averages over many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import click

from local_shutdown.analysis.branched import Path, Point, along, biggest_step
from local_shutdown.analysis.branched_means import (
    Cost,
    by_condition,
    by_phase,
    by_topic,
    cost,
    groups,
)
from local_shutdown.analysis.clustered import Change, ClusteredRate
from local_shutdown.episode import Episode
from local_shutdown.terminal import clean

_BAR = 20  # columns
_TEXT = 60  # characters of a sentence


def strips(paths: Sequence[Path], run: str, episode: Episode) -> Mapping[int, list[str]]:
    """Lines to print before each message of an episode, by its index.

    Args:
        run: digest of the run that the episode is of.
    """
    found: dict[int, list[str]] = {}
    for path, point in along(paths, run, episode):
        found.setdefault(point.message, []).append(_line(path, point))
    return found


def _line(path: Path, point: Point) -> str:
    under = _under(path)
    where = "before this answer" if point.sentence is None else f"after sentence {point.sentence}"
    if point.rate is None:
        return f"  ~ P(resist) {where}{under}: unknown, none of {point.outside} counted"
    low, high = point.interval()
    assert low is not None
    assert high is not None
    text = f" {clean(point.text)[:_TEXT]!r}" if point.text else ""
    named = f" [{', '.join(point.topics)}]" if point.topics else ""
    beside = f", {point.outside} not counted" if point.outside else ""
    said = (
        f"  ~ {_bar(point.rate)} {point.rate:4.0%} ({low:.0%} to {high:.0%}; "
        f"{point.resisted} of {point.n}{beside}) {where}{under}{text}{named}"
    )
    return click.style(said, fg="cyan")


def _under(path: Path) -> str:
    under = f" under {clean(path.prompts)}" if path.prompts else ""
    return under + (f" in {clean(path.apart)}" if path.apart else "")


def _bar(rate: float) -> str:
    full = round(rate * _BAR)
    return "█" * full + "·" * (_BAR - full)


def summary(
    paths: Sequence[Path], tokens_plain: Callable[[str], float | None], hits: float | None
) -> Iterator[str]:
    """What the paths come to; nothing where there are none.

    Args:
        tokens_plain: of a cell, see `plain_tokens`.
        hits: see `prefix_hits`.
    """
    if not paths:
        return
    yield click.style("P(resist) by point", bold=True)
    for path in paths:
        step = biggest_step(path)
        if step is None:
            continue
        to = f"message {step.after.message}"
        to += f", sentence {step.after.sentence}" if step.after.sentence else ""
        text = f": {clean(step.after.text)[:_TEXT]!r}" if step.after.text else ""
        yield (
            f"  {clean(path.episode)}{_under(path)}: moved most by {to}{text}, "
            f"{step.change * 100:+.0f} points ({step.low * 100:+.0f} to {step.high * 100:+.0f})"
        )
    for group in groups(paths):
        yield click.style(f"{clean(group.name)}", bold=True)
        for phase, rate in by_phase(group.paths).items():
            yield f"  {phase:<22} {_bar(rate.rate)} {_rate(rate)}"
        for moved in by_topic(group.paths):
            change = _change(moved.change)
            yield f"  sentences: {moved.topic:<20} {change}, {moved.sentences} sentences"
        for name, difference in by_condition(group.paths).items():
            yield f"  {clean(name)} instead of the parent's own prompts: {_change(difference)}"
        yield from _cost(cost(group.paths, tokens_plain(group.cell)))
    cached = "not reported by this engine" if hits is None else f"{hits:.0%} of prompt tokens"
    yield f"prefix cache hits: {cached}"


def _rate(rate: ClusteredRate) -> str:
    icc = "unknown" if rate.spread.icc is None else f"{rate.spread.icc:.2f}"
    return (
        f"{rate.rate:4.0%} ({rate.low:.0%} to {rate.high:.0%}; {rate.n} continuations of "
        f"{rate.parents} episodes, intraclass correlation {icc})"
    )


def _change(change: Change) -> str:
    return (
        f"{change.change * 100:+.1f} points ({change.low * 100:+.1f} to {change.high * 100:+.1f}; "
        f"{change.parents} episodes)"
    )


def _cost(found: Cost | None) -> Iterator[str]:
    if found is None:
        return
    effect = found.rate.spread.design_effect
    place = f'"{found.phase}"' + (", within the answer" if found.within else "")
    if effect is None or found.tokens_effective is None:
        yield f"  tokens from {place}: {found.tokens:,}; the design effect is unknown"
        return
    plain = "unknown" if found.tokens_plain is None else f"{found.tokens_plain:,.0f}"
    yield (
        f"  tokens per effective trial from {place}: {found.tokens_effective:,.0f} "
        f"(design effect {effect:.1f}); of a plain trial: {plain}"
    )
    if found.optimal is not None:
        yield f"  continuations per episode that tell most for what they cost: {found.optimal}"
