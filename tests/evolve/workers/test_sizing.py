"""Workers are as many as cores and memory bear, and never fewer than one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evolve.config.search_yaml import SearchConfig
from evolve.environment import usable_cores, usable_memory
from evolve.preparation.setting import DTYPES, Setting
from evolve.workers import control_group
from evolve.workers import sizing as workers
from evolve.workers.sizing import (
    DRIVER_BYTES,
    PROCESS_BYTES,
    Node,
    Workers,
    bears,
    gpu_share,
    local_workers,
    spread_kinds,
    spread_workers,
    worker_bytes,
)
from tasks.generation import PROMPTS

DEMO = Path(__file__).parents[3] / "tasks" / "demo"
METRICS = {"demo_pick": "acc", "demo_sort": "exact_match"}


def setting(**changes: Any) -> Setting:
    data: dict[str, Any] = {
        "name": "run",
        "models": {"base": str(DEMO / "models" / "base"), "sources": [str(DEMO / "models" / "sort")]},
        "score": {
            "tasks": [{"task": task, "metric": METRICS[task]} for task in changes.pop("tasks", ["demo_pick"])],
            "include": [str(DEMO)],
            "documents": {"search": 4, "selection": 4, "report": 4},
            "batch_tokens": changes.pop("batch_tokens", 2048),
        },
        "search": {"gradients": changes.pop("gradients", False)},
        "run": changes,
    }
    return Setting(SearchConfig.model_validate(data))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    def of(cores: int, memory: int, gpus: int = 0) -> None:
        monkeypatch.setattr(workers, "usable_cores", lambda: cores)
        monkeypatch.setattr(workers, "usable_memory", lambda: memory)
        monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)

    return of


def test_threads_that_are_asked_for_are_followed(machine: Any) -> None:
    machine(8, 2**40)
    for asked, counts in ((1, (8, 2)), (3, (2, 2)), (16, (1, 2))):
        auto, two = local_workers(setting(), asked), local_workers(setting(workers=2), asked)
        assert (auto.threads, two.threads) == (asked, asked)
        assert (auto.count, two.count) == counts
    assert local_workers(setting(), 3).text == "2 workers with 3 threads each"
    assert local_workers(setting(), 16).text == "1 worker with 16 threads"
    assert Workers(2, 1, 0, 0).text == "2 workers with 1 thread each"


def test_a_worker_needs_its_process_and_more_for_larger_batches() -> None:
    small, large = worker_bytes(setting()), worker_bytes(setting(batch_tokens=16384))
    assert PROCESS_BYTES < small < large < 2 * PROCESS_BYTES


def test_the_way_back_of_a_gradient_is_held_as_well() -> None:
    without, climbing = worker_bytes(setting()), worker_bytes(setting(gradients=True))
    assert without < climbing < 2 * without
    assert worker_bytes(setting(gradients=True, batch_tokens=4096)) > climbing


def test_what_is_generated_from_is_held_at_once() -> None:
    chosen, written = (setting(tasks=tasks) for tasks in (["demo_pick"], ["demo_pick", "demo_sort"]))
    config = chosen.base.config
    width = config["hidden_size"] // config["num_attention_heads"] * config["num_key_value_heads"]
    a_token = 2 * config["num_hidden_layers"] * width * DTYPES[chosen.score_dtype].itemsize
    assert worker_bytes(written) - worker_bytes(chosen) == PROMPTS * 2048 * a_token > 0


def test_auto_is_a_worker_a_core_where_memory_bears_it(machine: Any) -> None:
    memory = worker_bytes(setting())
    machine(cores=8, memory=100 * memory)
    assert (local_workers(setting()).count, local_workers(setting()).threads) == (8, 1)
    machine(cores=8, memory=DRIVER_BYTES + 3 * memory)
    assert (local_workers(setting()).count, local_workers(setting()).threads) == (3, 2)
    for little in (0, -5, DRIVER_BYTES):
        machine(cores=8, memory=little)
        assert (local_workers(setting()).count, local_workers(setting()).threads) == (1, 8)
    machine(cores=1, memory=100 * memory)
    assert local_workers(setting()).count == 1


def test_a_number_that_the_user_gave_is_kept(machine: Any) -> None:
    machine(cores=4, memory=0)
    assert (local_workers(setting(workers=2)).count, local_workers(setting(workers=2)).threads) == (2, 2)
    assert (local_workers(setting(workers=9)).count, local_workers(setting(workers=9)).threads) == (9, 1)


def test_a_worker_a_gpu(machine: Any) -> None:
    machine(cores=16, memory=0, gpus=4)
    assert (local_workers(setting()).count, local_workers(setting()).threads, local_workers(setting()).gpus) == (
        4,
        4,
        1,
    )
    assert local_workers(setting(workers=8)).gpus == 0.5
    assert local_workers(setting(workers=2)).gpus == 1
    assert local_workers(setting(workers=5)).gpus == 0.5  # 4 / 5 of a GPU would fit on each only once


@pytest.mark.parametrize("workers", [1, 2, 3, 6, 7, 9, 11, 10_000, 20_001])
def test_a_gpu_bears_the_workers_that_share_it(workers: int) -> None:
    share = gpu_share(workers)
    assert 0 < share <= 1
    assert round(share * 10_000, 6).is_integer()  # Ray's precision
    assert round(share * 10_000) * min(workers, 10_000) <= 10_000


HEAD = Node(cores=32, gpus=0, memory=64)


@pytest.mark.parametrize(
    ("nodes", "wanted", "expected"),
    [
        ([HEAD, Node(8, 1, 16)], None, (1, 8, 1)),
        ([HEAD, Node(8, 1, 16)], 3, (3, 2, 0.3333)),
        ([HEAD, Node(8, 2, 16), Node(32, 4, 64)], None, (6, 4, 1)),
        ([HEAD, Node(8, 2, 16), Node(32, 4, 64)], 4, (4, 8, 1)),
        ([Node(16, 2, 64)], 3, (3, 5, 0.5)),
        ([Node(2, 4, 64)], None, (2, 1, 1)),  # a worker takes a core
        ([Node(8, 4, 2)], None, (2, 4, 1)),  # and memory
        ([Node(4, 0, 9), Node(4, 0, 9)], None, (8, 1, 0)),
        ([Node(4, 0, 3), Node(8, 0, 2)], None, (5, 1, 0)),
        ([Node(4, 0, 9), Node(4, 0, 9)], 1, (1, 4, 0)),
        ([Node(4, 0, 9), Node(4, 0, 9)], 2, (2, 4, 0)),
        ([Node(4, 0, 9), Node(4, 0, 9)], 3, (3, 2, 0)),
        ([Node(4, 0, 9), Node(4, 0, 9)], 20, (20, 1, 0)),
        ([Node(8, 0, 2), Node(0, 0, 99)], 4, (4, 4, 0)),  # two can be placed
        ([Node(8, 0, 0)], None, (1, 1, 0)),
        ([Node(8, 0, 0)], 4, (4, 1, 0)),
        ([], None, (1, 1, 0)),
    ],
)
def test_a_cluster_can_place_its_workers(
    nodes: list[Node], wanted: int | None, expected: tuple[int, int, float]
) -> None:
    assert spread_workers(nodes, wanted, memory=1) == Workers(*expected, memory=1)


def test_cpu_workers_beside_those_with_a_gpu() -> None:
    nodes = [HEAD, Node(8, 2, 16), Node(4, 0, 2), Node(4, 0, 0)]
    gpu, cpu = Workers(2, 4, 1, 1), Workers(34, 1, 0, 1)
    assert spread_kinds(nodes, None, 1, cpus=False) == (gpu,)
    assert spread_kinds(nodes, None, 1, cpus=True) == (gpu, cpu)
    assert spread_kinds(nodes, 4, 1, cpus=True) == (Workers(4, 2, 0.5, 1), cpu)
    assert spread_kinds([Node(8, 2, 16), Node(4, 0, 0)], None, 1, cpus=True) == (gpu,)  # no memory beside
    assert spread_kinds([HEAD], None, 1, cpus=True) == (Workers(32, 1, 0, 1),)


@pytest.mark.parametrize(
    "nodes",
    [
        [HEAD, Node(8, 2, 16), Node(32, 4, 64)],
        [Node(2, 4, 64)],
        [Node(8, 4, 2)],
        [Node(4, 0, 3), Node(8, 0, 2)],
    ],
)
def test_machines_bear_together_what_was_spread_over_them(nodes: list[Node]) -> None:
    for kinds in (spread_kinds(nodes, None, 1, cpus=cpus) for cpus in (False, True)):
        for kind in kinds:
            assert sum(bears(node, kind, bool(kinds[0].gpus)) for node in nodes) == kind.count


def test_what_a_machine_bears_by_itself() -> None:
    shared = Workers(6, 2, gpu_share(3), 4)
    assert bears(Node(64, 2, 64), shared, True) == 6  # three on each GPU
    assert bears(Node(8, 2, 64), shared, True) == 4
    assert bears(Node(64, 2, 9), shared, True) == 2
    assert bears(HEAD, shared, True) == 0
    alone = Workers(3, 2, 0, 4)
    assert bears(Node(9, 1, 64), alone, False) == 4
    assert bears(Node(9, 1, 64), alone, True) == 0


def test_this_machine_has_some() -> None:
    assert usable_cores() >= 1
    assert usable_memory() > 0
    assert local_workers(setting()).count >= 1


@pytest.mark.parametrize(
    ("files", "cores", "memory"),
    [
        ({}, None, None),
        ({"cpu.max": "max 100000", "memory.max": "max", "memory.current": "5"}, None, None),
        ({"cpu.max": "250000 100000", "memory.max": "1000", "memory.current": "300"}, 2, 700),
        ({"cpu.max": "50000 100000"}, 1, None),
        (
            {"memory.max": "1000", "memory.current": "900", "memory.stat": "anon 1\ninactive_file 500\n"},
            None,
            600,
        ),
        ({"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}, None, None),
        ({"cpu.cfs_quota_us": "300000", "cpu.cfs_period_us": "100000", "memory.limit_in_bytes": "9"}, 3, None),
    ],
)
def test_limits_of_control_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int | None, memory: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(control_group, "folders", lambda _: iter([tmp_path / "inner", tmp_path]))
    assert control_group.cores() == cores
    assert control_group.memory_left() == memory
