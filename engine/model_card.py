"""README.md of a merged checkpoint, with the metadata that the Hub reads (huggingface.co/docs/hub/model-cards)."""

from __future__ import annotations

from pathlib import Path

import yaml

from engine.errors import CheckpointError
from engine.methods import METHODS
from engine.recipe import Recipe
from engine.reference import parse_reference


def model_card(recipe: Recipe) -> str:
    """Return Markdown: what was merged, how, and the recipe."""
    hub_ids = [name for reference in recipe.references if (name := _hub_id(reference))]
    metadata: dict[str, object] = {
        "library_name": "transformers",
        "tags": ["merge", "merge-evolve", "mergekit"],
    }
    if hub_ids:
        metadata["base_model"] = hub_ids
    paper = METHODS[recipe.merge_method].paper
    models = "\n".join(f"- `{reference}`" for reference in recipe.references)
    front = yaml.safe_dump(metadata, sort_keys=False)
    return f"""---
{front}---

# A merge of {len(recipe.references)} model{"s"[: len(recipe.references) != 1]}

Made with merge-evolve by the method `{recipe.merge_method}` ({paper}).

{models}

The recipe, which mergekit reads too (`merge_recipe.yaml`):

```yaml
{recipe.to_yaml()}```
"""


def _hub_id(reference: str) -> str | None:
    """The Hub id of a model, None for local folders: their paths mean nothing to a reader."""
    try:
        name = parse_reference(reference).model.name
    except CheckpointError:
        return None
    return name if name.count("/") == 1 and not Path(name).expanduser().exists() and name[0] not in "./~" else None
