import math
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import nn

from datamodules.loader import InMemoryLoader
from lightning_modules.trainer.finite import StopUnlessFinite
from zoo.errors import UserError


class Line(L.LightningModule):
    """A line whose loss is multiplied by a factor of the step."""

    def __init__(self, factors):
        super().__init__()
        self.model, self.factors = nn.Linear(1, 1), factors

    def training_step(self, batch, batch_idx):
        loss = self.model(batch[0]).square().mean() * self.factors[self.trainer.global_step]
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.model(batch[0]).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.125)


def fit(folder, factors, **options):
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=3, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        callbacks=[StopUnlessFinite()], default_root_dir=folder, **options,
    )  # fmt: skip
    inputs = torch.ones(8, 1)
    batches = InMemoryLoader(inputs, torch.zeros(8), 2, shuffle=True)
    trainer.fit(Line(factors), batches, InMemoryLoader(inputs, torch.zeros(8), 8, shuffle=False))
    return trainer


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_logged_loss_stops_the_run(value, tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path, name="", version="")
    with pytest.raises(UserError, match=r"^the run diverged: train/loss is \w+ at step [678] with learning rate 0.125"):
        fit(tmp_path, [1.0] * 5 + [value] * 7, logger=logger, log_every_n_steps=1)


def test_without_a_log_the_validation_stops_it(tmp_path):
    with pytest.raises(UserError, match="the run diverged: val/loss is nan at step 8"):
        fit(tmp_path, [1.0] * 5 + [math.nan] * 7, logger=False)


def test_a_checkpoint_of_nan_never_replaces_a_good_one(tmp_path):
    with pytest.raises(UserError, match=r"the run diverged: weight model.weight is not finite at step 8"):
        fit(tmp_path, [1.0] * 5 + [math.nan] * 7, logger=False, limit_val_batches=0)
    (saved,) = (tmp_path / "checkpoints").glob("*.ckpt")
    content = torch.load(saved, weights_only=True)
    assert content["global_step"] == 4
    assert content["state_dict"]["model.weight"].isfinite().all()


def look(metrics, weight=1.0, precision="32-true"):
    """What a validation with these metrics leads to."""
    module = Line([])
    nn.init.constant_(module.model.weight, weight)
    trainer = SimpleNamespace(
        state=SimpleNamespace(fn="fit"), sanity_checking=False, callback_metrics=metrics, precision=precision,
        optimizers=[], global_step=3, logged_metrics=metrics, log_every_n_steps=1,
    )  # fmt: skip
    StopUnlessFinite().on_validation_end(trainer, module)
    StopUnlessFinite().on_train_batch_end(trainer, module)


def test_what_is_no_fault():
    look({"val/loss": torch.tensor(1.0)})
    look({"val/nll_nats": torch.tensor(math.inf)})  # of one impossible row
    look({"train/loss": torch.tensor(math.inf)}, precision="16-mixed")  # of a step that the loss scaler skips
    look({"train/explained_variance": torch.tensor(math.nan)})  # of constant returns


@pytest.mark.parametrize(
    ("metrics", "options"),
    [
        ({"val/loss": math.nan}, {}),
        ({"train/loss": math.inf}, {}),
        ({"val/loss": math.inf}, {"weight": math.nan}),
        ({"train/loss": math.nan}, {"weight": math.inf, "precision": "16-mixed"}),
    ],
)
def test_what_is(metrics, options):
    with pytest.raises(UserError, match=r"the run diverged: .* is (nan|inf) at step 3; try a smaller learning rate"):
        look({name: torch.tensor(value) for name, value in metrics.items()}, **options)
