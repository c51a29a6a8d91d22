"""TensorBoard, told where the run lies."""

from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger

from downpour.run import Run


class TensorBoard(TensorBoardLogger):
    """Event files in the run directory's `tensorboard` folder."""

    def __init__(self, run: Run):
        super().__init__(save_dir=run.directory, name="tensorboard", version="")

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """config.yaml is the record of these."""
