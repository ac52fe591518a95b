"""What the Trainer costs: `fit` of ddpm-digits beside a bare loop over the same update, alternating, in one process.

    python benchmarks/fit_overhead.py

The bare loop does what the run does in every step: gather a batch, loss, backward, fused AdamW, warm-up schedule, EMA.
The run has all its callbacks, loggers and its progress bar. Validation is left out of both.
"""

import argparse
import itertools
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from commands.train import SaveOnInterrupt
from datamodules import Digits
from lightning_modules import DDPM
from lightning_modules.callbacks import EMA, RunRecord


class Clock(Callback):
    """Time of each training step, from the end of one to the end of the next."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.times.append(time.perf_counter())


def module() -> DDPM:
    """The shipped model's network."""
    return DDPM(image_shape=(1, 8, 8), num_classes=10)


def fit(steps: int) -> list[float]:
    """Seconds of each step of a Trainer run."""
    clock = Clock()
    with TemporaryDirectory() as folder:
        trainer = L.Trainer(
            accelerator="cpu",
            max_steps=steps,
            default_root_dir=folder,
            enable_model_summary=False,
            limit_val_batches=0,
            logger=[CSVLogger(folder, name="", version=""), TensorBoardLogger(folder, name="", version="")],
            callbacks=[
                EMA(),
                RichProgressBar(refresh_rate=10),
                RunRecord({}),
                ModelCheckpoint(folder),
                SaveOnInterrupt(Path(folder) / "interrupted.ckpt"),
                clock,
            ],
        )
        trainer.fit(module(), datamodule=Digits(batches_per_epoch=steps))
    return [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)]


def bare(steps: int) -> list[float]:
    """Seconds of each step of the same update, written out."""
    model = module().model.train()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1, (i + 1) / 200))
    times = []
    for images, _ in Digits(batches_per_epoch=steps).train_dataloader():
        t = torch.randint(1, 1001, (len(images),))
        loss = model.loss(images, t, torch.randn_like(images)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        average.update_parameters(model)
        times.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(times)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    ratios = []
    for _ in range(args.rounds):
        mine, plain = statistics.median(fit(args.steps)), statistics.median(bare(args.steps))
        ratios.append(mine / plain)
        print(f"fit {1e3 * mine:.2f} ms a step, bare loop {1e3 * plain:.2f} ms, ratio {ratios[-1]:.3f}")
    print(
        f"median ratio {statistics.median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f}); "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    )


if __name__ == "__main__":
    main()
