import math

import pytest
import torch

import checkpoints
from commands.main import main
from lightning_modules import DDPM
from tests.modules import SHAPE, alone, batch, note_calls
from tests.runs import TINY, differences, fit, read
from zoo.diffusion.losses import min_snr_weight
from zoo.diffusion.model import ImageDiffusion
from zoo.errors import UserError
from zoo.nn.augment import affine

CLASSES, T = 5, 20


def ddpm(**changes):
    return alone(DDPM, num_classes=CLASSES, **changes)


@pytest.fixture
def losses(monkeypatch):
    return note_calls(monkeypatch, ImageDiffusion, "loss")


# the loss -----------------------------------------------------------------------------------------------------------


def test_training_averages_the_loss_over_uniform_times_and_normal_noise(losses):
    module, images = ddpm(num_timesteps=4), batch(CLASSES, size=400)[0]
    loss = module.training_step((images, None), 0)
    (call,) = losses
    assert torch.equal(call.x0, images)
    assert loss == call.answer.mean()
    assert call.labels is None, "an unconditional network is told no label"
    # uniform over 1 ... 4, both ends: a count is binomial(400, 1/4), within four standard deviations of 8.7
    counts = torch.bincount(call.t, minlength=5)
    assert counts[0] == 0
    assert len(counts) == 5
    assert all(65 < count < 135 for count in counts[1:])
    size = call.noise.numel()  # 38400
    assert call.noise.shape == images.shape
    assert call.noise.mean().abs() < 4 / size**0.5
    assert (call.noise.var() - 1).abs() < 4 * (2 / size) ** 0.5
    module.training_step((images, None), 1)
    assert (losses[1].noise != call.noise).any(), "new noise in every step"


def test_the_label_reaches_a_conditional_network_only(losses):
    images, labels = batch(CLASSES)
    ddpm(class_conditional=True).training_step((images, labels), 0)
    ddpm().training_step((images, labels), 0)
    assert torch.equal(losses[0].labels, labels)
    assert losses[1].labels is None
    assert ddpm(class_conditional=True).model.labels == (CLASSES,)
    assert ddpm().model.labels == ()
    with pytest.raises(UserError, match=r"model.class_conditional is true, but the data has no classes"):
        DDPM(image_shape=SHAPE, class_conditional=True)


@pytest.mark.parametrize("parameterization", ["eps", "v", "x0"])
def test_min_snr_gamma_weighs_each_sample(parameterization, losses):
    module = ddpm(min_snr_gamma=0.7, parameterization=parameterization)
    loss = module.training_step(batch(CLASSES), 0)
    (call,) = losses
    weight = min_snr_weight(module.model.process.snr(call.t), parameterization, 0.7)
    assert loss == (weight * call.answer).mean()
    assert loss != call.answer.mean()


def test_augmentation_moves_training_images_only(losses):
    images, labels = batch(CLASSES)
    module = ddpm(augmentation=1.0)
    module.training_step((images, labels), 0)
    assert (losses[0].x0 != images).flatten(1).any(1).all()
    module.validation_step((images, labels), 0)
    assert torch.equal(losses[1].x0, images)
    torch.testing.assert_close(affine(images, losses[0].augmentation), losses[0].x0)
    assert losses[1].augmentation is None
    ddpm(augmentation=1.0, augmentation_probability=0.0).training_step((images, labels), 0)
    assert not losses[2].augmentation.any()
    assert torch.allclose(losses[2].x0, images)


def test_the_loss_is_logged_at_the_steps_that_lightning_writes():
    module, steps = ddpm(), []
    module.trainer.log_every_n_steps = 10
    module.log = lambda name, value, **_: steps.append(module.trainer.global_step)
    for module.trainer.global_step in range(35):
        module.training_step(batch(CLASSES), 0)
    assert steps == [9, 19, 29]


def test_the_validation_loss_is_the_same_every_time_and_spread_over_all_times(losses):
    module = ddpm().eval()
    images, labels = batch(CLASSES, size=T)
    seen = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        module.validation_step((images, labels), 3)
        seen.append(module.logged["val/loss"])
    assert seen[0] == seen[1] == losses[0].answer.mean()
    assert sorted(losses[0].t.tolist()) == list(range(1, T + 1))
    module.validation_step((images, labels), 4)
    assert (losses[2].noise != losses[0].noise).any(), "each batch has its own noise"


def test_the_test_metric_is_the_bound_in_bits():
    module, (images, _) = ddpm().eval(), batch(CLASSES)
    module.test_step((images, None), 2)
    bound = module.model.bound(images, 17, generator=torch.Generator().manual_seed(2)).total  # nats an image
    assert torch.isclose(module.logged["test/bits_per_dim"], (bound / (96 * math.log(2))).mean(), rtol=1e-6)


@pytest.mark.parametrize("conditional", [False, True])
def test_prediction_runs_all_ancestral_steps_from_the_latents(conditional):
    module = ddpm(class_conditional=conditional).eval()
    latents, index = torch.randn(7, *SHAPE), torch.arange(3, 10)
    images = module.predict_step((latents, index), 0)
    expected = module.model.sample(
        7, sampler="ddpm", steps=T, noise=latents, labels=index % CLASSES if conditional else None,
        generator=torch.Generator().manual_seed(3),
    )  # fmt: skip
    assert torch.equal(images, expected)


# checkpoints and fine-tuning ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(run folder, model folder) of the tiny run."""
    folder = fit(tmp_path_factory.mktemp("runs") / "run")
    assert main(["export", str(folder / "last.ckpt"), str(folder.parent / "model")]) == 0
    return folder, folder.parent / "model"


def test_a_checkpoint_says_how_to_build_its_model(trained):
    content = read(trained[0] / "last.ckpt")
    assert content["model"] == "image-diffusion"
    model = checkpoints.build(content["model"], content["arguments"])
    model.load_state_dict({name.removeprefix("model."): weight for name, weight in content["state_dict"].items()})
    for name, value in {"image_shape": [1, 8, 8], "channels": 8, "num_timesteps": T, "num_classes": 0}.items():
        assert content["arguments"][name] == value


OF_TINY = {"image_shape": (1, 8, 8), "num_classes": 10, "channels": 8, "num_timesteps": T, "augmentation": 1.0}


def test_fine_tuning_starts_from_the_weights_of_the_model(trained):
    pretrained = DDPM(**OF_TINY, pretrained=str(trained[1]), dropout=0.3, learning_rate=1e-5)
    loaded = checkpoints.load(str(trained[1]))
    assert differences(dict(pretrained.model.state_dict()), dict(loaded.state_dict())) == []
    assert differences(dict(DDPM(**OF_TINY).model.state_dict()), dict(loaded.state_dict())) != []


def test_fine_tuning_goes_on_from_there(trained, tmp_path):
    slow = ("--model.learning_rate", 1e-9, "--trainer.max_epochs", 1, "--model.pretrained", trained[1])
    fit(tmp_path / "run", *slow)
    loaded = checkpoints.load(str(trained[1])).state_dict()
    for name, weight in read(tmp_path / "run" / "last.ckpt")["state_dict"].items():
        # at most 7 steps of Adam of about 1e-9
        assert (weight - loaded[name.removeprefix("model.")]).abs().max() < 1e-7


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--model.channels", 12), "'{model}' has channels = 8, but this run has 12: set model.channels to 8"),
        (("--model.parameterization", "eps"), "has parameterization = 'v', but this run has 'eps'"),
        (("--model.class_conditional", "true"), "has num_classes = 0, but this run has 10"),
        (("--model", "DDPM", "--model.schedule", "linear"), "has schedule = 'cosine', but this run has 'linear'"),
    ],
)  # fmt: skip
def test_fine_tuning_another_architecture_is_refused(options, said, trained, tmp_path, refused):
    base = ("--config", TINY, "--trainer.default_root_dir", tmp_path / "run")
    line = refused("fit", *base, *options, "--model.pretrained", trained[1])
    assert line.startswith("error: model.pretrained ")
    assert said.format(model=trained[1]) in line
    assert not (tmp_path / "run").exists()


def test_fine_tuning_a_model_of_another_class_is_refused(trained, tmp_path, refused):
    base = ("--config", TINY, "--trainer.default_root_dir", tmp_path / "run")
    line = refused("fit", *base, "--model.pretrained", "classifier-digits")
    assert "model.pretrained 'classifier-digits' is of class 'image-classifier', but" in line
    assert "'image-diffusion'" in line


# precision and compilation ------------------------------------------------------------------------------------------


def test_bfloat16_computes_the_network_alone_in_it(losses, tmp_path, monkeypatch):
    outputs, original = set(), ImageDiffusion.forward

    def forward(self, *arguments, **options):
        answer = original(self, *arguments, **options)
        if self.training:
            outputs.add(answer.dtype)
        return answer

    monkeypatch.setattr(ImageDiffusion, "forward", forward)
    fit(tmp_path / "run", "--trainer.precision", "bf16-mixed", "--trainer.max_epochs", 1)
    assert outputs == {torch.bfloat16}
    assert {call.answer.dtype for call in losses} == {torch.float32}
    assert all(torch.isfinite(call.answer).all() for call in losses)
    content = read(tmp_path / "run" / "last.ckpt")
    for part in ("state_dict", "current_model_state"):
        assert {weight.dtype for weight in content[part].values()} == {torch.float32}


def test_compilation_changes_no_name_and_no_sample(trained, tmp_path, monkeypatch):
    compiled, original = [], torch.compile

    def backend(graph, inputs):
        """Notes the graph and runs it as it is: tracing is what could change names; a compiler takes minutes."""
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda model, **options: original(model, **options, backend=backend))
    run_folder, model_folder = tmp_path / "run", tmp_path / "model"
    fit(run_folder, "--model.compile", "true", "--trainer.max_epochs", 1)
    assert compiled, "the network went through the compiler"
    content = read(run_folder / "last.ckpt")
    assert content["state_dict"].keys() == read(trained[0] / "last.ckpt")["state_dict"].keys()
    assert main(["export", str(run_folder / "last.ckpt"), str(model_folder)]) == 0

    loaded = checkpoints.load(str(model_folder))
    eager = ImageDiffusion(**content["arguments"]).eval()
    eager.load_state_dict({name.removeprefix("model."): weight for name, weight in content["state_dict"].items()})
    one, two = (model.sample(5, steps=3, generator=torch.Generator().manual_seed(1)) for model in (loaded, eager))
    assert torch.equal(one, two)
