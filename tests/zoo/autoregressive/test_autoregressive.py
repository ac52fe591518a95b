"""Autoregressive models: causality, probabilities of all images, samples from a cache; and a run from `fit` to samples.

Every network of the family passes the same tests, in float64, with a distinct size for every axis.
"""

import math
from itertools import product

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules import Autoregressive as Module
from tests import runs
from zoo.autoregressive.model import NETWORKS, Autoregressive
from zoo.errors import UserError

SHAPE, LEVELS = (2, 3, 4), 5  # channels, rows, columns
CACHED = ("nade", "pixelcnn", "pixelrnn", "transformer", "wavenet")  # keep what earlier entries needed


def model(network: str, shape=SHAPE, levels=LEVELS, seed=0, **options) -> Autoregressive:
    torch.manual_seed(seed)
    options = {"width": 12, "depth": 2, "dropout": 0.5} | options
    made = Autoregressive(shape, levels, network, **options).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():  # no bias may be zero, nor any conditional uniform
            parameter += 0.3 * torch.randn_like(parameter)
    return made


def images(count: int, shape=SHAPE, levels=LEVELS, seed=1) -> torch.Tensor:
    index = torch.randint(levels, (count, *shape), generator=torch.Generator().manual_seed(seed))
    return index.double() * (2 / (levels - 1)) - 1


def every_image(shape, levels) -> torch.Tensor:
    grid = torch.tensor([*product(range(levels), repeat=math.prod(shape))], dtype=torch.float64)
    return (grid * (2 / (levels - 1)) - 1).view(-1, *shape)


def dependence(made: Autoregressive, order: int = 0) -> torch.Tensor:
    """(D, D) whether output d changes with entry j, in raster order, for any of several images."""
    x, dims = images(20, made.shape, made.levels), made.dims
    found = torch.zeros(dims, dims, dtype=torch.bool)
    condition = made._condition(torch.zeros(20, len(made.labels)) if made.labels else None, 20)
    with torch.no_grad():
        sequence = made._sequence(x)
        before = made.network(sequence, condition, **made._order(order))
        for j in range(dims):
            moved = sequence.clone()
            moved[:, j] += 0.7
            found[:, j] = (made.network(moved, condition, **made._order(order)) != before).any(-1).any(0)
    return found


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("num_classes", [0, (2, 3)], ids=["unconditional", "conditional"])
def test_an_output_sees_every_earlier_entry_and_no_other(network, num_classes):
    """Outputs up to d are equal bit for bit when entry d changes; every later one changes: there is no blind spot."""
    found = dependence(model(network, num_classes=num_classes, depth=5))
    torch.testing.assert_close(found, torch.ones_like(found).tril(-1))


def test_each_order_sees_the_entries_before_it_in_that_order():
    made = model("made", orders=3, width=24)
    assert made.network.order[0].tolist() == [*range(made.dims)]
    for k in range(3):
        order = made.network.order[k]
        found = dependence(made, k)[order][:, order]
        torch.testing.assert_close(found, torch.ones_like(found).tril(-1))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    ("shape", "levels", "options"),
    [
        ((1, 2, 5), 2, {"head": "bernoulli"}),
        ((2, 3, 1), 3, {"num_classes": 4}),
        ((3, 1, 2), 3, {"head": "logistic", "components": 2}),
        ((1, 1, 1), 4, {}),
    ],
    ids=["binary", "conditional", "logistic", "one-pixel"],
)
def test_probabilities_of_all_images_sum_to_one(network, shape, levels, options):
    made, x = model(network, shape, levels, **options), every_image(shape, levels)
    labels = torch.full((len(x),), 3) if made.labels else None
    total = made.log_likelihood(x, labels=labels).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-10)


def test_names_are_read_in_full_and_in_order():
    """Of levels without an order, every later output changes with a name, no earlier one; all images sum to one."""
    made = model("pixelcnn", depth=5, nominal=True)
    x, found = images(20), torch.zeros(made.dims, made.dims, dtype=torch.bool)
    sequence = made._sequence(x)
    with torch.no_grad():
        before = made.network(sequence)
        for j in range(made.dims):
            moved = sequence.clone()
            index = ((moved[:, j] + 1) * 2).round()
            moved[:, j] = (index + 1) % LEVELS / 2 - 1
            found[:, j] = (made.network(moved) != before).any(-1).any(0)
        step, seen = made.network.steps(20), torch.zeros_like(sequence)
        for i in range(made.dims):
            torch.testing.assert_close(step(i, seen), before[:, i], rtol=0, atol=1e-9)
            seen[:, i] = sequence[:, i]
    torch.testing.assert_close(found, torch.ones_like(found).tril(-1))
    small = model("pixelcnn", (2, 3, 1), 3, nominal=True)
    assert small.log_likelihood(every_image((2, 3, 1), 3)).exp().sum().item() == pytest.approx(1, abs=1e-10)


def test_several_orders_average_the_probabilities_of_whole_images():
    made, x = model("made", (1, 2, 3), 2, orders=3), every_image((1, 2, 3), 2)
    found = made.log_likelihood(x).exp()
    assert found.sum().item() == pytest.approx(1, abs=1e-10)
    each = torch.stack([made.log_prob(x, order=k).exp() for k in range(3)])
    assert (each[0] - each[1]).abs().max() > 1e-3
    torch.testing.assert_close(found, each.mean(0))
    made.network.order[1:] = made.network.order[0]
    torch.testing.assert_close(made.log_likelihood(x), made.log_prob(x, order=0))


@pytest.mark.parametrize("network", NETWORKS)
def test_one_entry_after_the_other_is_the_same_as_one_pass(network):
    made, x = model(network, num_classes=3), images(6)
    with torch.no_grad():
        condition = made._condition(torch.tensor([0, 1, 2, 0, 1, 2]), 6)
        sequence = made._sequence(x)
        whole = made.network(sequence, condition)
        step, seen = made.network.steps(6, condition), torch.zeros_like(sequence)
        for i in range(made.dims):
            torch.testing.assert_close(step(i, seen), whole[:, i], rtol=0, atol=1e-9)
            seen[:, i] = sequence[:, i]


@pytest.mark.parametrize("network", CACHED)
def test_a_sample_from_the_cache_costs_as_much_as_one_pass(network):
    """D times less than D passes, counted in floating-point operations."""
    made = model(network, (1, 4, 4), depth=2)
    x = images(8, (1, 4, 4))

    def operations(call) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            call()
        return counter.get_total_flops()

    one_pass = operations(lambda: made(x))
    assert one_pass > 0
    assert operations(lambda: made.sample(8)) <= 1.05 * one_pass


@pytest.mark.parametrize("network", NETWORKS)
def test_samples_are_as_frequent_as_they_are_probable(network):
    """Pearson's chi-square of 20,000 samples over all 16 images, its 0.9999 quantile of 15 degrees being 44.3."""
    shape, count = (1, 2, 2), 20_000
    made = model(network, shape, 2, orders=2 if network == "made" else 1)
    drawn = made.sample(count, generator=torch.Generator().manual_seed(0))
    code = (((drawn.flatten(1) + 1) / 2).round() @ torch.tensor([8.0, 4, 2, 1], dtype=torch.float64)).long()
    found = torch.bincount(code, minlength=16).double()
    expected = count * made.log_likelihood(every_image(shape, 2)).exp()
    assert ((found - expected).square() / expected).sum().item() < 44.3


@pytest.mark.parametrize("network", NETWORKS)
def test_rows_of_a_prefix_are_kept_and_the_rest_drawn_given_them(network):
    shape, count = (1, 2, 2), 20_000
    made = model(network, shape, 2)
    prefix = torch.tensor([1.0, -1.0], dtype=torch.float64).view(1, 1, 1, 2)
    drawn = made.sample(count, prefix=prefix.expand(count, 1, 1, 2), generator=torch.Generator().manual_seed(0))
    assert (drawn[:, :, :1] == prefix).all()
    x = every_image(shape, 2)
    x = x[(x[:, :, :1] == prefix).flatten(1).all(1)]
    expected = made.log_likelihood(x).softmax(0)
    found = torch.stack([(drawn == image).flatten(1).all(1).double().mean() for image in x])
    assert (found - expected).abs().max() < 4 * 0.5 / math.sqrt(count)  # four standard errors


@pytest.mark.parametrize("network", NETWORKS)
def test_every_weight_has_a_finite_gradient(network):
    made = model(network, num_classes=3, head="logistic", components=2).train()
    x = images(40)
    made.log_prob(x, torch.arange(40) % 3).sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("network", NETWORKS)
def test_a_sample_does_not_depend_on_how_many_follow_and_temperature_narrows(network):
    made = model(network)
    few, many = (made.sample(n, generator=torch.Generator().manual_seed(5)) for n in (3, 30))
    torch.testing.assert_close(few, many[:3])
    assert many.shape == (30, *SHAPE)
    made.log_likelihood(many)  # on the grid
    cold = made.sample(30, generator=torch.Generator().manual_seed(5), temperature=1e-6)
    torch.testing.assert_close(cold, cold[:1].expand_as(cold))


def test_nade_is_a_loop_over_its_entries():
    """h_d = sigmoid(b + W_{<d} x_{<d}), a_d = c_d + V_d h_d, written as the paper has it."""
    net = model("nade").network
    x = images(4).flatten(1)
    expected = [
        net.bias[d] + (net.hidden_bias + x[:, :d] @ net.encoder[:d]).sigmoid() @ net.decoder[d].T
        for d in range(x.shape[1])
    ]
    torch.testing.assert_close(net(x), torch.stack(expected, 1))


def test_a_belief_network_is_one_regression_an_entry():
    net, x = model("fvsbn").network, images(4).flatten(1)
    weight, bias = net.direct.weight.unflatten(0, (24, LEVELS)), net.direct.bias.unflatten(0, (24, LEVELS))
    expected = [x[:, :d] @ weight[d, :, :d].T + bias[d] for d in range(24)]
    torch.testing.assert_close(net(x), torch.stack(expected, 1))


def test_mistakes_are_named():
    made, conditional = model("made"), model("made", num_classes=(2, 3))
    for call, text in (
        (lambda: made.sample(0), "n must be at least 1, got 0"),
        (lambda: made.sample(2, temperature=0.0), "temperature must be above 0, got 0.0"),
        (lambda: made.sample(2, prefix=torch.zeros(2, 2, 4, 4)), r"prefix must have the shape \(2, 2, at most 3, 4\)"),
        (lambda: made.sample(2, prefix=torch.zeros(2, 2, 1, 4) + 0.1), "images must hold 5 grey levels"),
        (
            lambda: model("made", orders=2).sample(1, prefix=images(1)[:, :, :1]),
            "several orders has no exact",
        ),
        (lambda: made.sample(2, labels=torch.tensor([1, 2])), "this model knows no classes"),
        (lambda: conditional.sample(2), "labels must be given: this model knows the classes 0 ... 1 and the classes"),
        (lambda: conditional.sample(2, labels=torch.tensor([[1, 3], [0, 0]])), "labels must be from 0 to 2"),
        (lambda: conditional.sample(2, labels=torch.tensor([1, 1])), "labels must be 2 for each of 2, got 2"),
        (lambda: made.log_likelihood(images(2) + 0.1), "images must hold 5 grey levels"),
        (lambda: model("mlp"), "network must be one of .*, got 'mlp'"),
        (lambda: model("nade", orders=2), "orders must be 1 for the network 'nade', got 2"),
        (lambda: model("nade", width=0), "must be positive"),
        (lambda: model("made", nominal=True), "nominal must be false for the network 'made'"),
        (lambda: model("transformer", heads=5), "width must be a multiple of heads, got width 12 and heads 5"),
        (lambda: Module(SHAPE, LEVELS, class_conditional=True), "the data has no classes"),
        (lambda: Module(SHAPE, LEVELS, augmentation=-1), "model.augmentation must be at least 0, got -1"),
    ):
        with pytest.raises(UserError, match=text):
            call()


@pytest.mark.parametrize("network", ["made"])
def test_a_run_is_exported_samples_and_has_a_density(tmp_path, command, network):
    options = ("--config", f"{network}-digits", "--model.width", 8, "--model.class_conditional", "true")
    folder = runs.fit(tmp_path / "run", *options, "--data.batches_per_epoch", 2, "--trainer.max_epochs", 1)
    exported = tmp_path / "mine"
    assert command("export", folder / "last.ckpt", exported).status == 0
    found = command("sample", exported, "--num-samples", 4, "--labels", 7, "--output", tmp_path / "x.npy")
    assert found.status == 0, found.err
    options = ("--input", tmp_path / "x.npy", "--output", tmp_path / "nats.csv", "--labels", 7, "--json")
    answer = command("density", exported, *options)
    assert answer.status == 0, answer.err
    assert "bits_per_dim" in answer.out


def test_a_wavenet_sees_as_far_as_its_dilations_reach():
    """The input of an output is the entry before it; each dilation s then doubles the places by those s before."""
    made = model("wavenet", (1, 4, 4), 3, depth=3)
    assert made.network.dilations == [1, 2, 4]
    distance = torch.arange(16)[:, None] - torch.arange(16)
    torch.testing.assert_close(dependence(made), (distance >= 1) & (distance <= 8))


def test_attention_to_equal_keys_is_the_mean_of_the_past():
    layer, h = model("transformer").network.layers[0], torch.randn(2, 5, 12, dtype=torch.float64)
    with torch.no_grad():
        layer.project.weight[:12], layer.project.bias[:12] = 0, 0  # queries
        value = layer._project(h)[2].transpose(1, 2).flatten(2)
        mean = value.cumsum(1) / torch.arange(1, 6, dtype=torch.float64)[:, None]
        middle = h + layer.out(mean)
        torch.testing.assert_close(layer(h), middle + layer.perceptron(middle))
