"""Two machines as torchrun starts them, one process each: one run, one policy."""

import os
import shlex
import sys

import torch

from commands.main import main
from tests import runs

COMMAND = shlex.split(
    "fit --config ppo-cartpole --trainer.num_nodes 2 --trainer.devices 1 --trainer.strategy ddp "
    "--trainer.enable_progress_bar false --trainer.limit_val_batches 0 --model.compile false --model.hidden [4] "
    "--model.minibatch_size 16 --model.epochs 2 --data.num_envs 2 --data.rollout_steps 16 --data.total_env_steps 300"
)


def node(number, port, place):
    """What torchrun --nnodes 2 --node-rank NUMBER gives the process that it starts on this node."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "none"}
    os.environ |= {"RANK": str(number), "LOCAL_RANK": "0", "GROUP_RANK": str(number)}
    os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
    from datamodules.experience.collector import Collector
    from lightning_modules import PPO

    first, collect = [], Collector.collect

    def remembered(self, policy):
        rollout = collect(self, policy)
        first.append(rollout.observations[0])
        return rollout

    def save(self):
        torch.save({"weights": self.state_dict(), "first": first[0]}, place / f"{number}.pt")

    Collector.collect, PPO.on_train_end = remembered, save
    sys.argv = ["cli.py"]
    sys.stdout = sys.stderr = (place / f"{number}.log").open("w")
    sys.exit(main([*COMMAND, "--trainer.default_root_dir", str(place / "run")]))


def test_two_nodes_learn_one_policy(tmp_path):
    codes = runs.two(node, tmp_path)
    logs = [log.read_text() for log in sorted(tmp_path.glob("*.log"))]
    assert codes == [0, 0], logs
    one, two = (runs.read(tmp_path / f"{number}.pt") for number in range(2))
    assert runs.differences(one["weights"], two["weights"]) == []
    assert 300 <= one["weights"]["env_steps"] < 364, "transitions of both nodes"
    assert not torch.equal(one["first"], two["first"]), "each has its own environments"
    assert (tmp_path / "run" / "last.ckpt").is_file()
    assert "finished; the run is in" in logs[0]
    assert "finished" not in logs[1], "one node speaks"
