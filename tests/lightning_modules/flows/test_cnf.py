"""The neural-ODE flow's module: its two parts, what they log, and the whole way through the command line."""

import csv
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import checkpoints
from commands.main import main
from lightning_modules import CNF
from tests.runs import TINY_FLOW, assert_same_run, fit, run_in_ranks
from zoo.errors import UserError
from zoo.flows.cnf import flow_matching_loss
from zoo.flows.dequantise import dequantise

OPTIONS = {"hidden": 6, "depth": 2, "frequencies": 3, "training_steps": 4}
KINDS = {"points": {"num_features": 3}, "images": {"image_shape": (1, 2, 3), "levels": 17, "num_classes": 5}}


def module(kind="points", step=0, **options):
    torch.manual_seed(0)
    made = CNF(**{**KINDS[kind], **OPTIONS, **options})
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.2)
    made.trainer = SimpleNamespace(global_step=step, log_every_n_steps=1, estimated_stepping_batches=100)
    made.logged = {}
    made.log = lambda name, value, **_: made.logged.update({name: float(torch.as_tensor(value).detach())})
    made.log_dict = lambda values, **_: made.logged.update(values)
    return made


def batch(kind="points", size=7):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(size, 3, generator=generator)
    if kind == "images":
        x = torch.randint(0, 17, (size, 1, 2, 3), generator=generator) / 8 - 1
    return x, torch.randint(0, 5, (size,), generator=generator)


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_flow_matching_is_that_of_the_fields_coordinates(kind, conditional):
    if kind == "points" and conditional:
        pytest.skip("no classes")
    made, (x, labels) = module(kind, class_conditional=conditional), batch(kind)
    torch.manual_seed(3)
    loss = made.training_step((x, labels), 0)
    torch.manual_seed(3)
    if kind == "images":
        y = dequantise(x, 17, torch.rand_like(x))
        histograms, quantiles = made.model.bijection.bijections[:2]
        x = quantiles(histograms(y)[0])[0].flatten(1)
    context = nn.functional.one_hot(labels, 5).float() if conditional else None
    torch.testing.assert_close(loss, flow_matching_loss(made.model.cnf.field, x, context).mean())
    assert [*made.logged] == ["train/flow_matching_loss"]


@pytest.mark.parametrize("kind", KINDS)
def test_likelihood_follows_flow_matching(kind):
    made, (x, labels) = module(kind, step=10, flow_matching_steps=10, training_solver="euler"), batch(kind)
    torch.manual_seed(3)
    loss = made.training_step((x, labels), 0)
    torch.manual_seed(3)
    y = dequantise(x, 17, torch.rand_like(x)) if kind == "images" else x
    torch.testing.assert_close(loss, -made.model.log_prob(y).mean() / made.model.dims)
    assert made.logged["train/evaluations"] == 4
    made.trainer.global_step = 9
    made.training_step((x, labels), 0)
    assert "train/flow_matching_loss" in made.logged


def test_regularisers_add_to_the_likelihood():
    losses = {}
    for name, options in {"none": {}, "kinetic": {"kinetic": 2.0}, "jacobian": {"jacobian": 3.0}}.items():
        losses[name] = module(flow_matching_steps=0, **options).training_step(batch(), 0)
    made, x = module(), batch()[0]
    torch.manual_seed(0)
    way = made.model.cnf.transport(x, 1.0, 0.0, regularise=True)
    torch.testing.assert_close(losses["kinetic"] - losses["none"], 2 * way.kinetic.mean(), rtol=1e-3, atol=1e-5)
    assert losses["jacobian"] > losses["none"]


def test_evaluations_of_the_adjoint_are_logged():
    made = module(flow_matching_steps=0, gradient="adjoint", training_solver="dopri5")
    made.training_step(batch(), 0).backward()
    made.on_after_backward()
    assert made.logged["train/evaluations_backward"] > 0
    assert all(parameter.grad is not None for parameter in made.model.parameters())


def test_each_part_has_its_learning_rate():
    made = module(flow_matching_steps=60, learning_rate=4e-3, likelihood_learning_rate=1e-3, warmup_steps=5)
    made.trainer.gradient_clip_val = None
    found = made.configure_optimizers()
    rates = []
    for _ in range(100):
        rates.append(found["optimizer"].param_groups[0]["lr"])
        found["optimizer"].step()
        found["lr_scheduler"]["scheduler"].step()
    assert rates[0] == pytest.approx(4e-3 / 5)
    assert max(rates) == pytest.approx(4e-3, rel=0.02)  # the cosine has begun when the warm-up ends
    assert rates[59] < 1e-4
    assert rates[60] == pytest.approx(1e-3 / 5)
    assert max(rates[60:]) == pytest.approx(1e-3, rel=0.03)
    assert rates[99] < 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinetic": -1.0}, "model.kinetic must be at least 0, got -1.0"),
        ({"likelihood_learning_rate": 0.0}, "model.likelihood_learning_rate must be positive"),
        ({"flow_matching_steps": -1}, "model.flow_matching_steps must be at least 0, got -1"),
        (
            {"network": "unet", "flow_matching_steps": 9},
            "model.flow_matching_steps must be left out with network 'unet'",
        ),
        ({"coupling": "best"}, "model.coupling must be 'independent' or 'ot', got 'best'"),
        ({"training_trace": "some"}, "trace must be one of exact, hutchinson, got 'some'"),
        ({"training_solver": "some"}, "solver must be one of"),
        ({"tolerance": 0.0}, "tolerance must be between 0 and 1"),
        ({"image_shape": (1, 2, 3)}, "either model.image_shape or model.num_features"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        module(**options)


def test_from_fit_to_a_density(tmp_path, capsys):
    run = tmp_path / "run"
    arguments = "fit --model CNF --data Densities --data.name pinwheel --data.num_train 500 --data.batch_size 50"
    arguments += " --data.batches_per_epoch 8 --trainer.max_epochs 1 --trainer.accelerator cpu"
    arguments += " --trainer.limit_val_batches 2 --trainer.log_every_n_steps 1 --trainer.enable_progress_bar false"
    arguments += " --model.flow_matching_steps 5 --model.hidden 8 --model.depth 2 --model.training_steps 2"
    assert main([*arguments.split(), "--trainer.default_root_dir", str(run)]) == 0
    rows = csv.DictReader((run / "metrics.csv").read_text().splitlines())
    columns = {name for row in rows for name, value in row.items() if value}
    assert {"train/flow_matching_loss", "train/loss", "train/evaluations", "val/nll_nats", "val/evaluations"} <= columns
    assert main(["export", str(run / "last.ckpt"), str(tmp_path / "cnf-pinwheel")]) == 0
    model = checkpoints.load(str(tmp_path / "cnf-pinwheel"))
    data = model.sample(20, generator=torch.Generator().manual_seed(0))
    assert model.log_prob(data).isfinite().all()
    assert checkpoints.verify(str(tmp_path / "cnf-pinwheel")) < 1e-5
    assert model.bijection.bijections[0].std.min() > 1.0  # the pinwheel's, about 1.5, no longer the identity's


# runs ---------------------------------------------------------------------------------------------------------------

RUN = ("--config", TINY_FLOW, "--model", "CNF", "--model.hidden", 6, "--model.depth", 2, "--model.training_steps", 3)
CONSTANT = ("--model.learning_rate_schedule", "constant")  # the other one depends on how long a run is
BOTH_PARTS = ("--model.flow_matching_steps", 9, "--model.warmup_steps", 2, "--model.tolerance", 1e-2)


def test_a_run_that_was_broken_off_in_its_second_part_goes_on_as_if_it_had_not(tmp_path):
    fit(tmp_path / "straight", *RUN, *BOTH_PARTS, *CONSTANT)
    fit(tmp_path / "run", *RUN, *BOTH_PARTS, *CONSTANT, "--trainer.max_epochs", 1)  # 7 of 9 steps of flow matching
    fit(tmp_path / "run", *RUN, *BOTH_PARTS, *CONSTANT, "--ckpt_path", "last")
    assert_same_run(tmp_path / "straight" / "last.ckpt", tmp_path / "run" / "last.ckpt")


def test_two_processes_end_with_equal_weights(tmp_path):
    ddp = ("--trainer.devices", 2, "--trainer.strategy", "ddp", "--trainer.max_epochs", 2)
    first, second = run_in_ranks(tmp_path, ["fit", tmp_path / "run", *RUN, *BOTH_PARTS, *ddp])
    assert first["weights"].keys() == second["weights"].keys() != set()
    assert all(torch.equal(weight, second["weights"][name]) for name, weight in first["weights"].items())
