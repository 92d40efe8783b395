"""What names and addresses are told wrong while search.yaml is read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from evolve.config.given import addressed
from evolve.config.names import known_address, known_optimizer, known_trackers
from evolve.config.search_yaml import load_config
from evolve.errors import ConfigError

DEMO = Path(__file__).parents[3] / "tasks/demo/search.yaml"
LOOKING = """
import sys
from pathlib import Path
from evolve.config.search_yaml import load_config
load_config(Path(sys.argv[1]))
print(*{"torch", "ray", "optuna", "transformers"} & {*sys.modules})
"""


@pytest.mark.parametrize(
    "address", ["local", "auto", "head:6379", "10.0.0.1:6379", "[fe80::1]:6379", "ray://head:10001", "my-head.net:1"]
)
def test_the_forms_of_an_address(address: str) -> None:
    assert known_address(address) == address


def test_a_job_servers_address_is_told_apart() -> None:
    with pytest.raises(ValueError, match="is the address of a job server, which `evolve submit --address` takes"):
        known_address("http://head:8265")
    with pytest.raises(ValueError, match=r"is no address of a Ray cluster; give auto, host:6379 or ray://") as caught:
        known_address("grpc://me:hunter2@head:1")
    assert "hunter2" not in str(caught.value)
    for secret in ("?token=hunter2", "?token=me@hunter2"):
        with pytest.raises(ValueError, match="is the address of a job server") as caught:
            known_address(f"http://me:s@h:8265/{secret}")
        assert "hunter2" not in str(caught.value)


def test_an_address_that_a_command_gives() -> None:
    config = load_config(DEMO)
    assert addressed(config, None) is config
    assert addressed(config, "head:6379").run.address == "head:6379"
    with pytest.raises(ConfigError, match=r"^--address: 'nowhere' is no address"):
        addressed(config, "nowhere")


def test_names_are_those_of_the_tables() -> None:
    assert known_optimizer("tpe") == "tpe"
    assert known_trackers(("wandb", "mlflow")) == ("wandb", "mlflow")
    with pytest.raises(ValueError, match="unknown tracker 'wandbb'; did you mean 'wandb'"):
        known_trackers(("mlflow", "wandbb"))


def test_reading_a_configuration_loads_nothing_heavy(tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    text = DEMO.read_text(encoding="utf-8").replace("optimizer: cma", "optimizer: gp")
    path.write_text(text + "\nrun: {trackers: [mlflow, wandb, tensorboard]}\n", encoding="utf-8")
    words = [sys.executable, "-c", LOOKING, str(path)]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "\n"
