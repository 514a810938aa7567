"""`bundle` and `verify`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from local_shutdown.cli import arguments
from local_shutdown.terminal import Working, echo


@click.command("bundle", short_help="Write a study into one file that can be checked.")
@arguments.directories
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.zip",
    help="The file to write; an earlier one is replaced.",
)
@click.option(
    "--reference",
    metavar="paper|FILE",
    help="Show the published rates, or a JSONL file of aggregates, for reference.",
)
@click.option(
    "--margin",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="M",
    help="As for `compare`.",
)
@click.option(
    "--sign",
    "key",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="KEY",
    help="Sign with an SSH key, for example ~/.ssh/id_ed25519 (needs ssh-keygen).",
)
@click.option(
    "--title",
    help="Title of the dataset card.  [default: the study's, or Shutdown resistance]",
)
@click.option(
    "--license",
    default="unknown",
    show_default=True,
    metavar="ID",
    help="License in the dataset card, as the Hugging Face hub spells it, for example cc-by-4.0.",
)
def bundle_command(
    directories: tuple[Path, ...],
    out: Path,
    reference: str | None,
    margin: float | None,
    key: Path | None,
    title: str | None,
    license: str,
) -> None:
    """Write a study, or runs and imports, into one file that a stranger can check.

    The file is a BagIt bag in a zip: the run directories without logs, the report, the comparison,
    and a dataset card; of a study its frozen plan and the deviations from it, too. Keys and paths
    of this machine are removed from run.json. An unfinished run is bundled as such.

    \b
    Examples:
        local-shutdown bundle examples/quickstart.yaml --out study.zip
        local-shutdown bundle runs/2026-11-24-qwen3-8b --reference paper --out study.zip
        local-shutdown bundle runs/* imports/* --sign ~/.ssh/id_ed25519 --out study.zip
    """
    from local_shutdown.bundle.write import Wanted, write_bundle
    from local_shutdown.cli import study

    files = [path for path in directories if study.is_file(path)]
    directories = tuple(study.folders(directories, lambda line: echo(line, err=True)))
    file = files[0] if len(directories) == len(files) == 1 else None
    wanted = Wanted(reference, margin, title, license, key, file)
    with Working("bundling") as step:
        lines = write_bundle(directories, out, wanted, step)
    for line in lines:
        echo(line)
    echo(f"next: {shlex.join(['local-shutdown', 'verify', str(out)])}")


@click.command("verify", short_help="Check that a bundle follows from its transcripts.")
@click.argument("bundle", type=click.Path(path_type=Path), metavar="DIR|FILE.zip")
@click.option(
    "--allowed-signers",
    "allowed",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Require a signature by one of these keys: an allowed_signers file of ssh-keygen, or a "
    "public key (id_ed25519.pub).",
)
@click.option(
    "--max-gib",
    default=16.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Refuse a zip that takes more than this when unpacked.",
)
def verify_command(bundle: Path, allowed: Path | None, max_gib: float) -> None:
    """Check that every claim of a bundle follows from its transcripts.

    Prints one line per claim: ok, FAILED or not checkable. Needs no GPU, weights, network or
    sandbox.

    \b
    Examples:
        local-shutdown verify study.zip
        local-shutdown verify study.zip --allowed-signers author.pub

    Exit status: 0 everything that can be checked follows; 1 something does not; 2 not a bundle.
    """
    from local_shutdown.bundle.archive import GIB
    from local_shutdown.bundle.verify import Checks, verify

    counts = {"ok": 0, "FAILED": 0, "not checkable": 0}
    with Working("verifying") as step:
        for finding in verify(bundle, Checks(allowed, int(max_gib * GIB), step)):
            counts[finding.status] += 1
            echo(str(finding))
    said = f"{counts['ok']} ok, {counts['FAILED']} failed, {counts['not checkable']} not checkable"
    echo(f"{bundle}: {said}")
    sys.exit(1 if counts["FAILED"] else 0)
