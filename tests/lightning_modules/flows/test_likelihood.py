import csv
import math
from functools import partial
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import checkpoints
from datamodules import Densities, Digits
from lightning_modules import CNF, NICE, Glow, RealNVP
from tests.runs import TINY_FLOW, assert_same_run, fit, read, run, run_in_ranks
from zoo.errors import UserError
from zoo.flows.marginals import Marginals
from zoo.flows.model import Flow

IMAGES = {"image_shape": (1, 8, 4), "levels": 17}
MODULES = {  # name in the table of models -> a small module
    "nice": lambda **o: NICE(**{**IMAGES, "hidden": 6, **o}),
    "realnvp": lambda **o: RealNVP(**{**IMAGES, "hidden": 6, "couplings": 2, **o}),
    "glow": lambda **o: Glow(**{**IMAGES, "channels": 6, "steps": 1, **o}),
}
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
every = pytest.mark.parametrize("name", MODULES)


def stubbed(module):
    """Its trainer is a stub; what it logs is in `logged`. Random weights in the layers that start at zero."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    module.trainer = SimpleNamespace(global_step=1, log_every_n_steps=1, world_size=1)
    module.logged = {}
    module.log = lambda name, value, **_: module.logged.update({name: value})
    module.log_dict = lambda values, **_: module.logged.update(values)
    return module.eval()


def images(count=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(0, 17, (count, *IMAGES["image_shape"]), generator=generator)
    return levels / 8 - 1, torch.randint(0, 4, (count,), generator=generator)


@pytest.fixture
def asked(monkeypatch):
    """What log_prob is asked for: (x, labels), call by call."""
    calls, original = [], Flow.log_prob

    def log_prob(self, x, labels=None, **options):
        calls.append((x, labels))
        return original(self, x, labels, **options)

    monkeypatch.setattr(Flow, "log_prob", log_prob)
    return calls


# construction -------------------------------------------------------------------------------------------------------


@every
def test_its_arguments_build_the_same_model(name):
    module = stubbed(MODULES[name](num_classes=4, class_conditional=True, alpha=0.1))
    assert module.model_name == name
    built = checkpoints.build(name, module.arguments)
    built.load_state_dict(module.model.state_dict())
    y, labels = torch.rand(5, 1, 8, 4), torch.arange(5) % 4
    assert torch.equal(built(y, labels), module.model(y, labels))


@every
def test_an_unconditional_model_is_told_no_label(name, asked):
    x, labels = images()
    stubbed(MODULES[name](num_classes=4)).training_step((x, labels), 0)
    stubbed(MODULES[name](num_classes=4, class_conditional=True)).training_step((x, labels), 0)
    assert asked[0][1] is None
    assert torch.equal(asked[1][1], labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give a density either model.image_shape or model.num_features"),
        ({"num_features": 2, "image_shape": (1, 8, 4)}, "give a density either"),
        ({"image_shape": (1, 8, 4)}, "model.levels must be at least 2 for images, got 0"),
        ({"num_features": 2, "class_conditional": True}, "model.class_conditional is true, but the data has no"),
        ({"num_features": 2, "class_conditional": True, "num_classes": (3, 6)}, "no single column of classes"),
        ({"num_features": 2, "learning_rate": 0.0}, "model.learning_rate must be positive, got 0"),
        ({"num_features": 2, "pretrained": "nothing"}, "unknown model 'nothing'"),
    ],
)
@pytest.mark.parametrize("module", [NICE, RealNVP])
def test_options_that_cannot_be_meant(module, options, message):
    with pytest.raises(UserError, match=message):
        module(**options)


# losses -------------------------------------------------------------------------------------------------------------


@every
def test_images_are_dequantised_by_new_noise_over_the_whole_bin(name, asked):
    module, (x, labels) = stubbed(MODULES[name]()), images(400)
    loss = module.training_step((x, labels), 0)
    (y, _), (again, _) = asked[0], (module.training_step((x, labels), 1), asked[1])[1]
    assert torch.equal((y * 17).floor(), (x + 1) * 8), "in the bin of its grey level"
    noise = y * 17 - (x + 1) * 8
    # uniform in [0, 1): mean 1/2, variance 1/12, four standard errors of 12,800 draws
    assert abs(noise.mean() - 0.5) < 4 / math.sqrt(12 * noise.numel())
    assert noise.min() < 0.01
    assert noise.max() > 0.99
    assert (y != again).float().mean() > 0.99
    assert loss == module.model.log_prob(y).mean() / -32
    assert module.logged["train/loss"].isfinite()


def test_points_are_scored_as_they_are(asked):
    module, points = stubbed(RealNVP(num_features=3)), torch.randn(5, 3)
    loss = module.training_step((points, torch.zeros(5)), 0)
    assert torch.equal(asked[0][0], points)
    assert loss == -module.model.log_prob(points).mean() / 3
    module.validation_step((points, torch.zeros(5)), 0)
    assert module.logged["val/nll_nats"] == -module.model.log_prob(points).mean()
    assert torch.allclose(module.logged["val/loss"], loss)
    module.test_step((points, torch.zeros(5)), 0)
    assert module.logged["test/nll_nats"] == module.logged["val/nll_nats"]
    assert not any("bits" in name for name in module.logged), "bits per dimension belong to grey levels"


def test_a_uniform_density_scores_log2_of_the_levels():
    # the logit without a margin makes uniform numbers logistic, and an untrained NICE is the identity
    module = NICE(**IMAGES, alpha=0.0).eval()
    module.logged = {}
    module.log = lambda name, value, **_: module.logged.update({name: value})
    module.log_dict = lambda values, **_: module.logged.update(values)
    batch = images(40)
    module.validation_step(batch, 0)
    module.test_step(batch, 0)
    names = ("val/bits_per_dim", "test/bits_per_dim", "test/bits_per_dim_32_draws")
    for name in names:
        assert module.logged[name].item() == pytest.approx(math.log2(17), abs=1e-5)  # float32
    assert module.logged["val/nll_nats"].item() == pytest.approx(32 * math.log(17), abs=1e-4)
    assert module.logged["val/loss"].item() == pytest.approx(0, abs=1e-5)


@every
def test_scores_repeat_and_more_draws_are_no_worse(name):
    module, batch = stubbed(MODULES[name]()), images(40)
    module.test_step(batch, 3)
    first = dict(module.logged)
    module.test_step(batch, 3)
    assert module.logged == first, "the noise follows the batch's number"
    module.test_step(batch, 4)
    assert module.logged["test/bits_per_dim"] != first["test/bits_per_dim"]
    # Jensen's inequality holds in the mean; over 40 images of 32 pixels the gap is far above its noise
    assert first["test/bits_per_dim_32_draws"] < first["test/bits_per_dim"]


# runs ---------------------------------------------------------------------------------------------------------------


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [*csv.DictReader(file)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("flows") / "straight", "--config", TINY_FLOW)


def test_a_fit_standardises_by_the_training_data(straight):
    state, data = read(straight / "last.ckpt")["current_model_state"], Densities("8gaussians", num_train=100)
    mean, std = (next(v for k, v in state.items() if k.endswith(f"bijections.0.{n}")) for n in ("mean", "std"))
    assert torch.equal(mean, data.mean)
    assert torch.equal(std, data.std.float())
    assert read(straight / "last.ckpt")["arguments"]["shape"] == [2]


@pytest.mark.parametrize(
    "module", [NICE, RealNVP, partial(RealNVP, scales=2, hidden=4), partial(Glow, pooling=9.0), CNF]
)
def test_a_fit_starts_with_the_histograms_of_the_training_images(module):
    data, density = Digits(), module(image_shape=(1, 8, 8), levels=17)
    density.trainer = SimpleNamespace(datamodule=data)
    density.setup("fit")
    (marginals,) = [layer for layer in density.modules() if isinstance(layer, Marginals)]
    black = (data.images("train") == -1).float().mean(0)
    # a tenth is added to each of the 17 counts of 1,000 images
    assert torch.allclose(marginals.logits.softmax(-1)[..., 0], (1000 * black + 0.1) / 1001.7, atol=1e-6)


@pytest.mark.parametrize("finder", ["LearningRateFinder", "BatchSizeFinder"])
def test_a_tuner_starts_and_ends_with_the_statistics(finder, straight, tmp_path, monkeypatch):
    seen = []
    original = RealNVP.training_step
    monkeypatch.setattr(
        RealNVP, "training_step", lambda self, *batch: seen.append(self.model.has_statistics) or original(self, *batch)
    )
    options = ("--trainer.max_epochs", 1, "--trainer.callbacks", finder)
    options += ("--trainer.callbacks.max_trials", 2) if finder == "BatchSizeFinder" else ()
    fit(tmp_path / "run", "--config", TINY_FLOW, *options)
    assert all(seen)
    states = [read(straight / "last.ckpt")["current_model_state"], read(tmp_path / "run" / "last.ckpt")["state_dict"]]
    for name in ("bijections.0.mean", "bijections.0.std"):
        expected, found = (next(value for key, value in state.items() if key.endswith(name)) for state in states)
        assert torch.equal(expected, found)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("module", [RealNVP, NICE, CNF])
@pytest.mark.parametrize("kind", ["points", "images"])
def test_a_plain_trainer_and_a_plain_loader_will_do(kind, module, tmp_path, command):
    torch.manual_seed(0)
    x = 7 + 2 * torch.randn(60, 3) if kind == "points" else images(60)[0]
    density = module(num_features=3) if kind == "points" else module(**IMAGES)
    loader = DataLoader(TensorDataset(x), batch_size=20, shuffle=True)
    trainer = L.Trainer(max_epochs=2, default_root_dir=tmp_path, logger=False, **QUIET)
    trainer.fit(density, loader, DataLoader(TensorDataset(x), batch_size=20))
    assert trainer.test(density, DataLoader(x, batch_size=20), verbose=False)[0]["test/nll_nats"] > 0
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    assert command("export", tmp_path / "plain.ckpt", tmp_path / "model").status == 0
    model = checkpoints.load(str(tmp_path / "model"))
    first = model.bijection.bijections[0]
    if kind == "points":
        torch.testing.assert_close(torch.stack([first.mean, first.std]).float(), torch.stack([x.mean(0), x.std(0)]))
    else:
        black = (60 * (x == -1).float().mean(0) + 0.1) / 61.7  # a tenth is added to each of 17 counts
        share = first.logits.softmax(-1)[..., 0]
        assert torch.allclose(share, black, atol=0 if module is CNF else 0.05)  # those of a CNF are not learned


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*have no `val_dataloader`")
def test_another_fit_keeps_the_statistics():
    density, first = RealNVP(num_features=2), 5 + torch.randn(40, 2)
    for x in (first, torch.randn(40, 2)):
        trainer = L.Trainer(max_steps=1, logger=False, enable_checkpointing=False, **QUIET)
        trainer.fit(density, DataLoader(TensorDataset(x), batch_size=20))
    torch.testing.assert_close(density.model.bijection.bijections[0].mean, first.double().mean(0))


def test_a_conditional_density_asks_for_labels():
    module = RealNVP(num_features=2, num_classes=3, class_conditional=True)
    with pytest.raises(UserError, match="class_conditional is true, but the batches hold no labels"):
        module.training_step([torch.zeros(4, 2)], 0)


def test_fine_tuning_keeps_the_statistics_of_the_pretrained_model(straight, tmp_path, command):
    assert command("export", straight / "last.ckpt", tmp_path / "model").status == 0
    options = ("--model.pretrained", tmp_path / "model", "--data.name", "moons", "--trainer.max_epochs", 1)
    fit(tmp_path / "run", "--config", TINY_FLOW, *options)
    before, after = (read(folder / "last.ckpt")["current_model_state"] for folder in (straight, tmp_path / "run"))
    name = next(name for name in before if name.endswith("bijections.0.mean"))
    assert torch.equal(before[name], after[name])


def test_a_run_that_was_broken_off_goes_on_as_if_it_had_not(straight, tmp_path):
    fit(tmp_path / "run", "--config", TINY_FLOW, "--trainer.max_epochs", 1)
    fit(tmp_path / "run", "--config", TINY_FLOW, "--ckpt_path", "last")
    assert_same_run(straight / "last.ckpt", tmp_path / "run" / "last.ckpt")
    assert rows(tmp_path / "run") == rows(straight)


def test_the_test_verb_scores_a_checkpoint(straight, capsys):
    status = run("test", straight, "--config", TINY_FLOW, "--ckpt_path", "last", "--trainer.limit_test_batches", 2)
    assert status == 0
    assert "test/nll_nats" in capsys.readouterr().out


def test_two_processes_share_the_points_and_end_with_equal_weights(tmp_path):
    options = ["--config", TINY_FLOW, "--trainer.devices", 2, "--trainer.strategy", "ddp", "--trainer.max_epochs", 1]
    first, second = run_in_ranks(tmp_path, ["fit", tmp_path / "run", *options])
    loader = Densities("8gaussians", num_train=100, batch_size=12, batches_per_epoch=7).train_dataloader()
    for one, two, (both, _) in zip(first["images"], second["images"], loader, strict=True):
        assert torch.equal(torch.cat([one, two]), both), "the halves of what one process would read"
    assert first["weights"].keys() == second["weights"].keys()
    assert all(torch.equal(weight, second["weights"][name]) for name, weight in first["weights"].items())


@every
def test_it_learns(name):
    """A few steps on the digits beat the uniform density by far, and a flow's own start."""
    torch.manual_seed(0)
    module = {"nice": NICE, "realnvp": RealNVP, "glow": Glow}[name](image_shape=(1, 8, 8), levels=17)
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-3)
    losses = []
    module.trainer = SimpleNamespace(global_step=1, log_every_n_steps=100)
    loader = Digits(batch_size=100, batches_per_epoch=25).train_dataloader()
    for batch in loader:
        loss = module.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3
    assert losses[-1] < -0.3, "nats a dimension; 0 is the uniform density"
