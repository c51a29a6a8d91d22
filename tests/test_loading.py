"""Which checkpoint a run goes on from, and whose weights may be taken."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training import algorithm, train

from downpour.checkpoints import BEST, LAST, PARTIAL, PREVIOUS, read
from downpour.config import ConfigError
from downpour.directory import read_config
from downpour.environments import Gymnasium
from downpour.loading import find_checkpoint, load_trained, policy_of

SMALL = ("model.hidden=[8]", "env.vectorization=sync")
SHORT = ("total_env_steps=32", "eval_every=32", "data.learning_starts=8", "data.round_steps=4", "logger=csv")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a moment. Not to be written to."""
    directory = tmp_path_factory.mktemp("loading") / "run"
    train(directory, "algo=dqn", *SMALL, *SHORT)
    return directory


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """Its last checkpoint, in a directory of this test's own."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / LAST).write_bytes((run / "checkpoints" / LAST).read_bytes())
    return tmp_path


def spaces(environment: str = "CartPole-v1") -> dict[str, Any]:
    world = Gymnasium(id=environment)
    return {"observation_space": world.observation_space, "action_space": world.action_space}


def test_a_run_ended_before_its_first_checkpoint_starts_again(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("env_steps\n3\n")
    assert find_checkpoint(tmp_path, algorithm(tmp_path, "algo=dqn", *SMALL)) is None
    assert not (tmp_path / "metrics.csv").exists()


def test_a_checkpoint_that_had_not_got_its_name_gets_it(copy: Path) -> None:
    rule, folder = algorithm(copy, "algo=dqn", *SMALL), copy / "checkpoints"
    (folder / PREVIOUS).write_bytes((folder / LAST).read_bytes())
    (folder / LAST).rename(folder / PARTIAL)
    assert find_checkpoint(copy, rule) == folder / LAST
    assert not (folder / PARTIAL).exists()


def test_a_checkpoint_of_something_else_is_refused(copy: Path) -> None:
    with pytest.raises(ConfigError, match=r"^algo=\S+DoubleDQN: .*last.ckpt was written by \S+.DQN"):
        find_checkpoint(copy, algorithm(copy, "algo=double_dqn", *SMALL))
    with pytest.raises(ConfigError, match=r"^model=DQN: the weights in .*last.ckpt are of another shape"):
        find_checkpoint(copy, algorithm(copy, "algo=dqn", "model.hidden=[9]"))


def test_the_weights_of_a_run_are_loaded_with_their_step(run: Path) -> None:
    rule, path, step = load_trained(run, read_config(run, "run"), spaces(), LAST, "run")
    content = read(path)
    assert path.name == LAST and step == content["step"] == 32 and rule.gradient_steps == content["gradient_steps"] > 0
    assert all(torch.equal(value, content["state_dict"][name]) for name, value in rule.state_dict().items())


def test_where_the_first_choice_is_missing_another_is_taken(copy: Path, run: Path) -> None:
    assert load_trained(copy, read_config(run, "run"), spaces(), BEST, "run")[1].name == LAST
    (copy / "checkpoints" / LAST).unlink()
    with pytest.raises(ConfigError, match=r"^run=.*: has no checkpoint yet"):
        load_trained(copy, read_config(run, "run"), spaces(), BEST, "run")


def test_a_policy_of_another_world_is_refused(run: Path) -> None:
    assert type(policy_of(run, spaces())).__name__ == "DQN"
    with pytest.raises(ConfigError, match=r"^algo\.policy=.*: was trained with observation_space Box"):
        policy_of(run, spaces("FrozenLake-v1"))
