import pytest
import torch

import checkpoints
from lightning_modules import ClassifierFree
from tests.modules import SHAPE, alone, batch, note_calls
from tests.runs import DDP, assert_same_run, differences, fit, read, run_in_ranks
from zoo.diffusion.model import ImageDiffusion
from zoo.errors import UserError

CLASSES, T = (3, 2), 20
MODEL = ("--model", "ClassifierFree", "--model.channels", 8, "--model.num_timesteps", T, "--model.warmup_steps", 3)


def free(**changes):
    return alone(ClassifierFree, **{"num_classes": CLASSES} | changes)


def test_a_share_of_the_labels_is_dropped_in_training_only(monkeypatch):
    calls = note_calls(monkeypatch, ImageDiffusion, "loss")
    module, (images, labels) = free(label_dropout=0.3), batch(*CLASSES, size=400)
    given = labels.clone()
    module.training_step((images, labels), 0)
    assert torch.equal(labels, given), "the batch itself is left alone"
    told = calls[0].labels
    lost = told == torch.tensor(CLASSES)
    assert torch.equal(told[~lost], labels[~lost])
    # a row with probability 0.3, then each entry with 0.3: an entry 0.51, within four standard deviations of 0.025
    assert all(abs(share - 0.51) < 0.1 for share in lost.float().mean(0).tolist())
    module.eval()
    for step in (module.validation_step, module.test_step):
        calls.clear()
        step((images[:5], labels[:5]), 0)
        assert all(torch.equal(call.labels, labels[:5]) for call in calls)


def test_prediction_is_guided_through_all_classes():
    module = free(guidance_scale=3.0).eval()
    latents, index = torch.randn(7, *SHAPE), torch.arange(2, 9)
    options = {"sampler": "ddpm", "steps": T, "noise": latents}
    labels = torch.stack([index % 3, index // 3 % 2], dim=1)
    found = module.predict_step((latents, index), 0)
    expected = module.model.sample(
        7, labels=labels, guidance_scale=3.0, generator=torch.Generator().manual_seed(2), **options
    )
    assert torch.equal(found, expected)


def test_a_run_is_exported_loaded_and_sampled(tmp_path, command):
    folder = fit(tmp_path / "run", *MODEL, "--trainer.max_epochs", 1)
    assert command("export", folder / "last.ckpt", tmp_path / "model").status == 0
    model = checkpoints.load(str(tmp_path / "model"))
    assert model.labels == (10,)
    assert model.null_labels.tolist() == [[10]]
    assert checkpoints.verify(str(tmp_path / "model")) == 0
    answer = command("sample", tmp_path / "model", "--labels", 7, "any", "--guidance-scale", 2, "--steps", 3,
                     "--num-samples", 4, "--output", tmp_path / "a.png")  # fmt: skip
    assert answer.status == 0, answer.err


def test_a_resumed_run_is_bit_equal(tmp_path):
    straight = fit(tmp_path / "straight", *MODEL)
    half = fit(tmp_path / "half", *MODEL, "--trainer.max_epochs", 1)
    fit(half, *MODEL, "--ckpt_path", half / "last.ckpt")
    assert_same_run(straight / "last.ckpt", half / "last.ckpt")


def test_bfloat16_learns_in_float32(tmp_path):
    folder = fit(tmp_path / "run", *MODEL, "--trainer.precision", "bf16-mixed", "--trainer.max_epochs", 1)
    weights = read(folder / "last.ckpt")["state_dict"].values()
    assert {weight.dtype for weight in weights} == {torch.float32}
    assert all(weight.isfinite().all() for weight in weights)


def test_two_processes_drop_their_own_labels_and_end_with_equal_weights(tmp_path):
    command = ["fit", tmp_path / "run", *MODEL, "--model.label_dropout", 0.5, *DDP, "--trainer.max_epochs", 1]
    first, second = run_in_ranks(tmp_path, command)
    assert differences(first["weights"], second["weights"]) == []
    lost = [torch.cat(rank["labels"]) == 10 for rank in (first, second)]
    assert all(0 < share.float().mean() < 1 for share in lost)
    assert not torch.equal(*lost)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_classes": 0}, "ClassifierFree needs labels, but the data has no classes"),
        ({"label_dropout": 0.0}, "model.label_dropout must be above 0 and below 1, got 0.0"),
        ({"label_dropout": 1.0}, "model.label_dropout must be above 0 and below 1, got 1.0"),
        ({"min_snr_gamma": -1.0}, "model.min_snr_gamma must be positive"),
    ],
)
def test_mistakes_are_told_when_it_is_built(options, said):
    with pytest.raises(UserError, match=said):
        free(**options)
