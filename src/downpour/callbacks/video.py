"""Videos of the policy during training."""

from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch import Callback

from downpour.config import PositiveInt
from downpour.environments import Environment
from downpour.loggers import WandB
from downpour.run import Purpose, Run


class Video(Callback):
    """Records a video after every few evaluations, and after the last.

    The mp4 file is in the run directory's `videos`, with the step and the return in its name; W&B gets it as
    `eval/video`. Every rank plays, rank 0 films. The episode depends on the seed and the step alone and draws from no
    generator of the run.
    """

    needs: ClassVar[dict[str, str]] = {"act": "act in an environment"}

    def __init__(
        self,
        environment: Environment,
        run: Run,
        *,
        every: PositiveInt = 5,
        episodes: PositiveInt = 1,
        max_episode_steps: PositiveInt = 27_000,
    ):
        """
        Args:
            every: evaluations between two recordings.
            episodes: videos per recording, one episode each.
            max_episode_steps: truncate episodes here.

        Raises:
            ConfigError: the environment cannot be rendered.
        """
        from downpour.video import Camera

        self.run, self.every, self.episodes, self.max_episode_steps = run, every, episodes, max_episode_steps
        folder: Path | None = run.directory / "videos" if run.rank == 0 else None
        self.camera = Camera(environment, folder, "callbacks.video")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        from downpour.video import film

        step = trainer.datamodule.step
        last = step >= self.run.total_steps or trainer.should_stop
        if step // self.run.eval_every % self.every and not last:
            return
        seed = self.run.shared_sequence(Purpose.VIDEO, step)
        name = f"{trainer.datamodule.step_name}{step}"
        films = film(pl_module, self.camera, name, self.episodes, seed, self.max_episode_steps)
        for logger in trainer.loggers:
            if films and isinstance(logger, WandB):
                captions = [path.stem for path in films]
                logger.log_video("eval/video", [str(path) for path in films], step, caption=captions)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.camera.close()
