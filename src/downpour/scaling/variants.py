"""Parses `strategy=` of a scaling measurement: strategies, each with its own overrides."""

from collections.abc import Sequence

from omegaconf import OmegaConf

from downpour import composition
from downpour.config import ConfigError, key_of, nearest


def read(text: str, overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """(variants, as 'NAME OVERRIDE ...'; the overrides of all runs).

    `ddp,downpour` are two variants; `ddp;downpour strategy.servers=2` gives the second an override. An override of
    `strategy.` among `overrides` goes to the variants whose strategy has this key: a single process has no strategy.

    Raises:
        ConfigError: an unknown strategy, or a key that none of them has.
    """
    variants: list[list[str]] = []
    for part in text.split(";"):
        names, *own = part.split() or [""]
        variants += [[_known(name), *own] for name in names.split(",")]
    keys = {name: _keys(name) for name in dict.fromkeys(name for name, *_ in variants)}
    own = [o for o in overrides if key_of(o).startswith("strategy.")]
    for override in reversed(own):
        key = key_of(override)
        matching = [each for each in variants if key in keys[each[0]]]
        if not matching:
            advice = nearest(key, sorted(set().union(*keys.values())))
            raise ConfigError(message=f"{override}: there is no such key in strategy={','.join(keys)}{advice}")
        for each in matching:
            each.insert(1, override)  # before the variant's own overrides, which take precedence
    return list(dict.fromkeys(map(" ".join, variants))), [o for o in overrides if o not in own]


def arguments(variant: str) -> list[str]:
    """The arguments of `train.py` for a variant."""
    name, *own = variant.split()
    return [f"strategy={name}", *own]


def label(variant: str) -> str:
    """The name of a variant in tables and figures."""
    return variant.replace(" strategy.", " ")


def _known(name: str) -> str:
    if name not in (known := composition.options_of("strategy")):
        advice = f"there is no such option{nearest(name, known)} (there are: {', '.join(known)})"
        raise ConfigError("strategy", name, advice)
    return name


def _keys(name: str) -> list[str]:
    chosen = composition.composed([f"strategy={name}"])["strategy"]
    return composition.dotted(OmegaConf.to_container(chosen), "strategy.")
