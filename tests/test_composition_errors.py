"""What a wrong setting is answered with: messages name settings that were typed."""

import sys

import pytest

from downpour.composition import composed
from downpour.composition_errors import explain


def told(*typed: str) -> str:
    """The message for a composition that fails."""
    with pytest.raises(Exception) as caught:
        composed([each for each in typed if not each.startswith("-")])
    return explain(caught.value, typed)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["-m", "seed=1", "model.hidden=[64"], "model.hidden=[64: cannot be parsed"),
        (["=dqn"], "=dqn: is not of the form key=value"),
        (["seed=1", "model.hiden=[3]"], "model.hiden=[3]: there is no such key; did you mean model.hidden?"),
        (["algo=ppo", "algo.clipp=1"], "algo.clipp=1: there is no such key"),
        (["seed=1", "algo=1"], "algo=1: is not an option (there are: "),
    ],
)
def test_the_setting_that_was_typed_is_blamed(typed: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["scale.py", "strategy=ddp;ddp strategy.compress=bf16"])  # none of it was composed
    assert told(*typed).startswith(said)


def test_an_error_without_a_text_is_named() -> None:
    assert explain(ValueError(), []) == "ValueError"
