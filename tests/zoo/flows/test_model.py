"""The density: its integral, its samples, temperature, classes, precision, and what it refuses."""

import math
from functools import partial

import pytest
import torch

from tests.zoo.flows.families import FLOWS, awake, flow
from zoo.errors import UserError
from zoo.flows.builders import glow, nice, realnvp
from zoo.flows.cnf_model import cnf
from zoo.flows.layers import Standardise
from zoo.flows.model import Flow

PLANE = {
    "nice": partial(nice, (2,), hidden=16),
    "affine": partial(realnvp, (2,), hidden=16, couplings=4, base="logistic"),
    "spline": partial(realnvp, (2,), hidden=16, couplings=4, coupling="spline", linear=True, actnorm=True),
}


def plane(name: str, spread: float = 0.1) -> Flow:
    model = PLANE[name]()
    model.standardise(torch.tensor([3.0, -1.0]), torch.tensor([2.0, 0.5]))
    awake(model, spread)
    return model


@pytest.mark.parametrize("name", PLANE)
def test_the_density_of_the_plane_integrates_to_one(name):
    model = plane(name)
    side, (x, y) = 600, (torch.linspace(-1, 1, 600).double() * reach for reach in (60, 15))
    points = torch.cartesian_prod(x + 3, y - 1)
    with torch.no_grad():
        total = model.log_prob(points).exp().sum() * (120 / (side - 1)) * (30 / (side - 1))
    assert total.item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", PLANE)
def test_samples_follow_the_density(name):
    model = plane(name, spread=0.2)
    low, size, cells, fine = torch.tensor([-1.0, -2.0]), torch.tensor([8.0, 2.0]), 4, 50
    centre = (torch.arange(cells * fine).double() + 0.5) / (cells * fine)
    with torch.no_grad():
        density = model.log_prob(low + size * torch.cartesian_prod(centre, centre)).exp()
    area = size.prod() / (cells * fine) ** 2
    mass = density.view(cells, fine, cells, fine).sum((1, 3)) * area
    n = 50_000
    x = model.sample(n, generator=torch.Generator().manual_seed(0))
    cell = ((x - low) / size * cells).floor().long()
    cell = cell[((cell >= 0) & (cell < cells)).all(1)]
    found = torch.bincount(cell[:, 0] * cells + cell[:, 1], minlength=cells**2).view(cells, cells) / n
    assert found.sum() > 0.4
    # five standard errors of a count, and the midpoint rule's
    assert bool(((found - mass).abs() < 5 * (mass / n).sqrt() + 1e-3).all())


@pytest.mark.parametrize("base", ["normal", "logistic"])
def test_the_base_is_the_named_distribution(base):
    model = realnvp((3,), base=base, hidden=8).double()
    x = torch.randn(11, 3).double()
    if base == "normal":
        expected = torch.distributions.Normal(torch.zeros(3).double(), 1.0).log_prob(x).sum(1)
    else:
        expected = (-x - 2 * torch.log1p((-x).exp())).sum(1)
    torch.testing.assert_close(model.log_prob(x), expected)
    variance = model.sample(100_000, generator=torch.Generator().manual_seed(0)).var()
    # the variance of 300,000 logistic draws has a relative error of 0.3 %
    assert variance.item() == pytest.approx(1 if base == "normal" else math.pi**2 / 3, rel=0.015)


def test_temperature_scales_the_noise():
    model = plane("spline")
    noise = torch.randn(7, 2)
    cool = model.sample(7, temperature=0.3, noise=noise)
    torch.testing.assert_close(cool, model.decode(0.3 * noise.double())[0].detach())
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    warm, cool = (
        model.sample(2000, temperature=t, generator=g).std(0) for t, g in zip((1.0, 0.2), generators, strict=True)
    )
    assert bool((cool < 0.5 * warm).all())


@pytest.mark.parametrize("name", FLOWS)
def test_shapes_and_the_path_of_points(name):
    model, x, labels = flow(name)
    assert model.log_prob(x, labels).shape == (5,)
    torch.testing.assert_close(model(x, labels), model.log_prob(x, labels))
    drawn = model.sample(5, labels=labels)
    assert drawn.shape == (5, *model.shape)
    assert model.image_shape == (model.shape if len(model.shape) == 3 else None)
    if model.levels:
        step = 2 / (model.levels - 1)
        torch.testing.assert_close((drawn + 1) / step, ((drawn + 1) / step).round())
        assert drawn.min() >= -1
        assert drawn.max() <= 1
        assert model.log_likelihood(drawn, labels=labels, draws=2).shape == (5,)
    there = model.path(x, labels)
    z, _ = model.encode(x, labels)
    assert torch.equal(there[0], x)
    torch.testing.assert_close(there[-1], z.detach())
    back = model.path(z, labels, inverse=True)
    assert len(back) == len(there) > 2
    torch.testing.assert_close(back[-1], x)
    torch.testing.assert_close(back[1], there[-2])


def test_a_seed_fixes_the_samples_and_points_are_in_the_units_of_the_data():
    model = plane("affine")
    first, second = (model.sample(500, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert abs(first[:, 0].median() - 3) < 1
    assert abs(first[:, 1].median() + 1) < 0.3


@pytest.mark.parametrize("build", [realnvp, cnf], ids=["realnvp", "cnf"])
def test_the_example_lies_near_the_data(build):
    model = build((2,), hidden=8).eval()
    model.standardise(torch.tensor([2000.0, -1e9]), torch.tensor([1.0, 5.0]))
    x = model.example(torch.Generator().manual_seed(0))["x"]
    away = (x - torch.tensor([2000.0, -1e9])) / torch.tensor([1.0, 5.0])
    assert away.abs().max() < 8
    assert model(x).isfinite().all()


@pytest.mark.parametrize("build", [nice, realnvp, cnf], ids=["nice", "realnvp", "cnf"])
def test_a_density_does_not_depend_on_the_origin(build):
    model, moved = (build((2,), hidden=8).eval() for _ in range(2))
    awake(model).float()
    moved.load_state_dict(model.state_dict())
    x = 10 * torch.randn(50, 2, dtype=torch.float64)
    origin = torch.tensor([1.7e9, 0.0])  # seconds since 1970
    model.standardise(x.mean(0), x.std(0))
    moved.standardise((x + origin).mean(0), (x + origin).std(0))
    torch.testing.assert_close(moved.log_likelihood(x + origin), model.log_likelihood(x), rtol=1e-4, atol=1e-4)
    one, other = (m.sample(50, generator=torch.Generator().manual_seed(0)) for m in (model, moved))
    torch.testing.assert_close((other - origin).float(), one, rtol=1e-4, atol=1e-4)


def test_the_noise_of_a_sample_does_not_depend_on_their_number():
    model = plane("spline")
    few, many = (model.sample(n, generator=torch.Generator().manual_seed(0)) for n in (5, 40))
    torch.testing.assert_close(few, many[:5])


def test_what_a_flow_says_of_itself():
    text = str(realnvp((3,), coupling="spline", bins=5, num_classes=4, base="logistic"))
    assert "shape=(3,), base=logistic, labels=(4,)" in text
    assert "Spline(bins=5, bound=3.0), sizes=[1, 2], flip=True" in text
    assert "levels=17" in str(glow((1, 8, 4), 17, steps=1, channels=4))
    assert "solver=dopri5, tolerance=1e-05, trace=exact" in str(cnf((2,), hidden=4))


def test_classes_have_densities_of_their_own():
    model = realnvp((2,), num_classes=3, hidden=8)
    awake(model, spread=0.3)
    x = torch.randn(1, 2).expand(3, 2)
    found = model.log_prob(x, torch.tensor([[0], [1], [2]]))
    assert found.unique().numel() == 3
    torch.testing.assert_close(found[2:], model.log_prob(x[2:], torch.tensor([2])))


def test_likelihoods_stay_in_float32_under_autocast_and_samples_need_not():
    model = realnvp((6,), hidden=32)
    awake(model).float()
    x = torch.randn(5, 6)
    expected = model.log_prob(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.log_prob(x.bfloat16().float()), model.log_prob(x)
        drawn = model.sample(5, noise=x)
    assert found[1].dtype == torch.float32
    assert torch.equal(found[1], expected)
    exact = model.sample(5, noise=x)
    assert not torch.equal(drawn, exact)  # the networks did run in bfloat16
    torch.testing.assert_close(drawn, exact, rtol=0.05, atol=0.05)  # eight layers of three digits
    assert drawn.dtype == torch.float32


def test_weights_of_a_flow_compile():
    model = realnvp((4,), hidden=8, couplings=2, linear=True, actnorm=True)
    awake(model).float()
    x = torch.randn(5, 4)
    compiled = torch.compile(model.log_prob, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model.log_prob(x))


REFUSED = {
    "another dimension": (lambda m: m.log_prob(torch.zeros(3, 5)), r"x must have the shape \(N, 2\), got \(3, 5\)"),
    "one point": (lambda m: m.log_prob(torch.zeros(2)), r"x must have the shape \(N, 2\), got \(2,\)"),
    "no temperature": (lambda m: m.sample(3, temperature=0.0), "temperature must be above 0, got 0.0"),
    "cold": (lambda m: m.sample(3, temperature=-1.0), "temperature must be above 0, got -1.0"),
    "not a number": (lambda m: m.sample(3, temperature=math.nan), "temperature must be above 0, got nan"),
    "none": (lambda m: m.sample(0), "n must be at least 1, got 0"),
    "noise": (lambda m: m.sample(3, noise=torch.zeros(3, 5)), r"noise must have the shape \(3, 2\), got \(3, 5\)"),
    "latents": (lambda m: m.decode(torch.zeros(3, 5)), r"noise must have the shape \(N, 2\), got \(3, 5\)"),
    "labels": (lambda m: m.sample(3, labels=torch.zeros(3)), "labels must not be given: this model knows no classes"),
    "images": (lambda m: m.log_likelihood(torch.zeros(3, 1, 2, 1)), r"x must have the shape \(N, 2\), got"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_mistakes_are_named(name):
    call, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        call(realnvp((2,), hidden=8))


def test_mistakes_with_images_and_classes_are_named():
    model = glow((1, 4, 4), 5, num_classes=3, steps=1, channels=4).eval()
    images = torch.ones(2, 1, 4, 4)
    with pytest.raises(UserError, match=r"labels must be given: this model knows the classes 0 \.\.\. 2"):
        model.sample(2)
    with pytest.raises(UserError, match="labels must be one for each of 2, got 3"):
        model.log_prob(images, torch.arange(3))
    with pytest.raises(UserError, match=r"labels must be from 0 to 2, got \[0, 3\]"):
        model.log_prob(images, torch.tensor([0, 3]))
    with pytest.raises(UserError, match="takes no mean and standard deviation"):
        model.standardise(torch.zeros(1), torch.ones(1))
    with pytest.raises(UserError, match="draws must be at least 1, got 0"):
        model.log_likelihood(images, labels=torch.tensor([0, 1]), draws=0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            partial(realnvp, (1,)),
            "couplings need at least two columns.*got shape .1,.: for a single column take --model CNF",
        ),
        (partial(realnvp, (2,), coupling="cubic"), "coupling must be 'affine' or 'spline', got 'cubic'"),
        (partial(realnvp, (2,), base="cauchy"), "base must be one of normal, logistic, got 'cauchy'"),
        (partial(realnvp, (2,), levels=1), "levels must be 0 or at least 2, got 1"),
        (partial(realnvp, (2,), scales=1), "scales are of images .*got shape .2,.: for points take scales 0"),
        (partial(realnvp, (1, 4, 4), levels=17, scales=-1), "scales must be at least 1 .*got -1"),
        (partial(realnvp, (1, 4, 4), levels=17, scales=1, linear=True), "linear must be false with scales"),
        (partial(realnvp, (1, 4, 4), levels=17, pooling=-1.0), "pooling must be at least 0, got -1.0"),
        (partial(glow, (1, 6, 4), 17), "halve height and width .* got 2 of images of 6x4"),
    ],
)
def test_arguments_that_make_no_flow_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_statistics_travel_with_the_weights():
    model, other = plane("nice"), nice((2,), hidden=16).double()
    other.load_state_dict(model.state_dict())
    x = torch.randn(5, 2).double()
    assert torch.equal(other.log_prob(x), model.log_prob(x))
    assert any(isinstance(layer, Standardise) for layer in other.modules())
