"""Verbs that draw from, measure and show flows; `density` has its own file."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import commands.measures.common
import commands.measures.likelihood
import commands.measures.points
import commands.sample
from checkpoints import load
from checkpoints.catalogue import ANIMATION, CARD, CONFIG, PICTURE, RESULTS, describe
from commands.drawing.flows import around, in_batches
from commands.measures import measure
from commands.measures.likelihood import _bits, independent_pixels
from commands.measures.points import integral, scores
from datamodules import Densities, Digits
from tests.conftest import save_flow
from zoo.flows.cnf_model import cnf
from zoo.synthetic.densities import ENTROPIES_NATS, log_density

# drawing ------------------------------------------------------------------------------------------------------------


def test_points_are_those_of_the_seed_and_temperature(plane, tmp_path, command, monkeypatch):
    monkeypatch.setattr(commands.sample, "POINTS", 5)
    options = ("--num-samples", 12, "--seed", 3, "--temperature", 0.5)
    answer = command("sample", plane, *options, "--output", tmp_path / "a.npy", "--json")
    told = json.loads(answer.out)
    assert (told["num_samples"], told["network_evaluations"]) == (12, 3)
    model, generator = load(str(plane)), torch.Generator().manual_seed(3)
    expected = torch.cat([model.sample(count, temperature=0.5, generator=generator) for count in (5, 5, 2)])
    assert np.array_equal(np.load(tmp_path / "a.npy"), expected.numpy())
    assert command("sample", plane, *options, "--output", tmp_path / "a.safetensors").status == 0
    assert torch.equal(load_file(tmp_path / "a.safetensors")["samples"], expected)
    assert command("sample", plane, *options, "--output", tmp_path / "a.png").status == 0
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.convert("L").getextrema()[0] < picture.convert("L").getextrema()[1]


def test_images_are_on_the_grid_of_the_model(pixels, tmp_path, command):
    assert command("sample", pixels, "--num-samples", 6, "--output", tmp_path / "a.npy").status == 0
    levels = (np.load(tmp_path / "a.npy") + 1) * 8
    assert levels.shape == (6, 1, 8, 8)
    assert np.array_equal(levels, levels.round())
    assert command("sample", pixels, "--num-samples", 6, "--output", tmp_path / "a.png").status == 0


def test_classes_come_in_turn(space, tmp_path, command):
    for options, labels in (((), [0, 1, 2, 3, 0, 1]), (("--labels", "2", "1"), [2, 1, 2, 1, 2, 1])):
        assert command("sample", space, "--num-samples", 6, "--output", tmp_path / "a.npy", *options).status == 0
        generator = torch.Generator().manual_seed(0)
        expected = load(str(space)).sample(6, labels=torch.tensor(labels), generator=generator)
        assert np.array_equal(np.load(tmp_path / "a.npy"), expected.numpy())


def test_bfloat16_is_near(plane, tmp_path, command):
    for precision in ("fp32", "bf16"):
        options = ("--num-samples", 50, "--precision", precision, "--output", tmp_path / f"{precision}.npy")
        assert command("sample", plane, *options).status == 0
    full, half = (np.load(tmp_path / f"{precision}.npy") for precision in ("fp32", "bf16"))
    assert half.dtype == np.float32
    assert not np.array_equal(full, half)
    # 8 bits of mantissa through three couplings
    assert np.abs(full - half).max() < 0.1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--temperature 0", "--temperature must be above 0, got 0.0"),
        ("--temperature -1", "--temperature must be above 0, got -1.0"),
        ("--temperature nan", "must be finite"),
        ("--steps 3", "has no option --steps; it has --temperature"),
        ("--sampler ddpm", "has no option --sampler"),
        ("--guidance-scale 2", "has no option --guidance-scale"),
        ("--compile", "--compile has no meaning"),
        ("--labels 1", "--labels must not be given"),
    ],
)
def test_options_that_a_flow_has_not(words, message, plane, tmp_path, refused):
    assert message in refused("sample", plane, "--output", tmp_path / "a.npy", *words.split())


def test_what_cannot_be_drawn_is_told(space, tmp_path, refused):
    assert "draws points of 3 columns: use --output with .npy" in refused(
        "sample", space, "--output", tmp_path / "a.png"
    )


# measuring ----------------------------------------------------------------------------------------------------------


def test_the_truth_measured_by_itself_is_the_floor():
    """The protocol of a perfect model: no difference, the entropy, mass 1."""
    data = Densities("8gaussians", num_train=20_000)

    class Truth(torch.nn.Linear):
        def log_likelihood(self, points, *, labels=None, generator=None):
            return log_density("8gaussians", points)

    truth = Truth(1, 1)
    metrics = scores(truth, data, lambda text: None)
    assert metrics["nll_minus_floor_nats"].value == pytest.approx(0, abs=1e-6)
    nll = metrics["nll_nats"]
    assert abs(nll.value - data.entropy) < 4 * nll.spread / math.sqrt(nll.size)
    assert integral(in_batches(truth), data.mean, data.std) == pytest.approx(1, abs=1e-5)


def test_the_integral_sees_a_density_that_is_not_one():
    mean, std = torch.tensor([0.5, -1.0]), torch.tensor([1.0, 3.0])

    def normal(points, factor):
        z = (points - mean) / std
        return -z.square().sum(1) / 2 - math.log(2 * math.pi * 3) + math.log(factor)

    for factor in (1.0, 1.1):
        assert integral(lambda x, f=factor: normal(x, f), mean, std) == pytest.approx(factor, rel=1e-5)


def test_independent_pixels_are_the_product_of_their_shares():
    bits = independent_pixels(Digits())
    assert bits.shape == (447,)
    # close to what a study of the same split found with other smoothing: 2.397
    assert bits.mean() == pytest.approx(2.40, abs=0.03)


def test_a_card_of_the_plane_shows_densities_samples_and_the_flow(plane, copy, command, monkeypatch):
    monkeypatch.setattr(Densities, "num_test", 300)
    monkeypatch.setattr(commands.measures.points, "GRID", 200)
    folder = copy(plane)
    assert command("evaluate", folder, "--update").status == 0
    results = json.loads((folder / RESULTS).read_text())
    assert list(results["metrics"]) == ["nll_minus_floor_nats", "nll_nats", "integral"]
    values = {name: metric["value"] for name, metric in results["metrics"].items()}
    assert values["integral"] == pytest.approx(1, abs=1e-3)
    # a random flow is far from the moons: nats, against a standard error of 300 scores of 0.05
    assert values["nll_minus_floor_nats"] == pytest.approx(values["nll_nats"] - ENTROPIES_NATS["moons"], abs=0.2)
    assert values["nll_minus_floor_nats"] > 0.3
    card = (folder / CARD).read_text()
    for text in (f"![samples]({PICTURE})", f"![flow]({ANIMATION})", "two half circles", "nll_minus_floor_nats"):
        assert text in card
    assert (folder / ANIMATION).stat().st_size < 300_000
    with Image.open(folder / ANIMATION) as film, Image.open(folder / PICTURE) as picture:
        assert film.n_frames > 20
        assert picture.size[0] > 1000
    again = command("evaluate", folder)
    assert again.status == 0, again
    changed = json.loads((folder / RESULTS).read_text())
    changed["metrics"]["nll_nats"]["value"] += 1
    (folder / RESULTS).write_text(json.dumps(changed))
    assert command("evaluate", folder).status == 1


def test_a_card_of_the_plane_states_all_training_seeds(plane, copy, command, refused, tmp_path, monkeypatch):
    monkeypatch.setattr(Densities, "num_test", 300)
    monkeypatch.setattr(commands.measures.points, "GRID", 50)
    folder, others = copy(plane), []
    arguments = json.loads((folder / CONFIG).read_text())["arguments"]
    for seed in (3, 4, 5):
        torch.manual_seed(seed)
        origin = {"seed": seed, "steps": 1, "commit": "", "data": "moons"}
        others.append(save_flow(tmp_path / str(seed), "realnvp", origin, **arguments))
    assert command("evaluate", folder, "--update", "--seeds", *others).status == 0
    results = json.loads((folder / RESULTS).read_text())
    assert results["training_seeds"] == [3, 4, 5]
    for other in others:  # the protocol is that of the model itself
        own = measure(load(str(other)), describe(other), full=True, say=print)["nll_minus_floor_nats"].value
        assert results["by_training_seed"]["values"][other.name] == pytest.approx(own, abs=1e-6)
    values = [*results["by_training_seed"]["values"].values()]
    card = (folder / CARD).read_text()
    assert f"3 training seeds, by the same protocol: nll_minus_floor_nats {sum(values) / 3:.4f} ±" in card
    assert f"seed 4: {values[1]:.4f}" in card
    first = others[0] / RESULTS
    assert command("evaluate", others[0], "--update", "--seeds", *others, "--data", "moons").status == 0
    table = json.loads(first.read_text())["by_training_seed"]
    assert command("evaluate", others[0], "--update", "--data", "moons").status == 0
    assert json.loads(first.read_text())["by_training_seed"] == table, "kept, while the model's own value holds"
    first.write_text(first.read_text().replace(str(table["values"]["3"]), str(table["values"]["3"] + 1)))
    assert command("evaluate", others[0], "--update", "--data", "moons").status == 0
    assert "by_training_seed" not in json.loads(first.read_text()), "of other weights"
    assert "of training seed 3, as another folder is" in refused(
        "evaluate", folder, "--update", "--seeds", others[0], others[0]
    )
    assert "--seeds is for --update" in refused("evaluate", folder, "--seeds", *others)
    wider = save_flow(tmp_path / "wider", "realnvp", origin, **{**arguments, "hidden": 9})
    assert "its class or arguments differ" in refused("evaluate", folder, "--update", "--seeds", wider)


def test_a_card_of_images_has_both_estimates_and_the_baseline(pixels, copy, command, monkeypatch):
    monkeypatch.setattr(commands.measures.likelihood, "DRAWS", 1)
    monkeypatch.setattr("commands.measures.judge.DRAWS", 2)
    monkeypatch.setattr(Digits, "images", lambda self, split, images=Digits.images: images(self, split)[:60])
    monkeypatch.setattr(Digits, "labels", lambda self, split, labels=Digits.labels: labels(self, split)[:60])
    folder = copy(pixels)
    assert command("evaluate", folder, "--update").status == 0
    metrics = json.loads((folder / RESULTS).read_text())["metrics"]
    estimate, bound = metrics["bits_per_dim_32_draws"], metrics["bits_per_dim_1_draw"]
    assert estimate["value"] < bound["value"], "the estimate is the tighter bound"
    assert (bound["size"], bound["spread"] > 0) == (60, True)
    assert {"bits_per_dim_independent_pixels", "fid_ratio_temperature1"} <= metrics.keys()
    assert "model.log_likelihood(images)" in (folder / CARD).read_text()
    assert (folder / ANIMATION).stat().st_size < 300_000


def test_estimates_of_a_density_are_measured_on_as_many_images_as_can_be_paid_for(monkeypatch):
    monkeypatch.setattr("commands.measures.common.ENTRIES", 10 * 64 + 63)
    data, model = Digits(), cnf((1, 8, 8), 17, hidden=4, depth=2, solver="rk4", steps=1, trace="hutchinson").eval()
    model.equalise(data.images("train"))
    measured = _bits(model, data, {"draws": 2}, "2 draws", lambda text: None)
    images = data.images("test")[torch.arange(10) * 447 // 10]
    nats = model.log_likelihood(images, draws=2, generator=torch.Generator().manual_seed(0))
    assert (measured.value, measured.size) == (pytest.approx(-nats.mean().item() / (64 * math.log(2)), rel=1e-6), 10)
    assert "10 test images" in measured.protocol


def test_what_cannot_be_measured_is_told(plane, space, refused):
    assert "is for data of shape (3,), but Densities has the shape (2,)" in refused(
        "evaluate", space, "--data", "moons", "--update"
    )
    assert "is for data of shape (2,), but Digits has the shape (1, 8, 8)" in refused(
        "evaluate", plane, "--data", "digits", "--update"
    )
    assert "others are measured in fp32" in refused("evaluate", plane, "--update", "--precision", "bf16")


# showing ------------------------------------------------------------------------------------------------------------


def test_the_flow_figure_starts_at_noise_and_ends_at_samples(plane, tmp_path, command):
    assert command("figure", "flow", plane, "--output", tmp_path / "a.gif").status == 0
    with Image.open(tmp_path / "a.gif") as film:
        first = np.asarray(film.convert("L"), dtype=float)
        film.seek(film.n_frames - 1)
        last = np.asarray(film.convert("L"), dtype=float)
    assert np.abs(first - last).mean() > 1
    assert first.max() > 100


def test_figures_are_of_their_own_models(plane, space, tmp_path, refused):
    gif = ("--output", tmp_path / "a.gif")
    assert "has no figure 'denoising'; it has flow" in refused("figure", "denoising", plane)
    assert "has no figure 'flow'; it has none" in refused("figure", "flow", space, *gif)
    assert "must end in .gif" in refused("figure", "flow", plane, "--output", tmp_path / "a.png")


def test_a_box_is_square_and_holds_the_points():
    points = torch.randn(1000, 2) * torch.tensor([1.0, 4.0]) + 3
    low, high = around(points)
    assert (high - low)[0] == pytest.approx((high - low)[1].item())
    assert ((points > low) & (points < high)).all()
