"""SAC, TD3, DDPG and DQN through the command line: trained, exported, played; two processes."""

import os
import sys

import pytest
import torch

import checkpoints
from commands.main import main
from tests import runs

TINY = {
    "--trainer.enable_progress_bar": False, "--model.compile": False, "--model.hidden": "[4]",
    "--data.total_env_steps": 60, "--data.warmup_env_steps": 20, "--data.batch_size": 4, "--data.update_every": 4,
    "--data.num_envs": 4, "--data.replay_ratio": 1, "--data.n_step": 2,
    "--data.validation_episodes": 1, "--trainer.limit_val_batches": 0,
}  # fmt: skip


def words(config, folder, **changes):
    options = TINY | {"--trainer.default_root_dir": folder}
    options |= {"--" + name.replace("__", "."): value for name, value in changes.items()}
    return ["fit", "--config", config, *[str(word) for pair in options.items() for word in pair]]


@pytest.mark.parametrize("config", ["sac-pendulum", "td3-pendulum", "ddpg-pendulum", "dqn-cartpole"])
def test_a_policy_is_trained_exported_and_played(config, command, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cli.py"])
    assert main(words(config, tmp_path / "run", data__save_replay=True)) == 0
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert "last.ckpt" in names
    assert any(name.startswith("replay-6") for name in names)
    command("export", tmp_path / "run" / "last.ckpt", tmp_path / "policy")
    assert checkpoints.verify(str(tmp_path / "policy")) == 0
    assert "-v1: return" in command("rollout", tmp_path / "policy", "--episodes", 1).out


def rank(number, place, arguments):
    """One of two processes, as torchrun would start it."""
    os.environ |= {"LOCAL_RANK": str(number), "RANK": str(number), "NODE_RANK": "0", "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29671"}
    from datamodules.experience.replay import ReplayBuffer
    from lightning_modules import DDPG, DQN, SAC, TD3

    samples, sample = [], ReplayBuffer.sample

    def remembered(self, count):
        samples.append(sample(self, count))
        return samples[-1]

    ReplayBuffer.sample = remembered
    for algorithm in (SAC, TD3, DDPG, DQN):

        def save(self):
            stats = {"weights": self.state_dict(), "first": samples[0], "updates": sum(map(len, samples)) // 4}
            torch.save(stats, place / f"rank-{number}.pt")

        algorithm.on_train_end = save
    sys.argv = ["cli.py"]
    sys.stdout = sys.stderr = (place / f"{number}.log").open("w")
    sys.exit(main(arguments))


@pytest.mark.parametrize("config", ["sac-pendulum", "td3-pendulum", "ddpg-pendulum", "dqn-cartpole"])
def test_two_processes_learn_one_policy(config, tmp_path):
    arguments = words(config, tmp_path / "run", trainer__devices=2, trainer__strategy="ddp", data__total_env_steps=200)
    processes = [runs.PROCESSES.Process(target=rank, args=(n, tmp_path, arguments), daemon=True) for n in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0], [log.read_text() for log in tmp_path.glob("*.log")]
    one, two = (runs.read(tmp_path / f"rank-{number}.pt") for number in range(2))
    assert runs.differences(one["weights"], two["weights"]) == [], "weights, targets, temperature and counts"
    assert one["updates"] == two["updates"] == 80, "100 transitions of each but the first 20"
    assert 200 <= one["weights"]["env_steps"] < 210, "where environments reset themselves, some more"
    assert not torch.equal(one["first"], two["first"]), "each has its own environments and its own buffer"
