"""What a run is made of once its configuration meets the disk: opened models, documents, the search space."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from engine.architecture import layer_count, outer_names
from engine.checkpoint import Checkpoint, open_checkpoint
from engine.errors import CheckpointError
from evolve.config.search_yaml import SearchConfig
from evolve.errors import ConfigError
from evolve.optimizers import OPTIMIZERS
from evolve.optimizers.optimizer import Problem
from evolve.optimizers.partition import coarsest
from evolve.preparation.spanned import named, spanned
from evolve.workers.tokenizer import load_tokenizer
from search_spaces.depth import Family
from search_spaces.space import SearchSpace
from tasks.objective import Objective
from tasks.prepared import Prepared, prepare
from tasks.spec import SETS, PromptSettings, Sizes, TaskSpec

ROLLING = "loglikelihood_rolling"  # the whole text is what is right there
GENERATE = "generate_until"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Setting:
    """Made from a configuration alone, so that the driver and every worker make the same one."""

    config: SearchConfig

    @cached_property
    def checkpoints(self) -> dict[str, Checkpoint]:
        """The models by reference, the base first. Headers only."""
        models = self.config.models
        opened = {}
        for index, model in enumerate((models.base, *models.sources)):
            try:
                opened[model] = open_checkpoint(model)
            except CheckpointError as error:
                raise CheckpointError(f"{place_of(index)}: {error}") from None
        return opened

    @property
    def base(self) -> Checkpoint:
        return self.checkpoints[self.config.models.base]

    @cached_property
    def base_dtype(self) -> str:
        """The dtype that most of the base's bytes have, as recipes name it."""
        sizes: dict[str, int] = {}
        for info in self.base.tensors.values():
            name = str(info.dtype).removeprefix("torch.")
            sizes[name] = sizes.get(name, 0) + info.nbytes
        return max(sizes, key=lambda name: sizes[name])

    @property
    def score_dtype(self) -> str:
        return self.config.score.dtype or self.base_dtype

    @cached_property
    def family(self) -> Family:
        names = tuple(self.base.tensors)
        return Family(
            base=self.config.models.base,
            sources=self.config.models.sources,
            layers=layer_count(names),
            outer=tuple(outer_names(names)),
            out_dtype=self.config.space.out_dtype or self.base_dtype,
        )

    @cached_property
    def space(self) -> SearchSpace:
        """Raises ConfigError for methods, parameters or layers that the models do not bear."""
        return spanned(self.config.space, self.base, self.family, self.config.seed)

    @property
    def population(self) -> int:
        name = self.config.search.optimizer
        row = named(OPTIMIZERS, name, "optimizer", "search.optimizer")
        if self.config.search.asynchronous and row.steady is None:
            able = ", ".join(each for each, other in OPTIMIZERS.items() if other.steady)
            raise ConfigError(f"search.asynchronous: {name} needs generations; set it to false, or take one of {able}")
        genes = self.space.genes
        moving = len(coarsest(genes)) if row.grows and self.config.search.grow else len(genes)
        return self.config.search.population or row.population(moving)

    @property
    def problem(self) -> Problem:
        """What the optimizer is made from, but for the points that it begins with."""
        row = OPTIMIZERS[self.config.search.optimizer]
        return Problem(
            self.space.genes,
            (),
            self.config.seed,
            self.population,
            deviations=self.space.deviations,
            objectives=len(self.objective.goals) if row.front else 1,
            grow=row.grows and self.config.search.grow,
        )

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.base.folder, self.config.run.trust_remote_code)

    @cached_property
    def prepared(self) -> Prepared:
        """The tasks' documents, requests and token ids: of each set when it is asked for, mapped where the driver has
        written them. Raises TaskError."""
        score = self.config.score
        return prepare(
            [TaskSpec(task.task, task.metric, task.weight, task.num_fewshot) for task in score.tasks],
            include=[Path(folder) for folder in score.include],
            sizes=Sizes(score.documents.search, score.documents.selection, score.documents.report),
            seed=self.config.seed,
            tokenizer=self.tokenizer,
            prompt=PromptSettings(
                score.apply_chat_template,
                score.system_instruction,
                score.fewshot_as_multiturn,
                score.max_length,
                score.gen_kwargs or None,
            ),
            allow_benchmarks=score.allow_benchmarks,
            sets=(),
            store=self.config.folder / "requests",
        )

    @property
    def generates(self) -> bool:
        """Whether a task asks for text. Raises TaskError."""
        return any(each.task.OUTPUT_TYPE == GENERATE for each in self.prepared.tasks.values())

    @cached_property
    def objective(self) -> Objective:
        """What the search maximises. Raises ConfigError for a task that has no right answer where one is needed."""
        score = self.config.score
        objective = Objective(
            self.prepared.objective_goals, score.shares.metric, score.shares.loglikelihood, score.loglikelihood_unit
        )
        if objective.loglikelihood:
            check_answers(self.prepared, self.base)
        return objective


def check_answers(prepared: Prepared, base: Checkpoint) -> None:
    """Raises ConfigError for tasks with a document of any set whose right answer is not known as text."""
    if base.config.get("is_encoder_decoder"):
        raise ConfigError(
            f"score.objective: needs the log-likelihood of right answers, which is not taken of an encoder-decoder "
            f"model such as {base.reference}; set it to metric"
        )
    lacking = [
        task
        for which in SETS
        for task, documents in prepared.requests(which).items()
        if not all(each.gold or each.instances[0].request_type == ROLLING for each in documents)
    ]
    if lacking:
        lacking = list(dict.fromkeys(lacking))
        raise ConfigError(
            f"score.objective: needs the log-likelihood of right answers, and {', '.join(lacking)} has documents "
            "without one; set it to metric, or leave the task out"
        )


def place_of(index: int) -> str:
    """Where in search.yaml the model stands that is opened as number `index`."""
    return "models.base" if index == 0 else f"models.sources[{index - 1}]"
