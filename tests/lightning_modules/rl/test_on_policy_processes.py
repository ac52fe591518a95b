"""Two processes learn one policy, by every method that learns from rollouts."""

import os

import lightning as L
import pytest
import torch

from datamodules import Experience
from lightning_modules import IMPALA, TRPO, PolicyGradient
from tests import runs
from tests.lightning_modules.rl.test_ppo import QUIET

WHOLE = {"returns": "monte-carlo", "baseline": "leave-one-out"}
METHODS = {
    "reinforce": (PolicyGradient, WHOLE, {"whole_episodes": True}),
    "trpo": (TRPO, {"minibatch_size": 32, "epochs": 2}, {}),
    "impala": (IMPALA, {}, {"ahead": 1}),
}


def learn(rank, port, place):
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "none"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for name, (kind, options, given) in METHODS.items():
        torch.manual_seed(0)
        data = Experience("CartPole-v1", 500, num_envs=2, rollout_steps=16, seed=1, **given)
        model = kind(data.spaces, 500, hidden=(4,), normalize=True, compile=False, **options)
        trainer = L.Trainer(**(QUIET | {"strategy": "ddp", "devices": 2, "limit_val_batches": 0}))
        trainer.fit(model, datamodule=data)
        torch.save(model.state_dict(), place / f"{name}-{rank}.pt")


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    place = tmp_path_factory.mktemp("ranks")
    assert runs.two(learn, place) == [0, 0]
    return place


@pytest.mark.parametrize("name", METHODS)
def test_both_have_the_same_policy(learned, name):
    one, two = (runs.read(learned / f"{name}-{rank}.pt") for rank in range(2))
    assert runs.differences(one, two) == []
    assert one["env_steps"] >= 500, "transitions of both"
