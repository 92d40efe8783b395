"""Forward tokens per second of this project's scorer, beside a plain loop over full batches.

    python results/scoring/limit.py MODEL TASKS [--documents N]

The loop is `model(ids)` over unpadded batches of random tokens, as many as the scorer's forward passes had, in several
shapes; the fastest shape is the limit. It is also run on the decoder alone, without the language-model head, which the
scorer needs at few positions. The scorer and the loop in its best shape take turns; each figure is the median over the
rounds, on one thread and in its processor time, which other programs disturb less than they disturb the clock. "real"
tokens are those that are no padding. Leaves limit.json and .md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import ours
import stock
import torch
from asked import Prompting
from families import names
from loading import loaded, tokenizer_of
from meter import metered
from record import leave, phase

SHAPES = ((1, 256), (1, 512), (4, 128), (8, 64), (8, 128), (16, 64), (32, 32), (64, 32))


def loop(call: Any, shape: tuple[int, int], tokens: int, vocabulary: int) -> float:
    """Tokens per second over about this many tokens, after one pass to warm up."""
    ids = torch.randint(1, vocabulary, shape)
    count = max(2, tokens // ids.numel())
    with torch.inference_mode():
        call(input_ids=ids, use_cache=False)
        start = time.thread_time()
        for _ in range(count):
            call(input_ids=ids, use_cache=False)
    return count * ids.numel() / (time.thread_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("tasks", type=Path)
    parser.add_argument("--documents", type=int, default=100, help="of each task")
    parser.add_argument("--batch-tokens", type=int, nargs="+", default=[1024, 4096], help="of ours")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    given = parser.parse_args()
    torch.set_num_threads(1)
    stock.quiet()
    model, tokenizer = loaded(given.model, given.dtype), tokenizer_of(given.model)
    asked = ours.prepared(given.tasks, names(given.tasks), tokenizer, Prompting(), documents=given.documents)
    scorers = {size: asked.scorer(model, tokenizer, batch_tokens=size) for size in given.batch_tokens}
    with metered(model, tokenizer) as meter:
        for scorer in scorers.values():  # plans its batches
            phase("planning", lambda scorer=scorer: asked.score(scorer))
    tokens = meter.tokens // len(scorers)
    calls = {"whole": model, "decoder": model.get_decoder()}
    vocabulary = model.config.vocab_size
    scouted = {
        part: {shape: loop(call, shape, tokens // 8, vocabulary) for shape in SHAPES} for part, call in calls.items()
    }
    best = {part: max(shapes, key=lambda shape: shapes[shape]) for part, shapes in scouted.items()}
    speeds: dict[str, list[float]] = {part: [] for part in calls}
    mine: dict[int, list[dict[str, float]]] = {size: [] for size in scorers}
    for turn in range(given.rounds):
        for part, call in calls.items():
            speeds[part].append(loop(call, best[part], tokens, vocabulary))
        for size, scorer in scorers.items():
            with metered(model, tokenizer) as meter:
                start = time.thread_time()
                phase(f"round {turn}, {size} tokens a batch", lambda scorer=scorer: asked.score(scorer))
                whole = time.thread_time() - start
            mine[size].append({"tokens": meter.tokens, "real": meter.real, "passes": meter.passes,
                               "seconds": whole, "model": meter.cpu})  # fmt: skip
    limit = {part: statistics.median(each) for part, each in speeds.items()}
    named = {part: "{} x {}".format(*shape) for part, shape in best.items()}
    rows: list[dict[str, Any]] = []
    for size, runs in mine.items():
        ways = (("all", "tokens", "seconds"), ("real", "real", "seconds"), ("inside", "tokens", "model"))
        rates = {name: statistics.median(run[what] / run[by] for run in runs) for name, what, by in ways}
        rows.append(
            {
                "batch_tokens": size,
                "forward tokens": int(runs[0]["tokens"]),
                "real": int(runs[0]["real"]),
                "passes": int(runs[0]["passes"]),
                "tokens/s": rates["all"],
                "% of the limit": 100 * rates["all"] / limit["whole"],
                "real tokens/s": rates["real"],
                "% of the limit ": 100 * rates["real"] / limit["whole"],
                "tokens/s in the model": rates["inside"],
                "% of the decoder alone": 100 * rates["all"] / limit["decoder"],
            }
        )
    notes = [f"The limit: {limit['whole']:.0f} tokens/s in batches of {named['whole']}, without the head "
             f"{limit['decoder']:.0f} in batches of {named['decoder']}. Asked: 85 % of the limit. The shapes, over an "
             "eighth of the tokens:", "",
             "| plain loop, rows x tokens | tokens/s | without the head |", "|---|---|---|"]  # fmt: skip
    notes += [f"| {rows_} x {length} | {speed:.0f} | {scouted['decoder'][rows_, length]:.0f} |"
              for (rows_, length), speed in scouted["whole"].items()]  # fmt: skip
    title = f"Forward tokens per second: {asked.count} documents, {given.dtype}"
    shapes = {part: {str(shape): speed for shape, speed in each.items()} for part, each in scouted.items()}
    raw = {"ours": mine, "loops": speeds, "shapes": shapes}
    leave("limit", title, rows, raw, threads=1, notes="\n".join(notes))


if __name__ == "__main__":
    main()
