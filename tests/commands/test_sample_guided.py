"""`sample` for what is asked: labels by number and name, guidance, classifiers."""

import json
import re

import numpy as np
import pytest
import torch

import checkpoints
import commands.sample
from checkpoints.catalogue import CONFIG
from commands.labels import label, resolve
from tests.conftest import save_diffusion, save_noisy_classifier
from zoo.synthetic.shapes import COLOURS, SHAPES

QUICK = ("--steps", 3, "--num-samples", 5)


@pytest.fixture
def draw(command, tmp_path):
    """draw(model, option, ...) -> (images (N, C, H, W), the JSON answer)."""

    def run(model, *options):
        output = tmp_path / "drawn.npy"
        answer = command("sample", model, *QUICK, "--output", output, "--json", *options)
        assert answer.status == 0, answer.err
        return np.load(output), json.loads(answer.out)

    return run


def expected(folder, **options):
    model, options = checkpoints.load(str(folder)), {"steps": 3} | options
    return model.sample(5, generator=torch.Generator().manual_seed(0), **options).numpy()


# labels


def test_names_and_numbers_ask_for_the_same(draw, named):
    wanted = torch.tensor([[2, 0], [0, 3], [3, 2], [2, 6], [3, 6]])  # 3 and 6 are "any"
    by_name, _ = draw(named, "--labels", "triangle,red", "circle,yellow", "any,blue", "triangle,any", "any,any")
    np.testing.assert_array_equal(by_name, expected(named, labels=wanted))
    by_number, _ = draw(named, "--labels", "2,0", "0,3", "any,2", "2,any", "any, any")
    np.testing.assert_array_equal(by_number, by_name)


def test_every_name_is_understood():
    words = [f"{shape},{colour}" for shape in SHAPES for colour in COLOURS]
    labels = resolve([label(word) for word in words], (3, 6), null_label=False, names=(SHAPES, COLOURS))
    assert labels.tolist() == [[shape, colour] for shape in range(3) for colour in range(6)]
    assert resolve([(4,), ("any",)], (5,), null_label=True).tolist() == [4, 5]


def test_without_labels_a_model_with_a_null_label_draws_any(draw, free):
    np.testing.assert_array_equal(draw(free)[0], expected(free))
    np.testing.assert_allclose(draw(free, "--labels", "any")[0], expected(free), atol=1e-6)


def test_names_of_the_users_own_classes(draw, refused, free, copy, tmp_path):
    folder = copy(free)
    config = json.loads((folder / CONFIG).read_text())
    names = ["cat", "dog", "3rd", "emu", "fox"]
    config["data"] = {"class": "ImageFolder", "arguments": {}, "label_names": [names]}
    (folder / CONFIG).write_text(json.dumps(config))
    by_name, _ = draw(folder, "--labels", "fox", "3rd", "any")
    np.testing.assert_array_equal(by_name, draw(folder, "--labels", 4, 2, "any")[0])
    assert "'dgo' is no label; did you mean dog" in refused("sample", folder, "--labels", "dgo")


def test_a_conditional_model_draws_all_classes_in_turn(draw, conditional):
    np.testing.assert_array_equal(draw(conditional)[0], expected(conditional, labels=torch.arange(5)))


def test_shapes_have_names_only_where_the_data_are_shapes(refused, tmp_path):
    other = save_diffusion(tmp_path / "other", num_classes=[3, 6], origin={"data": "moods"})
    line = refused("sample", other, *QUICK, "--labels", "triangle,red", "--output", tmp_path / "a.png")
    assert "--labels: 'triangle' is no label of column 1; known: 0 ... 2" in line


# guidance


def test_guidance_reaches_the_sampler(draw, free):
    labels = torch.tensor([1, 4, 1, 4, 1])
    for options, arguments in (
        (["--guidance-scale", 2.5], {"guidance_scale": 2.5}),
        (["--guidance-scale", 0], {"guidance_scale": 0.0}),
        (["--guidance-scale", -1.5, "--sampler", "heun"], {"guidance_scale": -1.5, "sampler": "heun"}),
        (["--guidance-scale", 0, 1, 3], {"guidance_scale": torch.tensor([0.0, 1, 3, 0, 1])}),
        (
            ["--guidance-scale", 3, "--guidance-interval", 0.5, 20],
            {"guidance_scale": 3.0, "guidance_interval": (0.5, 20.0)},
        ),
        (["--guidance-scale", 3, "--guidance-rescale", 0.7], {"guidance_scale": 3.0, "guidance_rescale": 0.7}),
    ):
        images, _ = draw(free, "--labels", 1, 4, *options)
        np.testing.assert_array_equal(images, expected(free, labels=labels, **arguments), err_msg=str(options))


def test_a_classifier_guides_a_model_without_labels(draw, tiny, noisy_classifier):
    classifier = checkpoints.load(str(noisy_classifier))
    labels = torch.tensor([4, 0, 4, 0, 4])
    for sampler in ("ddim", "ddpm"):
        images, _ = draw(
            tiny, "--classifier", noisy_classifier, "--labels", 4, 0, "--guidance-scale", 8, "--sampler", sampler
        )
        options = {"labels": labels, "classifier": classifier, "guidance_scale": 8.0, "sampler": sampler}
        np.testing.assert_array_equal(images, expected(tiny, **options))
        assert not np.allclose(images, expected(tiny, sampler=sampler))
    plain, _ = draw(tiny, "--classifier", noisy_classifier, "--labels", 4, 0)
    np.testing.assert_array_equal(plain, expected(tiny, labels=labels, classifier=classifier))


@pytest.mark.parametrize(
    ("options", "calls", "images"),
    [
        ([], 3, 3),
        (["--labels", 1], 3, 3),
        (["--labels", 1, "--guidance-scale", 0, 1], 3, 3),
        (["--labels", 1, "--guidance-scale", 2], 3, 6),
        (["--labels", 1, "--sampler", "heun"], 5, 5),
        (["--labels", 1, "--sampler", "heun", "--guidance-scale", 2], 5, 10),
        (["--sampler", "predictor-corrector"], 5, 5),
        (["--labels", 1, "--guidance-scale", 2, "--guidance-interval", 1e6, 1e7], 3, 3),
    ],
    ids=str,
)
def test_evaluations_are_counted(draw, free, options, calls, images):
    _, answer = draw(free, *options)
    assert answer["network_evaluations"] == calls
    assert answer["evaluations_per_image"] == images


def test_evaluations_are_counted_over_batches(draw, free, monkeypatch):
    monkeypatch.setattr(commands.sample, "BATCH", 2)
    _, answer = draw(free, "--labels", 1, "--guidance-scale", 2)
    assert answer["network_evaluations"] == 9
    assert answer["evaluations_per_image"] == 6


# what is refused

GUIDED = [*QUICK, "--labels", 1, "--guidance-scale", 2]
MISTAKES = {
    "scale nan": (["FREE", "--guidance-scale", "nan"], "--guidance-scale: must be finite, got nan"),
    "scale infinite": (["FREE", "--guidance-scale", 1, "inf"], "--guidance-scale: must be finite, got inf"),
    "scale a word": (["FREE", "--guidance-scale", "much"], "--guidance-scale: must be a number, got 'much'"),
    "scale too large": (["FREE", *GUIDED[:-1], 1e300], "--guidance-scale must be finite, got inf"),
    "nothing to guide": (["TINY", *GUIDED], "--labels must not be given: .*; name a --classifier"),
    "no null label": (["CONDITIONAL", *GUIDED], "guid.*: this model has no null label, and there is no classifier"),
    "towards nothing": (["FREE", *QUICK, "--guidance-scale", 2], "--labels must be given: guidance is towards a class"),
    "interval alone": (
        ["FREE", *QUICK, "--labels", 1, "--guidance-interval", 1, 2],
        "--guidance-interval has no meaning without a --guidance-scale other than 1",
    ),
    "interval upside down": (["FREE", *GUIDED, "--guidance-interval", 2, 1], r"the lower first, got \(2.0, 1.0\)"),
    "half an interval": (["FREE", *GUIDED, "--guidance-interval", 2], "--guidance-interval: expected 2 arguments"),
    "rescale": (["FREE", *GUIDED, "--guidance-rescale", 1.5], "rescale must be between 0 and 1, got 1.5"),
    "unconditional": (["TINY", *QUICK, "--labels", 1], "--labels must not be given"),
    "null by number": (["FREE", *QUICK, "--labels", 5], r"labels must lie in 0 \.\.\. 4, got 5; no label is 'any'"),
    "any without null": (["CONDITIONAL", *QUICK, "--labels", "any"], "'any' has no meaning for this model"),
    "any, misspelt": (["FREE", *QUICK, "--labels", "eny"], "'eny' is no label; did you mean any?"),
    "no name": (["FREE", *QUICK, "--labels", "seven"], r"'seven' is no label; known: 0 \.\.\. 4, any"),
    "misspelt": (["NAMED", *QUICK, "--labels", "triangel,red"], "'triangel' is no label of column 1; did you mean tri"),
    "wrong order": (["NAMED", *QUICK, "--labels", "red,triangle"], "'red' is no label of column 1"),
    "one column": (["NAMED", *QUICK, "--labels", "red"], "'red' has 1 column, but .* have 2: write, .* circle,red"),
    "three columns": (["NAMED", *QUICK, "--labels", "1,2,3"], "'1,2,3' has 3 columns, but the model's labels have 2"),
    "two of one": (["FREE", *QUICK, "--labels", "1,2"], "has 2 columns, but the model's labels have 1: .* example, 0"),
    "colour out": (["NAMED", *QUICK, "--labels", "1,6"], r"labels of column 2 must lie in 0 \.\.\. 5, got 6"),
    "comma at the end": (["NAMED", "--labels", "circle,"], "--labels: must be a label, or one for each column"),
    "empty": (["NAMED", "--labels", ""], "--labels: must be a label"),
    "half a label": (["FREE", "--labels", "1.5"], "--labels: must be a whole number, got '1.5'"),
    "unknown classifier": (["TINY", "--classifier", "noisy"], "unknown model 'noisy'"),
    "the judge guides": (
        ["TINY", *QUICK, "--classifier", "classifier-digits", "--labels", 1],
        "--classifier 'classifier-digits' is no classifier of noised images",
    ),
    "no label for it": (["TINY", *QUICK, "--classifier", "NOISY"], "--labels must be given: a classifier guides"),
    "no such class": (["TINY", *QUICK, "--classifier", "NOISY", "--labels", 5], r"must lie in 0 \.\.\. 4, got 5"),
    "any class": (["TINY", *QUICK, "--classifier", "NOISY", "--labels", "any"], "'any' has no meaning"),
    "interval for it": (
        ["TINY", *GUIDED, "--classifier", "NOISY", "--guidance-interval", 1, 2],
        "--guidance-interval .*must not be given with a classifier",
    ),
    "conditional": (["CONDITIONAL", *GUIDED, "--classifier", "NOISY"], "--classifier must not be given: this model is"),
    "another size": (["TINY", *GUIDED, "--classifier", "SIZE"], r"--classifier must read images of shape \(3, 8, 4\)"),
    "another noise": (["TINY", *GUIDED, "--classifier", "NOISE"], "--classifier must be trained on the noise of this"),
    "a classifier draws": (["NOISY", *QUICK], "tiny-noisy' is a classifier: use evaluate"),
}  # fmt: skip


@pytest.fixture(scope="session")
def misfits(tmp_path_factory):
    """Noisy classifiers that fit no model here."""
    folder = tmp_path_factory.mktemp("misfits")
    size = save_noisy_classifier(folder / "size", image_shape=[3, 4, 8])
    return {"SIZE": size, "NOISE": save_noisy_classifier(folder / "noise", schedule="linear")}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(
    refused, tiny, conditional, free, named, noisy_classifier, misfits, tmp_path, monkeypatch, mistake
):
    arguments, told = MISTAKES[mistake]
    places = {"TINY": tiny, "CONDITIONAL": conditional, "FREE": free, "NAMED": named, "NOISY": noisy_classifier}
    monkeypatch.chdir(tmp_path)
    message = refused("sample", *[(places | misfits).get(word, word) for word in arguments])
    assert re.search(told, message), message
    assert [*tmp_path.iterdir()] == []
