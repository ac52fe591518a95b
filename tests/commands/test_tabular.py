"""Tables through the command line: exact returns beside episodes, and pictures of values in a grid world."""

import json

import pytest
import torch
from PIL import Image

from checkpoints.store import save
from datamodules.experience.environments import make
from datamodules.experience.planning import mdp_of
from zoo.rl.tabular.mdp import value_iteration

TRAINING = "model:\n  class_path: Tabular\n  init_args:\n    method: value_iteration\n    spaces: null\n"


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """A table of FrozenLake without slipping, by value iteration."""
    folder = tmp_path_factory.mktemp("tables") / "lake"
    arguments = {"is_slippery": False}
    q, sweeps = value_iteration(mdp_of("FrozenLake-v1", make("FrozenLake-v1", arguments)), 0.9)
    data = {"environment": "FrozenLake-v1", "environment_arguments": arguments, "total_env_steps": 50}
    about = {"data": {"class": "TabularExperience", "arguments": data}, "protocol": "exact"}
    origin = {"seed": 0, "steps": sweeps, "commit": "0" * 40}
    shape = {"observation_shape": [16], "num_actions": [4], "action_low": [], "action_high": [], "epsilon": 0.1}
    save(folder, "table", shape, {"q": q.float()}, origin, TRAINING, about)
    return folder


def test_a_table_is_measured_exactly_beside_its_episodes(lake, command):
    from checkpoints.catalogue import describe
    from checkpoints.store import load
    from commands.measures import measure

    metrics = measure(load(str(lake)), describe(lake), full=True, say=lambda text: None)
    assert [*metrics][:2] == ["exact_return", "exploring_return"]
    assert metrics["exact_return"].value == metrics["mean_return"].value == 1
    assert 0.5 < metrics["exploring_return"].value < 1  # six steps, each wrong with probability 3/40, mostly forgiven
    assert "return 1.00" in command("rollout", lake, "--episodes", 2).out


def test_values_are_drawn_as_they_converge(lake, command, tmp_path):
    answer = command("figure", "values", lake, "--output", tmp_path / "a.gif", "--json")
    points = json.loads(answer.out)["points"]
    assert points[0]["expected_return"] == 0
    assert points[-1]["expected_return"] == 1
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames >= len(points)
    assert command("figure", "values", lake, "--output", tmp_path / "a.png").status == 0
    with Image.open(tmp_path / "a.png") as picture:
        assert len(picture.convert("RGB").getcolors(100_000)) > 10
    assert "has no figure 'steps'; it has values" in command("figure", "steps", lake).err


def test_values_of_what_is_no_grid_world_are_refused(tmp_path, command):
    folder = tmp_path / "taxi"
    about = {"data": {"class": "TabularExperience", "arguments": {"environment": "Taxi-v4"}}, "protocol": "exact"}
    shape = {"observation_shape": [500], "num_actions": [6], "action_low": [], "action_high": []}
    save(folder, "table", shape, {"q": torch.zeros(500, 6)}, {"seed": 0, "steps": 1}, TRAINING, about)
    assert "draws grid worlds, FrozenLake and CliffWalking" in command("figure", "values", folder).err
