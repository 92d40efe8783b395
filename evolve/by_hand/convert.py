"""`evolve convert`: a mergekit-evolve configuration as a search.yaml, and in words what becomes of the rest."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from engine.architecture import layer_count, split_layer
from engine.checkpoint import open_checkpoint
from evolve.atomic import write_text
from evolve.by_hand.genome import Genetic, Genome, GenomeTask, read_genetic
from evolve.config.search_yaml import SearchConfig, describe
from evolve.errors import ConfigError

MOST_EVALUATIONS = 100  # mergekit-evolve's default of --max-fevals
NORMALIZING = ("ties", "dare_ties", "linear")  # methods that it normalizes where nothing is said
OPTIONS = (
    "Of mergekit-evolve's command line, where these options were given:",
    "--max-fevals: is search.trials (here its default of 100), and is not exceeded",
    "--task-search-path: is score.include; put your folders there",
    "--random-seed, --timeout, --force-population-size: are seed, search.hours and search.population",
    "--trust-remote-code: is run.trust_remote_code",
    "--wandb: is run.trackers, a list that may name wandb; nothing is sent anywhere unless it does",
    "--storage-path, --reshard, --save-final-model: everything stands under run.output, the merged checkpoint too",
    "--strategy, --num-gpus, --in-memory, --merge-cuda, --batch-size: candidates are always merged in memory, on "
    "run.workers, in batches of score.batch_tokens",
    "--vllm, --load-in-4bit, --load-in-8bit: candidates are scored by transformers, in the dtype that is shipped",
    "--sigma0: the search chooses its step sizes",
    "--allow-crimes: models have to fit together; --i-understand-...: is score.allow_benchmarks",
)

Say = Callable[[str], None]


def convert(source: Path, out: Path | None, layers: int | None) -> None:
    """Write the search.yaml to `out`, or print it; what does not carry over goes to stderr, a line each.

    `layers`: of the models, where they are not at hand. Raises ConfigError.
    """
    if out is not None and out.exists():
        raise ConfigError(f"{out}: is there already; name another file")
    genetic, notes = read_genetic(source)
    text = f"# Converted from {source.name}; `evolve check` says what is left to do.\n" + search_yaml(
        genetic, source, layers, notes.append
    )
    for note in (*notes, *OPTIONS):
        print(note, file=sys.stderr)
    if out is None:
        print(text, end="")
    else:
        write_text(out, text)


def search_yaml(genetic: Genetic, source: Path, layers: int | None, say: Say) -> str:
    """The search.yaml as text. `say` is told what does not carry over, and why. Raises ConfigError."""
    genome = genetic.genome
    base, sources = models_of(genome, source, say)
    data = {
        "name": re.sub(r"[^A-Za-z0-9._-]+", "-", source.stem).strip("._-") or "converted",
        "models": {"base": base, "sources": sources},
        "space": space_of(genome, shape_of(base, layers), say),
        "score": score_of(genetic, say),
        "search": {"optimizer": "cma", "trials": MOST_EVALUATIONS},
    }
    if genetic.random_init:
        say("random_init: a search begins with the models and with plain merges, which random points rarely match")
    try:
        SearchConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{source}: {describe(each)}" for each in error.errors())) from None
    text: str = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    return text


def models_of(genome: Genome, source: Path, say: Say) -> tuple[str, list[str]]:
    """The base and the sources: every search has a base here, which is never a source too."""
    if genome.base_model is None:
        if genome.merge_method not in ("linear", "slerp"):
            raise ConfigError(f"{source}: genome.base_model: {genome.merge_method} needs one; add it")
        say(f"genome.base_model: none is named, and {genome.models[0]} is it here: its tokenizer and dtype are taken")
    base = genome.base_model or genome.models[0]
    sources = [model for model in dict.fromkeys(genome.models) if model != base]
    if not sources:
        raise ConfigError(f"{source}: genome.models: names no model besides the base {base}; add one")
    if genome.base_model in genome.models and genome.merge_method not in ("linear", "slerp"):
        say(f"genome.models: {base} is the base as well, whose task vector is zero, and has no weight here")
    if genome.base_model and genome.base_model not in genome.models and genome.merge_method in ("linear", "slerp"):
        say(f"genome.base_model: {base} takes part in a {genome.merge_method} here, as every model does")
    return base, sources


@dataclass(frozen=True)
class Shape:
    """What is known of the models: the number of layers (None: nothing) and the tensors' names in them."""

    layers: int | None
    inner: tuple[str, ...] | None = None


def shape_of(base: str, layers: int | None) -> Shape:
    """Of a base that is a folder here. `layers` stands above what is found."""
    if not Path(base).is_dir():
        return Shape(layers)
    names = tuple(open_checkpoint(base).tensors)
    return Shape(layers or layer_count(names), tuple(name for name in names if split_layer(name)))


def space_of(genome: Genome, shape: Shape, say: Say) -> dict[str, Any]:
    method = genome.merge_method
    space: dict[str, Any] = {"method": method, "layers": depth_of(genome, shape)}
    if modules := modules_of(genome, shape, say):
        space["modules"] = modules
    if parameters := parameters_of(genome, say):
        space["parameters"] = parameters
    if genome.allow_negative_weights and method not in ("linear", "slerp"):
        space["negative"] = True
    if genome.tokenizer_source not in (None, "base", genome.base_model):
        say(
            f"genome.tokenizer_source: {genome.tokenizer_source} is left out: candidates are asked with the base's "
            "tokenizer, and keep it"
        )
    say("genome: embeddings, final norm and head have genes of their own, and none of the first or last layers'")
    say("genome: dtype is bfloat16 there, which space.out_dtype says here; what is in between is float32")
    return {**space, "out_dtype": "bfloat16"}


def depth_of(genome: Genome, shape: Shape) -> Any:
    """Layers in a block -> blocks, or knots where values are interpolated."""
    each = genome.layer_granularity
    if each < 1:
        return 1
    if shape.layers is None:
        raise ConfigError(
            f"genome.layer_granularity: is {each} layers a block, and {genome.base_model or genome.models[0]} is no "
            "folder here to count its layers in; give their number by --layers"
        )
    if shape.layers % each:
        raise ConfigError(
            f"genome.layer_granularity: {shape.layers} layers are no multiple of {each}; give a divisor of them"
        )
    count = shape.layers // each
    return {"smooth": count} if genome.smooth and count > 1 else count


def modules_of(genome: Genome, shape: Shape, say: Say) -> list[str]:
    """Filters, but for those that name nothing in the layers."""
    kept = []
    for name in dict.fromkeys(genome.filters or ()):
        if shape.inner is not None and not any(name in tensor for tensor in shape.inner):
            say(f"genome.filters: {name} is left out: it names nothing in the layers, and what is outside is one group")
        else:
            kept.append(name)
    return kept


def parameters_of(genome: Genome, say: Say) -> dict[str, Any]:
    method = genome.merge_method
    if method == "slerp":
        say("genome.merge_method: slerp takes the best two models of each block there; here one pair for the recipe")
        if genome.normalize is not None or genome.allow_negative_weights:
            say("genome.normalize, genome.allow_negative_weights: slerp has no weights; left out")
        return {}
    say(f"genome: weights have no bounds there; here those of `evolve show methods` for {method}, or space.parameters")
    if method in ("ties", "dare_ties"):
        say("genome: a density outside of 0 to 1 is folded back there, and begins at 1; here its bounds are 0.1 and 1")
    normalize = method in NORMALIZING if genome.normalize is None else genome.normalize
    if normalize:
        say("genome.normalize: weights that are divided by their sum cannot amount to more than 1; see space.scale")
    negative = {"weight": {"low": -1.0, "high": 1.0}} if genome.allow_negative_weights and method == "linear" else {}
    return {**negative, "normalize": normalize}


def score_of(genetic: Genetic, say: Say) -> dict[str, Any]:
    if genetic.shuffle:
        say("shuffle: left out: documents are drawn by the seed, the same ones for every candidate")
    documents = {}
    if genetic.limit is None:
        say("limit: none there: every candidate answers all documents; here 100 a task, and others decide in the end")
    else:
        documents = {"documents": {"search": max(2, genetic.limit)}}
        say(
            f"limit: the first {genetic.limit} documents of each task there; here as many that the seed draws, and "
            "score.documents.selection and report besides, so that the result is not judged by what it was chosen by"
        )
    return {
        "tasks": tasks_of(genetic, say),
        **documents,
        "apply_chat_template": genetic.apply_chat_template,
        "fewshot_as_multiturn": genetic.fewshot_as_multiturn,
    }


def tasks_of(genetic: Genetic, say: Say) -> list[dict[str, Any]]:
    tasks: dict[str, dict[str, Any]] = {}
    for index, task in enumerate(genetic.tasks):
        where = f"tasks[{index}] ({task.name})"
        if task.weight == 0:
            say(f"{where}: weighs nothing, and is left out")
        elif task.name in tasks:
            say(f"{where}: is named twice; its metric {task.metric} is left out, since a task has one here")
        else:
            tasks[task.name] = task_of(task, genetic.num_fewshot, where, say)
    if not tasks:
        raise ConfigError("tasks: none has a weight other than 0; give one")
    return list(tasks.values())


def task_of(task: GenomeTask, num_fewshot: int | None, where: str, say: Say) -> dict[str, Any]:
    if task.weight < 0:
        say(
            f"{where}: the weight {task.weight:g} turns the metric round there; here {abs(task.weight):g}, and what "
            "lm-eval calls better when lower is turned round by itself"
        )
    return {
        "task": task.name,
        "metric": task.metric.removesuffix(",none"),
        **({} if abs(task.weight) == 1 else {"weight": abs(task.weight)}),
        **({} if num_fewshot is None else {"num_fewshot": num_fewshot}),
    }
