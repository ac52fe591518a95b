import itertools

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from zoo.errors import UserError
from zoo.metrics.samples import FeatureFID, nearest_distances, precision_recall
from zoo.nn.classifier import ImageClassifier


class Projection(nn.Module):
    """A stand-in for a classifier: some of the pixels are its features."""

    num_features = 7

    def __init__(self):
        super().__init__()
        self.noise = nn.Dropout(0.5)  # seen only if the metric forgets the evaluation mode

    def features(self, x):
        return self.noise(x.flatten(1)[:, : self.num_features])


def draw(count, seed, shift=0.0, scale=1.0):
    """Images with correlated pixels, and the same for every call with the same arguments."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(144, 144, generator=torch.Generator().manual_seed(99)) / 12
    return (torch.randn(count, 144, generator=generator) @ mixing * scale + shift).view(count, 3, 8, 6)


def closed_form(a, b):
    """|mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)), by scipy's matrix square root."""
    a, b = a.double().numpy(), b.double().numpy()
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)


@pytest.mark.parametrize("count", [101, 500, 1203])  # the images go through the network in batches of 500
def test_fid_is_its_closed_form(count):
    network, real, generated = Projection(), draw(703, 0), draw(count, 1, shift=0.3, scale=1.4)
    expected = closed_form(real.flatten(1)[:, :7], generated.flatten(1)[:, :7])
    assert FeatureFID(network, real)(generated) == pytest.approx(expected, rel=1e-5)


def test_fid_in_the_features_of_a_classifier():
    torch.manual_seed(0)
    network = ImageClassifier((3, 8, 6), num_classes=4, channels=4, num_features=5)
    real, generated = draw(203, 0), draw(151, 1, shift=0.3)
    fid = FeatureFID(network, real)
    with torch.no_grad():
        expected = closed_form(network.features(real), network.features(generated))
    assert fid(generated) == pytest.approx(expected, rel=1e-4)  # features of a batch differ in their last float32 bits


def test_fid_of_a_set_with_itself_is_zero():
    real = draw(703, 0)
    # the traces, about 7, cancel; square roots of eigenvalues that are off by 1e-16 of the largest
    assert FeatureFID(Projection(), real)(real) == pytest.approx(0, abs=1e-5)
    assert FeatureFID(Projection(), real)(real.flip(0)) == pytest.approx(0, abs=1e-5)


def test_fid_of_a_shift_is_its_square():
    real = draw(703, 0)
    # equal covariances: seven features, each moved by 0.5
    assert FeatureFID(Projection(), real)(real + 0.5) == pytest.approx(7 * 0.25, abs=1e-4)


def test_fid_calls_do_not_remember_each_other():
    fid = FeatureFID(Projection(), draw(703, 0))
    near, far = draw(301, 1), draw(97, 2, shift=2.0)
    first = fid(near), fid(far), fid(near), fid(near)
    assert first[0] == first[2] == first[3]
    assert first[1] > 10 * first[0]
    assert first[1] == FeatureFID(Projection(), draw(703, 0))(far)


def test_precision_and_recall_of_a_set_with_itself_are_one():
    features = draw(61, 0).flatten(1)
    assert precision_recall(features, features) == (1.0, 1.0)


def test_precision_and_recall_of_sets_far_apart_are_zero():
    assert precision_recall(draw(61, 0).flatten(1), draw(47, 1, shift=100.0).flatten(1)) == (0.0, 0.0)


def test_precision_and_recall_by_hand():
    # distance to the nearest other:  1    1    2    5
    real = torch.tensor([[0.0], [1.0], [3.0], [8.0]])
    # and here:                            2    2     1      1      1
    generated = torch.tensor([[0.5], [2.5], [100.0], [101.0], [102.0]])
    precision, recall = precision_recall(real, generated, neighbours=1)
    assert precision == pytest.approx(2 / 5)  # 0.5 and 2.5 lie within reach of a real point
    assert recall == pytest.approx(3 / 4)  # 0, 1 and 3 within reach of 0.5 or 2.5, 8 is 5.5 away
    # with two neighbours the reach of 2.5 is 97.5, which covers 8 (the reach of 0.5 is 99.5)
    assert precision_recall(real, generated, neighbours=2)[1] == 1


@pytest.mark.parametrize("neighbours", [1, 3, 6])
def test_precision_and_recall_by_brute_force(neighbours):
    real, generated = draw(43, 0).flatten(1)[:, :3].double(), draw(37, 1, shift=1.5).flatten(1)[:, :3].double()

    def share(points, centres):
        covered = 0
        for point in points:
            for i, centre in enumerate(centres):
                others = sorted((centre - other).norm().item() for j, other in enumerate(centres) if j != i)
                if (point - centre).norm() <= others[neighbours - 1]:
                    covered += 1
                    break
        return covered / len(points)

    expected = share(generated, real), share(real, generated)
    assert 0 < expected[0] < 1
    assert precision_recall(real, generated, neighbours) == pytest.approx(expected, rel=1e-6)  # float32 mean


def test_copies_of_the_real_images_cover_them():
    """Five copies of each: a generated point's ball has radius 0, and must still hold the real point in its middle."""
    real = draw(61, 0, shift=-1.0).flatten(1)
    assert precision_recall(real, real.repeat(5, 1)) == (1.0, 1.0)


def test_a_model_that_draws_one_image_is_precise_and_recalls_it_alone():
    real = draw(61, 0).flatten(1)
    assert precision_recall(real, real[:1].repeat(47, 1)) == (1.0, pytest.approx(1 / 61))


def test_too_few_samples_for_the_neighbours_are_refused():
    with pytest.raises(ValueError, match="neighbours=3"):
        precision_recall(torch.zeros(3, 2), torch.zeros(50, 2))


@pytest.mark.parametrize(("count", "others"), [(5, 7), (61, 47)])
def test_nearest_distances_by_brute_force(count, others):
    points, rest = draw(count, 0), draw(others, 1)
    expected = [min((point - other).norm().item() for other in rest) for point in points]
    torch.testing.assert_close(nearest_distances(points, rest), torch.tensor(expected), rtol=1e-5, atol=0)  # float32


def test_nearest_distances_among_points_leave_the_point_itself_out():
    points = draw(23, 0)
    expected = [min((points[i] - points[j]).norm().item() for j in range(23) if j != i) for i in range(23)]
    found = nearest_distances(points[:17], points, among=True)
    torch.testing.assert_close(found, torch.tensor(expected[:17]), rtol=1e-5, atol=0)  # float32


def test_a_copy_is_at_no_distance():
    """At any size of the sets, and for images far from the origin, where |a|^2 - 2 a b + |b|^2 loses its digits."""
    images = draw(61, 0, shift=-1.0)
    assert torch.equal(nearest_distances(images[:13], images), torch.zeros(13))
    nearly = images[:13].clone()
    nearly[:, 0, 0, 0] += 1e-3
    # 1e-3, up to the rounding of a pixel of size 1 to 6e-8
    torch.testing.assert_close(nearest_distances(nearly, images), torch.full((13,), 1e-3), rtol=1e-3, atol=0)


def test_distances_scale_with_the_images():
    points, others = draw(13, 0), draw(61, 1)
    for factor, shift in itertools.product((0.5, 3.0), (0.0, 2.0)):
        scaled = nearest_distances(factor * points + shift, factor * others + shift)
        torch.testing.assert_close(scaled, factor * nearest_distances(points, others), rtol=1e-5, atol=0)  # float32


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused_before_the_eigenvalues(value):
    """The solver of the distance ended the process on these."""
    network, real, broken = Projection(), draw(50, 0), draw(50, 1)
    broken[7, 0, 0, 0] = value
    with pytest.raises(UserError, match="not finite"):
        FeatureFID(network, real)(broken)
    with pytest.raises(UserError, match="not finite"):
        FeatureFID(network, broken)
