"""What is wrong with a task file that lm-eval cannot make a task of, and what to do about it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, UndefinedError
from lm_eval.api.task import ALL_OUTPUT_TYPES, ConfigurableTask
from lm_eval.config.task import TaskConfig

from tasks.data_files import local_files
from tasks.errors import TaskError, did_you_mean
from tasks.metric import check_metric_list

KEYS = tuple(field.name for field in fields(TaskConfig))
SPLITS = ("test_split", "validation_split", "training_split", "fewshot_split")
ASKED = ("doc_to_text", "doc_to_target", "doc_to_choice")


def check_config(config: Mapping[str, Any]) -> None:
    """Raise TaskError for what shows before any data is read."""
    for key in config:
        if key not in KEYS:
            hint = did_you_mean(str(key), KEYS) or "; see lm-eval's guide to task files for those there are"
            raise TaskError(f"its file has an unknown key {key!r}{hint}")
    kind = config.get("output_type", "generate_until")
    if kind not in ALL_OUTPUT_TYPES:
        hint = did_you_mean(str(kind), ALL_OUTPUT_TYPES)
        raise TaskError(f"output_type: there is no {kind!r}{hint}; give one of {', '.join(ALL_OUTPUT_TYPES)}")
    if config.get("test_split") is None and config.get("validation_split") is None:
        raise TaskError("no split is named; give its file a test_split, such as `test_split: test`")
    if config.get("use_prompt") is None:
        for key in ASKED if kind == "multiple_choice" else ASKED[:2]:
            if config.get(key) is None:
                raise TaskError(f"has no {key}; give its file one: a field of the documents, or a template")
    check_metric_list(config)


def fault(task: ConfigurableTask, config: Mapping[str, Any], error: Exception) -> str:
    """Why the construction of `task` ended in `error`."""
    if told := _function_fault(config, error):
        return told
    if getattr(task, "dataset", None) is None:
        here = local_files(config)
        told = next((told for path in here if (told := _file_fault(path, config))), None)
        advice = "see its data files" if here else "see that its data is there, or downloaded beforehand"
        reason = error.__cause__ if isinstance(error.__cause__, Exception) else error  # `datasets` says little itself
        return told or f"its data cannot be loaded ({_cause(reason)}); {advice}"
    return (
        _split_fault(task, config)
        or _document_fault(task, config)
        or f"cannot be loaded ({_cause(error)}); see its file"
    )


def _function_fault(config: Mapping[str, Any], error: Exception) -> str | None:
    """The `!function` of the file that raised the error, if one did."""
    codes = {each.__code__: (key, each) for key, each in _functions(config)}
    frame, found = error.__traceback__, None
    while frame is not None:
        code = frame.tb_frame.f_code
        if code in codes:
            found = (*codes[code], Path(code.co_filename).name)
        if found is not None and frame.tb_frame.f_code.co_filename == found[1].__code__.co_filename:
            line = frame.tb_lineno
        frame = frame.tb_next
    if found is None:
        return None
    key, function, file = found
    return f"{key}: !function {function.__name__} in {file}, line {line}, raises {_cause(error)}; mend it there"


def _functions(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if hasattr(config, "__code__"):
        yield key, config
    elif isinstance(config, Mapping):
        for name, value in config.items():
            yield from _functions(value, key or str(name))
    elif isinstance(config, list):
        for value in config:
            yield from _functions(value, key)


def _file_fault(path: Path, config: Mapping[str, Any]) -> str | None:
    """What keeps a data file from being read: nothing in it, or a line that is no JSON object."""
    if path.stat().st_size == 0:
        return f"{path}: the data file is empty; put the documents there"
    if config.get("dataset_path") != "json" or path.suffix not in (".jsonl", ".json"):
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return f"{path}: cannot be read ({error}); write it as UTF-8"
    if not text.strip():
        return f"{path}: the data file is empty; put the documents there"
    whole = path.suffix == ".json" and (text.lstrip().startswith("[") or _not_json(text) is None)
    for number, part in [(1, text)] if whole else enumerate(text.split("\n"), 1):
        if not part.strip():
            continue
        if (wrong := _not_json(part)) is not None:
            line, column, said = wrong
            return f"{path}: line {number + line - 1}, column {column} is no JSON ({said}); mend it"
        if not whole and not isinstance(json.loads(part), dict):
            return f"{path}: line {number} is no JSON object but {part.strip()!r:.40}; write one object a line"
    return None


def _not_json(text: str) -> tuple[int, int, str] | None:
    """Line, column and reason; None for JSON."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.lineno, error.colno, error.msg
    except (ValueError, RecursionError) as error:
        return 1, 1, _cause(error)
    return None


def _split_fault(task: ConfigurableTask, config: Mapping[str, Any]) -> str | None:
    there = list(task.dataset) if isinstance(task.dataset, Mapping) else []
    for key in SPLITS:
        name = config.get(key)
        if there and name is not None and name not in there:
            return f"{key}: its data has no split {name!r}; give one of {', '.join(map(str, there))}"
    return None


def _document_fault(task: ConfigurableTask, config: Mapping[str, Any]) -> str | None:
    """The first of the file's templates that the first document does not go through."""
    documents = getattr(task, "task_docs", None)
    if documents is None or not len(documents):
        return None
    document = documents[0]
    for key in ASKED:
        if config.get(key) is None:
            continue
        try:
            getattr(task, key)(document)
        except UndefinedError as error:
            return f"{key}: {error.message}; a document's fields are {', '.join(map(str, document))}"
        except TemplateError as error:
            return f"{key}: is no template ({_cause(error)}); mend {str(config[key])!r:.60}"
        except Exception as error:
            return f"{key}: fails on the first document ({_cause(error)}); mend {str(config[key])!r:.60}"
    return None


def _cause(error: Exception) -> str:
    said = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
