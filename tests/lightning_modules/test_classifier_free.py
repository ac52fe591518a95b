import socket
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import checkpoints
from lightning_modules import ClassifierFree
from tests.runs import assert_same_run, fit, read, run_in_ranks
from zoo.diffusion.model import ImageDiffusion
from zoo.errors import UserError

SHAPE, T = (3, 8, 4), 20
MODEL = ("--model", "ClassifierFree", "--model.channels", 8, "--model.num_timesteps", T, "--model.warmup_steps", 3)


def free(**changes):
    """A module whose trainer is a stub, with random weights in the layers that start at zero."""
    torch.manual_seed(0)
    options = {"image_shape": SHAPE, "num_classes": (3, 2), "channels": 4, "num_timesteps": T} | changes
    module = ClassifierFree(**options)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    module.trainer = SimpleNamespace(
        global_step=1, log_every_n_steps=50, datamodule=SimpleNamespace(levels=17), world_size=1
    )
    module.logged = {}
    module.log = lambda name, value, **_: module.logged.update({name: value})
    return module


def batch(size=6, seed=1):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 17, (size, *SHAPE), generator=generator) / 8 - 1
    columns = [torch.randint(0, count, (size,), generator=generator) for count in (3, 2)]
    return images, torch.stack(columns, dim=1)


@pytest.fixture
def told(monkeypatch):
    """The labels that the model's loss is given, call by call."""
    calls, original = [], ImageDiffusion.loss

    def loss(self, x0, t, noise, labels=None):
        calls.append(labels)
        return original(self, x0, t, noise, labels)

    monkeypatch.setattr(ImageDiffusion, "loss", loss)
    return calls


def test_a_share_of_the_labels_is_dropped_in_training_only(told):
    module, (images, labels) = free(label_dropout=0.3), batch(400)
    given = labels.clone()
    module.training_step((images, labels), 0)
    assert torch.equal(labels, given), "the batch itself is left alone"
    lost = told[0] == torch.tensor([3, 2])
    assert torch.equal(told[0][~lost], labels[~lost])
    # a row with probability 0.3, then each entry with 0.3: an entry 0.51, within four standard deviations of 0.025
    assert all(abs(share - 0.51) < 0.1 for share in lost.float().mean(0).tolist())
    module.eval()
    for step in (module.validation_step, module.test_step):
        told.clear()
        step((images[:5], labels[:5]), 0)
        assert all(torch.equal(asked, labels[:5]) for asked in told)


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
    assert model.num_classes == (10,)
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
    with socket.socket() as free_port:
        free_port.bind(("127.0.0.1", 0))
        port = free_port.getsockname()[1]
    options = ("--trainer.devices", 2, "--trainer.strategy", "ddp", "--trainer.max_epochs", 1)
    command = ["fit", tmp_path / "run", *MODEL, "--model.label_dropout", 0.5, *options]
    first, second = run_in_ranks(tmp_path, [command], port)
    assert all(torch.equal(weight, second["weights"][name]) for name, weight in first["weights"].items())
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
