"""Measure the demo family: its models, plain merges of them, short searches, and long reference searches.

    python results/demo-family/reference_search.py  # from the root; writes measured.json beside it

Needs torch, transformers, cma and numpy only: merging and scoring are written out here, apart from the project's own
engine and tasks, so that this is a second opinion on both. Scores are those of lm-eval: exact match of the greedy
answer, and accuracy of the choice with the largest summed log-probability. Every row is scored on the last 1,000
documents of each task; searches see only the first 1,000, or training documents drawn afresh.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

DEMO = Path(__file__).resolve().parents[2] / "tasks" / "demo"
sys.path.insert(0, str(DEMO))
from skills import EOS, PAD, SKILLS, VOCABULARY, Document, Stream  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # cma says that it cannot draw without matplotlib
    import cma

Weights = Mapping[str, torch.Tensor]
Documents = Mapping[str, Sequence[Document]]
IDS = {token: index for index, token in enumerate(VOCABULARY)}
LAYERS = 6


def read_documents(skill: str) -> list[Document]:
    rows = [json.loads(line) for line in (DEMO / f"demo_{skill}.jsonl").read_text().splitlines()]
    return [Document(row["prompt"], row["answer"], tuple(row.get("choices", ()))) for row in rows]


def tensors(pairs: Sequence[tuple[str, str]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of (prompt, answer) pairs with the end token, padded right, and which are answer or end."""
    rows = [[IDS[c] for c in prompt + answer] + [IDS[EOS]] for prompt, answer in pairs]
    ids = torch.full((len(rows), max(map(len, rows))), IDS[PAD])
    asked = torch.zeros_like(ids, dtype=torch.bool)
    for index, (row, (prompt, _)) in enumerate(zip(rows, pairs, strict=True)):
        ids[index, : len(row)] = torch.tensor(row)
        asked[index, len(prompt) : len(row)] = True
    return ids, asked


class Family:
    """The shipped checkpoints in float32: the base's weights and one task vector per source."""

    def __init__(self, folder: Path) -> None:
        def load(name: str) -> LlamaForCausalLM:
            return LlamaForCausalLM.from_pretrained(folder / name, dtype=torch.float32)

        self.model = load("base").requires_grad_(False)
        self.base = {name: w.detach().clone() for name, w in self.model.named_parameters()}
        self.sources = list(SKILLS)
        self.vectors = {
            source: {name: w.detach() - self.base[name] for name, w in load(source).named_parameters()}
            for source in self.sources
        }

    def logits(self, weights: Weights, ids: torch.Tensor) -> torch.Tensor:
        arguments = {"input_ids": ids, "use_cache": False}
        output = torch.func.functional_call(self.model, dict(weights), (), arguments)
        return output.logits  # type: ignore[no-any-return]

    def source(self, name: str) -> Weights:
        return {key: weight + self.vectors[name][key] for key, weight in self.base.items()}

    def task_arithmetic(self, genes: torch.Tensor, group: Callable[[str], int]) -> Weights:
        """base + sum over sources of genes[source, group of the tensor] x task vector (Ilharco et al. 2023)."""
        return {
            key: weight + sum(genes[i, group(key)] * self.vectors[s][key] for i, s in enumerate(self.sources))
            for key, weight in self.base.items()
        }

    def ties(self, density: float, strength: float) -> Weights:
        """TIES (Yadav et al. 2023): trim per tensor by magnitude, elect a sign by the sum, mean of those agreeing."""
        merged = {}
        for key, weight in self.base.items():
            trimmed = []
            for source in self.sources:
                vector = self.vectors[source][key]
                rank = vector.numel() - int(density * vector.numel()) + 1
                least = vector.abs().flatten().kthvalue(rank).values
                trimmed.append(torch.where(vector.abs() >= least, vector, 0.0))
            stack = torch.stack(trimmed)
            agree = (torch.sign(stack) == torch.sign(stack.sum(0))) & (stack != 0)
            merged[key] = weight + strength * (stack * agree).sum(0) / agree.sum(0).clamp(min=1)
        return merged

    @torch.no_grad()
    def values(self, weights: Weights, documents: Sequence[Document], batch: int = 250) -> list[float]:
        """1.0 or 0.0 per document: the greedy answer is the right one, or the right choice is the likeliest."""
        pairs: list[tuple[str, str]] = []
        for d in documents:  # choices of one token need one row only: all are read off the same position
            pairs += [(d.prompt, c) for c in (d.choices if len(d.answer) > 1 else ())] or [(d.prompt, d.answer)]
        exact: list[bool] = []
        likelihood: list[float] = []
        first: list[torch.Tensor] = []
        for start in range(0, len(pairs), batch):
            ids, asked = tensors(pairs[start : start + batch])
            logs = torch.log_softmax(self.logits(weights, ids[:, :-1]), -1)
            gold, asked = ids[:, 1:], asked[:, 1:]
            exact += ((logs.argmax(-1) == gold) | ~asked).all(1).tolist()
            scored = asked & (gold != IDS[EOS])
            likelihood += (logs.gather(2, gold[..., None])[..., 0] * scored).sum(1).tolist()
            first += list(logs[torch.arange(len(ids)), asked.int().argmax(1)])
        values, row = [], 0
        for d in documents:
            if not d.choices:
                values.append(float(exact[row]))
            else:
                many = len(d.answer) > 1
                marks = likelihood[row : row + len(d.choices)] if many else [first[row][IDS[c]] for c in d.choices]
                values.append(float(d.choices[int(np.argmax(marks))] == d.answer))
            row += len(d.choices) if d.choices and len(d.answer) > 1 else 1
        return values

    def score(self, weights: Weights, documents: Documents) -> dict[str, float]:
        return {skill: float(np.mean(self.values(weights, asked))) for skill, asked in documents.items()}


def mean(scores: Mapping[str, float]) -> float:
    return float(np.mean(list(scores.values())))


def layer(key: str) -> int:
    """The tensor's layer; embeddings count to the first and the final norm to the last."""
    return int(key.split(".")[2]) if ".layers." in key else 0 if "embed" in key else LAYERS - 1


def attention(key: str) -> int:
    return 0 if "self_attn" in key or "input_layernorm" in key or "embed" in key else 1


SPACES: Mapping[str, tuple[int, Callable[[str], int]]] = {
    "model": (1, lambda key: 0),
    "parts": (2, attention),
    "blocks": (3, lambda key: layer(key) // 2),
    "full": (2 * LAYERS, lambda key: 2 * layer(key) + attention(key)),
}
"""Genes per source, and a tensor's group: one per source; attention and MLP; three blocks; layer x attention or MLP."""


def sample(pool: Documents, count: int, rng: random.Random) -> Documents:
    return {skill: rng.sample(list(asked), count) for skill, asked in pool.items()}


def cma_search(
    family: Family, space: str, start: Sequence[float], sigma: float, candidates: int,
    search: Documents, selection: Documents, seed: int, bounds: tuple[float, float],
) -> tuple[list[float], dict[str, float]]:  # fmt: skip
    """CMA-ES on the mean metric; the best four candidates and the final mean are compared again on `selection`."""
    width, group = SPACES[space]

    def merged(genes: Sequence[float]) -> Weights:
        shaped = torch.tensor(genes, dtype=torch.float32).view(len(family.sources), width)
        return family.task_arithmetic(shaped, group)

    options = {"seed": seed + 1, "bounds": list(bounds), "verbose": -9}
    es = cma.CMAEvolutionStrategy(list(start), sigma, options)
    tried: list[tuple[float, list[float]]] = []
    began = time.perf_counter()
    while len(tried) < candidates:
        asked = es.ask()
        costs = [-mean(family.score(merged(genes), search)) for genes in asked]
        es.tell(asked, costs)
        tried += [(cost, [float(g) for g in genes]) for cost, genes in zip(costs, asked, strict=True)]
    seconds = (time.perf_counter() - began) / len(tried)
    tried.sort()
    finalists = [genes for _, genes in tried[:4]] + [[float(g) for g in es.mean]]
    again = [mean(family.score(merged(genes), selection)) for genes in finalists]
    best = int(np.argmax(again))
    notes = {"best_on_search": -tried[0][0], "on_selection": again[best], "seconds_per_candidate": seconds}
    return finalists[best], notes


def gradient_search(family: Family, space: str, steps: int, seed: int, rate: float = 0.03) -> torch.Tensor:
    """Adam on the coefficients, by the answers' log-likelihood on fresh training documents; `[source, group]`."""
    width, group = SPACES[space]
    genes = torch.full((len(family.sources), width), 0.3, requires_grad=True)
    optimizer = torch.optim.Adam([genes], lr=rate)
    stream = Stream(dict.fromkeys(SKILLS, 1.0), seed)
    for step in range(steps):
        for settings in optimizer.param_groups:
            settings["lr"] = rate * (1 - 0.9 * step / steps)
        ids, asked = tensors([(d.prompt, d.answer) for d in stream.batch(64)])
        logits = family.logits(family.task_arithmetic(genes, group), ids[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits[asked[:, 1:]], ids[:, 1:][asked[:, 1:]])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return genes.detach()


def plain_merges(family: Family) -> dict[str, Weights]:
    """What one does without a search: each model alone, the uniform average, and tuned single strengths."""
    one = SPACES["model"][1]
    count = len(family.sources)

    def uniform(strength: float) -> Weights:
        return family.task_arithmetic(torch.full((count, 1), strength), one)

    rows: dict[str, Weights] = {"base": family.base}
    rows |= {f"source {name}": family.source(name) for name in family.sources}
    rows["uniform average"] = uniform(1 / count)
    for strength in (0.05, 0.1, 0.15, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0):
        rows[f"task arithmetic {strength}"] = uniform(strength)
    for density in (0.2, 0.5, 0.8):
        for strength in (0.15, 0.3, 0.6, 1.0, 1.5):
            rows[f"TIES {density} x {strength}"] = family.ties(density, strength)
    return rows


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Measure the demo family.")
    parser.add_argument("--models", type=Path, default=DEMO / "models")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "measured.json")
    parser.add_argument("--parts", nargs="*", default=["plain", "short", "long"], help="the other parts' rows are kept")
    parser.add_argument("--report", type=int, default=1000, help="report documents per task")
    parser.add_argument("--seeds", type=int, default=3, help="short searches per space")
    parser.add_argument("--steps", type=int, default=300, help="steps of the gradient searches")
    parser.add_argument("--long", type=int, default=120, help="candidates of the long CMA search")
    parser.add_argument("--spaces", nargs="*", default=["model", "blocks"], help="spaces of the short searches")
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    disable_progress_bar()
    family = Family(parsed.models)
    documents = {skill: read_documents(skill) for skill in SKILLS}
    report = {skill: asked[-parsed.report :] for skill, asked in documents.items()}
    pool = {skill: asked[:500] for skill, asked in documents.items()}
    checking = {skill: asked[500:1000] for skill, asked in documents.items()}
    rows: list[dict[str, object]] = []
    if parsed.out.exists():
        rows = [row for row in json.loads(parsed.out.read_text())["rows"] if row["kind"] not in parsed.parts]

    def record(kind: str, name: str, weights: Weights, **notes: object) -> None:
        scores = family.score(weights, report)
        rows.append({"kind": kind, "name": name, "mean": mean(scores), "scores": scores, **notes})
        print(f"{name:24s}", *(f"{v:.3f}" for v in scores.values()), f"| {mean(scores):.4f}", flush=True)
        parsed.out.write_text(json.dumps({"report_documents": parsed.report, "rows": rows}, indent=1) + "\n")

    def arithmetic(space: str, genes: Sequence[float] | torch.Tensor) -> Weights:
        width, group = SPACES[space]
        return family.task_arithmetic(torch.as_tensor(genes, dtype=torch.float32).view(-1, width), group)

    if "plain" in parsed.parts:
        for name, weights in plain_merges(family).items():
            record("plain", name, weights)
    for space in parsed.spaces if "short" in parsed.parts else ():
        start = [0.25] * (len(family.sources) * SPACES[space][0])
        for seed in range(parsed.seeds):
            rng = random.Random(seed)
            search, selection = sample(pool, 32, rng), sample(checking, 96, rng)
            genes, notes = cma_search(family, space, start, 0.2, 60, search, selection, seed, (0.0, 1.0))
            record("short", f"60 x 160 {space} {seed}", arithmetic(space, genes), genes=genes, **notes)
    if "long" in parsed.parts:
        for space in ("model", "full"):
            found = gradient_search(family, space, parsed.steps, seed=77)
            record("long", f"gradient {space}", arithmetic(space, found), genes=found.tolist())
        start, rng = [0.25] * len(family.sources), random.Random(0)
        search = sample(pool, 200, rng)
        genes, notes = cma_search(family, "model", start, 0.2, parsed.long, search, checking, 0, (-0.3, 1.3))
        record("long", f"{parsed.long} x 1000 model", arithmetic("model", genes), genes=genes, **notes)


if __name__ == "__main__":
    main(sys.argv[1:])
