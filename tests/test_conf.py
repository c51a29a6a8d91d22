"""The shipped YAML: every choice composes and passes its checks, every key is explained and read."""

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf
from tests.worlds import CONF, composed

from downpour import config as configuration
from downpour.config import ConfigError, locate, parameters, targets
from downpour.validation import GROUPS, Settings, validate

SRC = Path(configuration.__file__).parent
CHOICES = sorted(
    (path.parent.name, path.stem)
    for path in CONF.glob("*/*.yaml")
    if path.parent.name != "hydra" and not path.stem.startswith("_")
)
NAMES = [f"{group}={name}" for group, name in CHOICES]


def checked(*overrides: str) -> dict[str, Any]:
    return validate(composed(*overrides))


# Choices that go with some others only.
COMPANIONS = {
    "callbacks=classification": ["algo=supervised", "callbacks=classification"],
    "callbacks=generation": ["algo=gan", "callbacks=generation"],
    "callbacks=regression": ["algo=supervised", "data=regression", "callbacks=regression"],
    "env=none": ["algo=supervised"],
    "length=gradient_steps": ["algo=supervised"],
    "optimizer=lbfgs": ["algo=supervised", "optimizer=lbfgs"],
    "strategy=backup_workers": ["trainer.devices=2", "strategy=backup_workers"],
    "strategy=fsdp2_tp": ["trainer.devices=4", "strategy=fsdp2_tp"],
    "strategy=pipeline": ["algo=supervised", "strategy=pipeline"],
    "strategy=sandblaster": ["algo=supervised", "optimizer=lbfgs", "strategy=sandblaster"],
}


def override(group: str, name: str) -> list[str]:
    """What chooses it; for a data set, with an algorithm that learns from it."""
    if f"{group}={name}" in COMPANIONS:
        return COMPANIONS[f"{group}={name}"]
    if group != "data":
        return [f"{group}={name}"]
    for algo in sorted(path.stem for path in (CONF / "algo").glob("[!_]*.yaml")):
        try:
            checked(f"algo={algo}", f"data={name}")
        except ConfigError as error:
            if error.key != "data":
                raise
        else:
            return [f"algo={algo}", f"data={name}"]
    raise AssertionError(f"no algorithm learns from data={name}")


@cache
def choice(group: str, name: str) -> dict[str, Any]:
    """The checked configuration with it, on a machine that has GPUs enough."""
    try:
        with mock.patch("torch.cuda.device_count", return_value=8):
            return checked(*override(group, name))
    except MissingConfigException as error:
        if "hydra/" not in str(error.missing_cfg_file):
            raise
        pytest.skip(f"needs the sweep extra ({error.missing_cfg_file})")


@pytest.mark.parametrize(("group", "name"), CHOICES, ids=NAMES)
def test_every_choice_composes_and_passes_its_checks(group: str, name: str) -> None:
    length = {"total_env_steps", "total_gradient_steps"}
    required = {field.name for field in fields(Settings)} - {*length, "eval_episodes"}
    keys = set(choice(group, name))
    assert {*GROUPS, *required} <= keys <= {*GROUPS, *Settings.__annotations__}
    assert keys & length


@pytest.mark.parametrize("found", [0, 1, 2])
@pytest.mark.parametrize("name", sorted(name for group, name in CHOICES if group == "trainer" and "gpu" in name))
def test_gpus_that_are_not_there_are_refused_in_a_line(name: str, found: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    needs = 4 if "4" in name else 1
    if found >= needs:
        checked(f"trainer={name}")
        return
    with pytest.raises(ConfigError) as caught:
        checked(f"trainer={name}")
    message = str(caught.value)
    assert message.startswith(f"trainer.devices={needs}: needs {needs} GPU(s), this machine has {found}: use trainer")
    assert "\n" not in message
    advice = {0: "trainer=cpu", 1: "trainer=gpu", 2: "trainer.devices=2"}[found]
    assert f"use {advice}" in message


@pytest.mark.parametrize(
    ("name", "built"),
    [("csv", set()), ("tensorboard", {"TensorBoard"}), ("wandb", {"WandB"}), ("many", {"TensorBoard", "WandB"})],
)
def test_a_logger_is_what_it_is_called(name: str, built: set[str]) -> None:
    """The CSV files of the run directory are every run's."""
    assert {target.rpartition(".")[2] for target in targets(composed(f"logger={name}")["logger"])} == built


def test_no_size_is_typed() -> None:
    """Shapes of observations, actions and classes come from the environment or the data set."""
    for path in CONF.rglob("*.yaml"):
        for word in (
            "num_actions",
            "num_classes",
            "observation_size",
            "obs_dim",
            "action_dim",
            "input_size",
            "in_features",
        ):
            assert word not in path.read_text(), path


# Every key is explained where it is first defined


def base_files(path: Path) -> Iterator[Path]:
    """The files of its group that a choice is made from."""
    for entry in (yaml.safe_load(path.read_text()) or {}).get("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            base = path.with_name(f"{entry.partition('@')[0]}.yaml")
            if base.exists():
                yield base
                yield from base_files(base)


@cache
def keys(path: Path) -> dict[str, bool]:
    """Every full key that a file gives a value, and whether a comment stands beside or above it."""
    text = path.read_text()
    is_global = "@package _global_" in text.partition("\n")[0]
    start = "" if is_global or path.parent == CONF else f"{path.parent.name}."
    found: dict[str, bool] = {}
    stack: list[tuple[int, str]] = []
    above = False
    for line in text.splitlines():
        entry = re.match(r"( *)([^\s#:-][^:#]*):(?: +([^#]*?))?\s*(#.*)?$", line)
        if entry:
            depth, name, value, comment = len(entry[1]), entry[2], entry[3], entry[4]
            stack = [*(item for item in stack if item[0] < depth), (depth, name)]
            if value or comment:
                found[start + ".".join(item[1] for item in stack)] = bool(comment) or above
        above = line.strip().startswith("#")
    return {k: v for k, v in found.items() if not re.match(r"(\w+\.)*(_target_|defaults)$|hydra\.", k)}


def leaves(node: Any, prefix: str = "") -> set[str]:
    if not isinstance(node, dict) or not node:
        return {prefix.rstrip(".")}
    return {leaf for name, value in node.items() for leaf in leaves(value, f"{prefix}{name}.")}


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")) + sorted(CONF.glob("[!h]*/*.yaml")), ids=lambda p: p.stem)
def test_every_key_says_what_it_does(path: Path) -> None:
    is_global = "@package _global_" in path.read_text().partition("\n")[0]
    explained_elsewhere = list(base_files(path)) if not is_global else list(CONF.rglob("*.yaml"))
    for key, is_explained in keys(path).items():
        assert is_explained or any(keys(base).get(key) for base in explained_elsewhere), f"{path}: {key}"


def test_the_search_for_keys_finds_them() -> None:
    """The test above would pass on a file of which it reads nothing."""
    config = composed()
    for group in GROUPS:
        expected = {leaf for leaf in leaves(config[group], f"{group}.") if not leaf.endswith("_target_")}
        written = {key for path in (CONF / group).glob("*.yaml") for key in keys(path)}
        assert {leaf for leaf in expected if leaf != group} <= written | {f"{group}"}, group


# A constructor's defaults are those of its options


@cache
def whole(path: Path) -> Any:
    """What an option's file says, with those of its group that it builds on."""
    content: Any = OmegaConf.load(path)
    bases = [path.with_name(f"{each}.yaml") for each in content.pop("defaults", []) if isinstance(each, str)]
    return OmegaConf.merge(*(whole(base) for base in bases if base.exists()), content)


def given(node: Any) -> Iterator[tuple[str, str, Any]]:
    """(target, argument, value) of every class of ours in a node; what is empty is None."""
    if not isinstance(node, dict):
        return
    for name, value in node.items():
        yield from given(value)
        if node.get("_target_", "").startswith("downpour") and not (isinstance(value, dict) and "_target_" in value):
            yield node["_target_"], name, None if value in ([], {}) else value


@cache
def defaults() -> dict[tuple[str, str], list[Any]]:
    """(target, argument) -> what each option that builds it gives, of arguments that have a default in Python."""
    found: dict[tuple[str, str], list[Any]] = {}
    for path in CONF.rglob("[!_]*.yaml"):
        if path.is_relative_to(CONF / "experiment"):
            continue
        for target, name, value in given(OmegaConf.to_container(whole(path))):
            if name in parameters(locate(target, "")):
                found.setdefault((target, name), []).append(value)
    return {key: values for key, values in found.items() if default(*key) is not inspect.Parameter.empty}


def default(target: str, name: str) -> Any:
    """That of the constructor."""
    return parameters(locate(target, ""))[name].default


@pytest.mark.parametrize("key", sorted(defaults()), ids=".".join)
def test_a_default_in_python_is_that_of_an_option(key: tuple[str, str]) -> None:
    """Who reads the constructor and who reads the YAML see the same."""
    assert default(*key) in defaults()[key]


# Every key is read


def classes() -> list[type]:
    """Every class of ours that some YAML builds."""
    found = {t for path in CONF.rglob("*.yaml") for t in targets(yaml.safe_load(path.read_text()) or {})}
    built = [locate(target, "") for target in sorted(found) if target.startswith("downpour")]
    return [each for each in built if inspect.isclass(each)]


@cache
def tree(module: str) -> ast.Module:
    import importlib

    return ast.parse(Path(str(importlib.import_module(module).__file__)).read_text())


def constructor(owner: type) -> ast.FunctionDef:
    node = next(n for n in ast.walk(tree(owner.__module__)) if isinstance(n, ast.ClassDef) and n.name == owner.__name__)
    return next(n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")


@cache
def attributes_read() -> set[str]:
    """Names of attributes that the project reads anywhere."""
    nodes = (node for path in SRC.rglob("*.py") for node in ast.walk(ast.parse(path.read_text())))
    return {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)}


@pytest.mark.parametrize("built", classes(), ids=lambda c: c.__name__)
def test_every_parameter_is_used(built: type) -> None:
    """In the constructor's body; and where it is only kept there, what it is kept as is read somewhere."""
    for owner in built.__mro__:
        if not owner.__module__.startswith("downpour") or "__init__" not in vars(owner):
            continue
        function = constructor(owner)
        arguments = [*function.args.args[1:], *function.args.kwonlyargs]
        body = [n for statement in function.body for n in ast.walk(statement)]
        used = {n.id for n in body if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        for argument in arguments:
            assert argument.arg in used, f"{owner.__name__}.{argument.arg} is not used"
        for statement in (n for n in body if isinstance(n, ast.Assign)):
            for target, value in _pairs(statement):
                if isinstance(target, ast.Attribute) and isinstance(value, ast.Name):
                    name = f"{owner.__name__}.{target.attr}"
                    assert target.attr in attributes_read(), f"{name} is kept and never read"


def _pairs(statement: ast.Assign) -> Iterator[tuple[ast.expr, ast.expr]]:
    """(target, value) of an assignment, also of `self.a, self.b = a, b`."""
    for target in statement.targets:
        if isinstance(target, ast.Tuple) and isinstance(statement.value, ast.Tuple):
            yield from zip(target.elts, statement.value.elts, strict=True)
        else:
            yield target, statement.value


@pytest.mark.parametrize(("group", "name"), [c for c in CHOICES if c[0] in GROUPS])
def test_every_key_is_a_parameter(group: str, name: str) -> None:
    def look(node: Any) -> None:
        if isinstance(node, dict):
            if "_target_" in node:
                target = locate(node["_target_"], "")
                known = {n for n, p in parameters(target).items() if p.kind is not inspect.Parameter.VAR_KEYWORD}
                assert set(node) - {"_target_"} <= known, node["_target_"]
            for value in node.values():
                look(value)

    look(choice(group, name)[group])


@pytest.mark.parametrize("name", sorted(name for name in Settings.__annotations__ if not name.startswith("total_")))
def test_every_key_without_a_group_is_read(name: str) -> None:
    constants = {
        inner.value
        for path in SRC.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Subscript | ast.Call)
        for inner in ([node.slice] if isinstance(node, ast.Subscript) else node.args)
        if isinstance(inner, ast.Constant)
    }
    assert name in constants, name
    pages = [CONF / "train.yaml", *(CONF / "length").glob("*.yaml")]
    assert any(name in yaml.safe_load(page.read_text()) for page in pages)
