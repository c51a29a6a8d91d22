"""What a node of a configuration may say, and what may be built from it."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch

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


@pytest.mark.parametrize("target", ["", ".", "MLP()", "downpour..networks.MLP", None, 3, True])
def test_what_is_not_the_name_of_a_class(target: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        check({"optimizer": {"_target_": target, "lr": 0.1}})
    advice = "must be the full name of a class, such as torch.nn.ReLU"
    assert str(caught.value) == f"optimizer._target_={target}: {advice}"


def test_it_is_refused_at_any_depth() -> None:
    node = {"_target_": "downpour.networks.MLP", "hidden": [{"a": [{"_target_": "os.system", "command": "true"}]}]}
    with pytest.raises(ConfigError, match=r"^model\.hidden\.0\.a\.0\._target_=os\.system: would build a class which"):
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
