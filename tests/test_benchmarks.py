"""The pieces of the benchmarks beside peers, at tiny sizes: that they measure what they say."""

import argparse
import json
import math
import time

import pytest
import torch

from benchmarks import (
    clock,
    few_steps,
    flows,
    guidance_figure,
    hotspots,
    levers,
    likelihood,
    scaling,
    speed,
    time_to_loss,
)
from benchmarks.peers import CLASSES, SIDES, SIZES, TINY, Average, Setting, assert_equal_cost, build, quiet
from lightning_modules.trainer.callbacks import EMA
from tests.conftest import save_diffusion
from zoo.diffusion.model import ImageDiffusion

RULER = time_to_loss.Ruler


@pytest.fixture(autouse=True)
def _quiet():
    with quiet():
        yield


@pytest.mark.parametrize("size", ["8x8", "28x28", "32x32"])
def test_networks_of_equal_cost(size):
    costs = assert_equal_cost(SIZES[size])
    assert [*costs] == [*SIDES] == [*CLASSES]
    assert all(parameters > 600_000 for parameters, _ in costs.values())


def test_networks_of_unequal_cost_are_refused():
    with pytest.raises(ValueError, match="parameters differ by more than 10 %"):
        assert_equal_cost(TINY._replace(lucidrains={"dim": 16, "dim_mults": (1, 2)}))


@pytest.mark.parametrize("best", [True, False])
@pytest.mark.parametrize("name", SIDES)
def test_a_side_trains_and_samples(name, best):
    torch.manual_seed(0)
    side = build(name, TINY, Setting("bf16", channels_last=best), best=best, steps=2)
    before = [weight.detach().clone() for weight in side.weights]
    for _ in range(2):
        side.update(torch.rand(5, 1, 8, 8) * 2 - 1)
    assert all(weight.grad is None for weight in side.weights)
    moved = [not torch.equal(a, b) for a, b in zip(before, side.weights, strict=True)]
    assert sum(moved) > 0.8 * len(moved)
    images = side.draw(3)
    assert images.shape == (3, 1, 8, 8)
    assert images.isfinite().all()
    assert not side.network.training


def test_the_average_is_that_of_fit():
    weights = [torch.full((2, 3), float(i)) for i in range(4)]
    average = Average(weights)
    other = [weight.clone() for weight in weights]
    for count in range(3):
        for weight in weights:
            weight += 1
        average.update()
        EMA()._kwargs["multi_avg_fn"](other, weights, torch.tensor(count))
    torch.testing.assert_close(average.average, other)


def test_alternating_clock_and_table(capsys):
    calls = []
    times = clock.alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2, repeats=2)
    assert "".join(calls) == "aabbbbaa"
    assert [len(values) for values in times.values()] == [2, 2]
    assert clock.ratios([2.0, 6.0, 4.0], [1.0, 2.0, 1.0]) == "3.00 (2.00 to 4.00)"
    clock.table("t", ("a", "bb"), [("long", 1)])
    assert capsys.readouterr().out == "\n## t\n\n| a    | bb |\n| ---- | -- |\n| long | 1  |\n"


def test_results_are_kept_whole(tmp_path):
    path = tmp_path / "new" / "results.json"
    assert clock.read(path) == {}
    clock.write(path, {"a": [1]})
    assert clock.read(path) == {"a": [1]}
    assert [*path.parent.iterdir()] == [path]


def test_speed_measures_every_variant(capsys):
    result = speed.measure("tiny", ["ours", "diffusers"], ["fp32", "bf16"], rounds=1, batch=2, eager=True, device="cpu")
    result = json.loads(json.dumps(result))
    assert [*result["train"]["ours"]] == ["defaults", "fp32 eager", "bf16 eager"]
    assert len(result["sample"]["diffusers"]) == len(result["evaluate"]["diffusers"]) == 5
    speed.report("tiny", result, 2, 10, {"ours": (1, 1), "diffusers": (1, 1)}, 1.0)
    speed.best_over_threads("tiny", [(1, result), (2, result)])
    assert "each side at its best" in capsys.readouterr().out


def test_levers_are_added_one_by_one():
    plans = levers.plans(eager=False)
    assert plans["plain"] == levers.Plan()
    assert len(plans) == 1 + 2 * len(levers.LEVERS)
    assert all(plans["so far: + channels_last"])
    for name in ("plain", "so far: + channels_last"):
        levers.training("tiny", plans[name]._replace(compiled=False), "cpu", 3)()


def test_kinds_of_operators():
    assert hotspots.kind("aten::convolution_backward") == "convolution, backward"
    assert hotspots.kind("aten::native_group_norm") == "normalisation, forward"
    assert hotspots.kind("aten::bernoulli_") == "random numbers"
    spent = hotspots.spent(lambda: torch.zeros(300, 300) @ torch.zeros(300, 300), calls=2)
    assert spent["linear layers"] > 0


def test_scaling_draws_its_plot(tmp_path):
    point = scaling.measure(2, 8, 8, "cpu", "fp32", steps=1)
    assert point["ms"] > 0
    assert point["parameters"] > 40_000
    results = {axis: [(8, point), (16, point)] for axis in scaling.AXES}
    scaling.plot(results, tmp_path / "plot.png", "test")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def short_ruler():
    ruler = RULER()
    ruler.images, ruler.noise = ruler.images[:20], [noise[:20] for noise in ruler.noise]
    return ruler


def test_one_ruler_for_both():
    """A perfect answer has loss 0 on either side, and silence that of the noise."""
    ruler = short_ruler()
    truth = iter(ruler.noise)
    assert ruler(lambda x_t, t: next(truth)) == 0
    assert ruler(lambda x_t, t: 0 * x_t) == pytest.approx(1, abs=0.05)

    class Knowing(torch.nn.Module):
        """Predicts v of the known images, at whatever time our own process has that noise level."""

        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, x_t, t, labels=None, augmentation=None):
            signal, sigma = model.process.signal_and_noise(t, 4)
            return (signal * x_t - ruler.images) / sigma

    model = ImageDiffusion((1, 8, 8), 8)
    model.network = Knowing()
    assert ruler.of_ours(model) == pytest.approx(0, abs=1e-6)


def test_the_recipe_of_diffusers_trains_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(time_to_loss, "Ruler", short_ruler)
    curve = time_to_loss.train_diffusers(TINY, tmp_path, 0.2, 0.1, time.time)
    longer = time_to_loss.train_diffusers(TINY, tmp_path, curve[-1][0] + 0.2, 0.1, time.time)
    assert longer[: len(curve)] == curve
    assert len(longer) > len(curve)


def test_the_exact_likelihood_is_that_of_an_exact_trace():
    """Two ways to the same integral: Simpson's rule along the flow, and Runge-Kutta of flow and density together."""
    torch.manual_seed(0)
    model = ImageDiffusion(
        (2, 2, 2), 4, (1,), attention_levels=(), schedule="ve", num_timesteps=7, parameterization="edm"
    )
    for weight in model.double().parameters():
        torch.nn.init.normal_(weight, std=0.1)
    x0 = torch.randn(5, 2, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        expected = model.eval().log_likelihood(x0, trace="exact", steps=40)
        exact, half = likelihood.exact_log_likelihood(model, x0, 32)
    torch.testing.assert_close(expected, exact, rtol=2e-4, atol=0)  # 20 steps err by 1.3e-3, 80 by 6e-6
    torch.testing.assert_close(half, exact, rtol=2e-4, atol=0)


def test_the_likelihood_is_compared_image_by_image(tmp_path, monkeypatch):
    monkeypatch.setattr(likelihood, "LIKELIHOOD_STEPS", 3)
    small = {"image_shape": [1, 8, 8], "channel_multipliers": [1], "attention_levels": []}
    folder = save_diffusion(tmp_path / "model", schedule="ve", parameterization="eps", **small)
    found = likelihood.measure(str(folder), images=3, points=4, draws=2)
    assert [len(values) for values in found.values()] == [3, 3, 3]
    assert all(math.isfinite(value) for values in found.values() for value in values)


def test_options_have_defaults():
    for part in (speed, levers, hotspots, scaling, time_to_loss):
        parser = argparse.ArgumentParser()
        part.add_arguments(parser)
        assert parser.parse_args([]).threads


def test_flows_of_equal_cost_train_and_sample():
    costs = {}
    for name, make in flows.SIDES.items():
        side = make(1)
        costs[name] = flows.cost(side)
        works = flows.calls(side, torch.randn(5, flows.DIMS))
        before = [weight.clone() for weight in side.flow.parameters()]
        works["train"]()
        assert not all(torch.equal(a, b) for a, b in zip(before, side.flow.parameters(), strict=True))
        assert works["log_prob"]().shape == (5,)
        assert works["sample"]().shape == (5, flows.DIMS)
    flows.assert_equal(costs)
    costs["zuko"] = (costs["zuko"][0], 2 * costs["zuko"][1])
    with pytest.raises(ValueError, match="the flows are not equal: FLOPs of ours, zuko, nflows, normflows"):
        flows.assert_equal(costs)


def test_the_guidance_of_a_card_is_read_by_scale():
    metrics = {
        f"{kind}_scale{scale:g}": {"value": scale + i}
        for scale in (1.5, 0.0, 3.0)
        for i, kind in enumerate(guidance_figure.KINDS)
    }
    found = guidance_figure.numbers_of(metrics | {"fid": {"value": 1.0}})
    assert [point["guidance_scale"] for point in found] == [0.0, 1.5, 3.0]
    assert found[1] == {"guidance_scale": 1.5, "asked_label": 1.5, "fid_ratio": 2.5, "recall": 3.5}


def test_diffusers_samplers_draw_with_our_network():
    """With the exact denoiser of a point mass every sampler ends on it."""
    model = ImageDiffusion((1, 4, 4), channels=4, channel_multipliers=(1,), attention_levels=())
    target = torch.full((3, 1, 4, 4), 0.25)

    def network(x, t):
        signal, sigma = model.process.signal_and_noise(t + 1)
        eps = (x - signal * target) / sigma
        return signal * eps - sigma * target  # v

    for name, (scheduler, _) in few_steps.schedulers(model).items():
        drawn = few_steps.sample(scheduler, 5, network, (3, 1, 4, 4), torch.Generator().manual_seed(0))
        torch.testing.assert_close(drawn, target, rtol=0, atol=1e-3, msg=name)  # float32, and betas that are clipped
