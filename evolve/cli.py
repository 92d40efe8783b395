"""The command line. Every subcommand imports what it needs when it is called, so that `evolve --help` is instant."""

from __future__ import annotations

from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from evolve.by_hand import merge_options, score_options
from evolve.command import execute, how_to_go_on
from evolve.submission import commands as submission
from tasks.spec import BATCH_TOKENS

app = typer.Typer(
    name="evolve",
    help="Finds the best way to merge fine-tuned language models, and proves it on documents the search never saw.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

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

    asked = (search, asked_threads(), address)
    execute("evolve.run", "run", *asked, interrupted=how_to_go_on(), before=partial(joinable, search, address))


@app.command()
def check(
    search: SearchFile,
    time: Annotated[bool, typer.Option(help="score the base once to tell the time of a candidate")] = True,
) -> None:
    """Find everything that can be known before the first trial; merges nothing."""
    from evolve.environment import asked_threads

    execute("evolve.preparation.check", "check", search, time, asked_threads(), before=partial(config_of, search))


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
    execute("evolve.by_hand.merging", "merge", recipe, out, given, parallel=True, threads=threads)


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
    execute("evolve.by_hand.scoring", "score", models, given, parallel=True, threads=threads, interrupted=UNRECORDED,
            before=before)  # fmt: skip


@app.command()
def status(
    folder: Annotated[
        Path,
        typer.Argument(help="a run's folder, or one with several; or a run's search.yaml, where its database is seen"),
    ],
    json: Annotated[bool, typer.Option("--json", help="one JSON object, for machines")] = False,
    watch: Annotated[float | None, typer.Option(min=0.2, help="seconds: look again, until the run is over")] = None,
) -> None:
    """Say where a run stands: candidates, failures, rate, how busy the workers are, time left."""
    execute("evolve.watching.status", "status", folder, json, watch)


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
        execute("evolve.report.reporting", "report", folder)
    else:
        execute("evolve.report.reranking", "rerank", folder, weights, objective, whole)


@app.command()
def show(
    what: Annotated[str, typer.Argument(help="methods, spaces, optimizers, tasks or config")],
    include: Annotated[
        list[Path] | None, typer.Option(help="with tasks: those of these folders, not lm-eval's own")
    ] = None,
) -> None:
    """List what there is: merge methods, search spaces, optimizers, tasks, or the keys of search.yaml."""
    execute("evolve.by_hand.show", "show", what, include or [])


@app.command()
def convert(
    genome: Annotated[Path, typer.Argument(help="a configuration of mergekit-evolve")],
    out: Annotated[Path | None, typer.Argument(help="the search.yaml to write; else it is printed")] = None,
    layers: Annotated[
        int | None, typer.Option(min=1, help="of the models, where the base is no folder here to count them in")
    ] = None,
) -> None:
    """Turn a mergekit-evolve configuration into a search.yaml, and say what does not carry over."""
    execute("evolve.by_hand.convert", "convert", genome, out, layers)


def config_of(search: Path) -> object:
    from evolve.config.search_yaml import load_config

    return load_config(search)


def joinable(search: Path, address: str | None) -> None:
    """What is wrong with the configuration, or keeps its cluster closed to this machine."""
    from evolve.config.given import addressed
    from evolve.config.search_yaml import load_config
    from evolve.workers.reaching import show_token

    show_token(addressed(load_config(search), address).run.address)


for each in (submission.submit, submission.follow, submission.stop, submission.fetch):
    app.command()(each)


def main() -> None:
    """The entry point of the command `evolve`."""
    app()
