"""What a configuration may say, and how a wrong one is answered."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tests.worlds import composed

from downpour.config import (
    ConfigError,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    build,
    check,
    check_arguments,
    locate,
    nearest,
    parameters,
    show,
    targets,
)
from downpour.experiment import validate


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


# Values


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


# What may be built


@pytest.mark.parametrize(
    "target",
    [
        # not of this project
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "numpy.memmap",
        "pathlib.Path",
        "hydra.utils.call",
        "sys",
        "",
        ".",
        # reached through it
        "torch.os.system",
        "downpour.cli.os.system",
        "downpour.cli.sys.exit",
        "downpour.directory.subprocess.run",
        "downpour.cli.Path",
        "lightning.pytorch.trainer.trainer.os.system",
        "gymnasium.logger.sys.exit",
        # of it, and able to run anything
        "torch.hub.load",
        "torch.load",
        "torch.compile",
        "torch.utils.cpp_extension.load",
        "torch.utils.cpp_extension.BuildExtension",
        "torch.utils.data.DataLoader",
        "torch.package.PackageImporter",
        "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler",
        "torch.multiprocessing.spawn",
        "lightning.pytorch.cli.LightningCLI",
        "lightning.pytorch.Trainer",
        "torchrl.envs.GymEnv",
        "gymnasium.make",
        "gymnasium.vector.AsyncVectorEnv",
        # functions of downpour that do something, rather than make a part
        "downpour.directory.write_text",
        "downpour.directory.read_config",
        "downpour.callbacks.checkpoint.read",
        "downpour.callbacks.checkpoint._copy",
        "downpour.launch.launch",
        "downpour.jobs.run",
        "downpour.cli.train",
        # nothing there
        "downpour.nothing",
        "downpour.networks.Nothing",
        "torch.optim.Nothing",
    ],
)
def test_what_may_not_be_built(target: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check({"algo": {"_target_": target, "x": 1}})
    assert str(caught.value).startswith(f"algo._target_={target}: ")
    with pytest.raises(ConfigError):
        build({"_target_": target})


def test_it_is_refused_at_any_depth() -> None:
    node = {"_target_": "downpour.networks.MLP", "hidden": [{"a": [{"_target_": "os.system", "command": "true"}]}]}
    with pytest.raises(ConfigError, match=r"^model\.hidden\.0\.a\.0\._target_=os\.system: only classes of downpour"):
        check({"model": node})


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import downpour.networks

    (tmp_path / "needing.py").write_text("import a_package_nobody_has\n")
    monkeypatch.setattr(downpour.networks, "__path__", [*downpour.networks.__path__, str(tmp_path)])
    with pytest.raises(ConfigError) as caught:
        locate("downpour.networks.needing.Thing", "model")
    message = (
        "model._target_=downpour.networks.needing.Thing: needs the package a_package_nobody_has, which is not installed"
    )
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "target",
    [
        "downpour.networks.MLP",
        "torch.nn.ReLU",
        "torch.optim.AdamW",
        "torch.optim.lr_scheduler.StepLR",
        "lightning.pytorch.strategies.DDPStrategy",
        "lightning.pytorch.callbacks.LearningRateMonitor",
        "lightning.pytorch.loggers.CSVLogger",
        "torchmetrics.Accuracy",
        "gymnasium.wrappers.TimeLimit",
    ],
)
def test_what_may_be_built(target: str) -> None:
    assert locate(target, "x").__name__ == target.rpartition(".")[2]


def make_module(width: PositiveInt) -> torch.nn.Linear:
    return torch.nn.Linear(width, width)


def test_a_function_that_says_what_it_makes_may_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    import downpour.networks

    monkeypatch.setattr(make_module, "__module__", "downpour.networks")
    monkeypatch.setattr(downpour.networks, "make_module", make_module, raising=False)
    node = check({"_target_": "downpour.networks.make_module", "width": 3})
    assert build(node).in_features == 3
    with pytest.raises(ConfigError, match=r"^width=0: must be greater"):
        check({"_target_": "downpour.networks.make_module", "width": 0})


# The pieces


class Parent:
    def __init__(self, given: str, *, size: PositiveInt, rate: NonNegativeFloat = 0.5):
        self.given, self.size, self.rate = given, size, rate


class Child(Parent):
    def __init__(self, *args: Any, kind: Literal["a", "b"] = "a", limit: PositiveFloat | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.kind, self.limit = kind, limit


Parent.__module__ = Child.__module__ = "downpour.networks"


def test_a_class_that_passes_kwargs_on_takes_its_parents_too() -> None:
    assert {"given", "kind", "limit", "rate", "size"} == set(parameters(Child)) - {"self"}
    assert check_arguments(Child, {"size": 2.0, "kind": "b", "rate": 1}, "x") == {"size": 2, "kind": "b", "rate": 1.0}
    with pytest.raises(ConfigError, match=r"^x\.limit=0: must be greater than 0"):
        check_arguments(Child, {"size": 2, "limit": 0}, "x")
    with pytest.raises(ConfigError, match=r"^x\.sise=2: Child has no such setting; did you mean size\?"):
        check_arguments(Child, {"sise": 2}, "x")
    with pytest.raises(ConfigError, match=r"^x\.size is missing: Child needs it"):
        check_arguments(Child, {"kind": "a"}, "x")


def test_build_hands_in_what_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    import downpour.networks

    monkeypatch.setattr(downpour.networks, "Child", Child, raising=False)
    child = build({"_target_": "downpour.networks.Child", "size": 2}, given="here", other="not wanted")
    assert (child.given, child.size, child.rate, child.kind) == ("here", 2, 0.5, "a")


def test_build_goes_into_nodes_lists_and_dictionaries() -> None:
    schedule = {"_target_": "downpour.exploration.Linear", "start": 1, "end": 0, "steps": 2}
    node = {"_target_": "downpour.environments.Gymnasium", "id": "CartPole-v1", "kwargs": {"sutton_barto_reward": True}}
    assert build(node).kwargs == {"sutton_barto_reward": True}
    layers = {
        "_target_": "torch.nn.ModuleList",
        "modules": [{"_target_": "torch.nn.ReLU"}, {"_target_": "torch.nn.ELU"}],
    }
    assert [type(layer) for layer in build(layers)] == [torch.nn.ReLU, torch.nn.ELU]
    assert build(schedule)(1) == 0.5


def test_targets_at_any_depth() -> None:
    assert targets({"a": {"_target_": "x", "b": [{"_target_": "y"}]}, "c": [1, [{"_target_": "z"}]]}) == ["x", "y", "z"]
    assert targets(3) == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "null"), (True, "true"), (False, "false"), (0.5, "0.5"), ("none", "none"), ("None", "None"), ([1], "[1]")],
)
def test_values_are_shown_as_they_are_typed(value: Any, shown: str) -> None:
    assert show(value) == shown


def test_nearest() -> None:
    assert nearest("gama", ["gamma", "epsilon"]) == "; did you mean gamma?"
    assert nearest("xyz", ["gamma", "epsilon"]) == ""
