import math

import pytest
import torch

from zoo.nn.unet import AMOUNTS, SelfAttention, UNet, embed_times, group_norm, label_columns, sinusoidal_embedding


def perturbed(network):
    """None of the weights are zero, so that every input can be seen in the output."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


@pytest.mark.parametrize(
    ("image_shape", "options"),
    [
        ((1, 8, 8), {}),
        ((3, 8, 6), {"channels": 6}),
        ((1, 28, 28), {"channels": 4, "channel_multipliers": (1, 2, 2), "attention_levels": (1, 2)}),
        ((3, 32, 32), {"channels": 8, "channel_multipliers": (1, 2, 2, 2), "blocks_per_level": 2}),
        ((3, 64, 64), {"channels": 4, "channel_multipliers": (1, 1, 2, 3), "attention_levels": (3,)}),
        ((2, 12, 20), {"channels": 10, "channel_multipliers": (1, 3, 2), "blocks_per_level": 3}),
        ((3, 5, 7), {"channels": 4, "channel_multipliers": (2,), "attention_levels": (0,)}),
        ((1, 16, 8), {"channels": 2, "channel_multipliers": (1, 2, 3, 4), "attention_levels": ()}),
        ((3, 8, 6), {"channels": 14, "channel_multipliers": (1, 3), "num_classes": 4}),
        ((3, 8, 6), {"channels": 48, "channel_multipliers": (1, 2), "attention_levels": (0, 1)}),
    ],
)
def test_the_output_has_the_shape_of_the_input_and_every_weight_a_gradient(image_shape, options):
    network = perturbed(UNet(image_shape, **options))
    labels = torch.tensor([3, 0]) if options.get("num_classes") else None
    output = network(torch.randn(2, *image_shape), torch.tensor([3.0, 700.0]), labels)
    assert output.shape == (2, *image_shape)
    output.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_an_untrained_network_predicts_zero():
    output = UNet((3, 8, 6), channels=6)(torch.randn(5, 3, 8, 6), torch.arange(5))
    assert torch.equal(output, torch.zeros(5, 3, 8, 6))


def test_output_depends_on_the_time():
    network = perturbed(UNet((3, 8, 6), channels=6))
    x = torch.randn(1, 3, 8, 6).expand(5, -1, -1, -1)
    output = network(x, torch.tensor([0.0, 1.0, 1.5, 500.0, 1000.0]))
    for i in range(4):
        assert not torch.allclose(output[i], output[i + 1], rtol=0, atol=1e-4)
    assert torch.equal(network(x, torch.arange(5)), network(x, torch.arange(5.0)))  # whole times in either type


def test_a_network_that_is_told_of_no_augmentation_predicts_as_if_not_told():
    network = perturbed(UNet((3, 8, 6), channels=6, augmentation_labels=True))
    x, t = torch.randn(1, 3, 8, 6).expand(3, -1, -1, -1), torch.full((3,), 10)
    amounts = torch.cat([torch.zeros(1, AMOUNTS), torch.rand(2, AMOUNTS)])
    output = network(x, t, augmentation=amounts)
    torch.testing.assert_close(output[0], network(x, t)[0])
    assert not torch.allclose(output[0], output[1], rtol=0, atol=1e-4)
    assert not torch.allclose(output[1], output[2], rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="augmentation must not be given to a network without augmentation_labels"):
        UNet((3, 8, 6), channels=6)(x, t, augmentation=amounts)


def test_output_depends_on_the_label():
    network = perturbed(UNet((3, 8, 6), channels=6, num_classes=4))
    x, t = torch.randn(1, 3, 8, 6).expand(4, -1, -1, -1), torch.full((4,), 10)
    output = network(x, t, torch.arange(4))
    for i in range(3):
        assert not torch.allclose(output[i], output[i + 1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("channels", [6, 48])
def test_samples_of_a_batch_do_not_mix(channels):
    network = perturbed(UNet((3, 8, 6), channels=channels, attention_levels=(0, 1), num_classes=4))
    x, t, labels = torch.randn(5, 3, 8, 6), torch.tensor([1, 20, 300, 600, 999]), torch.tensor([0, 1, 2, 3, 0])
    output = network(x, t, labels)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(network(x, t, labels)[2].sum(), x)
    reached = gradient.flatten(1).abs().amax(1) > 0
    assert reached.tolist() == [False, False, True, False, False]
    order = torch.tensor([3, 0, 4, 1, 2])
    # the same sums in float32, perhaps in another order
    torch.testing.assert_close(network(x[order], t[order], labels[order]), output[order], rtol=1e-4, atol=1e-4)


def test_every_pixel_reaches_every_other():
    """The middle attends over the whole image, so no part of the output is blind to a part of the input."""
    network = perturbed(UNet((3, 16, 24), channels=6, attention_levels=(1,)))
    x = torch.randn(1, 3, 16, 24, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(x, torch.tensor([5]))[0, 1, 0, 0], x)
    assert (gradient.abs() > 0).all()


def test_dropout_acts_in_training_only():
    network = perturbed(UNet((3, 8, 6), channels=6, dropout=0.5))
    x, t = torch.randn(5, 3, 8, 6), torch.arange(5)
    assert torch.equal(network(x, t), network(x, t))
    network.train()
    assert not torch.allclose(network(x, t), network(x, t), rtol=0, atol=1e-4)


def test_wrong_sizes_are_named():
    for image_shape in ((3, 7, 6), (3, 8, 5)):
        with pytest.raises(ValueError, match=r"image_shape must .* divisible by 2 for 2 levels"):
            UNet(image_shape)
    with pytest.raises(ValueError, match=r"image_shape .* divisible by 8 for 4 levels"):
        UNet((3, 28, 28), channel_multipliers=(1, 2, 2, 2))
    with pytest.raises(ValueError, match="image_shape must be positive"):
        UNet((0, 8, 6))
    for levels in ((2,), (-1,), (0, 5)):
        with pytest.raises(ValueError, match=r"attention_levels must lie in 0 \.\.\. 1"):
            UNet((3, 8, 6), attention_levels=levels)
    for channels in (0, -4, 1, 3, 33):
        with pytest.raises(ValueError, match=f"channels must be an even positive number, got {channels}"):
            UNet((3, 8, 6), channels=channels)
    with pytest.raises(ValueError, match="channels must be divisible by the number of heads 3, got 100"):
        UNet((3, 8, 6), channels=50)


def test_labels_must_fit_the_network():
    x, t = torch.randn(5, 3, 8, 6), torch.arange(5)
    with pytest.raises(ValueError, match="labels must be given"):
        UNet((3, 8, 6), channels=6, num_classes=4)(x, t)
    with pytest.raises(ValueError, match="labels must not be given"):
        UNet((3, 8, 6), channels=6)(x, t, torch.zeros(5, dtype=torch.long))


def test_groups_divide_the_channels():
    for channels in range(1, 400):
        norm = group_norm(channels)
        assert channels % norm.num_groups == 0
        assert 1 <= norm.num_groups <= 32
        assert norm.num_groups == 1 or channels // norm.num_groups >= 4, channels
        norm(torch.randn(2, channels, 1, 2))
    assert [group_norm(c).num_groups for c in (8, 12, 128, 256, 512)] == [2, 3, 32, 32, 32]


def test_time_features_are_a_circle_at_each_frequency():
    t = torch.tensor([0.0, 0.5, 3.0, 40.0, 999.0])
    features = sinusoidal_embedding(t, 12)
    assert features.shape == (5, 12)
    cosines, sines = features.double().chunk(2, dim=1)
    torch.testing.assert_close(cosines**2 + sines**2, torch.ones(5, 6).double(), rtol=0, atol=1e-6)  # float32
    frequencies = 10_000.0 ** (-torch.arange(6).double() / 6)
    angles = t.double()[:, None] * frequencies
    # an angle of up to 999 rad is rounded at 3e-5 in float32, and its frequency at 1e-7 of itself
    torch.testing.assert_close(cosines, angles.cos(), rtol=0, atol=3e-4)
    torch.testing.assert_close(sines, angles.sin(), rtol=0, atol=3e-4)


@pytest.mark.parametrize(("channels", "heads"), [(6, 1), (48, 1), (64, 2), (96, 3)])
def test_attention_is_a_softmax_over_positions(channels, heads):
    attention = perturbed(SelfAttention(channels)).double()
    assert attention.heads == heads
    x = torch.randn(5, channels, 4, 3, dtype=torch.float64)
    tokens = attention.norm(x).flatten(2).transpose(1, 2)  # (B, H W, C)
    weight, bias = attention.qkv.weight.flatten(1), attention.qkv.bias
    q, k, v = (tokens @ weight.T + bias).split(channels, dim=2)
    width = channels // heads
    mixed = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(width)
        mixed.append(scores.softmax(-1) @ v[..., part])
    mixed = torch.cat(mixed, dim=2) @ attention.project.weight.flatten(1).T + attention.project.bias
    torch.testing.assert_close(attention(x), x + mixed.transpose(1, 2).reshape(5, channels, 4, 3))


def test_attention_refuses_widths_its_heads_do_not_divide():
    with pytest.raises(ValueError, match="channels must be divisible by the number of heads 3, got 100"):
        SelfAttention(100)


# patches ------------------------------------------------------------------------------------------------------------


def test_patches_keep_the_shape_and_every_weight_has_a_gradient():
    network = perturbed(UNet((3, 8, 12), channels=6, patch_size=2))
    assert network.conv_in.in_channels == network.conv_out.out_channels == 12
    output = network(torch.randn(5, 3, 8, 12), torch.arange(5))
    assert output.shape == (5, 3, 8, 12)
    output.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_every_pixel_of_a_patch_is_seen_and_predicted():
    network = perturbed(UNet((3, 8, 12), channels=6, patch_size=2))
    x = torch.randn(1, 3, 8, 12, requires_grad=True)
    output = network(x, torch.tensor([5]))
    for pixel in output.flatten()[::37]:  # 37 is prime to 2: each place within a patch is visited
        (gradient,) = torch.autograd.grad(pixel, x, retain_graph=True)
        assert (gradient != 0).all()


def test_patches_are_the_pixel_blocks_and_nothing_is_lost():
    """With a network that hands its patches on, the output is the input."""
    network = UNet((3, 8, 12), channels=12, patch_size=2, channel_multipliers=(1,), attention_levels=())
    shown = []
    network.conv_in.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    network.conv_out.register_forward_hook(lambda *_: shown[0])
    x = torch.randn(5, 3, 8, 12)
    assert torch.equal(network(x, torch.arange(5)), x)
    assert shown[0].shape == (5, 12, 4, 6)
    assert torch.equal(shown[0][:, :4, 1, 2], x[:, 0, 2:4, 4:6].flatten(1))  # a block of the first channel


def test_a_patch_of_one_pixel_is_the_plain_network():
    torch.manual_seed(0)
    plain = UNet((3, 8, 12), channels=6)
    torch.manual_seed(0)
    patched = UNet((3, 8, 12), channels=6, patch_size=1)
    assert [*plain.state_dict()] == [*patched.state_dict()]
    assert all(torch.equal(weight, patched.state_dict()[name]) for name, weight in plain.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 0}, "patch_size must be at least 1, got 0"),
        ({"patch_size": 3}, "divisible by 6 for 2 levels of patches of 3, got"),
    ],
)
def test_patches_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        UNet((3, 8, 12), channels=6, **options)


def test_fourier_features_follow_the_image_channel_by_channel():
    network = UNet((3, 8, 12), channels=6, patch_size=2, fourier=(0, 3))
    shown = []
    network.conv_in.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    x = torch.randn(5, 3, 8, 12)
    network(x, torch.arange(5))
    channels = torch.nn.functional.pixel_shuffle(shown[0], 2)
    assert channels.shape == (5, 15, 8, 12)
    phase = 8 * math.pi * x
    expected = [x, torch.sin(math.pi * x), torch.cos(math.pi * x), torch.sin(phase), torch.cos(phase)]
    torch.testing.assert_close(channels, torch.cat(expected, 1))


# columns of labels --------------------------------------------------------------------------------------------------


def test_columns_of_labels():
    assert label_columns(0) == ()
    assert label_columns(10) == (10,)
    assert label_columns((3, 6)) == (3, 6)
    assert label_columns([3, 6]) == (3, 6)
    assert label_columns(()) == ()


@pytest.mark.parametrize("wrong", [-1, (3, 0), (3, -2), (3, 2.0), (3, True), "36"])
def test_columns_that_are_none_are_named(wrong):
    with pytest.raises(ValueError, match="num_classes must be a positive whole number in every column, got"):
        label_columns(wrong)


def test_each_column_adds_its_own_embedding():
    network = perturbed(UNet((3, 8, 6), channels=6, num_classes=(3, 2), null_label=True))
    assert [embed.num_embeddings for embed in network.embed_label] == [4, 3]
    x, t = torch.randn(1, 3, 8, 6).expand(12, -1, -1, -1), torch.full((12,), 10)
    output = network(x, t, torch.cartesian_prod(torch.arange(4), torch.arange(3)))
    for i in range(12):
        for j in range(i):
            assert not torch.allclose(output[i], output[j], rtol=0, atol=1e-4)


def test_the_time_embedding_follows_the_type_of_the_network():
    t = torch.tensor([0.0, 1.5, 999.25])
    assert torch.equal(embed_times(t, 6, torch.float32), sinusoidal_embedding(t, 6))
    double = embed_times(t.double(), 6, torch.float64)
    assert double.dtype == torch.float64
    # float32 keeps a phase of 1000 to 3e-5, float64 to 1e-13
    torch.testing.assert_close(double.float(), sinusoidal_embedding(t, 6), rtol=0, atol=1e-4)
    frequency = 10_000 ** (-1 / 3)
    assert math.isclose(double[2, 1].item(), math.cos(999.25 * frequency), abs_tol=1e-12)
    assert embed_times(t, 6, torch.bfloat16).dtype == torch.bfloat16
