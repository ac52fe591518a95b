import math

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from datamodules.loader import InMemoryLoader
from lightning_modules.trainer.optimizers import adamw, check_options
from lightning_modules.trainer.record import RunRecord
from zoo.errors import UserError

OPTIONS = {"learning_rate": 0.25, "weight_decay": 0.125, "warmup_steps": 4}


class Line(L.LightningModule):
    """A line; notes the learning rate of each step."""

    def __init__(self, **options):
        super().__init__()
        self.save_hyperparameters()
        self.model, self.rates = nn.Linear(3, 1), []

    def training_step(self, batch, batch_idx):
        (group,) = self.optimizers().param_groups
        assert group["weight_decay"] == 0.125
        self.rates.append(group["lr"])
        return (self.model(batch[0])[:, 0] - batch[1]).square().mean()

    def configure_optimizers(self):
        return adamw(self)


def train(max_epochs=3, **options):
    """Four steps an epoch; the learning rates."""
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=max_epochs, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False,
    )  # fmt: skip
    module = Line(**{**OPTIONS, **options})
    trainer.fit(module, InMemoryLoader(torch.randn(20, 3), torch.randn(20), 5, shuffle=True))
    return module.rates


@pytest.mark.parametrize("warmup", [0, 1, 4, 30])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "inverse_sqrt"])
def test_the_learning_rate_follows_its_formula(warmup, schedule):
    rates = train(warmup_steps=warmup, learning_rate_schedule=schedule)
    expected = []
    for i in range(1, 13):
        decay = (1 + math.cos(math.pi * (i - 1) / 12)) / 2 if schedule == "cosine" else 1
        if schedule == "inverse_sqrt" and i > max(1, warmup):
            decay = math.sqrt(max(1, warmup) / i)
        expected.append(0.25 * (min(1, i / warmup) if warmup else 1) * decay)
    assert rates == pytest.approx(expected, rel=1e-12)


def test_a_cosine_needs_an_end():
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=-1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False,
    )  # fmt: skip
    module = Line(**OPTIONS, learning_rate_schedule="cosine")
    with pytest.raises(UserError, match="needs an end"):
        trainer.fit(module, InMemoryLoader(torch.randn(20, 3), torch.randn(20), 5, shuffle=True))


def trained(folder, epochs, ckpt_path=None, **options):
    """The module after a run that goes on from a checkpoint, and the run's last checkpoint."""
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[RunRecord()],
    )  # fmt: skip
    module = Line(**{**OPTIONS, **options})
    module.model_name, module.arguments = "line", {}
    torch.manual_seed(1)
    loader = InMemoryLoader(torch.randn(20, 3), torch.randn(20), 5, shuffle=True)
    trainer.fit(module, loader, ckpt_path=ckpt_path, weights_only=True)
    path = folder / f"{epochs}.ckpt"
    trainer.save_checkpoint(path)
    return module, path


@pytest.mark.parametrize("changed", [{}, {"learning_rate": 0.0625}, {"warmup_steps": 16}])
def test_a_resumed_run_has_the_learning_rates_of_its_config(changed, tmp_path):
    """Those of a run that had it from the beginning, to the bit; a new length of run counts too."""
    cosine = {"learning_rate_schedule": "cosine"}
    whole, _ = trained(tmp_path, 3, **cosine, **changed)
    _, half = trained(tmp_path, 1, **cosine)
    resumed, _ = trained(tmp_path, 3, str(half), **cosine, **changed)
    assert resumed.rates == whole.rates[4:]
    if not changed:
        other = trained(tmp_path, 2, str(half), **cosine)[0].rates
        assert other == train(max_epochs=2, **cosine)[4:] != resumed.rates[:4]


def test_a_rate_that_a_tuner_finds_is_that_of_the_run(tmp_path):
    class Finder(Callback):
        """What a `LearningRateFinder` does: it trains, restores what was before, and sets another rate."""

        def on_fit_start(self, trainer, module):
            trainer.save_checkpoint(tmp_path / "before.ckpt")
            trainer._checkpoint_connector.restore(tmp_path / "before.ckpt", weights_only=True)
            module.hparams.learning_rate = 0.0625

    trainer = L.Trainer(
        accelerator="cpu", max_epochs=3, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[Finder(), RunRecord()],
    )  # fmt: skip
    module = Line(**OPTIONS, learning_rate_schedule="cosine")
    module.model_name, module.arguments = "line", {}
    trainer.fit(module, InMemoryLoader(torch.randn(20, 3), torch.randn(20), 5, shuffle=True))
    assert module.rates == train(learning_rate=0.0625, learning_rate_schedule="cosine")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"learning_rate": 0.0}, "model.learning_rate must be positive, got 0.0"),
        ({"learning_rate": float("nan")}, "model.learning_rate must be positive, got nan"),
        ({"weight_decay": -0.5}, "model.weight_decay must be at least 0, got -0.5"),
        ({"warmup_steps": -1}, "model.warmup_steps must be at least 0, got -1"),
        (
            {"learning_rate_schedule": ""},
            "model.learning_rate_schedule must be one of constant, cosine, inverse_sqrt, got ''",
        ),
    ],
)  # fmt: skip
def test_options_that_cannot_be_meant_are_named(options, said):
    check_options(OPTIONS)
    with pytest.raises(UserError) as caught:
        check_options({**OPTIONS, **options})
    assert str(caught.value) == said
