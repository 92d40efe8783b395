"""The split: disjoint, stable, and blind to copies and to the order of the file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.documents import DocumentSets, canonical, check_disjoint, shuffled_ids, split
from tasks.errors import TaskError, TooFewDocuments
from tasks.spec import Sizes

documents = st.lists(st.text(max_size=4), min_size=1, max_size=60)
seeds = st.integers(0, 5)


def sizes_within(count: int, draw: st.DataObject) -> Sizes:
    search = draw.draw(st.integers(0, count))
    selection = draw.draw(st.integers(0, count - search))
    return Sizes(search, selection, draw.draw(st.integers(0, count - search - selection)))


@given(documents, seeds, st.integers(0, 3), st.data())
def test_sets_are_disjoint_of_the_asked_sizes_and_hold_no_copies(
    contents: list[str], seed: int, fewshot: int, draw: st.DataObject
) -> None:
    ids = shuffled_ids(contents, seed=seed, task="t")
    reserve = fewshot + 1 if fewshot else 0
    sizes = sizes_within(max(0, len(ids) - reserve), draw)
    if sizes.total + reserve > len(ids):
        return
    sets = split(ids, sizes, fewshot=fewshot, task="t")
    taken = [*sets.search, *sets.selection, *sets.report, *sets.fewshot]
    assert len({contents[identity] for identity in taken}) == len(taken)
    assert (len(sets.search), len(sets.selection), len(sets.report)) == (
        sizes.search,
        sizes.selection,
        sizes.report,
    )
    assert len(sets.fewshot) >= reserve
    assert bool(sets.fewshot) == bool(fewshot)
    for each in (sets.search, sets.selection, sets.report, sets.fewshot):
        assert list(each) == sorted(each)


@given(documents, seeds, st.randoms(use_true_random=False))
def test_the_order_of_the_file_does_not_matter(contents: list[str], seed: int, random: st.DataObject) -> None:
    shuffled = list(contents)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    before = [contents[identity] for identity in shuffled_ids(contents, seed=seed, task="t")]
    after = [shuffled[identity] for identity in shuffled_ids(shuffled, seed=seed, task="t")]
    assert before == after


def test_seed_and_task_change_the_order() -> None:
    contents = [str(number) for number in range(50)]
    orders = [shuffled_ids(contents, seed=seed, task=task) for seed in (0, 1) for task in "ab"]
    assert len({tuple(order) for order in orders}) == 4
    assert shuffled_ids(contents, seed=0, task="a") == orders[0]


def test_excluded_documents_are_in_no_set() -> None:
    assert sorted(shuffled_ids(["a", "b", "a", "c"], seed=0, task="t", excluded=["a", "x"])) == [1, 3]


def test_fields_in_another_order_are_the_same_document() -> None:
    assert canonical({"a": 1, "b": [2]}) == canonical({"b": [2], "a": 1})


def test_too_few_documents_says_how_many() -> None:
    with pytest.raises(TooFewDocuments, match=r"5 distinct documents in split 'test', 9 needed \(2 search \+ 2"):
        split(range(5), Sizes(2, 2, 2), fewshot=2, task="t", note=" in split 'test'")


def test_one_document_in_two_sets_is_refused_whatever_the_task() -> None:
    first = DocumentSets(search=(0,), selection=(1,), report=(2,))
    documents = [{"q": "a"}, {"q": "b"}, {"q": "c"}]
    check_disjoint({"one": (documents, first)})
    same = [{"q": "a"}, {"q": "x"}, {"q": "y"}]
    check_disjoint({"one": (documents, first), "two": (same, first)})
    with pytest.raises(TaskError, match=r"task 'two': document 2 is in the report set, and the same document is in the "
                                        r"search set \(task 'one', document 0\)"):  # fmt: skip
        check_disjoint({"one": (documents, first), "two": ([{"q": "x"}, {"q": "y"}, {"q": "a"}], first)})
    with pytest.raises(TaskError, match="document 1 is in the selection set"):
        check_disjoint({"one": ([{"q": "a"}, {"q": "a"}], DocumentSets(search=(0,), selection=(1,)))})
