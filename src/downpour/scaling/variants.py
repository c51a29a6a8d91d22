"""What `strategy=` of a measurement says: strategies, each with overrides of its own."""

from collections.abc import Sequence

from omegaconf import OmegaConf

from downpour import composition
from downpour.config import ConfigError, nearest


def read(text: str, overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The variants to run, as 'NAME OVERRIDE ...', and the overrides that are for every run.

    `ddp,downpour` are two variants; `ddp;downpour strategy.servers=2` gives one of them an override. One of `strategy.`
    that stands beside them goes to the variants whose strategy has its key: the single process has none.

    Raises:
        ConfigError: there is no such strategy, or no strategy with such a key.
    """
    variants: list[list[str]] = []
    for part in text.split(";"):
        names, *own = part.split() or [""]
        variants += [[_known(name), *own] for name in names.split(",")]
    keys = {name: _keys(name) for name in dict.fromkeys(name for name, *_ in variants)}
    own = [o for o in overrides if o.partition("=")[0].lstrip("+~").startswith("strategy.")]
    for override in reversed(own):
        key = override.partition("=")[0]
        having = [each for each in variants if key in keys[each[0]]]
        if not having:
            advice = nearest(key, sorted(set().union(*keys.values())))
            raise ConfigError(message=f"{override}: there is no such key in strategy={','.join(keys)}{advice}")
        for each in having:
            each.insert(1, override)  # what a variant says of its own comes after it
    return list(dict.fromkeys(map(" ".join, variants))), [o for o in overrides if o not in own]


def arguments(variant: str) -> list[str]:
    """What `train.py` is given for it."""
    name, *own = variant.split()
    return [f"strategy={name}", *own]


def label(variant: str) -> str:
    """As the tables call it."""
    return variant.replace(" strategy.", " ")


def _known(name: str) -> str:
    if name not in (known := composition.options_of("strategy")):
        advice = f"there is no such option{nearest(name, known)} (there are: {', '.join(known)})"
        raise ConfigError("strategy", name, advice)
    return name


def _keys(name: str) -> list[str]:
    chosen = composition.composed([f"strategy={name}"])["strategy"]
    return composition.dotted(OmegaConf.to_container(chosen), "strategy.")
