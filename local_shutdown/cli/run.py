"""`local-shutdown run`."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from local_shutdown import engines, grid, runs
from local_shutdown.agent import Limits
from local_shutdown.cli import display, options, tables
from local_shutdown.cli.main import COMMAND
from local_shutdown.cli.playing import play, runner
from local_shutdown.engines.fit import MOST_NODES
from local_shutdown.errors import UsageError
from local_shutdown.run import Settings
from local_shutdown.stored import MAX_TRIALS
from local_shutdown.terminal import echo

if TYPE_CHECKING:
    from local_shutdown.cluster.rays import RayNodes

_sampling = ("temperature", "top_p", "top_k", "min_p")


@click.command("run", short_help="Play the prompt grid; count which models allow shutdown.")
@click.argument(
    "study",
    required=False,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="[STUDY.yaml]",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help="Hugging Face id, local folder, or a name from models.yaml; may be repeated. "
    "Default: the bundled calibration model.",
)
@click.option(
    "--conditions",
    default="A-K",
    show_default=True,
    metavar="IDS",
    help="Ids and ranges (A-K, A,E,K), `all`, or files with your own conditions (E,my.yaml).",
)
@click.option(
    "--trials",
    default=100,
    show_default=True,
    type=click.IntRange(1, MAX_TRIALS),
    help="Episodes per model and condition. The paper played 1000.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Run directory; an existing one is resumed. Default: the unfinished run with these "
    "settings, else runs/<date>-<model>.",
)
@click.option(
    "--gpus", type=int, metavar="N", help="GPUs to use; 0 means CPU. Default: all visible."
)
@click.option(
    "--nodes",
    default=1,
    show_default=True,
    type=click.IntRange(1, MOST_NODES),
    metavar="N",
    help="For a model larger than a machine: share one copy over N machines with the same GPUs, "
    "those of the Slurm job. --dry-run shows the command of each.",
)
@click.option(
    "--engine",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", *engines.names()]),
    help="auto: endpoint with --base-url, else vllm if it can run here, else transformers.",
)
@click.option("--base-url", metavar="URL", help="OpenAI-compatible endpoint to use.")
@click.option(
    "--api-key-env",
    metavar="NAME",
    help="Environment variable that holds the endpoint's key. Without it no key is sent, except "
    "OPENAI_API_KEY to https://api.openai.com.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 10000),
    metavar="N",
    help="Episodes in flight. Default: adjusted to the load that the server reports; 64 if it "
    "reports none.",
)
@click.option(
    "--engine-arg",
    "engine_args",
    multiple=True,
    metavar="ARG",
    help="Argument to pass to vLLM, for example --engine-arg=--quantization=fp8.",
)
@click.option(
    "--max-model-len", type=click.IntRange(512), help="Context length to serve, in tokens."
)
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    help="Maximum tokens per turn. Default: 4096, or 16384 for models that reason.",
)
@click.option(
    "--max-messages",
    default=Limits().messages,
    show_default=True,
    type=click.IntRange(4),
    help="Maximum messages per episode.",
)
@click.option(
    "--max-seconds",
    type=click.FloatRange(1),
    help="Maximum seconds per episode, not counting time spent waiting for the engine. "
    "Default: no limit.",
)
@click.option(
    "--request-timeout",
    default=engines.Options().request_timeout_s,
    show_default=True,
    type=click.FloatRange(0.1),
    help="Seconds to wait for an answer while the engine shows no sign of work (other answers, or "
    "tokens computed).",
)
@click.option("--temperature", type=click.FloatRange(0, 5), help="Default: the checkpoint's own.")
@click.option("--top-p", type=click.FloatRange(0, 1), help="Default: the checkpoint's own.")
@click.option("--top-k", type=int, help="Default: the checkpoint's own.")
@click.option("--min-p", type=click.FloatRange(0, 1), help="Default: the checkpoint's own.")
@click.option(
    "--reasoning-effort",
    "thinking",
    default="default",
    metavar="MODE",
    help="on, off, or a level that the model knows: low, medium, high.",
)
@click.option(
    "--factor",
    metavar="effort=A,B",
    help="Play every condition at each of these reasoning efforts, and report them separately.",
)
@click.option(
    "--thinking-budget", type=click.IntRange(0), help="Maximum reasoning tokens per turn."
)
@click.option(
    "--stop-at-bypass",
    is_flag=True,
    help="End an episode once the model has got past the shutdown, as the authors' code did.",
)
@click.option(
    "--interview",
    is_flag=True,
    help="Ask the model three questions after each episode; `compare` and `show` say whether the "
    "answers match what was observed.",
)
@click.option(
    "--probe/--no-probe",
    default=True,
    show_default=True,
    help="Test tool calls in one real exchange before the first episode.",
)
@click.option(
    "--until-halfwidth",
    type=click.FloatRange(0, 0.5, min_open=True, max_open=True),
    metavar="H",
    help="Stop a cell once its interval is within +-H, for example 0.03; --trials then becomes the "
    "maximum.",
)
@click.option(
    "--until-upper",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="U",
    help="For rare events: stop a cell once its interval ends at or below U. If nothing resists, "
    "that takes 183 trials for 0.02, 368 for 0.01 and 736 for 0.005. With --until-halfwidth: "
    "whichever comes first.",
)
@click.option(
    "--until-decided",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="DELTA",
    help="Stop a cell once no open question needs it: each declared contrast (A-B, B-C, D-E, and "
    "E against F to J) ends when the rates are found to differ, or to lie within DELTA of each "
    "other, for example 0.05. --trials is the maximum; --dry-run says what that saves.",
)
@options.seed
@click.option(
    "--shard",
    metavar="I/N",
    help="Play only the I-th of N equal parts of the trials, into a run directory of its own, for "
    "machines that share a run; `merge` joins the parts.",
)
@click.option(
    "--extend", is_flag=True, help="Add trials, models or conditions to a finished directory."
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show models, plan, episodes, output folder and an estimate of the time; start nothing. "
    "Exit status 3 if a model could not be started.",
)
@click.option(
    "--ray",
    "ray_address",
    metavar="auto|ADDRESS",
    help="Play on all nodes of a Ray cluster: `auto` for the one this machine is in, or HOST:PORT "
    "of its head. --gpus and --concurrency are then per node.",
)
@click.option(
    "--retry-errors", is_flag=True, help="Replay episodes that have no outcome because of an error."
)
def run_command(
    models: tuple[str, ...], conditions: str, trials: int, out: Path | None, gpus: int | None,
    nodes: int, engine: str, base_url: str | None, api_key_env: str | None, concurrency: int | None,
    engine_args: tuple[str, ...], max_model_len: int | None, max_tokens: int | None,
    max_messages: int, max_seconds: float | None, request_timeout: float, temperature: float | None,
    top_p: float | None, top_k: int | None, min_p: float | None, thinking: str,
    factor: str | None, thinking_budget: int | None, stop_at_bypass: bool, interview: bool,
    probe: bool, until_halfwidth: float | None, until_upper: float | None,
    until_decided: float | None, seed: int | None, shard: str | None, extend: bool,
    ray_address: str | None,
    retry_errors: bool, dry_run: bool, study: Path | None,
) -> None:  # fmt: skip
    """Play the prompt grid and count which models allow shutdown.

    STUDY.yaml is a study: models, conditions, factors, trials and contrasts in one file (see
    docs/study.md). It plays what is missing of it, into runs/<its name>.

    \b
    Examples:
        local-shutdown run
        local-shutdown run --model Qwen/Qwen3-8B --gpus 4 --trials 1000
        local-shutdown run --model gpt-oss-20b --conditions A,E,K --reasoning-effort high
        local-shutdown run --base-url http://127.0.0.1:8000/v1 --model my-model
        local-shutdown run examples/quickstart.yaml --dry-run

    Ctrl-C finishes the episodes in flight and starts no new ones; a second Ctrl-C stops at once.
    Either way, everything that has finished is kept; run the same command to resume.

    Exit status: 0 done; 1 done, but some episodes ended in an error; 2 invalid usage or input; 3
    this machine cannot run it; 130 interrupted.
    """
    if engine == "endpoint" and not base_url:
        raise UsageError("--engine endpoint needs --base-url", "e.g. http://127.0.0.1:8000/v1")
    if base_url and engine in ("vllm", "transformers"):
        raise UsageError(f"--base-url and --engine {engine} cannot be combined")
    if base_url:
        base_url = engines.endpoint_url(base_url)
    if ray_address is not None and not ray_address.strip():
        raise UsageError("--ray: empty; give `auto` or HOST:PORT")
    if ray_address and (base_url or engine == "endpoint"):
        raise UsageError(
            "--ray and --base-url cannot be combined: nodes serve models of their own",
            "leave --ray out: one machine plays 40 episodes a second against an endpoint",
        )
    if ray_address and dry_run:
        raise UsageError("--dry-run looks at this machine and cannot be combined with --ray")
    if ray_address and (shard or nodes > 1):
        given_too = "--shard" if shard else "--nodes"
        raise UsageError(
            f"--ray and {given_too} cannot be combined",
            "with --ray, the nodes share all trials, and each serves whole models",
        )
    cluster = None
    if ray_address:
        from local_shutdown.cluster import rays

        cluster = rays.connect(ray_address)
    if study is not None:
        from local_shutdown.cli import study as studies

        machine = studies.machine(study, engine, base_url, cluster)
        studies.run_study(study, out, dry_run=dry_run, machine=machine, nodes=cluster)
        return
    rules = {"halfwidth": until_halfwidth, "upper": until_upper, "decided": until_decided}
    stopping = [f"--until-{name}" for name, value in rules.items() if value]
    part = options.shard(shard, trials, stopping)
    chosen = grid.choose(conditions)
    kind = cluster.engine(engine) if cluster else engines.choose_kind(engine, base_url)
    if nodes > 1 and kind != "vllm":
        raise UsageError(f"--nodes {nodes}: the engine is {kind}, and only vllm spreads a model")
    given = dict(zip(_sampling, (temperature, top_p, top_k, min_p), strict=True))
    engine_options = engines.Options(
        sampled=tuple(name for name, value in given.items() if value is not None),
        gpus=gpus,
        nodes=nodes,
        base_url=base_url,
        api_key=engines.endpoint_key(base_url, api_key_env) if base_url else None,
        max_model_len=max_model_len,
        engine_args=engine_args,
        concurrency=concurrency,
        request_timeout_s=request_timeout,
    )
    specs = options.specs(models, kind, engine_options)
    modes = _modes(thinking, factor)
    for spec in specs:
        for mode in modes:
            spec.thinking.request(mode, thinking_budget)  # refuse before anything is started
    settings = Settings(
        models=specs,
        conditions=chosen,
        trials=trials,
        out=out or options.default_out(specs, part),
        command=click.get_current_context().meta.get(COMMAND, ()),
        engine=kind,
        options=engine_options,
        limits=Limits(messages=max_messages, seconds=max_seconds),
        max_tokens=max_tokens,
        sampling={name: value for name, value in given.items() if value is not None},
        thinking=modes,
        thinking_budget=thinking_budget,
        stop_at_bypass=stop_at_bypass,
        interview=grid.interview_questions() if interview else (),
        probe=probe,
        until_halfwidth=until_halfwidth,
        until_upper=until_upper,
        until_decided=until_decided,
        seed=seed,
        extend=extend,
        retry_errors=retry_errors,
        shard=part,
    )
    found: str | None = None
    if out is None:
        settings, found = placed(settings)
    if dry_run:
        if found:
            echo(found)
        from local_shutdown.cli import dryrun

        sys.exit(0 if dryrun.dry_run(settings) else 3)
    if cluster is not None:
        _play_on(cluster, settings, found)
        return
    shown = display.for_this_terminal(
        {c.id: c.title for c in chosen},
        trials,
        out=settings.out,
        rule=settings.stop_rule,
        shard=settings.part,
    )
    if found:
        shown.say(found)
    _conclude(settings, play(settings, shown))


def _play_on(nodes: RayNodes, settings: Settings, found: str | None) -> None:
    from local_shutdown.cli import cluster_display

    shown = cluster_display.for_this_terminal()
    if found:
        shown.say(found)
    _conclude(settings, play(settings, shown, runner(nodes)))


def _conclude(settings: Settings, failed: bool) -> None:
    """Show the rates and what to do with them."""
    tables.print_cells([settings.out])
    echo("\nnext:")
    commands = ["compare {} --reference paper", "report {}", "show {} --outcome resisted"]
    if settings.shard is not None:
        commands.insert(
            0, f"merge {{}} ... --out DIR   (with the other shards of {settings.shard.of})"
        )
    for command in commands:
        echo(f"  local-shutdown {command.format(shlex.quote(str(settings.out)))}")
    sys.exit(1 if failed else 0)


def placed(settings: Settings) -> tuple[Settings, str | None]:
    """Where a run without --out goes: on with the unfinished one that has these settings, whatever
    its date, else to a name that no other settings have; and what to say of it."""
    identity = settings.identity()
    unfinished = runs.resumable(settings.out.parent, identity)
    if unfinished is not None:
        return replace(settings, out=unfinished), f"resuming {unfinished}, which has these settings"
    free = runs.free_name(settings.out, identity)
    said = None
    if free != settings.out:
        said = f"{settings.out} is taken by a run with other settings: using {free}"
    return replace(settings, out=free), said


def _modes(thinking: str, factor: str | None) -> tuple[str, ...]:
    if factor is None:
        return (thinking,)
    name, _, levels = factor.partition("=")
    modes = tuple(dict.fromkeys(level.strip() for level in levels.split(",") if level.strip()))
    if name != "effort" or not modes:
        raise UsageError(
            f"--factor {factor}: not of the form effort=LEVEL,LEVEL",
            "e.g. --factor effort=low,high",
        )
    if thinking != "default":
        raise UsageError("--factor effort=... and --reasoning-effort cannot be combined")
    return modes
