"""Which documents a task's three sets hold: disjoint, and the same for the same seed.

Documents are ordered by a hash of the seed, the task's name and the document's own contents. The order
therefore does not depend on where a document stands in its file, and copies of one document hash alike:
only the first copy is eligible, so no document can be searched on in one set and reported on in another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.errors import TaskError, TooFewDocuments
from tasks.spec import SETS, SetName, Sizes

Document = Mapping[str, Any]
FEWSHOT_POOL = 4  # documents reserved per few-shot example, where the data set has as many to spare


@dataclass(frozen=True)
class DocumentSets:
    """Ids (positions in the evaluated split) of each set, ascending; `fewshot`: reserved for examples.

    `all` is every document that is asked where nothing is split; the other sets are empty then.
    """

    search: tuple[int, ...] = ()
    selection: tuple[int, ...] = ()
    report: tuple[int, ...] = ()
    fewshot: tuple[int, ...] = ()
    all: tuple[int, ...] = ()

    def ids(self, which: SetName) -> tuple[int, ...]:
        sets = {"search": self.search, "selection": self.selection, "report": self.report, "all": self.all}
        return sets[which]


def canonical(document: Document) -> str:
    """The document as JSON with sorted keys: equal for equal contents, whatever the order of its fields."""
    return json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=repr)


def shuffled_ids(contents: Sequence[str], *, seed: int, task: str, excluded: Sequence[str] = ()) -> list[int]:
    """Ids of distinct documents in the seed's order: sha256 over (seed, task, contents), ties by id.

    `contents` are canonical documents in the data set's order; those in `excluded` are left out.
    """
    first: dict[str, int] = {}
    for position, content in enumerate(contents):
        first.setdefault(content, position)
    for content in excluded:
        first.pop(content, None)
    keys = {
        position: hashlib.sha256(json.dumps([seed, task, content]).encode()).digest()
        for content, position in first.items()
    }
    return sorted(keys, key=lambda position: (keys[position], position))


def split(ids: Sequence[int], sizes: Sizes, *, fewshot: int, task: str, note: str = "") -> DocumentSets:
    """Cut shuffled ids into the three sets, in their order, and few-shot reserves from the far end.

    `fewshot` is the number of examples in a prompt if they must come from these documents, else 0: at least
    one more than that is reserved (lm-eval draws one in excess), up to FEWSHOT_POOL times as many where
    there are documents to spare. Raises TooFewDocuments with what is needed and what is there; `note` is
    added to it.
    """
    reserve = fewshot + 1 if fewshot else 0
    needed = sizes.total + reserve
    if needed > len(ids):
        parts = f"{sizes.search} search + {sizes.selection} selection + {sizes.report} report"
        parts += f" + {reserve} few-shot" if reserve else ""
        raise TooFewDocuments(
            f"task {task!r}: {len(ids)} distinct documents{note}, {needed} needed ({parts}); "
            "ask for fewer documents or add some to the task"
        )
    pool = max(reserve, min(FEWSHOT_POOL * fewshot, len(ids) - sizes.total))
    second, third = sizes.search, sizes.search + sizes.selection
    return DocumentSets(
        search=tuple(sorted(ids[:second])),
        selection=tuple(sorted(ids[second:third])),
        report=tuple(sorted(ids[third : sizes.total])),
        fewshot=tuple(sorted(ids[len(ids) - pool :])),
    )


def check_disjoint(tasks: Mapping[str, tuple[Sequence[Document], DocumentSets]]) -> None:
    """Raise TaskError if a document, known by its contents, stands in two of the three sets, whatever the task.

    Tasks may share documents that are in the same set of each.
    """
    seen: dict[str, tuple[SetName, str, int]] = {}
    for task, (documents, sets) in tasks.items():
        for which in SETS:
            for identity in sets.ids(which):
                content = hashlib.sha256(canonical(documents[identity]).encode("utf-8", "surrogatepass")).hexdigest()
                first = seen.setdefault(content, (which, task, identity))
                if first[0] != which:
                    raise TaskError(
                        f"task {task!r}: document {identity} is in the {which} set, and the same document is in the "
                        f"{first[0]} set (task {first[1]!r}, document {first[2]}), so what is reported would have been "
                        "searched on; give each task documents of its own"
                    )
