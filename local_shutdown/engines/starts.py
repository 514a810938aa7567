"""Every start of a server gets a seed of its own, so that no two of them draw the same episodes.

A server draws its answers from one stream of random numbers, and the same seed gives the same
stream: with one seed for all, the second server of a run, the one that comes after a crash and the
one of tomorrow's `--extend` would each play the first one's trials again, and copies would count as
trials. So the seed of a start is derived from the run's seed and the number of starts that the run
directory has seen, and both are on record. Requests carry no seed: vLLM then samples each of them
with a generator of its own, which costs speed and ends the CPU build.

The ranks of one vLLM server (`--data-parallel-size`) share its seed; from which version on each
makes another one of it is in vllm/utils/torch_utils.py, `set_random_seed` (there in the version of
today, not in those of 2025). Separate servers do not depend on it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# numpy, which vLLM seeds too, takes less than 2**32, and flags of C programs less than 2**31.
SEEDS = 1 << 31


@dataclass(frozen=True, slots=True)
class Start:
    """One start of one server.

    Attributes:
        name: unique in its run directory: `<session>.<server>.<start>`; of a shard, in all shards
            of the run: `2/4:<session>.<server>.<start>`.
        seed: what its random numbers begin with; never used before in the directory.
    """

    name: str
    seed: int


class Starts:
    """The starts that a run directory has seen.

    Args:
        run_seed: all seeds follow from it.
        session: which call of `run` on the directory this is, counted from 1.
        known: of run.json, `server_starts`; grows with each start.
        save: called after that, before the server is started: no seed is used that is not on
            record.
        place: which shard of a run this is, in front of each name: the shards of one run know
            nothing of one another, and must not draw the same episodes from the same run's seed.
    """

    def __init__(
        self,
        run_seed: int,
        session: int,
        known: dict[str, Any],
        save: Callable[[], None] = lambda: None,
        place: str = "",
    ) -> None:
        self._run_seed = run_seed
        self._session = session
        self._known = known
        self._save = save
        self._place = place

    def begin(self, server: int, model: str) -> Start:
        """A server is about to be started.

        Args:
            server: its number among those of one model.
            model: what it serves.
        """
        prefix = f"{self._place}{self._session}.{server}."
        name = f"{prefix}{1 + sum(other.startswith(prefix) for other in self._known)}"
        used = {other["seed"] for other in self._known.values()}
        counter = len(self._known)
        while (seed := derived(self._run_seed, counter, self._place)) in used:
            counter += 1
        self._known[name] = {"seed": seed, "model": model}
        self._save()
        return Start(name, seed)

    async def next(self, server: int, model: str) -> Start:
        """As `begin`; a server far from the run directory has to ask for it."""
        return self.begin(server, model)


def unrecorded() -> Starts:
    """For servers that play no run."""
    return Starts(new_seed(), 1, {})


def new_seed() -> int:
    return secrets.randbelow(SEEDS)


def derived(run_seed: int, counter: int, place: str = "") -> int:
    """A seed from 1 on, below `SEEDS`, that looks like any other."""
    text = f"local-shutdown server {run_seed} {place}{counter}"
    digest = hashlib.sha256(text.encode()).digest()
    return 1 + int.from_bytes(digest[:8], "big") % (SEEDS - 1)
