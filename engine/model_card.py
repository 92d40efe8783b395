"""README.md of a merged checkpoint, with the metadata that the Hub reads (huggingface.co/docs/hub/model-cards)."""

from __future__ import annotations

from pathlib import Path

import yaml

from engine.errors import CheckpointError
from engine.methods import METHODS
from engine.plan import Plan
from engine.reference import parse_reference


def model_card(plan: Plan) -> str:
    """Return Markdown: what was merged, how, and the recipe, with those of models that were merged on the way."""
    recipes = (*plan.earlier, plan.recipe)
    made = [recipe.name for recipe in plan.earlier]
    named = dict.fromkeys(name for recipe in recipes for name in recipe.references if name.split("+")[0] not in made)
    hub_ids = [name for reference in named if (name := _hub_id(reference))]
    metadata: dict[str, object] = {
        "library_name": "transformers",
        "tags": ["merge", "merge-evolve", "mergekit"],
    }
    if hub_ids:
        metadata["base_model"] = hub_ids
    methods = [f"`{name}` ({METHODS[name].paper})" for name in dict.fromkeys(recipe.merge_method for recipe in recipes)]
    models = "\n".join(f"- `{reference}`" for reference in named)
    front = yaml.safe_dump(metadata, sort_keys=False)
    return f"""---
{front}---

# A merge of {len(named)} model{"s"[: len(named) != 1]}

Made with merge-evolve by the method{"s"[: len(methods) != 1]} {", ".join(methods)}.

{models}

The recipe, which mergekit reads too (`merge_recipe.yaml`):

```yaml
{plan.recipe_text}```
"""


def _hub_id(reference: str) -> str | None:
    """The Hub id of a model, None for local folders: their paths mean nothing to a reader."""
    try:
        name = parse_reference(reference).model.name
    except CheckpointError:
        return None
    return name if name.count("/") == 1 and not Path(name).expanduser().exists() and name[0] not in "./~" else None
