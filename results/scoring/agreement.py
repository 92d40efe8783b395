"""Document by document: is what this project's scorer says what stock lm-eval says?

    python results/scoring/agreement.py MODEL [TASKS ...] [--demo] [--documents N] [--name NAME]

MODEL is a checkpoint folder; TASKS are folders of lm-eval task files beside the twenty that families.py makes of those
that lm-eval ships. `--demo` takes the demo's tasks instead of all these. Both sides ask the first N documents of every
task in one process, with 0 and 5 few-shot examples and, where the tokenizer has a chat template, with it:

float32: the prompts as sent, the likeliest choice, the generated text, every log-probability, every document's every
metric and its mean. bfloat16: how far the log-probabilities of ours and of stock lm-eval (as it is, and with its
softmax in float32) are from stock lm-eval's in float32, and how many of the likeliest choices and texts changed.

A log-likelihood is a sum over the answer's tokens, of which a rolling one has thousands; differences are given of the
sum and of the mean. `--exact` runs stock lm-eval in float64 too: how far from that are both in float32?

Leaves agreement-NAME.json and .md, and exits with 1 where float32 disagrees. `--modes "5-shot, chat"` asks in that mode
alone and keeps what those files say of the others, so that a long run can be spread.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ours
import stock
import torch
from asked import Answers, Prompting, Scored
from families import made, names
from loading import loaded, tokenizer_of
from record import leave, phase

ROOT = Path(__file__).resolve().parents[2]
NEAR = 1e-4  # natural logarithms


def modes(tokenizer: Any, demo: bool) -> list[Prompting]:
    chats = [False, True] if tokenizer.chat_template and not demo else [False]
    return [Prompting(shots, chat) for chat in chats for shots in ((0,) if demo else (0, 5))]


def asked_modes(tokenizer: Any, given: argparse.Namespace) -> list[Prompting]:
    known = modes(tokenizer, given.demo)
    if unknown := set(given.modes or ()) - {*map(str, known)}:
        raise SystemExit(f"--modes {unknown.pop()!r}: not one of {', '.join(map(repr, map(str, known)))}")
    return [mode for mode in known if not given.modes or str(mode) in given.modes]


def standing(given: argparse.Namespace, table: str) -> list[dict[str, Any]]:
    """The rows of modes that are not asked again."""
    if not given.modes or not (ROOT / "results" / "scoring" / f"{table}.json").exists():
        return []
    raw = json.loads((ROOT / "results" / "scoring" / f"{table}.json").read_text())["raw"]
    rows = raw["float32"] if isinstance(raw, dict) else raw
    return [row for row in rows if row["mode"] not in given.modes]


def distances(one: Answers, two: Answers, sizes: Answers) -> list[tuple[float, float]]:
    """Of all log-likelihoods, the absolute differences: of the sum over an answer's tokens, and of their mean."""
    found = []
    for document, asked in one.requests.items():
        for a, b, size in zip(asked, two.requests[document], sizes.requests[document], strict=True):
            if a.loglikelihood is not None and b.loglikelihood is not None:
                gap = abs(a.loglikelihood - b.loglikelihood)
                found.append((gap, gap / max(size.tokens, 1)))
    return found


def largest(pairs: Sequence[tuple[float, float]], which: int) -> float | str:
    return max((pair[which] for pair in pairs), default="")


def said(answers: Answers) -> dict[int, Any]:
    """Per document what a reader would call its answer: the likeliest choice, the texts, or the greedy flag."""
    result: dict[int, Any] = {}
    for document, asked in answers.requests.items():
        if any(each.text is not None for each in asked):
            result[document] = [each.text for each in asked]
        elif len(asked) > 1:
            values = [each.loglikelihood or 0.0 for each in asked]
            result[document] = values.index(max(values))
        else:
            result[document] = asked[0].answer[1] if isinstance(asked[0].answer, tuple | list) else None
    return result


def changed(one: Answers, two: Answers) -> int:
    first, second = said(one), said(two)
    return sum(first[document] != second[document] for document in first)


def compared(task: str, mode: Prompting, mine: Answers, theirs: stock.Run, exact: stock.Run | None) -> dict[str, Any]:
    """A row of the float32 table."""
    peer = theirs.scored[task]
    if mine.requests.keys() != peer.requests.keys():
        raise SystemExit(f"{task}: other documents were asked")
    prompts = sum(
        [each.arguments for each in mine.requests[document]] != [each.arguments for each in asked]
        for document, asked in peer.requests.items()
    )
    missing = sorted(peer.measures.keys() - mine.measures.keys())
    shared = sorted(peer.measures.keys() & mine.measures.keys())
    off = {
        name: max(abs(mine.measures[name][d] - value) for d, value in peer.measures[name].items()) for name in shared
    }
    # Sums of log-likelihoods differ as those do; everything else is a verdict, and equal or not.
    sums = [name for name in shared if f"{name}/weight" in shared or "perplexity" in name]
    verdicts = [off[name] for name in shared if name not in sums]
    far = distances(mine, peer, mine)
    ours_off, stock_off = (distances(each, exact.scored[task], mine) if exact else [] for each in (mine, peer))
    return {
        "task": task,
        "mode": str(mode),
        "documents": len(peer.requests),
        "requests": sum(map(len, peer.requests.values())),
        "prompts that differ": prompts,
        "answers that differ": changed(mine, peer),
        "log-probability per token, largest difference": largest(far, 1),
        "summed over the answer": largest(far, 0),
        "ours from float64, summed": largest(ours_off, 0),
        "stock from float64, summed": largest(stock_off, 0),
        "largest metric difference": max(verdicts, default=""),
        "means": "; ".join(
            f"{name.removesuffix(',none')} {theirs.aggregated[task][name]:.4g}"
            for name in shared if name in theirs.aggregated[task]
        ),
        "not recorded by ours": ", ".join(missing),
    }  # fmt: skip


def wrong(row: Mapping[str, Any]) -> bool:
    near = (row["log-probability per token, largest difference"] or 0.0) <= NEAR
    # truthfulqa_mc2's metric is a share of probability, so it moves with the log-probabilities.
    same = (row["largest metric difference"] or 0.0) <= NEAR
    return bool(row["prompts that differ"] or row["answers that differ"] or not near or not same)


def rounded(mode: Prompting, exact: Scored, sizes: Scored, versions: Mapping[str, Scored]) -> list[dict[str, Any]]:
    """Rows of the bfloat16 table, one a kind of answer: distances from `exact` over all tasks of the mode."""
    rows = []
    for label, version in versions.items():
        far = [each for task, answers in version.items() for each in distances(answers, exact[task], sizes[task])]
        chosen = [task for task, answers in exact.items() if any(len(asked) > 1 for asked in answers.requests.values())]
        texts = [task for task in exact if any(a.text is not None for r in exact[task].requests.values() for a in r)]
        rows.append(
            {
                "mode": str(mode),
                "scorer": label,
                "log-probabilities": len(far),
                "per token, mean distance": statistics.fmean(each for _, each in far) if far else "",
                "largest": largest(far, 1),
                "summed over the answer, mean distance": statistics.fmean(each for each, _ in far) if far else "",
                "largest ": largest(far, 0),
                "choices changed": sum(changed(version[task], exact[task]) for task in chosen),
                "of": sum(len(exact[task].requests) for task in chosen),
                "texts changed": sum(changed(version[task], exact[task]) for task in texts),
                "of texts": sum(len(exact[task].requests) for task in texts),
            }
        )
    return rows


def runs(given: argparse.Namespace, folders: Sequence[Path], tokenizer: Any) -> Iterator[tuple[list[Any], list[Any]]]:
    """Rows of both tables, mode by mode."""
    for mode in asked_modes(tokenizer, given):
        exact: Scored = {}
        sizes: Scored = {}
        versions: dict[str, Scored] = {"ours": {}, "stock": {}, "stock, float32 softmax": {}}
        rows = []
        for dtype in ("float32", "bfloat16"):
            model = loaded(given.model, dtype)
            for folder in folders:
                tasks = [name for name in names(folder) if not given.tasks_named or name in given.tasks_named]
                if not tasks:
                    continue
                asked = ours.prepared(folder, tasks, tokenizer, mode, documents=given.documents)
                scorer = asked.scorer(model, tokenizer, batch_tokens=given.batch_tokens)
                where = f"{folder.name}, {mode}, {dtype}"
                mine = asked.scored(phase(f"ours, {where}", partial(asked.score, scorer)))

                peer = partial(stock.evaluated, folder, tasks, model, tokenizer, mode, documents=given.documents,
                               batch_size=given.batch_size)  # fmt: skip
                theirs = phase(f"stock, {where}", peer)
                if dtype == "float32":
                    sizes |= mine
                    double = None
                    if given.exact:
                        model.double()
                        double = phase(f"stock, float64, {where}", peer)
                        model.float()  # the weights are those that they were
                    rows += [compared(task, mode, mine[task], theirs, double) for task in tasks]
                    exact |= theirs.scored
                else:
                    soft = phase(f"stock, float32 softmax, {where}", partial(peer, float32_softmax=True))
                    for label, version in zip(versions, (mine, theirs.scored, soft.scored), strict=True):
                        versions[label] |= version
            del model, scorer
            gc.collect()
        yield rows, rounded(mode, exact, sizes, versions)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("tasks", type=Path, nargs="*", help="folders of task files")
    parser.add_argument("--demo", action="store_true", help="the demo's tasks, 0-shot")
    parser.add_argument("--only", dest="tasks_named", nargs="*", help="these tasks alone")
    parser.add_argument("--modes", nargs="*", help="these modes alone; what stands of the others is kept")
    parser.add_argument("--documents", type=int, default=12, help="of each task")
    parser.add_argument("--exact", action="store_true", help="stock lm-eval in float64 too")
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=8, help="of stock lm-eval")
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--name", default="135m")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    stock.quiet()
    tokenizer = tokenizer_of(given.model)
    rows = standing(given, f"agreement-{given.name}")
    bfloat16 = standing(given, f"agreement-{given.name}-bfloat16")
    with tempfile.TemporaryDirectory() as scratch:
        folders = [ROOT / "tasks" / "demo"] if given.demo else [made(Path(scratch), documents=given.documents)]
        for first, second in runs(given, [*folders, *given.tasks], tokenizer):
            rows += first
            bfloat16 += second
            raw = {"float32": rows, "bfloat16": bfloat16}  # after every mode: a long run leaves what it has
            bad = sum(map(wrong, rows))
            threads = torch.get_num_threads()
            notes = f"{bad} of {len(rows)} rows disagree (asked: none; log-probabilities per token within {NEAR})."
            leave(
                f"agreement-{given.name}", "float32: ours beside stock lm-eval", rows, raw, threads=threads, notes=notes
            )
            name, title = f"agreement-{given.name}-bfloat16", "bfloat16: distance from stock lm-eval in float32"
            leave(name, title, bfloat16, bfloat16, threads=threads, notes="Asked: ours at least as close as stock.")
    return 1 if any(map(wrong, rows)) else 0


if __name__ == "__main__":
    sys.exit(main())
