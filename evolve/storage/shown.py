"""What dashboards are shown of a trial: its first genes as Optuna's parameters."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.trial import FrozenTrial, TrialState, create_trial

from evolve.optimizers.sampler import distribution
from search_spaces.gene import Gene, Value

SHOWN_GENES = 50


def frozen(
    value: float | None, genes: tuple[Gene, ...], values: dict[str, Value], attributes: dict[str, Any]
) -> FrozenTrial:
    """A finished trial of Optuna's: `value` None for a failure, `values` of genes by name."""
    shown = {gene.name: distribution_of(gene) for gene in genes[:SHOWN_GENES] if gene.name in values}
    return create_trial(
        state=TrialState.FAIL if value is None else TrialState.COMPLETE,
        value=value,
        params={name: values[name] for name in shown},
        distributions=shown,
        user_attrs=attributes,
    )


@lru_cache(4096)
def distribution_of(gene: Gene) -> BaseDistribution:
    made: BaseDistribution = distribution(gene)
    return made


@lru_cache(4096)
def distribution_text(distribution: BaseDistribution) -> str:
    return str(distribution_to_json(distribution))
