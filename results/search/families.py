"""The benchmark families: checkpoints and lm-eval tasks, written once into a cache folder.

    python results/search/families.py CACHE [NAME ...]   # all of them: a few minutes of training, the rest is at once

Base and experts are the demo's, as `tasks/demo/train.py` made them and as they ship; distractors with irrelevant skills
and the gentle experts of C0 are trained here with the same script. Everything else is made from those by seeded noise
or by moving layers. The result is the same from run to run on one kind of machine with one version of torch.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from questions import DEMO, FRESH, MAIN, POOL, asked, lessons
from safetensors.torch import load_file, save_file
from train import Training, fine_tune, one_skill, write_model
from transformers.utils.logging import disable_progress_bar

Weights = dict[str, torch.Tensor]
LAYERS = 6
NOISE = 1.0  # of a damaged layer, in standard deviations of each of its tensors
BURIED = 3.0  # of a layer that is better left out
DAMAGE = {"shift": (1, 4), "reverse": (2, 2), "sort": (2, 3)}  # the layers of B9's sources; see `damaged`
NEAR = 0.02  # of a near-copy of the base
GENTLE = 0.01  # of C1's sources

TASK = """task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
num_fewshot: 0
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


@dataclass(frozen=True)
class Bench:
    """A family on disk: the models, the skills that it is asked, and the folder of their tasks."""

    name: str
    base: str
    sources: tuple[str, ...]
    skills: tuple[str, ...]
    tasks: str
    layers: int = LAYERS


def read(folder: Path) -> Weights:
    """The checkpoint's tensors in float32."""
    return {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}


def write(weights: Weights, folder: Path) -> None:
    """A checkpoint of these weights in bfloat16, otherwise as the demo's base is."""
    shutil.copytree(DEMO / "models" / "base", folder, dirs_exist_ok=True)
    rounded = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in weights.items()}
    save_file(rounded, folder / "model.safetensors", metadata={"format": "pt"})


def noisy(weights: Weights, size: float, seed: int, layer: int | None = None) -> Weights:
    """With noise of `size` standard deviations of each tensor's own: in one layer, or in all matrices."""
    draws = torch.Generator().manual_seed(seed)
    result = {}
    for name, tensor in sorted(weights.items()):
        noise = torch.randn(tensor.shape, generator=draws) * size * tensor.std()
        hit = f".layers.{layer}." in name if layer is not None else True
        result[name] = tensor + noise if hit and tensor.dim() == 2 else tensor.clone()
    return result


def swapped(weights: Weights, first: int, second: int) -> Weights:
    """With two layers in each other's place."""
    place = {first: second, second: first}

    def moved(name: str) -> str:
        parts = name.split(".")
        if "layers" in parts:
            parts[2] = str(place.get(int(parts[2]), int(parts[2])))
        return ".".join(parts)

    return {moved(name): tensor for name, tensor in weights.items()}


def demo(name: str) -> Weights:
    return read(DEMO / "models" / name)


def trained(training: Training, folder: Path, batch: Callable[[int], list[object]] | None = None) -> Weights:
    """The fine-tune of the demo's base, trained unless the cache holds it."""
    if not (folder / "model.safetensors").exists():
        print(f"training {folder.name}", flush=True)
        tied = {"lm_head.weight": demo("base")["model.embed_tokens.weight"]}  # stored once, expected twice
        write_model(fine_tune(demo("base") | tied, training, batch), folder)  # type: ignore[arg-type]
    return read(folder)


def irrelevant(skill: str, cache: Path) -> Weights:
    training = Training({skill: 1.0}, 60, 3e-3, seed=40, rank=4)
    return trained(training, cache / "trained" / skill, lessons(skill, 40))  # type: ignore[arg-type]


def harsh(skill: str, cache: Path) -> Weights:
    """As the demo's most narrow fine-tunes: a low-rank one without replay, that forgets all else."""
    if skill in ("pick", "second"):  # they are
        return demo(skill)
    training = Training(one_skill(skill), 100, 3e-3, seed=50 + MAIN.index(skill), rank=8)
    return trained(training, cache / "trained" / f"harsh-{skill}")


def narrow(skills: Sequence[str], cache: Path) -> dict[str, Weights]:
    return {skill: harsh(skill, cache) for skill in skills}


def gentle(skill: str, cache: Path) -> Weights:
    training = Training(one_skill(skill, replay=0.25), 60, 3e-4, seed=60)
    return trained(training, cache / "trained" / f"gentle-{skill}")


def distractors(count: int, cache: Path) -> dict[str, Weights]:
    """Half near-copies of the base with noise, half experts of skills that nobody asks for."""
    copies = {f"copy-{i}": noisy(demo("base"), NEAR, 30 + i) for i in range(count // 2)}
    skills = ("double", "rotate", "alternate", "larger")[: count // 2]
    return copies | {skill: irrelevant(skill, cache) for skill in skills}


def damaged(name: str, first: int, second: int) -> Weights:
    """An expert with two layers in each other's place; with noise over the layer where both are one."""
    return swapped(demo(name), first, second) if first != second else noisy(demo(name), BURIED, 90, first)


APART = ("reverse", "shift", "second")  # narrow experts of these pull apart
THREE = ("reverse", "sort", "shift")
FAMILIES: Mapping[str, tuple[tuple[str, ...], Callable[[Path], dict[str, Weights]]]] = {
    "demo": (MAIN, lambda cache: {name: demo(name) for name in MAIN}),
    "B1": (MAIN, lambda cache: narrow(MAIN, cache)),
    "B2": (MAIN, lambda cache: {name: noisy(demo(name), NOISE, 20 + i, 1 + i) for i, name in enumerate(MAIN)}),
    "B3-0": (THREE, lambda cache: narrow(THREE, cache)),
    "B3-4": (THREE, lambda cache: narrow(THREE, cache) | distractors(4, cache)),
    "B3-8": (THREE, lambda cache: narrow(THREE, cache) | distractors(8, cache)),
    "B9": (THREE, lambda cache: {name: damaged(name, *layers) for name, layers in DAMAGE.items()}),
    "B10": (APART, lambda cache: narrow(APART, cache)),
    "C0": (("reverse", "sort"), lambda cache: {name: gentle(name, cache) for name in ("reverse", "sort")}),
    "C1": (MAIN, lambda cache: {f"copy-{i}": noisy(demo("base"), GENTLE, 70 + i) for i in range(4)}),
}
"""Name -> the skills that are asked, and what makes the sources."""


def write_tasks(folder: Path) -> None:
    """`bench_<skill>` over the pool and `fresh_<skill>` over the fresh documents, of every main skill."""
    folder.mkdir(parents=True, exist_ok=True)
    for skill in MAIN:
        documents = asked(skill)
        for task, part in ((f"bench_{skill}", documents[:POOL]), (f"fresh_{skill}", documents[POOL : POOL + FRESH])):
            file = folder / f"{task}.jsonl"
            file.write_text("".join(json.dumps({"prompt": d.prompt, "answer": d.answer}) + "\n" for d in part))
            (folder / f"{task}.yaml").write_text(TASK.format(task=task, file=file.resolve()))


def family(name: str, cache: Path) -> Bench:
    """The family, made unless the cache holds it."""
    mark, tasks = cache / name / "family.json", cache / "tasks"
    if not (tasks / "done").exists():
        write_tasks(tasks)
        (tasks / "done").touch()
    skills, sources = FAMILIES[name]
    if not mark.exists():
        made = sources(cache)
        write(demo("base"), cache / name / "base")
        for label, weights in made.items():
            write(weights, cache / name / label)
        mark.write_text(json.dumps(list(made)))
    folders = tuple(str(cache / name / label) for label in json.loads(mark.read_text()))
    return Bench(name, str(cache / name / "base"), folders, skills, str(tasks))


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Write the benchmark families.")
    parser.add_argument("cache", type=Path)
    parser.add_argument("names", nargs="*", default=list(FAMILIES))
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    disable_progress_bar()
    for name in parsed.names:
        print(family(name, parsed.cache.resolve()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
