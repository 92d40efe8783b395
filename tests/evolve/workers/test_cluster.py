"""What a cluster is asked for, and told, without starting one."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from evolve.config.search_yaml import SearchConfig
from evolve.workers import cluster
from evolve.workers.sizing import Workers


def config(**run: Any) -> SearchConfig:
    data = {
        "name": "run",
        "models": {"base": "b", "sources": ["s"]},
        "score": {"tasks": [{"task": "t", "metric": "acc"}]},
        "run": run,
    }
    return SearchConfig.model_validate(data)


def test_the_storage_and_its_password_stay_with_the_driver() -> None:
    kept = config(storage="postgresql://me:secret@db/runs", workers=3)
    sent = cluster.shareable(kept)
    assert b"secret" not in pickle.dumps(sent)
    assert sent == config(workers=3)
    assert kept.run.storage is not None


def test_only_machines_that_are_there_count(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 32.0, "memory": 64e9, "node:10.0.0.1": 1.0}},
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0, "memory": 16e9}},
        {"Alive": False, "Resources": {}},
    ]
    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    assert cluster.cluster_kinds(config(), 10**9) == (Workers(1, 8, 1, 10**9),)
    both = (Workers(1, 8, 1, 10**9), Workers(32, 1, 0, 10**9))
    assert cluster.cluster_kinds(config(cpu_workers=True), 10**9) == both
    nodes[1]["Alive"] = False
    for run in ({}, {"cpu_workers": True}):
        assert cluster.cluster_kinds(config(**run), 10**9) == (Workers(32, 1, 0, 10**9),)
    assert cluster.cluster_kinds(config(workers=2), 10**9) == (Workers(2, 16, 0, 10**9),)
