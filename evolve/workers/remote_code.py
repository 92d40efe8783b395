"""Code that comes with a model: never run unless it is asked for, and named either way."""

from __future__ import annotations

from pathlib import Path

from engine.companions import named_code
from evolve.errors import ModelError


def refuse_code(error: BaseException, where: str, folder: Path) -> None:
    """Raises ModelError where transformers asks for leave to run a model's own code, naming that code."""
    if "trust_remote_code" in str(error) and (code := named_code(folder)):
        raise ModelError(
            f"{where}: brings code of its own, which was not run: {'; '.join(code)}; read it, and if you trust it set "
            "run.trust_remote_code: true (evolve score: --trust-remote-code)"
        ) from error
