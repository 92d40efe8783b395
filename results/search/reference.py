"""What can be found at all in each family, with far more documents than any arm may score.

    python results/search/reference.py CACHE [FAMILY ...]     # writes references.json beside it, family by family

Adam on the weights of task arithmetic, one per source, layer and module group, by the answers' log-likelihood on 1,000
documents a skill that no arm ever sees, from several starts; then, from the best of these, a CMA-ES on exact match of
30 times an arm's candidates. The best on 500 further documents a skill, plain merges included, is the reference. All of
it in plain torch, apart from the project's own merging and scoring.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import order
import torch
from families import FAMILIES, LAYERS, Bench, family, read
from questions import FRESH, POOL, Document, asked
from recipes import GROUPS
from train import EOS, TOKEN_IDS, tensors
from transformers import LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

HERE = Path(__file__).resolve().parent
SEARCH = 1000  # documents a skill that the searches see; the rest of the reference's documents select
COLUMNS = LAYERS * len(GROUPS) + 1
BATCH = 64
Weights = Mapping[str, torch.Tensor]
Documents = Mapping[str, Sequence[Document]]


def column(name: str) -> int:
    """Which of a source's coefficients a tensor takes."""
    if ".layers." not in name:
        return COLUMNS - 1
    group = next(index for index, part in enumerate(GROUPS) if part in name)
    return int(name.split(".")[2]) * len(GROUPS) + group


class Merger:
    """The family's base and task vectors, stacked by tensor."""

    def __init__(self, bench: Bench) -> None:
        self.model = LlamaForCausalLM.from_pretrained(bench.base, dtype=torch.float32).requires_grad_(False).eval()
        self.base = read(Path(bench.base))
        sources = [read(Path(source)) for source in bench.sources]
        self.vectors = {
            name: torch.stack([own[name] - tensor for own in sources]).flatten(1) for name, tensor in self.base.items()
        }
        self.sources = len(sources)

    def merged(self, coefficients: torch.Tensor) -> Weights:
        """base + sum over sources of coefficient x task vector; `coefficients`: [source, column]."""
        return {
            name: tensor + (coefficients[:, column(name)] @ self.vectors[name]).view(tensor.shape)
            for name, tensor in self.base.items()
        }

    def logits(self, weights: Weights, ids: torch.Tensor) -> torch.Tensor:
        arguments = {"input_ids": ids, "use_cache": False}
        result: torch.Tensor = torch.func.functional_call(self.model, dict(weights), (), arguments).logits
        return result

    def score(self, coefficients: torch.Tensor, documents: Documents) -> float:
        weights = self.merged(coefficients)
        return exact(lambda ids: self.logits(weights, ids), documents)


@torch.no_grad()
def exact(logits: Callable[[torch.Tensor], torch.Tensor], documents: Documents) -> float:
    """Mean over skills of the share of documents whose greedy answer is exactly right."""
    means = []
    for each in documents.values():
        hits: list[torch.Tensor] = []
        for start in range(0, len(each), 250):
            ids, learnt = tensors(each[start : start + 250])
            gold, wanted = ids[:, 1:], learnt[:, 1:] & (ids[:, 1:] != TOKEN_IDS[EOS])
            hits.append(((logits(ids[:, :-1]).argmax(-1) == gold) | ~wanted).all(1))
        means.append(float(torch.cat(hits).float().mean()))
    return float(np.mean(means))


def descended(merger: Merger, documents: Documents, start: float, steps: int, seed: int, rate: float) -> torch.Tensor:
    """Adam from one strength for all, with a falling rate; a batch has as many documents of each skill."""
    coefficients = torch.full((merger.sources, COLUMNS), start, requires_grad=True)
    optimizer = torch.optim.Adam([coefficients], lr=rate)
    draws = np.random.default_rng(seed)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - 0.9 * step / steps)
        loss = torch.zeros(())
        for each in documents.values():
            picked = draws.choice(len(each), BATCH // len(documents), replace=False)
            ids, learnt = tensors([each[int(i)] for i in picked])
            logits, wanted = merger.logits(merger.merged(coefficients), ids[:, :-1]), learnt[:, 1:]
            loss = loss + torch.nn.functional.cross_entropy(logits[wanted], ids[:, 1:][wanted])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return coefficients.detach()


def improved(merger: Merger, documents: Documents, start: torch.Tensor, candidates: int, seed: int) -> torch.Tensor:
    """CMA-ES (diagonal) around `start` on exact match, `candidates` scorings; its mean at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cma

        options = {"seed": seed + 1, "CMA_diagonal": True, "maxfevals": candidates, "verbose": -9}
        es = cma.CMAEvolutionStrategy(start.flatten().tolist(), 0.05, options)
        spent = 0
        while spent < candidates:
            points = es.ask()
            costs = [-merger.score(torch.tensor(p, dtype=torch.float32).view_as(start), documents) for p in points]
            es.tell(points, costs)
            spent += len(points)
        return torch.tensor(es.mean, dtype=torch.float32).view_as(start)


def find_order(bench: Bench) -> dict[str, Any]:
    """The best order of layers of B9."""
    parts = {skill: asked(skill)[POOL + FRESH :] for skill in bench.skills}

    def score(module: Any, count: int | None) -> float:
        spans = {skill: each[:count] if count else each[SEARCH:] for skill, each in parts.items()}
        return exact(lambda ids: module(input_ids=ids, use_cache=False).logits, spans)

    return order.find(bench, score)


def find(bench: Bench, steps: int, candidates: int) -> dict[str, Any]:
    """The best coefficients on the selection documents, with the scores of all that were tried."""
    merger = Merger(bench)
    parts = {skill: asked(skill)[POOL + FRESH :] for skill in bench.skills}
    search = {skill: each[:SEARCH] for skill, each in parts.items()}
    selection = {skill: each[SEARCH:] for skill, each in parts.items()}
    tried: dict[str, tuple[float, torch.Tensor]] = {}

    def add(name: str, coefficients: torch.Tensor) -> None:
        tried[name] = merger.score(coefficients, selection), coefficients
        print(f"{bench.name} {name}: {tried[name][0]:.4f}", flush=True)

    began = time.perf_counter()
    for strength in (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5):
        add(f"strength {strength}", torch.full((merger.sources, COLUMNS), strength))
    for index, source in enumerate(bench.sources):
        add(f"source {Path(source).name}", torch.eye(merger.sources)[index][:, None].repeat(1, COLUMNS))
    for start, rate in ((0.2, 0.03), (0.1, 0.03), (0.1, 0.06), (0.4, 0.03)):
        add(f"descent from {start}, rate {rate}", descended(merger, search, start, steps, 7, rate))
    if candidates:
        best = max(tried.values(), key=lambda each: each[0])[1]
        add(f"CMA-ES, {candidates} candidates", improved(merger, search, best, candidates, 0))
    best_name = max(tried, key=lambda name: tried[name][0])
    return {
        "found": best_name,
        "selection": {name: round(value, 5) for name, (value, _) in tried.items()},
        "coefficients": [[round(float(v), 4) for v in own] for own in tried[best_name][1]],
        "steps": steps,
        "seconds": round(time.perf_counter() - began),
    }


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Find the reference of each family.")
    parser.add_argument("cache", type=Path)
    parser.add_argument("names", nargs="*", default=list(FAMILIES))
    parser.add_argument("--steps", type=int, default=300, help="of each descent")
    parser.add_argument("--candidates", type=int, default=0, help="of the CMA-ES; 0: none")
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    disable_progress_bar()
    file = HERE / "references.json"
    for name in parsed.names:
        bench = family(name, parsed.cache.resolve())
        found = find_order(bench) if name == "B9" else find(bench, parsed.steps, parsed.candidates)
        known = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(dict(sorted({**known, name: found}.items())), indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
