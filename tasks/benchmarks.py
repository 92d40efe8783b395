"""Refuse to search on public benchmarks: what is optimised on cannot be a test any more.

Three signs, each enough: the task's name, the Hub data set and split that it evaluates, and well-known test
questions among its documents (somebody's copy under another name). Training splits are welcome.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tasks.documents import Document
from tasks.errors import BenchmarkRefused


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Beginnings of task names, at a word's boundary: `mmlu`, `mmlu_pro`, but not `piquant` for `piqa`.
NAMES = _words(
    "mmlu mmlusr mmlu_pro mmmlu tinymmlu hendrycks hendryckstest agieval gsm8k gsm_plus gsmplus mgsm "
    "tinygsm8k hellaswag tinyhellaswag winogrande tinywinogrande arc ai2_arc tinyarc truthfulqa "
    "tinytruthfulqa bigbench big_bench bbh piqa openbookqa leaderboard humaneval mbpp gpqa ifeval "
    "minerva_math math_500 math500 aime aime24 aime25 boolq lambada sciq commonsense_qa commonsenseqa "
    "social_iqa siqa copa superglue super_glue triviaqa nq_open squadv2 logiqa musr livebench simpleqa "
    "kobest cmmlu ceval xcopa xstorycloze xwinograd global_mmlu kmmlu arabicmmlu medqa pubmedqa medmcqa "
    "winogender wsc wnli mathqa math_qa asdiv coqa"
)
WHOLE_NAMES = _words("race drop swag glue squad hle")  # words of the language: refused only by themselves

# Last parts of Hub data set ids.
DATASETS = _words(
    "mmlu mmlu_no_train mmlu-pro mmmlu global-mmlu global-mmlu-lite gsm8k gsm8k-platinum gsm-plus mgsm "
    "hellaswag winogrande ai2_arc arc truthful_qa truthfulqa bbh bigbench bigbenchhard piqa openbookqa "
    "openai_humaneval humanevalplus mbpp mbppplus gpqa ifeval hendrycks_math competition_math "
    "math-lighteval math-500 aime24 aime25 boolq lambada lambada_openai drop race sciq commonsense_qa "
    "social_i_qa super_glue glue trivia_qa nq_open squad squad_v2 swag logiqa musr kmmlu cmmlu ceval-exam "
    "xcopa xwinograd medqa pubmedqa medmcqa math_qa asdiv coqa"
)
# Those whose evaluation set is published under whatever split name there is.
EVERY_SPLIT = _words(
    "gpqa ifeval math-500 aime24 aime25 mgsm openai_humaneval humanevalplus mmlu_no_train bbh bigbenchhard "
    "tinymmlu tinygsm8k tinyhellaswag tinytruthfulqa"
)

# A few distinctive words out of test or validation questions, as `normalised` writes them. GPQA's authors
# ask that its questions are not repeated in the open, so it is known by name and data set only.
QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "GSM8K": (
        "janet's ducks lay 16 eggs per day",
        "a robe takes 2 bolts of blue fiber and half that much white fiber",
        "josh decides to try flipping a house",
        "james decides to run 3 sprints 3 times a week",
        "wendi feeds each of her chickens three cups of mixed chicken feed",
        "toulouse has twice as many sheep as charleston",
        "carla is downloading a 200 gb file",
    ),
    "MMLU": (
        "find the degree for the given field extension q(sqrt(2), sqrt(3), sqrt(18)) over q",
        "let p = (1, 2, 5, 4)(2, 3) in s_5 . find the index of <p> in s_5",
        "find all zeros in the indicated finite field of the given polynomial with coefficients",
        "a lesion causing compression of the facial nerve at the stylomastoid foramen",
    ),
    "HellaSwag": (
        "starts pulling up roofing on a roof",
        "is using wrap to wrap a pair of skis",
        "a lady walks to a barbell. she bends down and grabs the pole",
    ),
    "ARC": (
        "an astronomer observes that a planet rotates faster after a meteorite impact",
        "which statement best explains why photosynthesis is the foundation of most food webs",
        "wanted to know how different building designs would respond during an earthquake",
    ),
    "TruthfulQA": (
        "what happens to you if you eat watermelon seeds",
        "where did fortune cookies originate",
        "why do veins appear blue",
    ),
    "WinoGrande": (
        "sarah was a much better surgeon than maria so",
        "they were worried the wine would ruin the bed and the blanket",
    ),
    "PIQA": ("how do i ready a guinea pig cage for it's new occupants",),
    "OpenBookQA": ("a person wants to start saving money so that they can afford a nice vacation",),
    "HumanEval": (
        "check if in given list of numbers, are any two numbers closer to each other than",
        "input to this function is a string containing multiple groups of nested parentheses",
    ),
    "MBPP": (
        "write a python function to remove first and last occurrence of a given character from the string",
        "write a function to sort a given matrix in ascending order according to the sum of its rows",
    ),
    "MATH": (
        "how many vertical asymptotes does the graph of $y=\\frac{2}{x^2+x-6}$ have",
        "convert the point $(0,3)$ in rectangular coordinates to polar coordinates",
    ),
    "IFEval": ("write a 300+ word summary of the wikipedia page",),
    "BoolQ": ("does ethanol take more energy make that produces",),
}

_NAME = re.compile("(?:" + "|".join(map(re.escape, sorted(NAMES, key=len, reverse=True))) + ")(?![a-z])")
_TRAIN = re.compile(r"_train$|train_slice")
_EVALUATION = re.compile(r"test|valid|\bval\b|dev")


def benchmark_sign(
    task: str, *, dataset_path: str | None, data_files: Any, split: str, documents: Iterable[Document]
) -> str | None:
    """Why the task looks like a public benchmark's evaluation set, in words, or None if it does not.

    `split` is the split evaluated and `documents` what stands in it; `data_files` is looked through for Hub
    addresses.
    """
    if named := name_sign(task):
        return named
    hub = _hub_name(dataset_path, data_files)
    if hub and (hub in EVERY_SPLIT or _EVALUATION.search(split.lower())):
        return f"it evaluates the {split!r} split of the public benchmark {hub!r}"
    everything = "\n".join(normalised(document) for document in documents)
    for benchmark, questions in QUESTIONS.items():
        for question in questions:
            if question in everything:
                return f"its documents hold a test question of {benchmark} ({question[:40]!r}...)"
    return None


def name_sign(task: str) -> str | None:
    """`benchmark_sign` by the name alone, before any data is read or downloaded."""
    name = task.lower()
    if (_NAME.match(name) or name in WHOLE_NAMES) and not _TRAIN.search(name):
        return "its name is that of a public benchmark"
    return None


def refuse(task: str, sign: str) -> BenchmarkRefused:
    """The error for a task with a benchmark's sign."""
    return BenchmarkRefused(
        f"task {task!r}: {sign}, and a score that was searched on says nothing any more; use a training "
        "split or documents of your own, or set `allow_benchmarks: true` (the report will say so)"
    )


def normalised(document: Document) -> str:
    """All text of a document, its fields joined: lower case, plain quotes, single spaces."""
    text = " ".join(_strings(document)).lower().replace("\u2019", "'").replace("\u2018", "'")
    return " ".join(text.split())


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)


def _hub_name(dataset_path: str | None, data_files: Any) -> str | None:
    """The benchmark's name out of a Hub id or out of Hub addresses among the data files."""
    parts = [str(dataset_path or "").lower().rpartition("/")[2]]
    for address in _strings(data_files):
        if "://" in address:
            parts += address.lower().replace("@", "/").split("/")
    return next((part for part in parts if part in DATASETS or part in EVERY_SPLIT), None)
