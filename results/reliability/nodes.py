"""One search on clusters of 1, 2 and 4 Ray nodes, then on 4 nodes that are killed at random while it runs.

    python results/reliability/nodes.py                         # from the root: 20 kills
    python results/reliability/nodes.py --kills 2 --trials 24

Every node is a `ray start` with one core; they share this machine and have an address of the loopback each. A node
that evaluates a candidate, never the head, is killed with SIGKILL, all its processes, and a fresh one is started in its
place. The kills are spread over the trials, and fall at random within a step. One of the tasks is judged by a function
that sleeps until every node has been seen to evaluate, or a kill that is due has fallen; what it judges does not
change. A candidate under which 5 machines were lost is given up on purpose, so none is chosen more than 3 times. All
runs work in a temporary folder. Writes nodes.json and nodes.md beside itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from driver import DELAY, ROOT, compare, configuration, recorded, trials_of, yes

from tests.end_to_end.conftest import DEMO, command, environment
from tests.end_to_end.test_cluster import RAY, Cluster, Node, evaluating

HERE = Path(__file__).resolve().parent
PATIENCE = 1500.0  # seconds for one run, and for a node that evaluates
HITS = 3  # kills at most under the same candidate
SLOW, FAST = 4.0, 0.3  # seconds that the judge sleeps over a document: ahead of what is due, and else
TASK = """
task: paced
include: {demo}/demo_pick.yaml
process_results: !function pace.judge
"""
JUDGE = """
import time
from pathlib import Path


def judge(doc, results):
    pace = Path(__file__).with_name("pace")
    if pace.exists():
        time.sleep(float(pace.read_text()))
    answers = [float(each[0]) for each in results]
    return {"acc": float(answers.index(max(answers)) == doc["choices"].index(doc["answer"]))}
"""
SAID = {
    "trials": "all trials: ids, points to the last bit, values, recipes",
    "winner": "best.yaml",
    "checkpoint": "the checkpoint's weights, byte for byte",
    "report": "the report's numbers",
    "files": "the files of the run's folder, no leftovers",
}


@dataclass(frozen=True)
class Kill:
    number: int
    node: str  # its address
    seconds: float  # since the run began
    candidate: str  # that it was evaluating
    processes: int  # of the node, killed
    evaluating: int  # other nodes that were evaluating, the head among them
    trials: int  # recorded when the node was killed
    unchanged: bool  # those trials were on record, the same, a second after it was dead


class Pace:
    """How long the judge sleeps over a document."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "paced.yaml").write_text(TASK.format(demo=DEMO), encoding="utf-8")
        (folder / "pace.py").write_text(JUDGE, encoding="utf-8")
        self.folder, self._file = folder, folder / "pace"

    def set(self, seconds: float) -> None:
        draft = self._file.with_name("draft")
        draft.write_text(str(seconds))
        os.replace(draft, self._file)

    def free(self) -> None:
        self._file.unlink(missing_ok=True)


class Search:
    """The search, in a folder of its own, on a cluster with this many workers."""

    def __init__(self, output: Path, cluster: Cluster, pace: Pace, trials: int, workers: int) -> None:
        path = configuration(trials, workers, output)
        config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        config["score"] |= {
            "tasks": [{"task": "demo_reverse", "metric": "exact_match"}, {"task": "paced", "metric": "acc"}],
            "include": [str(DEMO), str(pace.folder)],
            "documents": {"search": 8, "selection": 16, "report": 32},
        }
        config["search"] |= {"population": 8, "finalists": 2, "stop_early": False, "gradients": False}
        config["search"] |= {"simplify": False}
        config["run"] |= {"address": cluster.address}
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        self.name, self.folder, self._log = config["name"], output / config["name"], output / "said"
        self._path = path

    def begin(self) -> None:
        with self._log.open("w") as file:
            words = command("run", self._path)
            self.begun = time.monotonic()
            self.process = subprocess.Popen(words, cwd=ROOT, env=environment() | RAY, stdout=file, stderr=file)

    def check(self) -> None:
        if self.process.poll() is not None:
            sys.exit(f"the run ended too early ({self.process.returncode}):\n{self._log.read_text()}")
        if time.monotonic() - self.begun > PATIENCE:
            sys.exit(f"the run takes more than {PATIENCE:.0f} seconds:\n{self._log.read_text()}")

    def finish(self) -> float:
        """Seconds since it began."""
        try:
            code = self.process.wait(PATIENCE)
        finally:
            self.end()
        if code != 0:
            sys.exit(f"the run failed ({code}):\n{self._log.read_text()}")
        return round(time.monotonic() - self.begun, 1)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def trials(self) -> list[dict[str, Any]]:
        return trials_of(self.folder, self.name) if recorded(self.folder) else []


def join(cluster: Cluster) -> Node:
    """A fresh node, which is watched while it starts and started again where the machine is too busy for Ray."""
    node = cluster.join()
    threading.Thread(target=watch, args=(node,), daemon=True).start()
    return node


def watch(node: Node) -> None:
    with contextlib.suppress(AssertionError):  # killed while it started
        node.ready()


def together(cluster: Cluster, search: Search, pace: Pace) -> float:
    """A run in which every node evaluates; its seconds."""
    pace.set(SLOW)
    search.begin()
    idle = set(cluster.nodes)
    try:
        while idle:
            search.check()
            idle -= {node for node in idle if evaluating(node)}
            time.sleep(0.1)
        print("evaluating on every node after", recorded(search.folder), "trials", flush=True)
        pace.free()
        return search.finish()
    finally:
        search.end()


def candidate(node: Node) -> str:
    """The key of the candidate that a worker of this node evaluates now, as the list of processes shows it; else ""."""
    for each in psutil.Process(node.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            _, found, rest = " ".join(each.cmdline()).partition("ray::Worker.evaluate ")
            if found:
                return rest.split()[0]
    return ""


def chosen(cluster: Cluster, search: Search, numbers: random.Random, hits: Counter[str]) -> tuple[Node, str]:
    """A random node that evaluates, with its candidate, a random moment after there was one; never the head."""
    waited = False
    while True:
        search.check()
        at = [(node, candidate(node)) for node in cluster.nodes[1:] if node.process.poll() is None]
        if at := [(node, key) for node, key in at if key and hits[key] < HITS]:
            if waited:
                return numbers.choice(at)
            time.sleep(numbers.uniform(0, 8 * DELAY))
        waited = bool(at)
        time.sleep(0.0 if at else 0.1)


def come(search: Search, share: int) -> None:
    """Wait for the step at which the next kill is due."""
    while recorded(search.folder) < share:
        search.check()
        time.sleep(0.2)


def disturb(
    cluster: Cluster, search: Search, pace: Pace, kills: int, trials: int, minutes: float, seed: int
) -> list[Kill]:
    """Kill nodes until it is enough or the time is over."""
    numbers, hits, done = random.Random(seed), Counter[str](), list[Kill]()
    until = time.monotonic() + 60 * minutes
    while len(done) < kills and time.monotonic() < until:
        pace.set(FAST)
        come(search, trials * len(done) // (kills + 1))
        pace.set(SLOW)
        node, key = chosen(cluster, search, numbers, hits)
        hits[key] += 1
        before, others = search.trials(), sum(map(alive_and_evaluating, cluster.nodes)) - 1
        family, moment = psutil.Process(node.process.pid).children(recursive=True), time.monotonic() - search.begun
        node.kill()
        join(cluster)
        time.sleep(1)
        after = search.trials()
        same = all(trial in after for trial in before)
        address = f"127.0.0.{cluster.nodes.index(node) + 1}"
        number, size = len(done) + 1, len(family) + 1
        done.append(Kill(number, address, round(moment, 1), key, size, others, len(before), same))
        print(done[-1], flush=True)
    return done


def alive_and_evaluating(node: Node) -> bool:
    return node.process.poll() is None and evaluating(node)


def page(facts: dict[str, Any], kills: list[Kill]) -> str:
    runs: dict[str, dict[str, Any]] = facts["runs"]
    hits = max(Counter(each.candidate for each in kills).values(), default=0)
    head = f"""# Nodes that join and nodes that die

One search ({facts["trials"]} candidates in generations of 8) on a cluster of 1 Ray node, of 2 and of 4, one worker on
each, every one of them seen to evaluate; then on 4 nodes of which {len(kills)} were killed with SIGKILL while they
evaluated, one after the other, each replaced by a fresh one (seed {facts["seed"]}). Each run is compared with that on 1
node.

| the same as on 1 node | {" | ".join(runs)} |
|---|{"---|" * len(runs)}
"""
    rows = (
        f"| {text} | {' | '.join(yes(run['same'][key]) for run in runs.values())} |\n" for key, text in SAID.items()
    )
    seconds = f"| seconds | {' | '.join(str(run['seconds']) for run in runs.values())} |\n"
    middle = f"""
The run on 1 node took {facts["seconds"]} seconds. All share two busy cores, and the judge sleeps at times: the
seconds say nothing of speed. Failed candidates: {facts["failed"]} in the run with kills,
{facts["failed_alone"]} on 1 node.
The same candidate was hit {hits} times at most (5 would have made it a failure on purpose).

| kill | node | second | candidate | processes killed | others evaluating | trials recorded | these unchanged after |
|---:|---|---:|---|---:|---:|---:|---|
"""
    table = (
        f"| {each.number} | {each.node} | {each.seconds:.0f} | {each.candidate} | {each.processes} "
        f"| {each.evaluating} | {each.trials} | {yes(each.unchanged)} |\n"
        for each in kills
    )
    foot = "\n`python results/reliability/nodes.py` makes this page and nodes.json.\n"
    return head + "".join(rows) + seconds + middle + "".join(table) + foot


def failed(trials: list[dict[str, Any]]) -> int:
    return sum(trial["failure"] is not None for trial in trials)


def measure(options: argparse.Namespace, scratch: Path, cluster: Cluster) -> tuple[dict[str, Any], list[Kill]]:
    pace, runs = Pace(scratch / "paced"), dict[str, Any]()
    alone = Search(scratch / "1", cluster, pace, options.trials, 1)
    alone.begin()
    seconds = alone.finish()
    print("1 node:", seconds, len(alone.trials()), flush=True)
    for count in (2, 4):
        fresh = [join(cluster) for _ in range(count - len(cluster.nodes))]
        for node in fresh:
            node.ready()
        search = Search(scratch / str(count), cluster, pace, options.trials, count)
        took = together(cluster, search, pace)
        runs[f"{count} nodes"] = {"seconds": took, "same": compare(search.folder, alone.folder, alone.name)}
        print(count, "nodes:", runs[f"{count} nodes"], flush=True)
    search = Search(scratch / "killed", cluster, pace, options.trials, 4)
    pace.set(FAST)
    search.begin()
    try:
        kills = disturb(cluster, search, pace, options.kills, options.trials, options.minutes, options.seed)
        pace.free()
        took = search.finish()
    finally:
        search.end()
    same = compare(search.folder, alone.folder, alone.name)
    runs[f"4 nodes, {len(kills)} kills"] = {"seconds": took, "same": same}
    print(runs, flush=True)
    facts = {"trials": options.trials, "seed": options.seed, "seconds": seconds, "runs": runs}
    return facts | {"failed": failed(search.trials()), "failed_alone": failed(alone.trials())}, kills


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e9, help="of killing; then the run is left to end")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of nodes.md and nodes.json")
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="n-", dir="/tmp"))  # short: Ray puts sockets there
    cluster = Cluster(scratch)
    try:
        cluster.nodes[0].ready()
        facts, kills = measure(options, scratch, cluster)
    finally:
        for node in reversed(cluster.nodes):
            node.kill()
        shutil.rmtree(scratch, ignore_errors=True)
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(facts | {"kills": [asdict(each) for each in kills]}, indent=2)
    (options.out / "nodes.json").write_text(text + "\n", encoding="utf-8")
    (options.out / "nodes.md").write_text(page(facts, kills), encoding="utf-8")
    held = all(all(run["same"].values()) for run in facts["runs"].values()) and all(each.unchanged for each in kills)
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
