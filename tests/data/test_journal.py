"""The journal: rows stay where they are, whatever is written after them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from downpour.data import journal as journals
from downpour.data.journal import Journal

ROW = np.dtype([("number", np.int64), ("values", np.float32, (3,)), ("flag", bool)])


def numbered(first: int, last: int, mark: float = 0.0) -> np.ndarray:
    rows = np.zeros(last - first, ROW)
    rows["number"] = np.arange(first, last)
    rows["values"] = mark
    rows["flag"] = rows["number"] % 3 == 0
    return rows


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, 30), max_size=5), st.integers(1, 12), st.data())
def test_rows_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[int], segment: int, data: st.DataObject
) -> None:
    journal = Journal(tmp_path_factory.mktemp("journal"), ROW, segment)
    end = 0
    for size in blocks:
        journal.write(end, numbered(end, end + size))
        end += size
    first = data.draw(st.integers(0, end))
    last = data.draw(st.integers(first, end))
    assert np.array_equal(journal.read(first, last), numbered(first, last))


def test_an_abandoned_future_is_written_over(tmp_path: Path) -> None:
    journal = Journal(tmp_path, ROW, 4)
    journal.write(0, numbered(0, 30, mark=1))
    journal.write(10, numbered(10, 14, mark=2))
    assert (journal.read(0, 10)["values"] == 1).all()
    assert (journal.read(10, 14)["values"] == 2).all()
    assert (journal.read(14, 30)["values"] == 1).all()


def test_rows_may_begin_anywhere(tmp_path: Path) -> None:
    """A run that makes more rows between checkpoints than its ring holds journals only the newest."""
    journal = Journal(tmp_path, ROW, 4)
    journal.write(101, numbered(101, 109))
    assert np.array_equal(journal.read(101, 109), numbered(101, 109))
    assert files(tmp_path) == ["rows-000025.bin", "rows-000026.bin", "rows-000027.bin"]


@pytest.mark.parametrize("needed", [-5, 0, 3, 4, 7, 8, 9, 20])
def test_prune_keeps_what_is_needed(tmp_path: Path, needed: int) -> None:
    journal = Journal(tmp_path, ROW, 4)
    journal.write(0, numbered(0, 18))
    journal.prune(needed)
    first = max(0, needed)
    assert np.array_equal(journal.read(first, 18), numbered(first, 18)) if first < 18 else True
    assert len(files(tmp_path)) == 5 - min(5, first // 4)


def test_prune_of_nothing(tmp_path: Path) -> None:
    Journal(tmp_path / "not there", ROW, 4).prune(10)


def test_missing_rows_are_an_error(tmp_path: Path) -> None:
    journal = Journal(tmp_path, ROW, 4)
    journal.write(0, numbered(0, 6))
    with pytest.raises(EOFError, match="ends before row 7"):
        journal.read(0, 7)
    with pytest.raises(FileNotFoundError):
        journal.read(9, 10)
    assert len(journal.read(3, 3)) == 0


def test_all_that_was_written_is_synced_once_and_then_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many pieces: a sync waits for the disk. Of a name the folder knows, so a new file is not enough."""
    synced: list[str] = []

    def note(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").resolve().name)

    monkeypatch.setattr(journals.os, "fsync", note)
    journal = Journal(tmp_path / "rank0", ROW, 10)
    for first in range(0, 18, 3):
        journal.write(first, numbered(first, first + 3))
    assert synced == []
    journal.sync()
    assert synced == ["rows-000000.bin", "rows-000001.bin", "rank0", tmp_path.name]
    synced.clear()
    journal.write(18, numbered(18, 20))
    journal.sync()
    journal.sync()
    assert synced == ["rows-000001.bin"]
    assert np.array_equal(journal.read(0, 20), numbered(0, 20))
