from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.chat_template import BUILT_IN, choose_template, template_files
from engine.checkpoint import open_checkpoint
from engine.errors import RecipeError
from engine.plan import plan
from engine.recipe import Recipe
from engine.write import write_checkpoint

Make = Callable[..., str]
TALK = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}]
RENDERED = {
    "alpaca": "S\n\n### Instruction:\nU\n\n### Response:\nA</s>\n\n### Instruction:\nV\n\n### Response:\n",
    "chatml": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
    "<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n",
    "exaone": "[|system|]S[|endofturn|]\n[|user|]U\n[|assistant|]A[|endofturn|]\n[|user|]V\n[|assistant|]",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
    "U<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nV<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s>[INST] S\n\nU [/INST] A</s>[INST] V [/INST]",
}
MODEL = Path(__file__).parents[1] / "goldens" / "models" / "base"


def merged(tmp_path: Path, names: list[str], template: str) -> Path:
    models: list[dict[str, Any]] = [{"model": name, "parameters": {"weight": 1}} for name in names]
    recipe = Recipe.model_validate({"merge_method": "linear", "models": models, "chat_template": template})
    write_checkpoint(plan(recipe, {name: open_checkpoint(name) for name in names}), tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("own", ["none", "config", "jinja", "list"])
@pytest.mark.parametrize("name", BUILT_IN)
def test_transformers_loads_the_template(make: Make, tmp_path: Path, name: str, own: str) -> None:
    transformers = pytest.importorskip("transformers")
    folder = Path(make("a"))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(MODEL / file, folder / file)
    before = json.loads((folder / "tokenizer_config.json").read_text())
    if own == "config":
        (folder / "tokenizer_config.json").write_text(json.dumps(before | {"chat_template": "{{ old }}"}))
    elif own == "list":
        old = [{"name": "default", "template": "{{ old }}"}]
        (folder / "tokenizer_config.json").write_text(json.dumps(before | {"chat_template": old}))
    elif own == "jinja":
        (folder / "chat_template.jinja").write_text("{{ old }}")
    out = merged(tmp_path, [str(folder)], name)
    loaded = transformers.AutoTokenizer.from_pretrained(out)
    talk = [*TALK, {"role": "user", "content": "V"}]
    text = loaded.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert text == RENDERED[name]
    after = json.loads((out / "tokenizer_config.json").read_text())
    after.pop("chat_template", None)
    assert after == before
    assert (out / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_auto_takes_the_most_common_then_the_first(make: Make, tmp_path: Path) -> None:
    def result(*templates: str | None) -> str | None:
        names = []
        for i, template in enumerate(templates):
            folder = Path(make(f"{len(list(tmp_path.iterdir()))}-{i}"))
            if template is not None:
                (folder / "chat_template.jinja").write_text(template)
            names.append(str(folder))
        out = merged(tmp_path, names, "auto")
        path = out / "chat_template.jinja"
        found = path.read_text() if path.is_file() else None
        shutil.rmtree(out)
        return found

    assert result("x", "y", "y") == "y"
    assert result("x", "y") == "x"
    assert result(None, "y") == "y"
    assert result(None, None) is None


def test_a_template_of_ones_own(make: Make, tmp_path: Path) -> None:
    text = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}\n"
    assert (merged(tmp_path, [make("a")], text) / "chat_template.jinja").read_text() == text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("chatlm", "did you mean 'chatml'"),
        ("{{ x }}", "is no chat template"),
        ("a text that is long enough", "is no chat template"),
        ("{% for m in messages %}{{ m.content }}", "line 1 of the chat template: "),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "is nested too deeply"),
        ("{% for m in x %}" * 30 + "{% endfor %}" * 30, "is nested too deeply"),
        ("{% for m in messages %}{% wrong m %}{% endfor %}", "unknown tag 'wrong'"),
    ],
    ids=lambda _: "",
)
def test_refused(template: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_content({"merge_method": "linear", "models": [{"model": "a"}], "chat_template": template})
    assert str(caught.value).startswith("recipe: chat_template: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_half_a_letter_in_a_models_template_is_replaced(tmp_path: Path) -> None:
    config = {"chat_template": "{{ messages }} \ud800", "added": "\udc00"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    template = choose_template("auto", [tmp_path])
    assert template is not None
    files = template_files(template, tmp_path, {})
    assert files["chat_template.jinja"] == b"{{ messages }} ?"
    made = files["tokenizer_config.json"]
    assert made is not None
    assert json.loads(made) == {"chat_template": "{{ messages }} ?", "added": "?"}
