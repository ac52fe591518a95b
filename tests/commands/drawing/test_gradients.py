"""The picture of the policy gradient: its numbers are what theory says, and four methods learn a bandit."""

import json

import pytest
from PIL import Image

from zoo.rl.tabular.bandit import METHODS, learn_bandit


def test_its_numbers_are_the_theory_s(command, tmp_path):
    answer = command("figure", "policy-gradient", "--output", tmp_path / "a.png", "--draws", 1, "--json")
    assert answer.status == 0
    points = json.loads(answer.out)["points"]
    found = {point["estimator"]: point for point in points if "estimator" in point}
    biased = {name for name, point in found.items() if point["largest_z"] > 5}
    assert biased == {
        "reward-to-go without gamma^t", "minus the batch mean, own return included", "GAE(0.9), with half of V",
        "one step, with half of V",
    }  # fmt: skip
    mean = found["minus the batch mean, own return included"]
    # 1 - 1/4, within 3.5 of its standard errors
    assert mean["shrinkage"] == pytest.approx(0.75, abs=3.5 * mean["standard_error"])
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (1100, 770)


def test_methods_on_a_bandit():
    learned = {method: learn_bandit(method, 60) for method in METHODS}
    assert all(0 <= point["kl"] <= 0.01 for point in learned["TRPO"])
    for method, points in learned.items():
        rewards = [point["reward"] for point in points]
        assert rewards == sorted(rewards), f"{method} never loses: gradients are exact and steps small"
        assert rewards[-1] > 0.98
    # the vanilla gradient stands still where the best arm is rare, and jumps where it is not
    kl = [point["kl"] for point in learned["vanilla"]]
    assert max(kl) > 1000 * min(kl[:40])


def test_it_takes_no_model(refused):
    assert "takes no MODEL" in refused("figure", "policy-gradient", "ddpm-digits")
    assert "figure flow needs a MODEL" in refused("figure", "flow")
