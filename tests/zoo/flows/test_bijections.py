"""Every bijection and every composed flow: there and back, the log-determinant, gradients, the caller's input."""

import pytest
import torch
from torch import Tensor, nn

from tests.zoo.flows.families import BIJECTIONS, CONTEXT, FLOWS, awake, bijection, flow
from zoo.flows.builders import glow, realnvp
from zoo.flows.chain import Chain
from zoo.flows.coupling import Affine, Coupling, MaskedCoupling, Spline
from zoo.flows.layers import ActNorm, InvertibleLinear
from zoo.flows.masks import checkerboard, half
from zoo.flows.nets import MLP

CLOSE = {"rtol": 0, "atol": 1e-8}  # float64, with six digits to spare for the conditioning


def jacobian(function, x: Tensor) -> Tensor:
    """Of one x without a batch, flattened on both sides."""
    return torch.autograd.functional.jacobian(lambda x: function(x[None])[0][0].flatten(), x).flatten(1)


def check(forward, inverse, x: Tensor) -> None:
    """Inverse, log-determinants of both directions against autograd, and the caller's tensor as it was."""
    before = x.clone()
    z, ladj = forward(x)
    back, ladj_back = inverse(z)
    torch.testing.assert_close(back, x, **CLOSE)
    torch.testing.assert_close(ladj_back, -ladj, **CLOSE)
    assert z.dtype == ladj.dtype == torch.float64
    assert ladj.shape == (len(x),)
    for i in (0, 3):
        own = slice(i, i + 1)
        there = jacobian(lambda x, own=own: forward(x, own), x[i])
        torch.testing.assert_close(torch.linalg.slogdet(there).logabsdet, ladj[i], **CLOSE)
        and_back = jacobian(lambda z, own=own: inverse(z, own), z[i].detach())
        torch.testing.assert_close(torch.linalg.slogdet(and_back).logabsdet, ladj_back[i], **CLOSE)
    assert torch.equal(x, before)


def part(rows: Tensor | None, which: slice) -> Tensor | None:
    return None if rows is None else rows[which]


@pytest.mark.parametrize("name", BIJECTIONS)
def test_a_bijection_inverts_and_knows_its_determinant(name):
    layer, x, context = bijection(name)
    everything = slice(None)
    check(
        lambda x, rows=everything: layer(x, part(context, rows)),
        lambda z, rows=everything: layer.inverse(z, part(context, rows)),
        x,
    )


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_inverts_and_knows_its_determinant(name):
    model, x, labels = flow(name)
    everything = slice(None)
    check(
        lambda x, rows=everything: model.encode(x, part(labels, rows)),
        lambda z, rows=everything: model.decode(z, part(labels, rows)),
        x,
    )


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("name", BIJECTIONS)
def test_both_directions_give_every_weight_a_gradient(name, inverse):
    layer, x, context = bijection(name)
    if inverse:
        x = layer(x, context)[0].detach()
    x.requires_grad_()
    y, ladj = layer.inverse(x, context) if inverse else layer(x, context)
    ((y * torch.randn_like(y)).sum() + (ladj * torch.randn_like(ladj)).sum()).backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())
    for key, weight in layer.named_parameters():
        assert weight.grad is not None, key
        assert bool(weight.grad.isfinite().all()), key
        assert bool((weight.grad != 0).any()), key


@pytest.mark.parametrize("name", FLOWS)
def test_every_entry_of_z_depends_on_every_entry_of_x(name):
    model, x, labels = flow(name)
    found = jacobian(lambda x: model.encode(x, part(labels, slice(1))), x[0]) != 0
    if "glow" in name:  # what leaves first has seen windows of 3x3 only; what leaves last has seen all
        found = found[-1:]
    assert bool(found.all())


@pytest.mark.parametrize("name", [name for name, (_, _, width) in BIJECTIONS.items() if width])
def test_a_context_moves_the_map(name):
    layer, x, context = bijection(name)
    assert context is not None
    assert context.shape == (5, CONTEXT)
    assert not torch.allclose(layer(x, context)[0], layer(x, context.flip(0))[0])


def deep(transform, layers: int = 64) -> Chain:
    """Layers of ActNorm, mixing and coupling of 6 features."""
    steps: list[nn.Module] = []
    for i in range(layers):
        net = MLP(3, 3 * transform.size, hidden=16)
        steps += [ActNorm(6), InvertibleLinear(6), Coupling(transform, net, 6, bool(i % 2))]
    return Chain(steps)


@pytest.mark.parametrize("transform", [Affine(), Spline()], ids=["affine", "spline"])
def test_a_deep_stack_stays_finite_and_inverts_as_its_conditioning_allows(transform):
    stack = awake(deep(transform), spread=0.1)
    x = torch.randn(37, 6).double()
    stack.train()(x)
    stack.eval()
    z, ladj = stack(x)
    assert bool(z.isfinite().all())
    assert bool(ladj.isfinite().all())
    back, _ = stack.inverse(z)
    for i in range(3):
        # an error of one rounding in z grows by the norm of the inverse's Jacobian; each of 192 layers makes one
        norm = torch.linalg.matrix_norm(jacobian(stack.inverse, z[i].detach()), 2)
        allowed = 1e-8 + 192 * torch.finfo(torch.float64).eps * z[i].norm() * norm
        assert (back[i] - x[i]).norm() < allowed
    gradient = torch.autograd.grad(stack(x)[1].sum(), stack.parameters(), allow_unused=True)
    assert all(bool(part.isfinite().all()) for part in gradient if part is not None)


@pytest.mark.parametrize("coupling", ["affine", "spline"])
def test_a_new_flow_is_the_identity_on_standardised_points(coupling):
    model = realnvp((5,), coupling=coupling, hidden=16)
    x = 2 * torch.randn(11, 5)  # some beyond the spline's interval
    z, ladj = model.encode(x)
    torch.testing.assert_close(z, x, rtol=0, atol=3e-6)  # the spline's roundings on [-3, 3] in float32
    torch.testing.assert_close(ladj, torch.zeros(11), rtol=0, atol=1e-5)


def test_what_half_precision_gives_is_summed_in_float32():
    layer = glow((1, 4, 4), 17, steps=1, channels=4).bijection.bfloat16()
    _, ladj = layer(torch.rand(3, 1, 4, 4).bfloat16())
    assert ladj.dtype == torch.float32


@pytest.mark.parametrize("flip", [False, True])
def test_squeezed_channels_say_what_a_checkerboard_says(flip):
    """The couplings by checkerboard that `realnvp` runs at scales, on a quarter of the positions."""
    model = awake(realnvp((1, 6, 4), 17, scales=1, couplings=2, hidden=8), spread=0.3)
    squeeze, order, *couplings = model.bijection.bijections[-1].levels[0].bijections[:4]
    coupling = couplings[flip]  # the first one keeps the first half, of even colour
    squeezed = Chain([squeeze, order, coupling])

    class Spread(nn.Module):
        """The same network, on and for all pixels."""

        def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
            channels = order(squeeze(x)[0])[0]
            raw = coupling.net(channels[:, 2:] if coupling.flip else channels[:, :2])
            shift, scale = raw.chunk(2, 1)
            empty = torch.zeros_like(shift)
            full = [torch.cat([part, empty] if coupling.flip else [empty, part], 1) for part in (shift, scale)]
            return torch.cat([squeeze.inverse(order.inverse(part)[0])[0] for part in full], 1)

    assert coupling.flip is flip
    masked = MaskedCoupling(Affine(), Spread(), checkerboard((1, 6, 4), flip))
    x = torch.randn(5, 1, 6, 4).double()
    z, ladj = masked(x)
    found, log_determinant = squeezed(x)
    torch.testing.assert_close(squeeze.inverse(order.inverse(found)[0])[0], z, **CLOSE)
    torch.testing.assert_close(log_determinant, ladj, **CLOSE)


@pytest.mark.parametrize("flip", [False, True])
def test_a_mask_says_what_a_slice_says(flip):
    first, second = (4, 3) if flip else (3, 4)
    sliced = awake(Coupling(Affine(), MLP(first, 2 * second, hidden=16), 7, flip), spread=0.3)

    class Spread(nn.Module):
        """The same network, on and for all entries."""

        def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
            raw = x.new_zeros(len(x), 2, 7)
            kept = half((7,), flip)[0]
            raw[:, :, ~kept] = sliced.net(x[:, kept]).unflatten(1, (2, second))
            return raw.flatten(1)

    masked = MaskedCoupling(Affine(), Spread(), half((7,), flip))
    x = torch.randn(5, 7).double()
    for found, expected in zip((*masked(x), *masked.inverse(x)), (*sliced(x), *sliced.inverse(x)), strict=True):
        torch.testing.assert_close(found, expected, **CLOSE)
