"""A flow: a bijection and a base distribution, which make a density with exact log-probabilities."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.flows.chain import Chain
from zoo.flows.dequantise import check_on_grid, dequantise, quantise
from zoo.flows.layers import Standardise
from zoo.flows.marginals import Marginals
from zoo.random import normal, per_row

BASES = ("normal", "logistic")


class Flow(nn.Module):
    """log p(x) = log p_base(f(x)) + log |det df/dx|: a density of points, or of images on a grid of grey levels.

    Args:
        shape: of one x: (D,) for points, (C, H, W) for images.
        bijection: f, from (B, *shape) to (B, D); see `zoo.flows`.
        base: "normal" or "logistic", of independent standard entries.
        levels: 0 for points, whose density is in their own units; else the number of grey levels of images in
            [-1, 1], whose density is that of y in [0, 1]^D; see `zoo.flows.dequantise`.
        num_classes: 0, or the number of classes of a conditional density; the context of f is then the class, one-hot.

    References:
        Dinh et al. 2016, arXiv:1605.08803, equation 2; Papamakarios et al. 2019, arXiv:1912.02762, section 2.1.
    """

    like: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        bijection: nn.Module,
        base: str = "normal",
        levels: int = 0,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        if base not in BASES:
            raise ValueError(f"base must be one of {', '.join(BASES)}, got {base!r}")
        if levels < 0 or levels == 1:
            raise ValueError(f"levels must be 0 or at least 2, got {levels!r}")
        self.shape, self.dims = tuple(shape), math.prod(shape)
        self.base, self.levels = base, levels
        self.labels = (num_classes,) if num_classes else ()
        self.bijection = bijection
        self.register_buffer("like", torch.zeros(()), persistent=False)  # the type and device of the weights

    def extra_repr(self) -> str:
        levels = f", levels={self.levels}" if self.levels else ""
        return f"shape={self.shape}, base={self.base}{levels}, labels={self.labels}"

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W), or None of a density of points."""
        return self.shape if len(self.shape) == 3 else None

    @property
    def is_estimate(self) -> bool:
        """Whether log-densities are unbiased estimates and not exact."""
        return False

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of the noise of one x."""
        return (self.dims,)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """As `log_prob`."""
        return self.log_prob(x, labels)

    def example(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Two inputs of `forward`: a sample and one half as far again from the mean, or dequantised images."""
        labels = {"labels": torch.tensor([0, self.labels[0] - 1])} if self.labels else {}
        if self.levels:
            return {"x": torch.rand((2, *self.shape), generator=generator)} | labels
        x = self.sample(2, labels=labels.get("labels"), generator=generator)
        centre = self._entrance.mean.to(x) if isinstance(self._entrance, Standardise) else torch.zeros_like(x[0])
        # a step off the data: a density may be the same everywhere on them
        return {"x": centre + (x - centre) * torch.tensor([[1.0], [1.5]])} | labels

    def log_prob(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Log-density in nats, (B,), never below float32: autocasting is off inside.

        Args:
            x: points (B, D), or dequantised y (B, C, H, W) in [0, 1].
            labels: (B,) or (B, 1) classes, of a conditional density.

        Raises:
            UserError: if x has another shape, or labels are missing or not wanted.
        """
        z, ladj = self.encode(x, labels)
        return self._base_log_prob(z) + ladj

    def encode(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z (B, D) and log |det dz/dx| (B,) of x as in `log_prob`."""
        x, context = self._entering(x), self._context(labels, len(x))
        if not torch.is_autocast_enabled(x.device.type):
            return self.bijection(x, context)
        with torch.autocast(x.device.type, enabled=False):
            return self.bijection(x, context)

    def decode(self, z: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, *shape) and log |det dx/dz| (B,) of z (B, D)."""
        if z.shape[1:] != (self.dims,):
            raise UserError(f"noise must have the shape (N, {self.dims}), got {tuple(z.shape)}")
        return self.bijection.inverse(z.to(self.like), self._context(labels, len(z)))  # type: ignore[operator]

    def _points(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """x of `decode`."""
        return self.decode(z, labels)[0]

    @torch.inference_mode()
    def path(self, points: Tensor, labels: Tensor | None = None, inverse: bool = False) -> list[Tensor]:
        """Where x goes, layer by layer, up to z; with `inverse`, where z goes, up to x. The start comes first."""
        chain = self.bijection if hasattr(self.bijection, "path") else Chain([self.bijection])
        start = points.to(self.like) if inverse else self._entering(points)
        return chain.path(start, self._context(labels, len(points)), inverse)  # type: ignore[operator]

    @torch.inference_mode()
    def sample(
        self,
        n: int,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Draws points (n, D), or images (n, C, H, W) in [-1, 1] on the grid of grey levels.

        Args:
            n: how many, at least 1.
            labels: (n,) or (n, 1) classes, of a conditional density.
            generator: source of the noise.
            noise: a draw of the base distribution (n, D), instead of drawing it.
            temperature: factor of the base's noise, above 0; below 1 samples keep to where the density is high.

        Raises:
            UserError: if an argument is out of range.
        """
        if n < 1:
            raise UserError(f"n must be at least 1, got {n!r}")
        if not 0 < temperature < math.inf:
            raise UserError(f"temperature must be above 0, got {temperature!r}")
        if noise is None:
            noise = self._draw(n, generator)
        elif noise.shape != (n, self.dims):
            raise UserError(f"noise must have the shape {(n, self.dims)}, got {tuple(noise.shape)}")
        x = self._points(temperature * noise.to(self.like), labels)
        return quantise(x, self.levels) if self.levels else x

    def log_likelihood(
        self,
        x: Tensor,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        draws: int = 32,
    ) -> Tensor:
        """Of points log p(x), exact. Of images an estimate whose mean is a lower bound of log P(image):

            log (1/K) sum_k p((k + u_k) / L) - D log L

        With one draw it is the usual bound; it rises with K towards the log-probability (Burda et al. 2015,
        arXiv:1509.00519, theorem 1).

        Args:
            x: points (B, D), or images (B, C, H, W) in [-1, 1] on the grid of grey levels.
            labels: (B,) or (B, 1) classes, of a conditional density.
            generator: source of the noise u.
            draws: of images, K: draws of the noise behind each estimate; more give a tighter bound.

        Returns:
            (B,) nats.

        Raises:
            UserError: if x has another shape, or the images are not on the model's grid.
        """
        return self._log_likelihood(lambda y: self.log_prob(y, labels), x, generator, draws)

    @property
    def has_statistics(self) -> bool:
        """Whether the first layer has the statistics of data; that of a new model is the identity."""
        return isinstance(self._entrance, Standardise | Marginals) and self._entrance.is_fitted

    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """Sets the statistics of the training data, (D,) each, in the first layer; see `zoo.flows.layers.Standardise`.

        Raises:
            UserError: if the model has no such layer, or as there.
        """
        if not isinstance(self._entrance, Standardise):
            raise UserError("this model is a density of images and takes no mean and standard deviation")
        self._entrance.set(mean, std)

    def equalise(self, images: Tensor) -> None:
        """Starts each pixel's histogram with that of images (N, C, H, W); see `zoo.flows.marginals.Marginals`.

        Raises:
            UserError: if the model is a density of points, or the images are not on its grid of grey levels.
        """
        if not isinstance(self._entrance, Marginals):
            raise UserError("this model is a density of points and takes no images")
        check_on_grid(images, self.levels)
        self._entrance.fit(dequantise(images, self.levels, torch.full_like(images, 0.5)).to(self.like))

    @property
    def _entrance(self) -> nn.Module:
        """The layer that meets the data."""
        return self.bijection.bijections[0] if isinstance(self.bijection, Chain) else self.bijection

    def _entering(self, x: Tensor) -> Tensor:
        """x (B, *shape) in the type of the weights; points that are standardised first in that of their mean."""
        if x.shape[1:] != self.shape:
            raise UserError(f"x must have the shape (N, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        return x.to(self._entrance.mean if isinstance(self._entrance, Standardise) else self.like)

    def _log_likelihood(
        self, log_prob: Callable[[Tensor], Tensor], x: Tensor, generator: torch.Generator | None, draws: int
    ) -> Tensor:
        """`log_likelihood` by means of a log-density of points, or of dequantised images."""
        if not self.levels:
            return log_prob(x)
        if draws < 1:
            raise UserError(f"draws must be at least 1, got {draws!r}")
        check_on_grid(x, self.levels)
        images = x.to(self.like)
        found = []
        for _ in range(draws):
            noise = _uniform(images.shape, generator, images.device).to(images)
            found.append(log_prob(dequantise(images, self.levels, noise)))
        values = torch.stack(found)
        # the exponential of an unbiased estimate is not one: it is too high in the mean
        mean = values.mean(0) if self.is_estimate else values.logsumexp(0) - math.log(draws)
        return mean - self.dims * math.log(self.levels)

    def _context(self, labels: Tensor | None, batch: int) -> Tensor | None:
        if labels is None:
            if self.labels:
                raise UserError(f"labels must be given: this model knows the classes 0 ... {self.labels[0] - 1}")
            return None
        if not self.labels:
            raise UserError("labels must not be given: this model knows no classes")
        if labels.numel() != batch:
            raise UserError(f"labels must be one for each of {batch}, got {labels.numel()}")
        labels, classes = labels.to(self.like.device).view(-1).long(), self.labels[0]
        checked = not (self.training or torch.compiler.is_compiling())  # the check makes a GPU wait
        if checked and bool(((labels < 0) | (labels >= classes)).any()):
            raise UserError(f"labels must be from 0 to {classes - 1}, got {labels.tolist()!s:.50}")
        return F.one_hot(labels, classes).to(self.like.dtype)

    def _draw(self, n: int, generator: torch.Generator | None) -> Tensor:
        if self.base == "normal":
            return normal((n, self.dims), per_row(generator), self.like.device)
        u = _uniform((n, self.dims), generator, self.like.device)
        return torch.logit(u.clamp(2**-25, 1 - 2**-24))

    def _base_log_prob(self, z: Tensor) -> Tensor:
        if self.base == "normal":
            return -0.5 * z.square().sum(1) - 0.5 * math.log(2 * math.pi) * self.dims
        return (F.logsigmoid(z) + F.logsigmoid(-z)).sum(1)


def _uniform(
    shape: tuple[int, ...] | torch.Size, generator: torch.Generator | None, device: torch.device | str
) -> Tensor:
    if generator is None:
        return torch.rand(shape, device=device)
    return torch.rand(shape, generator=generator, device=generator.device).to(device)
