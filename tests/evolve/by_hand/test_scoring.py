"""`evolve score`: lm-eval's own numbers, for checkpoints, adapters and recipes, and one bad model costs no other."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import datasets
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from engine.recipe import Recipe
from engine.write import merge_to_folder
from evolve.by_hand.score_options import gen_kwargs
from evolve.by_hand.score_table import short
from evolve.by_hand.subject import labels, problem_of
from evolve.errors import ConfigError
from tasks.score import Scorer
from tests.tasks.conftest import CHAT, choice_documents, text_documents, write_task

DEMO = Path(__file__).parents[3] / "tasks" / "demo"
BASE, REVERSE, SORT, PICK = (str(DEMO / "models" / name) for name in ("base", "reverse", "sort", "pick"))
MEAN = {"aggregation": "mean", "higher_is_better": True}
TASKS: dict[str, dict[str, Any]] = {
    "choose": {
        "output_type": "multiple_choice",
        "doc_to_text": "Q: {{question}}\nA:",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "training_split": "train",
        "metric_list": [{"metric": "acc", **MEAN}, {"metric": "acc_norm", **MEAN}, {"metric": "mcc"}],
    },
    "write": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}=",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6, "do_sample": False},
        "metric_list": [{"metric": "exact_match", **MEAN}],
        "filter_list": [
            {"name": "letter", "filter": [{"function": "regex", "regex_pattern": "([a-z])"}]},
            {"name": "whole", "filter": [{"function": "take_first"}]},
        ],
    },
    "ending": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", **MEAN},
        ],
    },
    "whole": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    },
}
TASKS["write"]["filter_list"][0]["filter"].append({"function": "take_first"})
Told = tuple[int, str, str]
Score = Callable[..., Told]


@pytest.fixture(scope="session", autouse=True)
def _data_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tasks, with 40 documents each and a training split of 8."""
    made = tmp_path_factory.mktemp("tasks")
    for name, settings in TASKS.items():
        documents = choice_documents if name == "choose" else text_documents
        write_task(made, name, documents(8, seed=9), **settings)
        (made / f"{name}.jsonl").rename(made / f"{name}_train.jsonl")
        files = {split: str(made / f"{name}{end}.jsonl") for split, end in (("test", ""), ("train", "_train"))}
        write_task(made, name, documents(40), **{"dataset_kwargs": {"data_files": files}} | settings)
    return made


@pytest.fixture
def score(capsys: pytest.CaptureFixture[str]) -> Iterator[Score]:
    """`evolve score` inside this process, in float32: exit code, stdout, stderr."""
    from evolve.cli import app

    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}

    def call(*words: object) -> Told:
        capsys.readouterr()
        try:
            app(["score", *map(str, words), *([] if "--dtype" in words else ["--dtype", "float32"])])
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        # Bars of a transformers that other tests imported before it was told to be quiet.
        return code, out, "\n".join(line for line in err.splitlines() if line and "Loading weights" not in line)

    yield call
    for each, handler in handlers.items():
        signal.signal(each, handler)


def record(told: Told) -> dict[str, Any]:
    code, out, err = told
    assert code == 0, err
    whole: dict[str, Any] = json.loads(out)
    return whole


def stock(model: str, folder: Path, tasks: list[str], **options: Any) -> dict[str, Any]:
    """What lm-eval itself says of the model in float32."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        model=HFLM(pretrained=model, dtype="float32", device="cpu", batch_size=4),
        tasks=tasks,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        log_samples=True,
        **options,
    )
    assert found is not None
    return dict(found)


@pytest.fixture(autouse=True)
def _no_survey(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock lm-eval lists the machine's packages after each run: seconds, and nothing of a score."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda storage: None)
    monkeypatch.setattr("lm_eval.evaluator.get_git_commit_hash", lambda: None)
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")


@pytest.mark.parametrize(
    ("tasks", "words", "options"),
    [
        (["choose", "write", "ending", "whole"], [], {}),
        (["choose"], ["--num_fewshot", 3], {"num_fewshot": 3}),
        (
            ["write"],
            ["--gen_kwargs", "max_gen_toks=2,until=['q']"],
            {"gen_kwargs": {"max_gen_toks": 2, "until": ["q"]}},
        ),
        (
            ["choose", "write"],
            ["--num-fewshot", 2, "--apply-chat-template", "--no-fewshot-as-multiturn", "--system-instruction", "do"],
            {
                "num_fewshot": 2,
                "apply_chat_template": True,
                "fewshot_as_multiturn": False,
                "system_instruction": "do",
            },
        ),
    ],
    ids=["all kinds", "few-shot", "gen_kwargs", "chat"],
)
def test_numbers_are_lm_evals(
    score: Score, folder: Path, tmp_path: Path, tasks: list[str], words: list[Any], options: dict[str, Any]
) -> None:
    source = tmp_path / "reverse"
    shutil.copytree(REVERSE, source)
    (source / "chat_template.jinja").write_text(CHAT)
    ours = record(
        score(
            source, "--tasks", ",".join(tasks), "--include_path", folder, "--limit", 25, "--json", "--samples", *words
        )
    )
    theirs = stock(str(source), folder, tasks, limit=25, bootstrap_iters=400, **options)
    (model,) = ours["models"]
    for task in tasks:
        expected = theirs["results"][task]
        metrics = model["tasks"][task]["metrics"]
        printed = {name for name in expected if "," in name and "_stderr" not in name}
        assert set(metrics) == printed
        for name, value in metrics.items():
            assert value["value"] == pytest.approx(expected[name], rel=1e-4), name
            metric, _, chosen = name.partition(",")
            error = expected[f"{metric}_stderr,{chosen}"]
            if metric == "mcc":
                assert value["stderr"] is None
            elif error != "N/A":  # a perplexity's is bootstrapped there
                close = 0.25 if metric == "perplexity" else 1e-9
                assert value["stderr"] == pytest.approx(error, rel=close), name
        assert len(model["samples"][task]) == 25
        for sample in theirs["samples"][task]:
            recorded = model["samples"][task][str(sample["doc_id"])]
            for metric in sample["metrics"]:
                number = sample[metric]
                first = number[0] if isinstance(number, (tuple, list)) else number
                assert recorded[f"{metric},{sample['filter']}"] == pytest.approx(first, rel=1e-4, abs=1e-4)
    assert ours["complete"] is True
    assert ours["settings"]["limit"] == 25


def test_log_likelihoods_are_those_of_the_right_answers(score: Score, folder: Path) -> None:
    told = score(REVERSE, "--task", "choose", "--include", folder, "-L", 20, "--json", "--samples")
    (model,) = record(told)["models"]
    samples = stock(REVERSE, folder, ["choose"], limit=20, bootstrap_iters=0)["samples"]["choose"]
    sums = {sample["doc_id"]: sample["resps"][sample["target"]][0][0] for sample in samples}
    recorded = {int(key): each for key, each in model["samples"]["choose"].items()}
    for document, total in sums.items():
        assert recorded[document]["loglikelihood"] == pytest.approx(total, abs=1e-4)
    shares = [total / recorded[document]["gold_tokens"] for document, total in sums.items()]
    assert model["tasks"]["choose"]["loglikelihood"]["value"] == pytest.approx(sum(shares) / 20, abs=1e-4)


def test_a_table_has_a_row_a_model_and_differences_to_the_first(score: Score, folder: Path) -> None:
    words = ("--task", "demo_pick", "--task", "demo_reverse", "--include", DEMO, "--limit", 30)
    code, out, err = score(BASE, PICK, REVERSE, *words)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "demo_pick: 30 documents, 0-shot"
    assert lines[1].split()[:2] == ["model", "acc"]
    assert "acc less base's (95 %)" in lines[1]
    assert [row.split()[0] for row in lines[2:5]] == ["base", "pick", "reverse"]
    assert lines[3].split()[1:4] == ["1.0000", "±", "0.0000"]
    assert "mean over 2 tasks of the first metric" in lines
    assert [row.partition(":")[0] for row in err.splitlines()] == ["base", "pick", "reverse"]
    data = record(score(BASE, PICK, "--json", *words))
    first, second = (model["tasks"]["demo_pick"]["metrics"]["acc,none"] for model in data["models"])
    assert first["difference"] is None
    assert second["difference"]["mean"] == pytest.approx(second["value"] - first["value"])
    assert second["difference"]["low"] <= second["difference"]["mean"] <= second["difference"]["high"]
    means = [model["mean"]["value"] for model in data["models"]]
    each = [[task["metrics"] for task in model["tasks"].values()] for model in data["models"]]
    assert means == pytest.approx([sum(next(iter(m.values()))["value"] for m in both) / 2 for both in each])
    assert data["models"][1]["mean"]["difference"]["mean"] == pytest.approx(means[1] - means[0])


def test_less_is_better_keeps_its_sign(score: Score, folder: Path) -> None:
    data = record(score(BASE, SORT, "--task", "whole,ending", "--include", folder, "-L", 20, "--json"))
    for task, name in (
        ("whole", "word_perplexity,none"),
        ("whole", "bits_per_byte,none"),
        ("ending", "perplexity,none"),
    ):
        first, second = (model["tasks"][task]["metrics"][name] for model in data["models"])
        assert second["difference"]["mean"] == pytest.approx(second["value"] - first["value"], rel=1e-6)
        assert first["value"] > 0
        assert first["stderr"] > 0
    assert data["models"][0]["mean"] is None  # a word's perplexity and a document's are unlike


RECIPES: dict[str, dict[str, Any]] = {
    "in memory": {
        "merge_method": "task_arithmetic",
        "base_model": BASE,
        "models": [{"model": model, "parameters": {"weight": 0.4}} for model in (REVERSE, SORT)],
        "dtype": "float32",
        "out_dtype": "bfloat16",
    },
    "other layers": {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": SORT, "layer_range": [0, 4]}]},
            {"sources": [{"model": REVERSE, "layer_range": [3, 6]}]},
        ],
    },
    "a template of its own": {
        "merge_method": "linear",
        "models": [{"model": model, "parameters": {"weight": 0.5}} for model in (REVERSE, SORT)],
        "chat_template": CHAT,
        "dtype": "float32",
    },
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_scores_as_its_checkpoint_does(score: Score, tmp_path: Path, name: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPES[name]), encoding="utf-8")
    merge_to_folder(Recipe.model_validate(RECIPES[name]), tmp_path / "merged")
    words = ["--task", "demo_sort,demo_pick", "--include", DEMO, "--limit", 20, "--json", "--samples"]
    words += ["--apply-chat-template"] * (name == "a template of its own")
    models = record(score(recipe, tmp_path / "merged", *words))["models"]
    assert [model["label"] for model in models] == ["recipe.yaml", "merged"]
    assert models[0]["samples"] == models[1]["samples"]
    assert not list(tmp_path.glob("*.unfinished*"))
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.yaml", "merged"}


def test_several_merges_in_one_file_are_one_model(score: Score, tmp_path: Path) -> None:
    inner = RECIPES["in memory"] | {"name": "inner"}
    outer = {"merge_method": "linear", "models": [{"model": "inner", "parameters": {"weight": 1.0}}]}
    recipe = tmp_path / "both.yaml"
    recipe.write_text(yaml.safe_dump_all([inner, outer]), encoding="utf-8")
    (tmp_path / "inner.yaml").write_text(yaml.safe_dump(RECIPES["in memory"]), encoding="utf-8")
    words = ("--task", "demo_sort", "--include", DEMO, "--limit", 20, "--json", "--samples")
    models = record(score(recipe, tmp_path / "inner.yaml", *words))["models"]
    assert models[0]["samples"] == models[1]["samples"]


def lora(folder: Path) -> str:
    """A large adapter of the base's first query projection."""
    folder.mkdir()
    name, width = "model.layers.0.self_attn.q_proj", 0
    weight = load_file(f"{BASE}/model.safetensors")[f"{name}.weight"]
    width, generator = weight.shape[1], torch.Generator().manual_seed(0)
    stem = f"base_model.model.{name}"
    factors = {
        f"{stem}.lora_A.weight": torch.randn(2, width, generator=generator),
        f"{stem}.lora_B.weight": torch.randn(weight.shape[0], 2, generator=generator),
    }
    save_file(factors, folder / "adapter_model.safetensors")
    plain = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "bias": "none", "rank_pattern": {}, "alpha_pattern": {}}
    (folder / "adapter_config.json").write_text(json.dumps(plain))
    return str(folder)


def test_an_adapter_scores_as_what_it_makes_of_its_base(score: Score, tmp_path: Path) -> None:
    adapted = f"{BASE}+{lora(tmp_path / 'lora')}"
    recipe = {"merge_method": "passthrough", "models": [{"model": adapted}], "out_dtype": "float32"}
    merge_to_folder(Recipe.model_validate(recipe), tmp_path / "merged")
    words = ("--task", "demo_reverse,demo_pick", "--include", DEMO, "--limit", 20, "--json", "--samples")
    models = record(score(adapted, tmp_path / "merged", BASE, *words))["models"]
    assert models[0]["samples"] == models[1]["samples"]
    assert models[0]["samples"] != models[2]["samples"]


def broken(folder: Path) -> str:
    """The base with NaN in its first norm."""
    shutil.copytree(BASE, folder)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("input_layernorm.weight"))
    tensors[name] = torch.full_like(tensors[name], torch.nan)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def test_one_bad_model_costs_no_other(score: Score, tmp_path: Path) -> None:
    shutil.copytree(SORT, tmp_path / "silent", ignore=shutil.ignore_patterns("tokenizer*", "special_tokens*"))
    models = (broken(tmp_path / "nan"), BASE, tmp_path / "silent", "no/such-model-anywhere", PICK)
    output = tmp_path / "scores.json"
    words = ("--task", "demo_pick", "--include", DEMO, "--limit", 10, "--output", output)
    code, out, err = score(*models, *words)
    assert code == 2
    assert "Traceback" not in err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    assert "such-model-anywhere: no such folder, and not to be had from the Hub" in err.splitlines()
    expected = (("nan", "NaN"), ("silent", "tokenizer"), ("no/such-model-anywhere", "Hub"))
    for line, parts in zip(errors, expected, strict=True):
        assert all(part in line for part in parts), line
    assert [row.split()[0] for row in out.splitlines()[2:4]] == ["base", "pick"]
    assert "less base's" in out
    assert out.count("not scored") == 3
    data = json.loads(output.read_text())
    assert [model["error"] is None for model in data["models"]] == [False, True, False, False, True]
    assert data["compared_with"] == BASE
    assert data["complete"] is True


def test_json_is_printed_where_no_model_can_be_scored(score: Score, tmp_path: Path) -> None:
    code, out, err = score(broken(tmp_path / "nan"), "--task", "demo_pick", "--include", DEMO, "--limit", 2, "--json")
    assert code == 2
    data = json.loads(out)
    assert (data["complete"], data["compared_with"]) == (True, None)
    assert data["models"][0]["error"] in err
    assert "NaN" in err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("cannot reshape"), "base: cannot be scored (ValueError: cannot reshape)"),
        (RuntimeError("mat1 and mat2\nshapes"), "base: cannot be scored (RuntimeError: mat1 and mat2 shapes)"),
        (RuntimeError("can't allocate memory: you tried"), "base: memory ran out"),
    ],
)
def test_what_nobody_foresaw_costs_one_model(
    score: Score, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    ask = Scorer.score
    asked: list[object] = []

    def failing(self: Any, *given: Any) -> Any:
        asked.append(self)
        if len(asked) == 1:
            raise error
        return ask(self, *given)

    monkeypatch.setattr(Scorer, "score", failing)
    code, out, err = score(BASE, PICK, "--task", "demo_pick", "--include", DEMO, "--limit", 5, "--json")
    assert code == 2
    assert said in err
    assert "Traceback" not in err
    assert [model["error"] is None for model in json.loads(out)["models"]] == [False, True]


def test_encoder_decoders_score_as_in_lm_eval(score: Score, folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(BASE)
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    ends = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    config = T5Config(vocab_size=len(tokenizer), **sizes, **ends)
    made = T5ForConditionalGeneration(config)
    for parameter in made.parameters():  # for answers that differ between documents
        parameter.data.mul_(3)
    made.save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    words = ("--tasks", "choose,write", "--include", folder, "--limit", 20, "--json", "--samples")
    (model,) = record(score(tmp_path / "t5", *words))["models"]
    theirs = stock(str(tmp_path / "t5"), folder, ["choose", "write"], limit=20, bootstrap_iters=0)
    accuracies = [model["samples"]["choose"][str(document)]["acc,none"] for document in range(20)]
    expected = {sample["doc_id"]: sample["acc"] for sample in theirs["samples"]["choose"]}
    assert accuracies == [expected[document] for document in range(20)]
    assert set(accuracies) == {0.0, 1.0}
    value = model["tasks"]["write"]["metrics"]["exact_match,whole"]["value"]
    assert value == theirs["results"]["write"]["exact_match,whole"]


BAD: dict[str, tuple[list[object], str]] = {
    "no task": ([BASE], "--task: none given"),
    "unknown task": ([BASE, "--task", "demo_pik", "--include", DEMO], "did you mean 'demo_pick'"),
    "twice a task": ([BASE, "--task", "demo_pick,demo_pick", "--include", DEMO], "named 2 times"),
    "no folder": ([BASE, "--task", "demo_pick", "--include", DEMO / "nowhere"], "is not a folder"),
    "limit": ([BASE, "--task", "demo_pick", "--limit", "-3"], "--limit (-3): give 1 or more"),
    "shots": ([BASE, "--task", "demo_pick", "--num-fewshot", "-1"], "--num-fewshot (-1): give 0 or more"),
    "share": ([BASE, "--task", "demo_pick", "--limit", "0.1"], "--limit (0.1): is no number of documents; give one"),
    "batch": ([BASE, "--task", "demo_pick", "--batch-tokens", "0"], "--batch-tokens (0): give 32 or more"),
    "metric": (
        [BASE, "--task", "demo_pick", "--include", DEMO, "--metric", "exact_match", "--limit", 2],
        "--metric (exact_match): no task has it (demo_pick: acc,none)",
    ),
    "dtype": ([BASE, "--task", "demo_pick", "--dtype", "float23"], "did you mean 'float32'"),
    "device": ([BASE, "--task", "demo_pick", "--device", "cuda:77"], "--device (cuda:77): cannot be used here"),
    "unit": ([BASE, "--task", "demo_pick", "--loglikelihood-unit", "word"], "give token or byte"),
    "settings": ([BASE, "--task", "demo_pick", "--gen-kwargs", "temperature"], "is no name=value"),
    "twice a model": ([BASE, f"{BASE}/../base", "--task", "demo_pick"], "is given twice"),
    "output": ([BASE, "--task", "demo_pick", "--output", DEMO / "no" / "scores.json"], "its folder does not exist"),
    "no model": (["no/such-model-anywhere", "--task", "demo_pick", "--include", DEMO], "no such folder"),
    "no recipe": (["nowhere.yaml", "--task", "demo_pick", "--include", DEMO], "nowhere.yaml: cannot be read"),
    "unknown task of a model on the Hub": (["no/such-model-anywhere", "--task", "arc_eazy"], "did you mean 'arc_easy'"),
    "no room": (
        [BASE, "--task", "demo_reverse", "--include", DEMO, "--limit", 2, "--max-length", 4],
        "generates up to 10 tokens, but the context has room for 4; raise --max-length",
    ),
    "no template": (
        [BASE, "--task", "demo_pick", "--include", DEMO, "--apply-chat-template"],
        "its tokenizer has no chat template",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_one_message(score: Score, name: str) -> None:
    words, message = BAD[name]
    code, out, err = score(*words)
    assert (code, out) == (2, ""), err
    assert message in err
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if line]) == 1, err


def test_documents_that_are_cut_are_counted(score: Score, folder: Path) -> None:
    words = ("--task", "choose", "--include", folder, "--limit", 20, "--max-length", 20)
    code, out, err = score(BASE, *words)
    assert code == 0, err
    (model,) = record(score(BASE, *words, "--json"))["models"]
    cut = model["tasks"]["choose"]["cut_documents"]
    assert 0 < cut < 20
    assert out.splitlines()[1].split()[-1] == "cut"
    assert out.splitlines()[2].split()[-1] == str(cut)


def test_a_group_stands_for_its_tasks(score: Score, tmp_path: Path) -> None:
    group = {"group": "both", "task": ["demo_pick", "demo_sort"]}
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(group), encoding="utf-8")
    words = ("--include", DEMO, "--include", tmp_path, "--limit", 10, "--json", "--samples")
    grouped, named = (record(score(BASE, "--task", each, *words)) for each in ("both", "demo_pick,demo_sort"))
    assert list(grouped["tasks"]) == ["demo_pick", "demo_sort"]
    assert grouped["models"][0]["samples"] == named["models"][0]["samples"]
    assert grouped["models"][0]["mean"] == named["models"][0]["mean"]


def test_a_metric_can_be_put_first(score: Score, folder: Path) -> None:
    words = ("--task", "choose", "--include", folder, "--limit", 10)
    plain, asked = score(BASE, SORT, *words)[1], score(BASE, SORT, *words, "--metric", "acc_norm")[1]
    assert [each.splitlines()[1].split()[1] for each in (plain, asked)] == ["acc", "acc_norm"]
    assert "acc_norm less base's" in asked
    assert "acc_norm less base's" not in plain


def test_what_is_not_done_is_told_once(score: Score, folder: Path, tmp_path: Path) -> None:
    same = {key: value for key, value in TASKS["write"].items() if key != "filter_list"}
    write_task(tmp_path, "again", text_documents(40), **same)
    write_task(tmp_path, "fixed", text_documents(5, seed=3), num_fewshot=0, **same)
    words = ("--task", "write,again,fixed", "--include", folder, "--include", tmp_path, "-f", 1, "-L", 3, "--json")
    code, out, err = score(BASE, SORT, *words)
    assert code == 0, err
    data = json.loads(out)
    assert [note.partition(";")[0] for note in data["notes"]] == [
        "fixed: --num-fewshot 1 is not applied, since the task's file says num_fewshot: 0, which lm-eval keeps",
        "3 documents of again are also in write",
    ]
    assert [line for line in err.splitlines() if line.startswith("note: ")] == [f"note: {n}" for n in data["notes"]]
    assert data["settings"]["include"] == [str(folder), str(tmp_path)]
    assert data["versions"]["torch"] == metadata.version("torch")


@pytest.mark.parametrize(
    "reference", ["org/model", "org/a+org/b", "org/model@refs/pr/1", "gpt2", BASE, f"{BASE}+org/b"]
)
def test_what_may_be_had_from_the_hub_is_not_missed(reference: str) -> None:
    assert problem_of(reference) is None


def test_what_cannot_be_scored_is_told_before_anything_is(score: Score, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"merge_method: linear\nmodels: [{{model: {tmp_path}/gone}}, {{model: {BASE}}}]")
    words = ("--task", "demo_pick", "--include", DEMO, "--limit", 4)
    code, out, err = score(BASE, recipe, tmp_path / "none.yaml", *words, "--samples", "--gen-kwargs", "temperature=0")
    assert code == 2
    notes = [line.removeprefix("note: ") for line in err.partition("base: ")[0].splitlines() if "note: " in line]
    assert [note.partition(" (")[0] for note in notes] == [
        f"will not be scored: {tmp_path}/gone: there is no such folder",
        f"will not be scored: {tmp_path}/none.yaml: cannot be read",
        "--samples has no effect without --json or --output",
        "--gen-kwargs has no effect: none of the tasks generates text",
    ]
    assert err.count("error: ") == 2
    assert "demo_pick: 4 documents" in out


@pytest.mark.parametrize(
    ("value", "sign", "printed"),
    [
        (1174072223597662436327424.0, "", "1.174e+24"),
        (-2e6, "+", "-2e+06"),
        (0.25, "+", "+0.2500"),
        (float("inf"), "", "inf"),
    ],
)
def test_numbers_fit_into_columns(value: float, sign: str, printed: str) -> None:
    assert short(value, sign) == printed


def test_tokenizers_that_differ_are_told(score: Score, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(SORT, other)
    content = json.loads((other / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(content))
    (other / "chat_template.jinja").write_text(CHAT)
    shutil.copytree(BASE, tmp_path / "mine")
    (tmp_path / "mine" / "chat_template.jinja").write_text(CHAT + "\n")
    words = ("--task", "choose", "--include", folder, "--limit", 5, "--apply-chat-template")
    code, out, err = score(tmp_path / "mine", other, *words)
    assert code == 0, err
    assert "note: other has other tokens than mine" in out
    assert "note: other has another chat template than mine" in out
    assert "tokens" not in score(tmp_path / "mine", other, *words, "--loglikelihood_unit", "byte")[1]


@pytest.mark.parametrize(
    ("texts", "settings"),
    [
        (["max_gen_toks=64,do_sample=false"], {"max_gen_toks": 64, "do_sample": False}),
        (["until=['a,b', 'c'],temperature=1e-1"], {"until": ["a,b", "c"], "temperature": 0.1}),
        (['{"until": ["x"], "top_p": null}'], {"until": ["x"], "top_p": None}),
        (["a=1", "a=2,b='3'"], {"a": 2, "b": "3"}),
        (["name=some text,other=None"], {"name": "some text", "other": None}),
    ],
)
def test_settings_for_generation_are_read_as_lm_eval_does(texts: list[str], settings: dict[str, Any]) -> None:
    assert gen_kwargs(texts) == settings


@pytest.mark.parametrize("text", ["x", "=1", "{a: 1}", '{"a": 1'])
def test_settings_for_generation_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--gen-kwargs"):
        gen_kwargs([text])


@pytest.mark.parametrize(
    ("references", "short"),
    [
        (["a/base", "b/sort"], ["base", "sort"]),
        (["x/one/checkpoint", "x/two/checkpoint"], ["one/checkpoint", "two/checkpoint"]),
        (["org/model", "org/model@v2"], ["model", "model@v2"]),
        (["m", "x/m"], ["m", "x/m"]),
        (["x/one/m", "x/two/m", "best.yaml"], ["one/m", "two/m", "best.yaml"]),
    ],
)
def test_labels_are_as_short_as_they_can_be(references: list[str], short: list[str]) -> None:
    assert labels(references) == short
