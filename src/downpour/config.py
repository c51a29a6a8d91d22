"""Configurations are validated before anything is built.

A node of the configuration names a class in `_target_`; the annotations of that class's constructor are its schema.
A new component therefore needs no separate list of keys.
"""

import difflib
import importlib
import inspect
import os
from collections.abc import Callable, Mapping
from keyword import iskeyword
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Discount = Probability  # 0: only the next reward counts

TRUSTED = ("downpour", "torch", "lightning", "torchrl", "torchmetrics", "gymnasium")
TRUST = "DOWNPOUR_TRUST"  # environment variable: the user's own packages to trust as well, separated by commas
# The modules of these packages whose classes may be built. Others contain classes that start processes or import
# arbitrary code (such as `torch.distributed.elastic`'s handlers), which an untrusted run directory must not build.
COMPONENTS = (
    "downpour",
    "torch.nn",
    "torch.optim",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.core",
    "lightning.pytorch.loggers",
    "lightning.pytorch.plugins",
    "lightning.pytorch.profilers",
    "lightning.pytorch.strategies",
    "torchrl.modules",
    "torchrl.objectives",
    "torchmetrics",
    "gymnasium.spaces",
    "gymnasium.wrappers",
)
# Other packages annotate these as `float`; the ranges are the same everywhere.
COMMON_RANGES: dict[str, Any] = {
    "lr": PositiveFloat,
    "weight_decay": NonNegativeFloat,
    "momentum": Probability,
    "eps": NonNegativeFloat,
    "betas": tuple[Probability, Probability],
}
PARAMETER_KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class ConfigError(Exception):
    """Invalid input: the key, its value, and what to do."""

    def __init__(self, key: str | None = None, value: Any = None, advice: str = "", *, message: str | None = None):
        self.key = key
        super().__init__(message if message is not None else f"{key}={show(value)}: {advice}")


def show(value: Any) -> str:
    """The value as it is typed on the command line."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return str(value)


def key_of(override: str) -> str:
    """The key of an override as typed: of `+a.b=1` and `~a.b`, "a.b"."""
    return override.partition("=")[0].lstrip("+~")


def nearest(word: str, known: list[str]) -> str:
    """The closest spelling among `known`, as the end of a sentence; empty if none is close."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""


def how_to_install(extra: str) -> str:
    """How to install an optional extra."""
    return f"make setup EXTRAS={extra} (or pip install -e '.[{extra}]') installs it"


def own_packages() -> tuple[str, ...]:
    """Names of the user's packages whose classes a configuration may build, as DOWNPOUR_TRUST lists them."""
    return tuple(name.strip() for name in os.environ.get(TRUST, "").split(",") if name.strip())


def untrusted(module: str) -> str | None:
    """Why a configuration may not name this module, as the end of a sentence; None if it may."""
    package = module.split(".")[0]
    if package in (*TRUSTED, *own_packages()):
        return None
    reason = f"which is not part of {', '.join(TRUSTED)}"
    return f"{reason}; if it is yours, set {TRUST}={package}" if package.isidentifier() else reason


def locate(target: str, key: str) -> Callable[..., Any]:
    """The class (or function of downpour, if it is annotated to return an object of one) that `target` names.

    Only trusted classes may be named: a run directory can come from anywhere, and building it must not run arbitrary
    code. An attribute that a trusted module merely imports (`torch.os.system`) is not trusted.

    Raises:
        ConfigError: it is not the name of a class, not trusted, not installed, or not a class that may be built.
    """
    path, _, name = target.rpartition(".")
    if not all(part.isidentifier() and not iskeyword(part) for part in target.split(".")):
        raise ConfigError(f"{key}._target_", target, "must be the full name of a class, such as torch.nn.ReLU")
    if reason := untrusted(target):
        raise ConfigError(f"{key}._target_", target, f"would build a class {reason}")
    try:
        found = getattr(importlib.import_module(path), name)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] not in TRUSTED:
            raise ConfigError(
                f"{key}._target_", target, f"needs the package {error.name}, which is not installed"
            ) from None
        raise ConfigError(f"{key}._target_", target, "no such class") from None
    except (ImportError, AttributeError, ValueError):
        raise ConfigError(f"{key}._target_", target, "no such class") from None
    is_own_function = inspect.isfunction(found) and _is_own(found)
    if not _is_component(_signature(found).return_annotation if is_own_function else found):
        raise ConfigError(f"{key}._target_", target, "is not a class that a configuration may build")
    return found


def class_of(config: Mapping[str, Any], group: str) -> Any:
    """What a group of a configuration would build; see `locate`."""
    return locate(str(config[group].get("_target_", "")), group)


def _is_component(found: Any) -> bool:
    home = f"{found.__module__}." if inspect.isclass(found) else ""
    return any(home.startswith(f"{package}.") for package in (*COMPONENTS, *own_packages()))


def _is_own(target: Callable[..., Any]) -> bool:
    """Whether it is of this project or the user's, where `**kwargs` are those of the parent's constructor."""
    return target.__module__.split(".")[0] in ("downpour", *own_packages())


def parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The constructor's named parameters, annotations evaluated where they can be.

    A class of this project that forwards `**kwargs` to its parent also accepts the parent's.
    """
    if not _is_own(target) or not inspect.isclass(target):
        return dict(_signature(target).parameters)
    found: dict[str, inspect.Parameter] = {}
    for owner in target.__mro__:
        if "__init__" not in vars(owner):
            continue
        own = dict(_signature(owner).parameters)
        open_ended = [name for name, p in own.items() if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        for name in open_ended:
            del own[name]
        found = own | found
        if not open_ended:
            break
    return found


def settings_of(node: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of the class that a checked node describes: what it says, and the defaults of the others."""
    known = parameters(locate(str(node["_target_"]), ""))
    defaults = {name: p.default for name, p in known.items() if p.default is not inspect.Parameter.empty}
    return {**defaults, **node}


def _signature(target: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(target, eval_str=True)
    except (NameError, TypeError, AttributeError):
        return inspect.signature(target)


def check(config: Mapping[str, Any], key: str = "") -> dict[str, Any]:
    """Check a plain configuration node and all below it.

    Args:
        config: a resolved node: dictionaries, lists, strings, numbers.
        key: its full dotted key, for messages.

    Returns:
        The same node with every value of the type its constructor asks for (1e5 becomes the integer 100000).

    Raises:
        ConfigError: an unknown key, a wrong type, a value out of range, a class that may not be built.
    """
    checked = {name: _check_value(value, f"{key}.{name}".lstrip(".")) for name, value in config.items()}
    if "_target_" not in checked:
        return checked
    target = locate(str(checked["_target_"]), key)
    arguments = {name: value for name, value in checked.items() if name != "_target_"}
    return {"_target_": checked["_target_"], **check_arguments(target, arguments, key)}


def _check_value(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return check(value, key)
    if isinstance(value, list):
        return [_check_value(item, f"{key}.{index}") for index, item in enumerate(value)]
    return value


def check_arguments(target: Callable[..., Any], arguments: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Check keyword arguments against the signature of `target`; see `check`."""
    known = parameters(target)
    named = {name: p for name, p in known.items() if p.kind in PARAMETER_KINDS}
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    prefix = f"{key}." if key else ""
    for name, value in arguments.items():
        if name not in named and not takes_any:
            hint = nearest(name, list(named))
            raise ConfigError(f"{prefix}{name}", value, f"{target.__name__} has no such setting{hint}")
    for name, parameter in named.items():
        required = parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.default is inspect.Parameter.empty
        if required and name not in arguments:
            raise ConfigError(message=f"{prefix}{name} is missing: {target.__name__} needs it")
    fields: dict[str, Any] = {}
    for name in arguments:
        annotation = named[name].annotation if name in named else Any
        if not target.__module__.startswith("downpour"):
            annotation = COMMON_RANGES.get(name, annotation)
        is_node = isinstance(arguments[name], Mapping) and "_target_" in arguments[name]
        if annotation is inspect.Parameter.empty or isinstance(annotation, str) or is_node:
            annotation = Any
        fields[name] = (annotation, ...)
    try:
        model = _model(fields)
    except Exception:  # an annotation of another package that pydantic has no schema for: its constructor will check
        return dict(arguments)
    # Field names such as `model_config` or `_x` are not pydantic's to refuse, hence the positional aliases.
    try:
        instance = model(**{f"f{i}": value for i, value in enumerate(arguments.values())})
    except ValidationError as error:
        raise _explain(error, list(arguments.items()), prefix) from None
    return {name: getattr(instance, f"f{i}") for i, name in enumerate(arguments)}


def _model(fields: dict[str, Any]) -> type[BaseModel]:
    renamed = {f"f{i}": field for i, field in enumerate(fields.values())}
    return create_model("Arguments", __config__=ConfigDict(arbitrary_types_allowed=True), **renamed)


def _explain(error: ValidationError, arguments: list[tuple[str, Any]], prefix: str) -> ConfigError:
    problems = error.errors(include_url=False)
    name, value = arguments[int(str(problems[0]["loc"][0])[1:])]
    # A union reports a problem per member; list what is allowed once.
    advice = " or ".join(
        dict.fromkeys(
            p["msg"].replace("Input should be ", "must be ").replace(", unable to parse string as a number", "")
            for p in problems
            if p["loc"][0] == problems[0]["loc"][0]
        )
    )
    return ConfigError(f"{prefix}{name}", value, advice)


def build(node: Mapping[str, Any], **available: Any) -> Any:
    """Build what a checked node describes.

    Args:
        node: `_target_` and its keyword arguments; nodes inside it are built first.
        available: objects passed to constructors that have a parameter of that name.
    """
    target = locate(str(node["_target_"]), "")
    arguments = {name: _build_value(value, available) for name, value in node.items() if name != "_target_"}
    wanted = {name: available[name] for name in parameters(target) if name in available and name not in arguments}
    return target(**wanted, **arguments)


def _build_value(value: Any, available: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping):
        if "_target_" in value:
            return build(value, **available)
        return {name: _build_value(item, available) for name, item in value.items()}
    if isinstance(value, list):
        return [_build_value(item, available) for item in value]
    return value


def targets(config: Any) -> list[str]:
    """Every `_target_` in a configuration, at any depth."""
    if isinstance(config, Mapping):
        own = [str(config["_target_"])] if "_target_" in config else []
        return own + [t for value in config.values() for t in targets(value)]
    if isinstance(config, list):
        return [t for value in config for t in targets(value)]
    return []
