"""A vector-quantised autoencoder of images on a grid of grey levels, and a prior of its codes."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo.autoregressive.model import Autoregressive
from zoo.errors import UserError, refuse_labels
from zoo.flows.dequantise import check_on_grid
from zoo.heads import head as make_head
from zoo.heads import mean, sample, to_level, to_value
from zoo.random import normal, per_row
from zoo.vae.codebook import Codebook, Lattice
from zoo.vae.networks import coarse_grid, convolutional_decoder, convolutional_encoder


class Quantised(NamedTuple):
    """What the bound is made of, for each image, in nats.

    Attributes:
        log_likelihood: log p(x | k(x)), (B,).
        commitment: |z - e_k|^2, summed over the codes of an image, (B,); only z has a gradient.
        z: what the encoder says, (B, h, w, width).
        codes: k(x), whole numbers (B, h, w).
    """

    log_likelihood: Tensor
    commitment: Tensor
    z: Tensor
    codes: Tensor


class VQVAE(nn.Module):
    """P(x) = sum_k P(k) prod_d p(x_d | k), k a grid of codes: each of K vectors e_1 ... e_K.

    The encoder gives a vector z for each place of the grid, k(x) has the codes nearest to these, and the decoder reads
    their vectors. One term of the sum is a lower bound of it:

        log P(x) >= log p(x | k(x)) + log P(k(x))

    The gradient of e_k is handed to z as if the two were equal. The prior P(k) is uniform, or a gated PixelCNN of codes
    that are names.

    Args:
        image_shape: (C, H, W); H and W are multiples of 2^downsamplings.
        levels: grey levels of images in [-1, 1].
        codes: K.
        code_width: of a vector e.
        scalar_levels: of finite scalar quantisation: the codes are all points of a grid with so many values for each
            entry, as (8, 5, 5, 5) for 1,000. `codes` and `code_width` then have no meaning.
        downsamplings: how often the encoder halves H and W.
        channels: of the convolutions on the grid of codes; each finer grid has half as many.
        depth: residual blocks of each, on the grid of codes.
        head: the distribution of a grey level: "categorical", "logistic" or "bernoulli"; see `zoo.heads`.
        components: of the head "logistic".
        prior: "uniform" or "pixelcnn".
        prior_width, prior_depth, prior_dropout: of the PixelCNN.
        num_classes: of each label column, of a prior P(k | labels); 0 for none.

    Raises:
        UserError: if an argument is out of range, or does not fit the others.

    References:
        van den Oord et al. 2017, arXiv:1711.00937; scalar levels: Mentzer et al. 2023, arXiv:2309.15505;
        001_7af9247201bdf7d9.txt, section 3.
    """

    is_bound = True  # log_likelihood is below the logarithm of the probability

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        levels: int,
        codes: int = 64,
        code_width: int = 16,
        scalar_levels: tuple[int, ...] = (),
        downsamplings: int = 2,
        channels: int = 64,
        depth: int = 2,
        head: str = "categorical",
        components: int = 5,
        prior: str = "uniform",
        prior_width: int = 64,
        prior_depth: int = 6,
        prior_dropout: float = 0.0,
        num_classes: int | tuple[int, ...] = 0,
    ) -> None:
        super().__init__()
        self.head = make_head(head, levels, components)
        if min(*image_shape, codes, code_width, channels, depth) < 1:
            raise UserError("image_shape, codes, code_width, channels and depth must be positive")
        if prior not in ("uniform", "pixelcnn"):
            raise UserError(f"prior must be uniform or pixelcnn, got {prior!r}")
        self.shape, self.levels, self.dims = tuple(image_shape), levels, math.prod(image_shape)
        self.grid = coarse_grid(image_shape, downsamplings)
        count, height, width = image_shape
        parameters = count * self.head.num_parameters
        code_width = len(scalar_levels) or code_width
        self.encoder = convolutional_encoder(count, channels, code_width, downsamplings, depth)
        if scalar_levels:
            self.encoder.append(nn.Tanh())  # codes are within [-1, 1]
        self.decoder = convolutional_decoder(code_width, channels, parameters, downsamplings, depth)
        # what is alike in all images, each pixel for itself
        self.background = nn.Parameter(torch.zeros(parameters, height, width))
        self.codebook: Codebook | Lattice = Lattice(scalar_levels) if scalar_levels else Codebook(codes, code_width)
        self.num_codes, self.prior = len(self.codebook.codes), None
        if prior == "pixelcnn":
            self.prior = Autoregressive(
                (1, *self.grid), self.num_codes, prior, width=prior_width, depth=prior_depth, dropout=prior_dropout,
                num_classes=num_classes, nominal=True,
            )  # fmt: skip
        self.labels = self.prior.labels if self.prior is not None else ()

    def extra_repr(self) -> str:
        return f"shape={self.shape}, levels={self.levels}, codes={self.num_codes}, grid={self.grid}"

    def example(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Two images whose grey levels are all equally likely, with the labels of a conditional prior."""
        x = to_value(torch.randint(self.levels, (2, *self.shape), generator=generator), self.levels)
        columns = [torch.randint(count, (2,), generator=generator) for count in self.labels]
        return {"x": x} | ({"labels": torch.stack(columns, 1)} if columns else {})

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The bound of images (B, C, H, W) on the grid of grey levels, (B,) nats."""
        found = self.quantised(x)
        return found.log_likelihood + self.log_prior(found.codes, labels)

    def encode(self, x: Tensor) -> Tensor:
        """The codes k(x) of images (B, C, H, W) in [-1, 1], whole numbers (B, h, w)."""
        return self.codebook.nearest(self._encode(x))

    def decode(self, codes: Tensor) -> Tensor:
        """Parameters of p(x_d | k): vectors e_k (B, h, w, width) -> (B, C, H, W, P)."""
        out = self.decoder(codes.to(self.background).movedim(-1, 1)) + self.background
        return _full(out.unflatten(1, (self.shape[0], self.head.num_parameters)).movedim(2, -1))

    def quantised(self, x: Tensor) -> Quantised:
        """Codes of images (B, C, H, W) on the grid of grey levels, and how well they tell these."""
        z = self._encode(x)
        index = self.codebook.nearest(z)
        codes = self.codebook(index)
        parameters = self.decode(z + (codes - z).detach())
        level = to_level(x, self.levels)
        given = self.head.log_prob(parameters, level).flatten(1).sum(1)
        return Quantised(given, (z - codes).square().flatten(1).sum(1), z, index)

    def log_prior(self, index: Tensor, labels: Tensor | None = None) -> Tensor:
        """log P(k) of codes (B, h, w), (B,) nats."""
        if self.prior is not None:
            return self.prior.log_prob(_as_image(index, self.num_codes), labels)
        refuse_labels(labels)
        return torch.full_like(index[:, 0, 0], -math.log(self.num_codes) * index[0].numel(), dtype=torch.float32)

    @torch.no_grad()
    def log_likelihood(
        self, x: Tensor, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """log p(x | k(x)) + log P(k(x)): a lower bound of log P(x), from the codes of the encoder alone.

        Args:
            x: images (B, C, H, W) in [-1, 1], on the grid of grey levels.
            labels: (B,) or (B, columns) classes, of a conditional prior.
            generator: not used: nothing is random.

        Returns:
            (B,) nats.

        Raises:
            UserError: if the images are not on the grid, or labels are missing or not wanted.
        """
        check_on_grid(x, self.levels)
        return self(x, labels)

    @torch.inference_mode()
    def sample(
        self,
        n: int,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        expected: bool = False,
    ) -> Tensor:
        """Draws images (n, C, H, W) in [-1, 1]: codes from the prior, then grey levels given these.

        Args:
            n: at least 1.
            labels: (n,) or (n, columns) classes, of a conditional prior.
            generator: source of the codes and of the grey levels.
            temperature: T in P(k)^(1/T) of each code; below 1 images are more alike.
            expected: whether to show the mean of p(x | k) instead of a draw: smoother, and no sample of the model.

        Raises:
            UserError: if an argument is out of range.
        """
        if n < 1:
            raise UserError(f"n must be at least 1, got {n!r}")
        source, device = per_row(generator), self.background.device
        parameters = self.decode(self.codebook(self._codes(n, labels, generator, temperature)))
        if expected:
            return to_value(mean(self.head, parameters), self.levels)
        uniform = torch.special.ndtr(normal((n, *self.shape), source, device))
        return to_value(sample(self.head, parameters, uniform), self.levels).to(parameters)

    def _codes(self, n: int, labels: Tensor | None, generator: torch.Generator | None, temperature: float) -> Tensor:
        """Codes (n, h, w) from the prior."""
        if self.prior is not None:
            drawn = self.prior.sample(n, labels=labels, generator=generator, temperature=temperature)
            return to_level(drawn[:, 0], self.num_codes)
        refuse_labels(labels)
        uniform = torch.special.ndtr(normal((n, *self.grid), per_row(generator), self.background.device))
        return (uniform * self.num_codes).long().clamp(max=self.num_codes - 1)

    def _encode(self, x: Tensor) -> Tensor:
        """Vectors z (B, h, w, width)."""
        return _full(self.encoder(x)).movedim(1, -1)


def _as_image(index: Tensor, codes: int) -> Tensor:
    """Codes (B, h, w) as the grey levels of an image, which is what the prior is a model of: (B, 1, h, w)."""
    return to_value(index, codes)[:, None]


def _full(x: Tensor) -> Tensor:
    """x in float32 or better: distances and sums of log-probabilities need it, also under autocasting."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
