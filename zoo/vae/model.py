"""A variational autoencoder of images on a grid of grey levels."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import UserError, refuse_labels
from zoo.flows.builders import realnvp
from zoo.flows.dequantise import check_on_grid
from zoo.heads import head as make_head
from zoo.heads import mean, sample, to_level, to_value
from zoo.random import normal, per_row
from zoo.vae.networks import image_of_vector, perceptron, vector_of_image


class Posterior(NamedTuple):
    """q(z | x) = N(mean, exp(log_std)^2), each (B, Z)."""

    mean: Tensor
    log_std: Tensor


class Elbo(NamedTuple):
    """The two terms of the bound, in nats: log p(x | z) of one draw of z (B,), and KL(q(z_j | x) || p(z_j)) (B, Z).

    With a flow as prior the second is log q(z | x) - log p(z) of the same draw, (B, 1).
    """

    log_likelihood: Tensor
    kl: Tensor


class VAE(nn.Module):
    """p(x) = int p(z) prod_d p(x_d | z) dz, p(z) = N(0, I), p(x_d | z) a distribution over the grey levels.

    Or p(z) = N(f(z); 0, I) |det df/dz|, f a Real NVP, which is learned with the rest.

    The bound that is maximised, and its tighter form of K draws:

        log p(x) >= E_q[log p(x | z)] - KL(q(z | x) || p(z)),    q(z | x) = N(mu(x), diag sigma(x)^2)
        log p(x) >= E log (1/K) sum_k p(x | z_k) p(z_k) / q(z_k | x)

    Encoder and decoder are multilayer perceptrons with residual connections and layer normalisation, or convolutions.

    Args:
        image_shape: (C, H, W).
        levels: grey levels of images in [-1, 1].
        latents: Z, the dimension of z.
        hidden: width of both networks; of convolutions, on the coarsest grid, and half as much on each finer one.
        depth: their residual blocks.
        dropout: probability of dropping a hidden unit of a perceptron.
        downsamplings: how often convolutions halve H and W; 0 for perceptrons.
        prior_couplings: affine couplings of f, whose perceptrons have 64 hidden units; 0 for N(0, I).
        head: the distribution of a grey level: "categorical", "logistic" or "bernoulli"; see `zoo.heads`.
        components: of the head "logistic".

    Raises:
        UserError: if a size is not positive, or the head does not fit the levels.

    References:
        Kingma & Welling 2013, arXiv:1312.6114, equations 3 and 10; Burda et al. 2015, arXiv:1509.00519, equation 8;
        a flow as prior: Chen et al. 2016, arXiv:1611.02731, section 3.2; 001_7af9247201bdf7d9.txt, section 2.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        levels: int,
        latents: int = 16,
        hidden: int = 256,
        depth: int = 2,
        dropout: float = 0.1,
        head: str = "categorical",
        components: int = 5,
        downsamplings: int = 0,
        prior_couplings: int = 0,
    ) -> None:
        super().__init__()
        self.head = make_head(head, levels, components)
        if min(*image_shape, latents, hidden, depth) < 1:
            raise UserError("image_shape, latents, hidden and depth must be positive")
        self.shape, self.labels = tuple(image_shape), ()
        self.levels, self.latents, self.dims = levels, latents, math.prod(image_shape)
        self.latent_shape = (latents,)
        self.downsamplings, count = downsamplings, self.head.num_parameters
        if downsamplings:
            self.encoder = vector_of_image(image_shape, hidden, 2 * latents, downsamplings, depth)
            self.decoder = image_of_vector(latents, hidden, image_shape, count, downsamplings, depth)
        else:
            self.encoder = perceptron(self.dims, hidden, 2 * latents, depth, dropout)
            self.decoder = perceptron(latents, hidden, self.dims * count, depth, dropout)

        # its last layers start at zero, and p(z) at N(0, I)
        self.prior = realnvp((latents,), couplings=prior_couplings, hidden=64) if prior_couplings else None

    def extra_repr(self) -> str:
        return f"shape={self.shape}, levels={self.levels}, latents={self.latents}"

    def example(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Two images whose grey levels are all equally likely."""
        return {"x": to_value(torch.randint(self.levels, (2, *self.shape), generator=generator), self.levels)}

    def forward(self, x: Tensor) -> Tensor:
        """Parameters of p(x_d | z) at the mean of q(z | x): (B, C, H, W) -> (B, C, H, W, P), logits if categorical."""
        return self.decode(self.encode(x).mean)

    def encode(self, x: Tensor) -> Posterior:
        """q(z | x) for images (B, C, H, W) in [-1, 1]."""
        mean, raw = _full(self.encoder(x if self.downsamplings else x.flatten(1))).chunk(2, dim=1)
        return Posterior(mean, F.softplus(raw + 0.5).clamp(min=1e-4).log())

    def decode(self, z: Tensor) -> Tensor:
        """Parameters of p(x_d | z), those of `head`: (B, Z) -> (B, C, H, W, P)."""
        out, count = _full(self.decoder(z)), self.head.num_parameters
        if self.downsamplings:
            return out.unflatten(1, (self.shape[0], count)).movedim(2, -1)
        return out.unflatten(1, (*self.shape, count))

    def elbo(self, x: Tensor, noise: Tensor) -> Elbo:
        """Both terms of the bound for images (B, C, H, W) on the grid, with z = mu + sigma noise, noise (B, Z)."""
        q = self.encode(x)
        z = q.mean + q.log_std.exp() * noise
        if self.prior is None:
            kl = 0.5 * (q.mean.square() + (2 * q.log_std).exp() - 1) - q.log_std
        else:
            kl = -self._log_ratio(z, noise, q.log_std)[:, None]
        return Elbo(self._log_prob(x, z), kl)

    @torch.no_grad()
    def log_likelihood(
        self,
        x: Tensor,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        draws: int = 1000,
    ) -> Tensor:
        """log (1/K) sum_k p(x | z_k) p(z_k) / q(z_k | x), z_k ~ q(z | x): in the mean a lower bound of log P(x).

        With one draw it is the evidence lower bound; it rises with K towards the log-probability.

        Args:
            x: images (B, C, H, W) in [-1, 1], on the grid of grey levels.
            labels: none; the model is unconditional.
            generator: source of z_k.
            draws: K, draws of z for each image.

        Returns:
            (B,) nats.

        Raises:
            UserError: if the images are not on the grid, labels are given, or K is not positive.
        """
        refuse_labels(labels)
        if draws < 1:
            raise UserError(f"draws must be at least 1, got {draws!r}")
        check_on_grid(x, self.levels)
        q = self.encode(x)
        total = torch.full_like(q.mean[:, 0], -math.inf)
        for _ in range(draws):
            noise = normal(q.mean.shape, generator, x.device).to(q.mean)
            z = q.mean + q.log_std.exp() * noise
            total = torch.logaddexp(total, self._log_prob(x, z) + self._log_ratio(z, noise, q.log_std))
        return total - math.log(draws)

    @torch.inference_mode()
    def sample(
        self,
        n: int,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        temperature: float = 1.0,
        expected: bool = False,
    ) -> Tensor:
        """Draws images (n, C, H, W) in [-1, 1]: z ~ p(z), then x ~ p(x | z) on the grid of grey levels.

        Args:
            n: at least 1.
            labels: none; the model is unconditional.
            generator: source of z and of the grey levels.
            noise: z (n, Z), or f(z) of a flow, instead of drawing it from N(0, I).
            temperature: factor of the noise; below 1 images are more alike.
            expected: whether to show the mean of p(x | z) instead of a draw: smoother, and no sample of the model.

        Raises:
            UserError: if an argument is out of range.
        """
        refuse_labels(labels)
        if n < 1:
            raise UserError(f"n must be at least 1, got {n!r}")
        if not 0 < temperature < math.inf:
            raise UserError(f"temperature must be above 0, got {temperature!r}")
        if noise is not None and noise.shape != (n, self.latents):
            raise UserError(f"noise must have the shape {(n, self.latents)}, got {tuple(noise.shape)}")
        weights, source = next(self.parameters()), per_row(generator)
        z = normal((n, self.latents), source, weights.device) if noise is None else noise
        z = temperature * z.to(weights)
        if self.prior is not None:
            z, _ = self.prior.decode(z)
        if expected:
            return self.mean_image(z)
        uniform = torch.special.ndtr(normal((n, *self.shape), source, weights.device))
        return to_value(sample(self.head, self.decode(z), uniform), self.levels)

    @torch.inference_mode()
    def mean_image(self, z: Tensor) -> Tensor:
        """The means of p(x | z), (B, Z) -> (B, C, H, W)."""
        return to_value(mean(self.head, self.decode(z)), self.levels)

    def _log_ratio(self, z: Tensor, noise: Tensor, log_std: Tensor) -> Tensor:
        """log p(z) - log q(z | x) of z = mu + sigma noise, (B,)."""
        u, ladj = (z, 0.0) if self.prior is None else self.prior.encode(z)
        return (0.5 * (noise.square() - u.square()) + log_std).sum(1) + ladj

    def _log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z), (B,): a sum over the entries of x."""
        index = to_level(x, self.levels)
        return self.head.log_prob(self.decode(z), index).flatten(1).sum(1)


def _full(x: Tensor) -> Tensor:
    """x in float32 or better: sums of log-probabilities need it, also under autocasting."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
