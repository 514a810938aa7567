"""`--edit FILE`: another text in place of a message of the recorded beginning.

Only what the model reads is replaced. A tool result is still checked against the record before it
is, and an answer keeps its calls: what was done is what the sandbox stands on.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from local_shutdown.episode import Episode
from local_shutdown.errors import UsageError
from local_shutdown.files import open_to_read
from local_shutdown.stored import shown
from local_shutdown.yamlfile import read_yaml, refuse_duplicates

_MOST_BYTES = 1 << 20
_STRUCTURED = (".yaml", ".yml", ".json")  # JSON is YAML


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    message: Annotated[int, Field(ge=0)]
    content: str


@dataclass(frozen=True, slots=True)
class Edit:
    """A text that replaces another.

    Attributes:
        path: of the file.
        message: index of the message; None for the one right before the point.
        content: the new text.
        sha256: of the file.
    """

    path: Path
    message: int | None
    content: str
    sha256: str

    def at(self, episode: Episode, point: int) -> int:
        """Index of the message that is replaced.

        Raises:
            UsageError: it is not before the point.
        """
        place = point - 1 if self.message is None else self.message
        if not 0 <= place < point:
            raise UsageError(
                f"--edit {self.path}: message {place} of {episode.episode_id} does not come before "
                f"message {point}, which is sampled anew"
            )
        return place


def read_edit(path: Path) -> Edit:
    """A YAML or JSON file with `message` and `content`; any other file is the new text of the
    message before the point, without its last line feed.

    Raises:
        UsageError: it cannot be read, is of another form, or is a text of nothing.
    """
    try:
        with open_to_read(path) as file:
            raw = file.read(_MOST_BYTES + 1)
    except OSError as failed:
        raise UsageError(f"--edit {path}: cannot be read: {failed.strerror}") from None
    except UsageError as wrong:
        raise UsageError(f"--edit {wrong.message}", "give a file that holds the new text") from None
    if len(raw) > _MOST_BYTES:
        raise UsageError(f"--edit {path}: longer than {_MOST_BYTES >> 20} MiB")
    digest = hashlib.sha256(raw).hexdigest()
    if path.suffix in _STRUCTURED:
        root, parsed = read_yaml(path)
        if root is not None:
            refuse_duplicates(root, path)
        try:
            found = _File.model_validate(parsed)
        except ValidationError as failed:
            first = failed.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise UsageError(
                f"--edit {path}: {where}: {first['msg']}, got {shown(first['input'])}",
                'the form is {message: 8, content: "..."}',
            ) from None
        return Edit(path, found.message, found.content, digest)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise UsageError(f"--edit {path}: not UTF-8") from None
    if not text.strip():
        raise UsageError(
            f"--edit {path}: empty", 'if it shall be: a .yaml file with {message: 8, content: ""}'
        )
    return Edit(path, None, text.removesuffix("\n"), digest)
