"""`sample` with files: an image to fill in, to colour, to enlarge or to edit."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import checkpoints
from tests.conftest import save_diffusion
from zoo.diffusion.inverse import averages, inpainting

QUICK = ("--steps", 3, "--num-samples", 5)
SHAPE = (3, 8, 4)


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    return save_diffusion(tmp_path_factory.mktemp("models") / "tiny-greys", image_shape=[1, 8, 4])


@pytest.fixture
def files(tmp_path):
    """Pictures and arrays, by name."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (8, 4, 3), dtype=np.uint8)
    mask = np.repeat([[0], [255]], 4, axis=0).astype(np.uint8).repeat(4, axis=1)  # the lower half
    pictures = {"colours": colours, "grey": colours[..., 0], "mask": mask, "wide": colours[:4], "third": colours[:3]}
    arrays = {
        "two": rng.uniform(-1, 1, (2, *SHAPE)),
        "holes": mask > 0,
        "bytes": colours.transpose(2, 0, 1),
        "half": np.full((8, 4), 0.5),
        "nan": np.full(SHAPE, np.nan),
        "five": np.zeros((1, 1, *SHAPE)),
        "layers": np.zeros((2, 8, 4)),
    }
    for name, picture in pictures.items():
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    for name, numbers in arrays.items():
        np.save(tmp_path / f"{name}.npy", numbers)
    (tmp_path / "text.png").write_text("no picture")
    return {path.name: path for path in tmp_path.iterdir()}


@pytest.fixture
def draw(command, files, tmp_path):
    def run(model, *options):
        output = tmp_path / "drawn.npy"
        answer = command("sample", model, *QUICK, "--output", output, *(files.get(word, word) for word in options))
        assert answer.status == 0, answer.err
        return np.load(output)

    return run


def read(path):
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1) / 127.5 - 1


def sampled(model, **options):
    return checkpoints.load(str(model)).sample(5, steps=3, generator=torch.Generator().manual_seed(0), **options)


def test_a_picture_is_filled_in(draw, tiny, files):
    image = read(files["colours.png"])
    drawn = draw(tiny, "--inpaint", "colours.png", "--mask", "mask.png")
    assert np.array_equal(drawn[:, :, :4], image[:, :4].expand(5, -1, -1, -1).numpy())
    lower = torch.arange(8)[:, None].expand(8, 4) >= 4
    assert np.array_equal(drawn, sampled(tiny, known=inpainting(image, lower)).numpy())
    once = draw(tiny, "--inpaint", "colours.png", "--mask", "holes.npy", "--repeats", 1)
    assert np.array_equal(once, sampled(tiny, known=inpainting(image, lower), repeats=1).numpy())


def test_several_images_take_turns(draw, tiny, files, monkeypatch):
    monkeypatch.setattr("commands.sample.BATCH", 3)
    drawn = draw(tiny, "--inpaint", "two.npy", "--mask", "holes.npy")
    two = np.load(files["two.npy"]).astype(np.float32)
    assert np.array_equal(drawn[:, :, :4], two[[0, 1, 0, 1, 0], :, :4])


def test_grey_pictures_of_a_grey_model(draw, grey, files):
    """Every picture that this program writes is RGB, with three equal channels."""
    image = read(files["grey.png"])[:1]
    drawn = draw(grey, "--inpaint", "grey.png", "--mask", "mask.png")
    assert np.array_equal(drawn[:, :, :4], image[:, :4].expand(5, -1, -1, -1).numpy())


def test_colouring_and_enlarging_keep_the_means(draw, tiny, files):
    image = read(files["colours.png"])
    for name in ("colours.png", "grey.png"):  # of a coloured picture its grey
        mean = read(files[name]).mean(0, keepdim=True)
        drawn = draw(tiny, "--colour", name)
        np.testing.assert_allclose(drawn.mean(1), mean.expand(5, -1, -1), atol=1e-6)  # float32
        assert np.array_equal(drawn, sampled(tiny, known=averages(mean, SHAPE)).numpy())
    assert len(np.unique(drawn, axis=0)) == 5
    drawn = draw(tiny, "--enlarge", "wide.png")
    np.testing.assert_allclose(drawn.reshape(5, 3, 4, 2, 4).mean(3), image[:, :4].expand(5, -1, -1, -1), atol=1e-6)


def test_editing(command, draw, tiny, files, tmp_path):
    image = read(files["colours.png"])
    drawn = draw(tiny, "--edit", "colours.png")
    assert np.array_equal(drawn, sampled(tiny, edit=(image, 0.6)).numpy())
    weak = draw(tiny, "--edit", "colours.png", "--strength", 0.05)
    assert np.abs(weak - image.numpy()).mean() < np.abs(drawn - image.numpy()).mean()
    both = draw(tiny, "--edit", "colours.png", "--inpaint", "colours.png", "--mask", "mask.png", "--strength", 0.5)
    lower = torch.arange(8)[:, None].expand(8, 4) >= 4
    assert np.array_equal(both, sampled(tiny, edit=(image, 0.5), known=inpainting(image, lower)).numpy())


def test_steps_are_counted(command, tiny, files, tmp_path):
    options = ("--steps", 10, "--num-samples", 2, "--output", tmp_path / "a.npy")
    filled = ("--inpaint", files["colours.png"], "--mask", files["mask.png"], "--repeats", 4)
    assert "2 images, 40 steps each" in command("sample", tiny, *options, *filled).out
    edited = ("--edit", files["colours.png"], "--strength", 0.3)
    answer = command("sample", tiny, *options, *edited)
    assert "2 images, 3 steps each" in answer.out
    assert json.loads(command("sample", tiny, *options, *edited, "--json").out)["network_evaluations"] == 3


MISTAKES = {
    "no mask": (["--inpaint", "colours.png"], "--inpaint needs --mask, a picture of its size, white where"),
    "no image": (["--mask", "mask.png"], "--mask needs --inpaint, an image whose pixels it masks"),
    "only a strength": (["--strength", 0.5], "--strength needs --edit, an image"),
    "only repeats": (["--repeats", 3], "--repeats has a meaning only with --inpaint, --colour or --enlarge"),
    "two at once": (["--colour", "grey.png", "--enlarge", "wide.png"], "--colour and --enlarge cannot be combined"),
    "strength of 0": (["--edit", "colours.png", "--strength", 0], "--strength: must be above 0 and at most 1, got 0"),
    "strength of 2": (["--edit", "colours.png", "--strength", 2], "--strength: must be above 0 and at most 1, got 2"),
    "repeats of 0": (["--colour", "grey.png", "--repeats", 0], "--repeats must be at least 1, got 0"),
    "an image of another size": (
        ["--inpaint", "wide.png", "--mask", "mask.png"],
        "wide.png' has 4 x 4 pixels, but must have the model's 8 x 4: resize it",
    ),
    "a mask of another size": (
        ["--inpaint", "colours.png", "--mask", "wide.png"],
        "wide.png' has 4 x 4 pixels, but must have the image's 8 x 4: resize it",
    ),
    "two masks": (["--inpaint", "two.npy", "--mask", "two.npy"], "two.npy' has 2 masks of 8 x 4 pixels, but must have"),
    "a mask of layers": (["--inpaint", "two.npy", "--mask", "layers.npy"], "must be an array of 8 x 4 zeros (keep)"),
    "a mask of halves": (["--inpaint", "two.npy", "--mask", "half.npy"], "must be an array of 8 x 4 zeros (keep)"),
    "a small image that does not fit": (
        ["--enlarge", "third.png"],
        "third.png' has 3 x 4 pixels, but must have whole parts of the model's 8 x 4: resize it",
    ),
    "out of range": (["--edit", "bytes.npy"], "bytes.npy' must hold numbers in [-1, 1], got "),
    "not a number": (["--edit", "nan.npy"], "index 1 is nan (counted from 1)"),
    "five axes": (["--edit", "five.npy"], "five.npy' must have two to four axes, got the shape (1, 1, 3, 8, 4)"),
    "other channels": (["--edit", "half.npy"], "half.npy' is grey, but the model's images are in colour: convert it"),
    "no file": (["--edit", "none.png"], "--edit 'none.png' does not exist"),
    "no picture": (["--edit", "text.png"], "text.png' cannot be read"),
    "a greater strength of nothing": (["--edit", "colours.png", "--strength", "nan"], "--strength: must be finite"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(refused, tiny, files, tmp_path, mistake):
    options, told = MISTAKES[mistake]
    message = refused("sample", tiny, *QUICK, "--output", tmp_path / "a.png", *(files.get(w, w) for w in options))
    assert told in message
    assert not (tmp_path / "a.png").exists()


def test_what_a_model_cannot_is_told(refused, grey, pixels, files, tmp_path):
    output = ("--output", tmp_path / "a.png")
    assert "has no meaning for" in refused("sample", grey, *output, "--colour", files["grey.png"])
    assert "is in colour, but the model's images are grey" in refused(
        "sample", grey, *output, "--edit", files["colours.png"]
    )
    assert "has no option --inpaint; it has " in refused("sample", pixels, *output, "--inpaint", files["grey.png"])
