import pytest
import torch

from zoo.nn.classifier import ImageClassifier


@pytest.mark.parametrize(
    ("image_shape", "options"),
    [
        ((1, 8, 8), {}),
        ((3, 8, 6), {"channels": 6, "num_features": 11}),
        ((3, 28, 28), {"channels": 4, "channel_multipliers": (1, 2, 3)}),
        ((3, 5, 7), {"channels": 5, "channel_multipliers": (3,)}),
    ],
)
def test_shapes_and_gradients(image_shape, options):
    torch.manual_seed(0)
    network = ImageClassifier(image_shape, num_classes=4, **options)
    x = torch.randn(5, *image_shape)
    logits = network(x)
    assert logits.shape == (5, 4)
    assert network.features(x).shape == (5, network.num_features)
    assert network.num_features == options.get("num_features", 64)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3, 0])).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_logits_are_linear_in_the_features():
    network = ImageClassifier((3, 8, 6), num_classes=4, channels=6).eval()
    x = torch.randn(5, 3, 8, 6)
    linear = network.to_logits[-1]
    torch.testing.assert_close(network(x), network.features(x) @ linear.weight.T + linear.bias)


def test_dropout_acts_in_training_only_and_spares_the_features():
    network = ImageClassifier((3, 8, 6), num_classes=4, channels=6, dropout=0.5)
    x = torch.randn(5, 3, 8, 6)
    assert not torch.equal(network(x), network(x))
    assert torch.equal(network.features(x), network.features(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_samples_of_a_batch_do_not_mix():
    network = ImageClassifier((3, 8, 6), num_classes=4, channels=6).eval()
    x = torch.randn(5, 3, 8, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(x)[2].sum(), x)
    assert (gradient.flatten(1).abs().amax(1) > 0).tolist() == [False, False, True, False, False]


def test_wrong_sizes_are_named():
    for image_shape in ((3, 7, 6), (3, 8, 5)):
        with pytest.raises(ValueError, match="image_shape must have height and width divisible by 2"):
            ImageClassifier(image_shape, num_classes=4)
