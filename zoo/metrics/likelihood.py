"""Accounting of likelihoods."""

import math

from torch import Tensor


def bits_per_dim(log_prob_nats: Tensor, dims: int) -> Tensor:
    """-log p(x) / (D log 2), for probabilities (not densities) of data on a grid; L equally likely levels give log2 L.

    A density of data scaled to [-1, 1] on L levels becomes a probability by adding D log(2 / (L - 1)), the volume of a
    bin, to its logarithm.

    Args:
        log_prob_nats: (B,). dims: D, the entries of one x.
    """
    return -log_prob_nats / (dims * math.log(2))
