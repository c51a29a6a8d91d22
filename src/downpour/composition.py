"""Translates errors of Hydra and OmegaConf into messages about keys and values."""

import functools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from downpour import sweeps
from downpour.config import nearest, show

CONF = Path(__file__).resolve().parents[2] / "conf"


def explain(error: Exception) -> str:
    """One or two lines: the key, its value, what to do."""
    text = str(error).strip()
    if isinstance(error, OverrideParseException):
        return _bad_syntax()
    if any(o.startswith("=") for o in sys.argv[1:]):  # Hydra takes it for a group without a name
        return _bad_syntax()
    for pattern, told in EXPLANATIONS:
        if found := re.search(pattern, text, re.DOTALL):
            return told(found, text)
    return text.splitlines()[0]


def _no_key(found: re.Match[str], text: str) -> str:
    key = found.group(1)
    if key in groups() and (users := [p.stem for p in (CONF / "experiment").glob("*.yaml") if key in p.read_text()]):
        return f"{key}{_typed(key)}: is a part of other options; add one of experiment={', '.join(sorted(users))}"
    return f"{key}{_typed(key)}: there is no such key{_nearest_key(key)}"


def _nearest_key(key: str) -> str:
    known = known_keys()
    parent, _, last = key.rpartition(".")
    siblings = [k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == parent and not k.endswith("._target_")]
    elsewhere = nearest(key, [k for k in known if k != parent])
    if not parent or not siblings:
        return elsewhere
    return nearest(last, siblings).replace("mean ", f"mean {parent}.") or f"; {parent} has: {', '.join(siblings)}"


def _no_name(found: re.Match[str], text: str) -> str:
    for override in OverridesParser.create().parse_overrides([o for o in sys.argv[1:] if not o.startswith("-")]):
        group, value = override.key_or_group, override.value()
        if group in groups() and not isinstance(value, str | list):
            return f"{group}={show(value)}: is not an option (there are: {', '.join(options_of(group))})"
    return text


def _no_option(found: re.Match[str], text: str) -> str:
    group, _, name = found.group(1).rpartition("/")
    if not group:
        return f"{name}: there is no such configuration"
    if answer := sweeps.missing(group, name):
        return answer
    options = [option for option in re.findall(r"^\t(\w+)$", text, re.MULTILINE) if not option.startswith("_")]
    if not options:
        return f"{group}={name}: there is no such group{nearest(group, groups())}"
    return f"{group}={name}: there is no such option{nearest(name, options)} (there are: {', '.join(options)})"


def _bad_syntax() -> str:
    typed = next((o for o in sys.argv[1:] if not o.startswith("-") and not _parses(o)), "")
    key = typed.partition("=")[0]
    if "=" not in typed or not key:
        return f"{typed}: is not of the form key=value"
    advice = "cannot be parsed; quote values with special characters, and the whole setting for the shell"
    return f"{typed}: {advice}, as in '{key}=\"a,b\"'"


def _ambiguous(found: re.Match[str], text: str) -> str:
    key, _, value = found.group(1).partition("=")
    return f"{key}={value}: several values: add -m to run a job for each, or write {key}=[{value}] for a list"


def _no_deletion(found: re.Match[str], text: str) -> str:
    return f"~{found.group(1)}: there is no such key to delete{_nearest_key(found.group(1))}"


def _interpolation(found: re.Match[str], text: str) -> str:
    key = re.search(r"full_key: (\S+)", text)
    return f"{key.group(1) if key else ''}: the interpolation cannot be resolved ({text.splitlines()[0]})"


EXPLANATIONS: tuple[tuple[str, Any], ...] = (
    (r"Could not override '([^']+)'", _no_key),
    (r"Could not append to config\. An item is already at '([^']+)'", lambda m, t: f"+{m[1]}: leave out the +"),
    (r"Could not delete from config\. '?([\w.@/]+)'? does not exist", _no_deletion),
    (r"Could not delete from config\. The value of '([^']+)'", lambda m, t: t.splitlines()[0]),
    (r"(?:Could not find|Could not load) '?([^'\n]+)'", _no_option),
    (r"Ambiguous value for argument '([^']+)'", _ambiguous),
    (r"Interpolation|interpolation", _interpolation),
    (r"Config group override must be a string", _no_name),
)


def _typed(key: str) -> str:
    """`=value` as it stands on the command line."""
    values = (o.partition("=")[2] for o in sys.argv[1:] if o.lstrip("+~").startswith(f"{key}="))
    return next((f"={value}" for value in values), "")


def _parses(override: str) -> bool:
    try:
        return bool(OverridesParser.create().parse_override(override).key_or_group)
    except HydraException:
        return False


@functools.cache  # it reads the folders
def groups() -> list[str]:
    """The config groups, in alphabetical order."""
    folders = (p.parent.relative_to(CONF).as_posix() for p in CONF.rglob("*.yaml"))
    return sorted({name for name in folders if name != "." and not name.startswith("hydra")})


def options_of(group: str) -> list[str]:
    """The options of a group; files that start with _ are parts of others."""
    return sorted(p.stem for p in (CONF / group).glob("*.yaml") if not p.stem.startswith("_"))


def composed(overrides: Sequence[str]) -> DictConfig:
    """The configuration, `hydra` included, as a command line would have it; nothing is run."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=list(overrides), return_hydra_config=True)


def known_keys() -> list[str]:
    """The groups, and every dotted key of the configuration with the options chosen on the command line."""
    chosen = [o for o in sys.argv[1:] if o.partition("=")[0] in groups() and "," not in o]
    try:
        config: Any = OmegaConf.to_container(composed(chosen))
    except (HydraException, OmegaConfBaseException):
        return groups()
    config.pop("hydra", None)
    return groups() + dotted(config)


def dotted(node: Any, prefix: str = "") -> list[str]:
    """Every key in nested dictionaries, in dotted form."""
    if not isinstance(node, dict):
        return []
    return [k for name, v in node.items() for k in (f"{prefix}{name}", *dotted(v, f"{prefix}{name}."))]
