"""Markov decision processes from files: the same tables back, draws that follow them, and files that hold none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from downpour.config import ConfigError
from downpour.environments import MDPFile
from downpour.environments.tables import start_of, table_of


def tables(seed: int = 0, states: int = 4, actions: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.ones(states), (states, actions)) * rng.choice([1.0, 0.7], (states, actions, 1))
    return {
        "transition": transition,
        "reward": rng.standard_normal((states, actions)),
        "start": rng.dirichlet(np.ones(states)),
    }


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    written = tables()
    np.savez(tmp_path / "mdp.npz", **written)
    environment = MDPFile(path=str(tmp_path / "mdp.npz"))
    mdp = table_of(environment)
    np.testing.assert_allclose(mdp.transition, written["transition"])
    np.testing.assert_allclose(mdp.reward, written["reward"])
    np.testing.assert_allclose(start_of(environment), written["start"])


@pytest.mark.parametrize("alone", [True, False])
def test_it_moves_as_often_as_the_tables_say(tmp_path: Path, alone: bool) -> None:
    written, count = tables(1), 3000
    np.savez(tmp_path / "mdp.npz", **written)
    environment = MDPFile(path=str(tmp_path / "mdp.npz"))
    if alone:
        single, firsts, nexts = environment.single(), [], []
        for i in range(count):
            firsts.append(single.reset(seed=0 if i == 0 else None)[0])
            nexts.append(single.step(1)[:3])
        following, _, terminated = (np.array(column) for column in zip(*nexts, strict=True))
    else:
        worlds = environment.vector(count)
        firsts, _ = worlds.reset(seed=0)
        following, _, terminated, _, _ = worlds.step(np.ones(count, np.int64))
    error = 4 * 0.5 / count**0.5
    np.testing.assert_allclose(np.bincount(firsts, minlength=4) / count, written["start"], atol=error)
    moved = np.bincount(following[~terminated], minlength=4) / count
    np.testing.assert_allclose(moved, written["start"] @ written["transition"][:, 1], atol=error)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"reward": None}, "holds transition, start; it needs transition"),
    "shape": ({"reward": np.zeros((4, 2))}, r"reward \[4, 2\]"),
    "negative": ({"transition": -np.ones((4, 3, 4)) / 8}, "must not be negative"),
    "too much": ({"transition": np.ones((4, 3, 4))}, "sum to more than 1"),
    "not finite": ({"reward": np.full((4, 3), np.nan)}, "not finite"),
    "start": ({"start": np.ones(4)}, "start must be a distribution"),
    "start's shape": ({"start": np.ones(3) / 3}, r"start \[3\]"),
    "code": ({"reward": np.array([[{}] * 3] * 4)}, "cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_process_is_refused(tmp_path: Path, name: str) -> None:
    changes, message = BAD[name]
    written = {k: v for k, v in {**tables(), **changes}.items() if v is not None}
    np.savez(tmp_path / "mdp.npz", **written)
    with pytest.raises(ConfigError, match=message):
        MDPFile(path=str(tmp_path / "mdp.npz"))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "array.npy", np.ones(3))
    for name in ("text.npz", "nothing.npz", "array.npy"):
        with pytest.raises(ConfigError, match=r"cannot be read as \.npz"):
            MDPFile(path=str(tmp_path / name))
