"""Teams through the command line: trained, exported, played, measured, drawn, refused."""

import json
import sys

import pytest
import torch
from PIL import Image

import checkpoints
from checkpoints.catalogue import CARD, CLIP, CONFIG, RESULTS
from commands.drawing import payoffs
from commands.main import main
from zoo.protocols import Player

OPTIONS = {
    "--model": "ValueDecomposition", "--model.compile": False, "--model.hidden": "[8]", "--data": "TeamReplay",
    "--data.num_envs": 4, "--data.batch_size": 8, "--data.warmup_episodes": 4, "--data.updates_per_round": 2,
    "--data.validation_episodes": 1, "--data.rounds_per_batch": 2, "--seed_everything": 0,
    "--trainer.max_epochs": 1, "--trainer.accelerator": "cpu", "--trainer.devices": 1,
    "--trainer.enable_progress_bar": False, "--trainer.num_sanity_val_steps": 0, "--trainer.val_check_interval": 2,
}  # fmt: skip


def words(folder, **changes):
    options = OPTIONS | {"--trainer.default_root_dir": folder}
    options |= {"--" + name.replace("__", "."): value for name, value in changes.items()}
    return ["fit", *[str(word) for pair in options.items() for word in pair]]


def train(place, name, **changes):
    before, sys.argv = sys.argv, ["cli.py"]
    try:
        assert main(words(place / f"run-{name}", **changes)) == 0
        assert main(["export", str(place / f"run-{name}" / "last.ckpt"), str(place / name)]) == 0
    finally:
        sys.argv = before
    return place / name


@pytest.fixture(scope="module")
def game(tmp_path_factory):
    """A team that barely learned QTRAN's game."""
    options = {"data__environment": "matrix/qtran", "data__team_reward": "shared", "data__total_env_steps": 40}
    return train(tmp_path_factory.mktemp("teams"), "vdn-game", model__method="vdn", **options)


@pytest.fixture(scope="module")
def spread(tmp_path_factory):
    """A team of the particle world that barely learned."""
    pytest.importorskip("mpe2")
    options = {"data__environment": "mpe2/simple_spread_v3", "data__vectorization": "native"}
    return train(tmp_path_factory.mktemp("teams"), "qmix-world", data__total_env_steps=300, **options)


def test_a_run_leaves_its_records(spread):
    header = (spread.parent / "run-qmix-world" / "metrics.csv").read_text().splitlines()[0]
    assert {"rollout/return", "train/loss", "val/return", "step"} <= set(header.split(","))
    config = json.loads((spread / CONFIG).read_text())
    assert config["algorithm"] == "ValueDecomposition"
    assert config["model"] == "q-team"
    assert config["protocol"] == "team"
    assert "1803.11485" in config["paper"]
    assert config["data"]["arguments"]["environment"] == "mpe2/simple_spread_v3"
    assert config["origin"]["steps"] == 300


def test_a_team_plays_from_its_folder(spread):
    team = checkpoints.load(str(spread))
    assert isinstance(team, Player)
    assert team.act(torch.zeros(3, 18)).shape == (3,)
    assert team.act(torch.zeros(7, 3, 18), explore=True).shape == (7, 3)
    assert checkpoints.verify(str(spread)) == 0


def test_rollout_tells_returns_of_the_team_and_of_its_agents(spread, command):
    answer = json.loads(command("rollout", spread, "--episodes", 2, "--seed", 3, "--json").out)
    assert answer["lengths"] == [25, 25]
    for total, each in zip(answer["returns"], answer["returns_of_agents"], strict=True):
        assert len(each) == 3
        assert total == pytest.approx(sum(each), rel=1e-5)  # in float32
    again = json.loads(command("rollout", spread, "--episodes", 1, "--seed", 4, "--json").out)
    assert again["returns"] == answer["returns"][1:]
    text = command("rollout", spread, "--episodes", 1).out
    assert text.startswith("mpe2/simple_spread_v3: return -")


def test_a_team_is_measured_and_has_a_card(spread, command, monkeypatch):
    monkeypatch.setattr("commands.measures.team.EPISODES", 10)
    assert command("evaluate", spread, "--update", "--license", "apache-2.0").status == 0
    metrics = json.loads((spread / RESULTS).read_text())["metrics"]
    assert [*metrics][:2] == ["mean_return", "mean_length"]
    assert metrics["mean_length"]["value"] == 25
    card = (spread / CARD).read_text()
    assert "rewards summed over the agents" in card
    assert "team.act(torch.zeros(3, 18))" in card
    assert "## Environment" in card
    with Image.open(spread / CLIP) as film:
        assert film.n_frames > 10
    assert command("evaluate", spread).status == 0


def test_a_game_has_a_card_without_a_film(game, command):
    assert command("evaluate", game, "--update").status == 0
    metrics = json.loads((game / RESULTS).read_text())["metrics"]
    assert [*metrics] == ["mean_return", "mean_length"]
    assert metrics["mean_return"]["spread"] == 0
    assert not (game / CLIP).exists()


def test_heat_maps_of_a_game(game, command, tmp_path, monkeypatch, refused):
    monkeypatch.setattr(payoffs, "UPDATES", 2)
    answer = json.loads(command("figure", "payoff", "--draws", 2, "--output", tmp_path / "a.png", "--json").out)
    assert [point["method"] for point in answer["points"]] == [*payoffs.METHODS]
    assert {(len(point["payoffs"]), point["optimum"]) for point in answer["points"]} == {(2, 8)}
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > picture.height
    assert "is a team: use rollout or evaluate" in refused("figure", "values", game)


def test_what_is_refused(game, refused, command, tmp_path):
    assert "there is no video of it" in refused("rollout", game, "--video", tmp_path / "a.gif")
    assert "has observation_sizes (1, 1), but matrix/two-step" in refused(
        "rollout", game, "--environment", "matrix/two-step"
    )
    assert "is a team: use" in refused("sample", game)
    assert "matrix/qtran" in refused(*words(tmp_path / "run", data__environment="matrix/chess"))
    assert "must be one of independent" in refused(
        *words(tmp_path / "run", data__environment="matrix/qtran", model__method="mix")
    )
    answer = command(*words(tmp_path / "run", data__environment="matrix/qtran", trainer__precision="bf16-mixed"))
    assert answer.status == 2
    assert answer.err.splitlines()[-1].endswith("is not known to ValueDecomposition: use 32-true")
