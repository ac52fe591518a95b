"""The neural-ODE flow: closed forms, trace, solvers, both gradients, both objectives, parity with torchdiffeq."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from zoo.errors import RowError, UserError
from zoo.flows.cnf import CNF, DATA, NOISE, flow_matching_loss
from zoo.flows.cnf_model import cnf as cnf_model
from zoo.flows.dequantise import dequantise
from zoo.flows.ode import FIXED, Solver
from zoo.flows.velocity import ACTIVATIONS, Change, VelocityMLP

DIMS, CONTEXT, BATCH = 3, 4, 5
TIGHT = Solver(tolerance=1e-9)


class Linear(nn.Module):
    """v = a x, whose flow is known: x_1 = e^a x_0."""

    def __init__(self, a):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def forward(self, t, x, context=None):
        return self.a * x

    velocity = forward

    def change(self, t, x, context=None, probe=None, exact=True):
        trace = (self.a * x.shape[1]).expand(len(x)) if exact else (probe * self.a * probe).sum(-1)
        return Change(self.a * x, trace, None if probe is None else self.a * probe)


def field(depth=3, hidden=7, dims=DIMS, context=0, activation="tanh", std=0.3, **options):
    torch.manual_seed(0)
    net = VelocityMLP(dims, hidden, depth, context, activation, frequencies=3, **options).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=std)
    return net


def points(*shape):
    return torch.randn(shape or (BATCH, DIMS), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def normal_log_prob(z):
    return -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "rk4"])
@pytest.mark.parametrize("a", [0.7, -1.3])
def test_a_linear_field_has_its_closed_form(a, method):
    # x_1 = e^a x_0 turns N(0, I) into N(0, e^{2a} I); the integral of the trace is D a in this direction
    cnf, x = CNF(Linear(a), Solver(method, tolerance=1e-9, steps=64)), points()
    z, ladj = cnf(x)
    std = math.exp(a)
    expected = normal_log_prob(x / std) - DIMS * a
    close = {"rtol": 1e-7, "atol": 1e-7}  # rk4 with h = 1/64: h^4 / 120
    torch.testing.assert_close(normal_log_prob(z) + ladj, expected, **close)
    torch.testing.assert_close(ladj, torch.full_like(ladj, -DIMS * a), **close)
    back, reverse = cnf.inverse(z)
    torch.testing.assert_close(back, z * std, **close)
    torch.testing.assert_close(reverse, -ladj, **close)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_divergence_is_the_trace_of_the_autograd_jacobian(depth, activation):
    net, x, t = field(depth, context=CONTEXT, activation=activation), points(), torch.rand(BATCH).double()
    context, probe = points(BATCH, CONTEXT), points(BATCH, DIMS).sign()
    jacobians = torch.stack(
        [
            torch.autograd.functional.jacobian(lambda y, i=i: net(t[i], y[None], context[i : i + 1])[0], x[i])
            for i in range(BATCH)
        ]
    )
    exact = net.change(t, x, context, probe)
    products = torch.einsum("bij,bj->bi", jacobians, probe)
    torch.testing.assert_close(exact.velocity, net(t, x, context))
    torch.testing.assert_close(exact.divergence, jacobians.diagonal(dim1=1, dim2=2).sum(1))
    torch.testing.assert_close(exact.product, products)
    estimate = net.change(t, x, context, probe, exact=False).divergence
    torch.testing.assert_close(estimate, (probe * products).sum(1))


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_ladj_is_that_of_the_whole_map(depth, direction):
    cnf, x, context = CNF(field(depth, context=CONTEXT), TIGHT), points(), points(BATCH, CONTEXT)
    through = cnf if direction == "forward" else cnf.inverse
    _, ladj = through(x, context)
    for i in range(2):
        own = context[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(lambda y, own=own: through(y[None], own)[0][0], x[i])
        torch.testing.assert_close(ladj[i], torch.linalg.slogdet(jacobian)[1], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8])
def test_inverse_and_density_to_the_tolerance(tolerance):
    # a few dozen steps, each with an error below the tolerance, stretched by a Lipschitz constant of a few
    cnf, x = CNF(field(), Solver(tolerance=tolerance)), points()
    z, ladj = cnf(x)
    back, reverse = cnf.inverse(z)
    assert (back - x).abs().max() < 100 * tolerance
    assert (ladj + reverse).abs().max() < 100 * tolerance
    exact_z, exact_ladj = CNF(cnf.field, TIGHT)(x)
    assert (z - exact_z).abs().max() < 100 * tolerance
    assert (ladj - exact_ladj).abs().max() < 100 * tolerance


def test_float32_at_the_default_tolerance_has_the_density_of_float64():
    cnf, x = CNF(field()), points(200, DIMS)
    _, exact = CNF(cnf.field, Solver(tolerance=1e-9))(x)
    _, ladj = CNF(cnf.field.float(), Solver())(x.float())
    assert ladj.dtype == torch.float32
    assert abs((ladj.double() - exact).mean()) < 1e-5  # the bias allowed is 1e-4
    assert (ladj.double() - exact).abs().max() < 1e-4


def test_one_sample_is_not_drowned_by_the_batch():
    # v = -x^3: x_1 = x_0 / sqrt(1 + 2 x_0^2), log |det| = -3/2 sum log(1 + 2 x_0^2); all points but one rest at 0
    class Cubic(Linear):
        def change(self, t, x, context=None, probe=None, exact=True):
            return Change(-x.pow(3), -3 * x.square().sum(1), None)

    x, tolerance = torch.zeros(20_000, DIMS, dtype=torch.float64), 1e-5
    x[-1] = torch.tensor([3.0, -2.0, 1.0])
    z, ladj = CNF(Cubic(0.0), Solver(tolerance=tolerance)).inverse(x)
    stretch = 1 + 2 * x[-1].square()
    assert (z[-1] - x[-1] / stretch.sqrt()).abs().max() < 2 * tolerance
    assert (ladj[-1] + 1.5 * stretch.log().sum()).abs() < 20 * tolerance  # 20 steps, each below tolerance * |ladj|


@pytest.mark.parametrize(("method", "order"), [*zip(FIXED, (1, 2, 4), strict=True)])
def test_order_of_convergence(method, order):
    net, x = field(std=0.4), points()
    exact = CNF(net, Solver(tolerance=1e-11))(x)
    errors = []
    for steps in (16, 32, 64):
        cnf = CNF(net, Solver(method, steps=steps))
        errors.append(max((a - b).abs().max().item() for a, b in zip(cnf(x), exact, strict=True)))
        assert cnf.evaluations == steps * order
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert orders[-1] == pytest.approx(order, abs=0.35), orders


@pytest.mark.parametrize("regularise", [False, True])
def test_adjoint_is_backprop_to_the_tolerance(regularise):
    x, results = points(), []
    for gradient in ("backprop", "adjoint"):
        net, leaf = field(context=CONTEXT), x.clone().requires_grad_()
        context = points(BATCH, CONTEXT).requires_grad_()
        cnf = CNF(net, Solver(tolerance=1e-8, gradient=gradient))
        signs = torch.Generator().manual_seed(2)
        way = cnf.transport(leaf, DATA, NOISE, context, regularise=regularise, generator=signs)
        value = (normal_log_prob(way.points) + way.ladj).sum()
        if regularise:
            value = value + way.kinetic.sum() + way.jacobian.sum()
        assert way.evaluations.backward == 0
        results.append(torch.autograd.grad(value, [leaf, context, *net.parameters()]))
        assert (way.evaluations.backward > 0) == (gradient == "adjoint")
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_gradient_is_that_of_finite_differences():
    net, x = field(depth=2), points()
    cnf, weight, h = CNF(net, TIGHT), field(depth=2).layers[1].weight, 1e-5
    weight = net.layers[1].weight
    (gradient,) = torch.autograd.grad(cnf(x)[1].sum(), weight)
    values = []
    for shift in (h, -h):
        with torch.no_grad():
            weight[2, 3] += shift
            values.append(cnf(x)[1].sum())
            weight[2, 3] -= shift
    torch.testing.assert_close(gradient[2, 3], (values[0] - values[1]) / (2 * h), rtol=1e-5, atol=1e-7)


def test_hutchinson_is_unbiased_and_its_signs_stay_for_a_solve():
    net, x = field(), points(1, DIMS).expand(4000, -1)
    cnf = CNF(net, Solver("rk4", steps=4), trace="hutchinson")
    exact = CNF(net, Solver("rk4", steps=4))(x[:1])[1]
    estimates = cnf.transport(x, DATA, NOISE, generator=torch.Generator().manual_seed(0)).ladj
    error = estimates.std() / math.sqrt(len(x))
    assert error > 0
    assert abs(estimates.mean() - exact) < 4 * error

    # Were the signs drawn anew at every evaluation, an adaptive solver would see noise and shrink its steps.
    adaptive = CNF(net, Solver(tolerance=1e-8), trace="hutchinson")
    adaptive(x[:BATCH])
    with_noise = adaptive.evaluations
    CNF(net, Solver(tolerance=1e-8))(x[:BATCH])
    assert with_noise < 200
    # the same signs, another solver: the same estimate
    pair = [
        CNF(net, solver, trace="hutchinson").transport(x, DATA, NOISE, generator=torch.Generator().manual_seed(3)).ladj
        for solver in (Solver(tolerance=1e-9), Solver("rk4", steps=64))
    ]
    torch.testing.assert_close(*pair, rtol=1e-6, atol=1e-6)


# evaluation, where each row has its own steps


@pytest.mark.parametrize(("method", "tolerance"), [("dopri5", 1e-8), ("dopri8", 1e-8), ("bosh3", 1e-6)])
@pytest.mark.parametrize("start", [DATA, NOISE])
def test_each_row_by_itself_has_the_closed_form(start, method, tolerance):
    # v = -x^3: x_1 = x_0 / sqrt(1 + 2 x_0^2), log |det| = -3/2 sum log(1 + 2 x_0^2)
    class Cubic(Linear):
        def change(self, t, x, context=None, probe=None, exact=True):
            return Change(-x.pow(3), -3 * x.square().sum(1), None)

    x0, cnf = points(40, DIMS), CNF(Cubic(0.0), Solver(method, tolerance=tolerance)).eval()
    x0[0] = torch.tensor([30.0, -20.0, 10.0])
    stretch = 1 + 2 * x0.square()
    x1, ladj = x0 / stretch.sqrt(), -1.5 * stretch.log().sum(1)
    if start == NOISE:
        found, found_ladj = cnf.inverse(x0)
        close = {"rtol": 10 * tolerance, "atol": 10 * tolerance}
        torch.testing.assert_close(found, x1, **close)
        torch.testing.assert_close(found_ladj, ladj, **close)
    else:  # back, where the error grows by the map's derivative
        found, found_ladj = cnf(x1[1:])
        close = {"rtol": 1000 * tolerance, "atol": 1000 * tolerance}
        torch.testing.assert_close(found, x0[1:], **close)
        torch.testing.assert_close(found_ladj, -ladj[1:], **close)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 2e-5), (torch.float64, 1e-10)])
def test_a_row_does_not_depend_on_its_companions(dtype, rounding):
    cnf, x, context = CNF(field(context=CONTEXT)).to(dtype).eval(), points(300, DIMS), points(300, CONTEXT)
    x, context = x.to(dtype), context.to(dtype)
    x[:10] *= 1e4  # deviations
    z, ladj = cnf(x, context)
    for rows in (slice(20, 21), slice(10, 300), torch.arange(299, 9, -7)):
        alone, alone_ladj = cnf(x[rows], context[rows])
        torch.testing.assert_close(alone, z[rows], rtol=rounding, atol=rounding)
        torch.testing.assert_close(alone_ladj, ladj[rows], rtol=rounding, atol=rounding)


def test_evaluation_is_differentiable():
    net, x = field(), points().requires_grad_()
    found = [
        torch.autograd.grad(cnf(x)[1].sum(), [x, *net.layers.parameters()])
        for cnf in (CNF(net, TIGHT).train(), CNF(net, TIGHT).eval())
    ]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_the_row_that_cannot_be_solved_is_named():
    class Stiff(Linear):
        def change(self, t, x, context=None, probe=None, exact=True):
            return Change(-(x**9), torch.zeros_like(x[:, 0]), None)

    x = points(5, DIMS)
    x[3, 1] = 1e4
    with pytest.raises(RowError, match=r"row 4 \(counted from 1\): solver 'dopri5' could not reach its .* evaluations"):
        CNF(Stiff(0.0), Solver(max_evaluations=300)).eval().inverse(x)
    x[1, 2] = math.nan
    with pytest.raises(RowError, match=r"row 2 \(counted from 1\).*: the step underflowed at t = 0 .* leave such rows"):
        CNF(Stiff(0.0)).eval().inverse(x)
    assert str(RowError(3, " is odd").after(100)) == "row 104 (counted from 1) is odd"


def test_a_tolerance_adds_digits_in_float64():
    torch.manual_seed(0)
    model = cnf_model((2,), hidden=8, depth=2).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = 3 * torch.randn(50, 2, dtype=torch.float64)
    exact, tolerances = model.log_likelihood(x, tolerance=1e-11), (1e-4, 1e-6, 1e-8)
    errors = [(model.log_likelihood(x, tolerance=t) - exact).abs().max() for t in tolerances]
    assert all(error < 1000 * t for error, t in zip(errors, tolerances, strict=True)), errors
    assert torch.equal(model.log_likelihood(x), model.log_likelihood(x, tolerance=1e-5)), "the model's own"
    with pytest.raises(UserError, match="tolerance must be between 0 and 1, got -1"):
        model.log_likelihood(x, tolerance=-1.0)


def test_estimates_are_averaged_as_log_densities():
    """exp(estimate) is too high in the mean, so that an importance estimate of them would flatter."""
    torch.manual_seed(0)
    exact, noisy = (
        cnf_model((1, 2, 3), levels=5, hidden=8, depth=2, solver="rk4", steps=2, trace=trace).double().eval()
        for trace in ("exact", "hutchinson")
    )
    for parameter in exact.cnf.parameters():
        nn.init.normal_(parameter, std=0.5)
    noisy.load_state_dict(exact.state_dict())
    assert (exact.is_estimate, noisy.is_estimate) == (False, True)
    x = torch.randint(5, (400, 1, 2, 3)).double() / 2 - 1
    generator, drawn = torch.Generator().manual_seed(2), []
    for _ in range(3):
        noise = torch.rand(x.shape, generator=generator).to(x)
        drawn.append(noisy.log_prob(dequantise(x, 5, noise), generator=generator) - 6 * math.log(5))
    found = noisy.log_likelihood(x, generator=torch.Generator().manual_seed(2), draws=3)
    torch.testing.assert_close(found, torch.stack(drawn).mean(0))
    # with one draw both see the same noise of the levels, and differ by the trace's alone
    one, true = (m.log_likelihood(x, generator=torch.Generator().manual_seed(1), draws=1) for m in (noisy, exact))
    difference = one - true
    assert difference.std() > 0.01
    assert abs(difference.mean()) < 4 * difference.std() / 20


def test_an_estimate_of_the_trace_has_one_value_in_evaluation():
    torch.manual_seed(0)
    model = cnf_model((3,), hidden=8, depth=2, trace="hutchinson").eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(40, 3)
    state = torch.get_rng_state()
    value = model(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model(x), value)
    assert torch.equal(model.log_likelihood(x), value)
    torch.testing.assert_close(model(x[:7]), value[:7])  # signs of a row, whatever follows
    one, two, other = (model.log_likelihood(x, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.allclose(one, other)
    model.train()
    assert not torch.equal(model.log_prob(x), model.log_prob(x))


def test_training_has_its_own_solver_and_trace():
    cnf, x = CNF(field(), TIGHT), points()
    cnf.training_solver, cnf.training_trace = Solver("rk4", steps=3), "hutchinson"
    cnf.train()
    first, second = cnf(x)[1], cnf(x)[1]
    assert cnf.evaluations == 12
    assert not torch.equal(first, second)
    cnf.eval()
    torch.testing.assert_close(cnf(x)[1], cnf(x)[1], rtol=0, atol=0)
    assert cnf.evaluations > 12
    assert not any("solver" in name for name in cnf.state_dict())


@pytest.mark.parametrize("direction", [(DATA, NOISE), (NOISE, DATA)])
def test_regularisers_have_their_closed_form(direction):
    # along v = a x, |v|^2 = a^2 x_s^2 e^{2 a (t - s)}, and |J e|^2 = a^2 D for signs e
    a, x = 0.8, points()
    way = CNF(Linear(a), TIGHT).transport(x, *direction, regularise=True)
    start, end = direction
    integral = (math.exp(2 * a * (end - start)) - 1) / (2 * a) * (1 if end > start else -1)
    torch.testing.assert_close(way.kinetic, a**2 * x.square().mean(1) * integral, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(way.jacobian, torch.full_like(way.ladj, a**2), rtol=1e-7, atol=1e-8)


def test_grid_integral_is_one():
    net = field(dims=2)
    cnf, side = CNF(net, Solver("rk4", steps=8)), torch.linspace(-9, 9, 181, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        z, ladj = cnf(grid)
    total = (normal_log_prob(z) + ladj).exp().sum() * (side[1] - side[0]) ** 2
    assert total.item() == pytest.approx(1, abs=1e-3)


def test_flow_matching_is_least_at_the_closed_form_for_gaussian_data():
    # data N(0, s^2): E[x - z | x_t] = (t s^2 - (1 - t)) / ((1 - t)^2 + t^2 s^2) x_t
    s = 1.7

    class Best(nn.Module):
        factor = 1.0

        def forward(self, t, x, context=None):
            return self.factor * ((t * s**2 - (1 - t)) / ((1 - t) ** 2 + (t * s) ** 2))[:, None] * x

    x, best, losses = s * points(20_000, 2), Best(), []
    for factor in (0.97, 1.0, 1.03):
        best.factor = factor
        losses.append(flow_matching_loss(best, x, generator=torch.Generator().manual_seed(0)))
    assert losses[1].shape == (20_000,)
    assert losses[1].mean() < min(losses[0].mean(), losses[2].mean())
    # what remains is Var[x - z | x_t], whose integral over t in [0, 1] is s^2 int dt / ((1-t)^2 + t^2 s^2) = s pi / 2
    error = losses[1].std() / math.sqrt(len(x))
    assert abs(losses[1].mean() - s * math.pi / 2) < 4 * error


def test_optimal_coupling_shortens_the_paths_and_keeps_the_data():
    class Still(nn.Module):
        def forward(self, t, x, context=None):
            self.seen = x
            return torch.zeros_like(x)

    x, still = points(64, 2), Still()
    lengths = [
        flow_matching_loss(still, x, coupling=coupling, generator=torch.Generator().manual_seed(0)).mean()
        for coupling in ("independent", "ot")
    ]
    assert lengths[1] < 0.5 * lengths[0]  # |x - z|^2 / D: 2 apart at random, much closer when paired
    with pytest.raises(UserError, match="coupling must be 'independent', or 'ot' without labels"):
        flow_matching_loss(still, x, context=x, coupling="ot")


def test_flow_matching_learns_a_shifted_gaussian():
    torch.manual_seed(0)
    net = VelocityMLP(2, 16, 2)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    mean, std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 1.5])
    for _ in range(300):
        optimizer.zero_grad()
        flow_matching_loss(net, mean + std * torch.randn(256, 2)).mean().backward()
        optimizer.step()
    x = mean + std * torch.randn(4000, 2)
    with torch.no_grad():
        z, ladj = CNF(net, Solver("rk4"))(x)
    truth = torch.distributions.Normal(mean, std).log_prob(x).sum(1)
    assert (truth - normal_log_prob(z) - ladj).mean().abs() < 0.03  # KL in nats; 0.9 before training


def test_path_ends_where_transport_does():
    cnf, x = CNF(field(), TIGHT), points(BATCH, 1, DIMS)
    for inverse in (False, True):
        path = cnf.path(x, inverse=inverse, frames=4)
        assert len(path) == 5
        assert path[0] is x
        end = (cnf.inverse if inverse else cnf)(x)[0]
        torch.testing.assert_close(path[-1], end, rtol=1e-7, atol=1e-7)  # two solves at 1e-9


def test_parity_with_torchdiffeqs_own_cnf():
    # its example's formulation: state (z, log p) as a tuple, the trace by a differentiation a dimension
    torchdiffeq = pytest.importorskip("torchdiffeq")
    net, x = field(), points()

    def dynamics(t, state):
        with torch.enable_grad():
            leaf = state[0].detach().requires_grad_()
            v = net(t, leaf)
            trace = sum(torch.autograd.grad(v[:, i].sum(), leaf, retain_graph=True)[0][:, i] for i in range(DIMS))
        return v.detach(), -trace[:, None]

    times = torch.tensor([DATA, NOISE], dtype=torch.float64)
    state = (x, torch.zeros(BATCH, 1, dtype=torch.float64))
    z, delta = torchdiffeq.odeint(dynamics, state, times, atol=1e-9, rtol=1e-9, method="dopri5")
    ours_z, ours_ladj = CNF(net, Solver(tolerance=1e-9))(x)
    torch.testing.assert_close(ours_z, z[1], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(ours_ladj, -delta[1, :, 0], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("gradient", ["backprop", "adjoint"])
def test_a_stiff_field_ends_with_its_evaluations(gradient):
    cnf = CNF(Linear(-1e7), Solver(max_evaluations=300, gradient=gradient))
    with pytest.raises(UserError, match=r"tolerance 1e-05: too many evaluations at t = .* after 300 evaluations"):
        cnf.inverse(points())


def test_an_adjoint_is_bounded_too():
    # forwards e^{-20} x is easy enough; backwards the adjoint's own solve needs more
    cnf = CNF(Linear(-20.0), Solver(max_evaluations=150, tolerance=1e-4, gradient="adjoint"))
    z, _ = cnf.inverse(points().requires_grad_())
    with pytest.raises(UserError, match="too many evaluations"):
        (z.sum() * 1e6).backward()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_ends_the_solve(value):
    x = points()
    x[2, 1] = value
    with pytest.raises(UserError, match="could not reach its tolerance"):
        CNF(field())(x)


def test_inputs_stay_and_images_keep_their_shape():
    x = points(BATCH, 1, 2, 3)
    before = x.clone()
    cnf = CNF(field(dims=6), TIGHT)
    z, ladj = cnf(x)
    assert z.shape == x.shape
    assert ladj.shape == (BATCH,)
    assert torch.equal(x, before)
    torch.testing.assert_close(cnf.inverse(z)[0], x, rtol=1e-6, atol=1e-6)


def test_dropout_is_for_flow_matching_alone():
    net = field(dropout=0.5).train()
    x, t = points(), torch.tensor(0.3, dtype=torch.float64)
    assert not torch.equal(net(t, x), net(t, x))
    torch.testing.assert_close(net.velocity(t, x), net.change(t, x).velocity)
    assert net.dropout == 0.5


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Solver("runge"), "solver must be one of dopri5, .* got 'runge'"),
        (lambda: Solver(tolerance=0), "tolerance must be between 0 and 1, got 0"),
        (lambda: Solver(steps=0), "steps must be at least 1, got 0"),
        (lambda: Solver(max_evaluations=0), "max_evaluations must be at least 1"),
        (lambda: Solver(gradient="none"), "gradient must be one of backprop, adjoint"),
        (lambda: CNF(field(), trace="some"), "trace must be one of exact, hutchinson, got 'some'"),
        (lambda: VelocityMLP(2, activation="relu"), "activation must be one of tanh, silu, softplus, got 'relu'"),
        (lambda: VelocityMLP(2, depth=0), "depth must be at least 1, got 0"),
        (lambda: VelocityMLP(2, dropout=1.0), "dropout must be at least 0 and below 1"),
    ],
)
def test_mistakes(build, message):
    with pytest.raises(UserError, match=message):
        build()
