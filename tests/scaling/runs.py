"""Runs whose speed is known, in the place of real ones."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from downpour.cost_model import Server
from downpour.scaling import pushes

SETTINGS = Path(__file__).parents[2] / "conf/scale.yaml"
TASK = ("algo=supervised", "total_gradient_steps=1200", "data.batch_size=64")
WEIGHTS = 1000


def step_time(devices: int, batch: int) -> float:
    """Seconds of the runs below: 1 ms, 0.1 ms a sample, 2 ms for each other process."""
    return 1e-3 + 1e-4 * batch + 2e-3 * (devices - 1)


class Runs:
    """Stands for `train.py`: writes what a run writes, at the speed above, and remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[dict[str, str]] = []

    def __call__(self, settings: Sequence[str]) -> str:
        given = dict(each.split("=", 1) for each in settings)
        self.given.append(given)
        if given.get("strategy") == "fsdp2":
            return "strategy=fsdp2: needs a GPU"
        devices, batch = int(given.get("trainer.devices", 1)), int(given["data.batch_size"])
        steps, every = int(given["total_gradient_steps"]), int(given["callbacks.recorder.every"])
        out = Path(given["hydra.run.dir"])
        (out / "checkpoints").mkdir(parents=True)
        speed = 1 / step_time(devices, batch)
        rows = [(step, speed / 3 if step == every else speed, 0.25) for step in range(every, steps + 1, every)]
        self.write(out / "timing.csv", ("gradient_steps", "time/steps_per_second", "time/communicating"), rows)
        names = ("gradient_steps", "eval/accuracy", "strategy/bytes_per_step")
        evaluations = range(int(given["eval_every"]), steps + 1, int(given["eval_every"]))
        learned = [(step, min(1.0, step * devices / 1200), 4000.0 * (devices - 1)) for step in evaluations]
        self.write(out / "metrics.csv", names, learned)
        if devices > 1:
            self.write(out / "staleness.csv", ("staleness", "updates"), [(0, 30), (devices - 1, 50), (devices - 1, 20)])
        torch.save({"state_dict": {"w": torch.zeros(WEIGHTS)}}, out / "checkpoints/last.ckpt")
        return ""

    @staticmethod
    def write(path: Path, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        with open(path, "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([head, *rows])


SERVER = Server(alpha=1e-4, beta=4e-10, own_alpha=5e-5, own_beta=3e-10)


def pushed(cores: int) -> pushes.Pushes:
    """What pushes to such a server take."""
    cases = [(w, s, n) for w in (1, 2, 4) for s in (1, 2) for n in (4e3, 4e5, 4e6)]
    return [(w, s, n, SERVER.seconds(w, n, s, cores)) for w, s, n in cases]


def table(out: Path) -> list[dict[str, str]]:
    with open(out / "scale.csv", newline="") as file:
        return list(csv.DictReader(file))
