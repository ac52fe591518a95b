import math

import pytest
import torch
from sklearn.datasets import make_circles, make_moons, make_swiss_roll

from zoo.errors import UserError
from zoo.synthetic import densities as toys
from zoo.synthetic.densities import ENTROPIES_NATS, NAMES, draw, entropy, log_density

COUNT = 40_000


def points(name, count=COUNT, seed=0):
    return draw(name, count, torch.Generator().manual_seed(seed))


def cells(name, spacing, fine):
    """The mass of each square of side 1 of [-6, 6]^2: midpoint sums of the density, `fine` points a side."""
    line = torch.arange(-6 + spacing / 2, 6, spacing, dtype=torch.float64)
    p = log_density(name, torch.cartesian_prod(line, line)).exp().view(12, fine, 12, fine)
    return p.sum((1, 3)) * spacing**2


@pytest.mark.parametrize("name", NAMES)
def test_points_follow_from_the_generator(name):
    assert points(name, 7).shape == (7, 2)
    assert points(name, 7).dtype == torch.float32
    assert torch.equal(points(name, 7), points(name, 7))
    assert not torch.equal(points(name, 7), points(name, 7, seed=1))


@pytest.mark.parametrize("name", NAMES)
def test_points_come_from_the_density(name):
    fine = 20 if name == "rings" else 10  # the noise of rings is 0.08, elsewhere at least 0.1
    expected = COUNT * cells(name, 1 / fine, fine)
    assert expected.sum() == pytest.approx(COUNT, rel=1e-3), "the density has mass 1"
    counts = torch.histogramdd(points(name).double(), bins=[12, 12], range=[-6.0, 6.0, -6.0, 6.0]).hist
    likely = expected > 5
    statistic = ((counts - expected) ** 2 / expected)[likely].sum().item()
    # chi-square with as many degrees of freedom as cells: its mean and five standard deviations
    assert statistic < likely.sum() + 5 * math.sqrt(2 * likely.sum())


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("moons", lambda: make_moons(COUNT, noise=0.1, random_state=0)[0] * 2 + [-1, -0.2]),
        ("circles", lambda: make_circles(COUNT, factor=0.5, noise=0.08, random_state=0)[0] * 3),
        ("swissroll", lambda: make_swiss_roll(COUNT, noise=1.0, random_state=0)[0][:, [0, 2]] / 5),
    ],
)
def test_the_curves_of_scikit_learn(name, theirs):
    """The same first, second and third moments, within five standard errors of both samples."""
    ours, theirs = points(name).double(), torch.from_numpy(theirs())
    for power in (1, 2, 3):
        for weight in (torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.6, 0.8])):
            a, b = ((x @ weight.double()) ** power for x in (ours, theirs))
            assert abs(a.mean() - b.mean()) < 5 * math.sqrt(2 * a.var() / COUNT)


TURNS = 3 * math.pi * ((torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000).sqrt()
SQUARED_RADII = {  # E |x|^2 by the definitions: of the curve, and of the noise in two coordinates
    "rings": 9 * (1 + 0.75**2 + 0.5**2 + 0.25**2) / 4 + 2 * 0.08**2,
    "8gaussians": (4**2 + 2 * 0.5**2) / 1.414**2,
    "pinwheel": 2**2 * (1 + 0.3**2 + 0.1**2),
    "checkerboard": 2 * 4**2 / 3,
    "2spirals": ((0.25 - TURNS * TURNS.cos()) ** 2 + (0.25 + TURNS * TURNS.sin()) ** 2).mean().item() / 9
    + 2 * (0.5**2 / 12 / 9 + 0.1**2),
}


@pytest.mark.parametrize("name", SQUARED_RADII)
def test_radii_and_noise_of_the_others(name):
    squared = points(name).double().square().sum(1)
    assert abs(squared.mean() - SQUARED_RADII[name]) < 5 * squared.std() / math.sqrt(COUNT)


def test_pinwheel_has_five_arms_that_turn_the_same_way():
    x = points("pinwheel").double()
    angle = 2 * math.pi / 5
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    assert torch.allclose(log_density("pinwheel", x[:500] @ turn.T), log_density("pinwheel", x[:500]), atol=1e-6)
    mirrored = log_density("pinwheel", x[:500] * torch.tensor([1.0, -1.0]))
    assert mirrored.mean() < log_density("pinwheel", x[:500]).mean() - 1


@pytest.mark.parametrize("name", ["circles", "8gaussians", "pinwheel"])
def test_stored_entropies_are_found_again(name):
    assert entropy(name, spacing=0.08) == pytest.approx(ENTROPIES_NATS[name], abs=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_entropies_are_the_mean_score_of_the_density_itself(name):
    score = -log_density(name, points(name, 4000))
    assert score.isfinite().all()
    # a constant density has no spread: then up to rounding
    assert abs(score.mean() - ENTROPIES_NATS[name]) < 4 * score.std() / math.sqrt(len(score)) + 1e-9
    assert score.std() < 2


@pytest.mark.parametrize("name", sorted(toys.NOISE))
def test_the_quadrature_along_a_curve_has_converged(name, monkeypatch):
    x = points(name, 200)
    coarse = log_density(name, x)
    monkeypatch.setattr(toys, "NODES", 4 * toys.NODES)
    # the midpoint rule at the ends of the curve: (spacing / noise)^2 / 24, at most 0.003 for a point beyond an end
    assert (log_density(name, x) - coarse).abs().max() < 3e-3
    assert (log_density(name, x) - coarse).mean().abs() < 1e-5


def test_checkerboard_is_uniform_on_eight_squares():
    p = log_density("checkerboard", torch.tensor([[0.5, 0.5], [0.5, -0.5], [2.5, 2.5], [-3.9, -3.9], [4.1, 0.5]])).exp()
    assert p.tolist() == pytest.approx([1 / 32, 0, 1 / 32, 1 / 32, 0])


def test_an_unknown_density_is_told():
    with pytest.raises(UserError, match=r"data\.name must be one of moons, .*, got 'moon'"):
        points("moon")
