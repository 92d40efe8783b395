"""Forward tokens and seconds of this project's scorer beside stock lm-eval's HFLM: same model, same documents, one run.

    python results/scoring/tokens.py MODEL [--documents N] [--batch-sizes 1 8 32]

The tasks are made by families.py. "tokens" entered the model's embedding, "padded" are those of them that are padding;
"least" are the nodes of the trie of all prompts (with log-likelihoods; no method that computes every hidden state it
needs once can do with fewer). Stock's seconds are those in HFLM's loglikelihood and generate_until, without what
`simple_evaluate` does around them ("whole" has that too), with the batch size that was fastest; ours are the whole call
of `Scorer.score`. Both are the best of several rounds that take turns. Processor time is less at the mercy of whatever
else the machine does. Ours includes the log-likelihoods of the right answers, which stock does not compute for tasks
that generate. Leaves tokens.json and .md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import ours
import stock
import torch
from asked import Prompting
from families import made
from loading import loaded, tokenizer_of
from meter import metered, shared
from record import leave, phase

CASES = {
    # name: (task, few-shot examples, asked of the tokens, asked of the seconds)
    "4 choices, 0-shot": ("made_hellaswag", 0, 2.0, 2.0),
    "4 choices, 0-shot, short answers": ("made_arc_easy", 0, 2.0, 2.0),
    "4 choices, 5-shot, drawn for each document": ("made_hellaswag", 5, 5.0, 5.0),
    "4 choices, 5-shot, the same for all": ("made_hellaswag_first_n", 5, 5.0, 5.0),
    "4 letters, 5-shot, the same for all": ("made_mmlu_anatomy", 5, 5.0, 5.0),
    "generation, 0-shot": ("made_gsm8k", 0, 1.0, 1.5),
    "generation, 5-shot, drawn for each document": ("made_gsm8k", 5, 1.0, 1.5),
    "generation, 5-shot, the same for all": ("made_gsm8k_first_n", 5, 1.0, 1.5),
}


def least(asked: ours.Ours) -> int | None:
    """Nodes of the trie of what is given to the model, where that is known beforehand."""
    requests = [each for documents in asked.prepared.requests("all").values() for each in documents]
    if any(instance.request_type == "generate_until" for each in requests for instance in each.instances):
        return None
    return shared([(given + wanted)[:-1] for each in requests for given, wanted in each.encoded])


def case(
    name: str, folder: Path, model: torch.nn.Module, tokenizer: Any, given: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The case's row, and its raw numbers."""
    task, shots, fewer, faster = CASES[name]
    prompting = Prompting(shots)
    asked = ours.prepared(folder, [task], tokenizer, prompting, documents=given.documents)
    scorer = asked.scorer(model, tokenizer, batch_tokens=given.batch_tokens)
    mine: list[dict[str, float]] = []
    theirs: dict[int, list[dict[str, float]]] = {size: [] for size in given.batch_sizes}
    for turn in range(given.rounds + 1):  # the first of ours plans its batches: a search pays that once
        with metered(model, tokenizer) as meter:
            start = time.process_time()
            score = phase(f"{name}: ours", lambda: asked.score(scorer))
            processor = time.process_time() - start
        whole = score.seconds["forward"] + score.seconds["other"]
        mine.append({"tokens": meter.tokens, "real": meter.real, "passes": meter.passes, "seconds": whole,
                     "model": meter.seconds, "processor": processor})  # fmt: skip
        for size in given.batch_sizes if turn < given.rounds else ():
            with metered(model, tokenizer) as meter:
                run = phase(f"{name}: stock, batches of {size}",
                            lambda size=size: stock.evaluated(folder, [task], model, tokenizer, prompting,
                                                              documents=given.documents, batch_size=size))  # fmt: skip
            theirs[size].append({"tokens": meter.tokens, "real": meter.real, "passes": meter.passes,
                                 "seconds": run.seconds["model"], "whole": run.seconds["whole"],
                                 "processor": run.seconds["processor"]})  # fmt: skip
    later = min(mine[1:], key=lambda each: each["seconds"])
    size, peer = min(((size, min(each, key=lambda one: one["seconds"])) for size, each in theirs.items()),
                     key=lambda pair: pair[1]["seconds"])  # fmt: skip
    floor = least(asked)
    row = {
        "case": name,
        "stock tokens": int(peer["tokens"]),
        "padded": int(peer["tokens"] - peer["real"]),
        "ours": int(later["tokens"]),
        "padded ": int(later["tokens"] - later["real"]),
        "least": floor or "",
        "fewer tokens": f"{peer['tokens'] / later['tokens']:.2f}x",
        "asked": f"{fewer:g}x" if fewer > 1 else "",
        "stock s (batch)": f"{peer['seconds']:.2f} ({size})",
        "whole": peer["whole"],
        "ours s": later["seconds"],
        "less processor time": f"{peer['processor'] / later['processor']:.2f}x",
        "faster": f"{peer['seconds'] / later['seconds']:.2f}x",
        "asked ": f"{faster:g}x",
    }
    return row, {"ours": mine, "stock": theirs, "least": floor}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--documents", type=int, default=50)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32], help="of stock lm-eval")
    parser.add_argument("--batch-tokens", type=int, default=2048, help="of ours")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--cases", nargs="*", help="only those whose name has one of these words")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    stock.quiet()
    tokenizer = tokenizer_of(given.model)
    model = loaded(given.model, given.dtype)
    rows, raw = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = made(Path(scratch), documents=given.documents)
        for name in CASES:
            if given.cases and not any(word in name for word in given.cases):
                continue
            row, raw[name] = case(name, folder, model, tokenizer, given)
            rows.append(row)
            title = f"Tokens and seconds beside HFLM: {given.documents} documents a case, {given.dtype}"
            leave("tokens", title, rows, raw, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
