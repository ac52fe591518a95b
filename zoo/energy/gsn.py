"""A generative stochastic network: the Markov chain of a denoising autoencoder."""

import math

import torch
from torch import Tensor, nn

from zoo.errors import UserError, refuse_labels
from zoo.heads import head as make_head
from zoo.heads import mean, sample, to_level, to_value
from zoo.random import Source, normal, per_row
from zoo.vae.networks import perceptron


class GSN(nn.Module):
    """x~ ~ C(x~ | x),    x' ~ P(x' | x~) = prod_d P(x'_d | x~): one transition of a Markov chain of images.

    C replaces each entry with probability p by one of the grey levels, all alike probable. Where P is the posterior of
    the data, P(x | x~) proportional to C(x~ | x) P(x), the chain is reversible and the data's distribution stationary.
    Here P takes the entries as independent given x~, which holds in the limit of small p; larger p mixes faster. There
    is no likelihood.

    Args:
        image_shape: (C, H, W).
        levels: grey levels of images in [-1, 1].
        hidden: width of the perceptron that gives P.
        depth: its residual blocks.
        dropout: probability of dropping a hidden unit.
        corruption: p.
        head: the distribution of a grey level: "categorical", "logistic" or "bernoulli"; see `zoo.heads`.
        components: of the head "logistic".

    Raises:
        UserError: if an argument is out of range, or the head does not fit the levels.

    References:
        Bengio et al. 2013, arXiv:1305.6663, theorem 1; Bengio et al. 2014, arXiv:1306.1091, section 3;
        001_7af9247201bdf7d9.txt, section 1.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        levels: int,
        hidden: int = 256,
        depth: int = 2,
        dropout: float = 0.0,
        corruption: float = 0.4,
        head: str = "categorical",
        components: int = 5,
    ) -> None:
        super().__init__()
        self.head = make_head(head, levels, components)
        if min(*image_shape, hidden, depth) < 1:
            raise UserError("image_shape, hidden and depth must be positive")
        if not 0 < corruption < 1:
            raise UserError(f"corruption must be above 0 and below 1, got {corruption!r}")
        self.shape, self.labels, self.levels = tuple(image_shape), (), levels
        self.dims, self.corruption = math.prod(image_shape), corruption
        self.network = perceptron(self.dims, hidden, self.dims * self.head.num_parameters, depth, dropout)

    def extra_repr(self) -> str:
        return f"shape={self.shape}, levels={self.levels}, corruption={self.corruption}"

    def example(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Two images whose grey levels are all equally likely."""
        return {"x": to_value(torch.randint(self.levels, (2, *self.shape), generator=generator), self.levels)}

    def forward(self, x: Tensor) -> Tensor:
        """Parameters of P(x'_d | x~): corrupted images (B, C, H, W) -> (B, C, H, W, P)."""
        out = self.network(x.flatten(1))
        return out.to(torch.promote_types(out.dtype, torch.float32)).unflatten(1, (*self.shape, -1))

    def corrupt(self, x: Tensor, noise: Source = None) -> Tensor:
        """x~ ~ C(x~ | x), of images (B, C, H, W)."""
        uniform = torch.special.ndtr(normal(x.shape, noise, x.device))
        level = (uniform / self.corruption * self.levels).floor().clamp(max=self.levels - 1)
        return torch.where(uniform < self.corruption, to_value(level, self.levels).to(x), x)

    def log_prob(self, x: Tensor, corrupted: Tensor) -> Tensor:
        """log P(x | x~) of images on the grid of grey levels, (B,)."""
        index = to_level(x, self.levels)
        return self.head.log_prob(self(corrupted), index).flatten(1).sum(1)

    @torch.inference_mode()
    def sample(
        self,
        n: int,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        transitions: int = 100,
        expected: bool = False,
    ) -> Tensor:
        """Draws images (n, C, H, W) in [-1, 1]: the ends of n chains from grey levels that are all alike probable.

        Args:
            n: at least 1.
            labels: none; the model is unconditional.
            generator: source of all draws.
            transitions: of each chain.
            expected: whether to show the mean of the last P(x' | x~) instead of a draw: smoother, and no sample.

        Raises:
            UserError: if an argument is out of range.
        """
        refuse_labels(labels)
        for name, value in (("n", n), ("transitions", transitions)):
            if value < 1:
                raise UserError(f"{name} must be at least 1, got {value!r}")
        source, weights = per_row(generator), next(self.parameters())
        shape = (n, *self.shape)
        level = (self._uniform(shape, source) * self.levels).floor().clamp(max=self.levels - 1)
        x = to_value(level, self.levels).to(weights)
        for _ in range(transitions):
            parameters = self(self.corrupt(x, source))
            x = to_value(sample(self.head, parameters, self._uniform(shape, source)), self.levels).to(weights)
        if expected:
            return to_value(mean(self.head, parameters), self.levels)
        return x

    def _uniform(self, shape: tuple[int, ...], source: Source) -> Tensor:
        return torch.special.ndtr(normal(shape, source, next(self.parameters()).device))
