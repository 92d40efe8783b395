"""The report claims what was measured on the report documents, and nothing else."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evolve.config.search_yaml import SearchConfig
from evolve.report.facts import Facts
from evolve.report.figures import Figures
from evolve.report.markdown import headline, report_text, trials_csv, where, without_tags
from evolve.trial import Failure, Trial
from search_spaces import SPACES
from search_spaces.assemble import Spec
from search_spaces.depth import Family
from search_spaces.space import search_space
from tasks.objective import Goal, Objective
from tasks.spec import BATCH_TOKENS

CONFIG = SearchConfig.model_validate(
    {
        "name": "three-skills",
        "models": {"base": "org/base", "sources": ["org/math", "org/code"]},
        "score": {
            "tasks": [{"task": "sums", "metric": "acc"}, {"task": "colours", "metric": "exact_match", "weight": 2}],
            "include": ["my_tasks/"],
            "max_length": 512,
        },
    }
)
FIGURES = Figures(
    Objective((Goal("sums", "acc,none", 1.0, True), Goal("colours", "exact_match,none", 2.0, True))),
)
SEARCH_SCORE = 0.98765  # no sentence may sell this as the result


def row(name: str, kind: str, mean: float, gain: tuple[float, float, float] | None) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "metrics": {"sums": mean - 0.01, "colours": mean + 0.005},
        "mean": mean,
        "standard_error": 0.0123,
        "gain": None if gain is None else dict(zip(("mean", "low", "high"), gain, strict=True)),
    }


def verdict(gain: tuple[float, float, float] = (0.05, 0.02, 0.081), failed: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "finalists": [
            {"name": "trial 7", "search": SEARCH_SCORE, "selection": 0.71, "digest": "d"},
            {"name": "mean of the search", "search": None, "selection": 0.7, "digest": "e"},
        ],
        "rows": [
            row("winner", "winner", 0.65, None),
            row("base", "model", 0.4, (0.25, 0.2, 0.3)),
            row("math", "model", 0.6, gain),
            row("uniform average", "plain merge", 0.55, (0.1, 0.05, 0.15)),
        ],
        "best": "math",
        "failed": list(failed),
    }


def trial(number: int, value: float | None = 0.5) -> Trial:
    failure = None if value is not None else Failure("merge", 'rows, "quoted"\nand broken')
    return Trial(
        id=number,
        generation=number // 2,
        point=(1 / 3, 0.1 * number),
        digest=f"{number:064x}",
        value=value,
        standard_error=1 / 7,
        documents=0 if failure else 200,
        tasks={} if failure else {"sums": 1 / 3, "colours": 2 / 3},
        loglikelihoods={} if failure else {"sums": -1 / 3},
        failure=failure,
        seconds={"total": 1.23456},
    )


def facts(**changes: Any) -> Facts:
    plain: dict[str, Any] = {
        "config": CONFIG,
        "figures": FIGURES,
        "trials": [trial(0, SEARCH_SCORE), trial(1, None), trial(2, 0.1)],
        "verdict": verdict(),
        "recipe": "merge_method: ties\n",
        "openings": [{"trials": 3}],
        "documents": {"sums": {"search": 100, "selection": 200, "report": 400}},
        "benchmarks": (),
        "dtype": "bfloat16",
        "reserved": (),
    }
    return Facts(**{**plain, **changes})


def test_a_gain_is_claimed_where_the_interval_lies_above_zero() -> None:
    assert headline(verdict(), FIGURES) == (
        "The merge is better than math, the strongest of the 3 models and plain merges: +5.0 (+2.0 to +8.1) points."
    )


@pytest.mark.parametrize("gain", [(0.02, -0.01, 0.05), (0.02, 0.0, 0.05), (0.0, 0.0, 0.0), (-0.02, -0.05, 0.0)])
def test_no_gain_is_claimed_where_zero_is_inside(gain: tuple[float, float, float]) -> None:
    assert headline(verdict(gain), FIGURES).startswith("No difference from math")
    assert "The merge is better" not in headline(verdict(gain), FIGURES)


def test_a_loss_is_said_with_what_to_use() -> None:
    text = headline(verdict((-0.05, -0.08, -0.02)), FIGURES)
    assert "is worse than math" in text
    assert text.endswith("Use math instead.")


def test_the_headline_says_where_it_was_measured() -> None:
    text = report_text(facts())
    lines = [line for line in text.splitlines() if line]
    assert lines[0] == "# three-skills"
    assert lines[1] == headline(verdict(), FIGURES)
    assert "report documents, which the search never saw" in lines[2]
    assert "95 %" in lines[2]


def test_the_search_score_is_never_the_result() -> None:
    text = report_text(facts())
    shown = f"{100 * SEARCH_SCORE:.1f}"
    for line in text.splitlines():
        if shown in line:
            assert "search documents" in line or line.startswith("| trial 7 |"), line
    result = text[: text.index("## The finalists")]
    assert shown not in result
    assert "(-33.8)" in text


def test_warnings() -> None:
    assert ">" not in report_text(facts())
    again = report_text(facts(openings=[{"trials": 3}, {"trials": 9}]))
    assert "> The report documents had been opened before, after 3 trials." in again
    bench = report_text(facts(benchmarks=("gsm8k", "arc_easy")))
    assert "> Searched on what looks like a public benchmark (gsm8k, arc_easy)" in bench
    assert "allow_benchmarks: true" in bench
    missing = report_text(facts(verdict=verdict(failed=("code",))))
    assert "> Could not be scored and is missing below: code." in missing
    for text in (again, bench, missing):
        assert text.index("\n> ") < text.index("## On the report documents"), "a warning stands above the result"


def table(text: str, heading: str) -> list[list[str]]:
    part = text.split(f"## {heading}\n\n")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines()]
    assert len({len(each) for each in rows}) == 1
    return [rows[0], *rows[2:]]


def test_the_table_of_models() -> None:
    head, *rows = table(report_text(facts()), "On the report documents")
    assert head == ["model", "sums", "colours", "mean", "winner's gain (95 % interval)"]
    assert rows[0] == ["**winner**", "64.0", "65.5", "65.0 ± 1.2", ""]
    assert rows[2] == ["math", "59.0", "60.5", "60.0 ± 1.2", "+5.0 (+2.0 to +8.1)"]
    assert len(rows) == 4


def test_the_table_of_finalists() -> None:
    head, *rows = table(report_text(facts()), "The finalists")
    assert head == ["finalist", "search documents", "selection documents"]
    assert rows == [["trial 7", "98.8", "71.0"], ["mean of the search", "", "70.0"]]


def test_a_winner_that_was_never_searched_has_no_luck_to_tell() -> None:
    other = verdict()
    other["finalists"].reverse()
    text = report_text(facts(verdict=other))
    assert "luck" not in text
    assert "mean of the search rests on the scores of many candidates; trial 7, a single one, is not better by" in text


def test_the_search_and_the_recipe_are_told() -> None:
    text = report_text(facts())
    assert "- 3 candidates, 1 failed (merge)\n" in text
    told = {**verdict(), "documents": {"the search's candidates": 400, "gradients (as charged)": 0, "the report": 1600}}
    assert (
        "- 2000 documents scored, those on record already counted too: 400 for the search's candidates, 1600 for the "
        "report" in report_text(facts(verdict=told))
    )
    assert "```yaml\nmerge_method: ties\n```" in text
    assert "- sums: 100 search, 200 selection, 400 report documents, disjoint" in text


def test_the_command_to_check_it() -> None:
    text = report_text(facts())
    command = text.split("```")[-2]
    for words in (
        "--tasks sums,colours",
        "--samples results/three-skills/documents/report.json",
        "--model_args pretrained=results/three-skills/checkpoint",
        "max_length=512",
        "--include_path my_tasks/",
        "--batch_size 16",
    ):
        assert words in command
    assert "apply_chat_template" not in command


def test_the_paths_of_a_submitted_run_are_said_to_be_its_own() -> None:
    score = CONFIG.score.model_copy(update={"include": ("packed/here/my_tasks",)})
    told = "own task folders"
    assert told in report_text(facts(config=CONFIG.model_copy(update={"score": score})))
    assert told not in report_text(facts())


def test_gaps_have_a_sign() -> None:
    assert [FIGURES.gap(value) for value in (0.1234, -0.05, 0.0)] == ["+12.3", "-5.0", "+0.0"]


def perplexities() -> tuple[Figures, dict[str, Any]]:
    """A run on two texts whose perplexity should fall, searched by the log-likelihood."""
    goals = tuple(Goal(task, "word_perplexity,none", 1.0, False, "weighted_perplexity") for task in ("sums", "colours"))
    told = verdict((0.5, -0.2, 1.1))
    for each, perplexity in zip(told["rows"], (12.5, 19.0, 13.0, 14.0), strict=True):
        each |= {"metrics": {"sums": perplexity, "colours": perplexity}, "mean": perplexity, "standard_error": 0.25}
        each["loglikelihoods"] = {"sums": -1.5, "colours": -2.5}
        each["loglikelihood_gain"] = {"mean": 0.05, "low": 0.01, "high": 0.09} if each["gain"] else None
    for each in told["finalists"]:
        each["metrics"] = {name: {"sums": 12.0, "colours": 13.0} for name in ("search", "selection")}
    return Figures(Objective(goals, metric=0.0, loglikelihood=1.0)), told


def test_perplexities_are_shown_as_they_are() -> None:
    figures, told = perplexities()
    text = report_text(facts(figures=figures, verdict=told))
    _, *rows = table(text, "On the report documents")
    assert rows[0] == ["**winner**", "12.5000", "12.5000", "12.5000 ± 0.2500", ""]
    assert rows[1][-1] == "+0.2500 (+0.2000 to +0.3000)"
    assert "Lower is better: sums, colours." in text
    assert not re.search(r"(?<![\w+])-1[0-9]\.", text), "a perplexity with a sign"
    assert "| trial 7 | 12.5000 | 12.5000 |" in text


def test_likelier_answers_without_a_better_metric_are_said_as_that() -> None:
    figures, told = perplexities()
    text = headline(told, figures)
    assert text.startswith("No difference from math")
    assert "likelier, +0.0500 (+0.0100 to +0.0900) nats a token, but the metric does not show it" in text
    assert "likelier" not in headline(told, FIGURES), "a search for the metric was not after them"
    told["rows"][2]["loglikelihood_gain"]["low"] = -0.01
    assert "likelier" not in headline(told, figures)


def test_the_report_shows_log_likelihoods_whatever_was_maximised() -> None:
    _, told = perplexities()
    text = report_text(facts(verdict=told))
    assert "| math | -1.5000 | -2.5000 | +0.0500 (+0.0100 to +0.0900) |" in text
    assert "Log-likelihood" not in report_text(facts())


def test_a_mixed_objective_has_its_gain_in_a_column() -> None:
    _, told = perplexities()
    for each in told["rows"][1:]:
        each["objective_gain"] = {"mean": 0.1, "low": 0.05, "high": 0.15}
    mixed = Figures(Objective(FIGURES.objective.goals, metric=1.0, loglikelihood=0.2))
    text = report_text(facts(figures=mixed, verdict=told))
    assert "gain of the objective" in text
    assert "| math | -1.5000 | -2.5000 | +0.0500 (+0.0100 to +0.0900) | +0.1000 (+0.0500 to +0.1500) |" in text


def test_no_mean_is_made_of_metrics_that_rise_and_fall() -> None:
    goals = (Goal("sums", "acc,none", 1.0, True), Goal("colours", "brier_score,none", 1.0, False))
    told = verdict()
    for each in told["rows"]:
        each["mean"] = None
    text = report_text(facts(figures=Figures(Objective(goals)), verdict=told))
    head, *rows = table(text, "On the report documents")
    assert head == ["model", "sums", "colours", "winner's gain (95 % interval)"]
    assert rows[0] == ["**winner**", "64.0", "65.5", ""]


def test_trials_csv_comes_back_as_the_same_numbers() -> None:
    family = Family("org/base", ("org/math",), 4, ("embed",), "float32")
    space = search_space(Spec(family, ("ties",), SPACES["blocks"], 1, (), {}, 0))
    d = len(space.genes)
    trials = [
        Trial(**{**vars(each), "point": tuple((each.id + i + 1) / 17 for i in range(d))})
        for each in (trial(0, 0.1 + 0.2), trial(1, None), trial(2, -1e-17))
    ]
    lines = list(csv.DictReader(io.StringIO(trials_csv(space, trials))))
    assert len(lines) == 3
    for line, each in zip(lines, trials, strict=True):
        assert int(line["id"]) == each.id
        assert int(line["generation"]) == each.generation
        assert (float(line["value"]) if line["value"] else None) == each.value
        assert float(line["standard_error"]) == each.standard_error
        assert int(line["documents"]) == each.documents
        assert {task: float(line[task]) for task in ("sums", "colours") if line[task]} == each.tasks
        assert (float(line["loglikelihood sums"]) if each.loglikelihoods else None) == each.loglikelihoods.get("sums")
        assert {gene.name: float(line[gene.name]) for gene in space.genes} == space.named(each.point)
        assert each.digest.startswith(line["digest"])
    assert lines[1]["failure"] == 'merge: rows, "quoted"\nand broken'
    assert lines[0]["failure"] == ""


def test_trials_csv_of_no_trials_is_a_head() -> None:
    family = Family("org/base", ("org/math",), 4, ("embed",), "float32")
    space = search_space(Spec(family, ("ties",), SPACES["blocks"], 1, (), {}, 0))
    assert len(trials_csv(space, []).splitlines()) == 1


def test_the_last_lines_name_what_is_there() -> None:
    assert re.findall(r"\S+$", where(Path("results/a")), flags=re.M) == [
        "results/a/best.yaml",
        "results/a/checkpoint",
        "results/a/report.md",
    ]


def test_the_search_says_what_it_maximised_and_how() -> None:
    text = report_text(facts())
    assert "- maximised: the metric, the mean over tasks on the search documents\n" in text
    assert "- the tasks' weights in that mean: sums 33.3 %, colours 66.7 %\n" in text
    assert (
        f"- scored in bfloat16, at most {BATCH_TOKENS} tokens in a forward pass; few-shot examples: as the tasks say"
        in text
    )
    score = CONFIG.score.model_dump(mode="json") | {"gen_kwargs": {"max_gen_toks": 8}, "batch_tokens": 64}
    score["tasks"][0] |= {"num_fewshot": 3}
    goals = tuple(replace(goal, weight=1.0) for goal in FIGURES.objective.goals)
    mixed = Figures(Objective(goals, loglikelihood=0.2, unit="byte"))
    config = SearchConfig.model_validate({**CONFIG.model_dump(mode="json"), "score": score})
    text = report_text(facts(config=config, figures=mixed))
    assert (
        "- maximised: 1 times the metric plus 0.2 times the right answers' log-likelihood in nats a byte, the" in text
    )
    assert "weights in that mean" not in text
    assert "at most 64 tokens in a forward pass; few-shot examples: sums 3, colours as the tasks say\n" in text
    assert '- generation settings over the tasks\' own: {"max_gen_toks": 8}\n' in text


def test_a_winner_that_the_search_began_with_is_said() -> None:
    assert "began with" not in report_text(facts())
    assert "began with: ties with one weight. Nothing" in report_text(facts(opening="ties with one weight"))


def test_a_gain_is_claimed_over_every_model_or_over_none() -> None:
    """The interval over the strongest may lie above zero, and that over a weaker one that answers otherwise may not."""
    told = verdict()
    told["rows"][3]["gain"] |= {"low": -0.01}
    text = headline(told, FIGURES)
    assert text.endswith("Not shown to be better than uniform average.")
    told["rows"][1]["gain"] |= {"low": -0.01}
    assert headline(told, FIGURES).endswith("Not shown to be better than base or uniform average.")
    undecided = verdict((0.02, -0.01, 0.05))
    undecided["rows"][3]["gain"] |= {"low": -0.01}
    assert headline(undecided, FIGURES).endswith("Nor is it shown to be better than uniform average.")


def begun(name: str, *, violation: float = 0.0) -> dict[str, Any]:
    told = verdict((0.0, -0.01, 0.01))
    told["finalists"].insert(0, {**told["finalists"][0], "name": name, "kind": "start", "violation": 0.0})
    told["finalists"] = [told["finalists"][0], *({**each, "violation": violation} for each in told["finalists"][1:])]
    return told


def test_a_search_that_found_nothing_says_so_first() -> None:
    text = headline(begun("uniform average"), FIGURES)
    assert text.startswith(
        "Nothing found was better on the selection documents than uniform average, which the search began with. No"
    )
    assert headline(begun("base", violation=0.02), FIGURES).startswith(
        "Nothing found keeps the floors; the base is left as it is. "
    )
    assert "floors missed by" in report_text(facts(verdict=begun("base", violation=0.02)))


def gain_of(task: str, mean: float, low: float, high: float) -> dict[str, Any]:
    return {"task": task, "gain": {"mean": mean, "low": low, "high": high}, "wins": 7, "losses": 3, "documents": 400}


def test_tasks_stand_one_by_one_and_regressions_are_named() -> None:
    told = verdict()
    told["tasks"] = {
        "math": [gain_of("sums", 0.02, -0.01, 0.05), gain_of("colours", 0.1, 0.05, 0.15)],
        "base": [gain_of("sums", -0.1, -0.15, -0.05), gain_of("colours", 0.3, 0.2, 0.4)],
    }
    text = report_text(facts(verdict=told))
    head, *rows = table(text, "Task by task")
    assert head[1:3] == ["gain over math", "documents better / worse than math"]
    assert rows[0] == ["sums", "+2.0 (-1.0 to +5.0)", "7 / 3 of 400", "-10.0 (-15.0 to -5.0)", "7 / 3 of 400"]
    assert "Regressions: the winner is worse than base on sums (its 95 % interval lies below zero)." in text
    told["tasks"]["base"] = told["tasks"]["base"][1:]
    assert "No regression: on no task is the winner shown to be worse than base." in report_text(facts(verdict=told))
    assert "Task by task" not in report_text(facts())


def test_floors_are_kept_missed_or_not_to_be_told() -> None:
    told = verdict()
    told["floors"] = [
        {"task": "sums", "floor": 0.05, "difference": {"mean": 0.0, "low": -0.02, "high": 0.02}, "verdict": "kept"}
    ]
    assert table(report_text(facts(verdict=told)), "Floors")[1] == ["sums", "5.0", "+0.0 (-2.0 to +2.0)", "kept"]
    assert "## Floors" not in report_text(facts())


def test_who_stopped_early_is_named_and_the_optimism_gap_has_an_error() -> None:
    told = verdict()
    told["finalists"][0] |= {"error": 0.05, "of": ""}
    told["dropped"] = [{"name": "trial 3", "documents": 48}]
    text = report_text(facts(verdict=told))
    assert "clearly worse than the leader (one-sided, 2.5 % at each look): trial 3 (48)." in text
    assert "(-33.8; optimism gap +33.8 ± 5.1)" in text


def test_a_simplified_winner_tells_of_what_it_was_made_from() -> None:
    told = verdict()
    told["finalists"].insert(0, {"name": "trial 7, simplified", "of": "trial 7", "search": None, "selection": 0.7})
    told["simplification"] = [
        {"step": "without code", "kept": True, "difference": -0.001, "error": 0.004, "documents": 400},
        {"step": "one block of layers", "kept": False, "difference": -0.05, "error": 0.02, "documents": 50},
        {"step": "1 decimal", "kept": False, "difference": None, "error": 0.0, "documents": 0},
    ]
    text = report_text(facts(verdict=told))
    assert "Trial 7, which the winner was made out of, scored 98.8 on the search documents and the winner " in text
    assert "(450 documents scored). Taken: without code (-0.1 ± 0.4)." in text
    assert "Refused: one block of layers (-5.0 ± 2.0); 1 decimal (failed)." in text


def test_genes_that_mattered_and_those_of_which_nothing_can_be_told() -> None:
    told = verdict()
    one = {"kind": "parameter", "group": "weight of math", "genes": 4, "share": 0.4, "error": 0.1, "p": 0.003}
    told["genes"] = [one | {"gradient": None}, one | {"group": "weight of code", "p": 0.2, "gradient": None}]
    head, *rows = table(report_text(facts(verdict=told)), "Which genes mattered")
    assert head[-1] == "says"
    assert [each[-1] for each in rows] == ["mattered", "cannot be told"]
    assert rows[0][2] == "40 ± 10 %"
    told["genes"][0]["gradient"] = 0.75
    assert table(report_text(facts(verdict=told)), "Which genes mattered")[1][-1] == "75 %"
    told["genes"] = []
    assert "## Which genes mattered\n\nCannot be told" in report_text(facts(verdict=told))


def test_the_front_and_its_hypervolume() -> None:
    told = verdict()
    told["front"] = {
        "hypervolume": 0.125,
        "selected": 0.1,
        "reference": {"sums": 0.25, "colours": 0.5},
        "members": [
            {"name": "trial 3", "search": {"sums": 0.5, "colours": 1.0}, "selection": None, "stands": False},
            {
                "name": "trial 4",
                "search": {"sums": 0.5, "colours": 1.0},
                "selection": {"sums": 0.4, "colours": 0.9},
                "stands": True,
            },
        ],
    }
    text = report_text(facts(verdict=told))
    assert table(text, "The front")[2] == ["trial 4", "0.5000", "1.0000", "0.4000", "0.9000", "yes"]
    assert "0.125 on the search documents and 0.1 on the selection documents" in text


def test_what_was_normalised_by_is_said() -> None:
    told = verdict() | {"gaps": {"sums": 0.25, "colours": 0.5}}
    assert "errors where these are more: sums 0.25, colours 0.5" in report_text(facts(verdict=told))


def test_a_search_that_ended_early_says_why() -> None:
    told = verdict() | {
        "ended": "nothing that it finds is better",
        "worth": {"asked": 2, "documents": 640, "lead": -0.004, "error": 0.012, "ended": True, "gain": 0.01},
    }
    text = report_text(facts(verdict=told))
    assert (
        "- asked 2 times, on 640 selection documents, whether it had found more than it began with: -0.4 ± 1.2" in text
    )
    assert "\n- ended: nothing that it finds is better\n" in text
    assert "a gain of +1.0 was unlikely twice in a row" in text
    told["worth"]["ended"] = False
    assert "ended early" not in report_text(facts(verdict=told))
    told["worth"]["asked"] = 0
    assert "whether it had found" not in report_text(facts(verdict=told))


def test_names_are_no_tags() -> None:
    text = "a <img src=x> `b <c>` | <script>\n```yaml\nd: <e>\n```\n<f"
    assert without_tags(text) == "a &lt;img src=x> `b <c>` | &lt;script>\n```yaml\nd: <e>\n```\n&lt;f"
