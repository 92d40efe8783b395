"""Up to which length a model treats a sequence alike, whatever stands beside it: what a configuration says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reach:
    """How far a model's way with a sequence is the same for all lengths, in tokens; None: without end.

    `window`: attention reaches back to the first token. `rope`: positions are turned alike, whatever else is in the
    pass; longer sequences must be alone in theirs.
    """

    window: int | None
    rope: int | None

    @property
    def shareable(self) -> int | None:
        """The longest sequence whose beginning can be shared."""
        return min((limit for limit in (self.window, self.rope) if limit is not None), default=None)


UNBOUNDED = Reach(None, None)


def reach_of(model: Any) -> Reach:
    """What the model's configuration says."""
    config = model.config.get_text_config()
    windows = [getattr(config, "attention_chunk_size", None)]
    if getattr(config, "use_sliding_window", True):
        windows.append(getattr(config, "sliding_window", None))
    return Reach(min((int(window) for window in windows if window), default=None), rope_limit(config))


def rope_limit(config: Any) -> int | None:
    """Beyond this position the kinds `longrope` and `dynamic` turn all positions of a pass in another way."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    # One setting, or one for each kind of layer.
    each = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    for settings in each:
        if settings.get("rope_type", settings.get("type")) in ("longrope", "dynamic"):
            own = settings.get("original_max_position_embeddings")
            return int(
                own or getattr(config, "original_max_position_embeddings", None) or config.max_position_embeddings
            )
    return None
