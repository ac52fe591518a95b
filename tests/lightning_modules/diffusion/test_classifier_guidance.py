import lightning as L
import pytest
import torch
from torch.nn import functional as F

import checkpoints
from datamodules import Latents
from lightning_modules import ClassifierGuidance
from tests.modules import SHAPE, alone, batch, note_calls
from tests.runs import DDP, assert_same_run, differences, fit, read, run_in_ranks
from zoo.diffusion.noisy_classifier import NoisyClassifier
from zoo.errors import UserError

CLASSES, T = 5, 20
MODEL = (
    "--model", "ClassifierGuidance", "--model.channels", 8, "--model.num_timesteps", 20, "--model.warmup_steps", 3,
)  # fmt: skip
ALONE = ("--trainer.callbacks", '[{"class_path": "lightning_modules.callbacks.EMA"}]')  # it draws no pictures


def guidance(**changes):
    return alone(ClassifierGuidance, **{"num_classes": CLASSES} | changes)


@pytest.fixture
def seen(monkeypatch):
    return note_calls(monkeypatch, NoisyClassifier, "forward")


def test_training_reads_images_noised_to_uniform_times(seen, monkeypatch):
    module, (images, labels) = guidance(num_timesteps=4, augmentation=0.0), batch(CLASSES, size=400)
    drawn, original = [], torch.randn_like
    monkeypatch.setattr(torch, "randn_like", lambda like: drawn.append(original(like)) or drawn[-1])
    loss = module.training_step((images, labels), 0)
    (call,) = seen
    assert torch.equal(loss, F.cross_entropy(call.answer, labels))
    counts = torch.bincount(call.t, minlength=5)  # binomial(400, 1/4): within four standard deviations of 8.7
    assert counts[0] == 0
    assert all(65 < count < 135 for count in counts[1:])
    assert torch.equal(call.x, module.model.process.add_noise(images, drawn[0], call.t))


def test_augmentation_moves_training_images_only(seen):
    moving = guidance(augmentation=1.0, num_timesteps=1000, schedule="linear")
    moving.model.process.add_noise = lambda images, noise, t: images
    images, labels = batch(CLASSES)
    moving.training_step((images, labels), 0)
    assert (seen[0].x != images).flatten(1).any(1).all()
    moving.validation_step((images, labels), 0)
    assert all(torch.equal(call.x, images) for call in seen[1:])


def test_validation_is_the_same_every_time_in_four_bands(seen):
    module = guidance().eval()
    images, labels = batch(CLASSES, size=10)
    logged = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        module.validation_step((images, labels), 3)
        logged.append(dict(module.logged))
    assert logged[0] == logged[1]
    bands = [sorted(set(call.t.tolist())) for call in seen[:4]]
    assert bands == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12, 13, 14, 15], [16, 17, 18, 19, 20]]
    rights = [(call.answer.argmax(1) == labels).float().mean() for call in seen[:4]]
    for i, right in enumerate(rights):
        assert logged[0][f"val/accuracy_quarter_{i + 1}"] == right
    assert torch.isclose(logged[0]["val/accuracy"], torch.stack(rights).mean())
    losses = torch.stack([F.cross_entropy(call.answer, labels) for call in seen[:4]])
    assert torch.isclose(logged[0]["val/loss"], losses.mean())
    module.test_step((images, labels), 3)
    assert module.logged["test/loss"] == logged[0]["val/loss"]


def test_a_process_of_few_steps_is_validated_within_them(seen):
    module = guidance(num_timesteps=2).eval()
    module.validation_step(batch(CLASSES), 0)
    assert all(1 <= t <= 2 for call in seen for t in call.t.tolist())


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_prediction_guides_under_lightnings_inference_mode(sampler, tiny):
    module = guidance(denoiser=str(tiny), guidance_scale=6.0, sampler=sampler, steps=4).eval()
    weights = {name for name, _ in module.named_parameters()}
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, inference_mode=True,
    )  # fmt: skip
    data = Latents(SHAPE, num_samples=9, batch_size=9, num_classes=CLASSES)
    (images,) = trainer.predict(module, datamodule=data)
    (latents, index), *_ = data.predict_dataloader()
    options = {"sampler": sampler, "steps": 4, "noise": latents}
    denoiser, generator = checkpoints.load(str(tiny)), torch.Generator().manual_seed(0)
    expected = denoiser.sample(
        9, labels=index % CLASSES, classifier=module.model, guidance_scale=6.0, generator=generator, **options
    )
    assert torch.equal(images, expected)
    plain = denoiser.sample(9, generator=torch.Generator().manual_seed(0), **options)
    assert not torch.allclose(images, plain)
    assert {name for name, _ in module.named_parameters()} == weights, "the denoiser is no part of the module"


def test_a_run_is_exported_loaded_and_guides(tmp_path, command):
    folder = fit(tmp_path / "run", *MODEL, *ALONE, "--trainer.max_epochs", 1)
    assert command("export", folder / "last.ckpt", tmp_path / "noisy").status == 0
    assert checkpoints.verify(str(tmp_path / "noisy")) == 0
    denoiser = fit(tmp_path / "ddpm", "--trainer.max_epochs", 1)
    assert command("export", denoiser / "last.ckpt", tmp_path / "model").status == 0
    answer = command(
        "sample", tmp_path / "model", "--classifier", tmp_path / "noisy", "--labels", 7, "--guidance-scale", 3,
        "--num-samples", 3, "--steps", 4, "--output", tmp_path / "a.png",
    )  # fmt: skip
    assert answer.status == 0, answer.err
    options = (*MODEL, "--model.denoiser", tmp_path / "model", "--model.steps", 4, *ALONE)
    answer = command(
        "predict", *options, "--data", "Latents", "--data.num_classes", 10, "--data.num_samples", 12,
        "--ckpt_path", folder / "last.ckpt", "--trainer.default_root_dir", tmp_path / "drawn",
        "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
    )  # fmt: skip
    assert answer.status == 0, answer.err
    assert (tmp_path / "drawn" / "predictions.png").is_file()


def test_a_resumed_run_is_bit_equal(tmp_path):
    straight = fit(tmp_path / "straight", *MODEL, *ALONE)
    half = fit(tmp_path / "half", *MODEL, *ALONE, "--trainer.max_epochs", 1)
    fit(half, *MODEL, *ALONE, "--ckpt_path", half / "last.ckpt")
    assert_same_run(straight / "last.ckpt", half / "last.ckpt")


def test_two_processes_noise_their_own_rows_and_end_with_equal_weights(tmp_path):
    first, second = run_in_ranks(tmp_path, ["fit", tmp_path / "run", *MODEL, *ALONE, *DDP, "--trainer.max_epochs", 1])
    assert differences(first["weights"], second["weights"]) == []
    assert len(first["images"]) == len(second["images"]) == 7
    for name in ("times", "images"):
        for one, two in zip(first[name], second[name], strict=True):
            assert (one != two).any()


def test_bfloat16_learns_in_float32(tmp_path):
    folder = fit(tmp_path / "run", *MODEL, *ALONE, "--trainer.precision", "bf16-mixed", "--trainer.max_epochs", 1)
    weights = read(folder / "last.ckpt")["state_dict"]
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert all(weight.isfinite().all() for weight in weights.values())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_classes": 0}, "ClassifierGuidance needs data with one column of labels, got num_classes 0"),
        ({"num_classes": (3, 6)}, r"one column of labels, got num_classes \(3, 6\)"),
        ({"sampler": "euler"}, "model.sampler must be one of ddim, ddpm"),
        ({"learning_rate": 0.0}, "model.learning_rate must be positive"),
    ],
)
def test_mistakes_are_told_when_it_is_built(options, said):
    with pytest.raises(UserError, match=said):
        guidance(**options)


@pytest.mark.parametrize(
    ("denoiser", "said"),
    [("classifier-digits", "model.denoiser must be a diffusion model"), ("ddpm-digit", "unknown model 'ddpm-digit'")],
)
def test_a_denoiser_that_is_none_is_told(denoiser, said):
    with pytest.raises(UserError, match=said):
        guidance(denoiser=denoiser).setup("predict")
