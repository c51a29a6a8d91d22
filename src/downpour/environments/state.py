"""Saves and restores the state of a vector environment, without executing code from the file."""

import contextlib
import copyreg
import io
import pickle
from typing import Any

from gymnasium.utils import EzPickle
from gymnasium.vector import VectorEnv

from downpour.config import own_packages

# What cannot be pickled and need not be: a new vector environment creates its own.
NOT_STATE = ("env_fns", "spec", "_spec")

FUNCTIONS = {
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.random._pickle", "__generator_ctor"),
    ("numpy.random._pickle", "__bit_generator_ctor"),
    ("numpy.random._pickle", "__randomstate_ctor"),
    ("copyreg", "_reconstructor"),
    ("copyreg", "__newobj__"),
    ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"),
    ("_codecs", "encode"),
    (__name__, "fill"),
}
CLASSES = {
    "builtins": {"object", "set", "frozenset", "complex", "bytearray", "slice", "range"},
    "collections": {"OrderedDict", "deque", "defaultdict", "Counter"},
    "numpy": {"ndarray", "dtype"},
    "numpy.random": {"Generator", "RandomState", "SeedSequence"},
    "numpy.random._pcg64": {"PCG64", "PCG64DXSM"},
    "numpy.random._mt19937": {"MT19937"},
    "numpy.random._philox": {"Philox"},
    "numpy.random._sfc64": {"SFC64"},
    "numpy.random.bit_generator": {"SeedSequence"},
    "mujoco._structs": {"MjModel", "MjData"},
    "mujoco._enums": None,
}
# Packages of environments: the classes they define hold state. Their functions are never called.
PACKAGES = (
    "downpour.environments",
    "gymnasium.core",
    "gymnasium.envs",
    "gymnasium.spaces",
    "gymnasium.vector",
    "gymnasium.wrappers",
    "minatar",
)
# These contain classes that unpickle their arguments, start processes or write files.
REFUSED = (
    "gymnasium.vector.async_vector_env",
    "gymnasium.vector.utils",
    "gymnasium.wrappers.rendering",
    "gymnasium.wrappers.vector",
)


def _in(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def fill(target: Any, state: dict[str, Any]) -> None:
    """Set an object's attributes, bypassing its own unpickling hooks."""
    vars(target).update(state)


class _Pickler(pickle.Pickler):
    """Saves the full state, even of environments that would save only their arguments (EzPickle: MuJoCo)."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, EzPickle):
            return copyreg.__newobj__, (type(value),), dict(vars(value)), None, None, fill  # type: ignore[attr-defined]
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    """Allows only the classes that environments consist of; a file cannot make it run code."""

    def find_class(self, module: str, name: str) -> Any:
        if "." in name:
            raise pickle.UnpicklingError(f"{module}.{name} is not an allowed class")
        if (module, name) in FUNCTIONS:
            return super().find_class(module, name)
        listed = module in CLASSES and (CLASSES[module] is None or name in (CLASSES[module] or ()))
        numpy_dtype = module == "numpy.dtypes"
        packages = (*PACKAGES, *own_packages())
        if listed or numpy_dtype or _in(module, packages):
            found = super().find_class(module, name)
            # A module also has the names it imports (`functools.partial`, `CloudpickleWrapper`): its own are meant.
            own = listed or numpy_dtype or (_in(found.__module__, packages) and not _in(found.__module__, REFUSED))
            if isinstance(found, type) and own:
                return found
        raise pickle.UnpicklingError(f"{module}.{name} is not an allowed class")


def thaw(data: bytes) -> Any:
    """Unpickle plain data and allowed classes.

    Raises:
        pickle.UnpicklingError: the bytes contain anything else.
    """
    return _Unpickler(io.BytesIO(data)).load()


def freeze_environments(environments: VectorEnv) -> bytes | None:
    """The state of the environments, generators included; None if a part cannot be pickled and restored."""
    state = {name: value for name, value in vars(environments.unwrapped).items() if name not in NOT_STATE}
    if "parent_pipes" in state:  # the environments live in other processes
        return None
    with contextlib.suppress(Exception):  # a pickling hook of any environment may raise anything
        file = io.BytesIO()
        _Pickler(file).dump(state)
        data = file.getvalue()
        thaw(data)
        return data
    return None


def thaw_environments(environments: VectorEnv, data: bytes) -> None:
    """Restore the state that `freeze_environments` saved into `environments`, which must be built alike."""
    vars(environments.unwrapped).update(thaw(data))
