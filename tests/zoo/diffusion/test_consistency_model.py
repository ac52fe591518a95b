import pytest
import torch
from torch import nn

from zoo.diffusion.consistency_model import ImageConsistency
from zoo.diffusion.model import ImageDiffusion
from zoo.errors import UserError
from zoo.protocols import Density, Sampler

SHAPE = (3, 8, 4)


def consistency(**options):
    """A model with random weights in the layers that start at zero."""
    torch.manual_seed(0)
    model = ImageConsistency(SHAPE, channels=4, num_timesteps=20, **options).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("schedule", "parameterization"),
    [("cosine", "v"), ("cosine", "eps"), ("linear", "edm"), ("ve", "edm"), ("ve", "eps")],
)
@pytest.mark.parametrize("time", [torch.tensor([0, 0]), torch.tensor([0.0, 0.0])])
def test_the_boundary_condition_holds_exactly(schedule, parameterization, time):
    model, x = consistency(schedule=schedule, parameterization=parameterization), torch.randn(2, *SHAPE)
    with torch.inference_mode():
        assert torch.equal(model(x, time), x)
        assert not torch.allclose(model(x, time + 1), x)
        # and it is met without a jump: f(x_t, t) - x_t goes with sigma_t, a fraction of the smallest level here
        assert (model(x, torch.tensor([1e-6, 1e-6])) - x).abs().max() < 1e-4


def test_a_prediction_of_x0_cannot_meet_the_boundary_condition():
    with pytest.raises(ValueError, match="parameterization must be 'v', 'eps' or 'edm', got 'x0'"):
        consistency(parameterization="x0")


def test_it_is_the_denoiser_of_the_diffusion_model_with_its_weights():
    model = consistency(num_classes=(3, 2))
    twin = ImageDiffusion(SHAPE, channels=4, num_timesteps=20, num_classes=(3, 2)).eval()
    twin.load_state_dict(model.diffusion.state_dict())
    x, t, labels = torch.randn(5, *SHAPE), torch.tensor([1, 5, 10, 19, 20]), torch.tensor([[0, 1]] * 5)
    with torch.inference_mode():
        assert torch.equal(model(x, t, labels), twin.denoiser(labels, clip=False)(x, t))


def test_one_step_is_the_function_itself_and_two_are_two():
    model, noise, calls = consistency(), torch.randn(4, *SHAPE), []
    model.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[1].tolist()))
    with torch.inference_mode():
        once = model(noise, torch.full((4,), 20)).clamp(-1, 1)
    assert torch.equal(model.sample(4, steps=1, noise=noise), once)
    calls.clear()
    model.sample(4, noise=noise)
    assert calls == [[20] * 4, [10] * 4]


def test_samples_follow_the_generator_row_by_row():
    model = consistency()
    drawn = model.sample(5, generator=seeded())
    assert drawn.dtype == torch.float32
    assert drawn.shape == (5, *SHAPE)
    assert drawn.abs().max() <= 1
    # convolutions of another batch size differ in the last bits
    torch.testing.assert_close(model.sample(3, generator=seeded()), drawn[:3])
    assert not torch.allclose(model.sample(3, generator=seeded(1)), drawn[:3], atol=1e-2)


def test_it_draws_and_has_no_density():
    model = consistency()
    assert isinstance(model, Sampler)
    assert not isinstance(model, Density)
    assert model.labels == ()
    assert model.network is model.diffusion.network


def test_labels_count():
    model = consistency(num_classes=3)
    drawn = [model.sample(2, labels=torch.tensor([label] * 2), generator=seeded()) for label in (0, 1)]
    assert not torch.allclose(*drawn, atol=1e-2)


@pytest.mark.parametrize(
    ("options", "arguments", "said"),
    [
        ({}, {"n": 0}, "n must be at least 1, got 0"),
        ({}, {"n": 2, "steps": 50}, "steps must be between 1 and 8 for a consistency model, got 50"),
        ({}, {"n": 2, "steps": 0}, "steps must be between 1 and 8 for a consistency model, got 0"),
        ({}, {"n": 2, "noise": torch.zeros(3, *SHAPE)}, "noise must have the shape"),
        ({}, {"n": 2, "labels": torch.tensor([0, 1])}, "labels must not be given"),
        ({"num_classes": 3}, {"n": 2}, "labels must be given"),
        ({"num_classes": 3}, {"n": 2, "labels": torch.tensor([0, 3])}, r"labels must lie in 0 ... 2, got 3"),
    ],
)
def test_mistakes_are_told_in_one_line(options, arguments, said):
    with pytest.raises(UserError, match=said) as caught:
        consistency(**options).sample(**arguments)
    assert "\n" not in str(caught.value)
