from __future__ import annotations

import pytest
import yaml

from engine.errors import RecipeError
from engine.recipe import Recipe

TEXT = """
models:
  - {model: org/a, parameters: {weight: 0.5, density: [1, 0.5]}}
  - {model: org/b, parameters: {weight: [{filter: mlp, value: [0.2, 0.9]}, {value: 0.5}]}}
merge_method: ties
base_model: org/base
parameters: {normalize: true}
dtype: torch.float32
"""


def test_round_trip_and_digest() -> None:
    recipe = Recipe.from_yaml(TEXT)
    again = Recipe.from_yaml(recipe.to_yaml())
    assert again == recipe
    assert again.digest == recipe.digest
    assert again.to_yaml() == recipe.to_yaml()
    assert "null" not in recipe.to_yaml()
    assert "seed" not in recipe.to_yaml()
    assert list(yaml.safe_load(recipe.to_yaml())) == ["models", "merge_method", "base_model", "parameters", "dtype"]
    assert recipe.references == ("org/base", "org/a", "org/b")


def test_digest_is_of_the_meaning() -> None:
    recipe = Recipe.from_yaml(TEXT)
    assert Recipe.from_yaml(TEXT.replace("[1, 0.5]", "[1.0, 5.0e-1]")).digest == recipe.digest
    assert Recipe.from_yaml(TEXT + "seed: 1").digest != recipe.digest
    assert Recipe.from_yaml(TEXT.replace("0.9", "0.8")).digest != recipe.digest
    assert recipe.model_copy(update={"seed": 1}).digest == Recipe.from_yaml(TEXT + "seed: 1").digest


def test_mapping_form_of_a_model() -> None:
    text = "{merge_method: linear, models: [{model: {model: {path: org/a, revision: v1}, lora: {path: org/l}}}]}"
    assert Recipe.from_yaml(text).references == ("org/a@v1+org/l",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not YAML"),
        ("[]", "not a mapping"),
        ("{models: [{model: a}]}", "merge_method: missing"),
        ("{merge_method: ties}", "either `models` or `slices`"),
        ("{merge_method: ties, models: []}", "models"),
        ("{merge_method: ties, models: [{model: a}], base_modle: b}", "did you mean 'base_model'"),
        ("{merge_method: ties, models: [{model: a, parameter: {}}]}", "did you mean 'parameters'"),
        ("{merge_method: ties, models: [{model: a}], dtype: flot16}", "did you mean 'float16'"),
        ("{merge_method: ties, models: [{model: a, parameters: {weight: x}}]}", "'x' is not a number"),
        ("{merge_method: ties, models: [{model: a}], modules: {a: {models: [{model: b}]}}}", "or `modules`"),
        ("{merge_method: ties, slices: [{sources: [{model: a, layer_range: [2, 2]}]}]}", "holds no layers"),
        ("{merge_method: ties, merge_method: linear, models: [{model: a}]}", "the key 'merge_method' stands twice"),
        ("{merge_method: t, models: [{model: a}]}\n---\n{merge_method: t, models: [{model: a}]}", "has 2 documents"),
        ("{merge_method: t, models: [{model: a}], slices: [{sources: []}]}", "the list is empty"),
        ("{merge_method: t, models: [{model: a}], dtype: int64}", "would cut every weight to a whole number"),
        ("{merge_method: t, models: [{model: a}], modules: {x: {models: [{model: a}]}}}", "give either `models`"),
        ("{merge_method: t, modules: {x: {}}}", "modules.x: give either `models` or `slices`"),
        ("{merge_method: t, modules: {x: {modls: []}}}", "did you mean 'models'"),
        ("{merge_method: t, models: [{model: a}], tokenizer_source: base, tokenizer: {}}", "give either `tokenizer`"),
        ("{merge_method: t, models: [{model: a}], tokenizer: {sorce: a}}", "did you mean 'source'"),
        ("{merge_method: t, models: [{model: a}], tokenizer: {pad_to_multiple_of: 0}}", "greater than 0"),
        ("{merge_method: t, models: [{model: a}], tokenizer: {tokens: {x: {forse: 1}}}}", "did you mean 'force'"),
        ("{merge_method: t, models: [{model: a}], tokenizer: {tokens: {x: {force: true}}}}", "force needs a source"),
        (
            "{merge_method: t, models: [{model: a}], tokenizer: {tokens: {x: {source: {kind: zeros}}}}}",
            "kind is 'zeros'; give zero or model_token",
        ),
        (
            "{merge_method: t, models: [{model: a}], tokenizer: {tokens: {x: {source: "
            "{kind: model_token, model: b, token: c, token_id: 1}}}}}",
            "give either `token` or `token_id`",
        ),
        ("{merge_method: t, models: [{model: {model: {path: a}, override_architecture: X}}]}", "is not needed"),
        ("{merge_method: t, slices: [{sources: [], residual_weight: 1}]}", "it has no effect; remove it"),
        (
            "{merge_method: t, slices: [{sources: [{model: a, layer_range: [0, 2]}, "
            "{model: b, layer_range: [0, 1]}]}]}",
            "equally many",
        ),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=r"my\.yaml: ") as caught:
        Recipe.from_yaml(text, where="my.yaml")
    assert message in str(caught.value)


def test_all_problems_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml("{models: [{model: a, parameters: {weight: x}}], dtype: y, foo: 1}")
    assert len(str(caught.value).splitlines()) == 4


FULL = """
name: half
modules:
  encoder: {models: [{model: org/a}], parameters: {weight: 1}}
  decoder: {slices: [{sources: [{model: org/b, layer_range: [0, 2]}], base_model: org/c}]}
merge_method: linear
tokenizer:
  source: org/d
  tokens:
    <a>: {source: {kind: zero}}
    <b>: {source: {kind: model_token, model: org/e, token: x}, force: true}
    <c>: {source: {kind: model_token, model: {model: {path: org/f, revision: r}}, token_id: 3}}
    <d>: {source: org/g}
    <e>: {source: base}
  pad_to_multiple_of: 64
chat_template: auto
"""


def test_every_part_goes_there_and_back() -> None:
    recipe = Recipe.from_yaml(FULL)
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert recipe.references == ("org/a", "org/c", "org/b", "org/d", "org/e", "org/f@r", "org/g")
    assert Recipe.from_yaml(FULL.replace("half", "other")).digest == recipe.digest
    assert Recipe.from_yaml(FULL.replace("64", "32")).digest != recipe.digest
    short = Recipe.from_yaml("{merge_method: t, models: [{model: a}], tokenizer_source: union}")
    long = Recipe.from_yaml("{merge_method: t, models: [{model: a}], tokenizer: {}}")
    assert short.vocabulary == long.vocabulary


LONG = "x" * 100_000
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 40)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "the aliases (*name) stand for too much"),
        (BOMB.split("a6:")[0] + "merge_method: *a5", "the aliases (*name) stand for too much"),
        ("{merge_method: &m [*m], models: [{model: a}]}", "an alias (*name) stands within what it names"),
        ("a: &a [x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\nmerge_method: *b", "merge_method: "),
        (f"{{merge_method: ties, models: [{{model: a}}], dtype: {LONG}}}", "is not a dtype"),
        (f"{{merge_method: ties, models: [{{model: a}}], ? {LONG} : 1}}", "unknown key"),
        (f"{{merge_method: ties, models: [{{model: a, parameters: {{weight: {LONG}}}}}]}}", "is not a number"),
        (f"{{merge_method: ties, models: [{{model: [{LONG}]}}]}}", "names no model"),
        (f"{{merge_method: ties, models: [{{model: a}}], seed: {LONG}}}", "seed: "),
        (f"{{merge_method: ties, models: [{{model: a}}], chat_template: {LONG}}}", "is no chat template"),
        (f"{{merge_method: ties, models: [{{model: a}}], seed: 0x{'f' * 9000}}}", "seed: "),
        (f"{{merge_method: t, slices: [{{sources: [{{model: a, layer_range: [0, 1{'0' * 400}]}}]}}]}}", "more layers"),
        (f"{{merge_method: t, models: [{{model: a}}], tokenizer: {{pad_to_multiple_of: 1{'0' * 400}}}}}", "pad_to"),
        (f"a: !!{LONG} 1", "not YAML"),
        (f"{{? {'a' * 900} : 1, ? {'a' * 900} : 2}}", "stands twice"),
        ('{merge_method: t, models: [{model: a}], "a\\nb": 1}', "my.yaml: a b: unknown key"),
        (f"{{merge_method: t, models: [{{model: {'{model: ' * 600}a{'}' * 600}}}]}}", "my.yaml: "),
        (f"{{merge_method: t, models: [{{model: a, parameters: {{weight: {10**400}}}}}]}}", "is not finite"),
    ],
    ids=lambda _: "",
)
def test_no_text_makes_a_long_message(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=r"^my\.yaml: ") as caught:
        Recipe.from_yaml(text, where="my.yaml")
    assert message in str(caught.value)
    assert all(len(line) < 1000 for line in str(caught.value).splitlines())


def test_many_problems_are_counted() -> None:
    models = ", ".join(["{model: a, x: 1}"] * 1000)
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(f"{{merge_method: t, models: [{models}]}}")
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "recipe: and 980 problems more; mend these first"


def test_aliases_save_words() -> None:
    text = "{merge_method: t, models: [{model: a, parameters: &p {weight: [0, 1]}}, {model: b, parameters: *p}]}"
    recipe = Recipe.from_yaml(text)
    assert recipe.models is not None
    assert recipe.models[0].parameters == recipe.models[1].parameters == {"weight": [0, 1]}
