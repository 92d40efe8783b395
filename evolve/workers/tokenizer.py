"""The tokenizer beside a checkpoint, with whichever transformers is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.errors import CheckpointError
from engine.json_file import read_object
from evolve.errors import ModelError
from evolve.workers.remote_code import refuse_code
from tasks.errors import is_panic

GENERIC = "TokenizersBackend"  # what transformers 5 writes for the PreTrainedTokenizerFast of transformers 4


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> Any:
    """Raises ModelError where there is none that transformers can load."""
    import transformers

    try:
        if is_generic(folder) and not hasattr(transformers, GENERIC):
            return transformers.PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        return transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except BaseException as error:
        if not isinstance(error, (OSError, ValueError, KeyError, ImportError, AttributeError)) and not is_panic(error):
            raise
        refuse_code(error, str(folder), folder)
        raise ModelError(
            f"{folder}: has no tokenizer that transformers can load ({' '.join(str(error).split())[:300]}); "
            "put the tokenizer's files beside the model"
        ) from error


def is_generic(folder: Path) -> bool:
    """Whether the tokenizer is what its tokenizer.json says, without a class of its own."""
    try:
        return read_object(folder / "tokenizer_config.json", str(folder)).get("tokenizer_class") == GENERIC
    except CheckpointError:  # whoever loads it says so
        return False
