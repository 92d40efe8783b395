"""Generation settings: checked before a model is asked, and read as lm-eval reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from lm_eval.models.utils import normalize_gen_kwargs
from transformers import GenerationConfig

from tasks.errors import TaskError, did_you_mean

NEW_TOKENS = 256  # lm-eval's `max_gen_toks` where a task names none
NEW_TOKENS_KEYS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first that is given
OWN_KEYS = ("until", *NEW_TOKENS_KEYS)


def normalized(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with `until` a list, `max_gen_toks` a number under this name, and `do_sample` and `temperature` set."""
    return dict(normalize_gen_kwargs(dict(settings), NEW_TOKENS))


def new_tokens(settings: Mapping[str, Any]) -> int:
    """How many tokens a request with these settings may generate."""
    return int(normalized(settings)["max_gen_toks"])


def check_settings(settings: Mapping[str, Any], over: Mapping[str, Any] | None, task: str) -> None:
    """Raises TaskError for a setting that transformers does not know, or that no text can be generated with.

    `over`: those that do not come from the task's file.
    """
    for key, value in settings.items():
        fault = _fault(str(key), value)
        if fault:
            where = "gen_kwargs" if key in (over or ()) else f"task {task!r}: generation_kwargs"
            raise TaskError(f"{where}: {fault}")


def _fault(key: str, value: Any) -> str | None:
    if key not in _known():
        hint = did_you_mean(key, _known()) or "; leave it out, or see transformers' GenerationConfig"
        return f"{key!r} is no generation setting{hint}"
    if key == "until":
        texts = value if isinstance(value, list) else [value]
        wrong = not all(isinstance(each, str) for each in texts)
        return f"until is {value!r}; give a text or a list of texts" if wrong else None
    if value is None and key != "temperature":  # as if it were not there
        return None
    if key in NEW_TOKENS_KEYS and not (_is_number(value) and value >= 1 and value == int(value)):
        return f"{key} is {value!r}; give a whole number, 1 or more"
    if key == "temperature" and not (_is_number(value) and value >= 0):
        return f"temperature is {value!r}; give a number, 0 or more"
    if key == "repetition_penalty" and not (_is_number(value) and value > 0):
        return f"repetition_penalty is {value!r}; give a number above 0"
    if key == "do_sample" and not isinstance(value, bool):
        return f"do_sample is {value!r}; give true or false"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@lru_cache(maxsize=1)
def _known() -> frozenset[str]:
    names = (name for name in vars(GenerationConfig()) if not name.startswith("_") and name != "transformers_version")
    return frozenset(names) | frozenset(OWN_KEYS)
