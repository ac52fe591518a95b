"""`evaluate`: the card against a new measurement, and the writing of the card."""

import inspect
import json
import math

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file

import checkpoints
import commands.card
import commands.evaluate
import commands.measures.classifier
import commands.measures.common
import commands.measures.images
import commands.measures.judge
import commands.measures.likelihood
import commands.measures.shapes
from checkpoints.card import render
from checkpoints.catalogue import CONFIG, RESULTS, WEIGHTS, describe, read_json
from checkpoints.tasks import TASKS
from commands.measures import PROTOCOLS, protocol_of
from commands.measures.common import Measurement
from commands.measures.images import SCALES
from datamodules import Densities, Digits, Shapes
from lightning_modules import DDPM, Classifier, RealNVP
from lightning_modules.trainer.record import _protocol
from tests.conftest import save_diffusion, save_flow
from zoo.diffusion.model import ImageDiffusion
from zoo.errors import UserError
from zoo.vae.model import VAE
from zoo.vae.vqvae import VQVAE

CLASSIFIER = checkpoints.shipped()["classifier-digits"]


def change(folder, **metrics) -> None:
    """Replaces entries of the metrics in the results of a folder; None removes one."""
    results = read_json(folder / RESULTS)
    for metric, entry in metrics.items():
        results["metrics"][metric] = results["metrics"].get(metric, {}) | entry
    (folder / RESULTS).write_text(json.dumps(results))


# the arithmetic


def test_a_measurement_is_mean_spread_and_size():
    measured = Measurement.of([1.0, 2.0, 6.0], "how", scale=10)
    assert measured.value == pytest.approx(30)
    assert measured.spread == pytest.approx(math.sqrt((400 + 100 + 900) / 2))  # of a sample: N - 1
    assert (measured.size, measured.protocol) == (3, "how")
    assert Measurement.of([4.0], "how").spread == 0


def compared(capsys, value, spread, size, now, now_size):
    card = {"m": {"value": value, "spread": spread, "size": size}}
    status = commands.evaluate._compare("x", card, {"m": Measurement(now, 0.0, now_size, "")}, as_json=True)
    return status, json.loads(capsys.readouterr().out)["metrics"]["m"]


def test_the_tolerance_is_three_standard_errors_of_the_difference(capsys):
    # 3 * 0.6 * sqrt(1/9 + 1/16) = 1.8 * 5/12 = 0.75
    status, row = compared(capsys, 10.0, 0.6, 9, 10.749, 16)
    assert (status, row["ok"]) == (0, True)
    assert row["tolerance"] == pytest.approx(0.75)
    assert (row["card"], row["now"]) == (10.0, 10.749)
    for now in (10.751, 9.249):
        status, row = compared(capsys, 10.0, 0.6, 9, now, 16)
        assert (status, row["ok"]) == (1, False)


def test_a_share_of_one_or_zero_has_a_tolerance_all_the_same(capsys):
    """2,235 hits of 2,235: one miss in 894 is no fault, five are."""
    for value, sign in ((1.0, -1), (0.0, 1)):
        assert compared(capsys, value, 0.0, 2235, value + sign * 1 / 894, 894)[0] == 0
        assert compared(capsys, value, 0.0, 2235, value + sign * 5 / 894, 894)[0] == 1
    assert compared(capsys, 1.0, 0.0, 1, 0.99, 1)[0] == 1, "a single number is no share"


def test_without_spread_the_rounding_of_float32_is_allowed(capsys):
    assert compared(capsys, 10.0, 0.0, 9, 10.0009, 9)[0] == 0
    assert compared(capsys, 10.0, 0.0, 9, 10.0011, 9)[0] == 1


def test_the_table_names_what_is_outside(capsys):
    card = {name: {"value": 1.0, "spread": 0.1, "size": 4} for name in ("good", "bad")}
    now = {"good": Measurement(1.0, 0.1, 4, ""), "bad": Measurement(2.0, 0.1, 4, "")}
    assert commands.evaluate._compare("x", card, now, as_json=False) == 1
    name, head, good, bad = capsys.readouterr().out.splitlines()
    assert name == "x"
    assert head.split() == ["metric", "card", "now", "tolerance"]
    assert good.split() == ["good", "1.0000", "1.0000", "0.2121", "ok"]  # 0.3 * sqrt(1/2)
    assert bad.split() == ["bad", "1.0000", "2.0000", "0.2121", "OUTSIDE"]


# the shipped classifier


def test_the_shipped_classifier_passes(command):
    answer = command("evaluate", "classifier-digits", "--json")
    assert answer.status == 0
    assert answer.err == ""
    result = json.loads(answer.out)
    assert result.keys() == {"name", "metrics"}
    assert result["name"] == "classifier-digits"
    assert result["metrics"].keys() == read_json(CLASSIFIER / RESULTS)["metrics"].keys()
    for row in result["metrics"].values():
        assert row.keys() == {"card", "now", "tolerance", "ok"}
        assert row["ok"]
        assert row["now"] == pytest.approx(row["card"], abs=0.005)


def test_accuracy_is_counted_by_hand(command):
    data = Digits()
    with torch.inference_mode():
        right = checkpoints.load("classifier-digits")(data.images("test")).argmax(1) == data.labels("test")
    result = json.loads(command("evaluate", "classifier-digits", "--json").out)["metrics"]["test_accuracy"]
    assert result["now"] == pytest.approx(right.sum().item() / len(right))


def test_a_doctored_card_fails(command, copy):
    folder = copy(CLASSIFIER)
    change(folder, test_accuracy={"value": 1.1})
    answer = command("evaluate", folder)
    assert answer.status == 1
    assert next(line for line in answer.out.splitlines() if "test_accuracy" in line).endswith("OUTSIDE")
    assert next(line for line in answer.out.splitlines() if "validation_accuracy" in line).endswith("ok")


def test_spoilt_weights_fail(command, copy):
    folder = copy(CLASSIFIER)
    state = load_file(folder / WEIGHTS)
    state["to_logits.1.weight"].neg_()
    save_file(state, folder / WEIGHTS)
    assert command("evaluate", folder).status == 1


# what is refused


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({}, "'made_up' must have a finite number 'value', got None"),
        ({"value": "high", "spread": 1, "size": 1}, "must have a finite number 'value', got 'high'"),
        ({"value": math.nan, "spread": 1, "size": 1}, "must have a finite number 'value', got nan"),
        ({"value": 10**400, "spread": 1, "size": 1}, "must have a finite number 'value'"),
        ({"value": 1, "spread": math.inf, "size": 1}, "must have a finite number 'spread', got inf"),
        ({"value": 1, "spread": -1, "size": 1}, "must have a finite number 'spread', got -1"),
        ({"value": 1, "spread": 1, "size": 0}, "must have a finite number 'size', got 0"),
        ({"value": 1, "spread": 1, "size": 1}, "a metric 'made_up' that this version does not measure"),
    ],
)
def test_a_wrong_metric_is_one_line(refused, copy, entry, told):
    folder = copy(CLASSIFIER)
    change(folder, made_up=entry)
    assert told in refused("evaluate", folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"metrics": 3}', '{"metrics": {}}', '{"metrics": {"a": 3}}'])
def test_wrong_results_are_one_line(refused, copy, content):
    folder = copy(CLASSIFIER)
    (folder / RESULTS).write_text(content)
    assert str(folder / RESULTS) in refused("evaluate", folder)


def test_missing_results_are_one_line(refused, copy):
    folder = copy(CLASSIFIER)
    (folder / RESULTS).unlink()
    message = refused("evaluate", folder)
    assert f"{folder / RESULTS} does not exist" in message
    assert "--update" in message


@pytest.mark.parametrize(
    ("origin", "told"),
    [
        (None, "does not say which data"),
        (["digits"], "'origin' must be an object, got ['digits']"),
        ({}, "does not say which data it was trained on: pass --data"),
        ({"data": ["digits"]}, "does not say which data"),
        ({"data": "letters"}, "does not say which data"),
    ],
)
def test_unknown_data_is_one_line(refused, copy, origin, told):
    folder = copy(CLASSIFIER)
    config = read_json(folder / CONFIG) | {"origin": origin}
    (folder / CONFIG).write_text(json.dumps(config | {"data": None}))
    assert told in refused("evaluate", folder)


def test_data_can_be_named(command, copy):
    folder = copy(CLASSIFIER)
    (folder / CONFIG).write_text(json.dumps(read_json(folder / CONFIG) | {"data": None}))
    assert command("evaluate", folder, "--data", "digits").status == 0


def test_other_mistakes_are_one_line(refused, tiny, copy):
    assert "did you mean classifier-digits" in refused("evaluate", "clasifier-digits")
    assert "--data must be Digits, Shapes or the name of a density" in refused(
        "evaluate", "classifier-digits", "--data", "letters"
    )
    for name, noun in (("ppo-cartpole", "a policy"), ("qtran-payoff", "a team")):
        line = refused("evaluate", name, "--data", "digits")
        assert f"{name!r} is {noun}, which is measured in an environment: leave out --data" in line
    assert "'cuda:99' is not there" in refused("evaluate", "classifier-digits", "--device", "cuda:99")
    folder = copy(tiny)
    assert "data of shape (3, 8, 4), but Digits has the shape (1, 8, 8)" in refused("evaluate", folder, "--update")


def test_an_origin_that_the_card_could_not_tell_is_refused_before_measuring(refused, copy):
    folder = copy(CLASSIFIER)
    (folder / CONFIG).write_text(json.dumps(read_json(folder / CONFIG) | {"origin": {"seed": 0}}))
    assert "lacks 'commit' in its \"origin\"" in refused("evaluate", folder, "--update")


# the writing of the card


def test_update_writes_what_ships(command, copy):
    """The shipped card is what --update writes: the same metrics, the same text."""
    folder = copy(CLASSIFIER)
    (folder / RESULTS).unlink()
    (folder / "README.md").unlink()
    answer = command("evaluate", folder, "--update")
    assert answer.status == 0
    assert answer.out == f"wrote {folder / RESULTS} and the card\n"
    assert {path.name for path in folder.iterdir()} == {path.name for path in CLASSIFIER.iterdir()}
    written, shipped = read_json(folder / RESULTS), read_json(CLASSIFIER / RESULTS)
    assert written.keys() == shipped.keys()
    assert written["command"] == shipped["command"]
    for metric, entry in shipped["metrics"].items():
        # one image in 350 may fall on the other side with the kernels of another machine
        assert written["metrics"][metric]["value"] == pytest.approx(entry["value"], abs=0.003)
        assert written["metrics"][metric]["protocol"] == entry["protocol"]
    assert (folder / "README.md").read_text(encoding="utf-8") == render(folder)
    assert command("evaluate", folder).status == 0


# diffusion models, on a fraction of the data


def measure(monkeypatch, described, model, data, say=lambda _: None):
    """The metrics of a model by its protocol, on other data than its own."""
    monkeypatch.setattr(commands.measures.common, "load_data", lambda _: data)
    return protocol_of(described)(model, described, full=False, say=say)


class FewDigits(Digits):
    def _read(self):
        return {split: (images[:60], labels[:60]) for split, (images, labels) in super()._read().items()}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A tiny model of the digits with 50 steps, as many as the shortest measurement takes."""
    folder = tmp_path_factory.mktemp("small") / "tiny-digits"
    return save_diffusion(folder, image_shape=[1, 8, 8], num_timesteps=50, channel_multipliers=[1], attention_levels=[])


@pytest.fixture
def few_digits(monkeypatch):
    monkeypatch.setitem(commands.measures.judge.JUDGES, "FewDigits", "classifier-digits")
    return FewDigits()


def test_diffusion_metrics(small, few_digits, monkeypatch):
    said = []
    metrics = measure(monkeypatch, describe(small), checkpoints.load(str(small)), few_digits, said.append)
    ratios = ("fid_ratio", "random_fid_ratio", "spectrum_ratio", "nearest_ratio")
    names = {f"{kind}{at}" for kind in ratios for at in ("", "_ddim50", "_ddpm50")}
    real = {"fid_training_images", "fid_validation_images", "nearest_ratio_training_images"}
    assert metrics.keys() == names | {"fid", "precision", "recall", "bound_bits_per_dim"} | real
    assert next(iter(metrics)) == "fid_ratio", "the headline: of the model's defaults"
    sizes = {"ddim50": 2, "ddpm50": 1, "dim": 60}
    for name, metric in metrics.items():
        assert math.isfinite(metric.value), name
        size = 20 if name == "fid_training_images" else 1 if name in real else 5
        assert metric.size == sizes.get(name.rpartition("_")[2], size), name
        assert "60 " in metric.protocol, "the sample size belongs to the number"
        assert 0 <= metric.value <= 1 or not name.startswith(("precision", "recall"))
    assert "2 draws" in metrics["fid_ratio_ddim50"].protocol
    assert "60 samples, 50 steps of ddim, against the 60 test images" in metrics["fid_ratio_ddim50"].protocol
    default = inspect.signature(ImageDiffusion.sample).parameters
    assert f"{default['steps'].default} steps of {default['sampler'].default}," in metrics["fid"].protocol
    assert metrics["fid_ratio"].value == pytest.approx(metrics["fid"].value / metrics["fid_training_images"].value)
    for at in ("", "_ddim50", "_ddpm50"):
        assert metrics[f"fid_ratio{at}"].value > 2, "random weights draw nothing like digits"
        assert metrics[f"random_fid_ratio{at}"].value > 2
        assert metrics[f"nearest_ratio{at}"].value > 1, "nor copies of them"
    assert metrics["bound_bits_per_dim"].value > math.log2(17), "worse than guessing the grey level"
    assert said[0] == "samples: draw 1 of 5"
    assert said[-1] == "variational bound: image 0 of 60"


def drawn_from_training(data):
    """`sample` of a model that has learned the training images by heart, and draws the class that it is asked for."""
    images, classes = data.images("train"), data.labels("train")

    def sample(n, labels=None, generator=None, **_):
        if labels is None:
            return images[torch.randint(len(images), (n,), generator=generator)]
        choices = [(classes == label).nonzero().flatten() for label in labels]
        return torch.stack([images[rows[torch.randint(len(rows), (), generator=generator)]] for rows in choices])

    return sample


@pytest.mark.parametrize(("classes", "null"), [(0, False), (10, False), (10, True)])
def test_copies_of_training_images_measure_as_training_images(tmp_path, monkeypatch, classes, null):
    """Sharp, at the FID of training images, and at no distance from them; read as the class that they are asked for."""
    options = {"num_timesteps": 4, "channel_multipliers": [1], "attention_levels": [], "num_classes": classes}
    folder = save_diffusion(tmp_path / "model", image_shape=[1, 8, 8], null_label=null, **options)
    model, data = checkpoints.load(str(folder)), Digits()
    signature = inspect.signature(ImageDiffusion.sample)
    sample = drawn_from_training(data)
    sample.__signature__ = signature.replace(parameters=[*signature.parameters.values()][1:])
    monkeypatch.setattr(model, "sample", sample)
    metrics = measure(monkeypatch, describe(folder)._replace(protocol="guidance"), model, data)
    at = "_scale1" if null else ""
    # drawn with and without repetition, 20 and 5 times: the means differ by some 5 %
    assert metrics[f"fid_ratio{at}"].value == pytest.approx(1, abs=0.3)
    assert metrics[f"random_fid_ratio{at}"].value == pytest.approx(1, abs=0.3)
    assert metrics[f"spectrum_ratio{at}"].value == pytest.approx(1, abs=0.1)
    assert metrics[f"nearest_ratio{at}"].value == 0
    if null:
        assert metrics["asked_label_scale1"].value > 0.98
    else:
        assert "4 steps of" in metrics["fid"].protocol, "no more than it was trained with"
        assert ("of the test images' labels" in metrics["fid"].protocol) == bool(classes)


def test_update_writes_picture_and_card_of_a_diffusion_model(command, small, copy, monkeypatch):
    """The measurement itself is replaced: it is tested above."""
    metric = Measurement(1.5, 0.1, 20, "how it was measured")
    monkeypatch.setattr(commands.evaluate, "measure", lambda *_, **__: {"fid_ratio": metric})
    folder = copy(small)
    assert command("evaluate", folder, "--update").status == 0
    results = read_json(folder / RESULTS)
    accuracy = read_json(CLASSIFIER / RESULTS)["metrics"]["test_accuracy"]["value"]
    assert results == {
        "command": "lightning-zoo evaluate tiny-digits --full",
        "training_seeds": [7],
        "metrics": {"fid_ratio": {"value": 1.5, "spread": 0.1, "size": 20, "protocol": "how it was measured"}},
        "judge": {"name": "classifier-digits", "test_accuracy": accuracy},
        "picture": "samples.png",
    }
    with Image.open(folder / "samples.png") as image:
        image.load()
        assert image.width > image.height > 200
    card = ModelCard.load(folder / "README.md")
    assert card.data.eval_results[0].metric_value == 1.5
    assert "![samples](samples.png)" in card.text
    assert {path.name for path in folder.iterdir()} >= {RESULTS, "README.md", "samples.png"}
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    answer = command("evaluate", folder, "--json")
    assert answer.status == 0
    assert json.loads(answer.out)["metrics"]["fid_ratio"]["tolerance"] == pytest.approx(0.3 * math.sqrt(0.1))
    assert command("evaluate", folder, "--update", "--precision", "bf16").status == 0
    assert read_json(folder / RESULTS)["command"] == "lightning-zoo evaluate tiny-digits --full --precision bf16"


def test_guidance_metrics(tmp_path, few_digits, monkeypatch):
    options = {"num_timesteps": 50, "channel_multipliers": [1], "attention_levels": []}
    folder = save_diffusion(tmp_path / "guided", image_shape=[1, 8, 8], num_classes=10, null_label=True, **options)
    metrics = measure(monkeypatch, describe(folder), checkpoints.load(str(folder)), few_digits)
    kinds = ("asked_label", "fid_ratio", "recall", "spectrum_ratio")
    names = {f"{kind}_scale{scale:g}" for kind in kinds for scale in SCALES}
    names |= {f"{kind}_scale1" for kind in ("random_fid_ratio", "nearest_ratio", "fid", "precision")}
    assert metrics.keys() == names | {"fid_training_images", "fid_validation_images", "nearest_ratio_training_images"}
    asked = {name: metric.value for name, metric in metrics.items() if name.startswith("asked_label")}
    assert next(iter(metrics)) == max(asked, key=asked.__getitem__), "the best scale is the headline"
    assert all(metrics[name].size == (5 if name == "asked_label_scale1" else 2) * 60 for name in asked)
    assert all(value < 0.4 for value in asked.values()), "random weights do not draw what they are asked for"


def test_a_model_that_draws_no_numbers_is_refused(small, few_digits, monkeypatch, command, tmp_path):
    """Weights that are finite but far too large: no picture, no card and no crash of the eigenvalue solver."""
    model = checkpoints.load(str(small))
    monkeypatch.setattr(model, "sample", lambda n, **_: torch.full((n, 1, 8, 8), math.nan))
    with pytest.raises(UserError, match="samples that are not finite"):
        measure(monkeypatch, describe(small), model, few_digits)
    monkeypatch.setattr(ImageDiffusion, "sample", lambda self, n, **_: torch.full((n, 1, 8, 8), math.inf))
    answer = command("sample", small, "--output", tmp_path / "a.npy")
    assert (answer.status, "draws numbers that are not finite" in answer.err) == (2, True)
    assert not (tmp_path / "a.npy").exists()


def test_a_metric_that_is_not_finite_is_refused(monkeypatch):
    broken = Measurement(math.nan, 0.0, 1, "how")
    monkeypatch.setattr(commands.measures.classifier, "accuracy", lambda *_, **__: {"test_accuracy": broken})
    with pytest.raises(UserError, match="'test_accuracy' is not finite"):
        commands.measures.measure(None, describe(CLASSIFIER), full=False, say=print)


# a user's own data


def describe_own(folder, kind, **arguments):
    config = read_json(folder / CONFIG) | {"data": {"class": kind, "arguments": arguments}}
    (folder / CONFIG).write_text(json.dumps(config))


def test_own_points_are_measured_and_have_a_card(command, space, tmp_path):
    """Against a normal distribution, whose NLL is known in closed form; the lines of the card run."""
    rows = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1e3, 1e-3])
    table = tmp_path / "own.csv"
    table.write_text("\n".join(",".join(map(str, row)) for row in rows.tolist()))
    described = describe(space)
    arguments = described.arguments | {"num_classes": 0}
    folder = save_flow(tmp_path / "mine", "realnvp", described.origin, **arguments)
    describe_own(folder, "Points", path=str(table))
    publish = ("publish", folder, "--repo-id", "me/mine", "--dry-run")
    assert f"measure it with `evaluate {folder} --update`" in command(*publish).err
    assert command("evaluate", folder, "--update", "--data-license", "CC0-1.0").status == 0
    assert command(*publish).status == 0, "the hint led on"
    metrics = read_json(folder / RESULTS)["metrics"]
    assert list(metrics) == ["nll_nats", "nll_of_a_normal_nats"]
    entropy = 1.5 * math.log(2 * math.pi * math.e)
    assert metrics["nll_of_a_normal_nats"]["value"] == pytest.approx(entropy, abs=0.3)  # 200 rows
    card = (folder / "README.md").read_text()
    assert "Points, the author's own data." in card
    assert "Weights: unknown. Data: CC0-1.0." in card
    assert "--output samples.csv" in card
    assert command("evaluate", folder).status == 0


def test_own_pictures_are_measured_and_have_a_card(command, small, copy, tmp_path, monkeypatch):
    """No classifier of ours knows them, so that there is no FID; the headline is the bound."""
    pixels = torch.randint(256, (2, 30, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    for name, pictures in zip(("cat", "dog"), pixels, strict=True):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i, picture in enumerate(pictures):
            Image.fromarray(picture.numpy()).save(tmp_path / "pets" / name / f"{i}.png")
    folder = copy(small)
    describe_own(folder, "ImageFolder", root=str(tmp_path / "pets"), size=8, grayscale=True)
    monkeypatch.setattr(commands.measures.images, "DRAWS", 8)
    assert command("evaluate", folder, "--update", "--license", "mit").status == 0
    assert next(iter(read_json(folder / RESULTS)["metrics"])) == "bound_bits_per_dim"
    card = (folder / "README.md").read_text()
    assert "ImageFolder, the author's own data." in card
    assert "Weights: mit. Data: unknown." in card
    assert command("evaluate", folder).status == 0
    answer = command("evaluate", folder, "--license", "mit")
    assert (answer.status, "--license is for --update" in answer.err) == (2, True)


def test_a_classifier_is_measured_as_one_whatever_its_data_can_be_asked():
    """Shapes name a protocol for models that draw: a run of a classifier on them records that of its own task."""
    module = Classifier((3, 32, 32), 3, channels=4)
    assert _protocol(module, Shapes(num_train=1)) == "accuracy"
    assert _protocol(RealNVP(num_features=2, hidden=4), Densities()) == "density"
    assert _protocol(DDPM((3, 32, 32), channels=4, patch_size=4), Shapes(num_train=1)) == "shapes"


class FewShapes(Shapes):
    num_test = 60


class SomeShapes(Shapes):
    num_test = 300


@pytest.mark.parametrize("classes", [0, [3, 6]])
def test_shapes_metrics(tmp_path, monkeypatch, classes):
    monkeypatch.setattr(commands.measures.shapes, "DRAWN", 40)
    options = {"num_timesteps": 50, "channel_multipliers": [1], "attention_levels": [], "patch_size": 4}
    options |= {"num_classes": classes, "null_label": bool(classes)}
    folder = save_diffusion(tmp_path / "shapes", image_shape=[3, 32, 32], **options)
    described = describe(folder)._replace(protocol="shapes")
    metrics = measure(monkeypatch, described, checkpoints.load(str(folder)), FewShapes(num_train=1))
    if not classes:
        kinds = ("valid", "median_error", "shape_chi_square", "colour_chi_square")
        assert [*metrics] == [f"{kind}_{at}" for at in ("ddim50_eta1", "dpm++2m-sde50", "ddim50") for kind in kinds]
    else:
        kinds = ("valid", "median_error", "asked")
        assert metrics.keys() == {f"{kind}_scale{scale}" for kind in kinds for scale in (1, 2)}
    assert all(metric.value == 0 for name, metric in metrics.items() if name.startswith("valid")), "random weights"


def test_real_shapes_are_valid_and_evenly_spread(monkeypatch):
    """A model that draws the held-out pictures themselves passes by its own protocol."""
    data = SomeShapes(num_train=1)
    monkeypatch.setattr(commands.measures.shapes, "DRAWN", 300)
    monkeypatch.setattr(commands.measures.shapes, "draw_samples", lambda *_, **__: data.images("test"))
    model = ImageDiffusion((3, 32, 32), channels=4, patch_size=4)
    described = describe(checkpoints.shipped()["ddpm-shapes"])
    metrics = measure(monkeypatch, described, model, data)
    assert metrics["valid_ddim50"].value == 1
    assert metrics["median_error_ddim50"].value < 0.001
    assert metrics["shape_chi_square_ddim50"].value < 9.2
    assert metrics["colour_chi_square_ddim50"].value < 15.1


@pytest.mark.parametrize("latent", ["numbers", "codes"])
def test_shapes_metrics_of_models_with_latents(monkeypatch, latent):
    monkeypatch.setattr(commands.measures.shapes, "DRAWN", 40)
    if latent == "numbers":
        model = VAE((3, 32, 32), 256, latents=3, hidden=8, depth=1, head="logistic", components=1, downsamplings=3)
    else:
        model = VQVAE((3, 32, 32), 256, codes=4, channels=8, depth=1, head="logistic", components=1)
    described = describe(checkpoints.shipped()["ddpm-shapes"])
    metrics = measure(monkeypatch, described, model, FewShapes(num_train=1))
    kinds = ("valid", "median_error", "shape_chi_square", "colour_chi_square")
    expected = [*kinds, *(f"{kind}_means" for kind in kinds), "bits_per_dim"]
    gaps = [f"gap_{name}" for name in ("x", "y", "size", "colour", "shape")] if latent == "numbers" else []
    assert [*metrics] == expected + gaps


def test_a_model_of_shapes_without_samplers_has_a_picture(tmp_path, monkeypatch):
    model = VAE((3, 32, 32), 256, latents=3, hidden=8, depth=1, head="logistic", components=1, downsamplings=3)
    monkeypatch.setattr("checkpoints.store.load", lambda *_, **__: model)
    described = describe(checkpoints.shipped()["ddpm-shapes"])
    assert commands.card.illustrate(tmp_path, described) == {"picture": "samples.png"}


def test_active_units_are_the_latents_that_images_move():
    model, data = VAE((1, 8, 8), 17, latents=5, hidden=8, depth=1), Digits()
    last = model.encoder[-1]
    last.weight.data.zero_()
    last.weight.data[1] = last.weight.data[3] = torch.linspace(-9, 9, 8)
    assert commands.measures.likelihood._active_units(model, data).value == 2


def test_a_protocol_of_another_task_is_refused(small):
    with pytest.raises(UserError, match=r"'protocol' must be one of samples, .*got 'returns'"):
        protocol_of(describe(small)._replace(protocol="returns"))


def test_every_protocol_of_a_task_is_a_function():
    assert {name for task in TASKS.values() for name in task.protocols} == PROTOCOLS.keys()
    for name, task in TASKS.items():
        for protocol in task.protocols:
            described = describe(CLASSIFIER)._replace(task=name, protocol=protocol)
            assert callable(protocol_of(described))


def test_real_images_of_the_picture_come_by_class_in_turn():
    """MNIST-5k is sorted by class: its first hundred test images are all 0 and 1."""
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    rows = commands.card._in_turn(labels)
    assert labels[rows].tolist() == [0, 1, 2, 0, 1, 2, 0, 2, 2]
    assert rows.tolist() == [0, 3, 5, 1, 4, 6, 2, 7, 8]
    assert commands.card._in_turn(torch.zeros(4, 2)).tolist() == [0, 1, 2, 3]
