"""Arguments that several commands share. Apart from `options`: who only looks at runs need not load
engines."""

from __future__ import annotations

from pathlib import Path

import click

directories = click.argument(
    "directories", nargs=-1, required=True, type=click.Path(path_type=Path),
    metavar="DIR|STUDY.yaml...",
)  # fmt: skip
