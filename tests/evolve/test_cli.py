"""The command line: help is instant, mistakes are one message and exit code 2, defects keep their traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from evolve.environment import asked_threads, usable_cores
from tasks.spec import BATCH_TOKENS

ROOT = Path(__file__).parents[2]
COMMANDS = (
    *("run", "check", "merge", "score", "status", "report", "show", "convert"),
    *("submit", "follow", "stop", "fetch"),
)
HEAVY = ("torch", "ray", "transformers", "optuna", "lm_eval", "numpy", "sqlalchemy", "datasets")
EACH = """
import contextlib, io, json, sys
from evolve.cli import app
results = []
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app(arguments)
        except SystemExit as stop:
            code = stop.code
        except Exception as error:
            code = f"{type(error).__name__}: {error}"
    results.append([code, out.getvalue(), err.getvalue()])
print(json.dumps([results, sorted({name.split(".")[0] for name in sys.modules})]))
"""
Result = tuple[int, str, str]


def command_line(*all_arguments: list[str], cwd: Path = ROOT) -> tuple[list[Result], set[str]]:
    """Exit code, output and errors of each command line, in one process; and what that process imported."""
    done = subprocess.run(
        [sys.executable, "-c", EACH, json.dumps(all_arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=True,
    )
    results, modules = json.loads(done.stdout.splitlines()[-1])
    return [(code, out, err) for code, out, err in results], set(modules)


def test_help_imports_nothing_heavy() -> None:
    results, modules = command_line(["--help"], *([name, "--help"] for name in COMMANDS), [])
    for code, out, _ in results[:-1]:
        assert code == 0
        assert "Usage: " in out
    whole = results[0][1]
    assert all(f"  {name} " in whole for name in COMMANDS)
    assert not [name for name in HEAVY if name in modules]


def test_every_command_is_known_here() -> None:
    from evolve.cli import app

    assert {each.callback.__name__ for each in app.registered_commands if each.callback} == set(COMMANDS)


def test_mistakes_are_one_message_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("name: a b\nmodels: {base: 1}\nseach: {}\n")
    (tmp_path / "recipe.yaml").write_text("merge_method: tise\nmodels: [{model: a}]\n")
    (tmp_path / "notes.bin").write_bytes(b"\xff\xfe")
    cases = {
        ("run", "none.yaml"): "none.yaml: there is no such file",
        ("run", "."): "is a folder; give the path of a search.yaml",
        ("run", "broken.yaml"): "seach: unknown key; did you mean 'search'?",
        ("check", "none.yaml"): "none.yaml: there is no such file",
        ("check", "--no-time", "notes.bin"): "notes.bin: cannot be read",
        ("merge", "none.yaml", "out"): "none.yaml: cannot be read",
        ("merge", "recipe.yaml", "out"): "did you mean 'ties'?",
        ("score", "model"): "--task: none given",
        ("score", "model", "--task", "x", "--limit", "0"): "--limit (0): give 1 or more",
        ("status", "nowhere"): "no run was begun here",
        ("report", "nowhere"): "no run was begun here",
        ("show", "methodes"): "did you mean 'methods'?",
        ("show", "tasks", "--include", "nowhere"): "nowhere",
    }
    results, _ = command_line(*map(list, cases), cwd=tmp_path)
    for (arguments, message), (code, out, err) in zip(cases.items(), results, strict=True):
        assert code == 2, f"{arguments}: {code} {err}"
        assert message in err, f"{arguments}: {err}"
        assert out == ""
        assert "Traceback" not in err
        lines = err.splitlines()
        assert lines
        assert all(line.startswith("error: ") for line in lines), err
        assert len(lines) == (1 if "broken.yaml" not in arguments else 5), err
    assert not (tmp_path / "out").exists()


def test_wrong_usage_is_exit_code_2_as_well() -> None:
    results, _ = command_line(["runn"], ["run"], ["run", "--fast", "a.yaml"], ["merge", "a.yaml"])
    for code, _, err in results:
        assert code == 2
        assert "Usage: evolve" in err or "Usage: -c" in err or "Usage:" in err
        assert "Traceback" not in err


def test_tables_are_shown() -> None:
    results, _ = command_line(*(["show", what] for what in ("methods", "spaces", "optimizers", "config")))
    for code, out, err in results:
        assert (code, err) == (0, "")
        assert len(out.splitlines()) >= 3
    methods, spaces, optimizers, config = (out for _, out, _ in results)
    assert "ties: " in methods
    assert "per_layer: " in spaces
    assert "cma: " in optimizers
    assert f"batch_tokens: {BATCH_TOKENS}" in config


def test_tasks_are_those_of_the_folders_else_lm_evals_own() -> None:
    results, _ = command_line(["show", "tasks", "--include", "tasks/demo"], ["show", "tasks"])
    (code, own, err), (builtin_code, builtin, builtin_err) = results
    assert (code, err, builtin_code, builtin_err) == (0, "", 0, "")
    assert own.split() == ["demo_pick", "demo_reverse", "demo_second", "demo_shift", "demo_sort"]
    assert {"arc_easy", "gsm8k"} <= set(builtin.split())
    assert "demo_pick" not in builtin.split()


@pytest.mark.parametrize(
    ("value", "asked"), [("3", 3), (" 2 ", 2), ("auto", None), ("4,2", None), ("", None), ("0", None), ("-1", None)]
)
def test_threads_are_a_plain_number_or_not_asked_for(
    monkeypatch: pytest.MonkeyPatch, value: str, asked: int | None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert asked_threads() == asked


THREADS = """
import os, sys, types
from evolve.cli import app
for name in ("by_hand.merging", "watching.status"):
    module = types.ModuleType(f"evolve.{name}")
    module.merge = module.status = lambda *_: print(os.environ["OMP_NUM_THREADS"])
    sys.modules[module.__name__] = module
app(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("arguments", "value", "threads"),
    [
        (["merge", "a.yaml", "out"], "auto", usable_cores()),
        (["merge", "a.yaml", "out"], "7", 7),
        (["merge", "a.yaml", "out", "--threads", "3"], "7", 3),
        (["merge", "a.yaml", "out", "-j3"], "auto", 3),
        (["status", "a"], "4,2", 1),
        (["status", "a"], "7", 7),
    ],
)
def test_a_merge_computes_on_all_cores(arguments: list[str], value: str, threads: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", THREADS, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": value},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{threads}\n"


WAITING = """
import sys, types, time
from evolve.cli import app
module = types.ModuleType("evolve.watching.status")
def status(*given):
    print("ready", flush=True)
    time.sleep(60)
module.status = status
sys.modules["evolve.watching.status"] = module
app(["status", "x"])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_is_130_and_says_how_to_go_on(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAITING],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on from there" in err
    assert "Traceback" not in err


def test_a_defect_keeps_its_traceback() -> None:
    script = WAITING.replace('print("ready", flush=True)\n    time.sleep(60)', 'raise ZeroDivisionError("ours")')
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError: ours" in done.stderr


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "evolve", "show", "optimiser"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "did you mean 'optimizers'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_messages_command_no_terminal() -> None:
    words = [sys.executable, "-m", "evolve", "merge", "no\x1b[2J\u202esuch\u2028.yaml", "out"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no\\x1b[2J\\u202esuch" in done.stderr
    assert "\x1b" not in done.stderr
    assert "\u202e" not in done.stderr
