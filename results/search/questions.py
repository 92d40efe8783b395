"""What the benchmark families are asked: skills of one kind (a prompt, then the exact answer), all text drawn by seed.

The five main skills are of graded difficulty, so that a base that saw all of them is good at some and poor at others.
The irrelevant ones are for distractors: sources that know something that nobody asks for.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tasks" / "demo"))
from skills import DIGITS, LETTERS, Document  # noqa: E402

Skill = Callable[[random.Random], Document]


def word(rng: random.Random, shortest: int, longest: int) -> str:
    return "".join(rng.choice(LETTERS) for _ in range(rng.randint(shortest, longest)))


def reverse(rng: random.Random) -> Document:
    """Four to eight letters backwards: `r:abcd=` -> `dcba`."""
    letters = word(rng, 4, 8)
    return Document(f"r:{letters}=", letters[::-1])


def sort(rng: random.Random) -> Document:
    """Five to nine letters in the order of the alphabet: `s:dacab=` -> `aabcd`."""
    letters = word(rng, 5, 9)
    return Document(f"s:{letters}=", "".join(sorted(letters)))


def shift(rng: random.Random) -> Document:
    """Four to seven letters on by one to three places, round the end: `c:2abtk=` -> `cdbm`."""
    letters, places = word(rng, 4, 7), rng.randint(1, 3)
    moved = (LETTERS[(LETTERS.index(letter) + places) % len(LETTERS)] for letter in letters)
    return Document(f"c:{places}{letters}=", "".join(moved))


def pick(rng: random.Random) -> Document:
    """The letter at a place among six to nine: `p:2fbdaces=` -> `b`."""
    letters, place = word(rng, 6, 9), rng.randint(1, 6)
    return Document(f"p:{place}{letters}=", letters[place - 1])


def recall(rng: random.Random) -> Document:
    """The three digits that stand beside one of three letters: `k:a417,c003,t889?c=` -> `003`."""
    names = rng.sample(LETTERS, 3)
    values = ["".join(rng.choice(DIGITS) for _ in range(3)) for _ in names]
    asked = rng.randrange(3)
    pairs = ",".join(name + value for name, value in zip(names, values, strict=True))
    return Document(f"k:{pairs}?{names[asked]}=", values[asked])


def double(rng: random.Random) -> Document:
    """Every letter twice: `d:abc=` -> `aabbcc`."""
    letters = word(rng, 4, 6)
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
    """The larger of two three-digit numbers: `m:120,803=` -> `803`."""
    first, second = rng.sample(range(100, 1000), 2)
    return Document(f"m:{first},{second}=", str(max(first, second)))


MAIN: Mapping[str, Skill] = {"reverse": reverse, "sort": sort, "shift": shift, "pick": pick, "recall": recall}
IRRELEVANT: Mapping[str, Skill] = {"double": double, "rotate": rotate, "alternate": alternate, "larger": larger}
SKILLS: Mapping[str, Skill] = {**MAIN, **IRRELEVANT}


def distinct(skill: str, count: int, seed: int, excluded: frozenset[str] = frozenset()) -> list[Document]:
    """`count` documents of a skill, no two with one prompt, none with an excluded one."""
    rng = random.Random(f"{skill} {seed}")
    found: dict[str, Document] = {}
    while len(found) < count:
        document = SKILLS[skill](rng)
        if document.prompt not in excluded:
            found.setdefault(document.prompt, document)
    return list(found.values())


class Lessons:
    """Endless training documents of a mixture of skills, never one that is asked later."""

    def __init__(self, mixture: Mapping[str, float], seed: int, excluded: frozenset[str]) -> None:
        self._rng = random.Random(f"lessons {seed}")
        self._names, self._shares = list(mixture), list(mixture.values())
        self._excluded = excluded

    def __iter__(self) -> Iterator[Document]:
        while True:
            (name,) = self._rng.choices(self._names, self._shares)
            document = SKILLS[name](self._rng)
            if document.prompt not in self._excluded:
                yield document

    def batch(self, size: int) -> list[Document]:
        documents = iter(self)
        return [next(documents) for _ in range(size)]
