"""TensorBoard. A run is a folder of event files: every start writes one more, and TensorBoard shows them as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evolve.trackers.tracker import Opening
from evolve.watching.progress import Outcome


class TensorBoard:
    def __init__(self, opening: Opening) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(opening.folder))
        self.run = opening.folder.name
        if opening.run is None:
            rows = "\n".join(f"| {key} | {cell(value)} |" for key, value in opening.parameters.items())
            self._text("configuration", f"| key | value |\n|---|---|\n{rows}", 0)

    def log(self, step: int, metrics: Mapping[str, float], at: float) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step, walltime=at)
        self._writer.flush()

    def sum_up(self, headline: str, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        self._text("verdict", headline, 0)
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, 0)
        for file in files:
            text = file.read_text(encoding="utf-8")
            self._text(file.name, text if file.suffix == ".md" else f"```\n{text}\n```", 0)

    def close(self, outcome: Outcome) -> None:
        self._writer.close()

    def _text(self, name: str, text: str, step: int) -> None:
        self._writer.add_text(name, text, step)


def cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
