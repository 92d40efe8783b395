"""Temporary folders of killed processes go when the next one asks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from evolve.scratch import LOCK, scratch

KILLED = """
import os, signal, sys
from pathlib import Path
from evolve.scratch import scratch
with scratch(Path(sys.argv[1])) as folder:
    (folder / "weights").write_text("large")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_a_folder_only_until_the_next_asks(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert (left / "weights").is_file()
    with scratch(tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert list(tmp_path.iterdir()) == []


def test_living_folders_and_those_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "evolve-not-ours").mkdir()
    with scratch(tmp_path) as first:
        with scratch(tmp_path) as second:
            assert first.is_dir()
            assert second.is_dir()
        assert first.is_dir()
        assert not second.exists()
    assert [each.name for each in tmp_path.iterdir()] == ["evolve-not-ours"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    parent, elsewhere = tmp_path / "parent", tmp_path / "elsewhere"
    for folder in (parent / "evolve-locked", elsewhere):
        folder.mkdir(parents=True)
    (elsewhere / LOCK).write_text("kept")
    (elsewhere / "notes").write_text("kept")
    (parent / "evolve-link").symlink_to(elsewhere)
    (parent / "evolve-locked" / LOCK).symlink_to(elsewhere / "notes")
    (parent / "evolve-file").write_text("kept")
    with scratch(parent):
        pass
    assert sorted(each.name for each in parent.iterdir()) == ["evolve-file", "evolve-link", "evolve-locked"]
    assert {each.name: each.read_text() for each in elsewhere.iterdir()} == {LOCK: "kept", "notes": "kept"}


@pytest.mark.parametrize("theirs", ["evolve-theirs", f"evolve-theirs/{LOCK}"])
def test_what_another_user_owns_stays(tmp_path: Path, theirs: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    folder = tmp_path / "evolve-theirs"
    folder.mkdir()
    (folder / LOCK).touch()
    os.chown(tmp_path / theirs, 12345, 12345)
    with scratch(tmp_path):
        pass
    assert (folder / LOCK).is_file()
