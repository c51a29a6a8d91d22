"""How much memory there is, and what to say to who asks for more."""

import bisect
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from downpour.config import ConfigError

GROUP = Path("/sys/fs/cgroup")  # a container's limit (cgroup v2)
SPARE = 0.1  # of what is free is left to the rest of the run


def free_memory() -> int:
    """Bytes that this machine, or the container it seems to be, can still give."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # no Linux
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit, used = ((GROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        if limit != "max":
            free = min(free, int(limit) - int(used))
    except OSError:
        pass
    return max(0, free)


def check_room(
    capacity: int, row_bytes: int, directory: Path, *, on_disk: bool, written: int, between: int, processes: int
) -> None:
    """Before rings are made: that they and the journals of their rows will fit.

    Args:
        capacity: rows of a ring.
        directory: the run's.
        on_disk: whether the rings are files there; otherwise they are in memory.
        written: rows that a process writes in the whole run.
        between: rows that it writes between two checkpoints.
        processes: of this machine, each with a ring and a journal of its own.

    Raises:
        ConfigError: they will not; with what they need and what would fit.
    """

    def journal(rows: int) -> int:  # two checkpoints, in files of an eighth of the ring
        return min(written, rows + 2 * (min(between, rows) + -(-rows // 8)))

    existing = next(each for each in (directory, *directory.absolute().parents) if each.exists())
    own = sum(each.stat().st_size for each in (directory / "replay").glob("*/*") if each.is_file())  # of a resumed run
    disk = shutil.disk_usage(existing).free + own
    size = row_bytes * processes
    what = "for the ring and its journal" if on_disk else "for the journal of checkpoints"
    places: list[tuple[int, str, Callable[[int], int]]] = [
        (disk, f"on the disk of {directory} {what}", lambda rows: size * (journal(rows) + rows * on_disk))
    ]
    if not on_disk:
        places.insert(0, (free_memory(), "of memory", lambda rows: size * rows))
    fits = min(_most(capacity, (1 - SPARE) * free, need) for free, _, need in places)
    for free, place, need in places:
        if need(capacity) > (1 - SPARE) * free:
            rounded = fits - fits % 10 ** max(0, len(str(fits)) - 2)
            who = f"{processes} processes need" if processes > 1 else "needs"
            advice = f"{who} {gigabytes(need(capacity))} {place}, {gigabytes(free)} are free"
            advice += f": data.capacity={rounded} would fit" if rounded else ""
            if place == "of memory" and size * (journal(capacity) + capacity) <= (1 - SPARE) * disk:
                advice += ", or data.storage=disk"
            raise ConfigError("data.capacity", capacity, advice)


def _most(capacity: int, room: float, need: Callable[[int], int]) -> int:
    """The most rows up to `capacity` that fit."""
    return bisect.bisect_right(range(1, capacity + 1), room, key=need)


def gigabytes(size: int) -> str:
    """As a person reads it."""
    return f"{size / 1e9:.3g} GB" if size < 1e12 else f"{size / 1e9:.0f} GB"
