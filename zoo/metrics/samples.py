"""Distances between a set of generated samples and a set of real ones, in the feature space of any network.

FID itself is torchmetrics' `FrechetInceptionDistance`, which takes the network as its `feature`. A value is comparable
only with the same network, sample sizes and split: report them with it.
"""

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from zoo.errors import UserError


class _Features(nn.Module):
    """Adapts a classifier to torchmetrics: images in, features out, their width as `num_features`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.num_features: int = network.num_features  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.network.features(x)  # type: ignore[operator]
        if not features.isfinite().all():  # the eigenvalue solver of the distance may crash on these
            raise UserError("the features of the images are not finite: the images hold NaN or are far too large")
        return features


class FeatureFID:
    """|mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)) between Gaussians fitted to the features of two image sets.

    Args:
        network: has `features(x) -> (B, F)` and `num_features`; put into evaluation mode.
        real: the real images, (N, C, H, W) as the network takes them. Their statistics are computed once.

    Raises:
        UserError: if the features of an image are not finite.

    References:
        Heusel et al. 2017, arXiv:1706.08500, eq. 6.
    """

    def __init__(self, network: nn.Module, real: Tensor) -> None:
        self._metric = FrechetInceptionDistance(_Features(network).eval(), reset_real_features=False)
        self._metric.to(real.device)
        self._update(real, real=True)

    def __call__(self, generated: Tensor) -> float:
        """The distance of one set of images to the real ones."""
        self._metric.reset()
        self._update(generated, real=False)
        return self._metric.compute().item()

    @torch.inference_mode()
    def _update(self, images: Tensor, *, real: bool) -> None:
        for batch in images.split(500):
            self._metric.update(batch, real=real)


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


def nearest_distances(points: Tensor, others: Tensor) -> Tensor:
    """Euclidean distance of each point to the nearest of the others: (N, ...) and (M, ...) -> (N,).

    Generated images that lie closer to the training set than unseen real images do are copies.
    """
    points, others = points.flatten(1), others.flatten(1)
    nearest = torch.cdist(points, others).argmin(dim=1)
    # by way of |a|^2 - 2 a b + |b|^2, which is fast but loses small distances: measure the nearest one again
    return (points - others[nearest]).norm(dim=1)
