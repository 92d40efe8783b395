"""Everything that can be known before the first trial, checked before any long work starts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.companions import named_code
from engine.nonfinite import nonfinite
from engine.plan import Plan, plan
from evolve.config.search_yaml import SearchConfig
from evolve.errors import ModelError, RunError
from evolve.preparation.belonging import check_storage
from evolve.preparation.cautions import cautions
from evolve.preparation.setting import Setting, place_of
from evolve.search.baselines import plain_merges
from evolve.watching.tracking import check_trackers
from evolve.workers.resident import check_base
from evolve.workers.sizing import Workers, local_workers
from tasks.functions import code_files

SPARE_DISK = 64 * 2**20  # for the ledger, the report and the scores


@dataclass(frozen=True)
class Findings:
    """What `evolve check` prints."""

    setting: Setting
    plan: Plan
    workers: Workers | None  # None: a cluster decides


def preflight(
    config: SearchConfig, say: Callable[[str], None] = lambda _: None, threads: int | None = None
) -> Findings:
    """Opens everything and plans a merge; `threads` of a worker on this machine (None: to be chosen). Raises the error
    of the first thing that is wrong."""
    check_trackers(config.run.trackers)
    check_storage(config)
    setting = Setting(config)
    setting.population  # noqa: B018  (an unknown optimizer is found before models are opened)
    say(f"models: {len(setting.checkpoints)}, {setting.family.layers} layers, {setting.base_dtype}")
    space = setting.space
    say(f"space: {len(space.genes)} genes, {setting.population} candidates a generation")
    for recipe in plain_merges(setting.family).values():
        planned = plan(recipe, setting.checkpoints)
    for point in space.start:
        plan(space.decode(point), setting.checkpoints)
    check_disk(config, planned)
    for line in code_of(setting):
        say(line)
    check_base(setting.base, config.run.trust_remote_code)
    workers = local_workers(setting, threads) if config.run.address == "local" else None
    setting.objective  # noqa: B018  (a task without right answers is refused where they are needed)
    setting.prepared.digest  # noqa: B018  (a document of any set that cannot be asked is found now)
    documents = setting.prepared.documents
    for task, sets in documents.items():
        say(f"task {task}: {len(sets.search)} search, {len(sets.selection)} selection, {len(sets.report)} report")
    for caution in cautions(setting, workers):
        say(f"warning: {caution}")
    return Findings(setting, planned, workers)


def code_of(setting: Setting) -> Iterator[str]:
    """What will be run that came with the models or the tasks, before any of it is."""
    if setting.config.run.trust_remote_code and (code := named_code(setting.base.folder)):
        yield f"runs code of models.base ({setting.base.reference}), as run.trust_remote_code says: {'; '.join(code)}"
    for folder in setting.config.score.include:
        if files := code_files(Path(folder)):
            yield f"runs code of the tasks in score.include ({folder}): {', '.join(map(str, files))}"


def check_weights(setting: Setting) -> None:
    """Reads every weight once. Raises ModelError for NaN and infinite ones."""
    for index, (reference, checkpoint) in enumerate(setting.checkpoints.items()):
        name = nonfinite(checkpoint)
        if name is not None:
            raise ModelError(
                f"{place_of(index)} ({reference}): {name} has NaN or infinite weights; download or train it again"
            )


def check_disk(config: SearchConfig, planned: Plan) -> None:
    """Raises RunError where the merged checkpoint would not fit."""
    folder = existing(config.folder)
    needed = planned.write_bytes + SPARE_DISK
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunError(
            f"run.output ({config.folder}): {free / 2**20:.0f} MiB are free, the merged checkpoint needs "
            f"{needed / 2**20:.0f}; free space or name another folder"
        )


def existing(folder: Path) -> Path:
    """The folder, or its nearest parent that is there."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
