"""The encoder-decoder Transformer, of one sequence of characters into another."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import UserError, refuse_labels
from zoo.nn.attention import Layer
from zoo.sequences.search import State, beam_search
from zoo.sequences.tokens import check_alphabet, counted, to_text, to_tokens


class EncoderDecoder(nn.Module):
    """P(y | x) = prod_t P(y_t | y_1 ... y_{t-1}, x), y a target and x a source of characters, each closed by END.

    The encoder is a stack of layers in which every character of x sees all of x. In the decoder a character of y sees
    those before it and, by attention to what the encoder made of it, all of x. Both begin with sqrt(width) E_token +
    sinusoids of the place, and the logits of the next token are h . E: one matrix of embeddings serves three times.

    Args:
        alphabet: the characters of sources and targets.
        source_length: of the longest source, END included.
        target_length: of the longest target, END included.
        width: of the hidden state, even, and a multiple of the heads.
        depth: layers of the encoder, and of the decoder.
        heads: of each attention.
        dropout: probability of dropping what a layer adds, and an embedding, by entry.

    Raises:
        UserError: if an argument is out of range.

    References:
        Vaswani et al. 2017, arXiv:1706.03762, figure 1 and sections 3.4 and 3.5; norms come before each layer here;
        004_2b20c020fc470ac5.txt, section 1.2.1.
    """

    labels: tuple[int, ...] = ()

    def __init__(
        self,
        alphabet: str,
        source_length: int,
        target_length: int,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_alphabet(alphabet)
        if min(source_length, target_length, width, depth, heads) < 1:
            raise UserError("source_length, target_length, width, depth and heads must be positive")
        if width % heads or width % 2:
            raise UserError(f"width must be even and a multiple of heads, got width {width} and heads {heads}")
        self.alphabet, self.source_length, self.shape = alphabet, source_length, (target_length,)
        self.begin = len(alphabet) + 1  # the token before a target; it is never drawn
        self.embedding = nn.Embedding(len(alphabet) + 2, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.encoder = nn.ModuleList(Layer(width, heads, dropout) for _ in range(depth))
        self.decoder = nn.ModuleList(Layer(width, heads, dropout, cross=True) for _ in range(depth))
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def example(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Two sources and two targets, all tokens equally likely."""
        lengths = {"source": self.source_length, "target": self.shape[0]}
        most = len(self.alphabet) + 1
        return {name: torch.randint(most, (2, length), generator=generator) for name, length in lengths.items()}

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits of each token y_t given those before it and the source: (B, S), (B, T) -> (B, T, V)."""
        memory, mask = self.encode(source)
        before = F.pad(target[:, :-1], (1, 0), value=self.begin)
        h = self._embed(before)
        for layer in self.decoder:
            h = layer(h, layer.cross.read(memory), mask)  # type: ignore[operator, union-attr]
        return self._logits(h)

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """What the decoder reads of sources (B, S): (B, S, width), and (B, 1, 1, S) true where a source is."""
        mask = counted(source)[:, None, None]
        h = self._embed(source)
        for layer in self.encoder:
            h = layer(h, mask=mask, causal=False)
        return self.encoder_norm(h), mask

    def log_prob(self, source: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
        """log P(y | x) of targets (B, T) given sources (B, S), (B,) nats.

        Args:
            smoothing: e, of the mixture (1 - e) log P(y_t | ...) + e mean_v log P(v | ...) that training maximises.
        """
        log_probs = self(source, target).log_softmax(-1)
        found = log_probs.gather(-1, target[..., None])[..., 0]
        if smoothing:
            found = (1 - smoothing) * found + smoothing * log_probs.mean(-1)
        return torch.where(counted(target), found, 0).sum(1)

    @torch.inference_mode()
    def search(self, source: Tensor, beams: int = 1) -> tuple[Tensor, Tensor]:
        """The most probable targets that beam search finds: see `beam_search`.

        Args:
            source: (B, S) tokens.
            beams: beginnings that are kept; 1 decodes greedily.
        """
        memory, mask = self.encode(source)
        read = [
            layer.cross.read(memory).repeat_interleave(beams, 1)  # type: ignore[operator, union-attr]
            for layer in self.decoder
        ]
        mask = mask.repeat_interleave(beams, 0)

        def step(latest: Tensor, past: State) -> tuple[Tensor, State]:
            done, new = past[0].shape[3] if past else 0, []
            h = self._embed(latest[:, None], done)
            for j, layer in enumerate(self.decoder):
                h, kept = layer.next(h, past[j] if past else None, read[j], mask)  # type: ignore[operator]
                new.append(kept)
            return self._logits(h)[:, 0].log_softmax(-1), new

        first = torch.full((len(source),), self.begin, device=source.device)
        return beam_search(step, first, beams, self.shape[0])

    def sample(
        self,
        n: int,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        source: list[str] | None = None,
        beams: int = 1,
    ) -> Tensor:
        """The most probable targets of sources, as tokens (n, target_length); `text` makes characters of them.

        Args:
            n: at least 1; target i is of source i mod the number of sources.
            labels: must be None: this model knows no classes.
            generator: not used: nothing is random.
            source: what the targets are of, one or several.
            beams: beginnings that the search keeps; 1 takes the most probable character each time.

        Raises:
            UserError: if there is no source, or one is too long or has a character that the model does not know.
        """
        refuse_labels(labels)
        if not source:
            raise UserError(f"source must be given: a text of the characters {self.alphabet!r}")
        device = self.embedding.weight.device
        tokens = to_tokens(source, self.alphabet, self.source_length, "source").to(device)
        return self.search(tokens, beams)[0][torch.arange(n) % len(source), 0]

    def text(self, tokens: Tensor) -> list[str]:
        """The texts of tokens (n, T)."""
        return to_text(tokens, self.alphabet)

    def _embed(self, tokens: Tensor, start: int = 0) -> Tensor:
        """(B, T) -> (B, T, width), of places start, start + 1, ..."""
        h = self.embedding(tokens)
        width = h.shape[-1]
        place = torch.arange(start, start + tokens.shape[1], device=h.device)[:, None]
        angle = place * torch.exp(torch.arange(0, width, 2, device=h.device) * (-math.log(10_000) / width))
        return self.dropout(math.sqrt(width) * h + torch.cat([angle.sin(), angle.cos()], 1).to(h))

    def _logits(self, h: Tensor) -> Tensor:
        return F.linear(self.decoder_norm(h), self.embedding.weight[: self.begin])
