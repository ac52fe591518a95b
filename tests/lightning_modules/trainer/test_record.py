import json

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

import checkpoints
from commands.main import main
from datamodules import Points
from lightning_modules import RealNVP
from lightning_modules.callbacks import EMA
from lightning_modules.trainer.record import RunRecord, describe_data
from tests.runs import read


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """(the last checkpoint, the Trainer) of a run in ten lines of Python."""
    folder = tmp_path_factory.mktemp("plain")
    torch.manual_seed(0)
    points = torch.randn(40, 2) * 3 + 5
    module = RealNVP(num_features=2, couplings=2, hidden=4)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[EMA(), EarlyStopping("val/loss"), ModelCheckpoint(folder, filename="last")],
    )  # fmt: skip
    loaders = [DataLoader(TensorDataset(points), batch_size=10) for _ in range(2)]
    trainer.fit(module, *loaders)
    return folder / "last.ckpt", trainer


def test_a_checkpoint_of_a_plain_trainer_is_exported(plain, tmp_path):
    path, trainer = plain
    content = read(path)
    assert (content["model"], content["algorithm"], content["data"]) == ("realnvp", "RealNVP", {})
    assert content["origin"]["steps"] == 8
    assert main(["export", str(path), str(tmp_path / "model")]) == 0
    model = checkpoints.load(str(tmp_path / "model"))
    x = torch.randn(5, 2)
    assert torch.equal(model.log_prob(x), trainer.lightning_module.model.eval().log_prob(x))
    described = json.loads((tmp_path / "model" / "config.json").read_text())
    assert described["algorithm"] == "RealNVP"


def test_the_record_stands_behind_other_callbacks_and_before_checkpoints(plain):
    kinds = [type(callback) for callback in plain[1].callbacks]
    assert kinds.count(RunRecord) == 1
    assert kinds.index(EMA) < kinds.index(RunRecord) < kinds.index(ModelCheckpoint) == len(kinds) - 1


def test_the_names_of_columns_are_recorded(tmp_path):
    rows = "\n".join(f"{i},{i * i % 7 + i / 9}" for i in range(30))
    (tmp_path / "a.csv").write_text(f"time,height\n{rows}\n")
    described = describe_data(Points(str(tmp_path / "a.csv")))
    assert described["class"] == "Points"
    assert described["columns"] == ["time", "height"]
    assert described["arguments"]["path"] == str(tmp_path / "a.csv")
    json.dumps(described)
