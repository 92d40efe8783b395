"""Jobs go out in their order, those of lost workers first, and are given up when it is the job's doing."""

from __future__ import annotations

import pytest

from evolve.trial import Job
from evolve.workers.dispatch import MACHINES, Dispatch, Loss, Try

ONE, TWO = (Job(key, "search") for key in ("one", "two"))


def next_of(dispatch: Dispatch) -> Try:
    tried = dispatch.next()
    assert tried is not None
    return tried


def test_what_was_lost_goes_before_what_is_new() -> None:
    dispatch = Dispatch([ONE, TWO], None)
    first = next_of(dispatch)
    assert dispatch.lost(first, "died") is None
    assert next_of(dispatch) == Try(ONE, ("died",))
    assert next_of(dispatch) == Try(TWO)
    assert dispatch.more
    assert dispatch.next() is None
    assert not dispatch.more


@pytest.mark.parametrize(
    ("losses", "kind"),
    [
        (("died", "died"), "worker died"),
        (("memory", "memory"), "memory"),
        (("died", "memory"), "memory"),
        (("time", "time"), "time"),
        (("machine", "died", "machine", "died"), "worker died"),
        (("machine",) * MACHINES, "machine lost"),
    ],
)
def test_a_job_is_given_up_at_its_second_loss_but_not_for_lost_machines(losses: tuple[Loss, ...], kind: str) -> None:
    dispatch = Dispatch([ONE], 2.5)
    for loss in losses[:-1]:
        assert dispatch.lost(next_of(dispatch), loss) is None
    failure = dispatch.lost(next_of(dispatch), losses[-1])
    assert failure is not None
    assert failure.kind == kind
    assert not dispatch.next()


def test_only_want_of_memory_makes_batches_smaller() -> None:
    assert Try(ONE, ("memory", "machine")).smaller
    assert not Try(ONE, ("died", "time", "machine")).smaller


def test_after_a_stop_nothing_is_begun() -> None:
    dispatch = Dispatch([ONE, TWO], None)
    dispatch.lost(next_of(dispatch), "died")
    dispatch.stop()
    assert not dispatch.more
    assert dispatch.next() is None
