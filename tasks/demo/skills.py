"""The five skills of the demo family: generators of documents, one character per token.

A document is a prompt and its answer; multiple-choice skills also carry the choices. All text is drawn from a seeded
generator: no data of others is in it. The held-out documents (`heldout`) are what the lm-eval tasks ask; training
draws (`Stream`) skip every prompt among them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

LETTERS = "abcdefghijklmnopqrst"
DIGITS = "0123456789"

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
VOCABULARY: tuple[str, ...] = (PAD, BOS, EOS, UNKNOWN, *"abcdefghijklmnopqrstuvwxyz", *DIGITS, *"=,+?:;")
"""Every token of the tokenizer, in the order of their ids: the special ones, then one per character."""

HELDOUT_SEED = 20260
HELDOUT_DOCUMENTS = 2000


@dataclass(frozen=True)
class Document:
    """One question. `choices` is empty where the answer is to be generated; else it holds the answer once."""

    prompt: str
    answer: str
    choices: tuple[str, ...] = ()


def _word(rng: random.Random, shortest: int, longest: int) -> str:
    return "".join(rng.choice(LETTERS) for _ in range(rng.randint(shortest, longest)))


def reverse(rng: random.Random) -> Document:
    """Write four to eight letters backwards: `r:abcd=` -> `dcba`."""
    word = _word(rng, 4, 8)
    return Document(f"r:{word}=", word[::-1])


def sort(rng: random.Random) -> Document:
    """Write five to nine letters in the order of the alphabet: `s:dacab=` -> `aabcd`."""
    word = _word(rng, 5, 9)
    return Document(f"s:{word}=", "".join(sorted(word)))


def shift(rng: random.Random) -> Document:
    """Move four to seven letters on by one to three places, round the end: `c:2abt=` -> `cdb`."""
    word = _word(rng, 4, 7)
    places = rng.randint(1, 3)
    moved = (LETTERS[(LETTERS.index(letter) + places) % len(LETTERS)] for letter in word)
    return Document(f"c:{places}{word}=", "".join(moved))


def pick(rng: random.Random) -> Document:
    """Choose the letter at a place among six to nine different ones: `p:2fbdace=` -> `b`; five choices."""
    letters = rng.sample(LETTERS, rng.randint(6, 9))
    place = rng.randint(1, 6)
    answer = letters[place - 1]
    choices = [*rng.sample([letter for letter in letters if letter != answer], 4), answer]
    rng.shuffle(choices)
    return Document(f"p:{place}{''.join(letters)}=", answer, tuple(choices))


def second(rng: random.Random) -> Document:
    """Choose the second largest of four two-digit numbers: `m:12,80,35,47=` -> `47`; the four are the choices."""
    numbers = rng.sample(range(10, 100), 4)
    choices = tuple(str(number) for number in numbers)
    return Document(f"m:{','.join(choices)}=", str(sorted(numbers)[-2]), choices)


SKILLS: Mapping[str, Callable[[random.Random], Document]] = {
    "reverse": reverse,
    "sort": sort,
    "shift": shift,
    "pick": pick,
    "second": second,
}


def heldout(skill: str, count: int = HELDOUT_DOCUMENTS) -> tuple[Document, ...]:
    """The `count` documents of a skill that its lm-eval task asks, no two with the same prompt."""
    rng = random.Random(f"{skill} {HELDOUT_SEED}")
    documents: dict[str, Document] = {}
    while len(documents) < count:
        document = SKILLS[skill](rng)
        documents.setdefault(document.prompt, document)
    return tuple(documents.values())


class Stream:
    """Endless training documents of a mixture of skills, never one whose prompt is held out."""

    def __init__(self, mixture: Mapping[str, float], seed: int) -> None:
        """`mixture` gives each skill's share (any positive scale); the same `seed` gives the same documents."""
        self._rng = random.Random(seed)
        self._names = list(mixture)
        self._shares = list(mixture.values())
        self._excluded = frozenset(document.prompt for skill in mixture for document in heldout(skill))

    def __iter__(self) -> Iterator[Document]:
        while True:
            (name,) = self._rng.choices(self._names, self._shares)
            document = SKILLS[name](self._rng)
            if document.prompt not in self._excluded:
                yield document

    def batch(self, size: int) -> list[Document]:
        """The next `size` documents."""
        documents = iter(self)
        return [next(documents) for _ in range(size)]
