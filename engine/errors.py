"""What can be wrong with a merge, as seen by the person who asked for it.

Every message is one line per problem: *where: what, with the value; what to do*.

    EngineError
    ├── RecipeError        the recipe's text, its parameters, or a recipe that does not fit its models
    │   └── UnknownName    a name that is in none of our tables (see `engine.lookup`)
    ├── CheckpointError    a model that is missing, malformed, or of another architecture
    │   └── NonFiniteError a merged tensor that holds NaN or infinity
    └── OutputError        the target folder: not ours, no space, no permission
"""

_SHOWN = 80


def shown(value: object) -> str:
    """Return how a value is written in an error: its repr, cut to 80 characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes no integer of more than 4300 digits
        return f"a {type(value).__name__} that is too large to be shown"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


class EngineError(Exception):
    """Root of the errors that a user can mend; callers show the message without a traceback."""


class RecipeError(EngineError):
    """A recipe is malformed, or asks for something its models or its method do not have."""


class UnknownName(RecipeError):
    """A name stands in no table; the message proposes the nearest ones."""


class CheckpointError(EngineError):
    """A model cannot be found or read, or does not fit the others."""


class NonFiniteError(CheckpointError):
    """A merged tensor holds NaN or infinity; the message says which model does, or that none does."""


class OutputError(EngineError):
    """The merged checkpoint cannot be written where it was asked for."""
