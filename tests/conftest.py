"""What several tests share: the command line as a process, and a run that it has made."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from tests.commands import SMALL, Commands

settings.register_profile("busy", deadline=None)  # a machine may stall between two examples
settings.load_profile("busy")


@pytest.fixture(autouse=True)
def _denormals() -> Iterator[None]:
    """Training in this process flushes them to zero; hypothesis draws them."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    """`train.py`, run in this test's own folder."""
    return Commands(tmp_path)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a small run, straight to its end. Not to be written to: see `copy_of_run`."""
    folder = tmp_path_factory.mktemp("finished")
    ended = Commands(folder).run(*SMALL, "hydra.run.dir=run")
    assert ended.code == 0, ended.text
    return folder / "run"


@pytest.fixture
def copy_of_run(finished_run: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Makes copies of the finished run in this test's folder."""
    return lambda name: Path(shutil.copytree(finished_run, tmp_path / name))
