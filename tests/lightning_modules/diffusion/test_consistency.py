import math

import pytest
import torch

import checkpoints
from lightning_modules import ConsistencyModel
from lightning_modules.diffusion import consistency as wiring
from tests.modules import SHAPE, alone, batch
from tests.runs import assert_same_run, fit, read
from zoo.diffusion.consistency import consistency_loss, flow_step, grid
from zoo.errors import UserError

SMALL = {"first_intervals": 3, "last_intervals": 12}
MODEL = ("--model", "ConsistencyModel", "--model.first_intervals", 3, "--model.last_intervals", 12,
         "--model.channels", 8, "--model.num_timesteps", 20, "--model.warmup_steps", 3)  # fmt: skip
DIGITS = {"image_shape": (1, 8, 8), "num_classes": 10}


def trained_alone(**options):
    module = alone(ConsistencyModel, **SMALL | options)
    module.trainer.estimated_stepping_batches = 9
    return module


def student(teacher="ddpm-digits", **options):
    module = ConsistencyModel(**DIGITS, teacher=teacher, **options)
    module.trainer = alone(ConsistencyModel, **SMALL).trainer
    module.trainer.estimated_stepping_batches = 9
    module.log = lambda *_, **__: None
    return module


@pytest.fixture
def losses(monkeypatch):
    calls = []

    def noted(function, process, x_t, t, x_s, s, c):
        loss = consistency_loss(function, process, x_t, t, x_s, s, c)
        calls.append((x_t, t, x_s, s, c, loss))
        return loss

    monkeypatch.setattr(wiring, "consistency_loss", noted)
    return calls


def test_without_a_teacher_both_points_have_the_same_image_and_noise(losses):
    module, x0 = trained_alone(), batch(1, size=40)[0]
    module.training_step((x0, None), 0)
    ((x_t, t, x_s, s, c, loss),) = losses
    process = module.model.process
    (a_t, b_t), (a_s, b_s) = (process.signal_and_noise(time) for time in (t, s))
    noise = (x_t - a_t * x0) / b_t
    torch.testing.assert_close(x_s, a_s * x0 + b_s * noise, rtol=0, atol=1e-4)
    assert abs(noise.std() - 1) < 0.05  # 3840 numbers, whose standard error is 0.011
    assert c == pytest.approx(0.00054 * math.sqrt(96))
    assert loss.shape == (40,)


def test_the_grid_doubles_during_the_run(monkeypatch):
    asked, module = [], trained_alone()
    monkeypatch.setattr(wiring, "grid", lambda *arguments: asked.append(arguments) or grid(*arguments))
    for step in range(9):
        module.trainer.global_step = step
        module.training_step(batch(1), 0)
    module.validation_step(batch(1), 0)
    assert [intervals for _, intervals, _ in asked] == [3] * 3 + [6] * 3 + [12] * 3 + [12]
    assert {spacing for *_, spacing in asked} == {"karras"}


def test_intervals_may_be_drawn_equally_often(losses):
    module = trained_alone(first_intervals=4, last_intervals=4, spacing="trailing", times="uniform")
    module.training_step((torch.zeros(400, *SHAPE), None), 0)
    ((_, t, *_),) = losses
    counts = t.bincount()[5::5]  # binomial(400, 1/4): within five standard deviations of 8.7
    assert len(counts) == 4
    assert all(56 < count < 144 for count in counts)


@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_with_a_teacher_the_second_point_is_its_step(losses, solver):
    module = student(solver=solver)
    teacher = module._teachers[0]
    before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    x0 = torch.rand(6, 1, 8, 8) * 2 - 1
    module.training_step((x0, None), 0).backward()
    ((x_t, t, x_s, s, _, _),) = losses
    with torch.no_grad():
        assert torch.equal(x_s, flow_step(teacher.denoiser(), teacher.process, x_t, t, s, solver))
    assert not x_s.requires_grad
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert any(parameter.grad is not None for parameter in module.model.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in teacher.state_dict().items())
    # nor is it part of what is averaged, saved and optimised
    assert len(module.state_dict()) == len(before)


def test_a_student_starts_as_its_teacher_with_weights_of_its_own():
    module = student(teacher="cfg-digits")
    teacher = module._teachers[0]
    assert module.model.labels == (10,)
    assert "null_label" not in module.arguments
    for own, theirs in zip(module.model.diffusion.parameters(), teacher.parameters(), strict=True):
        assert torch.equal(own, theirs[: len(own)])
        assert own.data_ptr() != theirs.data_ptr()
        assert own.requires_grad
        assert not theirs.requires_grad
    x, t, labels = torch.randn(3, 1, 8, 8), torch.tensor([20, 500, 1000]), torch.tensor([7, 0, 9])
    with torch.no_grad():
        assert torch.equal(module.model.eval()(x, t, labels), teacher.denoiser(labels, clip=False)(x, t))


def test_a_guided_teacher(losses):
    module = student(teacher="cfg-digits", guidance_scale=2.0)
    teacher, labels = module._teachers[0], torch.tensor([[3], [1], [4]])
    module.training_step((torch.zeros(3, 1, 8, 8), labels[:, 0]), 0)
    ((x_t, t, x_s, s, _, _),) = losses
    plain = teacher.denoiser(labels, clip=False)
    with torch.no_grad():
        null = teacher.denoiser(clip=False)(x_t, t)
        mixed = (null + 2 * (plain(x_t, t) - null)).clamp(-1, 1)
        guided = teacher.denoiser(labels, guidance_scale=2.0)
        torch.testing.assert_close(guided(x_t, t), mixed, rtol=0, atol=1e-5)
        torch.testing.assert_close(x_s, flow_step(guided, teacher.process, x_t, t, s, "heun"))


def test_evaluation_is_the_same_every_time():
    module, x0 = trained_alone(augmentation=1.0).eval(), batch(1, size=9)[0]
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        module.validation_step((x0, None), 3)
        assert torch.equal(torch.get_rng_state(), state)
        module.logged[seed] = module.logged["val/loss"]
    module.test_step((x0, None), 3)
    assert module.logged[1] == module.logged[2] == module.logged["test/loss"]


def test_a_run_without_a_teacher_is_exported_measured_and_drawn(tmp_path, command):
    folder = fit(tmp_path / "run", *MODEL, "--trainer.max_epochs", 1)
    assert read(folder / "last.ckpt")["arguments"]["augmentation_labels"] is True
    assert (folder / "samples").is_dir()
    assert command("export", folder / "last.ckpt", tmp_path / "model").status == 0
    assert checkpoints.verify(str(tmp_path / "model")) == 0
    answer = command("sample", tmp_path / "model", "--num-samples", 3, "--output", tmp_path / "a.png", "--json")
    assert answer.status == 0, answer.err
    assert '"network_evaluations": 2' in answer.out
    answer = command("sample", tmp_path / "model", "--steps", 50, "--output", tmp_path / "b.png")
    assert answer.status == 2
    assert "steps must be between 1 and 8 for a consistency model, got 50" in answer.err
    assert command("density", tmp_path / "model").status == 2


def test_a_resumed_run_is_bit_equal(tmp_path):
    options = (*MODEL, "--model.dropout", 0.3, "--model.first_intervals", 12)
    straight = fit(tmp_path / "straight", *options)
    half = fit(tmp_path / "half", *options, "--trainer.max_epochs", 1)
    fit(half, *options, "--ckpt_path", half / "last.ckpt")
    assert_same_run(straight / "last.ckpt", half / "last.ckpt")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"first_intervals": 13}, "model.first_intervals must lie between 1 and last_intervals 12, got 13"),
        ({"last_intervals": 21}, "steps must be between 1 and the model's 20, got 21"),
        ({"solver": "euler"}, "model.solver must be one of ddim, heun, got 'euler'"),
        ({"times": "often"}, "model.times must be one of uniform, lognormal, got 'often'"),
        ({"huber": 0.0}, "model.huber must be positive, got 0.0"),
        ({"guidance_scale": 2.0}, "model.guidance_scale has nothing to guide without a teacher"),
        ({"class_conditional": True}, "model.class_conditional is true, but the data has no classes"),
        ({"parameterization": "x0"}, "parameterization must be 'v', 'eps' or 'edm', got 'x0'"),
        ({"warmup_steps": -1}, "model.warmup_steps must be at least 0"),
    ],
)
def test_mistakes_are_told_when_it_is_built(options, said):
    with pytest.raises(ValueError, match=said):
        trained_alone(**options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"teacher": "nice-digits"}, "model.teacher must be a diffusion model, got 'nice-digits' of class 'nice'"),
        ({"image_shape": (1, 4, 4)}, "model.teacher 'ddpm-digits' draws images of shape"),
        ({"teacher": "cfg-digits", "num_classes": 3}, "has the classes .10,., but the data has .3,."),
        ({"guidance_scale": 2.0}, "model.guidance_scale has nothing to guide: 'ddpm-digits' has no null label"),
        ({"augmentation": 0.5}, "model.augmentation has no meaning with a teacher"),
        ({"channels": 48}, "model.channels is 24 as in the teacher 'ddpm-digits', got 48: leave it out"),
    ],
)
def test_a_teacher_that_does_not_fit_is_told(options, said):
    with pytest.raises(UserError, match=said):
        ConsistencyModel(**{"teacher": "ddpm-digits"} | DIGITS | options)
