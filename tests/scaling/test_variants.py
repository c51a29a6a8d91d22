"""Strategies with overrides of their own."""

import pytest

from downpour.config import ConfigError
from downpour.scaling import variants


@pytest.mark.parametrize(
    ("text", "overrides", "found", "common"),
    [
        ("ddp,downpour", ["optimizer.lr=1"], ["ddp", "downpour"], ["optimizer.lr=1"]),
        (
            "ddp;ddp strategy.compress=bf16;downpour strategy.servers=2 optimizer=sgd",
            [],
            ["ddp", "ddp strategy.compress=bf16", "downpour strategy.servers=2 optimizer=sgd"],
            [],
        ),
        ("ddp,downpour optimizer=sgd", [], ["ddp optimizer=sgd", "downpour optimizer=sgd"], []),
        # One typed for all goes to those that have it, before what a variant says of its own.
        ("ddp,downpour", ["strategy.n_push=4", "seed=1"], ["ddp", "downpour strategy.n_push=4"], ["seed=1"]),
        (
            "ddp,downpour;downpour strategy.servers=2",
            ["strategy.servers=3"],
            ["ddp", "downpour strategy.servers=3", "downpour strategy.servers=3 strategy.servers=2"],
            [],
        ),
        ("ddp,downpour", ["strategy.local_steps=1"], [f"{s} strategy.local_steps=1" for s in ("ddp", "downpour")], []),
        ("fsdp2_tp", ["strategy.tensor_parallel=4"], ["fsdp2_tp strategy.tensor_parallel=4"], []),  # of its defaults
        ("ddp,downpour", ["++strategy.servers=3"], ["ddp", "downpour ++strategy.servers=3"], []),
        ("ddp,ddp", [], ["ddp"], []),
    ],
)
def test_overrides_go_to_the_strategies_that_have_them(
    text: str, overrides: list[str], found: list[str], common: list[str]
) -> None:
    assert variants.read(text, overrides) == (found, common)


def test_what_train_py_is_given_and_what_the_tables_say() -> None:
    assert variants.arguments("ddp strategy.compress=bf16 optimizer.lr=1") == [
        "strategy=ddp",
        "strategy.compress=bf16",
        "optimizer.lr=1",
    ]
    assert variants.label("ddp strategy.compress=bf16 optimizer.lr=1") == "ddp compress=bf16 optimizer.lr=1"


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        ("ddp;dwnpour strategy.servers=2", [], "strategy=dwnpour: there is no such option; did you mean downpour?"),
        ("ddp;", [], "strategy=: there is no such option"),
        (
            "ddp,downpour",
            ["strategy.servrs=2"],
            "strategy.servrs=2: there is no such key in strategy=ddp,downpour; did you mean strategy.servers?",
        ),
        ("ddp", ["strategy.n_push=2"], "strategy.n_push=2: there is no such key in strategy=ddp"),
    ],
)
def test_what_no_strategy_has_is_refused(text: str, overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        variants.read(text, overrides)
    assert said in str(caught.value)
