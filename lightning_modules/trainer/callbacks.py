"""Callbacks for every algorithm: averaged weights, samples, learning curves, predictions, checkpoints, Ctrl-C."""

import csv
import inspect
import math
import signal
import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import BasePredictionWriter, Callback, ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image
from torch import Tensor

from checkpoints.whole import written_whole
from lightning_modules.trainer.progress import save_run
from lightning_modules.trainer.record import steps_done
from zoo.errors import UserError
from zoo.pictures import image_grid
from zoo.protocols import Sampler


class EMA(WeightAveraging):
    """average <- d average + (1 - d) weights after each optimizer step, d = min(decay, (1 + n) / (10 + n)) at step n.

    Without the ramp, the average of a short run would consist mostly of its initial weights. The `state_dict` of a
    checkpoint is the average; so are the weights in validation and after `fit`.

    Args:
        decay: d in the long run.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"EMA decay must be at least 0 and below 1, got {decay}")

        def update(average: list[Tensor], weights: list[Tensor], count: Tensor) -> None:
            # `count` stays a tensor: no synchronisation with a GPU
            step = torch.clamp((1 + count) / (10 + count), max=decay)
            change = torch._foreach_sub(weights, average)
            torch._foreach_mul_(change, 1 - step)
            torch._foreach_add_(average, change)

        super().__init__(use_buffers=False, multi_avg_fn=torch.no_grad()(update))

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Does nothing outside `fit`, where there is nothing to average and Lightning would warn."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Waits for `on_validation_end`: Lightning would swap the weights back before other callbacks draw pictures."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)


class SamplePictures(Callback):
    """Samples from the same latents after each validation of `fit`: `samples/step-<steps>.png`, and in TensorBoard.

    For any model that samples images; classes come in turn.

    Args:
        num_samples: images in a picture.
        steps: of a diffusion model's sampler, by default its own default; at most as many as it was trained with.
        every_n_validations: draw after every n-th validation only.
    """

    def __init__(self, num_samples: int = 64, steps: int | None = None, every_n_validations: int = 1) -> None:
        self.num_samples, self.steps, self.every_n_validations = num_samples, steps, every_n_validations
        self._validations = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        model = getattr(pl_module, "model", None)
        if not isinstance(model, Sampler) or len(model.shape) != 3:
            raise UserError(
                "the callback SamplePictures needs a model that samples images, but that of "
                f"{type(pl_module).__name__} does not: leave it out"
            )

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._validations += 1
        if not trainer.is_global_zero or self._validations % self.every_n_validations:
            return
        model: Any = pl_module.model
        options: dict[str, Any] = {"generator": torch.Generator().manual_seed(0)}
        known = inspect.signature(model.sample).parameters
        if {"steps", "sampler"} <= known.keys():
            options["steps"] = min(self.steps or known["steps"].default, model.process.num_timesteps)
        if model.labels:
            index = torch.arange(self.num_samples) % math.prod(model.labels)
            columns = torch.unravel_index(index, tuple(reversed(model.labels)))  # the last one fastest
            options["labels"] = torch.stack(columns[::-1], dim=1)
        grid = image_grid(model.sample(self.num_samples, **options))
        folder = Path(trainer.default_root_dir) / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(folder / f"step-{trainer.global_step:07d}.png") as beside:
            Image.fromarray(grid).save(beside)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("samples", grid, trainer.global_step, dataformats="HWC")


class Predictions(BasePredictionWriter):
    """Writes what `predict` returned to `predictions.safetensors` in the run folder, images also to `predictions.png`.

    With several processes each writes its own share, rows rank, rank + n, ..., as `predictions-<rank>.safetensors`.
    """

    def __init__(self) -> None:
        super().__init__("epoch")

    def write_on_epoch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, predictions: Sequence[Tensor], batch_indices: Any
    ) -> None:
        from safetensors.torch import save

        suffix = f"-{trainer.global_rank}" if trainer.world_size > 1 else ""
        output = torch.cat(list(predictions)).cpu().contiguous()
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"predictions{suffix}.safetensors"
        with written_whole(target) as beside:
            beside.write_bytes(save({"predictions": output}))
        print(f"wrote {target}")
        if output.ndim == 4 and output.shape[1] in (1, 3):
            picture = target.with_suffix(".png")
            with written_whole(picture) as beside:
                Image.fromarray(image_grid(output[:400])).save(beside)
            print(f"wrote {picture}")


class LearningCurves(Callback):
    """Plots every logged metric against training steps, from the CSV log, into `curves.png` of the run folder."""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._draw(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if steps_done(trainer, pl_module):  # a run that never started must leave no files
            self._draw(trainer)

    def _draw(self, trainer: L.Trainer) -> None:
        logger = next((logger for logger in trainer.loggers if isinstance(logger, CSVLogger)), None)
        if logger is None or not trainer.is_global_zero:
            return
        logger.save()
        log = Path(logger.log_dir) / "metrics.csv"
        if not log.is_file():
            return
        curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
        with log.open(newline="") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if value and name not in ("step", "epoch"):
                        curves[name].append((float(row["step"]), float(value)))
        # the config already states what is constant
        curves = {name: points for name, points in curves.items() if len(points) < 3 or len({y for _, y in points}) > 1}
        if not curves:
            return

        from matplotlib.figure import Figure  # no pyplot: a callback must not touch a user's windows

        # one panel a quantity: "train/loss" and "val/loss" share the panel "loss"
        panels: dict[str, list[str]] = defaultdict(list)
        for name in sorted(curves):
            panels[name.split("/")[-1]].append(name)
        columns = min(4, len(panels))
        rows = -(-len(panels) // columns)
        figure = Figure(figsize=(5 * columns, 3.6 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).flat
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        for axes, (quantity, names) in zip(grid, panels.items(), strict=False):
            for name in names:
                points = sorted(curves[name])
                marker = "o" if len(points) == 1 else ""  # a line through one point is invisible
                axes.plot(*zip(*points, strict=True), label=name, alpha=0.9, linewidth=1.2, marker=marker)
            if all(value > 0 for name in names for _, value in curves[name]) and "loss" in quantity:
                axes.set_yscale("log")
            axes.set(xlabel="step", title=quantity)
            axes.grid(alpha=0.3)
            axes.legend()
        with written_whole(Path(trainer.default_root_dir) / "curves.png") as beside:
            figure.savefig(beside, dpi=120)


class EpochCheckpoint(ModelCheckpoint):
    """Saves the run after each `every`-th epoch, and after its last one, which `every` may not divide.

    Args:
        path: of the checkpoint, overwritten each time.
        every: epochs.
        after_epochs: save at the end of an epoch, whether or not it is validated. Otherwise Lightning decides: a
            validation may come several times an epoch.
    """

    def __init__(self, path: Path, every: int, after_epochs: bool) -> None:
        super().__init__(
            path.parent,
            filename=path.stem,
            every_n_epochs=every,
            save_on_train_epoch_end=after_epochs or None,
            enable_version_counter=False,
        )

    @property
    def state_key(self) -> str:
        """That of Lightning's own class, under which earlier checkpoints have this callback's state."""
        return super().state_key.replace(type(self).__name__, ModelCheckpoint.__name__)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        # not in `on_train_end`, where the weights are those of EMA already
        last = trainer.current_epoch + 1 == trainer.max_epochs or trainer.global_step == trainer.max_steps
        if (last or trainer.should_stop) and not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


class SaveOnInterrupt(Callback):
    """The first Ctrl-C or SIGTERM saves the whole state after the running step and then stops; a second stops at once.

    After the last step of an epoch it is validated first: a resumed run would skip that validation. Several processes
    must stop after the same step: they agree at every fifth, since each time a GPU waits for the answer.
    """

    STEPS = 5

    def __init__(self, path: Path) -> None:
        self.path = path
        self._asked = False
        self._former: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        due = trainer.world_size == 1 or hasattr(pl_module, "env_steps") or (batch_idx + 1) % self.STEPS == 0
        if due and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._stop_if_asked(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop_if_asked(trainer)

    # not in `teardown`, where Lightning has given its own handlers back already
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def _stop_if_asked(self, trainer: L.Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self._asked, all=False):
            save_run(trainer, self.path)
            raise KeyboardInterrupt

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
