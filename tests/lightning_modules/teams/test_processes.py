"""Two processes learn one team."""

import os

import lightning as L
import pytest
import torch

from datamodules import TeamReplay
from datamodules.experience.replay import ReplayBuffer
from datamodules.teams import environments
from lightning_modules import ValueDecomposition
from tests import runs
from tests.lightning_modules.rl.test_ppo import QUIET
from tests.teams import Counting

METHODS = {"qmix": {}, "resq": {"recurrent": True}}
SIZES = {"num_envs": 4, "batch_size": 8, "warmup_episodes": 8, "updates_per_round": 3, "rounds_per_batch": 3, "seed": 0}


def learn(rank, port, place):
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "none"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    environments.PARALLEL["counting"] = Counting  # whose episodes differ in length, so the processes' steps do
    samples, sample = [], ReplayBuffer.sample
    ReplayBuffer.sample = lambda self, count: samples.append(sample(self, count)) or samples[-1]
    for method, options in METHODS.items():
        samples.clear()
        torch.manual_seed(0)
        data = TeamReplay("counting", 300, **SIZES)
        net = ValueDecomposition(data.team_spaces, 300, method=method, hidden=(8,), compile=False, **options)
        trainer = L.Trainer(**(QUIET | {"strategy": "ddp", "devices": 2, "limit_val_batches": 0}))
        trainer.fit(net, datamodule=data)
        seen = {"weights": net.state_dict(), "first": samples[0], "rounds": len(samples)}
        torch.save(seen, place / f"{method}-{rank}.pt")


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    place = tmp_path_factory.mktemp("ranks")
    assert runs.two(learn, place) == [0, 0]
    return place


@pytest.mark.parametrize("method", METHODS)
def test_both_have_the_same_team(learned, method):
    one, two = (runs.read(learned / f"{method}-{rank}.pt") for rank in range(2))
    assert runs.differences(one["weights"], two["weights"]) == [], "agents, mixer, targets and count of steps"
    assert one["rounds"] == two["rounds"]
    assert 300 <= one["weights"]["env_steps"] < 300 + 2 * 3 * 4 * 3, "joint steps of both, to the end of a batch"
    assert not torch.equal(one["first"], two["first"]), "each has its own environments and its own replay"
