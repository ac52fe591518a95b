"""The image diffusion model: a U-Net, its noise process and its parameterisation, ready to sample."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.diffusion import fast, samplers, score
from zoo.diffusion.bound import Bound, variational_bound
from zoo.diffusion.checks import check_classifier, check_conditions, check_scale
from zoo.diffusion.guidance import LogProb, classifier_free, classifier_guidance, clipped, log_prob_gradient
from zoo.diffusion.likelihood import log_likelihood
from zoo.diffusion.losses import denoising_loss
from zoo.diffusion.parameterization import check, network_input, prediction_to_x0
from zoo.diffusion.process import NoiseProcess
from zoo.errors import UserError
from zoo.nn.unet import UNet, label_columns
from zoo.random import normal

Classifier = Callable[[Tensor, Tensor], Tensor]  # (x_t (B, C, H, W), t (B,)) -> logits (B, classes)


def _heun(*args: Any, generator: torch.Generator | None, on_step: samplers.OnStep | None) -> Tensor:
    return fast.heun(*args, on_step=on_step)  # it draws no noise


SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ddim": samplers.ddim,
    "ddpm": samplers.ancestral,
    "heun": _heun,
    "dpm++2m": fast.dpm_solver_pp,
    "dpm++2m-sde": partial(fast.dpm_solver_pp, sde=True),
    "euler-maruyama": score.euler_maruyama,
    "predictor-corrector": score.predictor_corrector,
}


class ImageDiffusion(nn.Module):
    """A denoising diffusion model of images in [-1, 1].

    Args:
        image_shape: (C, H, W).
        channels, channel_multipliers, blocks_per_level, attention_levels, dropout, num_classes, patch_size: see
            `zoo.nn.unet.UNet`.
        schedule, num_timesteps, sigma_range: see `zoo.diffusion.process.NoiseProcess`.
        parameterization: what the network predicts: "eps", "x0", "v" or "edm"; "v" not with schedule "ve".
        null_label: whether each column has one label more, `num_classes`, that stands for "any", as classifier-free
            guidance needs; in training, give it to a share of the images.

    References:
        Ho et al. 2020, arXiv:2006.11239; Song et al. 2020, arXiv:2010.02502.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        channels: int = 32,
        channel_multipliers: tuple[int, ...] = (1, 2),
        blocks_per_level: int = 1,
        attention_levels: tuple[int, ...] = (1,),
        dropout: float = 0.1,
        num_classes: int | tuple[int, ...] = 0,
        schedule: str = "cosine",
        num_timesteps: int = 1000,
        parameterization: str = "v",
        sigma_range: tuple[float, float] = (0.01, 50.0),
        null_label: bool = False,
        patch_size: int = 1,
    ) -> None:
        super().__init__()
        check(parameterization)
        if parameterization == "v" and schedule == "ve":
            raise ValueError("parameterization must be 'eps', 'x0' or 'edm' with schedule 've', got 'v'")
        if null_label and not num_classes:
            raise ValueError("num_classes must be given with null_label, got 0")
        self.image_shape: tuple[int, int, int] = image_shape
        self.num_classes = self.labels = label_columns(num_classes)
        self.null_labels = torch.tensor([self.num_classes], device="cpu") if null_label else None  # (1, columns)
        self.parameterization = parameterization
        self.process = NoiseProcess(schedule, num_timesteps, sigma_range)
        self.network = UNet(
            self.image_shape,
            channels,
            channel_multipliers,
            blocks_per_level,
            attention_levels,
            dropout,
            num_classes,
            null_label,
            patch_size,
        )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.image_shape

    def example(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Two noised images at a third and at the whole of T, of the first and the last classes."""
        last = self.process.num_timesteps
        inputs = {"x_t": torch.randn((2, *self.shape), generator=generator), "t": torch.tensor([1 + last // 3, last])}
        if self.labels:
            inputs["labels"] = torch.tensor([[0] * len(self.labels), [count - 1 for count in self.labels]])
        return inputs

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The network's own prediction: x_t (B, C, H, W), t (B,) in 0 ... T, labels (B,) -> (B, C, H, W)."""
        shown = network_input(self.parameterization, self.process, x_t, t)
        return self.network(shown, t * (1000 / self.process.num_timesteps), labels)

    def loss(self, x0: Tensor, t: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Per-sample denoising loss (B,); see `zoo.diffusion.losses.denoising_loss`."""
        return denoising_loss(self, self.process, self.parameterization, x0, t, noise, labels)

    def denoiser(
        self,
        labels: Tensor | None = None,
        *,
        clip: bool = True,
        guidance_scale: float | Tensor = 1.0,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
    ) -> samplers.Denoiser:
        """(x_t, t) -> estimate of x_0, clipped to [-1, 1] if asked: what samplers and guidance are written over.

        Guidance is classifier-free, and needs a null label; see `zoo.diffusion.guidance.classifier_free`. Without
        labels, a model with a null label is unconditional. Where x_t is float64, so is all arithmetic outside the
        network.
        """

        def denoise(x_t: Tensor, t: Tensor, labels: Tensor | None = labels) -> Tensor:
            if labels is None and self.null_labels is not None:
                labels = self.null_labels.to(x_t.device).expand(len(x_t), -1)
            dtype = torch.float64 if x_t.dtype == torch.float64 else torch.float32
            signal, sigma = self.process.signal_and_noise(t, x_t.ndim, dtype)
            prediction = self(x_t.to(next(self.parameters()).dtype), t, labels).to(dtype)
            return prediction_to_x0(self.parameterization, prediction, x_t, signal, sigma)

        guided: samplers.Denoiser = denoise
        if self.null_labels is not None and labels is not None and bool((torch.as_tensor(guidance_scale) != 1).any()):
            guided = classifier_free(
                denoise,
                self.process,
                labels.view(len(labels), -1),
                self.null_labels,
                guidance_scale,
                interval=guidance_interval,
                rescale=guidance_rescale,
            )
        return clipped(guided) if clip else guided

    @torch.inference_mode()
    def sample(
        self,
        n: int,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        sampler: str = "ddim",
        steps: int = 50,
        eta: float = 0.0,
        spacing: str = "trailing",
        variance: str | None = None,
        guidance_scale: float | Tensor = 1.0,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        classifier: Classifier | None = None,
        noise: Tensor | None = None,
        on_step: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """Draws images.

        Args:
            n: B, at least 1.
            sampler: a name of `SAMPLERS`; each works with every schedule.
            steps: 1 ... T. One network evaluation each; two for "heun" and "predictor-corrector" but in the last step.
            eta: DDIM's stochasticity, 0 ... 1.
            spacing: see `zoo.diffusion.fast.times_for`; "karras" is made for "heun".
            variance: of the ancestral sampler, "small" or "large"; by default large at all T steps, else small: the
                large one is the better at T steps and much the worse on fewer (DDIM, arXiv:2010.02502, table 1).
            labels: classes (B,) or (B, columns), for a class-conditional model or a classifier. Without them a model
                with a null label draws of any class.
            guidance_scale: s of `zoo.diffusion.guidance`, one number or (B,): 1 is conditional, 0 unconditional.
            guidance_interval, guidance_rescale: see `zoo.diffusion.guidance.classifier_free`.
            classifier: (x_t, t) -> logits, which guides an unconditional model (or one with a null label, as such): by
                a shift of the mean for "ddpm", else through x_0. Its `image_shape`, `num_classes` and `process`, where
                it has them, must fit.
            generator: source of the noise.
            noise: standard normal latent (B, C, H, W), instead of drawing it.
            on_step: called with (time, x) after each step.

        Returns:
            Images (B, C, H, W) in [-1, 1], float32.

        Raises:
            UserError: if an argument is out of range.
        """
        if n < 1:
            raise UserError(f"num_samples must be at least 1, got {n!r}")
        if sampler not in SAMPLERS:
            raise UserError(f"sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}")
        if sampler == "ddim" and not 0 <= eta <= 1:
            raise UserError(f"eta must be between 0 and 1, got {eta!r}")
        variance = variance or ("large" if steps == self.process.num_timesteps else "small")
        if sampler == "ddpm" and variance not in ("small", "large"):
            raise UserError(f"variance must be 'small' or 'large', got {variance!r}")
        device = next(self.parameters()).device
        labels = None if labels is None else labels.to(device)
        check_scale(guidance_scale, n)
        asked = bool((torch.as_tensor(guidance_scale) != 1).any()) or guidance_interval is not None
        if classifier is None:
            check_conditions(labels, self.num_classes, self.null_labels is not None, asked or guidance_rescale > 0, n)
        else:
            if self.num_classes and self.null_labels is None:
                raise UserError("classifier must not be given: this model is conditional and has no null label")
            if guidance_interval is not None or guidance_rescale:
                raise UserError("guidance_interval and guidance_rescale must not be given with a classifier")
            check_classifier(classifier, self.image_shape, self.process, labels, n)
        try:
            times = fast.times_for(self.process, steps, spacing)
            denoise = self.denoiser(
                None if classifier else labels,
                clip=classifier is None,
                guidance_scale=1.0 if classifier else guidance_scale,
                guidance_interval=guidance_interval,
                guidance_rescale=guidance_rescale,
            )
        except ValueError as error:
            raise UserError(str(error)) from None
        shape = (n, *self.image_shape)
        if noise is not None and noise.shape != shape:
            raise UserError(f"noise must have the shape {shape}, got {tuple(noise.shape)}")
        x = normal(shape, generator, device) if noise is None else noise.to(device)
        if self.process.exploding:
            x = x * self.process.at(times[0])[1]
        options: dict[str, Any] = {"eta": eta} if sampler == "ddim" else {}
        if sampler == "ddpm":
            options["variance"] = variance
        if classifier is not None:
            log_prob = _class_log_prob(classifier, labels)
            if sampler == "ddpm":
                scale = torch.as_tensor(guidance_scale, dtype=x.dtype, device=device).view(-1, 1, 1, 1)
                options["mean_gradient"] = lambda x_t, t: scale * log_prob_gradient(log_prob, x_t, t)
            else:
                denoise = classifier_guidance(denoise, self.process, log_prob, guidance_scale)
            denoise = clipped(denoise)
        return SAMPLERS[sampler](denoise, self.process, x, times, generator=generator, on_step=on_step, **options)

    @torch.inference_mode()
    def bound(
        self,
        x0: Tensor,
        levels: int,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Bound:
        """Upper bound of -log p(x0) in nats, (B,) a term, x_0 clipped; see `zoo.diffusion.bound.variational_bound`."""
        return variational_bound(self.denoiser(labels), self.process, x0, levels=levels, generator=generator)

    def log_likelihood(
        self,
        x0: Tensor,
        *,
        labels: Tensor | None = None,
        trace: str = "hutchinson",
        steps: int = 100,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """log p(x0) of continuous images in nats, (B,), unclipped; see `zoo.diffusion.likelihood.log_likelihood`."""
        denoise = self.denoiser(labels, clip=False)
        with torch.no_grad():
            return log_likelihood(denoise, self.process, x0, trace=trace, steps=steps, generator=generator)

    def labels_in_turn(self, index: Tensor) -> Tensor | None:
        """Labels (N, columns) that count through all classes, the first column fastest; None if there are none."""
        columns = []
        for count in self.num_classes:
            columns.append(index % count)
            index = index // count
        return torch.stack(columns, dim=1) if columns else None

    def score(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """grad log p_t(x_t), (B, C, H, W), for t above 0; see `zoo.diffusion.score.score`."""
        return score.score(self.denoiser(labels, clip=False), self.process, x_t, t)


def _class_log_prob(classifier: Classifier, labels: Tensor | None) -> LogProb:
    assert labels is not None
    index = labels.long().view(-1, 1)
    return lambda x_t, t: classifier(x_t, t).float().log_softmax(1).gather(1, index)[:, 0]
