"""B9: recipes that lay out whole layers, CMA-ES on the relaxed problem, and the reference by local search."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from families import DAMAGE, LAYERS, Bench, read
from recipes import Recipe, recipe
from transformers import AutoConfig, LlamaForCausalLM

SPACE = {"order": {"rounds": 1, "repeats": 2, "move": 3}}  # of search.yaml, for ours and for the relaxed problem
CLIMBED = 100  # documents a skill in an ascent
Path_ = tuple[tuple[int, int], ...]  # (model, layer) from bottom to top; model 0 is the base


def path_recipe(bench: Bench, path: Sequence[tuple[int, int]]) -> Recipe:
    models = (bench.base, *bench.sources)
    slices = [{"sources": [{"model": models[m], "layer_range": [layer, layer + 1]}]} for m, layer in path]
    return recipe(bench, "passthrough", {"slices": slices})


def repairs() -> list[Path_]:
    """Every source with its layers put back, or the base's layer in place of noise."""
    found = []
    for model, (first, second) in enumerate(DAMAGE.values(), start=1):
        path = [(model, layer) for layer in range(LAYERS)]
        path[first], path[second] = (path[second], path[first]) if first != second else ((0, first), (0, first))
        found.append(tuple(path))
    return found


def neighbours(path: Path_, models: int) -> Iterator[Path_]:
    """All that one edit makes: another layer in a place, a layer left out or repeated, two in each other's place."""
    for place in range(len(path)):
        below, above = path[:place], path[place + 1 :]
        for model in range(models):
            for layer in range(LAYERS):
                if (model, layer) != path[place]:
                    yield (*below, (model, layer), *above)
        if len(path) > LAYERS - 2:
            yield (*below, *above)
        if len(path) < LAYERS + 2:
            yield (*below, path[place], path[place], *above)
        for other in range(place + 1, len(path)):
            swapped = list(path)
            swapped[place], swapped[other] = path[other], path[place]
            yield tuple(swapped)


class Layouts:
    """Weights of a path, in a module of its depth."""

    def __init__(self, bench: Bench) -> None:
        self._models = [read(Path(model)) for model in (bench.base, *bench.sources)]
        self._config = AutoConfig.from_pretrained(bench.base)
        self._modules: dict[int, LlamaForCausalLM] = {}

    @cached_property
    def models(self) -> int:
        return len(self._models)

    def module(self, path: Path_) -> LlamaForCausalLM:
        """The module of that depth with the path's weights; embeddings are the lowest layer's model's."""
        if len(path) not in self._modules:
            config = type(self._config)(**{**self._config.to_dict(), "num_hidden_layers": len(path)})
            self._modules[len(path)] = LlamaForCausalLM(config).eval().requires_grad_(False)
        module = self._modules[len(path)]
        weights = {
            "model.embed_tokens.weight": self._models[path[0][0]]["model.embed_tokens.weight"],
            "model.norm.weight": self._models[path[-1][0]]["model.norm.weight"],
        }
        for place, (model, layer) in enumerate(path):
            prefix = f"model.layers.{layer}."
            for name, tensor in self._models[model].items():
                if name.startswith(prefix):
                    weights[f"model.layers.{place}.{name.removeprefix(prefix)}"] = tensor
        module.load_state_dict(weights, strict=False)
        return module


def climbed(layouts: Layouts, start: Path_, score: Any, rounds: int) -> tuple[float, Path_]:
    """Steepest ascent over `neighbours`, `rounds` times at most. `score(module)`: to be maximised."""
    best, value = start, score(layouts.module(start))
    for _ in range(rounds):
        values = {path: score(layouts.module(path)) for path in dict.fromkeys(neighbours(best, layouts.models))}
        step = max(values, key=lambda path: values[path])
        if values[step] <= value:
            break
        best, value = step, values[step]
    return value, best


def relaxed(arena: Any) -> Any:
    """CMA-ES from the base's own order in the same space, where every choice is a real number that is cut."""
    from arena import OutOfBudget, configuration
    from arms import SIGMA, BestEver

    from evolve.config.search_yaml import SearchConfig
    from evolve.preparation.setting import Setting

    sizes = {"search": 2, "selection": 2, "report": 2}
    config = configuration(arena.bench, arena.seed, "bench", sizes, arena.folder)
    content: Mapping[str, Any] = {**config.model_dump(mode="json", exclude_unset=True), "space": SPACE}
    space = Setting(SearchConfig.model_validate(content)).space
    best = BestEver(arena)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cma

        options = {"seed": arena.seed + 1, "bounds": [0.0, 1.0], "verbose": -9}
        es = cma.CMAEvolutionStrategy(list(space.start[0]), SIGMA, options)
        try:
            while not es.stop():
                points = es.ask()
                es.tell(points, [-best(space.decode(np.clip(point, 0.0, 1.0).tolist())) for point in points])
        except OutOfBudget:
            pass
    return best.found()


@torch.no_grad()
def find(bench: Bench, score: Any, rounds: int = 2) -> dict[str, Any]:
    """The best of the ascents from every source with its damage undone. `score(module, count)`: documents a skill."""
    layouts = Layouts(bench)
    tried: dict[Path_, float] = {}
    for start in repairs():
        tried[start] = score(layouts.module(start), None)
        _, path = climbed(layouts, start, lambda module: score(module, CLIMBED), rounds)
        tried[path] = score(layouts.module(path), None)
    best = max(tried, key=lambda path: tried[path])
    return {"path": [list(each) for each in best], "selection": {str(path): value for path, value in tried.items()}}
