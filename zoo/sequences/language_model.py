"""Language models of characters: one character after the other, given those before it."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from zoo.autoregressive.transformer import Transformer
from zoo.autoregressive.wavenet import WaveNet
from zoo.errors import UserError, refuse_labels
from zoo.heads import draw
from zoo.random import normal, per_row
from zoo.sequences.tokens import check_alphabet, to_indices

NETWORKS = ("transformer", "wavenet")


class LanguageModel(nn.Module):
    """P(x) = prod_t P(x_t | x_{t-1}, ..., x_{t-n}), of characters x_t as their places in an alphabet.

    A window of T characters, cut anywhere from a text, is computed in one pass: in it n grows from 0 to T - 1. A longer
    text is continued in windows that each begin with the last T / 2 characters, so that n is never less than T / 2.

    Args:
        alphabet: the characters.
        context: T.
        network: "transformer" or "wavenet".
        width: of the hidden state.
        depth: layers.
        heads: of the attention, of "transformer".
        dropout: probability of dropping what a layer adds, by entry.

    Raises:
        UserError: if an argument is out of range.

    References:
        Al-Rfou et al. 2018, arXiv:1808.04444; each network names its own.
    """

    labels: tuple[int, ...] = ()

    def __init__(
        self,
        alphabet: str,
        context: int,
        network: str = "transformer",
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_alphabet(alphabet)
        if min(width, depth, heads) < 1 or context < 2:
            raise UserError("width, depth and heads must be positive, and context at least 2")
        if network not in NETWORKS:
            raise UserError(f"network must be one of {', '.join(NETWORKS)}, got {network!r}")
        if network == "transformer" and width % heads:
            raise UserError(f"width must be a multiple of heads, got width {width} and heads {heads}")
        self.alphabet, self.context, self.shape = alphabet, context, (context,)
        count = len(alphabet)
        if network == "transformer":
            self.network: Any = Transformer(context, count, width, depth, heads, dropout, 0, names=count)
        else:
            self.network = WaveNet(context, count, width, depth, dropout, 0, names=count)

    def example(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Two windows, all characters equally likely."""
        return {"x": torch.randint(len(self.alphabet), (2, self.context), generator=generator)}

    def forward(self, x: Tensor) -> Tensor:
        """log P(x_t | those before it in the window) of windows (B, T), (B, T) nats."""
        return self.network(x).float().log_softmax(-1).gather(-1, x[..., None])[..., 0]

    @torch.inference_mode()
    def sample(
        self,
        n: int,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        prefix: str = "",
        length: int = 400,
        temperature: float = 1.0,
    ) -> Tensor:
        """Draws texts that go on from a beginning, as places in the alphabet; `text` makes characters of them.

        Args:
            n: at least 1.
            labels: must be None: this model knows no classes.
            generator: source of the characters.
            prefix: the beginning of each text.
            length: characters that follow it.
            temperature: T in P(x_t | ...)^(1/T); below 1 texts are more alike, and 0.01 takes the most probable one.

        Returns:
            (n, characters of the prefix + length).

        Raises:
            UserError: if an argument is out of range, or the prefix has a character that the model does not know.
        """
        refuse_labels(labels)
        if n < 1 or length < 1:
            raise UserError(f"{'n' if n < 1 else 'length'} must be at least 1, got {min(n, length)}")
        if not 0 < temperature < math.inf:
            raise UserError(f"temperature must be above 0, got {temperature!r}")
        device = next(self.parameters()).device
        begun = to_indices(prefix, self.alphabet, "prefix")
        uniform = torch.special.ndtr(normal((n, length), per_row(generator), device))
        x = torch.zeros(n, len(begun) + length, dtype=torch.long, device=device)
        x[:, : len(begun)] = torch.tensor(begun, dtype=torch.long, device=device)
        done = len(begun)
        first = 0 if done < self.context else done - self.context // 2  # character of the window
        while done < x.shape[1]:
            end = min(first + self.context, x.shape[1])
            step, window = self.network.steps(n), x[:, first:end]
            for i in range(end - first):
                logits = step(i, window)
                if first + i >= done:
                    window[:, i] = draw(logits.float(), uniform[:, first + i - len(begun)], temperature)
            done, first = end, end - self.context // 2
        return x

    def text(self, tokens: Tensor) -> list[str]:
        """The texts of places in the alphabet (n, T)."""
        return ["".join(self.alphabet[i] for i in row) for row in tokens.long().tolist()]
