"""Every module of images with Lightning's own Trainer and PyTorch's own DataLoader, as Lightning's users write it."""

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import checkpoints
from commands.main import main
from lightning_modules import DDPM, Classifier, ClassifierFree, ClassifierGuidance, ScoreMatching

SMALL = {"image_shape": (1, 8, 8), "channels": 8}
MODULES = {
    "ddpm": lambda: DDPM(**SMALL, num_timesteps=20, levels=17),
    "classifier-free": lambda: ClassifierFree(**SMALL, num_classes=10, num_timesteps=20, levels=17),
    "score": lambda: ScoreMatching(**SMALL, num_timesteps=20, levels=17, likelihood_steps=2),
    "noisy classifier": lambda: ClassifierGuidance(**SMALL, num_classes=10, num_timesteps=20),
    "classifier": lambda: Classifier(**SMALL, num_classes=10),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_trains_validates_tests_and_exports(name, tmp_path):
    module = MODULES[name]()
    images, labels = torch.randint(0, 17, (12, 1, 8, 8)) / 8 - 1, (torch.arange(12) % 10).to(torch.uint8)
    loader = DataLoader(TensorDataset(images, labels), batch_size=6)
    trainer = L.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, loader, loader)
    assert trainer.test(module, loader, verbose=False)
    trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=False)
    assert main(["export", str(tmp_path / "last.ckpt"), str(tmp_path / "model")]) == 0
    model = checkpoints.load(str(tmp_path / "model"))
    assert torch.equal(next(model.parameters()), next(module.model.parameters()).detach())


@pytest.mark.parametrize("kind", [DDPM, ScoreMatching])
def test_images_need_no_labels_and_no_levels(kind, tmp_path):
    """A loader of plain tensors, of continuous images."""
    loader = DataLoader(torch.rand(12, 1, 8, 8) * 2 - 1, batch_size=6)
    trainer = L.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    options = {"likelihood_steps": 2} if kind is ScoreMatching else {}
    module = kind(**SMALL, num_timesteps=20, **options)
    trainer.fit(module, loader, loader)
    assert module.model.sample(3, steps=4).isfinite().all()
    if kind is ScoreMatching:
        assert "test/nll_nats" in trainer.test(module, loader, verbose=False)[0]
    else:
        with pytest.raises(ValueError, match="must be at least 2 for a bound in bits, got 0"):
            trainer.test(module, loader, verbose=False)
