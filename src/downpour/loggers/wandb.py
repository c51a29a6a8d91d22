"""Weights & Biases. The package wandb is imported when a run starts."""

import logging
import os
import signal
import sys
import uuid
from collections.abc import Mapping
from typing import Any, Literal

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from downpour import directory as directories
from downpour.config import ConfigError
from downpour.failures import Stopped
from downpour.run import Run

log = logging.getLogger(__name__)


class WandB(WandbLogger):
    """One W&B run for each run of ours, on rank 0.

    Rows have the metric names of metrics.csv and timing.csv over the same x axis. The W&B step is that axis too: what
    a run resumed from a checkpoint measures a second time is the same number and is left out. The id of the W&B run is
    kept in `wandb/id` of the run directory, where resuming finds it.
    """

    def __init__(
        self,
        run: Run,
        config: dict[str, Any],
        step_name: str,
        *,
        project: str = "downpour",
        entity: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        mode: Literal["online", "offline", "disabled"] = "online",
        upload_checkpoint: bool = True,
    ):
        """
        Args:
            config: the resolved configuration of the run.
            step_name: the x axis of every metric.
            project, entity, group, tags: W&B's own. The jobs of a multirun are a group if none is named.
            mode: `offline` keeps everything in the run directory for `wandb sync`; `disabled` does nothing.
            upload_checkpoint: upload best.ckpt as an artifact when the run ends.
        """
        jobs_of = run.directory.parent.name if run.directory.name.isdecimal() else None
        super().__init__(
            name=f"{jobs_of}/{run.directory.name}" if jobs_of else run.directory.name,
            save_dir=run.directory,
            project=project,
            entity=entity,
            group=group or jobs_of,
            tags=tags or [],
            mode=mode,
            resume="allow" if config.get("resume") and mode == "online" else None,
        )
        del self._wandb_init["anonymous"]  # W&B warns about it
        self.run, self.config, self.step_name = run, config, step_name
        self.mode, self.upload_checkpoint = mode, upload_checkpoint
        self._last_step = 0
        self._closed = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, started at the first use.

        Raises:
            ConfigError: W&B cannot be reached, or nobody is logged in.
        """
        if self._experiment is None and not self._closed:
            self._experiment = self._start()
        return self._experiment

    def _start(self) -> Any:
        import wandb

        # Without info W&B does not ask for a login either: a question would hang an unattended job. The mode is an
        # argument, not WANDB_MODE, which would reach the next run of this process.
        settings = wandb.Settings(show_info=False, reinit="finish_previous")
        id_file = self.run.directory / "wandb" / "id"
        id_file.parent.mkdir(parents=True, exist_ok=True)
        # The agent of a sweep has chosen the id already.
        known = id_file.read_text().strip() if id_file.exists() else os.environ.get("WANDB_RUN_ID")
        self._wandb_init["id"] = known or uuid.uuid4().hex[:8]
        try:
            wandb.setup(settings=settings)
            run = wandb.init(**self._wandb_init, settings=settings)
        except wandb.Error as error:
            reason = str(error).strip().splitlines()[0].rstrip(".")
            advice = f"{reason}. Without an account or a network use logger.wandb.mode=offline, then `wandb sync`"
            raise ConfigError("logger.wandb.mode", self.mode, advice) from None
        directories.write_text(id_file, f"{run.id}\n")
        run.config.update(
            {**self.config, "git_commit": directories.git_commit(), "versions": directories.versions()},
            allow_val_change=True,  # a resumed run may have been made longer
        )
        run.define_metric(self.step_name)
        run.define_metric("*", step_metric=self.step_name)
        if self.mode == "online":
            log.info("W&B: %s", run.url)
        elif self.mode == "offline":
            log.info("W&B: offline; to upload it: wandb sync %s/offline-run-*", id_file.parent)
        return run

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The whole configuration is uploaded at the start."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log a row at `step` of the x axis; rows of the same step are merged."""
        run = self.experiment
        step = self._last_step if step is None else step
        if run is None or step < run.step:  # W&B refuses to go back: it has this row from before the resume
            return
        self._last_step = step
        run.log({self.step_name: step, **metrics}, step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Lightning calls this before the run's results are written; see `close`."""

    @rank_zero_only
    def close(self, status: str) -> None:
        """End the W&B run, so that the next run of this process starts its own.

        To be called while the exception that ended the run, if any, is being handled.

        Args:
            status: as summary.json has it: finished, stopped or failed.
        """
        run, self._experiment, self._closed = self._experiment, None, True
        if run is None:
            return
        try:
            if self.mode != "disabled":
                self._add_results(run)
        except Exception as error:
            log.warning("not all results could be uploaded to W&B: %s", error)
        finally:
            run.finish(exit_code=exit_code(status, sys.exception()))

    def _add_results(self, run: Any) -> None:
        import wandb

        from downpour.analysis.curves import learning_curve

        directory = self.run.directory
        summary = directories.read_summary(directory)
        best = directory / "checkpoints" / "best.ckpt"
        if self.upload_checkpoint and best.exists():
            found = {name: value for name, value in summary.items() if name.startswith("best/")}
            artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata=found)
            add = artifact.add_dir if best.is_dir() else artifact.add_file
            add(str(best), name=best.name)
            run.log_artifact(artifact, aliases=["best", "latest"])
        run.log({"curve": wandb.Image(str(learning_curve(directory)))}, step=max(self._last_step, run.step))
        run.summary.update(summary)


def exit_code(status: str, error: BaseException | None) -> int:
    """The exit code of the process: 0, 128 + a signal's number, or 1."""
    if status == "finished":
        return 0
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if status == "stopped":
        return 128 + (error.signal_number if isinstance(error, Stopped) else signal.SIGTERM)
    return 1
