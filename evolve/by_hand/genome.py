"""A mergekit-evolve configuration as a value: its `genome`, its `tasks` and how they are asked.

After github.com/arcee-ai/mergekit, docs/evolve.md. Keys that it does not know are ignored there; here they are listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from engine.entries import ModelName
from engine.lookup import nearest
from evolve.config.search_yaml import read_yaml
from evolve.errors import ConfigError


class Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Genome(Part):
    models: tuple[ModelName, ...] = Field(min_length=1)
    merge_method: Literal["linear", "task_arithmetic", "ties", "dare_ties", "slerp"]
    base_model: ModelName | None = None
    tokenizer_source: str | None = None
    layer_granularity: int = 0
    normalize: bool | None = None
    allow_negative_weights: bool = False
    filters: tuple[str, ...] | None = None
    smooth: bool = False


class GenomeTask(Part):
    name: str
    weight: float = Field(1.0, allow_inf_nan=False)
    metric: str = "acc,none"


def named(value: Any) -> Any:
    """A task may be its name alone."""
    return {"name": value} if isinstance(value, str) else value


class Genetic(Part):
    """The whole file."""

    genome: Genome
    tasks: tuple[Annotated[GenomeTask, BeforeValidator(named)], ...] = Field(min_length=1)
    limit: int | None = Field(None, ge=1)
    num_fewshot: int | None = Field(None, ge=0)
    shuffle: bool = False
    random_init: bool = False
    apply_chat_template: bool = True
    fewshot_as_multiturn: bool = True


def read_genetic(path: Path) -> tuple[Genetic, list[str]]:
    """The configuration, and a line for each key that mergekit-evolve ignores. Raises ConfigError, a problem a line."""
    data = read_yaml(path, "mergekit-evolve configuration")
    if not isinstance(data, dict) or not isinstance(data.get("genome"), dict):
        raise ConfigError(f"{path}: has no section `genome`; give a mergekit-evolve configuration")
    try:
        return Genetic.model_validate(data), list(ignored(data))
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {problem(each)}" for each in error.errors())) from None


def problem(found: Any) -> str:
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in found["loc"]).lstrip(".")
    if found["type"] == "missing":
        return f"{where}: is missing; mergekit-evolve needs it too"
    message = str(found["msg"]).removeprefix("Value error, ")
    return f"{where}: {message[0].lower()}{message[1:]}, got {found['input']!r:.80}"


def ignored(data: Mapping[str, Any]) -> Iterator[str]:
    """Keys that are no part of a configuration."""
    sections: list[tuple[str, Any, type[Part]]] = [("", data, Genetic), ("genome.", data["genome"], Genome)]
    sections += [(f"tasks[{i}].", task, GenomeTask) for i, task in enumerate(data.get("tasks") or ())]
    for prefix, section, known in sections:
        for key in section if isinstance(section, dict) else ():
            if key not in known.model_fields:
                hint = nearest(str(key), list(known.model_fields))
                yield f"{prefix}{key}: is no key of mergekit-evolve{hint}, which ignores it"
