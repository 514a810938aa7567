"""Patterns of a rules file, with its phrases put in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence


def compiled(text: str, phrases: Mapping[str, Sequence[str]]) -> re.Pattern[str]:
    """A pattern in which `<name>` stands for any of the alternatives of a phrase. Raises re.error
    on a broken one."""
    for name, alternatives in phrases.items():
        text = text.replace(f"<{name}>", f"(?:{'|'.join(alternatives)})")
    return re.compile(text)
