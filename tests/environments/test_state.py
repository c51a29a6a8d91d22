"""What a checkpoint's bytes may ask for: known classes, never code."""

import io
import os
import pickle
import pickletools
from collections import OrderedDict, deque
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector.utils import CloudpickleWrapper
from tests.worlds import scripted

from downpour.environments import Gymnasium
from downpour.environments.state import freeze_environments, thaw, thaw_environments


class Call:
    """Pickles to a call of `function`."""

    def __init__(self, function: Any, *arguments: Any):
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple:
        return self.function, self.arguments


def global_(module: str, name: str) -> bytes:
    """A pickle that only names something."""
    return b"\x80\x02c" + module.encode() + b"\n" + name.encode() + b"\n."


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("builtins", "getattr"),
        ("builtins", "open"),
        ("builtins", "type"),
        ("importlib", "import_module"),
        ("pickle", "loads"),
        ("numpy", "memmap"),
        ("numpy", "load"),
        ("numpy", "fromfile"),
        ("numpy.f2py", "compile"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("functools", "partial"),
        ("operator", "attrgetter"),
        # functions of packages whose classes are known
        ("gymnasium", "make"),
        ("gymnasium.core", "np"),
        ("gymnasium.envs.registration", "make"),
        ("gymnasium.envs.registration", "load_env_creator"),
        ("gymnasium.utils.play", "play"),
        ("downpour.directory", "write_text"),
        ("downpour.cli", "train"),
        # names they imported
        ("gymnasium.core", "Any"),
        ("gymnasium.wrappers.common", "deepcopy"),
        ("gymnasium.utils.passive_env_checker", "partial"),
        ("gymnasium.envs.toy_text.cliffwalking", "StringIO"),
        ("downpour.directory", "Path"),
        # their classes that unpickle, start processes or write files
        ("gymnasium.vector.utils.misc", "CloudpickleWrapper"),
        ("gymnasium.vector.async_vector_env", "CloudpickleWrapper"),
        ("gymnasium.vector", "AsyncVectorEnv"),
        ("gymnasium.wrappers", "RecordVideo"),
        # a way round by a dotted name
        ("gymnasium", "core.np.memmap"),
        ("numpy", "ndarray.tofile"),
    ],
)
def test_what_is_not_a_known_class_is_refused(module: str, name: str) -> None:
    with pytest.raises((pickle.UnpicklingError, ModuleNotFoundError, AttributeError)):
        thaw(global_(module, name))


def test_nothing_runs(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    for attack in (
        pickle.dumps(Call(os.system, f"touch {trap}")),
        pickle.dumps({"state": [Call(eval, f"open({str(trap)!r}, 'w')")]}),
        pickle.dumps(Call(np.memmap, str(trap), "uint8", "w+", 0, (1,))),
        pickle.dumps(Call(open, str(trap), "w")),
    ):
        with pytest.raises(pickle.UnpicklingError):
            thaw(attack)
    assert not trap.exists()


def test_nothing_runs_by_way_of_a_class_that_unpickles(tmp_path: Path) -> None:
    """Gymnasium's CloudpickleWrapper hands its state to `pickle.loads`."""
    trap = tmp_path / "sprung"
    inner = pickle.dumps(Call(os.system, f"touch {trap}"))
    attack = io.BytesIO()
    attack.write(b"\x80\x02c" + CloudpickleWrapper.__module__.encode() + b"\nCloudpickleWrapper\n)\x81")
    attack.write(b"B" + len(inner).to_bytes(4, "little") + inner + b"b.")
    pickletools.dis(attack.getvalue(), out=io.StringIO())  # it is a pickle
    with pytest.raises(pickle.UnpicklingError, match="CloudpickleWrapper"):
        thaw(attack.getvalue())
    assert not trap.exists()


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, None, True, "text", b"bytes"]},
        np.arange(6).reshape(2, 3).astype(np.float32),
        np.float64(2.5),
        np.array(["a", "b"]),
        OrderedDict(a=1),
        deque([1, 2], maxlen=3),
        {1, 2},
        gym.spaces.Box(0, 1, (2,)),
        gym.spaces.Discrete(3, start=2),
    ],
)
def test_plain_data_and_known_classes_come_back(value: Any) -> None:
    back = thaw(pickle.dumps(value))
    assert type(back) is type(value)
    assert np.array_equal(back, value) if isinstance(value, np.ndarray) else back == value


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_generators_go_on(kind: Any) -> None:
    generator = np.random.Generator(kind(3))
    generator.random(5)
    back = thaw(pickle.dumps(generator))
    assert generator.random() == back.random()


def test_old_generators_go_on() -> None:
    generator = np.random.RandomState(3)
    generator.randn(3)
    back = thaw(pickle.dumps(generator))
    assert generator.randn() == back.randn()


def test_spaces_draw_on(tmp_path: Path) -> None:
    """The generator of an action space is state like any other."""
    world = Gymnasium(id="CartPole-v1")
    one, two = world.vector(2), world.vector(2)
    one.reset(seed=1)
    two.reset(seed=2)
    one.action_space.seed(5)
    one.action_space.sample()
    data = freeze_environments(one)
    assert data is not None
    thaw_environments(two, data)
    assert np.array_equal(one.action_space.sample(), two.action_space.sample())


def test_an_environment_that_pickles_only_its_making_is_saved_where_it_is() -> None:
    """Gymnasium's EzPickle, which MuJoCo's and Box2D's environments use, saves constructor arguments."""
    pytest.importorskip("mujoco", reason="the mujoco extra is not installed")
    world = Gymnasium(id="InvertedPendulum-v5")
    one, two = world.vector(1), world.vector(1)
    one.reset(seed=1)
    two.reset(seed=2)
    action = np.full((1, 1), 0.7, np.float32)
    for _ in range(4):
        one.step(action)
    data = freeze_environments(one)
    assert data is not None
    thaw_environments(two, data)
    for _ in range(20):
        expected, found = one.step(action), two.step(action)
        for here, there in zip(expected[:4], found[:4], strict=True):
            assert np.array_equal(here, there)


@pytest.mark.parametrize("id", ["Blackjack-v1"])
def test_what_cannot_be_pickled_is_none(id: str) -> None:
    environments = Gymnasium(id=id).vector(2)
    environments.reset(seed=0)
    assert freeze_environments(environments) is None


def test_worlds_in_other_processes_are_none() -> None:
    environments = Gymnasium(id="CartPole-v1", vectorization="async").vector(1)
    environments.reset(seed=0)
    assert freeze_environments(environments) is None
    environments.close()


def test_classes_of_strangers_are_none() -> None:
    """They could be saved, but would not be read back."""
    environments = scripted([3])
    environments.reset(seed=0)
    assert freeze_environments(environments) is None
