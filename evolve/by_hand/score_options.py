"""The options of `evolve score`, named as lm_eval names them (its spelling with underscores is understood too)."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from evolve.errors import ConfigError
from tasks.spec import SMALLEST

UNITS = ("token", "byte")
OPENING, CLOSING, QUOTES = "([{", ")]}", "'\""
WORDS: Mapping[str, Any] = {"true": True, "false": False, "none": None, "null": None}

MODELS = "folders, Hub ids, id@revision, model+adapter (LoRA), or recipes (*.yaml), which are merged in memory"
METRIC = "which of a task's metrics stands first and is compared, by lm-eval's name; may be repeated"

Models = Annotated[list[str], typer.Argument(help=MODELS, show_default=False)]
Tasks = Annotated[
    list[str] | None, typer.Option("--task", "--tasks", "-t", help="lm-eval tasks; repeated, or with commas")
]
Include = Annotated[
    list[Path] | None, typer.Option("--include", "--include-path", help="a folder of lm-eval tasks; may be repeated")
]
Limit = Annotated[
    str | None, typer.Option("--limit", "-L", metavar="N", help="the first N documents of each task; else all")
]
NumFewshot = Annotated[int | None, typer.Option("--num-fewshot", "-f", help="examples in a prompt; else the task's")]
Chat = Annotated[bool, typer.Option(help="put prompts through the tokenizer's chat template")]
Multiturn = Annotated[bool, typer.Option(help="with a chat template: examples as turns of a conversation")]
System = Annotated[str | None, typer.Option(help="a system's message before every prompt")]
GenKwargs = Annotated[list[str] | None, typer.Option(help="for generating: 'max_gen_toks=64,do_sample=false', or JSON")]
Metric = Annotated[list[str] | None, typer.Option(help=METRIC)]
Unit = Annotated[str, typer.Option(help="of the right answers' log-likelihood: token or byte")]
BatchTokens = Annotated[int, typer.Option(help="tokens in one forward pass: bounds memory")]
MaxLength = Annotated[int | None, typer.Option(help="tokens of a prompt; else the model's context")]
Dtype = Annotated[str | None, typer.Option(help="to score in: float32, bfloat16, float16; else as stored")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, auto ...")]
Threads = Annotated[int | None, typer.Option(min=1, help="of the CPU; else OMP_NUM_THREADS, else one a core")]
Trust = Annotated[bool, typer.Option(help="run model code that a checkpoint brings along")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object, and nothing else, to standard output")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="write the JSON into this file as well")]
Samples = Annotated[bool, typer.Option("--samples", help="in the JSON: every document's values, by its id")]


@dataclass(frozen=True)
class ScoreOptions:
    """What was asked for, checked as far as it can be without opening anything."""

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    include: tuple[Path, ...]
    limit: int | None
    num_fewshot: int | None
    apply_chat_template: bool
    fewshot_as_multiturn: bool
    system_instruction: str | None
    gen_kwargs: dict[str, Any]
    metrics: tuple[str, ...]
    unit: Literal["token", "byte"]
    batch_tokens: int
    max_length: int | None
    dtype: str | None
    device: str
    trust_remote_code: bool
    json: bool
    output: Path | None
    samples: bool


def score_options(models: Sequence[str], given: Mapping[str, Any]) -> ScoreOptions:
    """The options by their names on the command line. Raises ConfigError for values that no run could use."""
    limit = documents(given["limit"])
    at_least("limit", limit, 1)
    at_least("max_length", given["max_length"], 1)
    at_least("batch_tokens", given["batch_tokens"], SMALLEST)
    at_least("num_fewshot", given["num_fewshot"], 0)
    tasks = tuple(name.strip() for text in given["task"] or () for name in text.split(",") if name.strip())
    if not tasks:
        raise ConfigError("--task: none given; name lm-eval tasks, as in --task arc_easy,my_task --include my_tasks/")
    if given["loglikelihood_unit"] not in UNITS:
        raise ConfigError(f"--loglikelihood-unit ({given['loglikelihood_unit']}): give token or byte")
    return ScoreOptions(
        models=distinct(models),
        tasks=tasks,
        include=tuple(given["include"] or ()),
        limit=limit,
        num_fewshot=given["num_fewshot"],
        apply_chat_template=given["apply_chat_template"],
        fewshot_as_multiturn=given["fewshot_as_multiturn"],
        system_instruction=given["system_instruction"],
        gen_kwargs=gen_kwargs(given["gen_kwargs"] or ()),
        metrics=tuple(given["metric"] or ()),
        unit=cast(Literal["token", "byte"], given["loglikelihood_unit"]),
        batch_tokens=given["batch_tokens"],
        max_length=given["max_length"],
        dtype=None if given["dtype"] in (None, "auto") else dtype_name(given["dtype"]),
        device=given["device"],
        trust_remote_code=given["trust_remote_code"],
        json=given["json"],
        output=None if given["output"] is None else writable(given["output"]),
        samples=given["samples"],
    )


def documents(text: str | None) -> int | None:
    """The number in `--limit`. Raises ConfigError, also for the shares of a task that lm-eval takes."""
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise ConfigError(
            f"--limit ({text}): is no number of documents; give one, such as 100, not a share of the task"
        ) from None


def at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        advice = ", or leave it away for all documents" if name == "limit" else ""
        raise ConfigError(f"--{name.replace('_', '-')} ({value}): give {least} or more{advice}")


def distinct(models: Sequence[str]) -> tuple[str, ...]:
    """The models, if no two of them are the same. Raises ConfigError."""
    seen: dict[str, str] = {}
    for model in models:
        place = str(Path(model).resolve()) if Path(model).exists() else model
        if place in seen:
            raise ConfigError(f"MODEL ({model}): is given twice, first as {seen[place]}; name every model once")
        seen[place] = model
    return tuple(models)


def dtype_name(name: str) -> str:
    from engine.lookup import nearest
    from evolve.preparation.setting import DTYPES

    short = name.removeprefix("torch.")
    if short not in DTYPES:
        raise ConfigError(f"--dtype ({name}): cannot be scored in{nearest(short, DTYPES)}; give {', '.join(DTYPES)}")
    return short


def writable(path: Path) -> Path:
    """The path, if a file could be written there. Raises ConfigError, before hours of scoring are lost."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        problem = "is a folder" if path.is_dir() else "its folder does not exist"
        raise ConfigError(f"--output ({path}): {problem}; give the path of a file, such as scores.json")
    return path


def gen_kwargs(texts: Sequence[str]) -> dict[str, Any]:
    """Settings for generation out of `a=b,c=[1, 2]` or a JSON object; later ones win. Raises ConfigError."""
    settings: dict[str, Any] = {}
    for text in texts:
        settings |= _object(text) if text.lstrip().startswith("{") else dict(_pair(part) for part in _parts(text))
    return settings


def _object(text: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--gen-kwargs ({text[:80]}): is no JSON object ({error}); give name=value pairs") from None
    return content


def _pair(part: str) -> tuple[str, Any]:
    name, equals, value = (piece.strip() for piece in part.partition("="))
    if not equals or not name:
        raise ConfigError(f"--gen-kwargs ({part[:80]}): is no name=value; write, say, max_gen_toks=64,do_sample=false")
    if value.lower() in WORDS:
        return name, WORDS[value.lower()]
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return name, value  # a text without quotes


def _parts(text: str) -> list[str]:
    """The text, parted at commas that stand in no brackets and no quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in QUOTES:
            quote = letter
        else:
            depth += (letter in OPENING) - (letter in CLOSING)
        if letter == "," and not quote and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part for part in parts if part.strip()]
