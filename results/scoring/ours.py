"""The one place where the measurements call this project's scorer, so that they outlive its changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from asked import Answers, Prompting, Request, Scored

from tasks.prepared import Prepared, prepare_all
from tasks.score import Score, Scorer
from tasks.spec import PromptSettings, TaskSpec


@dataclass(frozen=True)
class Ours:
    """Prepared tasks of which all prepared documents are asked."""

    prepared: Prepared

    @property
    def count(self) -> int:
        return sum(map(len, self.prepared.requests("all").values()))

    def scorer(self, model: torch.nn.Module, tokenizer: Any, *, batch_tokens: int) -> Scorer:
        return Scorer(self.prepared, model, tokenizer, batch_tokens=batch_tokens)

    def score(self, scorer: Scorer) -> Score:
        return scorer.score("all")

    def scored(self, score: Score) -> Scored:
        """What was asked and answered by the last `score`, and its measures."""
        return {
            name: Answers(
                requests={
                    each.id: [
                        Request(instance.args, instance.resps[0], len(wanted))
                        for instance, (_, wanted) in zip(each.instances, each.encoded, strict=True)
                    ]
                    for each in asked
                },
                measures={measure: dict(values) for measure, values in score.measures[name].items()},
            )
            for name, asked in self.prepared.requests("all").items()
        }


def prepared(folder: Path, tasks: Sequence[str], tokenizer: Any, prompting: Prompting, *, documents: int) -> Ours:
    """The tasks with the first `documents` of each, as `evolve score` prepares them."""
    return Ours(
        prepare_all(
            [TaskSpec(name, num_fewshot=prompting.shots) for name in tasks],
            include=[folder],
            limit=documents,
            tokenizer=tokenizer,
            prompt=PromptSettings(apply_chat_template=prompting.chat, fewshot_as_multiturn=True),
        )
    )
