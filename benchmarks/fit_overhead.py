"""What the Trainer costs: `fit` of ddpm-digits compared with a bare loop, alternating, in one process.

    python benchmarks/fit_overhead.py

The bare loop does what the run does in every step: gather a batch, loss, backward, fused AdamW, warm-up schedule, EMA.
The run has all its callbacks, loggers and its progress bar. Neither validates. Wall and CPU seconds are compared; on a
busy machine the latter vary less.
"""

import argparse
import itertools
import logging
import statistics
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from datamodules import Digits
from lightning_modules import DDPM
from lightning_modules.trainer.callbacks import EMA, SaveOnInterrupt

Reading = tuple[float, float]


def read() -> Reading:
    """(wall, CPU) seconds."""
    return time.perf_counter(), time.process_time()


def per_step(readings: list[Reading]) -> Reading:
    """Median (wall, CPU) seconds from one reading to the next."""
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(readings)]
    wall, cpu = zip(*steps, strict=True)
    return statistics.median(wall), statistics.median(cpu)


class Clock(Callback):
    """Reads the clocks at the end of each training step."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.readings.append(read())


def module() -> DDPM:
    """The network of the defaults: 0.76 M parameters on 8x8 images."""
    return DDPM(image_shape=(1, 8, 8), num_classes=10)


def fit(steps: int) -> Reading:
    """Seconds a step of a Trainer run."""
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
                ModelCheckpoint(folder),
                SaveOnInterrupt(Path(folder) / "interrupted.ckpt"),
                clock,
            ],
        )
        trainer.fit(module(), datamodule=Digits(batches_per_epoch=steps))
    return per_step(clock.readings)


def bare(steps: int) -> Reading:
    """Seconds a step of the same update, written out."""
    model = module().model.train()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1, (i + 1) / 200))
    readings = []
    for images, _ in Digits(batches_per_epoch=steps).train_dataloader():
        t = torch.randint(1, 1001, (len(images),))
        loss = model.loss(images, t, torch.randn_like(images)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        average.update_parameters(model)
        readings.append(read())
    return per_step(readings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    rounds = [(fit(args.steps), bare(args.steps)) for _ in range(args.rounds)]
    for i, clock in enumerate(("wall", "CPU")):
        mine, plain = (statistics.median(pair[side][i] for pair in rounds) for side in (0, 1))
        ratios = sorted(pair[0][i] / pair[1][i] for pair in rounds)
        print(
            f"{clock}: fit {1e3 * mine:.2f} ms a step, bare loop {1e3 * plain:.2f} ms; "
            f"ratio {statistics.median(ratios):.3f} (from {ratios[0]:.3f} to {ratios[-1]:.3f})"
        )
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.rounds} alternating rounds")


if __name__ == "__main__":
    main()
