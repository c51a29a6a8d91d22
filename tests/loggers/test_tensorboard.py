"""What TensorBoard shows of a run."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from downpour.loggers import TensorBoard
from downpour.run import Run


def log(directory: Path, steps: list[int], offset: float) -> None:
    logger = TensorBoard(Run(directory, seed=0, total_steps=10, eval_every=5, eval_episodes=1))
    for step in steps:
        logger.log_metrics({"train/loss": step + offset, "eval/return_mean": -step}, step)
    logger.finalize("success")


def test_a_resumed_run_has_every_step_once(tmp_path: Path) -> None:
    log(tmp_path, [500, 1000, 1500, 2000], offset=0.25)  # and killed
    log(tmp_path, [1500, 2000, 2500], offset=0.5)  # from the checkpoint at 1000
    assert len(list((tmp_path / "tensorboard").glob("events.*"))) == 2
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(events.Tags()["scalars"]) == ["eval/return_mean", "train/loss"]
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [
        (500, 500.25),
        (1000, 1000.25),
        (1500, 1500.5),
        (2000, 2000.5),
        (2500, 2500.5),
    ]


def test_nothing_but_events_is_written(tmp_path: Path) -> None:
    log(tmp_path, [1], offset=0)
    assert [path.name.split(".")[0] for path in (tmp_path / "tensorboard").iterdir()] == ["events"]
