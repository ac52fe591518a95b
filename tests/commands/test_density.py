import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from checkpoints import load
from datamodules import Digits


@pytest.fixture
def rows(tmp_path):
    """Five points, and their file."""
    points = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    np.save(tmp_path / "rows.npy", points)
    return torch.from_numpy(points), tmp_path / "rows.npy"


def read(path):
    if path.suffix == ".csv":
        name, *lines = path.read_text().splitlines()
        assert name == "log_prob_nats"
        return torch.tensor([float(line) for line in lines], dtype=torch.float64)
    return torch.from_numpy(np.load(path)) if path.suffix == ".npy" else load_file(path)["log_prob"]


@pytest.mark.parametrize("ending", ["npy", "csv", "safetensors"])
def test_numbers_are_the_log_densities_of_the_rows(ending, plane, rows, tmp_path, command):
    output = tmp_path / f"density.{ending}"
    answer = command("density", plane, "--input", rows[1], "--output", output, "--json")
    assert answer.status == 0, answer
    with torch.no_grad():
        expected = load(str(plane)).log_prob(rows[0]).double()
    assert torch.equal(read(output), expected)
    told = json.loads(answer.out)
    assert told["output"] == str(output)
    assert told["mean_nats"] == pytest.approx(expected.mean().item())
    assert told["standard_error"] == pytest.approx(expected.std().item() / math.sqrt(5))
    assert told["bits_per_dim"] is None


def test_columns_are_matched_by_the_names_that_the_model_learned(plane, rows, copy, tmp_path, command, refused):
    folder = copy(plane)
    config = json.loads((folder / "config.json").read_text())
    config["data"] = {"class": "Points", "arguments": {}, "columns": ["x", "y"]}
    (folder / "config.json").write_text(json.dumps(config))
    x, y = rows[0].T.tolist()
    expected = load(str(plane)).log_prob(rows[0]).double()
    tables = {"right": ("x,y", x, y), "permuted": ("y,x", y, x), "unnamed": (None, x, y), "other": ("x,z", x, y)}
    for name, (header, *columns) in tables.items():
        lines = [",".join(map(str, row)) for row in zip(*columns, strict=True)]
        (tmp_path / f"{name}.csv").write_text("\n".join(([header] if header else []) + lines))
    output = tmp_path / "out.npy"
    for name in ("right", "permuted", "unnamed"):
        answer = command("density", folder, "--input", tmp_path / f"{name}.csv", "--output", output)
        assert answer.status == 0, answer
        torch.testing.assert_close(read(output), expected.detach(), rtol=0, atol=1e-5)
        assert ("its columns are taken in the order x, y" in answer.err) == (name == "unnamed")
    line = refused("density", folder, "--input", tmp_path / "other.csv", "--output", output)
    assert "has no column 'y', which the model learned: its columns are x, z" in line


def test_a_double_is_closer_to_the_truth(plane, rows, tmp_path, command):
    output = tmp_path / "density.npy"
    assert command("density", plane, "--input", rows[1], "--output", output, "--precision", "fp64").status == 0
    with torch.no_grad():
        assert torch.equal(read(output), load(str(plane)).double().log_prob(rows[0].double()))


def test_a_map_has_the_points_on_it(plane, rows, tmp_path, command):
    for name, given in (("empty.png", ()), ("points.png", ("--input", rows[1]))):
        assert command("density", plane, "--output", tmp_path / name, *given).status == 0
    with Image.open(tmp_path / "empty.png") as empty, Image.open(tmp_path / "points.png") as points:
        assert empty.convert("L").getextrema()[0] < 50 < empty.convert("L").getextrema()[1]
        assert empty.tobytes() != points.tobytes()


def test_images_are_scored_in_bits_too(pixels, tmp_path, command):
    images = Digits().images("val")[:7]
    np.save(tmp_path / "images.npy", images.numpy())
    options = ("--input", tmp_path / "images.npy", "--output", tmp_path / "d.npy", "--json", "--seed", 3)
    answer = command("density", pixels, *options, "--draws", 2)
    with torch.no_grad():
        model, generator = load(str(pixels)), torch.Generator().manual_seed(3)
        expected = model.log_likelihood(images, draws=2, generator=generator).double()
    assert torch.equal(read(tmp_path / "d.npy"), expected)
    assert json.loads(answer.out)["bits_per_dim"] == pytest.approx(-expected.mean().item() / (64 * math.log(2)))
    assert "bits/dim" in command("density", pixels, *options[:4], "--draws", 1).out


def test_a_conditional_density_is_asked_for_a_class(space, tmp_path, command, refused):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(5, 3)))
    options = ("density", space, "--input", tmp_path / "rows.npy", "--output", tmp_path / "d.npy")
    assert "--labels is missing" in refused(*options)
    assert "--labels: labels must lie in 0 ... 3, got 4" in refused(*options, "--labels", 4)
    assert command(*options, "--labels", 1, 3).status == 0
    points, labels = torch.from_numpy(np.load(tmp_path / "rows.npy")).float(), torch.tensor([1, 3, 1, 3, 1])
    with torch.no_grad():
        assert torch.equal(read(tmp_path / "d.npy"), load(str(space)).log_prob(points, labels).double())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((4, 3)), "has 3 columns, but the model is of 2"),
        (np.array([[0.0, 1.0], [np.nan, 0.0]]), "row 2, column 1 is nan"),
        (np.zeros((0, 2)), "must hold at least one row"),
        (np.array([["a", "b"]]), "must hold real numbers"),
        (None, "does not exist"),
    ],
)
def test_rows_that_cannot_be_scored(content, message, plane, tmp_path, refused):
    path = tmp_path / "rows.npy"
    if content is not None:
        np.save(path, content)
    line = refused("density", plane, "--input", path, "--output", tmp_path / "density.npy")
    assert f"--input {str(path)!r}" in line
    assert message in line
    assert not (tmp_path / "density.npy").exists()


def test_what_has_no_density_or_no_map_is_told(plane, pixels, rows, tmp_path, refused):
    output = ("--output", tmp_path / "d.npy")
    policy = refused("density", "td3-pendulum", "--input", rows[1], *output)
    assert "'td3-pendulum' is a policy: use rollout or evaluate" in policy
    assert "--input is missing" in refused("density", plane, *output)
    assert "--precision bf16 is for sampling" in refused("density", plane, "--precision", "bf16")
    assert "a density of 64 dimensions, and a map has 2" in refused("density", pixels)
    assert "--labels must not be given" in refused("density", plane, "--input", rows[1], *output, "--labels", 1)
    assert "must end in" in refused("density", plane, "--output", tmp_path / "d.txt")


def test_a_diffusion_model_has_a_density_in_bits_too(tmp_path, command):
    np.save(tmp_path / "images.npy", Digits().images("test")[:3].numpy())
    options = ("--input", tmp_path / "images.npy", "--output", tmp_path / "d.npy", "--steps", 8, "--draws", 2, "--json")
    first, again = (json.loads(command("density", "score-digits", *options).out) for _ in range(2))
    assert first == again, "the seed decides the noise"
    assert 1 < first["bits_per_dim"] < 4


def test_a_table_of_samples_can_be_scored(plane, tmp_path, command):
    points, scores = tmp_path / "points.csv", tmp_path / "scores.npy"
    assert command("sample", plane, "--num-samples", 7, "--output", points).status == 0
    assert command("density", plane, "--input", points, "--output", scores).status == 0
    drawn = load(str(plane)).sample(7, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(read(scores), load(str(plane)).log_prob(drawn).double())


def test_images_off_the_grid_are_told(pixels, tmp_path, refused):
    np.save(tmp_path / "images.npy", np.full((2, 1, 8, 8), 0.3))
    assert "17 grey levels" in refused(
        "density", pixels, "--input", tmp_path / "images.npy", "--output", tmp_path / "d.npy"
    )
