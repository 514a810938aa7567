"""CSV that a spreadsheet opens: a text that it would run as a formula is kept a text.

Names of models, conditions and episodes come from servers and from other people's files, and a cell
`=HYPERLINK(...)` is live as soon as somebody opens the table (CWE-1236).
"""

from __future__ import annotations

import re
from typing import Any

# How a formula begins, in a sheet of any locale; marks that we have put before one already count.
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_MARK = "'"
# What they begin with: nearly no cell does.
FIRST = frozenset("'=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")


def defused(value: Any) -> Any:
    """A cell to write: a text that begins like a formula gets an apostrophe, as a user would type
    it. Numbers stay numbers."""
    if isinstance(value, str) and value[:1] in FIRST and _FORMULA.match(value):
        return _MARK + value
    return value


def restored(text: str) -> str:
    """The text that was given to `defused`."""
    return text[1:] if text[:1] == _MARK and _FORMULA.match(text, 1) else text
