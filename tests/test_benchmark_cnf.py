"""The benchmark of the neural-ODE flow at tiny sizes: that its two sides compute the same thing."""

import torch

from benchmarks import cnf as benchmark
from zoo.flows.ode import Solver
from zoo.flows.velocity import VelocityMLP


def test_the_usual_loop_has_our_loss_and_gradient():
    torch.manual_seed(0)
    field, x = VelocityMLP(2, 5, 2).double(), torch.randn(7, 2).double()
    for parameter in field.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = benchmark.gradient(field, lambda: benchmark.loss_of(field, x, Solver(tolerance=1e-8)))
    theirs = benchmark.gradient(field, lambda: benchmark.Usual(field).loss(x, 1e-8))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_steps_and_costs_are_told(capsys):
    torch.manual_seed(0)
    results = benchmark.compare_steps(1, batch=8, training=2)
    assert [name for name, (_, error, _) in results.items() if error < 0.01]
    benchmark.print_steps(results)
    assert "FFJORD's, 1e-5" in capsys.readouterr().out
    rows = benchmark.compare_costs(1, batch=3, hidden=4)
    assert [row[:2] for row in rows] == [(dims, depth) for dims in (2, 8, 32, 64) for depth in (2, 3)]


def test_a_race_ends_at_its_mark_or_its_time():
    assert 0 < benchmark.race(mark=100.0, matching_steps=100, minutes=1) < 60
    assert benchmark.race(mark=-100.0, matching_steps=0, minutes=1e-4) == float("inf")
