"""Starting from another run's weights, freezing some."""

import logging
from pathlib import Path

import pytest
import torch
from tests.supervised import SMALL, train, train_stopped

from downpour.checkpoints import read
from downpour.config import ConfigError
from downpour.networks import MLP
from downpour.transfer import freeze

MOONS = (*SMALL, "data=two_moons", "model.hidden=[8,8]")
LOWER, TOP = "network.layers.0.weight", "network.layers.4.weight"


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return read(directory / "checkpoints" / "last.ckpt")["state_dict"]


def test_what_fits_is_taken_and_what_is_frozen_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path / "first", *MOONS)
    first = weights(tmp_path / "first")
    # Two more inputs would change the lowest layer; a target of numbers changes the top.
    other = ("algo=supervised", "data=csv", "callbacks=regression", f"data.source.path={tmp_path / 't.csv'}")
    (tmp_path / "t.csv").write_text("a,b,y\n" + "".join(f"{i},{-i % 7},{i / 3}\n" for i in range(60)))
    options = (*other, *MOONS[1:4], "model.hidden=[8,8]", f"init_from={tmp_path / 'first'}")
    frozen = (*options, "freeze=[network.layers.0.*]")
    with caplog.at_level(logging.INFO):
        train(tmp_path / "second", *frozen)
    second = weights(tmp_path / "second")
    assert torch.equal(second[LOWER], first[LOWER]) and not torch.equal(
        second["network.layers.2.weight"], first["network.layers.2.weight"]
    )
    assert second[TOP].shape == (1, 8)
    assert "init_from: skipped network.layers.4.weight: [2, 8] there, [1, 8] here" in caplog.text
    assert "init_from: loaded 4 of 6 weights" in caplog.text and "frozen: network.layers.0.bias" in caplog.text
    train_stopped(monkeypatch, tmp_path / "stopped", 13, *frozen)
    assert all(torch.equal(value, second[name]) for name, value in weights(tmp_path / "stopped").items())


def test_what_cannot_be_taken_or_frozen_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"init_from=.*there is no such run directory"):
        train(tmp_path / "run", *MOONS, f"init_from={tmp_path / 'none'}")
    from gymnasium import spaces

    network = MLP(spaces.Box(-1, 1, (2,)), 2, hidden=[3])
    with pytest.raises(ConfigError, match=r"freeze=layers\.0\.wieght: matches no parameter; did you mean layers\.0\.w"):
        freeze(network, ["layers.0.wieght"])
    with pytest.raises(ConfigError, match="leaves nothing to learn"):
        freeze(network, ["layers.*"])
