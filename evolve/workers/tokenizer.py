"""The tokenizer beside a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evolve.errors import ModelError
from evolve.workers.remote_code import refuse_code
from tasks.errors import is_panic


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> Any:
    """Raises ModelError where there is none that transformers can load."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except BaseException as error:
        if not isinstance(error, (OSError, ValueError, KeyError, ImportError, AttributeError)) and not is_panic(error):
            raise
        refuse_code(error, str(folder), folder)
        raise ModelError(
            f"{folder}: has no tokenizer that transformers can load ({' '.join(str(error).split())[:300]}); "
            "put the tokenizer's files beside the model"
        ) from error
