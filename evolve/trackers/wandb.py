"""Weights & Biases. Its own variables say where the run goes: WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY, WANDB_API_KEY.

Only what is handed over here is shown, beside what the library tells of the machine by itself: neither the terminal's
output nor code or the state of a repository.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from evolve.trackers.tracker import Opening
from evolve.watching.progress import Outcome

PROJECT = "merge-evolve"
STEP = "candidate"  # the axis; the library's own step may not go back, and candidates end in any order
ONLINE = ("online", "run", "shared")


def lacking() -> str:
    """On a terminal the library would ask for a key, and wait for it."""
    import wandb

    if os.environ.get("WANDB_MODE", "online") not in ONLINE:
        return ""
    try:
        known = wandb.login(prompt=False, verify=False)
    except TypeError:  # before it had these
        known = bool(wandb.api.api_key)
    if known:
        return ""
    return "there is no key; set WANDB_API_KEY, use `wandb login`, or set WANDB_MODE=offline"


class WeightsAndBiases:
    def __init__(self, opening: Opening) -> None:
        import wandb

        folder = Path(os.environ.get("WANDB_DIR") or opening.folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.run = opening.run or os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:12]
        self._name = opening.name
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=os.environ.get("WANDB_NAME") or opening.name,
            id=self.run,
            resume="allow",
            dir=str(folder),
            config=dict(opening.parameters),
            settings=wandb.Settings(
                console="off", silent=True, disable_git=True, disable_code=True, save_code=False, program="evolve run"
            ),
        )
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)

    def log(self, step: int, metrics: Mapping[str, float], at: float) -> None:
        self._run.log({STEP: step, **metrics})

    def sum_up(self, headline: str, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        import wandb

        self._run.summary.update({"verdict": headline, **metrics})
        artifact = wandb.Artifact(f"{self._name}-result", type="result")
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def close(self, outcome: Outcome) -> None:
        self._run.finish(exit_code={"finished": 0, "interrupted": 130, "failed": 1}[outcome])
