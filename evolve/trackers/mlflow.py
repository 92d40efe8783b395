"""MLflow, through its client: no global state, no active run of a thread.

Where MLFLOW_TRACKING_URI is set, the run stands there, in the experiment of MLFLOW_EXPERIMENT_NAME. Else it stands in
an SQLite database in the run's folder: `mlflow ui --backend-store-uri sqlite:///.../mlflow.db` shows it. (MLflow's
store of plain files is not kept up by its makers any more.)
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evolve.trackers.tracker import Opening
from evolve.watching.progress import Outcome

EXPERIMENT = "merge-evolve"
LONGEST = 500  # letters of a parameter that every server takes
STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class MLflow:
    def __init__(self, opening: Opening) -> None:
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        opening.folder.mkdir(parents=True, exist_ok=True)
        given = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = MlflowClient(given or f"sqlite:///{opening.folder.absolute() / 'mlflow.db'}")
        found = self._found(opening.run)
        if found is None:
            artifacts = None if given else (opening.folder.absolute() / "artifacts").as_uri()
            self.run = self._begin(opening, artifacts)
        else:
            self.run = found
            self._client.update_run(found, status="RUNNING")

    def log(self, step: int, metrics: Mapping[str, float], at: float) -> None:
        from mlflow.entities import Metric

        batch = [Metric(allowed(name), value, int(at * 1000), step) for name, value in metrics.items()]
        for first in range(0, len(batch), 1000):  # as many as a request takes
            self._client.log_batch(self.run, metrics=batch[first : first + 1000])

    def sum_up(self, headline: str, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        import time

        self.log(0, metrics, time.time())
        self._client.set_tag(self.run, "verdict", headline)
        for file in files:
            self._client.log_artifact(self.run, str(file))

    def close(self, outcome: Outcome) -> None:
        self._client.set_terminated(self.run, STATUS[outcome])

    def _found(self, run: str | None) -> str | None:
        """The run of an earlier start, unless it is gone or stands on another server."""
        from mlflow.exceptions import MlflowException

        if run is None:
            return None
        try:
            info: Any = self._client.get_run(run).info
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run if info.lifecycle_stage == "active" else None

    def _begin(self, opening: Opening, artifacts: str | None) -> str:
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        experiment = self._client.get_experiment_by_name(name)
        held = self._client.create_experiment(name, artifacts) if experiment is None else experiment.experiment_id
        run = str(self._client.create_run(held, run_name=opening.name).info.run_id)
        parameters = [Param(allowed(key), value[:LONGEST]) for key, value in opening.parameters.items()]
        for first in range(0, len(parameters), 100):  # as many as a request takes
            self._client.log_batch(run, params=parameters[first : first + 100])
        return run


def allowed(name: str) -> str:
    """The name in letters that MLflow takes."""
    return re.sub(r"[^\w\-. /]", "_", name)[:250]
