"""The command line. Every subcommand imports what it needs in its body, so that `evolve --help` is instant.

Exit codes: 0 done; 2 the user can put it right (one message, no traceback); 1 a defect of ours (traceback);
130 interrupted (state is safe, the message says how to go on).
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NoReturn

import typer

from evolve import cluster_options, merge_options, score_options
from evolve.interruption import INTERRUPTION
from tasks.spec import BATCH_TOKENS

app = typer.Typer(
    name="evolve",
    help="Finds the best way to merge fine-tuned language models, and proves it on documents the search never saw.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

INTERRUPTED = "\ninterrupted; what is finished is recorded: the same command goes on from there"
AGAIN = 30  # seconds until it is raised once more: within a destructor Python drops an exception
UNRECORDED = "\ninterrupted; what was scored until then is printed"

SearchFile = Annotated[Path, typer.Argument(help="a search.yaml; see `evolve show config`")]
RunFolder = Annotated[Path, typer.Argument(help="a run's folder, such as results/demo")]


def version(asked: bool) -> None:
    if asked:
        print(f"merge-evolve {metadata.version('merge-evolve')}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=version, is_eager=True, help="Show the version and exit.")]


@app.callback()
def options(version: Version = False) -> None: ...


@app.command()
def run(
    search: SearchFile,
    address: Annotated[
        str | None, typer.Option(help="in place of run.address: auto, host:6379, ray://host ...")
    ] = None,
) -> None:
    """Search, or go on where an earlier start stopped; ends with best.yaml, checkpoint/ and report.md."""
    from evolve.environment import asked_threads

    execute("evolve.run", "run", search, asked_threads(), address, before=partial(config_of, search))


@app.command()
def check(
    search: SearchFile,
    time: Annotated[bool, typer.Option(help="score the base once to tell the time of a candidate")] = True,
) -> None:
    """Find everything that can be known before the first trial; merges nothing."""
    from evolve.environment import asked_threads

    execute("evolve.check", "check", search, time, asked_threads(), before=partial(config_of, search))


@app.command(epilog=merge_options.EPILOG)
def merge(
    recipe: Annotated[Path, typer.Argument(help="a recipe in mergekit's YAML dialect")],
    out: Annotated[Path, typer.Argument(help="the folder of the merged checkpoint")],
    device: merge_options.Device = None,
    dtype: merge_options.Dtype = None,
    shard_size: merge_options.ShardSize = None,
    threads: merge_options.Threads = None,
    seed: merge_options.Seed = None,
    copy_tokenizer: merge_options.Tokenizer = True,
    model_card: merge_options.ModelCard = True,
    trust_remote_code: merge_options.Trust = False,
    dry_run: merge_options.DryRun = False,
    quiet: merge_options.Quiet = False,
    verbose: merge_options.Verbose = 0,
    # As mergekit-yaml spells them.
    cuda: merge_options.Flag = False,
    gpu_rich: merge_options.GpuRich = False,
    multi_gpu: merge_options.Flag = False,
    out_shard_size: merge_options.Text = None,
    num_threads: merge_options.NumThreads = None,
    random_seed: merge_options.RandomSeed = None,
    write_model_card: merge_options.WriteCard = None,
    allow_crimes: merge_options.Flag = False,
    transformers_cache: merge_options.Text = None,
    lora_merge_cache: merge_options.Text = None,
    lora_merge_dtype: merge_options.Text = None,
    unsafe_truncate_embeddings: merge_options.Flag = False,
    safe_serialization: merge_options.Flag = True,
    lazy_unpickle: merge_options.Flag = False,
    low_cpu_memory: merge_options.Flag = False,
    read_to_gpu: merge_options.Flag = False,
    async_write: merge_options.Flag = False,
    write_threads: merge_options.Whole = None,
    clone_tensors: merge_options.Flag = False,
) -> None:
    """Make one merge, as mergekit-yaml does it. After an interruption the same command goes on."""
    given = {name: value for name, value in locals().items() if name not in ("recipe", "out")}
    threads = merge_options.threads_of(given)
    execute("evolve.merging", "merge", recipe, out, given, parallel=True, threads=threads)


@app.command(context_settings={"token_normalize_func": lambda name: name.replace("_", "-")})
def score(
    models: score_options.Models,
    task: score_options.Tasks = None,
    include: score_options.Include = None,
    limit: score_options.Limit = None,
    num_fewshot: score_options.NumFewshot = None,
    apply_chat_template: score_options.Chat = False,
    fewshot_as_multiturn: score_options.Multiturn = True,
    system_instruction: score_options.System = None,
    gen_kwargs: score_options.GenKwargs = None,
    metric: score_options.Metric = None,
    loglikelihood_unit: score_options.Unit = "token",
    batch_tokens: score_options.BatchTokens = BATCH_TOKENS,
    max_length: score_options.MaxLength = None,
    dtype: score_options.Dtype = None,
    device: score_options.Device = "cpu",
    threads: score_options.Threads = None,
    trust_remote_code: score_options.Trust = False,
    json: score_options.Json = False,
    output: score_options.Output = None,
    samples: score_options.Samples = False,
) -> None:
    """Score checkpoints and recipes on lm-eval tasks, with lm-eval's scores, and compare them with the first."""
    given = {name: value for name, value in locals().items() if name != "models"}
    before = partial(score_options.score_options, models, given)
    execute("evolve.scoring", "score", models, given, parallel=True, threads=threads, interrupted=UNRECORDED,
            before=before)  # fmt: skip


@app.command()
def status(
    folder: Annotated[Path, typer.Argument(help="a run's folder; or its search.yaml, where run.storage is a database")],
    json: Annotated[bool, typer.Option("--json", help="one JSON object, for machines")] = False,
    watch: Annotated[float | None, typer.Option(min=0.2, help="seconds: look again, until the run is over")] = None,
) -> None:
    """Say where a run stands: candidates, failures, rate, how busy the workers are, time left."""
    execute("evolve.status", "status", folder, json, watch)


@app.command()
def report(
    folder: RunFolder,
    weights: Annotated[str | None, typer.Option(help="rank all candidates anew: task=2,other=1")] = None,
    objective: Annotated[
        str | None, typer.Option(help="likewise: metric, loglikelihood, or metric=1,loglikelihood=0.2")
    ] = None,
    whole: Annotated[bool, typer.Option("--all", help="with these, all candidates, not the best 20 only")] = False,
) -> None:
    """Write a finished run's report.md again, or rank its candidates by other weights without scoring any."""
    if weights is None and objective is None:
        execute("evolve.reporting", "report", folder)
    else:
        execute("evolve.reranking", "rerank", folder, weights, objective, whole)


@app.command()
def show(
    what: Annotated[str, typer.Argument(help="methods, spaces, optimizers, tasks or config")],
    include: Annotated[
        list[Path] | None, typer.Option(help="with tasks: those of these folders, not lm-eval's own")
    ] = None,
) -> None:
    """List what there is: merge methods, search spaces, optimizers, tasks, or the keys of search.yaml."""
    execute("evolve.show", "show", what, include or [])


@app.command()
def convert(
    genome: Annotated[Path, typer.Argument(help="a configuration of mergekit-evolve")],
    out: Annotated[Path | None, typer.Argument(help="the search.yaml to write; else it is printed")] = None,
    layers: Annotated[
        int | None, typer.Option(min=1, help="of the models, where the base is no folder here to count them in")
    ] = None,
) -> None:
    """Turn a mergekit-evolve configuration into a search.yaml, and say what does not carry over."""
    execute("evolve.convert", "convert", genome, out, layers)


def execute(
    module: str,
    function: str,
    *arguments: Any,
    parallel: bool = False,
    threads: int | None = None,
    interrupted: str = INTERRUPTED,
    before: Callable[[], object] = lambda: None,
) -> None:
    """Import a subcommand's module once the process's surroundings are set, and call it.

    `before` raises what can be known to be wrong without that import, which takes seconds.
    It computes with as many `threads`, else as OMP_NUM_THREADS says, else one, or all cores if it is `parallel`.
    Errors of users become one message and exit code 2, an interruption 130 and the message `interrupted`; defects of
    ours keep their traceback.
    """
    from evolve.environment import asked_threads, limit_threads, quiet, usable_cores

    limit_threads(threads or asked_threads() or (usable_cores() if parallel else 1))
    quiet()
    signals: list[int] = []
    listen(lambda number, frame: leave(interrupted))
    try:
        before()
        command = getattr(imported(module), function)
        listen(lambda number, frame: interrupt(number, signals))
        command(*arguments)
    except KeyboardInterrupt:
        listen(signal.SIG_IGN)  # a second Ctrl-C would tear what libraries do at exit
        stop(interrupted, 130)
    except Exception as error:
        if signals:  # a library made an error of its own of the interruption
            listen(signal.SIG_IGN)
            stop(interrupted, 130)
        if not is_users(error):
            raise
        stop("\n".join(f"error: {printable(line)}" for line in str(error).splitlines()), 2)


def config_of(search: Path) -> object:
    from evolve.config import load_config

    return load_config(search)


def imported(module: str) -> ModuleType:
    """Import without searching for garbage, of which imports make none: with torch that is a quarter of the time."""
    gc.disable()
    try:
        found = importlib.import_module(module)
        gc.freeze()  # nor is what was imported searched later on
        return found
    finally:
        gc.enable()


def listen(handler: Callable[[int, object], None] | signal.Handlers) -> None:
    """For Ctrl-C, and for SIGTERM as well: a cluster that stops us is no other."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):  # the last one rings when a SIGTERM has waited
        signal.signal(each, handler)


def leave(message: str) -> None:
    """While libraries are imported nothing is held yet, and an exception in their midst would not come through."""
    print(message, file=sys.stderr, flush=True)
    os._exit(130)


def interrupt(number: int, signals: list[int]) -> None:
    if INTERRUPTION.waits(number):
        return
    signals.append(number)
    signal.alarm(AGAIN)
    raise KeyboardInterrupt


def is_users(error: Exception) -> bool:
    """Whether the error is one of those that a user can put right (the tree in evolve/errors.py)."""
    roots = {"evolve.errors": "EvolveError", "engine.errors": "EngineError", "tasks.errors": "TaskError"}
    classes = [getattr(sys.modules[module], name) for module, name in roots.items() if module in sys.modules]
    return isinstance(error, tuple(classes))


def printable(line: str) -> str:
    """Without what would command a terminal, hide or reverse a text: names in messages may be anybody's."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)


def stop(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)


cluster_options.add_commands(app, execute)


def main() -> None:
    """The entry point of the command `evolve`."""
    app()
