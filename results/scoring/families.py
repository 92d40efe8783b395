"""Tasks for measuring: lm-eval's own task files over invented documents, and the tasks that are at hand already.

    python results/scoring/families.py FOLDER [--documents N]

writes FOLDER/tasks/*.yaml and FOLDER/data/*.jsonl. Each YAML includes the file that lm-eval ships and changes only
where the data comes from, what no document has a use for (`dataset_name`), and how long generated answers may be. The
documents are made by a seeded generator in the columns of the data set that the task was written for: no text of a
benchmark is in them.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lm_eval
import yaml

SHIPPED = Path(lm_eval.__file__).parent / "tasks"
NAMES = ["Ada", "Bruno", "Clara", "Dmitri", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kemal", "Lena",
         "Mira", "Nils", "Olga", "Pavel"]  # fmt: skip
PLACES = ["harbour", "mill", "library", "orchard", "railway station", "quarry", "lighthouse", "market hall",
          "school yard", "brewery"]  # fmt: skip
THINGS = ["lantern", "ladder", "barrel of salt", "map", "violin", "sack of flour", "wheel", "clock", "bucket",
          "parcel", "kettle", "rope"]  # fmt: skip
ACTIONS = ["carried", "repaired", "painted", "hid", "sold", "weighed", "borrowed", "measured", "cleaned", "counted"]
REASONS = "because it was raining,before the guests came,as the old man had asked,while the dog slept,for a few coins,"
REASONS += "although nobody needed it,after the bell had rung,since the door was locked"
ENDS = tuple(REASONS.split(","))
Document = dict[str, Any]


def clause(rng: random.Random) -> str:
    return f"{rng.choice(ACTIONS)} the {rng.choice(THINGS)} at the {rng.choice(PLACES)}"


def sentence(rng: random.Random) -> str:
    return f"{rng.choice(NAMES)} {clause(rng)} {rng.choice(ENDS)}."


def passage(rng: random.Random, sentences: int) -> str:
    return " ".join(sentence(rng) for _ in range(sentences))


def phrases(rng: random.Random, count: int) -> list[str]:
    """Distinct short answers."""
    return rng.sample([f"the {thing} at the {place}" for thing in THINGS for place in PLACES], count)


def _hellaswag(rng: random.Random) -> Document:
    ends = [f"{clause(rng)} and then {clause(rng)} {rng.choice(ENDS)}." for _ in range(4)]
    return {"activity_label": f"Work at the {rng.choice(PLACES)}", "ctx_a": passage(rng, 3),
            "ctx_b": rng.choice(NAMES).lower(), "endings": ends, "label": str(rng.randrange(4))}  # fmt: skip


def _lettered(rng: random.Random, question: str) -> Document:
    choices = {"text": phrases(rng, 4), "label": list("ABCD")}
    return {question: f"{passage(rng, 2)} What did {rng.choice(NAMES)} see?", "choices": choices,
            "answerKey": rng.choice("ABCD")}  # fmt: skip


def _winogrande(rng: random.Random) -> Document:
    one, two = rng.sample(NAMES, 2)
    return {"sentence": f"{one} asked {two} for the {rng.choice(THINGS)} so _ {clause(rng)} {rng.choice(ENDS)}.",
            "option1": one, "option2": two, "answer": rng.choice("12")}  # fmt: skip


def _boolq(rng: random.Random) -> Document:
    return {"passage": passage(rng, 5), "question": f"was the {rng.choice(THINGS)} at the {rng.choice(PLACES)}",
            "label": rng.randrange(2)}  # fmt: skip


def _piqa(rng: random.Random) -> Document:
    return {"goal": f"To find the {rng.choice(THINGS)}, {sentence(rng)}", "sol1": passage(rng, 1),
            "sol2": passage(rng, 1), "label": rng.randrange(2)}  # fmt: skip


def _truthful(rng: random.Random) -> Document:
    def answers(right: int) -> Document:
        labels = [1] * right + [0] * (5 - right)
        return {"choices": [passage(rng, 1) for _ in labels], "labels": labels}

    return {"question": f"Who {clause(rng)}, {rng.choice(NAMES)} or {rng.choice(NAMES)}?",
            "mc1_targets": answers(1), "mc2_targets": answers(rng.randint(1, 3))}  # fmt: skip


def _mmlu(rng: random.Random) -> Document:
    return {"question": f"{passage(rng, 2)} Where is it now?", "choices": phrases(rng, 4), "answer": rng.randrange(4)}


def _race(rng: random.Random) -> Document:
    problems = [
        {"question": f"{rng.choice(NAMES)} went to  _  ." if number else f"What did {rng.choice(NAMES)} do?",
         "options": phrases(rng, 4), "answer": rng.choice("ABCD")}
        for number in range(3)
    ]  # fmt: skip
    return {"article": passage(rng, 8), "problems": repr(problems)}


def _sciq(rng: random.Random) -> Document:
    right, *wrong = phrases(rng, 4)
    wrongs = {f"distractor{number}": each for number, each in enumerate(wrong, 1)}
    return {
        "support": passage(rng, 4),
        "question": f"What was {rng.choice(ACTIONS)}?",
        "correct_answer": right,
    } | wrongs


def _copa(rng: random.Random) -> Document:
    return {"premise": sentence(rng), "choice1": sentence(rng), "choice2": sentence(rng),
            "question": rng.choice(["cause", "effect"]), "label": rng.randrange(2)}  # fmt: skip


def _blimp(rng: random.Random) -> Document:
    words = sentence(rng).split()
    return {"sentence_good": " ".join(words), "sentence_bad": " ".join([*words[1:3], words[0], *words[3:]])}


def _lambada(rng: random.Random) -> Document:
    return {"text": passage(rng, 4) + f" In the end they gave it to {rng.choice(NAMES)}"}


def _wikitext(rng: random.Random) -> Document:
    parts = [f" = = {place} = = \n {passage(rng, 12)} \n" for place in rng.sample(PLACES, rng.randint(1, 5))]
    return {"page": f" = {rng.choice(NAMES)} = \n" + "".join(parts)}


def _gsm8k(rng: random.Random) -> Document:
    a, b, c = rng.randint(3, 90), rng.randint(2, 60), rng.randint(2, 9)
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    first, second = f"{a} + {b} = <<{a}+{b}={a + b}>>{a + b}", f"{a + b} - {c} = <<{a + b}-{c}={a + b - c}>>{a + b - c}"
    return {"question": f"{name} has {a} coins and finds {b} more at the {rng.choice(PLACES)}. "
            f"One {thing} costs {c} coins. How many coins are left after buying one {thing}?",
            "answer": f"{name} has {first} coins. Then {second} coins are left.\n#### {a + b - c}"}  # fmt: skip


def _trivia(rng: random.Random) -> Document:
    names = rng.sample(NAMES, rng.randint(1, 3))
    return {"question": f"{passage(rng, 1)} Who {clause(rng)}", "answer": {"aliases": names}}


def _natural(rng: random.Random) -> Document:
    return {"question": f"who {clause(rng)}", "answer": rng.sample(NAMES, rng.randint(1, 2))}


@dataclass(frozen=True)
class Kind:
    """A task that lm-eval ships: its file below lm_eval/tasks, a generator of documents, and what is overridden.

    `splits` are those that the file reads; `shots`: whether the file lets few-shot examples be asked for.
    """

    shipped: str
    document: Callable[[random.Random], Document]
    splits: tuple[str, ...] = ("train", "validation")
    shots: bool = True
    override: Mapping[str, Any] = field(default_factory=dict)


FIRST = {"fewshot_config": {"sampler": "first_n"}}


def _short(*until: str) -> dict[str, Any]:
    """generation_kwargs of the shipped file, with an answer of few tokens."""
    return {"generation_kwargs": {"until": list(until), "do_sample": False, "temperature": 0.0, "max_gen_toks": 40}}


KINDS: Mapping[str, Kind] = {
    "hellaswag": Kind("hellaswag/hellaswag.yaml", _hellaswag),
    "arc_easy": Kind("arc/arc_easy.yaml", lambda rng: _lettered(rng, "question"), ("train", "validation", "test")),
    "openbookqa": Kind(
        "openbookqa/openbookqa.yaml", lambda rng: _lettered(rng, "question_stem"), ("train", "validation", "test")
    ),
    "winogrande": Kind("winogrande/default.yaml", _winogrande),
    "boolq": Kind("super_glue/boolq/default.yaml", _boolq),
    "piqa": Kind("piqa/piqa.yaml", _piqa),
    "truthfulqa_mc1": Kind("truthfulqa/truthfulqa_mc1.yaml", _truthful, ("validation",), shots=False),
    "truthfulqa_mc2": Kind("truthfulqa/truthfulqa_mc2.yaml", _truthful, ("validation",), shots=False),
    "mmlu_anatomy": Kind("mmlu/default/mmlu_anatomy.yaml", _mmlu, ("dev", "test")),
    "race": Kind("race/race.yaml", _race, ("train", "test"), override={"training_split": "train"}),
    "sciq": Kind("sciq/sciq.yaml", _sciq, ("train", "validation", "test")),
    "copa": Kind("super_glue/copa/default.yaml", _copa),
    "blimp_adjunct_island": Kind("blimp/adjunct_island.yaml", _blimp, ("train",), shots=False),
    "lambada_openai": Kind("lambada/lambada_openai.yaml", _lambada, ("train", "test"),
                           override={"fewshot_split": "train"}),
    "wikitext": Kind("wikitext/wikitext.yaml", _wikitext, ("train", "validation", "test"), shots=False),
    "gsm8k": Kind("gsm8k/gsm8k.yaml", _gsm8k, ("train", "test"), override=_short("Question:", "</s>", "<|im_end|>")),
    "triviaqa": Kind("triviaqa/default.yaml", _trivia, override=_short("\n", ".", ",")),
    "nq_open": Kind("nq_open/nq_open.yaml", _natural, override=_short("\n", ".", ",")),
    # few-shot examples that stand in the file and are the same for all documents
    "hellaswag_first_n": Kind("hellaswag/hellaswag.yaml", _hellaswag, override=FIRST),
    "gsm8k_first_n": Kind("gsm8k/gsm8k.yaml", _gsm8k, ("train", "test"),
                          override=_short("Question:", "</s>", "<|im_end|>") | FIRST),
}  # fmt: skip


def made(folder: Path, *, documents: int, seed: int = 0) -> Path:
    """Write all KINDS with this many documents in the evaluated split, 12 in the others; returns the folder of YAMLs.

    A task is called `made_` and its kind.
    """
    tasks, data = folder / "tasks", folder / "data"
    tasks.mkdir(parents=True, exist_ok=True)
    data.mkdir(exist_ok=True)
    for name, kind in KINDS.items():
        rng = random.Random(f"{seed} {name}")
        files = {}
        for split in kind.splits:
            count = documents if split == kind.splits[-1] else 12
            lines = [json.dumps(kind.document(rng)) for _ in range(count)]
            files[split] = str((data / f"{name}_{split}.jsonl").resolve())
            Path(files[split]).write_text("\n".join(lines) + "\n", encoding="utf-8")
        config = {"include": str(SHIPPED / kind.shipped), "task": f"made_{name}", "task_alias": f"made_{name}",
                  "tag": [], "dataset_path": "json", "dataset_name": None,
                  "dataset_kwargs": {"data_files": files}, **kind.override}  # fmt: skip
        (tasks / f"made_{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return tasks


def cut(source: Path, folder: Path, *, documents: int) -> Path:
    """The tasks of `source` (YAMLs with one JSON file each, beside them) with their first documents only."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.glob("*.yaml")):
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "dataset_kwargs" not in config:
            continue
        ((split, file),) = config["dataset_kwargs"]["data_files"].items()
        lines = (source / Path(file).name).read_text(encoding="utf-8").splitlines()[:documents]
        new = folder.resolve() / Path(file).name
        new.write_text("\n".join(lines) + "\n", encoding="utf-8")
        config["dataset_kwargs"]["data_files"] = {split: str(new)}
        (folder / path.name).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return folder


def names(folder: Path) -> list[str]:
    """The tasks that the YAMLs of a folder define."""
    configs = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.yaml"))]
    return [config["task"] for config in configs if isinstance(config.get("task"), str)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", type=int, default=24)
    given = parser.parse_args()
    print(made(given.folder, documents=given.documents))
