"""The image diffusion model: a U-Net, its noise process and its parameterisation, ready to sample."""

from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from zoo.diffusion.checks import check_conditions, check_density, check_guidance, whole_labels
from zoo.diffusion.guidance import Classifier, Known, class_log_prob, classifier_free, clipped
from zoo.diffusion.losses import denoising_loss
from zoo.diffusion.parameterization import check, network_input, prediction_to_x0
from zoo.diffusion.process import NoiseProcess
from zoo.diffusion.samplers import Denoiser, OnStep
from zoo.diffusion.schedules import times_for
from zoo.diffusion.solvers import SamplerName, sampler_of, takes, with_classifier
from zoo.errors import UserError
from zoo.nn.unet import UNet, label_columns
from zoo.random import normal, per_row

if TYPE_CHECKING:
    from zoo.diffusion.bound import Bound


class ImageDiffusion(nn.Module):
    """A denoising diffusion model of images in [-1, 1].

    Args:
        image_shape: (C, H, W).
        channels, channel_multipliers, blocks_per_level, attention_levels, dropout, num_classes, patch_size,
            augmentation_labels, fourier: see `zoo.nn.unet.UNet`.
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
        augmentation_labels: bool = False,
        fourier: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        check(parameterization)
        if parameterization == "v" and schedule == "ve":
            raise ValueError("parameterization must be 'eps', 'x0' or 'edm' with schedule 've', got 'v'")
        if null_label and not num_classes:
            raise ValueError("num_classes must be given with null_label, got 0")
        self.shape = self.image_shape = image_shape
        self.labels = label_columns(num_classes)
        self.null_labels = torch.tensor([self.labels], device="cpu") if null_label else None  # (1, columns)
        self.parameterization = parameterization
        self.process = NoiseProcess(schedule, num_timesteps, sigma_range)
        widths = (channels, channel_multipliers, blocks_per_level, attention_levels)
        self.network = UNet(
            self.image_shape, *widths, dropout, num_classes, null_label, patch_size, augmentation_labels, fourier
        )

    def example(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Two noised images at a third and at the whole of T, of the first and the last classes."""
        last = self.process.num_timesteps
        inputs = {"x_t": torch.randn((2, *self.shape), generator=generator), "t": torch.tensor([1 + last // 3, last])}
        if self.labels:
            inputs["labels"] = torch.tensor([[0] * len(self.labels), [count - 1 for count in self.labels]])
        return inputs

    def forward(
        self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, augmentation: Tensor | None = None
    ) -> Tensor:
        """The network's own prediction: x_t (B, C, H, W), t (B,) in 0 ... T, labels (B,) -> (B, C, H, W)."""
        shown = network_input(self.parameterization, self.process, x_t, t)
        return self.network(shown, self.process.in_thousandths(t), labels, augmentation)

    def loss(
        self, x0: Tensor, t: Tensor, noise: Tensor, labels: Tensor | None = None, augmentation: Tensor | None = None
    ) -> Tensor:
        """Per-sample denoising loss (B,) of images augmented by these amounts; see `losses.denoising_loss`."""
        network = partial(self, augmentation=augmentation)
        return denoising_loss(network, self.process, self.parameterization, x0, t, noise, labels)

    def denoiser(
        self,
        labels: Tensor | None = None,
        *,
        clip: bool = True,
        guidance_scale: float | Tensor = 1.0,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
    ) -> Denoiser:
        """(x_t, t) -> estimate of x_0, clipped to [-1, 1] if asked: what samplers and guidance are written over.

        Guidance is classifier-free and needs a null label; see `zoo.diffusion.guidance.classifier_free`. Without labels
        a model with a null label is unconditional. Arithmetic outside the network is float64 if x_t is.
        """

        def denoise(x_t: Tensor, t: Tensor, labels: Tensor | None = labels) -> Tensor:
            if labels is None and self.null_labels is not None:
                labels = self.null_labels.to(x_t.device).expand(len(x_t), -1)
            dtype = torch.float64 if x_t.dtype == torch.float64 else torch.float32
            signal, sigma = self.process.signal_and_noise(t, x_t.ndim, dtype)
            prediction = self(x_t.to(next(self.parameters()).dtype), t, labels).to(dtype)
            return prediction_to_x0(self.parameterization, prediction, x_t, signal, sigma)

        guided: Denoiser = denoise
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
        sampler: SamplerName = "dpm++2m-sde",
        steps: int = 10,
        eta: float = 0.0,
        spacing: Literal["trailing", "leading", "linspace", "quadratic", "karras"] = "trailing",
        variance: Literal["small", "large"] | None = None,
        guidance_scale: float | Tensor = 1.0,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        classifier: Classifier | None = None,
        known: Known | None = None,
        edit: tuple[Tensor, float] | None = None,
        repeats: int = 5,
        noise: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Draws images.

        Args:
            n: Number of images, at least 1.
            labels: Class of each image, (n,) or (n, columns); without labels a model with a null label draws any class.
            generator: Source of the noise; in the same state it draws the same images, however many follow.
            sampler: Method; both "dpm++" and "heun" are good in 10 to 20 steps, "ddim" in 50, the others in hundreds.
            steps: Denoising steps, at most those of training; one network evaluation each, two for "heun" and
                "predictor-corrector" except in the last.
            eta: Noise of "ddim" from 0, deterministic, to 1, as noisy as "ddpm".
            spacing: Which of the training steps are visited; "karras" suits "heun".
            variance: Noise of "ddpm"; by default "large" with all the steps of training, "small" with fewer.
            guidance_scale: How strongly the label counts: 1 as learned, 0 not at all, above 1 more; or one an image.
            guidance_interval: Guide only between these two noise levels, the lower first.
            guidance_rescale: Brings the contrast of guided images back towards that of unguided ones, from 0 to 1.
            classifier: A noisy classifier, (x_t, t) -> logits, that guides a model without labels of its own.
            known: What the images agree with: `inpainting` or `averages` of `zoo.diffusion.inverse`.
            edit: An image (C, H, W), or one a sample, to start from, and how strongly it is changed, above 0 to 1.
            repeats: Walks over each tenth of the steps where something is known: more fit what is drawn to it better.
            noise: Standard normal latents (n, C, H, W) to start from, instead of drawing them; "ddim", "dpm++2m",
                and "heun" draw no more.
            on_step: Called after each step with the time just reached, x there, and the estimate of x_0 that led there.

        Returns:
            Images (n, C, H, W) in [-1, 1], float32.

        Raises:
            UserError: if an argument is out of range.
        """
        if n < 1:
            raise UserError(f"n must be at least 1, got {n!r}")
        solve = sampler_of(sampler, eta=eta, variance=variance)
        if variance is None and takes(solve, "variance"):
            solve = partial(solve, variance="large" if steps == self.process.num_timesteps else "small")
        times = times_for(self.process, steps, spacing)
        labels = self._checked(labels, n, classifier)
        check_guidance(labels, self.null_labels, classifier, guidance_scale, guidance_interval, guidance_rescale, n)
        device, shape = next(self.parameters()).device, (n, *self.image_shape)
        if noise is not None and noise.shape != shape:
            raise UserError(f"noise must have the shape {shape}, got {tuple(noise.shape)}")
        source = per_row(generator)
        noise = normal(shape, source, device) if noise is None else noise.to(device)
        x = noise * self.process.at(times[0])[1] if self.process.exploding else noise
        if edit is not None:
            from zoo.diffusion.inverse import start

            times, x = start(self.process, times, noise, edit)
        if classifier is None:
            denoise = self.denoiser(
                labels,
                guidance_scale=guidance_scale,
                guidance_interval=guidance_interval,
                guidance_rescale=guidance_rescale,
            )
        else:
            assert labels is not None
            log_prob, plain = class_log_prob(classifier, labels), self.denoiser(clip=False)
            solve, denoise = with_classifier(solve, plain, self.process, log_prob, guidance_scale)
            denoise = clipped(denoise)
        if known is not None:
            from zoo.diffusion.inverse import check_known, consistent, repeated

            check_known(known, shape)
            solve, denoise = repeated(solve, repeats), consistent(denoise, known)
        return solve(denoise, self.process, x, times, generator=source, on_step=on_step)

    @torch.inference_mode()
    def bound(
        self, x0: Tensor, levels: int, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> "Bound":
        """Upper bound of -log p(x0) in nats, (B,) a term, x_0 clipped; see `zoo.diffusion.bound.variational_bound`."""
        from zoo.diffusion.bound import variational_bound

        denoise = self.denoiser(self._checked(labels, len(x0)))
        return variational_bound(denoise, self.process, x0, levels=levels, generator=generator)

    @torch.no_grad()
    def log_likelihood(
        self,
        x: Tensor,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        levels: int = 0,
        draws: int = 1,
        trace: Literal["hutchinson", "exact"] = "hutchinson",
        steps: int = 100,
    ) -> Tensor:
        """log p(x) by the probability flow; of images on a grid of grey levels, a lower bound of log P(image):

            1 / K sum_k log p(x + u_k) + D log(2 / (L - 1))

        u_k is noise uniform in the bin of a level (Theis et al. 2016, arXiv:1511.01844, section 3.1). See also
        `zoo.diffusion.likelihood.log_likelihood`.

        Args:
            x: Images (B, C, H, W) in [-1, 1].
            labels: Class of each image, (B,) or (B, columns).
            generator: Source of the noise; a generator in the same state gives the same numbers.
            levels: L, the number of grey levels of the images; 0 for the density of x as it is.
            draws: K, draws of the noise within a level.
            trace: "hutchinson" is an unbiased estimate, "exact" costs as many network gradients as there are pixels.
            steps: Runge-Kutta steps of the flow, four network evaluations each.

        Returns:
            Nats, (B,), in the type of x.

        Raises:
            UserError: if an argument is out of range.
        """
        from zoo.diffusion.likelihood import dequantise, log_bin_volume, log_likelihood

        check_density(x, self.shape, levels, draws)
        labels = self._checked(labels, len(x))
        denoise = self.denoiser(labels, clip=False)
        density = partial(log_likelihood, denoise, self.process, trace=trace, steps=steps, generator=generator)
        if not levels:
            return density(x)
        drawn = torch.stack([density(dequantise(x, levels, generator)) for _ in range(draws)])
        return drawn.mean(0) + log_bin_volume(x[0].numel(), levels)

    def labels_in_turn(self, index: Tensor) -> Tensor | None:
        """Labels (N, columns) that count through all classes, the first column fastest; None if there are none."""
        columns = []
        for count in self.labels:
            columns.append(index % count)
            index = index // count
        return torch.stack(columns, dim=1) if columns else None

    def score(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """grad log p_t(x_t), (B, C, H, W), for t above 0; see `zoo.diffusion.score.score`."""
        from zoo.diffusion.score import score

        return score(self.denoiser(labels, clip=False), self.process, x_t, t)

    def extra_repr(self) -> str:
        return (
            f"shape={tuple(self.shape)}, labels={self.labels}, null_label={self.null_labels is not None}, "
            f"process={self.process}, parameterization={self.parameterization!r}"
        )

    def _checked(self, labels: Tensor | None, n: int, classifier: Classifier | None = None) -> Tensor | None:
        labels = None if labels is None else whole_labels(labels).to(next(self.parameters()).device)
        check_conditions(labels, classifier, self.labels, self.null_labels, self.image_shape, self.process, n)
        return labels
