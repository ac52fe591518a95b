"""Beam search: the most probable sequences of a model that draws one token after the other."""

from collections.abc import Callable

import torch
from torch import Tensor

from zoo.errors import UserError
from zoo.sequences.tokens import END

State = list[Tensor]  # each (parts, rows, ...): what the model keeps of the tokens so far, a row a sequence


def beam_search(
    step: Callable[[Tensor, State], tuple[Tensor, State]], first: Tensor, beams: int, length: int
) -> tuple[Tensor, Tensor]:
    """argmax sum_t log P(y_t | y_1 ... y_{t-1}), approximately: at each t the best `beams` beginnings are kept.

    One beam takes the most probable token each time: greedy decoding. A sequence that has ended keeps its sum. Sums are
    compared as they are, without a reward for length.

    Args:
        step: (the latest tokens (rows,), state) -> (log P of each next token (rows, V), the next state). The state is
            [] at first. Rows are the beams of the first sequence, those of the second, ...
        first: (B,) the token before y_1.
        beams: at least 1.
        length: of the longest sequence, END included; a beginning that has not ended by then is cut.

    Returns:
        Tokens (B, beams, length), END after the end, and their sums (B, beams) in nats, the best first; minus infinity
        for what is no sequence, where there are fewer than `beams`.
    """
    if beams < 1:
        raise UserError(f"beams must be at least 1, got {beams!r}")
    batch, state, latest = len(first), State(), first.repeat_interleave(beams)
    total = torch.full((batch, beams), -torch.inf, device=first.device)
    total[:, 0] = 0  # at first all beams are alike: one counts
    tokens = torch.full((batch, beams, length), END, device=first.device)
    ended = torch.zeros(batch, beams, dtype=torch.bool, device=first.device)
    offset = torch.arange(batch, device=first.device)[:, None] * beams
    for t in range(length):
        log_probs, state = step(latest, state)
        choices = log_probs.shape[-1]
        stay = torch.full_like(log_probs[0], -torch.inf)
        stay[END] = 0
        added = torch.where(ended[..., None], stay, log_probs.view(batch, beams, choices))
        total, best = (total[..., None] + added).flatten(1).topk(beams)
        parent, token = best // choices, best % choices
        tokens = tokens.gather(1, parent[..., None].expand_as(tokens))
        tokens[..., t] = token
        ended = ended.gather(1, parent) | (token == END)
        if bool(ended.all()):
            break
        state = [part.index_select(1, (parent + offset).flatten()) for part in state]
        latest = token.flatten()
    return tokens, total
