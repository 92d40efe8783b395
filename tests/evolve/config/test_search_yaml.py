"""search.yaml: every mistake has its line, all at once, and nothing but a valid configuration gets through."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evolve.config.search_yaml import SearchConfig, describe, load_config
from evolve.errors import ConfigError
from evolve.optimizers import OPTIMIZERS

WHOLE: dict[str, Any] = {
    "name": "three-skills",
    "seed": 7,
    "models": {"base": "org/base", "sources": ["org/math", "org/base+org/lora"]},
    "space": {
        "method": ["ties", "slerp"],
        "layers": 4,
        "modules": ["mlp"],
        "parameters": {"weight": {"low": 0, "high": 1.5}, "normalize": False, "density": [0.1, 0.5], "t": 0.5},
        "out_dtype": "bfloat16",
    },
    "score": {
        "tasks": [{"task": "sums", "metric": "acc", "weight": 2}, {"task": "colours", "metric": "acc"}],
        "include": ["my_tasks/"],
        "documents": {"search": 10, "selection": 20, "report": 30},
        "batch_tokens": 4096,
        "objective": {"metric": 1.0, "loglikelihood": 0.2},
        "gen_kwargs": {"max_gen_toks": 8},
    },
    "search": {"optimizer": "tpe", "trials": 12, "hours": 0.5, "population": 6},
    "run": {"workers": 2, "output": "out", "storage": "postgresql://u:p@h/db"},
}
SMALL: dict[str, Any] = {
    "name": "a",
    "models": {"base": "b", "sources": ["s"]},
    "score": {"tasks": [{"task": "t", "metric": "acc"}]},
}
REMOVE = object()


def changed(changes: dict[str, Any], whole: dict[str, Any] = WHOLE) -> dict[str, Any]:
    """A copy with values put at dotted paths (numbers are places in lists)."""
    data = copy.deepcopy(whole)
    for path, value in changes.items():
        *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
        node: Any = data
        for part in parents:
            node = node[part]
        if value is REMOVE:
            del node[last]
        else:
            node[last] = value
    return data


def load(tmp_path: Path, data: Any) -> SearchConfig:
    path = tmp_path / "search.yaml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data), encoding="utf-8")
    return load_config(path)


def problems(tmp_path: Path, data: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, data)
    prefix = f"{tmp_path / 'search.yaml'}: "
    lines = str(caught.value).splitlines()
    assert all(line.startswith(prefix) for line in lines), lines
    return [line.removeprefix(prefix) for line in lines]


def test_a_whole_and_a_small_file_are_valid(tmp_path: Path) -> None:
    whole = load(tmp_path, WHOLE)
    assert whole.space.method == ("ties", "slerp")
    assert whole.folder == Path("out/three-skills")
    assert load(tmp_path, SMALL).search.trials == 200
    assert load(tmp_path, changed({"space": {"method": "slerp"}}, SMALL)).space.method == ("slerp",)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("sead", "sead: unknown key; did you mean 'seed'?"),
        ("models/bas", "models.bas: unknown key; did you mean 'base'?"),
        ("space/methods", "space.methods: unknown key; did you mean 'method'?"),
        ("space/parameters/weight/hihg", "space.parameters.weight.hihg: unknown key; did you mean 'high'?"),
        ("score/task", "score.task: unknown key; did you mean 'tasks'?"),
        ("score/tasks/1/wieght", "score.tasks[1].wieght: unknown key; did you mean 'weight'?"),
        ("score/documents/serach", "score.documents.serach: unknown key; did you mean 'search'?"),
        ("str", "str: unknown key; known here: name, seed, models, space, score, search, run"),
        ("<", "<: unknown key; known here: name, seed, models, space, score, search, run"),
        ("search/trails", "search.trails: unknown key; did you mean 'trials'?"),
        ("run/worker", "run.worker: unknown key; did you mean 'workers'?"),
    ],
)
def test_unknown_keys_are_refused_at_every_level(tmp_path: Path, path: str, line: str) -> None:
    assert problems(tmp_path, changed({path: 3})) == [line]


def test_what_several_keys_say_together_is_told_without_one(tmp_path: Path) -> None:
    (told,) = problems(tmp_path, changed({"search/sample": 64, "score/documents/search": 32}))
    assert told.startswith("search.sample (64) is drawn from score.documents.search (32), which are fewer; ")


def test_a_key_like_no_other_gets_the_list(tmp_path: Path) -> None:
    assert problems(tmp_path, changed({"models/zzz": 1})) == ["models.zzz: unknown key; known here: base, sources"]
    assert problems(tmp_path, changed({"space/layers": {"smooth": 3, "knotz": 1}})) == [
        "space.layers.knotz: unknown key; known here: smooth"
    ]


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        ("name", 3, "name"),
        ("name", "a/b", "name"),
        ("name", "", "name"),
        ("name", "../a", "name"),
        ("seed", -1, "seed"),
        ("seed", 1.5, "seed"),
        ("seed", "1", "seed"),
        ("models", [], "models"),
        ("models", None, "models"),
        ("models/base", 1, "models.base"),
        ("models/sources", [], "models.sources"),
        ("models/sources", "org/math", "models.sources"),
        ("models/sources/1", 5, "models.sources[1]"),
        ("models/sources/1", "org/math", "models"),
        ("models/sources/1", "org/base", "models"),
        ("space/method", [], "space.method"),
        ("space/method", ["ties", "ties"], "space.method"),
        ("space/method", 3, "space.method"),
        ("space/method", [3], "space.method[0]"),
        ("space/layers", 0, "space.layers"),
        ("space/layers", True, "space.layers"),
        ("space/layers", 1.5, "space.layers"),
        ("space/layers", [1], "space.layers"),
        ("space/layers", "each", "space.layers"),
        ("space/layers", {"smooth": 1}, "space.layers.smooth"),
        ("space/modules", "mlp", "space.modules"),
        ("space/parameters", [], "space.parameters"),
        ("space/parameters/weight", {"low": 1.0, "high": 1.0}, "space.parameters.weight"),
        ("space/parameters/weight", {"low": 2, "high": 1}, "space.parameters.weight"),
        ("space/parameters/weight", {"low": 0, "high": float("inf")}, "space.parameters.weight.high"),
        ("space/parameters/weight", {"low": float("nan"), "high": 1}, "space.parameters.weight.low"),
        ("space/parameters/weight", {"low": "0", "high": 1}, "space.parameters.weight.low"),
        ("space/parameters/weight", float("inf"), "space.parameters.weight"),
        ("space/parameters/weight", [], "space.parameters.weight"),
        ("space/parameters/weight", [0.1, 0.1], "space.parameters.weight"),
        ("space/out_dtype", "float64", "space.out_dtype"),
        ("score/tasks", [], "score.tasks"),
        ("score/tasks/1/task", "sums", "score"),
        ("score/tasks/0/weight", 0, "score.tasks[0].weight"),
        ("score/tasks/0/weight", float("inf"), "score.tasks[0].weight"),
        ("score/tasks/0/num_fewshot", -1, "score.tasks[0].num_fewshot"),
        ("score/documents/search", 1, "score.documents.search"),
        ("score/documents", 100, "score.documents"),
        ("score/objective", "likelihood", "score.objective"),
        ("score/dtype", "int8", "score.dtype"),
        ("score/objective", {"metric": -1.0}, "score.objective.metric"),
        ("score/objective", {"metric": 0.0}, "score.objective"),
        ("score/objective", {"metrics": 1.0}, "score.objective.metrics"),
        ("score/objective", ["metric"], "score.objective"),
        ("score/loglikelihood_unit", "word", "score.loglikelihood_unit"),
        ("score/gen_kwargs", "max_gen_toks=8", "score.gen_kwargs"),
        ("score/gen_kwargs", {"until": b"x"}, "score.gen_kwargs"),
        ("score/batch_tokens", 0, "score.batch_tokens"),
        ("score/allow_benchmarks", "yes", "score.allow_benchmarks"),
        ("score/allow_benchmarks", 1, "score.allow_benchmarks"),
        ("search/trials", 0, "search.trials"),
        ("search/trials", 10.0, "search.trials"),
        ("search/hours", 0, "search.hours"),
        ("search/documents", 0, "search.documents"),
        ("search/population", 1, "search.population"),
        ("search/finalists", 0, "search.finalists"),
        ("run/workers", 0, "run.workers"),
        ("run/workers", "many", "run.workers"),
        ("run/workers", True, "run.workers"),
        ("run/storage", 3, "run.storage"),
        ("run/address", "nowhere", "run.address"),
        ("run/address", "head", "run.address"),
        ("run/address", "ray://head", "run.address"),
        ("run/address", "http://head:8265", "run.address"),
        ("run/trackers", ["mlflow", "mlflw"], "run.trackers"),
        ("search/optimizer", "cmaa", "search.optimizer"),
    ],
)
def test_wrong_values_name_their_key(tmp_path: Path, path: str, value: Any, where: str) -> None:
    (line,) = problems(tmp_path, changed({path: value}))
    assert line.startswith(f"{where}: "), line
    assert "<" not in line, "a name of ours in the message"


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("name", "name"),
        ("models", "models"),
        ("models/base", "models.base"),
        ("models/sources", "models.sources"),
        ("score", "score"),
        ("score/tasks", "score.tasks"),
        ("score/tasks/1/metric", "score.tasks[1].metric"),
        ("space/parameters/weight/low", "space.parameters.weight.low"),
    ],
)
def test_missing_keys(tmp_path: Path, path: str, where: str) -> None:
    assert problems(tmp_path, changed({path: REMOVE})) == [f"{where}: is missing; see `evolve show config`"]


def test_all_problems_at_once(tmp_path: Path) -> None:
    broken = changed(
        {
            "name": "a b",
            "models/base": REMOVE,
            "space/parameters/weight": {"low": 2, "high": 1},
            "score/tasks/0/weight": -1,
            "score/tasks/1/metrik": "acc",
            "search/trials": "many",
            "runn": {},
        }
    )
    lines = problems(tmp_path, broken)
    assert [line.split(": ")[0] for line in sorted(lines)] == sorted(
        [
            "models.base",
            "name",
            "runn",
            "score.tasks[0].weight",
            "score.tasks[1].metrik",
            "search.trials",
            "space.parameters.weight",
        ]
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment\n",
        "- a\n- b\n",
        "just words",
        "3",
        "name: [1, 2",
        "name: a\n\tmodels: b",
        "a: b: c",
        "name: 2020-13-45",
        "name: !!int x",
        "name: !!timestamp x",
        "name: !!bool maybe",
        "name: !!python/object/apply:os.system [ls]",
        "name: \x00",
        "? [a]\n: b",
        "1: 2\nnull: 3\n",
        "name: &x [*x]",
        "models: &x {base: *x, sources: *x}",
        "a: " + "[" * 3000,
    ],
)
def test_files_that_hold_something_else(tmp_path: Path, text: str) -> None:
    lines = problems(tmp_path, text)
    assert lines


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"is a folder; give the path of a search\.yaml$"):
        load_config(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/search.yaml").touch()
    with pytest.raises(ConfigError, match=rf"a folder; give the path of a search\.yaml: {tmp_path}/run/search.yaml$"):
        load_config(tmp_path / "run")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "latin.yaml")


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, yaml.safe_dump(SMALL) + "name: other\n")
    assert "name" in line
    assert "twice" in line


def test_the_password_of_a_storage_is_not_shown(tmp_path: Path) -> None:
    lines = problems(tmp_path, changed({"run/storage": ["postgresql://u:secret@h/db"], "run/sotrage": "x"}))
    assert "run.sotrage: unknown key; did you mean 'storage'?" in lines
    assert "secret" not in "\n".join(lines)


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 10**20)
    | st.floats()
    | st.sampled_from(["ties", "auto", "per_layer", "float32", "a", "", "2020-01-01", "<range>", "null", "é☃"])
    | st.dates()
    | st.binary(max_size=3)
)
keys = st.sampled_from(["name", "models", "base", "sources", "low", "high", "smooth", "tasks", "x"]) | st.integers(0, 3)
garbage = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=10
)


def places(node: Any, prefix: str = "") -> list[str]:
    """Every dotted path of a nested value."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    found = []
    for key, value in items:
        found += [f"{prefix}{key}", *places(value, f"{prefix}{key}/")]
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_garbage_anywhere_is_a_config_error_or_a_valid_config(tmp_path: Path, data: st.DataObject) -> None:
    place = data.draw(st.sampled_from([*places(WHOLE), ""]))
    value = data.draw(garbage)
    broken = value if place == "" else changed({place: value})
    try:
        config = load(tmp_path, yaml.safe_dump(broken))
    except ConfigError:
        return
    again = load(tmp_path, yaml.safe_dump(config.model_dump(mode="json"), allow_unicode=True))
    assert again == config


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet="ab:-[]{}'\"&*!|>?%@ \n\t#,0.~", max_size=40))
def test_any_text_is_a_config_error(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, text)


@pytest.mark.parametrize("data", [WHOLE, SMALL, changed({"space/layers": {"smooth": 3}, "run/workers": "auto"})])
def test_a_dumped_configuration_loads_as_the_same(tmp_path: Path, data: dict[str, Any]) -> None:
    config = load(tmp_path, data)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    assert load(tmp_path, text) == config


def test_a_configuration_is_frozen(tmp_path: Path) -> None:
    config = load(tmp_path, SMALL)
    with pytest.raises(ValueError, match="frozen"):
        config.search.trials = 3  # type: ignore[misc]


def test_descriptions_stay_short() -> None:
    problem = {"loc": ("name",), "type": "string_type", "msg": "Input should be a string", "input": ["x" * 500]}
    assert len(describe(problem)) < 200


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "a\nb", "a\u202eb"])
@pytest.mark.parametrize("key", ["models/base", "score/tasks"])
def test_a_name_that_would_steer_a_terminal_is_refused(tmp_path: Path, key: str, name: str) -> None:
    value: Any = [{"task": name, "metric": "acc"}] if key == "score/tasks" else name
    (problem,) = problems(tmp_path, changed({key: value}))
    assert "cannot be printed" in problem
    assert problem.isprintable()


@pytest.mark.parametrize(("optimizer", "able"), [("cma", True), ("kriging", False)])
def test_an_asynchronous_search_draws_no_documents_anew(tmp_path: Path, optimizer: str, able: bool) -> None:
    both = changed({"search/asynchronous": True, "search/sample": 16, "search/optimizer": optimizer})
    (problem,) = problems(tmp_path, both)
    assert "search.sample (16)" in problem
    assert (OPTIMIZERS[optimizer].steady is not None) is able
