import pytest
import torch

from zoo.diffusion.losses import denoising_loss, min_snr_weight
from zoo.diffusion.model import ImageDiffusion
from zoo.diffusion.parameterization import PARAMETERIZATIONS, prediction_to_x0, training_target
from zoo.diffusion.process import NoiseProcess

T = torch.tensor([1, 7, 20, 33, 50])


@pytest.fixture
def process():
    return NoiseProcess("cosine", 50)


@pytest.fixture
def batch(generator):
    return torch.randn(5, 3, 8, 6, generator=generator), torch.randn(5, 3, 8, 6, generator=generator)


def perturbed_model(parameterization):
    torch.manual_seed(0)
    model = ImageDiffusion((3, 8, 6), channels=4, dropout=0.0, num_timesteps=50, parameterization=parameterization)
    with torch.no_grad():
        for parameter in model.parameters():  # some start at zero, and would hide what lies before them
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_loss_is_the_mean_square_of_each_sample(parameterization, process, batch):
    x0, noise = batch
    offset = torch.tensor([0.5, 1.0, 2.0, 3.0, 4.0]).view(5, 1, 1, 1)

    def network(x_t, t, labels):
        torch.testing.assert_close(x_t, process.add_noise(x0, noise, T))
        assert torch.equal(t, T)
        assert labels is None
        return training_target(parameterization, x0, noise, *process.signal_and_noise(T)) + offset

    loss = denoising_loss(network, process, parameterization, x0, T, noise)
    assert loss.shape == (5,)
    torch.testing.assert_close(loss, offset.flatten() ** 2, rtol=1e-5, atol=0)  # float32: mean of 144 squares


def test_labels_reach_the_network(process, batch):
    labels = torch.tensor([4, 3, 2, 1, 0])
    seen = []
    denoising_loss(lambda x, t, y: seen.append(y) or x, process, "eps", batch[0], T, batch[1], labels)
    assert torch.equal(seen[0], labels)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_gradient_reaches_every_weight(parameterization, batch):
    model = perturbed_model(parameterization)
    model.loss(batch[0], T, batch[1]).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_a_sample_does_not_touch_the_loss_of_another(batch):
    model = perturbed_model("v")
    x0, noise = batch
    loss = model.loss(x0, T, noise)
    alone = model.loss(x0[2:3], T[2:3], noise[2:3])
    torch.testing.assert_close(alone, loss[2:3], rtol=1e-5, atol=0)  # float32; sums are split otherwise


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_loss_is_float32_under_bf16(parameterization, batch):
    model = perturbed_model(parameterization)
    exact = model.loss(batch[0], T, batch[1])
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(batch[0], T, batch[1])
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.05, atol=0)  # bfloat16 keeps 8 bits: 0.4 % a rounding, some layers
    loss.sum().backward()


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_loss_of_bf16_data_is_float32(parameterization, process, batch):
    x0, noise = (x.bfloat16() for x in batch)
    loss = denoising_loss(lambda x, t, labels: x.bfloat16(), process, parameterization, x0, T, noise)
    exact = denoising_loss(lambda x, t, labels: x.bfloat16(), process, parameterization, x0.float(), T, noise.float())
    torch.testing.assert_close(loss, exact)  # with its type


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("gamma", [0.3, 5.0])
def test_min_snr_weight_is_the_weight_of_x0(parameterization, gamma, process):
    """weight |target - prediction|^2 = min(SNR, gamma) |x_0 - estimate|^2, whatever the network predicts."""
    x0, eps, prediction = (torch.randn(5, 3, 8, 6, dtype=torch.float64) for _ in range(3))
    abar = process.alpha_bar[T].view(5, 1, 1, 1)
    signal, sigma = abar.sqrt(), (1 - abar).sqrt()
    estimate = prediction_to_x0(parameterization, prediction, signal * x0 + sigma * eps, signal, sigma)
    error = (training_target(parameterization, x0, eps, signal, sigma) - prediction).square().flatten(1).mean(1)
    snr = (abar / (1 - abar)).flatten()
    assert (snr > gamma).any()  # both branches
    assert (snr < gamma).any()
    expected = snr.clamp(max=gamma) * (x0 - estimate).square().flatten(1).mean(1)
    # float64, through a division by sqrt(abar_T), about 1e-4 here
    torch.testing.assert_close(min_snr_weight(snr, parameterization, gamma) * error, expected, rtol=1e-9, atol=0)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="gamma"):
        min_snr_weight(torch.ones(5), "eps", 0.0)
    with pytest.raises(ValueError, match="parameterization"):
        min_snr_weight(torch.ones(5), "score")
