"""What a search maximised and how its candidates were scored, in the report's words."""

from __future__ import annotations

import json
from collections.abc import Iterator

from evolve.config.search_yaml import Score
from tasks.objective import Objective, total_of


def objective_text(objective: Objective) -> str:
    """The objective: the metric, the log-likelihood, or the shares of both."""
    answers = f"the right answers' log-likelihood in nats a {objective.unit}"
    if objective.is_metric:
        return "the metric"
    if not objective.metric:
        return answers
    return f"{objective.metric:g} times the metric plus {objective.loglikelihood:g} times {answers}"


def scoring_lines(score: Score, objective: Objective, dtype: str) -> Iterator[str]:
    """A line for each thing that decides what a candidate's value is; `dtype` is the scored models'."""
    yield f"maximised: {objective_text(objective)}, the mean over tasks on the search documents"
    goals = objective.goals
    if len({goal.weight for goal in goals}) > 1:
        total = total_of(goal.weight for goal in goals)
        shares = ", ".join(f"{goal.task} {100 * goal.weight / total:.1f} %" for goal in goals)
        yield f"the tasks' weights in that mean: {shares}"
    yield f"scored in {dtype}, at most {score.batch_tokens} tokens in a forward pass; few-shot examples: {shots(score)}"
    if score.gen_kwargs:
        yield f"generation settings over the tasks' own: {json.dumps(score.gen_kwargs, ensure_ascii=False)}"


def shots(score: Score) -> str:
    """How many examples go before each question."""
    given = {task.task: task.num_fewshot for task in score.tasks}
    if len(set(given.values())) == 1:
        return named(next(iter(given.values())))
    return ", ".join(f"{task} {named(count)}" for task, count in given.items())


def named(count: int | None) -> str:
    return "as the tasks say" if count is None else str(count)
