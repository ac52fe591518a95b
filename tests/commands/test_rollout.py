"""Policies through the command line: trained, resumed after a kill, exported, played, measured, refused."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

import checkpoints
from checkpoints.catalogue import CLIP, CONFIG, RESULTS
from commands.main import main
from tests import runs

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = {
    "--model": "PPO", "--model.hidden": "[8]", "--model.minibatch_size": 16, "--model.epochs": 2,
    "--model.compile": False, "--data": "Experience", "--data.environment": "CartPole-v1", "--data.num_envs": 2,
    "--data.rollout_steps": 16, "--data.rollouts_per_batch": 1, "--data.total_env_steps": 200,
    "--data.validation_episodes": 2,
    "--trainer.max_epochs": 1, "--trainer.accelerator": "cpu", "--trainer.devices": 1,
    "--trainer.enable_progress_bar": False, "--trainer.num_sanity_val_steps": 0, "--trainer.val_check_interval": 4,
}  # fmt: skip


def words(folder, **changes):
    options = OPTIONS | {"--trainer.default_root_dir": folder}
    options |= {"--" + name.replace("__", "."): value for name, value in changes.items()}
    return ["fit", *[str(word) for pair in options.items() for word in pair]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The run folder of a short training, and the model folder of its policy."""
    place = tmp_path_factory.mktemp("cart")
    before, sys.argv = sys.argv, ["cli.py"]
    try:
        assert main(words(place / "run", model__normalize=True)) == 0
        assert main(["export", str(place / "run" / "last.ckpt"), str(place / "cart")]) == 0
    finally:
        sys.argv = before
    return place


def test_a_run_leaves_its_records(trained):
    files = {path.name for path in (trained / "run").iterdir()}
    assert {"last.ckpt", "metrics.csv", "curves.png", "config.yaml"} <= files
    header, *rows = (trained / "run" / "metrics.csv").read_text().splitlines()
    columns = header.split(",")
    assert {"rollout/return", "train/kl", "val/return", "time/env_steps_per_s", "step"} <= set(columns)
    steps = [int(row.split(",")[columns.index("step")]) for row in rows]
    assert steps == sorted(steps)
    assert steps[-1] >= 200, "environment steps are the x axis"
    saved = runs.read(trained / "run" / "last.ckpt")
    assert saved["env_steps"] == steps[-1] == saved["origin"]["steps"]
    assert saved["data"]["arguments"]["environment"] == "CartPole-v1"


def test_a_run_shorter_than_its_validation_interval_is_judged_at_its_end(tmp_path, command):
    run = tmp_path / "run"
    assert command(*words(run, data__total_env_steps=32, trainer__val_check_interval=1000)).status == 0
    assert "val/return" in (run / "metrics.csv").read_text()
    said = command("validate", *words(run)[1:], "--ckpt_path", run / "last.ckpt").out
    assert "val/return" in said


def test_a_policy_plays_without_lightning_as_it_did_with_it(trained):
    """The normaliser is inside: a fresh process without Lightning plays the same returns."""
    code = (
        "import sys; sys.modules['lightning'] = None\n"
        "from functools import partial\n"
        "from checkpoints import load\n"
        f"policy = load({str(trained / 'cart')!r})\n"
        "import gymnasium, torch\n"
        "returns = []\n"
        "for seed in range(3):\n"
        "    env = gymnasium.make('CartPole-v1'); last, _ = env.reset(seed=seed); over = False; total = 0.0\n"
        "    while not over:\n"
        "        last, reward, end, cut, _ = env.step(policy.act(torch.from_numpy(last)).item())\n"
        "        total += reward; over = end or cut\n"
        "    returns.append(total)\n"
        "print(returns)"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    from datamodules.experience.environments import make
    from datamodules.experience.episodes import play

    saved = runs.read(trained / "run" / "last.ckpt")["state_dict"]
    policy = checkpoints.load(str(trained / "cart"))
    assert policy.normalizer.count > 100
    for name, value in policy.state_dict().items():
        assert torch.equal(saved[f"model.{name}"], value)
    assert json.loads(said) == play(policy, lambda: make("CartPole-v1"), range(3)).returns.tolist()


def test_rollout(trained, command, tmp_path):
    answer = json.loads(command("rollout", trained / "cart", "--episodes", 3, "--seed", 4, "--json").out)
    assert answer["env"] == "CartPole-v1"
    assert answer["returns"] == [float(length) for length in answer["lengths"]]
    assert answer["mean"] == pytest.approx(sum(answer["returns"]) / 3)
    again = json.loads(command("rollout", trained / "cart", "--episodes", 1, "--seed", 5, "--json").out)
    assert again["returns"] == answer["returns"][1:2]
    drawn = [
        json.loads(command("rollout", trained / "cart", "--explore", "--episodes", 4, "--json").out) for _ in range(2)
    ]
    assert drawn[0] == drawn[1]
    text = command("rollout", trained / "cart", "--episodes", 3, "--seed", 4).out
    assert text.startswith(f"CartPole-v1: return {answer['mean']:.2f} ± {answer['std']:.2f} over 3 episodes")


@pytest.mark.parametrize("ending", [".gif", ".mp4"])
def test_a_video(trained, command, tmp_path, ending):
    pytest.importorskip("pygame")
    pytest.importorskip("imageio_ffmpeg")
    film = tmp_path / f"film{ending}"
    answer = command("rollout", trained / "cart", "--episodes", 1, "--video", film)
    assert answer.status == 0
    if ending == ".gif":
        with Image.open(film) as image:
            assert image.n_frames >= 8
    else:
        assert film.read_bytes()[4:8] == b"ftyp"


def test_evaluate_gives_the_number_of_the_card_to_the_digit(trained, command, copy, refused):
    pytest.importorskip("pygame")
    folder = copy(trained / "cart")
    assert "--update" in refused("evaluate", folder)
    assert command("evaluate", folder, "--update").status == 0
    assert {RESULTS, "README.md", CLIP} <= {path.name for path in folder.iterdir()}
    answer = json.loads(command("evaluate", folder, "--json").out)["metrics"]["mean_return"]
    assert answer["card"] == answer["now"]
    assert answer["ok"]
    assert "reinforcement-learning" in (folder / "README.md").read_text()
    assert checkpoints.verify(str(folder)) == 0


def test_a_killed_run_goes_on(tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log"
    arguments = words(folder, data__total_env_steps=10**7, save_every_n_env_steps=64)
    process = runs.PROCESSES.Process(target=runs.command, args=(log, arguments))
    process.start()
    while not (folder / "last.ckpt").exists():
        assert process.is_alive(), log.read_text()
        time.sleep(0.02)
    process.kill()
    process.join()
    at = runs.read(folder / "last.ckpt")["env_steps"]
    ends = words(folder, data__total_env_steps=at + 100, ckpt_path=folder / "last.ckpt")
    process = runs.PROCESSES.Process(target=runs.command, args=(log, ends))
    process.start()
    process.join(60)
    assert process.exitcode == 0, log.read_text()
    assert at + 100 <= runs.read(folder / "last.ckpt")["env_steps"] < at + 140
    header, *rows = (folder / "metrics.csv").read_text().splitlines()
    steps = [int(row.split(",")[header.split(",").index("step")]) for row in rows]
    assert steps == sorted(steps), "the log goes on where the checkpoint was"


def rank(number, folder, arguments, port):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    os.environ |= {"LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
    from lightning_modules import PPO

    seen = {"first": [], "updates": []}
    original = PPO.learn

    def learn(self, rollout):
        statistics = original(self, rollout)
        seen["first"].append(rollout.observations[0])
        seen["updates"].append(int(self.trainer.optimizers[0].state[self.learner.vector]["step"]))
        seen["weights"] = {name: value.clone() for name, value in self.state_dict().items()}
        seen["valid"] = seen.get("valid", 0) + int(rollout.valid.sum())
        return statistics

    PPO.learn = learn
    sys.stderr = sys.stdout = (folder / f"rank-{number}.log").open("w", buffering=1)
    sys.argv = ["cli.py"]
    status = main(arguments)
    torch.save(seen, folder / f"rank-{number}.pt")
    sys.exit(status)


def test_two_processes_learn_one_policy_and_stop_together(tmp_path):
    arguments = words(
        tmp_path / "run", model__normalize=True, model__target_kl=0.002, model__learning_rate=0.01, model__epochs=6,
        trainer__devices=2, trainer__strategy="ddp", data__total_env_steps=400,
    )  # fmt: skip
    processes = [
        runs.PROCESSES.Process(target=rank, args=(number, tmp_path, arguments, 29_653), daemon=True)
        for number in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0], [log.read_text() for log in tmp_path.glob("*.log")]
    one, two = (runs.read(tmp_path / f"rank-{number}.pt") for number in range(2))
    assert runs.differences(one["weights"], two["weights"]) == [], "weights, normalisers and counts"
    assert one["updates"] == two["updates"]
    assert any(b - a < 12 for a, b in zip(one["updates"], one["updates"][1:], strict=False)), "the KL stopped some"
    assert not torch.equal(one["first"][0], two["first"][0]), "other environments in each process"
    assert one["weights"]["env_steps"] == one["valid"] + two["valid"]
    assert one["weights"]["model.normalizer.count"] == one["valid"] + two["valid"], "statistics of both"


def test_environments_of_a_user(tmp_path, monkeypatch, command, refused):
    (tmp_path / "my_environments.py").write_text(
        "import gymnasium as gym\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "gym.register('mine-v0', CartPoleEnv, max_episode_steps=20)\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = words("run", data__environment="mine-v0")
    assert "--env-module" in refused(*arguments)
    assert "cannot be imported" in refused(*arguments, "--env-module", "not_there")
    assert "must be the name of a module" in refused(*arguments, "--env-module", "../x")
    try:
        assert command(*arguments, "--env-module", "my_environments").status == 0
        assert command("export", "run/last.ckpt", "mine").status == 0
        assert command("rollout", "mine", "--env-module", "my_environments").status == 0
    finally:
        import gymnasium

        gymnasium.registry.pop("mine-v0", None)
    assert "mine-v0" in refused("rollout", "mine")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("data__environment", "CartPol-v1", "did you mean CartPole-v1"),
        ("data__environment", "os:CartPole-v1", "':'"),
        ("data__num_envs", 0, "data.num_envs must be at least 1, got 0"),
        ("data__environment", "Blackjack-v1", "only Box and Discrete"),
        ("model__exploration", "state-dependent", "continuous actions"),
        ("model__minibatch_size", 7, "must be a multiple of model.minibatch_size 7"),
        ("save_every_n_env_steps", 0, "save_every_n_env_steps must be at least 1"),
    ],
)
def test_mistakes(option, value, said, refused, command, tmp_path):
    answer = command(*words(tmp_path / "run", **{option: value}))
    assert answer.status == 2
    assert said in answer.err.splitlines()[-1]


def test_mistakes_of_rollout(trained, tiny, refused, tmp_path, monkeypatch, copy):
    cart = trained / "cart"
    assert "is a model of images: use sample, density, figure or evaluate" in refused("rollout", tiny)
    assert "takes observations of shape (4,)" in refused("rollout", cart, "--environment", "Pendulum-v1")
    assert "must end in .mp4 or .gif" in refused("rollout", cart, "--video", tmp_path / "a.png")
    assert "at least 1" in refused("rollout", cart, "--episodes", 0)
    changed = copy(cart)
    config = json.loads((changed / CONFIG).read_text())
    config["data"]["arguments"]["environment"] = "os:CartPole-v1"
    (changed / CONFIG).write_text(json.dumps(config))
    assert "':'" in refused("rollout", changed), "a model folder cannot name a module"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'lightning-zoo[video]'" in refused("rollout", cart, "--video", tmp_path / "a.gif")
