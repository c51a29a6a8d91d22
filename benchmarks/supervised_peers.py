"""The same network on the same digits without this framework; prints images per second.

`bare`: a PyTorch loop, data on the device, batches by index. `lightning`: a LightningModule with automatic optimization
and an ordinary DataLoader, without logger, checkpoints or progress bar.
"""

import sys
import time
import warnings

import lightning
import torch
from digits import network, training_rows
from torch.utils.data import DataLoader, TensorDataset

BATCH, LR = 64, 5e-4


def bare(model: str, x: torch.Tensor, y: torch.Tensor, steps: int) -> float:
    """A PyTorch loop."""
    net = network(model)
    optimizer = torch.optim.Adam(net.parameters(), lr=LR, fused=True)
    done, begin = 0, 0.0
    while done < steps + steps // 5:
        order = torch.randperm(len(x))
        for index in order.split(BATCH)[:-1]:
            if done == steps // 5:  # after the warm-up
                begin = time.perf_counter()
            loss = torch.nn.functional.cross_entropy(net(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
    return (done - steps // 5) * BATCH / (time.perf_counter() - begin)


class Module(lightning.LightningModule):
    """A module as in Lightning's documentation."""

    def __init__(self, model: str, steps: int):
        super().__init__()
        self.net, self.steps, self.begin = network(model), steps, 0.0

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        if self.global_step == self.steps // 5:
            self.begin = time.perf_counter()
        x, y = batch
        return torch.nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=LR, fused=True)


def with_lightning(model: str, x: torch.Tensor, y: torch.Tensor, steps: int) -> float:
    """Lightning and a DataLoader."""
    module = Module(model, steps)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=steps + steps // 5,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True, drop_last=True))
    return steps * BATCH / (time.perf_counter() - module.begin)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    kind, model, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    torch.set_flush_denormal(kind == "bare")  # as the framework does
    print((bare if kind == "bare" else with_lightning)(model, *training_rows(), steps))
