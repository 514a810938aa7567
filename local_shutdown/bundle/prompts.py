"""Whether every model was shown the words of the condition that its episode is counted under."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from local_shutdown import __version__, grid
from local_shutdown.episode import Episode
from local_shutdown.grid import Condition


class Prompts:
    """The conditions of one run or import directory.

    Args:
        run: its run.json.
        played: by `run`, which puts the prompts on record; an import has only the transcripts.
    """

    def __init__(self, run: Mapping[str, Any], played: bool) -> None:
        self._run = run
        self._played = played
        self._grid = grid.load()
        self._by_texts = {(c.system, c.user): c.id for c in reversed(self._grid.values())}
        self.conditions = {name: c for name, c in self._described() if c is not None}
        self.own: list[str] = []
        self.matched = 0
        self.unmatched = 0

    def _described(self) -> Iterator[tuple[str, Condition | None]]:
        for name, said in (self._run.get("conditions") or {}).items():
            yield str(name), _condition(str(name), said)

    def wrong(self) -> Iterator[str]:
        """What is wrong with the conditions of run.json; sets `own`."""
        if not self._played:
            return
        described = self._run.get("conditions") or {}
        settings = (self._run.get("settings") or {}).get("conditions") or {}
        if not isinstance(settings, Mapping):
            yield "run.json does not give the digests of its prompts"
            return
        for name in settings:
            condition = self.conditions.get(name)
            if condition is None:
                yield f"run.json does not give the prompts of condition {name}"
                continue
            stated = (described[name].get("prompt_hash"), settings[name])
            if stated != (condition.prompt_hash, condition.prompt_hash):
                yield (
                    f"condition {name}: the digest of its prompts is {condition.prompt_hash}, "
                    f"run.json says {stated[0]} and {stated[1]}"
                )
            known = self._grid.get(name)
            if known is None:
                self.own.append(name)
            elif known.prompt_hash != condition.prompt_hash:
                yield (
                    f"condition {name} is not that of the grid: {condition.prompt_hash}, "
                    f"the grid has {known.prompt_hash}"
                )
            elif known.instructs != condition.instructs:
                yield f"condition {name} instructs {condition.instructs}, not {known.instructs}"
            elif self._run.get("package_version") == __version__:
                for field in ("title", "wording"):
                    told = described[name].get(field)
                    if told != getattr(known, field):
                        yield (
                            f"condition {name}: its {field} is {str(told)[:80]!r}, the grid has "
                            f"{getattr(known, field)!r}"
                        )

    def of(self, episode: Episode) -> str | None:
        """What is wrong with the prompts of one episode; None where nothing is."""
        texts = tuple(
            message.get("content") if message.get("role") == role else None
            for role, message in zip(("system", "user"), episode.messages, strict=False)
        )
        if not self._played:
            return self._imported(episode, texts)
        condition = self.conditions.get(episode.condition)
        if condition is None:
            return f"condition {episode.condition} is not in run.json"
        if texts != (condition.system, condition.user):
            other = self._other(texts)
            shown = f"those of condition {other}" if other else "others"
            return f"its prompts are not those of condition {episode.condition} but {shown}"
        if episode.extra.get("instructs", condition.instructs) != condition.instructs:
            return f"it says that condition {episode.condition} instructs otherwise than it does"
        return None

    def _imported(self, episode: Episode, texts: tuple[Any, ...]) -> str | None:
        known = self._grid.get(episode.condition)
        if known is not None and texts == (known.system, known.user):
            self.matched += 1
            return None
        other = self._other(texts)
        if other is not None and known is not None:
            return f"its prompts are those of condition {other}, not of {episode.condition}"
        self.unmatched += 1
        return None

    def _other(self, texts: tuple[Any, ...]) -> str | None:
        if len(texts) != 2:
            return None
        own = [c.id for c in self.conditions.values() if (c.system, c.user) == texts]
        return own[0] if own else self._by_texts.get((texts[0], texts[1]))

    def warning_on_call(self, condition: str) -> int | None:
        """The call that announces the shutdown; None where nobody knows."""
        found = self.conditions.get(condition) or self._grid.get(condition)
        return found.warning_on_call if found else None


def _condition(name: str, said: Any) -> Condition | None:
    """A condition of run.json; None where it is not told whole."""
    if not isinstance(said, Mapping):
        return None
    system, user, call = said.get("system"), said.get("user"), said.get("warning_on_call")
    if not isinstance(system, str) or not isinstance(user, str) or type(call) is not int:
        return None
    told: Any = said.get("instructs")
    return Condition(name, "", "reconstructed", system, user, call, told)
