import pytest
import torch
from torch import nn

from zoo.diffusion.guidance import log_prob_gradient
from zoo.diffusion.noisy_classifier import NoisyClassifier

SHAPE, CLASSES, T = (3, 8, 6), 4, 10


def perturbed(**changes):
    torch.manual_seed(0)
    options = {"image_shape": SHAPE, "num_classes": CLASSES, "channels": 6, "num_timesteps": T} | changes
    network = NoisyClassifier(**options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


@pytest.mark.parametrize(
    ("image_shape", "options"),
    [
        ((1, 8, 8), {}),
        ((3, 8, 6), {"channels": 6, "num_features": 11, "schedule": "linear"}),
        ((3, 28, 28), {"channels": 4, "channel_multipliers": (1, 2, 3), "schedule": "ve"}),
        ((3, 5, 7), {"channels": 10, "channel_multipliers": (3,)}),
    ],
)
def test_shapes_and_gradients(image_shape, options):
    network = perturbed(image_shape=image_shape, **options)
    logits = network(torch.randn(5, *image_shape), torch.tensor([1, 3, 5, 7, T]))
    assert logits.shape == (5, CLASSES)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3, 0])).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_samples_of_a_batch_do_not_mix_even_in_training():
    network = perturbed(dropout=0.0).train()
    x, t = torch.randn(5, *SHAPE), torch.full((5,), 4)
    gradient = log_prob_gradient(lambda x, t: network(x, t)[:, 0] * (torch.arange(5) == 2), x, t)
    assert (gradient.flatten(1).abs().amax(1) > 0).tolist() == [False, False, True, False, False]
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def test_the_time_is_seen_whole_or_fractional_in_units_of_a_thousand_steps():
    network, x = perturbed(), torch.randn(1, *SHAPE).expand(4, -1, -1, -1)
    logits = network(x, torch.tensor([1.0, 1.5, 5.0, 10.0]))
    for i in range(3):
        assert not torch.allclose(logits[i], logits[i + 1], rtol=0, atol=1e-4)
    assert torch.equal(network(x, torch.tensor([1, 2, 5, 10])), network(x, torch.tensor([1.0, 2.0, 5.0, 10.0])))
    finer = perturbed(num_timesteps=10 * T)
    assert torch.allclose(finer(x[:1], torch.tensor([50])), network(x[:1], torch.tensor([5])), atol=1e-5)


def test_exploding_noise_is_shown_at_unit_scale():
    network, seen = perturbed(schedule="ve"), []
    network.conv_in.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    t = torch.arange(1, T + 1)
    network(network.process.add_noise(torch.zeros(T, *SHAPE), torch.randn(T, *SHAPE), t), t)
    assert seen[0].std(dim=(1, 2, 3)).max() < 1.3


def test_a_double_network_computes_in_double():
    network, x, t = perturbed(), torch.randn(5, *SHAPE), torch.arange(1, 6)
    single = network(x, t)
    double = network.double()(x.double(), t)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_shape": (3, 7, 6)}, "image_shape must be positive, height and width divisible by 2, got"),
        ({"image_shape": (0, 8, 6)}, "image_shape must be positive"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"channels": 5}, "channels must be an even positive number, got 5"),
        ({"schedule": "sine"}, "schedule must be one of"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        perturbed(**options)
