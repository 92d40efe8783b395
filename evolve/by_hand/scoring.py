"""`evolve score`: checkpoints and recipes, scored by hand the way a search scores its candidates."""

from __future__ import annotations

import gc
import hashlib
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from engine.companions import named_code
from engine.errors import EngineError
from evolve.atomic import write_json
from evolve.by_hand.merging import usable_device
from evolve.by_hand.score_options import ScoreOptions, score_options
from evolve.by_hand.score_table import Asked, Result, Row, as_json, line, tables
from evolve.by_hand.subject import Subject, labels, opened, problem_of
from evolve.environment import describe
from evolve.errors import EvolveError, ModelError
from evolve.preparation.setting import GENERATE
from evolve.statistics.comparison import compare, in_order
from tasks.aggregates import aggregates
from tasks.documents import canonical
from tasks.errors import TaskError
from tasks.functions import code_files
from tasks.length import check_positions, too_long
from tasks.load import TaskLibrary
from tasks.memory import is_out_of_memory
from tasks.metric import all_metrics
from tasks.objective import Goal
from tasks.prepared import Prepared, prepare_all
from tasks.score import Scorer
from tasks.spec import PromptSettings, TaskSpec

FORESEEN = (EngineError, EvolveError, TaskError)  # whose messages say what to do
SETTINGS = re.compile(r"(?<![\w./-])(?:score\.)?(max_length|batch_tokens|gen_kwargs)(?![\w/])")
RECORDED = ("tasks", "limit", "num_fewshot", "apply_chat_template", "fewshot_as_multiturn", "system_instruction",
            "gen_kwargs", "batch_tokens", "max_length", "dtype", "device")  # fmt: skip


def score(models: Sequence[str], given: Mapping[str, Any]) -> None:
    """Score the models one after the other and print a table, or JSON. `given`: the command line's options by name.

    A model that cannot be scored costs the others nothing; its error is raised at the end, after the table, or the
    JSON, which is printed whatever happens.
    """
    options = score_options(models, given)
    session = Session(options, usable_device(options.device))
    session.tell(notes_before(options))
    if not Path(options.models[0]).exists():  # before it is downloaded
        library = TaskLibrary(options.include)
        for name in options.tasks:
            library.load_all(name)
    whole = False
    try:
        for reference, label in zip(options.models, labels(options.models), strict=True):
            session.add(reference, label)
        whole = True
    finally:  # an interruption keeps what was scored until then
        if options.json or any(row.comparison for row in session.rows):
            session.show(complete=whole)
    if failed := [row.error for row in session.rows if row.error]:
        raise ModelError("\n".join(failed))


@dataclass
class Session:
    """The models scored so far, and what they have in common."""

    options: ScoreOptions
    device: str
    rows: list[Row] = field(default_factory=list)
    _goals: tuple[Goal, ...] = ()
    _asked: dict[str, Asked] = field(default_factory=dict)
    _prepared: tuple[str, Prepared] | None = None  # with the digest of the tokenizer that it was made for
    _vocabularies: dict[str, str] = field(default_factory=dict)
    _templates: dict[str, str] = field(default_factory=dict)
    _told: list[str] = field(default_factory=list)  # of the tasks

    def add(self, reference: str, label: str) -> None:
        """Score one more model. Raises what is wrong with the tasks; what is wrong with the model goes in its row."""
        try:
            with opened(reference, self.options.dtype, self.device) as subject:
                if self.options.trust_remote_code and (code := named_code(subject.checkpoint.folder)):
                    self.tell([f"runs code of {reference}, as was asked for: {'; '.join(code)}"])
                tokenizer = subject.tokenizer(self.options.trust_remote_code)
                if self.options.apply_chat_template and not tokenizer.chat_template:
                    raise ModelError(
                        f"{reference}: its tokenizer has no chat template; leave --apply-chat-template away"
                    )
                prepared = self._prepare(subject, tokenizer)
                if len(self.options.models) > 1:
                    self._note(label, tokenizer)
                row = self._scored(prepared, subject, label, tokenizer)
        except _TasksWrong as error:
            raise type(error.problem)(as_options(str(error.problem))) from None
        except Exception as error:  # a model's own code and what its weights make of numbers: anything can come out
            row = Row(reference, label, error=_message(reference, error))
        self.rows.append(row)
        free_memory(self.device)
        if len(self.options.models) > 1:
            print(line(row, self._goals), file=sys.stderr, flush=True)
        if self.options.output is not None:
            self._write(complete=len(self.rows) == len(self.options.models))

    def _prepare(self, subject: Subject, tokenizer: Any) -> Prepared:
        """The requests; models with the same tokenizer share them."""
        key = subject.tokenizer_digest
        if self._prepared is not None and self._prepared[0] == key:
            return self._prepared[1]
        self._prepared = None
        options = self.options
        try:
            prepared = prepare_all(
                [TaskSpec(name, num_fewshot=options.num_fewshot) for name in options.tasks],
                include=options.include,
                limit=options.limit,
                tokenizer=tokenizer,
                prompt=PromptSettings(
                    apply_chat_template=options.apply_chat_template,
                    system_instruction=options.system_instruction,
                    fewshot_as_multiturn=options.fewshot_as_multiturn,
                    max_length=options.max_length,
                    gen_kwargs=options.gen_kwargs or None,
                ),
            )
            if not self._goals:
                self._goals = in_order(goals_of(prepared), options.metrics)
        except TaskError as error:  # the other models would fail in the same way
            raise _TasksWrong(error) from None
        self._prepared = key, prepared
        self._asked = {
            name: Asked(len(documents), prepared.tasks[name].num_fewshot)
            for name, documents in prepared.requests("all").items()
        }
        self.tell(task_notes(prepared, options.num_fewshot, generating=bool(options.gen_kwargs)))
        return prepared

    def tell(self, notes: Sequence[str]) -> None:
        """Say each note once, at once."""
        for note in notes:
            if note not in self._told:
                self._told.append(note)
                print(f"note: {note}", file=sys.stderr, flush=True)

    def _scored(self, prepared: Prepared, subject: Subject, label: str, tokenizer: Any) -> Row:
        options, start = self.options, time.perf_counter()
        module = subject.load(self.device, options.trust_remote_code)
        check_positions(module.config, options.max_length)
        loaded = time.perf_counter()
        scorer = Scorer(prepared, module, tokenizer, batch_tokens=options.batch_tokens, device=self.device)
        cut = too_long(prepared, "all", scorer.max_length)
        answers = scorer.score("all")
        against = next((row.measures for row in self.rows if row.comparison is not None), None)
        return Row(
            subject.reference,
            label,
            dtype=subject.dtype,
            max_length=scorer.max_length,
            comparison=compare(self._goals, options.unit, answers.measures, against, aggregates(prepared, "all")),
            measures=answers.measures,
            cut={task: count for task, (count, _) in cut.items()},
            seconds={"load": loaded - start, **answers.seconds},
        )

    def _note(self, label: str, tokenizer: Any) -> None:
        vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
        self._vocabularies[label] = hashlib.sha256(vocabulary.encode("utf-8", "surrogatepass")).hexdigest()
        self._templates[label] = str(tokenizer.chat_template)

    def result(self) -> Result:
        against = next((row.label for row in self.rows if row.comparison is not None), None)
        return Result(self._asked, self._goals, self.options.unit, self.rows, against, list(self._notes()))

    def _notes(self) -> list[str]:
        notes = []
        if self.options.unit == "token" and (others := _differing(self._vocabularies)):
            notes.append(
                f"{others} other tokens than {next(iter(self._vocabularies))}, so log-likelihoods per token cannot be "
                "compared; take --loglikelihood-unit byte"
            )
        if self.options.apply_chat_template and (others := _differing(self._templates)):
            notes.append(f"{others} another chat template than {next(iter(self._templates))}: prompts differ")
        return notes

    def show(self, *, complete: bool) -> None:
        """Print what there is."""
        if self.options.json:
            print(json.dumps(self._record(complete), indent=2, ensure_ascii=False, allow_nan=False), flush=True)
        else:
            print("\n".join(tables(self.result())).rstrip(), flush=True)

    def _write(self, *, complete: bool) -> None:
        write_json(Path(str(self.options.output)), self._record(complete))

    def _record(self, complete: bool) -> dict[str, Any]:
        settings = {name: getattr(self.options, name) for name in RECORDED}
        settings |= {"device": self.device, "loglikelihood_unit": self.options.unit}
        settings["include"] = [str(folder) for folder in self.options.include]
        result = replace(self.result(), notes=[*self._told, *self._notes()])
        record = as_json(result, settings, complete=complete, samples=self.options.samples)
        return record | {"versions": describe()["versions"]}


class _TasksWrong(Exception):
    """Carries a TaskError that no other model could avoid."""

    def __init__(self, problem: TaskError) -> None:
        super().__init__(str(problem))
        self.problem = problem


def goals_of(prepared: Prepared) -> tuple[Goal, ...]:
    """All metrics that have a number for each document, in their tasks' order; with the tasks' weights."""
    return tuple(
        Goal(name, str(metric), each.spec.weight, metric.higher_is_better, metric.aggregation)
        for name, each in prepared.tasks.items()
        for metric in all_metrics(each.task)
        if metric.aggregation is not None
    )


def notes_before(options: ScoreOptions) -> list[str]:
    """What can be said before a model is opened: which of several cannot be scored, and what has no effect."""
    problems = {reference: problem_of(reference) for reference in options.models} if len(options.models) > 1 else {}
    notes = [f"will not be scored: {problem}" for problem in problems.values() if problem]
    if options.samples and not (options.json or options.output):
        notes.append("--samples has no effect without --json or --output")
    for folder in options.include:
        if files := code_files(folder):
            notes.append(f"runs code of the tasks in --include ({folder}): {', '.join(map(str, files))}")
    return notes


def task_notes(prepared: Prepared, num_fewshot: int | None, *, generating: bool = False) -> list[str]:
    """What was asked of the tasks and is not done, and which of their documents count twice."""
    notes = [
        f"{name}: --num-fewshot {num_fewshot} is not applied, since the task's file says num_fewshot: "
        f"{each.num_fewshot}, which lm-eval keeps; take it out of the file"
        for name, each in prepared.tasks.items()
        if num_fewshot is not None and each.num_fewshot != num_fewshot
    ]
    if generating and all(each.task.OUTPUT_TYPE != GENERATE for each in prepared.tasks.values()):
        notes.append("--gen-kwargs has no effect: none of the tasks generates text")
    seen: dict[str, str] = {}
    shared: dict[tuple[str, str], int] = {}
    for name, documents in prepared.requests("all").items():
        for digest in {canonical(document.document) for document in documents}:
            if (other := seen.setdefault(digest, name)) != name:
                shared[other, name] = shared.get((other, name), 0) + 1
    return notes + [
        f"{count} document{'s' * (count != 1)} of {name} {'are' if count > 1 else 'is'} also in {other}"
        for (other, name), count in shared.items()
    ]


def as_options(text: str) -> str:
    """The message with the settings of a search called as this command's options are."""
    return SETTINGS.sub(lambda found: "--" + found[1].replace("_", "-"), text)


def free_memory(device: str) -> None:
    """Give back what the last model held: it hangs in cycles with lm-eval's objects."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


def _message(reference: str, error: Exception) -> str:
    """The error in one line that names the model."""
    if is_out_of_memory(error):
        return f"{reference}: memory ran out ({' '.join(str(error).split())[:200]}); lower --batch-tokens, or --dtype"
    text = as_options(" ".join(str(error).split()))
    if not isinstance(error, FORESEEN):
        return f"{reference}: cannot be scored ({type(error).__name__}: {text[:300]}); see whether lm_eval can load it"
    return text if reference in text else f"{reference}: {text}"


def _differing(facts: Mapping[str, str]) -> str:
    """`b and c have`, the labels whose facts are not the first one's; empty if there is none."""
    first = next(iter(facts.values()), "")
    others = [label for label, fact in facts.items() if fact != first]
    return f"{' and '.join(others)} {'have' if len(others) > 1 else 'has'}" if others else ""
