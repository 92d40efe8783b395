"""search.yaml as a value: validated whole, frozen, with every problem reported at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from engine.lookup import nearest
from engine.strict_yaml import load_yaml
from evolve.config.forms import Objectives, Section, Settings, Shares, kind
from evolve.config.names import Address, Optimizer, Trackers
from evolve.config.space import Space
from evolve.errors import ConfigError
from tasks.spec import BATCH_TOKENS

# With `run.*` these may change at any start: they only decide where a search ends.
BUDGET_KEYS = ("search.trials", "search.hours", "search.documents", "search.stop_early")

MEMORY_KEYS = ("score.batch_tokens",)  # likewise: whoever runs out of memory goes on with less


def refuse_unprintable(names: Sequence[str]) -> None:
    """Raises ValueError for names that would steer a terminal which shows them."""
    for name in names:
        if not name.isprintable():
            raise ValueError(f"{name!r:.80} holds characters that cannot be printed; write the name without them")


class Models(Section):
    base: str = Field(description="the common base: a folder, a Hub id, id@revision, or model+adapter (LoRA)")
    sources: tuple[str, ...] = Field(min_length=1, strict=False, description="fine-tunes of the base")

    @model_validator(mode="after")
    def distinct(self) -> Models:
        seen = [self.base, *self.sources]
        refuse_unprintable(seen)
        for model in self.sources:
            if seen.count(model) > 1:
                raise ValueError(f"{model} is named twice; name every model once")
        return self


class Task(Section):
    task: str = Field(description="an lm-eval task, group or tag of `include`, or of lm-eval's own")
    metric: str = Field(description="as lm-eval names it: acc, exact_match, exact_match,strict-match ...")
    weight: float = Field(1.0, gt=0, description="in the objective: the weighted mean over the tasks")
    num_fewshot: int | None = Field(None, ge=0, description="null: as the task says")
    floor: float | None = Field(
        None, ge=0, description="the winner's metric is at most this much worse than the base's; null: no floor"
    )


class Documents(Section):
    search: int = Field(100, ge=2, description="per task: what candidates are scored on")
    selection: int = Field(200, ge=2, description="per task: decides between the finalists")
    report: int = Field(400, ge=2, description="per task: opened once, at the end")


class Score(Section):
    tasks: tuple[Task, ...] = Field(min_length=1, strict=False)
    include: tuple[str, ...] = Field((), strict=False, description="folders with lm-eval tasks of your own")
    documents: Documents = Documents()
    objective: Objectives = Field(
        "metric",
        description="what the search maximises: metric, loglikelihood, or shares {metric: 1, loglikelihood: 0.2}",
    )
    normalize: bool = Field(
        False, description="a task counts by how far it comes from the base to its best source, not by its points"
    )
    loglikelihood_unit: Literal["token", "byte"] = Field(
        "token", description="what a right answer's log-likelihood is divided by"
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="of the scored model; null: as the base"
    )
    batch_tokens: int = Field(BATCH_TOKENS, ge=32, description="tokens in one forward pass, which bounds its memory")
    max_length: int | None = Field(None, ge=1, description="tokens; null: as the model says")
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool = True
    system_instruction: str | None = None
    gen_kwargs: Settings = Field({}, description="generation settings over the tasks' own: {max_gen_toks: 64}")
    allow_benchmarks: bool = Field(False, description="search on public benchmarks, which the report then says")

    @property
    def shares(self) -> Shares:
        """The objective as shares of the metric and of the log-likelihood."""
        if isinstance(self.objective, Shares):
            return self.objective
        return Shares(**{self.objective: 1.0})

    @property
    def floors(self) -> dict[str, float]:
        """Task -> how far its metric may fall below the base's, of the tasks that have a floor."""
        return {task.task: task.floor for task in self.tasks if task.floor is not None}

    @model_validator(mode="after")
    def distinct(self) -> Score:
        names = [task.task for task in self.tasks]
        refuse_unprintable(names)
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"task {name} is named twice; name every task once")
        return self


class Search(Section):
    optimizer: Optimizer = Field("cma", description="see `evolve show optimizers`")
    trials: int = Field(200, ge=1, description="the budget in candidates")
    hours: float | None = Field(None, gt=0, description="the budget in hours of searching; null: no bound")
    documents: int | None = Field(None, ge=1, description="the budget in scored documents; null: no bound")
    population: int | None = Field(None, ge=2, description="candidates a generation; null: chosen, and recorded")
    gradients: bool = Field(
        True, description="begin where gradients of the chance of right answers lead, if the methods have them"
    )
    grow: bool = Field(True, description="few genes at first, that part as documents are spent (optimizer cma)")
    sample: int | None = Field(
        None, ge=2, description="search documents of each task that a generation is scored on, drawn anew; null: all"
    )
    asynchronous: bool = Field(
        False,
        description="no generations: a worker that is free gets the next point at once; no two runs are then the same",
    )
    race: bool = Field(True, description="stop scoring what is clearly among the losers of its generation")
    stop_early: bool = Field(
        True, description="end where nothing is found that beats the models and plain merges it began with"
    )
    finalists: int = Field(6, ge=1, description="candidates compared again on the selection documents")
    simplify: bool = Field(
        True, description="make the winner's recipe simpler while its score on the selection documents stays as good"
    )


class Run(Section):
    workers: Annotated[
        Annotated[Annotated[int, Field(ge=1)], Tag("<count>")] | Annotated[Literal["auto"], Tag("<name>")],
        Discriminator(kind),
    ] = Field("auto", description="auto: one a GPU, else by cores and memory")
    cpu_workers: bool = Field(
        False, description="on a cluster with GPUs, take CPU workers too, on the machines that have no GPU"
    )
    candidate_minutes: float | None = Field(
        None, gt=0, description="what takes longer is tried once more and then a failure; null: no bound"
    )
    address: Address = Field("local", description="or a Ray address: auto, host:6379, ray://host:10001")
    output: str = Field("results", description="where results/<name>/ stands")
    storage: str | None = Field(None, description="a database URL, journal:///FILE; null: results/<name>/study.db")
    trackers: Trackers = Field((), strict=False, description="who else shows the run: tensorboard, mlflow, wandb")
    trust_remote_code: bool = Field(False, description="run model code that a checkpoint brings along")


class SearchConfig(Section):
    name: str = Field(description="a run lives in <output>/<name>/")
    seed: int = Field(0, ge=0)
    models: Models
    space: Space = Space()
    score: Score
    search: Search = Search()
    run: Run = Run()
    _place: Path | None = PrivateAttr(None)

    @field_validator("name")
    @classmethod
    def plain(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
            raise ValueError(f"must be letters, digits, dots, dashes and underscores, got {value!r}")
        return value

    @model_validator(mode="after")
    def sample_of_what_there_is(self) -> SearchConfig:
        sample, documents = self.search.sample, self.score.documents.search
        if sample is not None and isinstance(documents, int) and sample > documents:
            raise ValueError(
                f"search.sample ({sample}) is drawn from score.documents.search ({documents}), which are fewer; lower "
                "the one or raise the other"
            )
        return self

    @model_validator(mode="after")
    def sample_for_generations(self) -> SearchConfig:
        if self.search.sample is not None and self.search.asynchronous:
            raise ValueError(
                f"search.sample ({self.search.sample}) draws documents for each generation, and an asynchronous "
                "search has none; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def floors_on_the_same_documents(self) -> SearchConfig:
        if self.search.sample is not None and self.score.floors:
            raise ValueError(
                f"search.sample ({self.search.sample}) scores every generation on other documents, and floors are "
                "counted from the base on the same ones; leave the sample or the floors out"
            )
        return self

    @property
    def folder(self) -> Path:
        return self._place or Path(self.run.output).expanduser() / self.name

    def placed(self, folder: Path) -> SearchConfig:
        """The same run, whose folder was found at `folder`: it may have been renamed, or be a copy."""
        copy = self.model_copy()
        copy._place = folder
        return copy


def read_yaml(path: Path, what: str) -> Any:
    """What stands in a YAML file. Raises ConfigError; `what`: it should have been, as in "give the path of a ..."."""
    try:
        return load_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; give the path of a {what}") from None
    except IsADirectoryError:
        within = f": {path / what}" if (path / what).is_file() else ""
        raise ConfigError(f"{path}: is a folder; give the path of a {what}{within}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give the path of a {what}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None


def load_config(path: Path) -> SearchConfig:
    """The validated search.yaml at `path`. Raises ConfigError that lists all problems, one a line."""
    data = read_yaml(path, "search.yaml")
    if not isinstance(data, dict):
        what = "is empty" if data is None else f"holds {type(data).__name__}, not keys and values"
        raise ConfigError(f"{path}: {what}; see `evolve show config`")
    try:
        return SearchConfig.model_validate(data)
    except ValidationError as error:
        # A list whose items are all wrong counts as too short as well: one message is enough.
        found = [item for item in error.errors() if item["type"] != "too_short" or not item["input"]]
        problems = dict.fromkeys(describe(problem) for problem in found)
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems)) from None


def describe(problem: Any) -> str:
    """One of pydantic's findings as `where: what, with the value; what to do`."""
    unknown = problem["type"] == "extra_forbidden"
    own = len(problem["loc"]) - unknown  # an unknown key may be called anything
    keys = [part for place, part in enumerate(problem["loc"]) if place >= own or not is_branch(part)]
    where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")
    if unknown:
        known = known_keys(tuple(keys[:-1]))
        hint = nearest(str(keys[-1]), known) or f"; known here: {', '.join(known)}"
        return f"{where}: unknown key{hint}"
    if problem["type"] == "missing":
        return f"{where}: is missing; see `evolve show config`"
    message = str(problem["msg"]).removeprefix("Value error, ").replace("a valid tuple", "a list")
    message = re.sub("a valid dictionary( or instance of .*)?", "keys and values", message)
    if problem["type"] == "union_tag_invalid":
        message = "Has none of the forms it may have; see `evolve show config`"
    # What is wrong in a storage's URL may hold its password.
    quiet = problem["type"] == "value_error" or "storage" in keys
    shown = "" if quiet else f", got {problem['input']!r:.80}"
    if not where:  # a message on several keys names them
        return message
    return f"{where}: {message[0].lower()}{message[1:]}{shown}"


def is_branch(part: Any) -> bool:
    """Whether a part of a location is the name of a union's branch, not a key."""
    return isinstance(part, str) and (part.startswith("<") or part in ("bool", "float", "str"))


def known_keys(keys: tuple[Any, ...]) -> list[str]:
    """The keys that the section at `keys` takes."""
    section: Any = SearchConfig
    for key in keys:
        if isinstance(key, str) and hasattr(section, "model_fields") and key in section.model_fields:
            section = section_type(section.model_fields[key].annotation)
    return list(getattr(section, "model_fields", {}))


def section_type(annotation: Any) -> Any:
    """The section inside an annotation such as `tuple[Task, ...]` or `int | Smooth`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = [section_type(part) for part in getattr(annotation, "__args__", ())]
    return next((part for part in inner if part is not None), None)
