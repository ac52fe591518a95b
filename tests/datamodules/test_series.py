"""Series: windows and their parts, the score of forecasts, what a model is compared with; and a whole run."""

import importlib.util
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from commands.measures import series as measures
from datamodules import Series
from tests import runs
from zoo.errors import UserError
from zoo.metrics.forecast import crps


@pytest.fixture
def path(tmp_path):
    """200 steps: a season of 4, a slow wave, and noise; a column without a name."""
    t = np.arange(200)
    noise = np.random.default_rng(0).normal(size=200)
    np.savetxt(tmp_path / "mine.csv", 10 + 3 * np.sin(np.pi * t / 2) + np.sin(t / 20) + 0.3 * noise)
    return tmp_path / "mine.csv"


def test_windows_end_in_their_part_and_are_the_values(path):
    data = Series(path=str(path), context=6, horizon=3, season=4, levels=4001)
    values = data.values()
    assert [data.bounds(split) for split in ("train", "val", "test")] == [(0, 140), (140, 160), (160, 200)]
    for split, first, end in (("train", 0, 140), ("val", 134, 160), ("test", 154, 200)):
        windows = data.windows(split)
        assert windows.shape == (end - first - 8, 1, 9, 1)
        found = data.to_values(windows[:, 0, :, 0])
        low, high = data.scale()
        # half a level, of those values that lie within the levels
        assert (found - values[first:end].unfold(0, 9, 1)).abs().max() <= (high - low) / 4000 / 2 + 1e-6
    low, high = values[:140].min().item(), values[:140].max().item()
    assert data.scale() == pytest.approx((1.25 * low - 0.25 * high, 1.25 * high - 0.25 * low))
    assert torch.equal(measures.truths(data), values[154:].unfold(0, 9, 1)[:, 6:]), "the ends of the windows"


def test_crps_is_that_of_a_normal_distribution():
    """sigma [z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)], z = (y - mu) / sigma (Gneiting & Raftery 2007, eq. 5)."""
    samples = 2 + 3 * torch.randn(40_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for y in (-4.0, 2.0, 3.0):
        z = (y - 2) / 3
        density = math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
        expected = 3 * (z * math.erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))
        found = crps(samples, torch.tensor(y, dtype=torch.float64)).item()
        assert found == pytest.approx(expected, abs=0.06)  # four standard errors


def test_crps_has_no_bias_by_few_samples():
    """Of two equally likely values, one of them the truth, it is 1 / 4: the mean over all pairs of draws is that."""
    pairs = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    assert crps(pairs, torch.zeros(4)).mean().item() == pytest.approx(0.25)
    assert crps(torch.tensor([[3.0, 3.0]]), torch.tensor([1.0])).item() == 2


def test_baselines_use_no_value_of_the_test_part_that_comes_later(path):
    data = Series(path=str(path), context=6, horizon=6, season=4)
    naive, climate = measures.seasonal_naive(data), measures.climatology(data)
    assert naive.shape == (35, 6, 200)
    assert climate.shape == (35, 6, 35)
    values = data.values().clone()
    for h, lag in ((0, 4), (3, 4), (4, 8)):  # the fifth step is a season after the first, which is not known either
        errors = values[lag:140] - values[: 140 - lag]
        middle = values[160 + h - lag] + errors.quantile(0.5)
        assert naive[0, h].median().item() == pytest.approx(middle.item(), abs=0.05)
    torch.testing.assert_close(climate[1, 2], values[:140][163 % 4 :: 4])
    data.values()[180:] += 1000.0
    later = measures.seasonal_naive(data)
    torch.testing.assert_close(later[:20], naive[:20])
    assert (later[21, 4] == naive[21, 4]).all(), "two seasons back"


@pytest.mark.skipif(importlib.util.find_spec("statsmodels") is None, reason="its files are not there")
@pytest.mark.parametrize(("name", "count", "first", "last"), [("elnino", 732, 23.11, 22.07), ("sunspots", 309, 5, 2.9)])
def test_series_of_statsmodels(name, count, first, last):
    values = Series(name).values()
    assert (len(values), values[0].item(), values[-1].item()) == (count, first, last)


def test_mistakes_are_named(tmp_path, path, monkeypatch):
    np.savetxt(tmp_path / "two.csv", np.ones((300, 2)), delimiter=",")
    np.savetxt(tmp_path / "still.csv", np.ones(300))
    for call, text in (
        (lambda: Series("co2"), "data.series must be one of elnino, sunspots, got 'co2'"),
        (lambda: Series(horizon=0), "data.horizon must be at least 1, got 0"),
        (lambda: Series(levels=1), "data.levels must be at least 2, got 1"),
        (lambda: Series(path=str(tmp_path / "two.csv")).setup(), "two.csv' must hold one column, got 2"),
        (lambda: Series(path=str(tmp_path / "still.csv")).setup(), "is constant: there is nothing to learn"),
        (lambda: Series(path=str(path), context=200).setup(), "has 200 steps, too few for a context of 200"),
        (lambda: Series(path=str(tmp_path / "none.csv")).setup(), "none.csv' does not exist"),
    ):
        with pytest.raises(UserError, match=text):
            call()
    monkeypatch.setattr("datamodules.series.find_spec", lambda _: None)
    with pytest.raises(UserError, match="'elnino' is a file of the package statsmodels: pip install statsmodels"):
        Series().setup()


def test_a_run_forecasts_and_is_measured(tmp_path, path, command):
    options = ("--config", "wavenet-series", "--data.path", path, "--data.context", 8, "--data.horizon", 3)
    options += ("--data.season", 4, "--model.width", 8, "--model.depth", 2, "--data.batches_per_epoch", 3)
    folder, mine = runs.fit(tmp_path / "run", *options, "--trainer.max_epochs", 1), tmp_path / "mine"
    assert command("export", folder / "last.ckpt", mine).status == 0
    answer = command("figure", "forecast", mine, "--output", tmp_path / "a.png", "--json")
    assert answer.status == 0, answer.err
    points = json.loads(answer.out)["points"]
    assert [len(point["quantiles"]) for point in points] == [3, 3, 3]
    with Image.open(tmp_path / "a.png") as image:
        assert min(image.size) > 100
    wrong = command("figure", "completion", mine, "--output", tmp_path / "b.png")
    assert wrong.err == f"error: '{mine}' has no figure 'completion'; it has forecast\n"
    assert "is a model of a series: use figure or evaluate" in command("sample", mine).err
    assert command("evaluate", mine, "--update").status == 0
    card = (mine / "README.md").read_text()
    assert "| crps_seasonal_naive |" in card
    assert "lightning-zoo figure forecast mine" in card
