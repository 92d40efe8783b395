"""Other weights and objectives rank a run's candidates without a model in sight."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from engine.recipe import Recipe
from evolve.config.forms import Shares
from evolve.config.search_yaml import SearchConfig
from evolve.errors import ConfigError
from evolve.report.reranking import Estimate, best_of, front_of, ranked, table, winner_of, with_objective, with_weights
from evolve.search.front import Front, Member, front_csv
from evolve.trial import Trial
from tasks.objective import Goal, Measures, Objective

RECIPE = Recipe.model_validate({"merge_method": "passthrough", "models": [{"model": "m"}]})
OBJECTIVE = Objective((Goal("sums", "acc,none", 1.0, True), Goal("colours", "acc,none", 1.0, True)))
CONFIG = SearchConfig.model_validate(
    {
        "name": "a",
        "models": {"base": "b", "sources": ["s"]},
        "score": {"tasks": [{"task": "sums", "metric": "acc"}, {"task": "colours", "metric": "acc"}]},
    }
)


def measured(sums: float, colours: float, answers: float = -1.0) -> Measures:
    """40 documents a task, of which each share is right."""
    found = {}
    for task, share in (("sums", sums), ("colours", colours)):
        right = {document: float(document < 40 * share) for document in range(40)}
        found[task] = {
            "acc,none": right,
            "loglikelihood": dict.fromkeys(right, 2 * answers),
            "gold_tokens": dict.fromkeys(right, 2.0),
            "gold_bytes": dict.fromkeys(right, 8.0),
        }
    return found


def candidates() -> dict[str, tuple[Trial, Measures]]:
    measures = {"d0": measured(0.5, 0.5), "d1": measured(0.9, 0.2), "d2": measured(0.2, 0.7, -0.1)}
    return {
        digest: (Trial(i, 0, (0.5,), digest, OBJECTIVE.value(each)), each)
        for i, (digest, each) in enumerate(measures.items())
    }


def test_weights_turn_the_order() -> None:
    heavy = [with_weights(OBJECTIVE, text) for text in ("sums=9", "colours=9", "sums=0")]
    orders = [[row.name.partition(",")[0] for row in ranked(candidates(), each, "d0")] for each in heavy]
    assert orders == [["trial 1", "trial 0", "trial 2"], ["trial 2", "trial 0", "trial 1"], orders[1]]


def test_gaps_are_paired_with_the_winner() -> None:
    rows = {row.name: row for row in ranked(candidates(), OBJECTIVE, "d0")}
    assert rows["trial 0, the winner"].gap == Estimate(0.0, 0.0)
    other = rows["trial 1"]
    assert other.gap is not None
    assert other.mean is not None
    assert other.gap.value == pytest.approx((0.4 - 0.3) / 2)
    assert 0 < other.gap.standard_error < 2 * other.mean.standard_error
    assert other.mean.value == pytest.approx(0.55)
    assert other.metrics == {"sums": 0.9, "colours": 0.2}


def test_without_a_winner_gaps_are_to_the_best_of_the_run() -> None:
    for winner in (None, "not recorded"):
        assert ranked(candidates(), with_weights(OBJECTIVE, "colours=9"), winner)[-1].name == "trial 1, the run's best"


def test_the_table() -> None:
    lines = list(table(ranked(candidates(), OBJECTIVE, "d0"), OBJECTIVE, missing=2))
    assert lines[0] == "ranked by the metric, the mean over sums (acc), colours (acc)"
    head = ["candidate", "metric", "± one se of the metric", "gap to the winner, 95 % interval"]
    assert re.split(" {2,}", lines[1]) == head
    assert re.split(" {2,}", lines[2])[:2] == ["trial 1", "55.0"]
    assert lines[5] == "2 more candidates left a race early, or have no recorded answers to all search documents"
    likelier = Objective(OBJECTIVE.goals, metric=0.0, loglikelihood=1.0)
    lines = list(table(ranked(candidates(), likelier, "d0"), likelier, missing=0))
    assert lines[0].startswith("ranked by the right answers' log-likelihood in nats a token, the mean over sums (acc)")
    assert re.split(" {2,}", lines[1])[3] == "± one se of the objective"
    assert re.split(" {2,}", lines[2]) == ["trial 2", "45.0", "-0.1000", "0.0000", "+0.9000 (+0.9000 to +0.9000)"]


def test_the_table_says_what_the_weights_are_and_that_nobody_has_won() -> None:
    heavy = with_weights(OBJECTIVE, "colours=9")
    lines = list(table(ranked(candidates(), heavy, None), heavy, missing=0))
    assert lines[0].endswith("sums (acc, weight 1), colours (acc, weight 9)")
    assert lines[1].endswith("gap to the run's best, 95 % interval")


def test_the_best_twenty_and_whom_they_are_compared_with() -> None:
    found = {f"d{n}": (Trial(n, 0, (0.5,), f"d{n}", 0.0), measured(n / 40, 0.5)) for n in range(25)}
    rows = best_of(ranked(found, OBJECTIVE, "d2"))
    assert [row.name for row in rows] == [f"trial {n}" for n in range(24, 4, -1)] + ["trial 2, the winner"]


def test_a_best_value_of_nought_is_the_best() -> None:
    found = {
        digest: (replace(trial, value=value), measures)
        for (digest, (trial, measures)), value in zip(candidates().items(), (-2.0, 0.0, -1.0), strict=True)
    }
    assert [row.name for row in ranked(found, OBJECTIVE, None) if "best" in row.name] == ["trial 1, the run's best"]


def test_what_is_not_finite_comes_last_and_has_no_gap() -> None:
    found = candidates()
    trial, measures = found["d1"]
    answers = {**measures["sums"]["loglikelihood"], 3: -math.inf}
    found["d1"] = trial, {**measures, "sums": {**measures["sums"], "loglikelihood": answers}}
    likelier = Objective(OBJECTIVE.goals, metric=0.0, loglikelihood=1.0)
    *others, last = ranked(found, likelier, "d0")
    assert (last.name, last.mean, last.gap) == ("trial 1", None, None)
    assert all(row.gap is not None for row in others)
    lines = list(table([*others, last], likelier, missing=0))
    assert re.split(" {2,}", lines[4]) == ["trial 1", "55.0", "not finite", "-", "-"]
    assert [row.gap for row in ranked(found, likelier, "d1")] == [None] * 3


def test_objectives_by_name_and_by_shares() -> None:
    assert with_objective(CONFIG, None) == CONFIG
    assert with_objective(CONFIG, "loglikelihood").score.objective == "loglikelihood"
    mixed = with_objective(CONFIG, "metric=1, loglikelihood=0.2").score.shares
    assert mixed == Shares(metric=1.0, loglikelihood=0.2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sum=2", r"--weights sum=2: no task named 'sum'; did you mean 'sums'\?"),
        ("zzz=2", "no task named 'zzz'; one of sums, colours"),
        ("sums", "sums is ''; give a number of 0 or more"),
        ("sums=-1", "sums is '-1'"),
        ("sums=nan", "sums is 'nan'"),
        ("sums=1,,", "no task named ''"),
        ("sums=0,colours=0", "all weights are 0"),
    ],
)
def test_wrong_weights(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        with_weights(OBJECTIVE, text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("likelihood", r"--objective: no objective named 'likelihood'; did you mean 'loglikelihood'\?"),
        ("metrik=1", r"no share named 'metrik'; did you mean 'metric'\?"),
        ("metric=0", "all shares are 0"),
        ("", "no objective named ''"),
    ],
)
def test_wrong_objectives(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        with_objective(CONFIG, text)


def test_a_simplified_winner_is_known_by_what_it_was_made_from() -> None:
    made = {"name": "trial 1, simplified", "of": "trial 1", "digest": "new"}
    told = {"finalists": [made, {"name": "trial 1", "digest": "d1"}]}
    assert winner_of(told, {"d0", "d1"}) == "d1"
    assert winner_of(told, {"d0"}) is None
    assert winner_of({"finalists": [{"name": "trial 0", "digest": "d0"}]}, {"d0"}) == "d0"
    assert winner_of(None, {"d0"}) is None


def test_the_front_is_marked_and_the_opening_has_its_names(tmp_path: Path) -> None:
    found = candidates()
    trial, measures = found["d2"]
    found["d2"] = replace(trial, origin="start: base"), measures
    assert front_of(tmp_path) == frozenset()
    members = tuple(Member(name, RECIPE, {"sums": 0.5}) for name in ("trial 1", "base"))
    (tmp_path / "front.csv").write_text(front_csv(Front(members, {"sums": 0.0}, None)), encoding="utf-8")
    front = front_of(tmp_path)
    names = [row.name for row in ranked(found, OBJECTIVE, "d0", front)]
    assert names == ["trial 1 (front)", "trial 0, the winner", "base (front)"]


def test_gaps_are_on_the_documents_that_both_have() -> None:
    found = candidates()
    trial, measures = found["d1"]

    def some(ids: range) -> Measures:
        return {
            task: {name: {each: values[each] for each in ids} for name, values in its.items()}
            for task, its in measures.items()
        }

    found["d1"] = trial, some(range(20))
    row = next(row for row in ranked(found, OBJECTIVE, "d0") if row.name == "trial 1")
    assert row.gap is not None
    assert row.gap.value == pytest.approx(((1.0 - 1.0) + (8 / 20 - 1.0)) / 2)
    found["d1"] = trial, some(range(39, 40))
    assert next(row for row in ranked(found, OBJECTIVE, "d0") if row.name == "trial 1").gap is None


def test_gaps_of_perplexities_are_those_of_the_common_documents_alone() -> None:
    """A perplexity's part of a document depends on the others: one that only one of them met must not move the gap."""
    goal = Goal("sums", "word_perplexity,none", 1.0, False, "weighted_perplexity")
    objective = Objective((goal,))

    def met(answers: dict[int, float]) -> Measures:
        return {"sums": {goal.measure: answers, goal.measure + "/weight": dict.fromkeys(answers, 2.0)}}

    short = met({0: -2.0, 1: -3.0, 2: -2.5})
    long = met({0: -1.0, 1: -2.0, 2: -1.5, 3: -40.0, 4: -30.0})
    found = {"d0": (Trial(0, 0, (0.5,), "d0", -3.0), short), "d1": (Trial(1, 0, (0.5,), "d1", -9.0), long)}
    row = next(row for row in ranked(found, objective, "d0") if row.name == "trial 1")
    assert row.gap is not None
    assert row.gap.value == pytest.approx(math.exp(7.5 / 6) - math.exp(4.5 / 6))
