"""The real loop, optimizer and ledger against a thousand simulated workers: what one driver bears.

    python results/scale/simulate.py                                  # from the root: all sizes, half an hour
    python results/scale/simulate.py --sizes 20x10000 200x5000        # genes x trials

Candidates take log-normal times (`--minutes` on average, sigma 0.6); what the driver does between two answers takes its
processor time on the same clock, so that its slowness keeps workers waiting as it would. Utilisation is of the search
after its opening, and of the whole run. Writes simulate.json and simulate.md beside itself, where sizes that are not
run keep their rows if workers, minutes and population are the same.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from simulated import DOCUMENTS, OBJECTIVE, Cluster, noise, space_of  # noqa: E402

from evolve.config.budget import Budget  # noqa: E402
from evolve.config.search_yaml import Search  # noqa: E402
from evolve.optimizers import OPTIMIZERS  # noqa: E402
from evolve.optimizers.optimizer import Problem  # noqa: E402
from evolve.search.draws import Draws  # noqa: E402
from evolve.search.loop import search  # noqa: E402
from evolve.search.study import SEARCH, Study  # noqa: E402
from evolve.storage.ledger import Ledger  # noqa: E402
from evolve.trial import Trial  # noqa: E402

SIZES = ("20x10000", "20x100000", "200x10000", "2000x4000")
SOURCES = {
    20: (5, 3),
    200: (10, 19),
    2000: (20, 99),
}  # genes -> sources, layers; one more for what lies outside of them


class Marks:
    """Notes the clocks as trials end."""

    def __init__(self, cluster: Cluster, every: int) -> None:
        self._cluster, self._every = cluster, every
        self.rows: list[dict[str, float]] = []

    def replayed(self, trials: int, moved: int) -> None: ...

    def decided(self, decision: Any) -> None: ...

    def finished(self, trial: Trial) -> None:
        first = trial.origin == SEARCH and not any(row["searching"] for row in self.rows)
        if first or trial.id % self._every == 0:
            cluster = self._cluster
            self.rows.append(
                {
                    "trials": trial.id,
                    "searching": trial.origin == SEARCH,
                    "clock": cluster.clock,
                    "busy": cluster.busy,
                    "driver": cluster.driver,
                    "answers": cluster.answers,
                    "memory": memory(),
                }
            )


def memory() -> float:
    """Resident MiB of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def simulated(genes: int, trials: int, arguments: argparse.Namespace) -> dict[str, Any]:
    space, row = space_of(*SOURCES[genes]), OPTIMIZERS["cma"]
    cluster = Cluster(arguments.workers, arguments.minutes, 0.6, noise)
    marks = Marks(cluster, max(1, trials // 20))
    before, wall = memory(), time.perf_counter()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        ledger = Ledger(f"sqlite:///{folder}/study.db", "run")
        budget = Budget.of(Search(trials=trials), [], [])
        study = Study(space, cluster, ledger, budget, OBJECTIVE, Draws(DOCUMENTS, 0), watcher=marks, check=lambda: None)
        problem = Problem(space.genes, (), 0, arguments.population, grow=True)
        search(study, row.make, problem, steady=row.steady)
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        ledger.close()
    return {
        "genes": len(space.genes),
        "trials": trials,
        "workers": arguments.workers,
        "minutes": arguments.minutes,
        "population": arguments.population,
        "ledger": size,
        "before": before,
        "wall": time.perf_counter() - wall,
        "marks": marks.rows,
        "end": {"clock": cluster.clock, "busy": cluster.busy, "driver": cluster.driver, "answers": cluster.answers},
    }


def circumstances(found: dict[str, Any]) -> tuple[Any, ...]:
    """What one table's rows have in common."""
    return tuple(found.get(name) for name in ("workers", "minutes", "population"))


def size_of(found: dict[str, Any]) -> tuple[int, int]:
    return found["genes"], found["trials"]


def row_of(found: dict[str, Any]) -> str:
    """Utilisation is counted to where the last candidate was begun: no search can fill its last minutes."""
    marks, end = found["marks"], found["end"]
    begin = next(mark for mark in marks if mark["searching"])
    last = marks[-2] if len(marks) > 2 else marks[-1]  # before the workers run dry

    def share(first: dict[str, float], second: dict[str, float]) -> float:
        return (second["busy"] - first["busy"]) / (found["workers"] * (second["clock"] - first["clock"]))

    def each(first: dict[str, float], second: dict[str, float]) -> float:
        return 1000 * (second["driver"] - first["driver"]) / (second["trials"] - first["trials"])

    early, late = (marks[1], marks[3]), (marks[-3], marks[-1])
    nothing = {"busy": 0.0, "clock": 0.0}
    return (
        f"| {found['genes']} | {found['trials']:,} | {share(begin, last):.1%} | {share(nothing, end):.1%} "
        f"| {each(*early):.1f} | {each(*late):.1f} | {end['answers'] / found['trials']:.1f} "
        f"| {marks[-1]['memory'] - found['before']:.0f} | {found['ledger'] / found['trials'] / 1024:.1f} "
        f"| {end['clock'] / 3600:.1f} |"
    )


def table(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    lines = [
        "# A thousand workers",
        "",
        f"{arguments.workers} simulated workers, candidates of {arguments.minutes:g} minutes on average (log-normal, "
        f"sigma 0.6), population {arguments.population}, races, three tasks of 100 documents; ledger in SQLite. "
        "Driver: processor time of the one driver for a trial with all its answers, in the first tenth, in the last.",
        "",
        "| genes | trials | workers busy while searching | in the whole run | driver, first ms | last ms "
        "| answers a trial | memory, MiB | ledger, KiB a trial | hours by the simulated clock |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *map(row_of, rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--population", type=int, default=500)
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), help="genes x trials")
    parser.add_argument("--one", action="store_true", help="print one size's raw numbers; for processes of their own")
    arguments = parser.parse_args()
    sizes = [tuple(map(int, each.split("x"))) for each in arguments.sizes]
    if arguments.one:
        print(json.dumps(simulated(*sizes[0], arguments)))
        return
    raw = HERE / "simulate.json"
    kept = json.loads(raw.read_text()) if raw.exists() else []
    for genes, trials in sizes:
        general = [f"--{name}={getattr(arguments, name)}" for name in ("workers", "minutes", "population")]
        command = [sys.executable, __file__, "--one", *general, "--sizes", f"{genes}x{trials}"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        print(row_of(found), flush=True)
        others = [row for row in kept if size_of(row) != size_of(found) and circumstances(row) == circumstances(found)]
        kept = sorted([*others, found], key=size_of)
        raw.write_text("[\n" + ",\n".join(map(json.dumps, kept)) + "\n]\n")
        (HERE / "simulate.md").write_text(table(kept, arguments))


if __name__ == "__main__":
    main()
