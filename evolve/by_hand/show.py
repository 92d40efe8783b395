"""`evolve show`: the tables, as a reader wants them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from engine.lookup import lookup


def show(what: str, include: list[Path]) -> None:
    """Print one of the tables. Raises UnknownName for another word."""
    tables: dict[str, Callable[[], Iterable[str]]] = {
        "methods": methods,
        "spaces": spaces,
        "optimizers": optimizers,
        "tasks": lambda: tasks(include),
        "config": config,
    }
    for line in lookup(tables, what, "table to show")():
        print(line)


def methods() -> Iterable[str]:
    from engine.methods import METHODS

    for name, method in METHODS.items():
        fewest, most = method.inputs
        some = "any number of models" if fewest == 1 else f"{fewest} models or more"
        count = some if most is None else f"{most} model" + "s" * (most > 1)
        base = {"required": " and a base", "optional": ", with or without a base", "ignored": ""}[method.base]
        yield f"{name}: {count}{base} ({method.paper})"
        for parameter in method.parameters:
            default = "required" if parameter.required else f"default {parameter.default}"
            bounds = "" if parameter.low is None else f", searched from {parameter.low} to {parameter.high}"
            yield f"    {parameter.name}: {default}{bounds}; {parameter.doc}"


def spaces() -> Iterable[str]:
    import search_spaces
    from evolve.config.space import Space
    from search_spaces import SPACES

    folder = Path(search_spaces.__file__).parent
    yield "space.layers says where over depth a parameter has genes of its own:"
    yield from (f"    {name}: {depth.doc}" for name, depth in SPACES.items())
    yield "space has these keys besides:"
    fields = Space.model_fields.items()
    yield from (f"    {name}: {field.description}" for name, field in fields if name != "layers")
    yield "ready-made, a search.yaml for each kind:"
    yield from (f"    search_spaces/{file.name}: {summary(file)}" for file in sorted(folder.glob("*.yaml")))


def summary(file: Path) -> str:
    """The first sentence of a ready-made file's comment, which its second line begins."""
    comment = [line[2:] for line in file.read_text(encoding="utf-8").splitlines()[1:] if line.startswith("# ")]
    return " ".join(comment).split(". ")[0].rstrip(".")


def optimizers() -> Iterable[str]:
    from evolve.optimizers import OPTIMIZERS

    yield from (f"{name}: {row.doc}" for name, row in OPTIMIZERS.items())


def tasks(include: list[Path]) -> Iterable[str]:
    from tasks.load import TaskLibrary

    yield from TaskLibrary(include).names(builtin=not include)


def config() -> Iterable[str]:
    from evolve.config.search_yaml import SearchConfig

    yield "# search.yaml: every key, its default and what it means"
    yield from section(SearchConfig, "")


def section(model: type[BaseModel], indent: str) -> Iterable[str]:
    from evolve.config.search_yaml import section_type

    for name, field in model.model_fields.items():
        inner = section_type(field.annotation)
        note = f"  # {field.description}" if field.description else ""
        if inner is not None and name not in ("layers", "parameters", "scale", "order", "objective"):
            yield f"{indent}{name}:{note}"
            inside = list(section(inner, indent + "  "))
            if "tuple" in str(field.annotation):
                inside = [f"{indent}  - {inside[0].strip()}", *(f"  {line}" for line in inside[1:])]
            yield from inside
        else:
            yield f"{indent}{name}: {default_text(field)}{note}"


def default_text(field: Any) -> str:
    if field.is_required():
        return "(required)"
    value = field.default
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    return "{}" if isinstance(value, dict) else str(value)
