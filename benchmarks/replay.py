"""Replay of a million Atari steps: memory, time to sample a batch of 32 stacked transitions, time of a checkpoint.

    python benchmarks/replay.py [TURNS]
    python benchmarks/replay.py 5 100000        # of another size

Each sampler is measured in a process of its own, with one thread. Needs about 8 GB of memory, and as much space in the
temporary directory (TMPDIR) for the journal.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import run

ROWS, ENVS, BATCH, NEW = 1_000_000, 8, 32, 62_500  # NEW: steps between two evaluations in Mnih's protocol
KINDS = {"uniform": (1, None), "prioritized, 3 steps": (3, 0.5)}  # n_step, alpha
ROUNDS = (2, 8, 32)  # gradient steps per round


def resident() -> float:
    """Resident memory of this process in GB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e9


def measure(kind: str, rows: int, turns: int) -> dict[str, float]:
    """The measurements of one sampler: name -> number."""
    import downpour.experiment  # noqa: F401  (a training run has loaded it)
    from downpour.data.journal import Journal
    from downpour.data.replay import Replay
    from downpour.environments import Atari

    torch.set_num_threads(1)
    environment = Atari(game="breakout")
    n_step, alpha = KINDS[kind]
    generator = torch.Generator().manual_seed(0)
    replay = Replay(rows, ENVS, generator, gamma=0.99, n_step=n_step, alpha=alpha, stack=4)
    block = rows_of(environment, 250)
    before = resident()
    for _ in range(-(-rows // (250 * ENVS)) + 1):  # fills the ring
        replay.extend(block)
    found = {"before": before, "after": resident()}
    for updates in ROUNDS:
        seconds = [timed(lambda n=updates: replay.sample(n, BATCH)) / updates for _ in range(max(20, turns))]
        found[f"ms, rounds of {updates}"] = 1000 * statistics.median(seconds)
    with tempfile.TemporaryDirectory() as folder:
        dtype = np.dtype([(name, v.numpy().dtype, v.shape[2:]) for name, v in block.items()])
        journal = Journal(Path(folder) / "journal", dtype, rows // 8)
        replay.capture(journal, 0)  # the first checkpoint writes all rows
        new = min(NEW, rows)
        seconds = [timed(lambda: replay.capture(journal, replay.count - new)) for _ in range(turns)]
        found["checkpoint, s"] = statistics.median(seconds)
    return found


def rows_of(environment: Any, steps: int) -> Any:
    """Rows [steps, ENVS] as a collector writes them: random screens, with random ends of episodes."""
    from tensordict import TensorDict

    from downpour.data.collector import row_dtype

    dtype = row_dtype(environment.observation_space, environment.action_space, environment.stack)
    rng = np.random.default_rng(0)
    columns = {name: np.zeros((steps, ENVS, *dtype[name].shape), dtype[name].base) for name in dtype.names}
    columns["observation"][:] = rng.integers(0, 256, columns["observation"].shape, np.uint8)
    columns["first"][1:] = rng.random((steps - 1, ENVS)) < 0.005
    columns["terminated"][:-1] = columns["first"][1:]
    return TensorDict({name: torch.from_numpy(each) for name, each in columns.items()}, [steps, ENVS])


def timed(action: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def main(turns: int, rows: int = ROWS) -> str:
    """Measure; return the table."""
    lines = []
    for kind in KINDS:
        found = json.loads(run([__file__, kind, str(rows), str(turns)], threads=None).splitlines()[-1])
        if not lines:
            lines = [f"| {rows} rows | " + " | ".join(["GB resident (before)", *list(found)[2:]]) + " |"]
            lines.append("|---" * (len(found)) + "|")
        cells = [f"{found['after']:.2f} ({found['before']:.2f})", *(f"{v:.2f}" for v in list(found.values())[2:])]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in KINDS:
        print(json.dumps(measure(sys.argv[1], *map(int, sys.argv[2:4]))))
    else:
        print(main(*map(int, sys.argv[1:3] or ["5"])))
