"""The restricted Boltzmann machine, with so few hidden units that its normaliser is a sum over all their states."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import UserError, refuse_labels
from zoo.flows.dequantise import check_on_grid
from zoo.random import normal, per_row

MOST_HIDDEN = 16  # 2^16 states are summed in about a second
BLOCK = 2**12  # states at once


class RBM(nn.Module):
    """P(v, h) = exp(b.v + c.h + v.W h) / Z,    v in {0, 1}^D the pixels, h in {0, 1}^H hidden.

        P(h_j = 1 | v) = sigmoid(c_j + (v W)_j),    P(v_i = 1 | h) = sigmoid(b_i + (W h)_i)
        log P(v) = b.v + sum_j softplus(c_j + (v W)_j) - log Z
        Z = sum_h exp(c.h + sum_i softplus(b_i + (W h)_i))

    With H <= 16 the last sum is taken in full. So the likelihood is exact, and so are samples: h by its probability,
    then v given h, with no Markov chain.

    Args:
        image_shape: (C, H, W); D = C H W.
        levels: grey levels of images in [-1, 1]; must be 2.
        hidden: H, at most 16.

    Raises:
        UserError: if an argument is out of range.

    References:
        Smolensky 1986; Hinton 2002, Training products of experts by minimizing contrastive divergence;
        001_7af9247201bdf7d9.txt, section 1.
    """

    def __init__(self, image_shape: tuple[int, int, int], levels: int = 2, hidden: int = 16) -> None:
        super().__init__()
        if levels != 2:
            raise UserError(f"levels must be 2, got {levels!r}: use data in black and white, as BinaryMNIST5k")
        if not 1 <= hidden <= MOST_HIDDEN:
            raise UserError(f"hidden must be from 1 to {MOST_HIDDEN}, got {hidden!r}: all their states are summed")
        self.shape, self.labels, self.levels = tuple(image_shape), (), levels
        self.dims, self.hidden = math.prod(image_shape), hidden
        self.weight = nn.Parameter(0.01 * torch.randn(self.dims, hidden))  # W
        self.visible_bias = nn.Parameter(torch.zeros(self.dims))  # b
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))  # c

    def extra_repr(self) -> str:
        return f"shape={self.shape}, hidden={self.hidden}"

    def example(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Two images whose pixels are black or white alike."""
        return {"x": 2.0 * torch.randint(2, (2, *self.shape), generator=generator) - 1}

    def forward(self, x: Tensor) -> Tensor:
        """The free energy F(v) = -log sum_h exp(-E(v, h)) of images (B, C, H, W) in {-1, 1}, (B,)."""
        return self.free_energy((x.flatten(1) + 1) / 2)

    def free_energy(self, v: Tensor) -> Tensor:
        """-b.v - sum_j softplus(c_j + (v W)_j): v (B, D) -> (B,)."""
        return -v @ self.visible_bias - F.softplus(self.hidden_bias + v @ self.weight).sum(1)

    def log_normaliser(self) -> Tensor:
        """log Z, exact: a sum over 2^H states."""
        return torch.stack([self._log_weights(states).logsumexp(0) for states in self._states()]).logsumexp(0)

    def gibbs(self, v: Tensor, steps: int, generator: torch.Generator | None = None) -> Tensor:
        """v (B, D) after so many draws of h given v and of v given h."""
        for _ in range(steps):
            h = self._draw(self.hidden_bias + v @ self.weight, generator)
            v = self._draw(self.visible_bias + h @ self.weight.T, generator)
        return v

    @torch.no_grad()
    def log_likelihood(
        self, x: Tensor, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """log P(x), exact.

        Args:
            x: images (B, C, H, W) in {-1, 1}.
            labels: none; the model is unconditional.
            generator: not used: nothing is random.

        Returns:
            (B,) nats.

        Raises:
            UserError: if the images are not on the grid, or labels are given.
        """
        refuse_labels(labels)
        check_on_grid(x, self.levels)
        return -self(x) - self.log_normaliser()

    @torch.inference_mode()
    def sample(
        self, n: int, *, labels: Tensor | None = None, generator: torch.Generator | None = None, expected: bool = False
    ) -> Tensor:
        """Draws images (n, C, H, W) in {-1, 1}, exactly: h by its probability, then the pixels given h.

        Args:
            n: at least 1.
            labels: none; the model is unconditional.
            generator: source of h and of the pixels.
            expected: whether to show the mean of p(v | h) instead of a draw: smoother, and no sample of the model.

        Raises:
            UserError: if an argument is out of range.
        """
        refuse_labels(labels)
        if n < 1:
            raise UserError(f"n must be at least 1, got {n!r}")
        source, device = per_row(generator), self.weight.device
        states = torch.cat([*self._states()])
        cumulative = torch.cat([self._log_weights(part) for part in states.split(BLOCK)]).softmax(0).double().cumsum(0)
        uniform = torch.special.ndtr(normal((n, 1), source, device).double())[:, 0]
        h = states[torch.searchsorted(cumulative, uniform).clamp(max=len(states) - 1)]
        chance = (self.visible_bias + h @ self.weight.T).sigmoid()
        if expected:
            return (2 * chance - 1).view(n, *self.shape)
        white = torch.special.ndtr(normal((n, self.dims), source, device)) < chance
        return (2 * white.to(chance) - 1).view(n, *self.shape)

    def _states(self) -> Iterator[Tensor]:
        """All h, in blocks (up to BLOCK, H)."""
        bits = torch.arange(self.hidden, device=self.weight.device)
        for first in range(0, 2**self.hidden, BLOCK):
            last = min(first + BLOCK, 2**self.hidden)
            yield (torch.arange(first, last, device=self.weight.device)[:, None] >> bits & 1).to(self.weight)

    def _log_weights(self, h: Tensor) -> Tensor:
        """log sum_v exp(-E(v, h)) of states (N, H), (N,)."""
        return h @ self.hidden_bias + F.softplus(self.visible_bias + h @ self.weight.T).sum(1)

    def _draw(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        uniform = torch.rand(logits.shape, generator=generator, device=generator.device if generator else logits.device)
        return (uniform.to(logits) < logits.sigmoid()).to(logits)
