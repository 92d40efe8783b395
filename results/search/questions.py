"""What the benchmark families are asked: the demo's five skills, and skills that nobody asks for, for distractors.

A document is a prompt and one exact answer. All text is drawn by seed. `POOL` of each skill is what runs search and
select on, `FRESH` what they are reported on, `REFERENCE` what the references are found on: disjoint, and none of them
was trained on.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

DEMO = Path(__file__).resolve().parents[2] / "tasks" / "demo"
sys.path.insert(0, str(DEMO))
from skills import LETTERS, SKILLS, Document, Stream  # noqa: E402
from train import BASE, BATCH, FINE_TUNES  # noqa: E402

Skill = Callable[[random.Random], Document]
POOL, FRESH, REFERENCE = 6000, 4004, 1500  # documents a skill; four of the fresh ones are spare (see harness.py)
SEED = 5
MAIN = tuple(SKILLS)


def word(rng: random.Random, shortest: int, longest: int) -> str:
    return "".join(rng.choice(LETTERS) for _ in range(rng.randint(shortest, longest)))


def double(rng: random.Random) -> Document:
    """Every letter twice: `d:abc=` -> `aabbcc`."""
    letters = word(rng, 3, 5)
    return Document(f"d:{letters}=", "".join(letter * 2 for letter in letters))


def rotate(rng: random.Random) -> Document:
    """The first two letters moved to the end: `o:abcdef=` -> `cdefab`."""
    letters = word(rng, 4, 8)
    return Document(f"o:{letters}=", letters[2:] + letters[:2])


def alternate(rng: random.Random) -> Document:
    """Every other letter: `a:abcdef=` -> `ace`."""
    letters = word(rng, 5, 9)
    return Document(f"a:{letters}=", letters[::2])


def larger(rng: random.Random) -> Document:
    """The larger of two three-digit numbers: `l:120,803=` -> `803`."""
    first, second = rng.sample(range(100, 1000), 2)
    return Document(f"l:{first},{second}=", str(max(first, second)))


IRRELEVANT: Mapping[str, Skill] = {"double": double, "rotate": rotate, "alternate": alternate, "larger": larger}


@cache
def trained_on() -> frozenset[str]:
    """Every prompt that the demo's base or one of its fine-tunes was trained on."""
    prompts: set[str] = set()
    for training in (BASE, *FINE_TUNES.values()):
        documents = iter(Stream(training.mixture, training.seed))
        prompts.update(next(documents).prompt for _ in range(training.steps * BATCH))
    return frozenset(prompts)


@cache
def asked(skill: str) -> tuple[Document, ...]:
    """The skill's documents: POOL, then FRESH, then REFERENCE ones, no two with one prompt, none trained on."""
    rng = random.Random(f"{skill} {SEED}")
    found: dict[str, Document] = {}
    while len(found) < POOL + FRESH + REFERENCE:
        document = SKILLS[skill](rng)
        if document.prompt not in trained_on():
            found.setdefault(document.prompt, document)
    return tuple(found.values())


def lessons(skill: str, seed: int) -> Callable[[int], list[Document]]:
    """Endless training documents of an irrelevant skill, in batches."""
    rng = random.Random(f"lessons {skill} {seed}")
    return lambda size: [IRRELEVANT[skill](rng) for _ in range(size)]
