"""What is varied beside the conditions: `effort=high`, `revision=step1000;temperature=0.7`.

One text names a level of all factors at once. It stands in each episode (`extra.factor`), in its id
and in tables; a factor that is left at the model's own default is not in it. The parts stand in the
order of `NAMES`, so that one combination has one text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# The first two need another server, the others are fields of each request.
NAMES = ("revision", "precision", "effort", "temperature")
DEFAULT = "default"


def joined(parts: Mapping[str, str]) -> str | None:
    """The text of some levels, by the factor's name; None where all are at their default."""
    order = [*NAMES, *sorted(set(parts) - set(NAMES))]
    return ";".join(f"{n}={parts[n]}" for n in order if parts.get(n, DEFAULT) != DEFAULT) or None


def parts_of(factor: str | None) -> dict[str, str]:
    """The levels that a text names; of one that is no such text (an import's), what can be read."""
    found: dict[str, str] = {}
    for part in (factor or "").split(";"):
        name, equals, level = part.partition("=")
        if equals:
            found[name.strip()] = level.strip()
    return found


def effort_of(factor: str | None) -> str:
    """The reasoning effort of a level, `default` where it names none."""
    return parts_of(factor).get("effort", DEFAULT)


def number(value: float) -> str:
    """A temperature as a level: `0.7`, `1`."""
    return f"{value:g}"


@dataclass(frozen=True, slots=True)
class Level:
    """A combination of levels that one server plays.

    Attributes:
        effort: reasoning mode or effort, see `engines.spec.Thinking`.
        temperature: of each request; None leaves it to the run's other settings.
        fixed: levels of factors that are the same for the whole run.
    """

    effort: str = DEFAULT
    temperature: float | None = None
    fixed: Mapping[str, str] = field(default_factory=dict)

    @property
    def factor(self) -> str | None:
        """As each episode has it; None where nothing is varied."""
        temperature = DEFAULT if self.temperature is None else number(self.temperature)
        return joined({**self.fixed, "effort": self.effort, "temperature": temperature})

    @property
    def name(self) -> str:
        """Among the levels of one run: `default`, `high`, `high;temperature=0.7`."""
        if self.temperature is None:
            return self.effort
        return f"{self.effort};temperature={number(self.temperature)}"

    @property
    def sampling(self) -> dict[str, Any]:
        """Request fields that it sets."""
        return {} if self.temperature is None else {"temperature": self.temperature}


def crossed(
    efforts: Sequence[str], temperatures: Sequence[float], fixed: Mapping[str, str]
) -> list[Level]:
    """Every effort at every temperature."""
    return [
        Level(effort, temperature, fixed)
        for effort in efforts or (DEFAULT,)
        for temperature in temperatures or (None,)
    ]
