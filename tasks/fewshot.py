"""How many examples stand in a prompt, and where they come from: lm-eval's rules."""

from __future__ import annotations

from lm_eval.api.task import ConfigurableTask

from tasks.errors import TaskError
from tasks.spec import TaskSpec


def set_fewshot(spec: TaskSpec, task: ConfigurableTask, *, strict: bool) -> int:
    """The number of few-shot examples, set on the task.

    lm-eval keeps to 0 where the task's file says so, whatever is asked for: `strict` makes that a TaskError.
    """
    own = task.config.num_fewshot
    asked = spec.num_fewshot
    if asked and own == 0:
        if strict:
            raise TaskError(
                f"task {spec.task!r}: num_fewshot is {asked}, but the task's file fixes it at 0, which "
                "lm-eval keeps; leave it out here, or take it out of the task's file"
            )
        asked = None
    shots = int((own if asked is None else asked) or 0)
    task.set_config(key="num_fewshot", value=shots)
    return shots


def fewshot_split(task: ConfigurableTask) -> str | None:
    """The split that few-shot examples come from by lm-eval's rule; None: they stand in the task's file."""
    if task.fewshot_cfg.split is not None:
        return str(task.fewshot_cfg.split)
    if task.fewshot_cfg.samples is not None:
        return None
    config = task.config
    chosen = config.training_split or config.validation_split or config.test_split
    return str(chosen) if chosen is not None else None
