"""The model and tokenizer that are measured, loaded as transformers loads them."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar


def loaded(folder: str, dtype: str) -> Any:
    """The checkpoint's model in eval mode; `dtype` as torch names it."""
    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), local_files_only=True)
    return model.eval().requires_grad_(False)


def tokenizer_of(folder: str) -> Any:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)
