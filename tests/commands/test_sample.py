"""`sample`: what it writes, what the options do, and what it refuses."""

import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import checkpoints
import commands.sample
from checkpoints.catalogue import WEIGHTS
from tests.conftest import save_diffusion
from zoo.diffusion.model import ImageDiffusion
from zoo.pictures import image_grid

QUICK = ("--steps", 3, "--num-samples", 5)


@pytest.fixture
def draw(command, tmp_path):
    """Draws to .npy and returns the numbers: draw(folder, option, ...) -> (N, C, H, W)."""

    def run(model, *options):
        output = tmp_path / "drawn.npy"
        answer = command("sample", model, "--output", output, *options)
        assert answer.status == 0, answer.err
        return np.load(output)

    return run


# what is written


def test_numpy_numbers(draw, tiny):
    images = draw(tiny, *QUICK)
    assert images.shape == (5, 3, 8, 4)
    assert images.dtype == np.float32
    assert -1 <= images.min() < images.max() <= 1
    expected = checkpoints.load(str(tiny)).sample(5, steps=3, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(images, expected.numpy())


def test_safetensors_hold_the_same_numbers(command, draw, tiny, tmp_path):
    assert command("sample", tiny, *QUICK, "--output", tmp_path / "a.safetensors").status == 0
    stored = load_file(tmp_path / "a.safetensors")
    assert stored.keys() == {"samples"}
    np.testing.assert_array_equal(stored["samples"].numpy(), draw(tiny, *QUICK))


def test_a_picture_shows_the_same_numbers(command, draw, tiny, tmp_path):
    assert command("sample", tiny, *QUICK, "--output", tmp_path / "a.png").status == 0
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image)
    np.testing.assert_array_equal(pixels, image_grid(torch.from_numpy(draw(tiny, *QUICK))))


@pytest.mark.parametrize("name", ["a.PNG", "a.NPY", "a.SafeTensors"])
def test_endings_may_be_capitals(command, tiny, tmp_path, name):
    assert command("sample", tiny, *QUICK, "--output", tmp_path / name).status == 0
    assert [*tmp_path.iterdir()] == [tmp_path / name]
    assert (tmp_path / name).stat().st_size > 100


def test_the_default_output_is_a_picture_here(command, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = command("sample", tiny, "--steps", 2, "--num-samples", 2)
    assert answer.out.startswith("wrote samples.png: 2 images, 2 steps each, ")
    assert answer.err == ""
    assert [path.name for path in tmp_path.iterdir()] == ["samples.png"]


def test_an_earlier_output_is_replaced(draw, tiny):
    draw(tiny, *QUICK)
    assert len(draw(tiny, "--steps", 2, "--num-samples", 2)) == 2


def test_json_answer(command, tiny, tmp_path):
    output = tmp_path / "a.npy"
    answer = command("sample", tiny, *QUICK, "--output", output, "--json")
    result = json.loads(answer.out)
    assert result.keys() == {"output", "num_samples", "seconds", "network_evaluations", "evaluations_per_image"}
    assert result["output"] == str(output)
    assert result["num_samples"] == 5
    assert result["seconds"] > 0
    assert result["network_evaluations"] == result["evaluations_per_image"] == 3
    assert answer.err == ""


# seeds and batches


def test_a_seed_decides_everything(draw, tiny):
    options = (*QUICK, "--sampler", "ddpm")
    first = draw(tiny, *options, "--seed", 4)
    np.testing.assert_array_equal(draw(tiny, *options, "--seed", 4), first)
    assert not np.isclose(draw(tiny, *options, "--seed", 5), first).all(axis=(1, 2, 3)).any()
    np.testing.assert_array_equal(draw(tiny, *options), draw(tiny, *options, "--seed", 0))


def test_more_samples_than_a_batch(command, draw, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(commands.sample, "BATCH", 4)
    output = tmp_path / "a.npy"
    answer = command("sample", tiny, "--steps", 3, "--num-samples", 10, "--output", output, "--json")
    assert json.loads(answer.out)["network_evaluations"] == 9  # 3 batches
    images = np.load(output)
    assert images.shape == (10, 3, 8, 4)
    assert len(np.unique(images.reshape(10, -1), axis=0)) == 10
    np.testing.assert_array_equal(images[:4], draw(tiny, "--steps", 3, "--num-samples", 4))


def test_labels_go_on_across_batches(draw, conditional, monkeypatch):
    options = ("--steps", 2, "--num-samples", 7, "--labels", 4, 0, 2)
    seen, sample = [], ImageDiffusion.sample

    @functools.wraps(sample)
    def spy(model, count, **arguments):
        seen.append(arguments["labels"].tolist())
        return sample(model, count, **arguments)

    monkeypatch.setattr(ImageDiffusion, "sample", spy)
    monkeypatch.setattr(commands.sample, "BATCH", 4)
    draw(conditional, *options)
    assert seen == [[4, 0, 2, 4], [0, 2, 4]]


# options


def test_labels_decide_the_class(draw, conditional):
    generator = torch.Generator().manual_seed(0)
    expected = checkpoints.load(str(conditional)).sample(
        5, steps=3, labels=torch.tensor([1, 4, 1, 4, 1]), generator=generator
    )
    np.testing.assert_array_equal(draw(conditional, *QUICK, "--labels", 1, 4), expected.numpy())
    other = draw(conditional, *QUICK, "--labels", 0)
    assert not np.isclose(other, expected.numpy()).all(axis=(1, 2, 3)).any()


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (["--sampler", "ddpm"], {"sampler": "ddpm"}),
        (["--sampler", "ddpm", "--steps", 20], {"sampler": "ddpm", "steps": 20}),
        (["--sampler", "ddim", "--eta", 0.5], {"sampler": "ddim", "eta": 0.5}),
        (["--sampler", "ddim", "--eta", 1], {"sampler": "ddim", "eta": 1.0}),
        (["--spacing", "quadratic"], {"spacing": "quadratic"}),
        (["--spacing", "leading"], {"spacing": "leading"}),
        (["--spacing", "linspace"], {"spacing": "linspace"}),
        (["--spacing", "karras"], {"spacing": "karras"}),
        (["--sampler", "heun"], {"sampler": "heun"}),
        (["--sampler", "dpm++2m"], {"sampler": "dpm++2m"}),
        (["--sampler", "predictor-corrector"], {"sampler": "predictor-corrector"}),
    ],
    ids=str,
)
def test_options_reach_the_sampler(draw, tiny, options, arguments):
    images = draw(tiny, *QUICK, *options)
    generator = torch.Generator().manual_seed(0)
    expected = checkpoints.load(str(tiny)).sample(5, **({"steps": 3} | arguments), generator=generator)
    np.testing.assert_array_equal(images, expected.numpy())
    assert not np.allclose(images, draw(tiny, *QUICK)), "the option must make a difference"


def test_bf16_draws_nearly_the_same(draw, tiny):
    half, full = draw(tiny, *QUICK, "--precision", "bf16"), draw(tiny, *QUICK)
    assert half.dtype == np.float32
    assert not np.array_equal(half, full)
    np.testing.assert_allclose(half, full, atol=0.1)  # bfloat16 keeps 8 bits: 3 steps of up to 0.01 each, and some


def test_compile_compiles_the_network_once(draw, tiny, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(type(module).__name__))
    draw(tiny, *QUICK, "--compile")
    assert compiled == ["UNet"]


def test_shipped_image_models_draw(draw):
    """One step each: their quality is the business of `evaluate`."""
    for name, folder in checkpoints.shipped().items():
        if json.loads((folder / "config.json").read_text())["model"] == "image-diffusion":
            images = draw(name, "--steps", 1, "--num-samples", 3)
            assert images.shape == (3, *checkpoints.load(name).image_shape)


def test_progress_is_shown_on_a_terminal_only_and_always_ends(monkeypatch):
    stopped = []
    progress = commands.sample.Progress(4, 3)
    assert progress._bar.disable, "standard error is no terminal here"
    monkeypatch.setattr(progress._bar, "stop", lambda: stopped.append(True))

    def draw() -> None:
        with progress:
            progress.advance(4)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw()
    assert stopped, "without it the terminal stays without a cursor"


# what is refused: one line, exit status 2, nothing written

MISTAKES = {
    "unknown model": (["clasifier-digits"], "unknown model 'clasifier-digits'.*did you mean classifier-digits"),
    "no samples": (["TINY", "--num-samples", 0], "--num-samples: must be at least 1, got 0"),
    "negative samples": (["TINY", "--num-samples", -5], "--num-samples: must be at least 1, got -5"),
    "half a sample": (["TINY", "--num-samples", 1.5], "--num-samples: must be a whole number, got '1.5'"),
    "no steps": (["TINY", "--steps", 0], "--steps must be between 1 and the model's 20, got 0"),
    "too many steps": (["TINY", "--steps", 21], "--steps must be between 1 and the model's 20, got 21"),
    "negative seed": (["TINY", "--seed", -1], "--seed: must be at least 0, got -1"),
    "huge seed": (["TINY", "--seed", 10**30], "--seed: must be at most"),
    "negative eta": (["TINY", *QUICK, "--sampler", "ddim", "--eta", -0.1], "--eta must be between 0 and 1, got -0.1"),
    "eta nan": (["TINY", *QUICK, "--eta", "nan"], "--eta: must be finite, got nan"),
    "eta above 1": (["TINY", *QUICK, "--sampler", "ddim", "--eta", 1.1], "eta must be between 0 and 1, got 1.1"),
    "eta is a word": (["TINY", "--eta", "some"], "--eta: must be a number, got 'some'"),
    "eta for ddpm": (
        ["TINY", *QUICK, "--sampler", "ddpm", "--eta", 0.5],
        "--eta 0.5 has no meaning for sampler 'ddpm': leave it out, or take 'ddim'",
    ),
    "precision": (["TINY", "--precision", "fp8"], "--precision: invalid choice: 'fp8'"),
    "sampler": (["TINY", "--sampler", "euler"], "argument --sampler: invalid choice: 'euler'"),
    "spacing": (["TINY", "--spacing", "even"], "argument --spacing: invalid choice: 'even'"),
    "labels unconditional": (
        ["TINY", *QUICK, "--labels", 1],
        "--labels must not be given: .*; name a --classifier",
    ),
    "label too large": (["CONDITIONAL", *QUICK, "--labels", 1, 5], r"labels must lie in 0 \.\.\. 4, got 5"),
    "label negative": (["CONDITIONAL", "--labels", -1], "--labels: must be at least 0, got -1"),
    "label huge": (["CONDITIONAL", "--labels", 10**30], "--labels: must be at most"),
    "labels empty": (["CONDITIONAL", "--labels"], "--labels: expected at least one argument"),
    "device nonsense": (["TINY", "--device", "gpu"], "--device 'gpu' is not a device"),
    "device absent": (["TINY", "--device", "cuda:99"], "--device 'cuda:99' is not there on this machine"),
    "classifier": (["classifier-digits"], "'classifier-digits' is a classifier: use evaluate"),
    "a policy": (["ppo-cartpole"], "'ppo-cartpole' is a policy: use rollout or evaluate"),
    "an option of flows": (["TINY", "--temperature", 2], "has no option --temperature; it has --sampler, --steps, "),
    "a misspelt option": (["TINY", "--stepz", 2], "has no option --stepz; did you mean --steps?"),
    "a table of images": (["TINY", "--output", "a.csv"], "draws images of 3 channels: use --output with .npy"),
    "no model": ([], "the following arguments are required: MODEL"),
    "two models": (["TINY", "TINY"], "unrecognized arguments"),
    "not a model folder": (["."], r"'\.' is not a model folder: config.json is missing"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(refused, tiny, conditional, tmp_path, monkeypatch, mistake):
    arguments, told = MISTAKES[mistake]
    places = {"TINY": tiny, "CONDITIONAL": conditional}
    monkeypatch.chdir(tmp_path)
    message = refused("sample", *[places.get(word, word) for word in arguments])
    assert re.search(told, message), message
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("no/a.png", "no does not exist, create it first"),
        ("a.jpg", "must end in .png or .npy or .safetensors or .csv"),
        ("a", "must end in .png or .npy or .safetensors or .csv"),
        ("folder.png", "is a folder: name a file"),
        ("a" * 300 + ".png", "cannot be written: File name too long"),
    ],
)
def test_an_output_that_cannot_be_is_one_line(refused, tiny, tmp_path, output, told):
    (tmp_path / "folder.png").mkdir()
    assert told in refused("sample", tiny, *QUICK, "--output", tmp_path / output)
    assert [*tmp_path.iterdir()] == [tmp_path / "folder.png"]
    assert [*(tmp_path / "folder.png").iterdir()] == []


def test_a_picture_of_two_channels_is_told_before_it_is_drawn(refused, tmp_path):
    folder = save_diffusion(tmp_path / "two", image_shape=[2, 8, 4])
    assert "of 2 channels: use --output with .npy" in refused("sample", folder, *QUICK, "--output", tmp_path / "a.png")


def test_damaged_weights_are_told(refused, tiny, copy, tmp_path):
    folder = copy(tiny)
    (folder / WEIGHTS).write_bytes(b"\x80\x04")
    message = refused("sample", folder, "--output", tmp_path / "a.png")
    assert f"{folder / WEIGHTS} is not a whole safetensors file" in message


@pytest.mark.parametrize("name", ["a.png", "a.npy", "a.safetensors"])
def test_a_write_that_fails_half_way_leaves_the_old_file(refused, tiny, tmp_path, monkeypatch, name):
    output = tmp_path / name
    output.write_text("old")

    def fail(target):
        with target.open("wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", lambda image, target: fail(target))
    monkeypatch.setattr(Path, "write_bytes", lambda target, content: fail(target))
    message = refused("sample", tiny, *QUICK, "--output", output)
    assert message == f"error: {output} cannot be written: No space left on device\n"
    assert output.read_text() == "old"
    assert [*tmp_path.iterdir()] == [output]
