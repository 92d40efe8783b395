"""Restart the PostgreSQL server under a search again and again, and compare with the search that was left alone.

    python results/reliability/database.py                    # from the root: 10 restarts of the demo's search
    python results/reliability/database.py --restarts 2 --trials 12

Every other restart is a crash (`pg_ctl stop -m immediate`), the others end all connections (`-m fast`); the server is
away for 0 to 8 seconds. The moments are drawn with a seed over the run's steps. The run that is left alone keeps its
ledger in SQLite. Needs initdb and pg_ctl, and psycopg2. Writes database.json and database.md beside itself.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

from driver import PATIENCE, SEARCH, begin, configuration, finish, kept, yes  # noqa: E402

AWAY = 8.0  # seconds at most


@dataclass(frozen=True)
class Restart:
    number: int
    stage: str
    step: int
    kind: str
    away: float  # seconds between the server's end and its next start
    trials: int  # recorded when it was up again
    waited: int  # how often the run had said by then that it waits


class Server:
    """A PostgreSQL of its own in `folder`, every commit on the disk."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("initdb") or str(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))[-1])
        self._control, self._data = str(Path(program).with_name("pg_ctl")), folder / "data"
        self._user: dict[str, Any] = {"cwd": "/", "stdout": subprocess.DEVNULL}
        if os.geteuid() == 0:  # the server refuses to run as root
            self._user |= {"user": "nobody", "env": {**os.environ, "HOME": "/tmp"}}
            folder.chmod(0o755)
            shutil.chown(folder, "nobody")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        subprocess.run([program, "-D", self._data, "-U", "me", "--auth=trust"], check=True, **self._user)
        self._options = f"-p {self.port} -k {folder} -c listen_addresses=127.0.0.1"
        self.url = f"postgresql://me@127.0.0.1:{self.port}/postgres"
        self.start()

    def start(self) -> None:
        log = self._data.parent / "log"
        command = [self._control, "-D", self._data, "-w", "-l", log, "-o", self._options, "start"]
        subprocess.run(command, check=True, **self._user)

    def stop(self, how: str) -> None:
        subprocess.run([self._control, "-D", self._data, "-w", "-m", how, "stop"], check=True, **self._user)

    def recorded(self) -> int:
        import psycopg2

        try:
            with psycopg2.connect(self.url) as connection, connection.cursor() as cursor:
                cursor.execute("select count(*) from trials")
                return int(cursor.fetchone()[0])
        except psycopg2.Error:
            return 0


def trials_of(url: str, name: str) -> list[dict[str, Any]]:
    """Without what the clock says."""
    from evolve.storage.ledger import Ledger

    trials = [asdict(trial) for trial in Ledger(url, name, must_exist=True).trials()]
    return [{key: value for key, value in trial.items() if key not in ("seconds", "finished")} for trial in trials]


def disturb(
    path: Path, folder: Path, server: Server, steps: list[tuple[str, int]], numbers: random.Random
) -> tuple[list[Restart], str]:
    process, log = begin(path)
    done: list[Restart] = []
    deadline = time.monotonic() + PATIENCE
    for stage, step in steps:
        while process.poll() is None and time.monotonic() < deadline:
            if (server.recorded() if stage == "search" else kept(folder)) >= step:
                break
            time.sleep(0.05)
        if process.poll() is not None:
            break
        time.sleep(numbers.uniform(0, 1))
        how, away = ("immediate", "fast")[len(done) % 2], numbers.uniform(0, AWAY)
        server.stop(how)
        time.sleep(away)
        server.start()
        waited = log.read_text().count("the storage does not answer")
        done.append(Restart(len(done) + 1, stage, step, how, round(away, 1), server.recorded(), waited))
        print(done[-1], flush=True)
    if process.wait(PATIENCE) != 0:
        sys.exit(f"the run failed:\n{log.read_text()}")
    return done, log.read_text()


def page(facts: dict[str, Any], restarts: list[Restart]) -> str:
    same = facts["same"]
    rows = "".join(
        f"| {each.number} | {each.stage}, after step {each.step} | {each.kind} | {each.away} | {each.trials} "
        f"| {each.waited} |\n"
        for each in restarts
    )
    return f"""# The database restarted {len(restarts)} times

The demo's search ({facts["trials"]} candidates) with its ledger in PostgreSQL, whose server was restarted
{len(restarts)} times while the search was at work, and the same search left alone with its ledger in SQLite. It was
started once and ended by itself; it said {facts["waited"]} times that it waits for the storage.

| compared with the run left alone | the same |
|---|---|
| all trials: ids, points to the last bit, values, recipes | {yes(same["trials"])} |
| every trial recorded once, as Optuna reads it | {yes(same["once"])} |
| best.yaml | {yes(same["winner"])} |
| the checkpoint's weights, byte for byte | {yes(same["checkpoint"])} |

| restart | moment | kind | seconds away | trials recorded | waits so far |
|---:|---|---|---:|---:|---:|
{rows}
`python results/reliability/database.py` makes this page and database.json.
"""


def main() -> None:
    import optuna

    from evolve.storage.storage import with_driver

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    name = yaml.safe_load(SEARCH.read_text(encoding="utf-8"))["name"]
    numbers = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary, tempfile.TemporaryDirectory() as place:
        server = Server(Path(place))
        path = configuration(options.trials, 1, Path(temporary) / "disturbed")
        path.write_text(path.read_text().replace("run:\n", f"run:\n  storage: {server.url}\n"), encoding="utf-8")
        last = min(2, options.restarts // 5)
        steps = [("search", step) for step in sorted(numbers.sample(range(1, options.trials), options.restarts - last))]
        steps += [("finalists", step) for step in range(1, 2 * last, 2)]
        restarts, said = disturb(path, path.parent / name, server, steps, numbers)
        left = configuration(options.trials, 1, Path(temporary) / "alone")
        finish(left)
        folder, alone = path.parent / name, left.parent / name
        study = optuna.load_study(study_name=name, storage=with_driver(server.url))
        trials = trials_of(server.url, name)
        weights = "checkpoint/model.safetensors"
        same = {
            "trials": trials == trials_of(f"sqlite:///{alone / 'study.db'}", name),
            "once": [each.number for each in study.get_trials()] == list(range(len(trials))),
            "winner": (folder / "best.yaml").read_bytes() == (alone / "best.yaml").read_bytes(),
            "checkpoint": (folder / weights).read_bytes() == (alone / weights).read_bytes(),
        }
        server.stop("fast")
    facts = {"trials": options.trials, "seed": options.seed, "same": same}
    facts["waited"] = len(re.findall("the storage does not answer", said))
    print(facts)
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**facts, "restarts": [asdict(each) for each in restarts]}, indent=2)
    (options.out / "database.json").write_text(text + "\n", encoding="utf-8")
    (options.out / "database.md").write_text(page(facts, restarts), encoding="utf-8")
    sys.exit(0 if all(same.values()) and len(restarts) == options.restarts else 1)


if __name__ == "__main__":
    main()
