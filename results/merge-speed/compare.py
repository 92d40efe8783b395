"""`evolve merge` against `mergekit-yaml`, whole process, and against the floor, side by side in one run.

    python results/merge-speed/families.py FOLDER
    python results/merge-speed/compare.py FOLDER/125m --mergekit ENVIRONMENT/bin/mergekit-yaml
    python results/merge-speed/compare.py FOLDER/1b --mergekit ... --methods linear slerp ties

For every method: wall and CPU seconds, and the peak of anonymous memory (without mapped pages, looked at every 10 ms),
the best of `--repeats`, in turns. Inputs are read once before, so that all find them in the page cache. The start
of each program is a merge of a model with four tiny tensors, and is taken off for "work". mergekit's output is
compared with ours: the share of elements that differ by more than two steps of the tensor's largest magnitude.
Leaves FAMILY.json and FAMILY.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

HERE = Path(__file__).parent
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # method: (parameters of a model, parameters of the recipe)
    "linear": ({"weight": 0.3}, {}),
    "slerp": ({}, {"t": 0.4}),
    "nuslerp": ({"weight": 0.4}, {}),
    "multislerp": ({"weight": 0.4}, {}),
    "karcher": ({}, {}),
    "task_arithmetic": ({"weight": 0.4}, {}),
    "ties": ({"weight": 0.4, "density": 0.3}, {}),
    "dare_linear": ({"weight": 0.4, "density": 0.3}, {}),
    "dare_ties": ({"weight": 0.4, "density": 0.3}, {}),
    "della": ({"weight": 0.4, "density": 0.3, "epsilon": 0.1}, {}),
    "della_linear": ({"weight": 0.4, "density": 0.3, "epsilon": 0.1}, {}),
    "breadcrumbs": ({"weight": 0.4, "density": 0.8, "gamma": 0.05}, {}),
    "breadcrumbs_ties": ({"weight": 0.4, "density": 0.8, "gamma": 0.05}, {}),
    "sce": ({}, {"select_topk": 0.5}),
    "ram": ({}, {}),
    "ramplus_tl": ({}, {}),
    "model_stock": ({}, {}),
    "nearswap": ({}, {"t": 0.001}),
    "arcee_fusion": ({}, {}),
    "passthrough": ({}, {}),
}
ONE = ("slerp", "nearswap", "arcee_fusion", "passthrough")
WITHOUT_BASE = ("linear", "karcher", "passthrough")
RANDOM = ("dare_linear", "dare_ties", "della", "della_linear", "arcee_fusion")


def recipe(method: str, family: Path) -> dict[str, Any]:
    """Return the recipe of three fine-tunes (or as many as the method takes) with mergekit's usual bfloat16."""
    own, shared = METHODS[method]
    count = 1 if method in ONE else 2 if method == "nuslerp" else 3
    models = [{"model": str(family / name), "parameters": own} for name in ("a", "b", "c")[:count]]
    content: dict[str, Any] = {"merge_method": method, "models": models, "parameters": shared, "dtype": "bfloat16"}
    if method in ("slerp", "nearswap", "arcee_fusion"):  # mergekit wants the base among the models
        models.insert(0, {"model": str(family / "base")})
    return content if method in WITHOUT_BASE else {**content, "base_model": str(family / "base")}


def watched(command: list[str]) -> dict[str, float]:
    """Run a command; return its wall and CPU seconds and its peak of anonymous memory in MiB."""
    start, before = time.perf_counter(), os.times()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    peak = 0
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.append(process.stderr.read() if process.stderr else ""))
    reader.start()
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = max(
                peak,
                sum(int(line.split()[1]) for line in status.splitlines() if line.startswith(("RssAnon", "RssShmem"))),
            )
        except (OSError, IndexError):
            pass
        time.sleep(0.01)
    seconds, after = time.perf_counter() - start, os.times()
    reader.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}\n{errors[0][-2000:]}")
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return {"wall": seconds, "cpu": cpu, "MiB": peak / 1024}


def best(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the least of every figure but memory, of which the most counts."""
    return {key: (max if key == "MiB" else min)(run[key] for run in runs) for key in runs[0]}


def tiny(folder: Path) -> Path:
    """Write a family of tiny models."""
    for number, name in enumerate(("base", "a", "b", "c")):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(
            json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "vocab_size": 8,
                        "num_hidden_layers": 0, "num_attention_heads": 1, "intermediate_size": 8})
        )  # fmt: skip
        weights = {f"{n}.weight": torch.randn(8, 8, generator=torch.Generator().manual_seed(number)).bfloat16()
                   for n in ("model.embed_tokens", "lm_head")}  # fmt: skip
        weights["model.norm.weight"] = torch.ones(8).bfloat16()
        save_file(weights, folder / name / "model.safetensors", metadata={"format": "pt"})
    return folder


def differing(ours: Path, theirs: Path) -> float:
    """Return the share of elements that differ by more than two bfloat16 steps of the tensor's largest magnitude."""
    places = {}
    for file in sorted(theirs.glob("*.safetensors")):
        with safe_open(file, framework="pt") as shard:
            places.update(dict.fromkeys(shard.keys(), file))
    apart = count = 0
    with safe_open(ours / "model.safetensors", framework="pt") as mine:
        if set(mine.keys()) != set(places):
            raise SystemExit(f"{ours} and {theirs} hold different tensors")
        for name, file in places.items():
            with safe_open(file, framework="pt") as shard:
                want, got = shard.get_tensor(name).float(), mine.get_tensor(name).float()
            apart += int(((want - got).abs() > want.abs().max() * 2**-7).sum())
            count += want.numel()
    return apart / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", type=Path)
    parser.add_argument("--mergekit", required=True)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--scratch", type=Path, help="where outputs are written and removed")
    parsed = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="merge-speed-", dir=parsed.scratch))
    ours = [sys.executable, "-m", "evolve", "merge", "--quiet", "--threads", str(parsed.threads)]
    theirs = [parsed.mergekit, "--quiet", "-j", str(parsed.threads)]
    # One file each. mergekit holds a shard until it is full; smaller ones would need less memory.
    theirs += ["--lazy-unpickle", "--out-shard-size", "100B"]
    outputs = {"evolve": scratch / "ours", "mergekit": scratch / "theirs"}

    def run(program: str, file: Path) -> dict[str, float]:
        shutil.rmtree(outputs[program], ignore_errors=True)
        command = ours if program == "evolve" else theirs
        return watched([*command, str(file), str(outputs[program])])

    def both(name: str, family: Path, method: str) -> dict[str, dict[str, float]]:
        file = scratch / f"{name}.yaml"
        file.write_text(yaml.safe_dump(recipe(method, family)))
        runs: dict[str, list[dict[str, float]]] = {"evolve": [], "mergekit": []}
        for _ in range(parsed.repeats):
            for program, found in runs.items():
                found.append(run(program, file))
        return {program: best(found) for program, found in runs.items()}

    try:
        both("warm", tiny(scratch / "tiny"), "linear")  # programs and their compiled loops into the page cache
        start = both("start", scratch / "tiny", "linear")
        files = [parsed.family / name / "model.safetensors" for name in ("base", "a", "b", "c")]
        for file in files:  # into the page cache
            with file.open("rb") as handle:
                while handle.read(1 << 24):
                    pass
        floor = [sys.executable, str(HERE / "floor.py"), str(parsed.threads), str(scratch / "floor")]
        rows: dict[str, Any] = {}
        for method in parsed.methods:
            both_runs = both(method, parsed.family, method)
            models = [m["model"] for m in recipe(method, parsed.family)["models"]]
            read = {*models, str(parsed.family / "base")} if method not in WITHOUT_BASE else set(models)
            sources = [str(Path(model) / "model.safetensors") for model in sorted(read)]
            seconds = min(
                float(subprocess.run([*floor, *sources], check=True, capture_output=True, text=True).stdout)
                for _ in range(parsed.repeats)
            )
            (scratch / "floor").unlink()
            rows[method] = {**both_runs, "floor": seconds}
            if method not in RANDOM:
                rows[method]["differing"] = differing(outputs["evolve"], outputs["mergekit"])
            print(method, json.dumps(rows[method]), flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    result = {
        "family": parsed.family.name, "threads": parsed.threads, "repeats": parsed.repeats, "start": start,
        "rows": rows,
        "torch": torch.__version__, "python": platform.python_version(), "cores": os.cpu_count(),
    }  # fmt: skip
    (HERE / f"{parsed.family.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    (HERE / f"{parsed.family.name}.md").write_text(table(result))


def table(result: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    start = result["start"]
    lines = [
        f"# {result['family']}: {result['threads']} threads, best of {result['repeats']}",
        "",
        f"Start alone: evolve {start['evolve']['wall']:.1f} s, mergekit {start['mergekit']['wall']:.1f} s. "
        '"Work" is the wall time without it.',
        "",
        "| method | evolve s | mergekit s | ratio | work s | work ratio | floor s | work / floor | evolve MiB "
        "| mergekit MiB | differ |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for method, row in result["rows"].items():
        own, other = row["evolve"], row["mergekit"]
        work, other_work = (row[p]["wall"] - start[p]["wall"] for p in ("evolve", "mergekit"))
        apart = f"{row['differing']:.1%}" if "differing" in row else "random"
        lines.append(
            f"| {method} | {own['wall']:.1f} | {other['wall']:.1f} | {other['wall'] / own['wall']:.1f} | {work:.2f} "
            f"| {other_work / work:.1f} | {row['floor']:.2f} | {work / row['floor']:.2f} | {own['MiB']:.0f} "
            f"| {other['MiB']:.0f} | {apart} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
