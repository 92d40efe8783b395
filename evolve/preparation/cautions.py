"""What does not stop a run but is worth a line before it starts: tokenizers, long prompts, memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError
from engine.tokenizer import read_vocabulary
from evolve.environment import usable_memory
from evolve.errors import ConfigError
from evolve.optimizers import OPTIMIZERS
from evolve.optimizers.in_batches import InBatches
from evolve.preparation.course import draws_of
from evolve.preparation.setting import Setting, place_of
from evolve.search.opening import most_candidates
from evolve.workers.sizing import Workers
from tasks.length import check_positions, context_length, too_long
from tasks.objective import Objective
from tasks.spec import SETS

UNBOUNDED = ("perplexity", "weighted_perplexity")  # aggregations


def cautions(setting: Setting, workers: Workers | None) -> Iterator[str]:
    """One line for each, without a model in memory. `workers` is None where a cluster decides."""
    yield from memory_cautions(workers)
    yield from objective_cautions(setting.objective)
    yield from budget_cautions(setting)
    yield from staleness_cautions(setting, workers)
    yield from tokenizer_cautions(setting.checkpoints)
    yield from length_cautions(setting)


def objective_cautions(objective: Objective) -> Iterator[str]:
    """Perplexities in one sum with measures between 0 and 1, which they drown."""
    perplexities = [goal.task for goal in objective.goals if goal.aggregation in UNBOUNDED]
    others = [goal.task for goal in objective.goals if goal.aggregation not in UNBOUNDED]
    if objective.metric and perplexities and (others or objective.loglikelihood):
        beside = ", ".join(others) or "the log-likelihood"
        yield (
            f"score.objective: the sum is dominated by {', '.join(perplexities)}, whose perplexity can be any size; "
            f"{beside} will hardly count beside it; take `objective: loglikelihood`, or bits_per_byte as its metric"
        )


def budget_cautions(setting: Setting) -> Iterator[str]:
    """A budget that the models and plain merges may use up. Raises ConfigError where it bears no candidate at all."""
    search, size, opening = setting.config.search, draws_of(setting).size, most_candidates(setting.space)
    begins = f"the models and plain merges that a search begins with are up to {opening} candidates"
    if search.documents is not None and search.documents < size:
        raise ConfigError(
            f"search.documents ({search.documents}): a single candidate is scored on {size}, and {begins}; give more "
            f"than {opening * size}"
        )
    if search.trials <= opening:
        yield f"search.trials ({search.trials}): {begins}, so that nothing may be left to search; give more"
    elif search.documents is not None and search.documents <= opening * size:
        yield (
            f"search.documents ({search.documents}): {begins} of {size} documents, so that nothing may be left to "
            f"search; give more than {opening * size}"
        )


def staleness_cautions(setting: Setting, workers: Workers | None) -> Iterator[str]:
    """Far more workers than an asynchronous search is told of at once."""
    search, population = setting.config.search, setting.population
    batched = OPTIMIZERS[search.optimizer].steady is InBatches
    if search.asynchronous and batched and workers is not None and workers.count > 2 * population:
        yield (
            f"search.population ({population}): with {workers.count} workers most of what {search.optimizer} is told "
            f"was drawn generations ago; set it to {workers.count // 2} or more"
        )


def length_cautions(setting: Setting) -> Iterator[str]:
    """Raises TaskError for a context longer than the model's positions, and for what no context has room for."""
    from transformers import AutoConfig

    where: Any = {"local_files_only": True, "trust_remote_code": setting.config.run.trust_remote_code}
    config = AutoConfig.from_pretrained(setting.base.folder, **where)
    asked_for = setting.config.score.max_length
    check_positions(config, asked_for)
    room = asked_for or context_length(config, setting.tokenizer)
    counts = [too_long(setting.prepared, which, room) for which in SETS]
    for task in setting.prepared.tasks:
        cut, asked = (sum(each[task][part] for each in counts) for part in (0, 1))
        if cut:
            yield (
                f"task {task}: {cut} of {asked} documents do not fit into {room} tokens and lose their "
                "beginning; raise score.max_length if the model bears it, or take fewer few-shot examples"
            )


def memory_cautions(workers: Workers | None) -> Iterator[str]:
    if workers is None:
        return
    needed, free = workers.count * workers.memory, usable_memory()
    if needed > free:
        yield (
            f"run.workers ({workers.count}): may need {needed / 2**30:.1f} GiB, {free / 2**30:.1f} are free; "
            "take fewer workers, a smaller score.batch_tokens, or `workers: auto`"
        )


def tokenizer_cautions(checkpoints: dict[str, Checkpoint]) -> Iterator[str]:
    """Sources whose tokens have other ids than the base's: their embeddings' rows do not mean the same."""
    base, *sources = checkpoints.values()
    expected = vocabulary(base)
    for index, source in enumerate(sources, start=1):
        found = vocabulary(source)
        if expected is None or found is None or expected == found:
            continue
        differing = [token for token in {**expected, **found} if expected.get(token) != found.get(token)]
        token = differing[0]
        yield (
            f"{place_of(index)} ({source.reference}): its tokenizer is not the base's: {len(differing)} tokens differ, "
            f"such as {token!r} (id {found.get(token)}, in the base {expected.get(token)}); all candidates are scored "
            "with the base's tokenizer, so this source may look worse than it is"
        )


def vocabulary(checkpoint: Checkpoint) -> Mapping[str, int] | None:
    """Token -> id, or None where there is no tokenizer.json that can be read."""
    try:
        return read_vocabulary(checkpoint.folder, checkpoint.reference)
    except CheckpointError:
        return None
