"""The same network in three libraries: this project, diffusers, and denoising_diffusion_pytorch (lucidrains).

Parameters and forward FLOPs agree within 10 %, counted by torch and asserted. Each side's `update` is a whole training
step and its `sample` a whole DDIM run. By default each has the recipe of its own training script:

    ours        v, cosine schedule, fused AdamW, foreach EMA; dropout 0.1
    diffusers   eps, linear schedule, AdamW, gradients clipped at 1, EMA tensor by tensor
                (examples/unconditional_image_generation/train_unconditional.py)
    lucidrains  v, sigmoid schedule, Adam, gradients clipped at 1, ema_pytorch every tenth step (its `Trainer`)

At its best every side does the same work: no dropout, no clipping, the fused optimizer, one foreach EMA.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

os.environ.setdefault("TQDM_DISABLE", "1")  # lucidrains' sampler draws a bar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import mse_loss
from torch.utils.flop_counter import FlopCounterMode

from zoo.diffusion.model import ImageDiffusion

SIDES = ("ours", "diffusers", "lucidrains")


class Size(NamedTuple):
    """One network: arguments that ours and diffusers share, and lucidrains' own, which give the nearest one there."""

    image_shape: tuple[int, int, int]
    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    lucidrains: dict[str, Any]


SIZES = {
    "8x8": Size((1, 8, 8), 32, (1, 2), 1, (1,), {"dim": 32, "dim_mults": (1, 2), "attn_heads": 1}),
    # images of one channel in patches of two, as in cfg-mnist5k
    "28x28": Size((4, 14, 14), 32, (1, 2), 1, (1,), {"dim": 32, "dim_mults": (1, 2), "attn_heads": 1}),
    "32x32": Size((3, 32, 32), 32, (1, 2, 2), 1, (1,), {"dim": 36, "dim_mults": (1, 1, 2), "attn_heads": 1}),
    "32x32-9M": Size((3, 32, 32), 64, (1, 2, 2, 2), 2, (1,), {"dim": 64, "dim_mults": (1, 2, 4)}),
    "32x32-36M": Size((3, 32, 32), 128, (1, 2, 2, 2), 2, (1,), {"dim": 128, "dim_mults": (1, 2, 4)}),
}
TINY = Size(
    (1, 8, 8), 8, (1, 2), 1, (1,), {"dim": 8, "dim_mults": (1, 2), "attn_heads": 1, "attn_dim_head": 8}
)  # for tests


class Setting(NamedTuple):
    """How a network runs."""

    precision: str = "fp32"
    compiled: bool = False
    channels_last: bool = False

    def __str__(self) -> str:
        words = [self.precision, "compiled" if self.compiled else "eager"] + ["channels_last"] * self.channels_last
        return " ".join(words)


class Average:
    """The moving average of `lightning_modules.callbacks.EMA`, over bare tensors."""

    def __init__(self, weights: Sequence[Tensor], decay: float = 0.999) -> None:
        self.weights, self.decay, self.count = list(weights), decay, torch.zeros((), device=weights[0].device)
        self.average = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def update(self) -> None:
        step = torch.clamp((1 + self.count) / (10 + self.count), max=self.decay)
        change = torch._foreach_sub(self.weights, self.average)
        torch._foreach_mul_(change, 1 - step)
        torch._foreach_add_(self.average, change)
        self.count += 1


class Side:
    """A model, its training step and its sampler; `best` takes the same optimizer and EMA on every side."""

    name: str
    network: nn.Module  # (x, t) -> prediction
    clip = 1.0

    def __init__(self, size: Size, setting: Setting, best: bool, device: str, steps: int) -> None:
        self.size, self.setting, self.best, self.device, self.steps = size, setting, best, device, steps
        self._build()
        self.network.to(device)
        if setting.channels_last:
            self.network.to(memory_format=torch.channels_last)
        if setting.precision == "bf16":
            in_bf16 = torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
            self.network.forward = in_bf16(self.network.forward)  # type: ignore[method-assign]
        if setting.compiled:
            self.network.compile()
        self.weights = list(self.network.parameters())
        if best:
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(self.weights, lr=1e-4, fused=True)
            self.average: Callable[[], object] = Average(self.weights).update
        else:
            self.optimizer, self.average = self._recipe()

    def _build(self) -> None:
        raise NotImplementedError

    def _recipe(self) -> tuple[torch.optim.Optimizer, Callable[[], object]]:
        raise NotImplementedError

    def loss(self, images: Tensor) -> Tensor:
        """The mean loss of images (B, C, H, W) in [-1, 1] at random times and noise."""
        raise NotImplementedError

    def sample(self, count: int) -> Tensor:
        """Images by `steps` DDIM steps, on the side's own scale."""
        raise NotImplementedError

    def update(self, images: Tensor) -> None:
        """Forward, backward, optimizer, EMA."""
        self.network.train()
        if self.setting.channels_last:
            images = images.to(memory_format=torch.channels_last)
        self.loss(images).backward()
        if self.clip and not self.best:
            nn.utils.clip_grad_norm_(self.weights, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average()

    @torch.inference_mode()
    def evaluate(self, x: Tensor) -> Tensor:
        """The network's prediction for x (B, C, H, W) at times of all kinds."""
        t = 1 + torch.arange(len(x), device=x.device) * 997 % 999
        self.network.eval()
        return self.network(x, t)

    def draw(self, count: int) -> Tensor:
        """`sample` with the network in evaluation mode."""
        self.network.eval()
        return self.sample(count)


class Ours(Side):
    """`zoo.diffusion.model.ImageDiffusion`."""

    name = "ours"
    clip = 0.0

    def _build(self) -> None:
        size = self.size
        self.model = ImageDiffusion(
            size.image_shape, size.channels, size.multipliers, size.blocks, size.attention, 0.0 if self.best else 0.1
        ).to(self.device)
        self.network = self.model.network

    def _recipe(self) -> tuple[torch.optim.Optimizer, Callable[[], object]]:
        return torch.optim.AdamW(self.weights, lr=1e-3, weight_decay=0.01, fused=True), Average(self.weights).update

    def loss(self, images: Tensor) -> Tensor:
        t = torch.randint(1, self.model.process.num_timesteps + 1, (len(images),), device=images.device)
        return self.model.loss(images, t, torch.randn_like(images)).mean()

    def sample(self, count: int) -> Tensor:
        return self.model.sample(count, sampler="ddim", steps=self.steps)


class Diffusers(Side):
    """UNet2DModel with DDPMScheduler and DDIMPipeline."""

    name = "diffusers"

    def _build(self) -> None:
        import diffusers

        self.network = diffusers_unet(self.size)
        self.scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000)
        self.pipeline = diffusers.DDIMPipeline(self.network, diffusers.DDIMScheduler(num_train_timesteps=1000))
        self.pipeline.set_progress_bar_config(disable=True)
        self.pipeline.to(self.device)

    def _recipe(self) -> tuple[torch.optim.Optimizer, Callable[[], object]]:
        average = diffusers_average(self.weights)
        return diffusers_optimizer(self.weights), lambda: average.step(self.weights)

    def loss(self, images: Tensor) -> Tensor:
        return diffusers_loss(self.network, self.scheduler, images)

    def sample(self, count: int) -> Tensor:
        return self.pipeline(batch_size=count, num_inference_steps=self.steps, output_type="pt").images


class Lucidrains(Side):
    """Unet with GaussianDiffusion."""

    name = "lucidrains"

    def _build(self) -> None:
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet

        self.network = Unet(channels=self.size.image_shape[0], **self.size.lucidrains)
        self.diffusion = GaussianDiffusion(
            self.network, image_size=self.size.image_shape[1:], sampling_timesteps=self.steps
        )
        self.diffusion.to(self.device)

    def _recipe(self) -> tuple[torch.optim.Optimizer, Callable[[], object]]:
        from ema_pytorch import EMA

        optimizer = torch.optim.Adam(self.weights, lr=1e-4, betas=(0.9, 0.99))
        return optimizer, EMA(self.diffusion, beta=0.995, update_every=10).update

    def loss(self, images: Tensor) -> Tensor:
        return self.diffusion((images + 1) / 2)  # it takes images in [0, 1]

    def sample(self, count: int) -> Tensor:
        return self.diffusion.sample(batch_size=count)


CLASSES: dict[str, type[Side]] = {side.name: side for side in (Ours, Diffusers, Lucidrains)}


def build(
    side: str, size: Size, setting: Setting | None = None, *, best: bool = True, device: str = "cpu", steps: int = 50
) -> Side:
    """A side by name, ready to train and to sample in `steps` network evaluations."""
    return CLASSES[side](size, setting or Setting(), best, device, steps)


def diffusers_unet(size: Size, num_class_embeds: int | None = None) -> nn.Module:
    """UNet2DModel with the blocks of ours, and 4 channels a group in the first level as in ours."""
    from diffusers import UNet2DModel

    levels = range(len(size.multipliers))
    return UNet2DModel(
        sample_size=size.image_shape[1],
        in_channels=size.image_shape[0],
        out_channels=size.image_shape[0],
        layers_per_block=size.blocks,
        block_out_channels=tuple(size.channels * multiplier for multiplier in size.multipliers),
        down_block_types=tuple("AttnDownBlock2D" if i in size.attention else "DownBlock2D" for i in levels),
        up_block_types=tuple("AttnUpBlock2D" if i in size.attention else "UpBlock2D" for i in reversed(levels)),
        norm_num_groups=min(32, size.channels // 4),
        num_class_embeds=num_class_embeds,
    )


def diffusers_optimizer(weights: Sequence[Tensor]) -> torch.optim.Optimizer:
    """The defaults of train_unconditional.py."""
    return torch.optim.AdamW(weights, lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)


def diffusers_average(weights: Sequence[Tensor]) -> Any:
    """The defaults of train_unconditional.py."""
    from diffusers.training_utils import EMAModel

    return EMAModel(weights, decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4)


def diffusers_loss(network: nn.Module, scheduler: Any, images: Tensor) -> Tensor:
    """The loss of train_unconditional.py, prediction_type epsilon."""
    noise = torch.randn_like(images)
    t = torch.randint(0, scheduler.config.num_train_timesteps, (len(images),), device=images.device)
    return mse_loss(network(scheduler.add_noise(images, noise, t), t, return_dict=False)[0].float(), noise)


def cost(side: Side) -> tuple[int, int]:
    """(parameters, FLOPs of one forward of one image)."""
    x = torch.zeros(2, *side.size.image_shape, device=side.device)
    t = torch.ones(2, dtype=torch.int64, device=side.device)
    side.network.eval()
    # the fused attention kernel of a CPU is not counted: use the one of plain products
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        side.network(x, t)
    return sum(weight.numel() for weight in side.weights), counter.get_total_flops() // 2


def assert_equal_cost(size: Size, sides: Sequence[str] = SIDES) -> dict[str, tuple[int, int]]:
    """(parameters, FLOPs) of each side; every pair agrees within 10 %, or it is an error."""
    costs = {side: cost(build(side, size)) for side in sides}
    for numbers, what in zip(zip(*costs.values(), strict=True), ("parameters", "FLOPs"), strict=True):
        if max(numbers) > 1.1 * min(numbers):
            raise ValueError(f"{what} differ by more than 10 %: {dict(zip(costs, numbers, strict=True))}")
    return costs


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of the other libraries, which do not matter here."""
    import logging
    import warnings

    logging.getLogger("diffusers").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
