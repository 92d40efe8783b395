"""`evolve score` as a user runs it: the documentation's example, and an interruption."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
from pathlib import Path

from tests.end_to_end.conftest import DEMO, ROOT, command, environment, evolve


def test_the_documented_example_works(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "scoring.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^    evolve (score .*)$", page, re.MULTILINE)
    done = evolve(*shlex.split(example), "--output", tmp_path / "scores.json")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if re.fullmatch(r"demo_\w+: 100 documents, 0-shot", line)] != []
    assert sum(line.startswith(("base ", "pick ")) for line in lines) == 6
    data = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    base, pick = (model["tasks"]["demo_pick"]["metrics"]["acc,none"] for model in data["models"])
    assert pick["difference"]["low"] > 0
    assert f"{base['value']:.4f} ± {base['stderr']:.4f}" in done.stdout
    assert data["complete"] is True


def test_an_interruption_keeps_what_was_scored() -> None:
    models = [DEMO / "models" / name for name in ("base", "sort", "pick", "reverse", "shift", "second")]
    words = ("score", *models, "--task", "demo_sort,demo_pick", "--include", DEMO, "--json")
    with subprocess.Popen(
        command(*words), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("base: ")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; what was scored until then is printed" in err
    assert "Traceback" not in err
    data = json.loads(out)
    assert data["complete"] is False
    assert data["models"][0]["label"] == "base"
    assert data["models"][0]["tasks"]["demo_sort"]["metrics"]
