"""Distances between a set of generated samples and a set of real ones, in the feature space of any network.

A value is comparable only with the same network, sample sizes and split: report them with it.
"""

import torch
from torch import Tensor, nn

from zoo.errors import UserError


@torch.inference_mode()
def features_of(network: nn.Module, images: Tensor) -> Tensor:
    """The features of images (N, C, H, W) by a network in evaluation mode that has `features(x) -> (B, F)`: (N, F).

    Raises:
        UserError: if one is not finite: the eigenvalue solver of the distance may crash on these.
    """
    network.eval()
    features = torch.cat([network.features(batch) for batch in images.split(500)])  # type: ignore[operator]
    if not features.isfinite().all():
        raise UserError("the features of the images are not finite: the images hold NaN or are far too large")
    return features


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) between Gaussians fitted to two sets of features.

    The eigenvalues of S_a S_b are those of the symmetric S_a^(1/2) S_b S_a^(1/2).

    Args:
        a, b: (N, F) and (M, F).

    References:
        Heusel et al. 2017, arXiv:1706.08500, eq. 6.
    """
    a, b = a.double(), b.double()
    cov_a, cov_b = (torch.cov(features.T).view(features.shape[1], -1) for features in (a, b))
    variances, directions = torch.linalg.eigh(cov_a)
    root = directions * variances.clamp(min=0).sqrt() @ directions.T
    shared = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * shared).item()


class FeatureFID:
    """The Frechet distance of sets of images to real ones in the features of a network: `frechet_distance`.

    Args:
        network: has `features(x) -> (B, F)`; put into evaluation mode.
        real: the real images, (N, C, H, W) as the network takes them. Their features are computed once.

    Raises:
        UserError: as `features_of`.
    """

    def __init__(self, network: nn.Module, real: Tensor) -> None:
        self.network, self.real = network, features_of(network, real)

    def __call__(self, generated: Tensor) -> float:
        """The distance of one set of images to the real ones."""
        return frechet_distance(features_of(self.network, generated), self.real)


def precision_recall(real: Tensor, generated: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """Precision: share of generated features inside a real feature's k-nearest-neighbour ball. Recall: the reverse.

    Args:
        real, generated: features, (N, F) and (M, F). neighbours: k.

    References:
        Kynkaanniemi et al. 2019, arXiv:1904.06991, eqs. 1 to 3.
    """
    if min(len(real), len(generated)) <= neighbours:
        raise ValueError(
            f"both sets must have more than neighbours={neighbours} rows, got {len(real)}, {len(generated)}"
        )

    def covered(points: Tensor, centres: Tensor) -> float:
        radii = torch.cdist(centres, centres).kthvalue(neighbours + 1, dim=1).values  # the nearest is the centre itself
        return (torch.cdist(points, centres) <= radii).any(dim=1).float().mean().item()

    return covered(generated, real), covered(real, generated)


def nearest_distances(points: Tensor, others: Tensor, *, among: bool = False) -> Tensor:
    """Euclidean distance of each point to the nearest of the others: (N, ...) and (M, ...) -> (N,).

    Generated images that lie closer to the training images than these lie to each other are copies.

    Args:
        among: whether the points are the first N of the others, each of which is not to be its own nearest.
    """
    points, others = points.flatten(1), others.flatten(1)
    distances = torch.cdist(points, others)
    if among:
        distances.fill_diagonal_(torch.inf)
    nearest = distances.argmin(dim=1)
    # by way of |a|^2 - 2 a b + |b|^2, which is fast but loses small distances: measure the nearest one again
    return (points - others[nearest]).norm(dim=1)
