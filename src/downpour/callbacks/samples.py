"""A figure of a generative model's samples."""

from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback

from downpour.analysis.samples import side_by_side
from downpour.config import PositiveInt
from downpour.loggers import WandB
from downpour.run import Run


class Samples(Callback):
    """samples.png when the run ends: rows of the test split and as many samples, on the scale of the data."""

    needs: ClassVar[dict[str, str]] = {"sample": "make samples"}

    def __init__(self, run: Run, *, rows: PositiveInt = 64):
        """
        Args:
            rows: number of each; twenty times as many for two-dimensional data.
        """
        self.run, self.rows = run, rows

    @torch.no_grad()
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        data = trainer.datamodule
        rows = self.rows if data.samples.is_image else 20 * self.rows
        true = torch.cat([batch["input"] for batch in data.split("test")])[:rows]
        pl_module.eval()
        with trainer.precision_plugin.tensor_init_context():
            made = pl_module.sample(rows, torch.Generator().manual_seed(0))
        pl_module.train()
        path = self.run.directory / "samples.png"
        true, made = (each.float().cpu().numpy() * data.scale + data.mean for each in (true, made))
        side_by_side(true, made, path)
        for logger in trainer.loggers:
            if isinstance(logger, WandB):
                logger.log_image("test/samples", [str(path)], step=data.step)
