"""Consistency models: a diffusion model distilled, or a network trained alone, to draw in one step or two."""

import inspect
import math
from typing import Any

import lightning as L
import torch
from torch import Tensor

import checkpoints
from checkpoints.catalogue import describe
from lightning_modules.diffusion import common
from lightning_modules.trainer.construct import construct, plain
from lightning_modules.trainer.log import log_rarely
from lightning_modules.trainer.optimizers import adamw
from lightning_modules.trainer.record import record
from zoo.diffusion.consistency import SOLVERS, consistency_loss, doubled, flow_step, grid, random_intervals
from zoo.diffusion.consistency_model import ImageConsistency
from zoo.diffusion.model import ImageDiffusion
from zoo.errors import UserError
from zoo.nn.unet import label_columns

# options that a teacher decides
ARCHITECTURE = (
    "channels", "channel_multipliers", "blocks_per_level", "attention_levels", "patch_size", "schedule",
    "num_timesteps", "parameterization", "sigma_range",
)  # fmt: skip

TIMES = ("uniform", "lognormal")  # the first paper's, the second's


class ConsistencyModel(L.LightningModule):
    """Minimises E w d(f(x_t, t), f(x_s, s)) over neighbouring times s < t, with no gradient through f(x_s, s).

    x_t is a noised image. With a teacher (consistency distillation) x_s is a step of the teacher's probability flow
    from x_t; without one (consistency training) it is the same image with the same noise at level s. d is the
    pseudo-Huber distance, w = 1 / (difference of the noise levels). The grid of times becomes finer during the run, its
    number of intervals doubling from `first_intervals` to `last_intervals`. Sampling takes one or two steps.

    Args:
        image_shape: (C, H, W); filled in from the data.
        num_classes: filled in from the data; used if `class_conditional`.
        teacher: a MODEL to distil, whose architecture, noise and labels the student shares and whose weights it starts
            from, but for a null label: each image has its class. None for consistency training.
        guidance_scale: s of classifier-free guidance of the teacher, which the student learns with its labels.
        solver: step of the teacher: "heun" (two evaluations) or "ddim" (one).
        class_conditional: whether the network is conditioned on the label; with a teacher, as that is.
        first_intervals, last_intervals: of the grid of times, at most T.
        spacing: of the grid, see `zoo.diffusion.schedules.times_for`.
        times: "uniform" draws each interval equally often; "lognormal" by the share that a normal distribution of the
            logarithm of the noise level has in it.
        level_mean, level_std: of that distribution.
        huber: c of the distance over the square root of the number of pixels.
        channels, channel_multipliers, blocks_per_level, attention_levels, patch_size, schedule, num_timesteps,
            parameterization, sigma_range: of the network and its noise without a teacher.
        dropout: of the network; both evaluations drop the same features.
        augmentation, augmentation_probability, learning_rate, learning_rate_schedule, weight_decay, warmup_steps,
            compile: see `lightning_modules.DDPM`. A teacher allows no augmentation: it would not know of it.

    References:
        Song et al. 2023, arXiv:2303.01469, algorithms 2 and 3; Song & Dhariwal 2023, arXiv:2310.14189, table 1.
    """

    paper = "Song et al. 2023, arXiv:2303.01469"
    protocol = "samples"

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int | tuple[int, ...] = 0,
        teacher: str | None = None,
        guidance_scale: float = 1.0,
        solver: str = "heun",
        class_conditional: bool = False,
        first_intervals: int = 10,
        last_intervals: int = 160,
        spacing: str = "karras",
        times: str = "lognormal",
        level_mean: float = -1.1,
        level_std: float = 2.0,
        huber: float = 0.00054,
        channels: int = 32,
        channel_multipliers: tuple[int, ...] = (1, 2),
        blocks_per_level: int = 1,
        attention_levels: tuple[int, ...] = (1,),
        patch_size: int = 1,
        dropout: float = 0.0,
        schedule: str = "cosine",
        num_timesteps: int = 1000,
        parameterization: str = "v",
        sigma_range: tuple[float, float] = (0.01, 50.0),
        augmentation: float = 0.0,
        augmentation_probability: float = 1.0,
        learning_rate: float = 5e-4,
        learning_rate_schedule: str = "constant",
        weight_decay: float = 0.01,
        warmup_steps: int = 100,
        compile: bool | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self._check()
        self._teachers: list[ImageDiffusion] = []  # a list keeps its weights out of this module's
        if teacher is None:
            classes = num_classes if class_conditional else 0
            told = augmentation > 0
            self.model: ImageConsistency = construct(
                self, "image-consistency", num_classes=classes, augmentation_labels=told
            )
        else:
            loaded, arguments = self._load_teacher(teacher)
            self.model = construct(self, "image-consistency", **{**arguments, "dropout": dropout})
            own, state = self.model.diffusion.state_dict(), loaded.state_dict()
            # a null label is one row more in the teacher's embedding of labels
            self.model.diffusion.load_state_dict({name: state[name][: len(value)] for name, value in own.items()})
            self._teachers.append(loaded.requires_grad_(False))
        grid(self.model.process, last_intervals, spacing)
        if compile:
            self.model.network.compile()

    on_fit_start = common.compile_if_long
    configure_optimizers = adamw
    configure_callbacks = record

    def training_step(self, batch: common.Batch, batch_idx: int) -> Tensor:
        images, labels = common.images_and_labels(self, batch)
        images, amounts = common.augmented(images, self.hparams)
        loss = self._loss(images, labels, amounts, self._intervals()).mean()
        log_rarely(self, "train/loss", loss)
        return loss

    def validation_step(self, batch: common.Batch, batch_idx: int) -> None:
        self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: common.Batch, batch_idx: int) -> None:
        self._evaluate(batch, batch_idx, "test")

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Latents x_T (B, C, H, W) and their indices (B,) -> images of all classes in turn."""
        return common.draw(self.model, batch)

    def _evaluate(self, batch: common.Batch, batch_idx: int, split: str) -> None:
        """Logs the loss on the finest grid, at noise and times that are the same in every evaluation."""
        images, labels = common.images_and_labels(self, batch)
        with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
            torch.manual_seed(batch_idx)
            loss = self._loss(images, labels, None, self.hparams["last_intervals"])
        self.log(f"{split}/loss", loss.mean(), prog_bar=True, batch_size=len(images), sync_dist=True)

    def _loss(self, images: Tensor, labels: Tensor | None, amounts: Tensor | None, intervals: int) -> Tensor:
        """Loss (B,) of images at random times of the grid."""
        options, model, process = self.hparams, self.model, self.model.process
        times, log_levels = grid(process, intervals, options["spacing"])
        if options["times"] == "uniform":
            below = torch.randint(intervals, (len(images),))
        else:
            below = random_intervals(log_levels, len(images), options["level_mean"], options["level_std"])
        t, s = times[below + 1].to(images.device), times[below].to(images.device)
        noise = torch.randn_like(images)
        x_t = process.add_noise(images, noise, t)
        x_s = self._teacher_step(x_t, t, s, labels) if self._teachers else process.add_noise(images, noise, s)
        c = options["huber"] * math.sqrt(images[0].numel())
        return consistency_loss(model.function(labels, amounts), process, x_t, t, x_s, s, c)

    @torch.no_grad()
    def _teacher_step(self, x_t: Tensor, t: Tensor, s: Tensor, labels: Tensor | None) -> Tensor:
        teacher = self._teachers[0].to(x_t.device)
        denoise = teacher.denoiser(labels, guidance_scale=self.hparams["guidance_scale"])
        return flow_step(denoise, teacher.process, x_t, t, s, self.hparams["solver"])

    def _intervals(self) -> int:
        """Of the grid at this step of the run."""
        options, total = self.hparams, self.trainer.estimated_stepping_batches
        return doubled(self.trainer.global_step, total, options["first_intervals"], options["last_intervals"])

    def _check(self) -> None:
        """Raises a UserError for an option without meaning."""
        options = self.hparams
        first, last = options["first_intervals"], options["last_intervals"]
        if not 1 <= first <= last:
            raise UserError(f"model.first_intervals must lie between 1 and last_intervals {last}, got {first}")
        if options["solver"] not in SOLVERS:
            raise UserError(f"model.solver must be one of {', '.join(SOLVERS)}, got {options['solver']!r}")
        if options["times"] not in TIMES:
            raise UserError(f"model.times must be one of {', '.join(TIMES)}, got {options['times']!r}")
        for name in ("huber", "level_std"):
            if not options[name] > 0:
                raise UserError(f"model.{name} must be positive, got {options[name]}")
        if options["teacher"] is not None and options["augmentation"] > 0:
            raise UserError("model.augmentation has no meaning with a teacher, which draws images that are not moved")
        if options["teacher"] is None and options["guidance_scale"] != 1:
            raise UserError("model.guidance_scale has nothing to guide without a teacher")
        if options["teacher"] is None and options["class_conditional"] and not options["num_classes"]:
            raise UserError("model.class_conditional is true, but the data has no classes")

    def _load_teacher(self, name: str) -> tuple[ImageDiffusion, dict[str, Any]]:
        """The teacher, and its arguments, which are those of the student.

        Raises:
            UserError: if it is no diffusion model of such images, or an option contradicts it.
        """
        described, options = describe(checkpoints.find(name)), self.hparams
        if described.model != "image-diffusion":
            raise UserError(f"model.teacher must be a diffusion model, got {name!r} of class {described.model!r}")
        teacher: Any = checkpoints.load(described)
        shape = tuple(options["image_shape"])
        if tuple(teacher.shape) != shape:
            raise UserError(f"model.teacher {name!r} draws images of shape {teacher.shape}, but the data has {shape}")
        classes = label_columns(options["num_classes"])
        if teacher.labels and teacher.labels != classes:
            raise UserError(f"model.teacher {name!r} has the classes {teacher.labels}, but the data has {classes}")
        if options["guidance_scale"] != 1 and teacher.null_labels is None:
            raise UserError(f"model.guidance_scale has nothing to guide: {name!r} has no null label")
        parameters = inspect.signature(ConsistencyModel).parameters
        for option in ARCHITECTURE:
            given, default = plain(options[option]), plain(parameters[option].default)
            theirs = described.arguments.get(option, default)
            if given not in (default, theirs):
                raise UserError(f"model.{option} is {theirs!r} as in the teacher {name!r}, got {given!r}: leave it out")
        return teacher, {key: value for key, value in described.arguments.items() if key != "null_label"}
