"""Translates errors of Hydra and OmegaConf into messages about keys and values."""

import re
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException

from downpour import sweeps
from downpour.composition import CONF, groups, known_keys, options_of
from downpour.config import key_of, nearest, show

Overrides = Sequence[str]


def explain(error: Exception, typed: Sequence[str]) -> str:
    """One or two lines: the key, its value, what to do.

    Args:
        typed: the arguments that were composed.
    """
    text = str(error).strip()
    overrides = [o for o in typed if not o.startswith("-")]
    # Hydra takes "=value" for a group without a name.
    if isinstance(error, OverrideParseException) or any(o.startswith("=") for o in overrides):
        return _bad_syntax(overrides)
    for pattern, told in EXPLANATIONS:
        if found := re.search(pattern, text, re.DOTALL):
            return told(found, text, overrides)
    return (text.splitlines() or [type(error).__name__])[0]


def _no_key(found: re.Match[str], text: str, overrides: Overrides) -> str:
    key = found.group(1)
    typed = key + next((f"={o.partition('=')[2]}" for o in overrides if "=" in o and key_of(o) == key), "")
    if key in groups() and (users := [p.stem for p in (CONF / "experiment").glob("*.yaml") if key in p.read_text()]):
        return f"{typed}: is a part of other options; add one of experiment={', '.join(sorted(users))}"
    return f"{typed}: there is no such key{_nearest_key(key, overrides)}"


def _nearest_key(key: str, overrides: Overrides) -> str:
    known = known_keys(overrides)
    parent, _, last = key.rpartition(".")
    siblings = [k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == parent and not k.endswith("._target_")]
    elsewhere = nearest(key, [k for k in known if k != parent])
    if not parent or not siblings:
        return elsewhere
    return nearest(last, siblings).replace("mean ", f"mean {parent}.") or f"; {parent} has: {', '.join(siblings)}"


def _no_name(found: re.Match[str], text: str, overrides: Overrides) -> str:
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        group, value = override.key_or_group, override.value()
        if group in groups() and not isinstance(value, str | list):
            return f"{group}={show(value)}: is not an option (there are: {', '.join(options_of(group))})"
    return text


def _no_option(found: re.Match[str], text: str, overrides: Overrides) -> str:
    group, _, name = found.group(1).rpartition("/")
    if not group:
        return f"{name}: there is no such configuration"
    if answer := sweeps.missing(group, name):
        return answer
    options = [option for option in re.findall(r"^\t(\w+)$", text, re.MULTILINE) if not option.startswith("_")]
    if not options:
        return f"{group}={name}: there is no such group{nearest(group, groups())}"
    return f"{group}={name}: there is no such option{nearest(name, options)} (there are: {', '.join(options)})"


def _bad_syntax(overrides: Overrides) -> str:
    typed = next((o for o in overrides if not _parses(o)), "")
    key = typed.partition("=")[0]
    if "=" not in typed or not key:
        return f"{typed}: is not of the form key=value"
    advice = "cannot be parsed; quote values with special characters, and the whole setting for the shell"
    return f"{typed}: {advice}, as in '{key}=\"a,b\"'"


def _ambiguous(found: re.Match[str], text: str, overrides: Overrides) -> str:
    key, _, value = found.group(1).partition("=")
    return f"{key}={value}: several values: add -m to run a job for each, or write {key}=[{value}] for a list"


def _no_deletion(found: re.Match[str], text: str, overrides: Overrides) -> str:
    return f"~{found.group(1)}: there is no such key to delete{_nearest_key(found.group(1), overrides)}"


def _interpolation(found: re.Match[str], text: str, overrides: Overrides) -> str:
    key = re.search(r"full_key: (\S+)", text)
    return f"{key.group(1) if key else ''}: the interpolation cannot be resolved ({text.splitlines()[0]})"


EXPLANATIONS: tuple[tuple[str, Any], ...] = (
    (r"Could not override '([^']+)'", _no_key),
    (r"Could not append to config\. An item is already at '([^']+)'", lambda m, t, o: f"+{m[1]}: leave out the +"),
    (r"Could not delete from config\. '?([\w.@/]+)'? does not exist", _no_deletion),
    (r"Could not delete from config\. The value of '([^']+)'", lambda m, t, o: t.splitlines()[0]),
    (r"(?:Could not find|Could not load) '?([^'\n]+)'", _no_option),
    (r"Ambiguous value for argument '([^']+)'", _ambiguous),
    (r"Interpolation|interpolation", _interpolation),
    (r"Config group override must be a string", _no_name),
)


def _parses(override: str) -> bool:
    try:
        return bool(OverridesParser.create().parse_override(override).key_or_group)
    except HydraException:
        return False
