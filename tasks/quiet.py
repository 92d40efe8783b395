"""Keep lm-eval, datasets and transformers off stdout and stderr.

A search scores thousands of candidates; a warning or a progress bar for each would bury its own output. Only
their loggers' levels and the bars of `datasets` are changed; errors still come through.
"""

from __future__ import annotations

import logging
import os

LIBRARIES = ("lm_eval", "datasets", "transformers", "huggingface_hub", "fsspec", "filelock")


def silence_libraries() -> None:
    """Loggers to ERROR, progress bars off, for this process; idempotent."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import datasets

    datasets.disable_progress_bars()
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
