"""What a whole configuration may say, and how a wrong one is answered."""

from typing import Any

import pytest
from tests.worlds import composed

from downpour.config import ConfigError, show
from downpour.validation import validate


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return composed()


def changed(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy in which one dotted key has another value."""
    name, _, rest = key.partition(".")
    return {**config, name: changed(config[name], rest, value) if rest else value}


def complaint(config: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(config)
    message = str(caught.value)
    assert "\n" not in message
    assert "pydantic" not in message
    return message


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("seed", -1, "greater than or equal to 0"),
        ("seed", "a", "integer"),
        ("seed", 1.5, "integer"),
        ("seed", None, "integer"),
        ("total_env_steps", 0, "greater than or equal to 1"),
        ("total_env_steps", "many", "integer"),
        ("eval_every", -5, "greater than or equal to 1"),
        ("eval_episodes", 0, "greater than or equal to 1"),
        ("resume", 5, "string"),
        ("algo.gamma", 1.5, "less than or equal to 1"),
        ("algo.gamma", -0.1, "greater than or equal to 0"),
        ("algo.gamma", float("nan"), "nan"),
        ("algo.gamma", "high", "number"),
        ("algo.gamma", [0.9], "number"),
        ("algo.gamma", None, "number"),
        ("algo.loss", "l2", "'squared' or 'huber'"),
        ("algo.clip_td_error", -1, "greater than 0"),
        ("algo.clip_td_error", "x", "number"),
        ("algo.gradient_clip", 0, "greater than 0"),
        ("algo.evaluation_epsilon", 1.01, "less than or equal to 1"),
        ("algo.target_every", 0, "greater than or equal to 1"),
        ("algo.target_every", 2.5, "integer"),
        ("algo.target_tau", 0, "greater than 0"),
        ("algo.target_network", "perhaps", "boolean"),
        ("algo.epsilon.steps", -1, "greater than or equal to 0"),
        ("algo.epsilon.start", "x", "number"),
        ("algo.epsilon.start", 1.5, "less than or equal to 1"),
        ("algo.epsilon.end", -0.1, "greater than or equal to 0"),
        ("data.num_envs", 0, "greater than or equal to 1"),
        ("data.num_envs", "8x", "integer"),
        ("data.learning_starts", -1, "greater than or equal to 0"),
        ("data.storage", "tape", "'memory' or 'disk'"),
        ("data.replay", 7, "boolean"),
        ("data.priority_exponent", 0, "greater than 0"),
        ("data.importance_exponent", 2, "less than or equal to 1"),
        ("model.hidden", 64, "list"),
        ("model.hidden", [64, -1], "greater than or equal to 1"),
        ("model.hidden", [64, "a"], "integer"),
        ("model.activation", "swish", "'relu', 'tanh', 'elu', 'gelu' or 'silu'"),
        ("optimizer.lr", -1, "greater than 0"),
        ("optimizer.lr", "abc", "number"),
        ("optimizer.lr", float("inf"), "finite"),
        ("optimizer.betas", [0.9, 2], "less than or equal to 1"),
        ("optimizer.eps", -1, "greater than or equal to 0"),
        ("env.vectorization", "vector", "'auto', 'sync', 'async' or 'table'"),
        ("env.max_episode_steps", 0, "greater than or equal to 1"),
        ("env.kwargs", "x", "dict"),
        ("callbacks.evaluation.num_envs", 0, "greater than or equal to 1"),
        ("callbacks.checkpoint.maximize", "up", "boolean"),
        ("callbacks.progress.refresh_seconds", 0, "greater than 0"),
        ("trainer.accelerator", "tpu", "'cpu' or 'gpu'"),
        ("trainer.precision", "8", "32-true"),
        ("trainer.threads", 0, "greater than or equal to 1"),
        ("debug.traceback", "maybe", "boolean"),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_what_would_do(
    plain: dict[str, Any], key: str, value: Any, words: str
) -> None:
    message = complaint(changed(plain, key, value))
    assert message.startswith(f"{key}={show(value)}: must ")
    assert words in message


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("algo.gama", "gamma"),
        ("algo.target_ever", "target_every"),
        ("algo.epsilon.step", "steps"),
        ("data.batchsize", "batch_size"),
        ("model.hiden", "hidden"),
        ("optimizer.l", "lr"),
        ("env.vectorisation", "vectorization"),
        ("callbacks.evaluation.num_env", "num_envs"),
        ("trainer.device", "devices"),
        ("debug.trace", "traceback"),
        ("total_env_step", "total_env_steps"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(plain: dict[str, Any], key: str, near: str) -> None:
    message = complaint(_with(plain, key, 3))
    assert message.startswith(f"{key}=3: ")
    assert "no such" in message and message.endswith(f"; did you mean {near}?")


def _with(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    name, _, rest = key.partition(".")
    return {**config, name: _with(config.get(name, {}), rest, value) if rest else value}


def test_an_unknown_key_that_is_near_nothing(plain: dict[str, Any]) -> None:
    assert complaint(_with(plain, "algo.qqqq", True)) == "algo.qqqq=true: DoubleDQN has no such setting"


def test_a_missing_setting_is_named(plain: dict[str, Any]) -> None:
    config = changed(plain, "algo", {k: v for k, v in plain["algo"].items() if k != "gamma"})
    assert complaint(config) == "algo.gamma is missing: DoubleDQN needs it"


@pytest.mark.parametrize("name", ["observation_space", "network", "run", "environment"])
def test_what_is_handed_in_is_not_required_of_the_yaml(plain: dict[str, Any], name: str) -> None:
    validate(plain)
    assert not any(isinstance(node, dict) and name in node for node in plain.values())


@pytest.mark.parametrize(
    ("key", "given", "becomes"),
    [
        ("total_env_steps", 1e5, 100_000),
        ("total_env_steps", "1e5", None),  # YAML reads it as text, Hydra as a number
        ("data.capacity", 1e6, 1_000_000),
        ("data.capacity", "5000", 5000),
        ("algo.gamma", 1, 1.0),
        ("algo.epsilon.steps", 2e4, 20_000),
        ("optimizer.lr", "1e-3", 1e-3),
        ("model.hidden", [64.0, 32], [64, 32]),
        ("algo.target_network", "false", False),
        ("algo.clip_td_error", None, None),
        ("data.priority_exponent", 1, 1.0),
    ],
)
def test_values_become_what_the_constructor_asks_for(plain: dict[str, Any], key: str, given: Any, becomes: Any) -> None:
    config = changed(plain, key, given)
    if given == "1e5":
        assert complaint(config).startswith("total_env_steps=1e5: must be a valid integer")
        return
    value: Any = validate(config)
    for part in key.split("."):
        value = value[part]
    assert value == becomes
    assert type(value) is type(becomes)


def test_scientific_numbers_of_the_command_line() -> None:
    assert validate(composed("total_env_steps=1e5"))["total_env_steps"] == 100_000


def test_validating_twice_changes_nothing(plain: dict[str, Any]) -> None:
    """A run directory's config.yaml is checked again when the run is resumed."""
    once = validate(plain)
    assert validate(once) == once


def test_an_algorithm_and_data_that_do_not_fit(plain: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from downpour.data import ReplayData

    monkeypatch.setattr(ReplayData, "stream", "pictures")
    assert complaint(plain) == "data=pictures: DoubleDQN learns from data=replay"


@pytest.mark.parametrize("group", ["algo", "data", "trainer"])
def test_a_group_that_builds_nothing_is_named(plain: dict[str, Any], group: str) -> None:
    """As `algo=_value_based` would, which only other files are to name."""
    broken = changed(plain, group, {k: v for k, v in plain[group].items() if k != "_target_"})
    assert complaint(broken).startswith(f"{group}._target_ is missing")
