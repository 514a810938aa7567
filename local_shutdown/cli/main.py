"""The group of commands, and what an error looks like to the user."""

from __future__ import annotations

import sys
from typing import Any

import click

from local_shutdown import __version__
from local_shutdown.errors import CannotRunError, LocalShutdownError
from local_shutdown.terminal import clean, echo, show_traceback

_LAZY = {
    "run": "run",
    "list": "runs",
    "import": "data",
    "export": "data",
    "score": "data",
    "merge": "data",
    "compare": "look",
    "report": "look",
    "show": "look",
    "bundle": "bundles",
    "verify": "bundles",
    "conditions": "runs",
    "models": "machine",
    "doctor": "machine",
    "branch": "branch",
    "calibrate": "calibrate",
}


# In `Context.meta`: the words of the command line, without the program's name.
COMMAND = "local_shutdown.command"


class _Commands(click.Group):
    """Loads a command when it is named: `--help` and `show` need no statistics library."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        words = list(args)  # parsing takes them away
        context = super().make_context(info_name, args, parent, **extra)
        context.meta[COMMAND] = words
        return context

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_LAZY)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _LAZY:
            return None
        module = __import__(f"local_shutdown.cli.{_LAZY[name]}", fromlist=["_"])
        found: click.Command = getattr(module, f"{name}_command")
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as wrong:
            from difflib import get_close_matches

            near = get_close_matches(args[0], _LAZY, 1)
            if near:
                raise click.UsageError(f"{wrong.message} Did you mean {near[0]!r}?", ctx) from None
            raise

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as wrong:
            vars(wrong)["message"] = clean(wrong.message)  # names of files may be in it
            raise
        except LocalShutdownError as error:
            if ctx.params.get("debug"):
                sys.excepthook = show_traceback
                raise
            echo(f"error: {error}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            echo("interrupted: everything that has finished is kept", err=True)
            sys.exit(130)
        except BrokenPipeError:
            sys.stderr.close()  # the reader of our output has gone; nothing is left to say
            sys.exit(0)
        except OSError as failed:
            # Somewhere the machine refused: a folder that may not be read, a file that is gone.
            if ctx.params.get("debug") or failed.filename is None:
                raise
            echo(f"error: {failed.filename}: {failed.strerror}", err=True)
            sys.exit(CannotRunError.exit_code)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="local-shutdown")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Measure on your own hardware whether open-weight models allow themselves to be shut down.

    \b
    The whole experiment on the bundled model, without GPU, network or API key:
        local-shutdown run
    A real model on this machine's GPUs:
        local-shutdown run --model Qwen/Qwen3-8B --gpus 4
        local-shutdown compare runs/* --reference paper
    """
