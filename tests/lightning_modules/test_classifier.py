from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch.nn import functional as F

import checkpoints
from commands.main import main
from datamodules import Digits
from lightning_modules import Classifier
from tests.runs import read
from zoo.errors import UserError

SHAPE, CLASSES = (3, 8, 4), 5


def classifier(**changes):
    torch.manual_seed(0)
    module = Classifier(**{"image_shape": SHAPE, "num_classes": CLASSES, "channels": 8, "num_features": 6, **changes})
    module.trainer = SimpleNamespace(global_step=1, log_every_n_steps=50, world_size=1)
    module.logged = {}
    module.log = lambda name, value, **_: module.logged.update({name: value})
    return module


def batch(size=7):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 17, (size, *SHAPE), generator=generator) / 8 - 1
    return images, torch.randint(0, CLASSES, (size,), generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_smoothed_cross_entropy(smoothing):
    module = classifier(augmentation=0.0, dropout=0.0, label_smoothing=smoothing)
    images, labels = batch()
    target = F.one_hot(labels, CLASSES) * (1 - smoothing) + smoothing / CLASSES
    expected = -(target * module.model(images).log_softmax(1)).sum(1).mean()
    assert torch.isclose(module.training_step((images, labels), 0), expected, rtol=1e-6)


def test_training_moves_images_and_evaluation_does_not(monkeypatch):
    module, (images, labels), seen = classifier(), batch(), []
    original = module.model.forward
    monkeypatch.setattr(module.model, "forward", lambda x: seen.append(x) or original(x))
    module.training_step((images, labels), 0)
    module.validation_step((images, labels), 0)
    assert (seen[0] != images).flatten(1).any(1).all()
    assert torch.equal(seen[1], images)


@pytest.mark.parametrize(("step", "split"), [("validation_step", "val"), ("test_step", "test")])
def test_loss_and_accuracy_are_logged(step, split):
    module, (images, labels) = classifier().eval(), batch()
    getattr(module, step)((images, labels), 0)
    logits = module.model(images)
    right = sum(int(row.argmax()) == int(label) for row, label in zip(logits, labels, strict=True))
    assert module.logged[f"{split}/accuracy"] == pytest.approx(right / 7)
    assert module.logged[f"{split}/loss"] == F.cross_entropy(logits, labels)
    assert len(module.logged) == 2


def test_predictions_are_probabilities():
    module, (images, labels) = classifier().eval(), batch()
    probabilities = module.predict_step((images, labels), 0)
    assert probabilities.shape == (7, CLASSES)
    assert torch.allclose(probabilities.sum(1), torch.ones(7))
    assert torch.equal(probabilities.argmax(1), module.model(images).argmax(1))


def test_it_learns_to_read_digits():
    torch.manual_seed(0)
    module = Classifier((1, 8, 8), 10, channels=8, warmup_steps=5, learning_rate=5e-3)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False,
    )  # fmt: skip
    data = Digits(batches_per_epoch=40)
    (before,) = trainer.validate(module, data, verbose=False)
    trainer.fit(module, data)
    (after,) = trainer.validate(module, data, verbose=False)
    assert before["val/accuracy"] < 0.3
    assert after["val/accuracy"] > 0.75
    assert after["val/loss"] < before["val/loss"]


def test_a_run_becomes_a_model_folder(tmp_path, command):
    folder = tmp_path / "run"
    words = ("--model", "Classifier", "--model.channels", 8, "--data", "Digits", "--data.batches_per_epoch", 3)
    trainer = ("--trainer.accelerator", "cpu", "--trainer.max_epochs", 1, "--trainer.log_every_n_steps", 1)
    answer = command("fit", *words, *trainer, "--trainer.default_root_dir", folder)
    assert answer.status == 0, answer
    content = read(folder / "last.ckpt")
    assert content["model"] == "image-classifier"
    assert main(["export", str(folder / "last.ckpt"), str(tmp_path / "model")]) == 0
    loaded = checkpoints.load(str(tmp_path / "model"))
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, content["state_dict"][f"model.{name}"])


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "warmup_steps"])
def test_negative_options_are_refused(name):
    with pytest.raises(UserError, match=f"model.{name} must be"):
        classifier(**{name: -1})
