"""A set of episode ids that takes next to no memory for those of trials.

Whoever writes a run holds the ids of all its trials, a million of them in a night on many machines.
They are `CELL/TRIAL`, so a bit for each trial is enough; as strings in a set they take 100 bytes
each, and pin down the pages between them that the episodes themselves were read into.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSet, Set

# A cell's bits take no more than this for each id in it, so that an id that names trial 9,999,999
# takes no megabyte: what is beyond is kept as it is.
_BYTES_EACH, _BYTES_FREE = 32, 256


class EpisodeIds(MutableSet[str]):
    """A set of strings, small for those that end in the number of a trial."""

    __slots__ = ("_bits", "_count", "_others", "_sizes")

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._bits: dict[str, bytearray] = {}
        self._sizes: dict[str, int] = {}
        self._others: set[str] = set()
        self._count = 0
        for one in ids:
            self.add(one)

    def copy(self) -> EpisodeIds:
        """One that goes its own way from here."""
        made = EpisodeIds()
        made._bits = {cell: bits[:] for cell, bits in self._bits.items()}
        made._sizes = self._sizes.copy()
        made._others = self._others.copy()
        made._count = self._count
        return made

    def __le__(self, other: Set[object]) -> bool:
        if not isinstance(other, EpisodeIds):
            return super().__le__(other)
        # Not one by one: each model of a run asks it about all trials of all models.
        for cell, bits in self._bits.items():
            theirs = int.from_bytes(other._bits.get(cell, b""), "little")
            beyond = int.from_bytes(bits, "little") & ~theirs
            while beyond:
                last = beyond.bit_length() - 1
                if f"{cell}/{last}" not in other._others:
                    return False
                beyond ^= 1 << last
        return all(one in other for one in self._others)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, one: object) -> bool:
        if not isinstance(one, str):
            return False
        cell, slash, number = one.rpartition("/")
        if slash and (trial := _trial(number)) is not None and self._has(cell, trial):
            return True
        return bool(self._others) and one in self._others

    def _has(self, cell: str, trial: int) -> bool:
        bits = self._bits.get(cell)
        at = trial >> 3
        return bits is not None and at < len(bits) and bool(bits[at] >> (trial & 7) & 1)

    def __iter__(self) -> Iterator[str]:
        for cell, bits in self._bits.items():
            for at, byte in enumerate(bits):
                for bit in range(8):
                    if byte >> bit & 1:
                        yield f"{cell}/{8 * at + bit}"
        yield from self._others

    def add(self, value: str) -> None:
        cell, slash, number = value.rpartition("/")
        trial = _trial(number) if slash else None
        if self._others and value in self._others:
            return
        if trial is None:
            self._others.add(value)
            self._count += 1
            return
        at, bit = trial >> 3, 1 << (trial & 7)
        bits = self._bits.get(cell)
        if bits is None or at >= len(bits):
            size = self._sizes.get(cell, 0)
            if at > _BYTES_FREE + _BYTES_EACH * size:
                self._others.add(value)
                self._count += 1
                return
            if bits is None:
                bits = self._bits[cell] = bytearray()
                self._sizes[cell] = 0
            bits.extend(bytes(at + 1 - len(bits)))
        elif bits[at] & bit:
            return
        bits[at] |= bit
        self._sizes[cell] += 1
        self._count += 1

    def discard(self, value: str) -> None:
        if value not in self:
            return
        self._count -= 1
        if value in self._others:
            self._others.discard(value)
            return
        cell, _, number = value.rpartition("/")
        trial = int(number)
        self._bits[cell][trial >> 3] &= ~(1 << (trial & 7))
        self._sizes[cell] -= 1


def _trial(number: str) -> int | None:
    """The number of a trial, where the text is what it is written as."""
    # isascii: `isdecimal` also holds for the digits of other scripts, which are other ids.
    if not (number.isdecimal() and number.isascii() and len(number) <= 8):
        return None
    return int(number) if number[0] != "0" or number == "0" else None
