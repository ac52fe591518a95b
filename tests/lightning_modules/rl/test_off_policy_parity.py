"""One update of SAC and of TD3 beside that of Stable-Baselines3, from the same weights, batch and noise."""

import lightning as L
import numpy as np
import pytest
import torch

from datamodules import Replay
from lightning_modules import SAC, TD3
from tests.lightning_modules.rl.test_off_policy import QUIET

ROWS, HIDDEN = 32, (12, 10)
ALGORITHMS = {"SAC": SAC, "TD3": TD3}


def copy_critics(ours, theirs):
    for k, network in enumerate(theirs.q_networks):
        layers = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
        for weight, bias, layer in zip(ours.weights, ours.biases, layers, strict=True):
            weight.data[k], bias.data[k, 0] = layer.weight.data.mT, layer.bias.data


def copy_actor(ours, theirs, name):
    latent = theirs.latent_pi if name == "SAC" else theirs.mu
    layers = [layer for layer in latent if isinstance(layer, torch.nn.Linear)]
    pairs = list(zip(ours.trunk, layers, strict=False))
    for mine, layer in pairs:
        mine.weight.data[:], mine.bias.data[:] = layer.weight.data, layer.bias.data
    heads = [theirs.mu, theirs.log_std] if name == "SAC" else [layers[-1]]
    ours.head.weight.data[:] = torch.cat([layer.weight.data for layer in heads])
    ours.head.bias.data[:] = torch.cat([layer.bias.data for layer in heads])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_updates_are_those_of_stable_baselines3(name, monkeypatch):
    peers = pytest.importorskip("stable_baselines3")
    options = {"learning_rate": 1e-3, "batch_size": ROWS, "policy_kwargs": {"net_arch": [*HIDDEN]}, "device": "cpu"}
    theirs = getattr(peers, name)("MlpPolicy", "Pendulum-v1", seed=1, **options)
    rng = np.random.default_rng(0)
    seen, following = (rng.normal(size=(ROWS, 3)).astype(np.float32) for _ in range(2))
    actions = rng.uniform(-1, 1, (ROWS, 1)).astype(np.float32)
    rewards, ended = rng.normal(size=ROWS).astype(np.float32), rng.random(ROWS) < 0.3
    batch = peers.common.type_aliases.ReplayBufferSamples(
        *(torch.from_numpy(x) for x in (seen, actions, following, ended[:, None].astype(np.float32), rewards[:, None])),
        torch.full((ROWS, 1), theirs.gamma),
    )
    monkeypatch.setattr(theirs.replay_buffer, "sample", lambda *a, **k: batch)
    matrix = torch.from_numpy(
        np.concatenate([seen, actions, rewards[:, None], 0.99 * ~ended[:, None], following], 1).astype(np.float32)
    )
    data = Replay("Pendulum-v1", 100)
    ours = ALGORITHMS[name](data.spaces, 100, hidden=HIDDEN, learning_rate=1e-3, compile=False)
    copy_actor(ours.model, theirs.actor, name)
    copy_critics(ours.critics, theirs.critic)
    copy_critics(ours.targets, theirs.critic_target)
    if name == "TD3":
        copy_actor(ours.target_actor, theirs.actor_target, name)
    trainer = L.Trainer(**QUIET)
    trainer.strategy._lightning_module = ours
    ours._trainer = trainer
    optimizers = ours.configure_optimizers()
    trainer.strategy.optimizers = optimizers
    ours.on_fit_start()
    theirs._setup_learn(100)
    noise = torch.randn(4, 2, ROWS, 1)

    class Fixed:
        """Stands for the draws of the peer: one after another, those that we take."""

        drawn = 0

        def __call__(self, *_, **__):
            self.drawn += 1
            return self.order[self.drawn - 1].clone()

    fixed = Fixed()
    if name == "SAC":  # theirs draws for the states of now first
        fixed.order = [noise[i, k] for i in range(4) for k in (1, 0)]
        monkeypatch.setattr(
            torch.distributions.Normal, "rsample", lambda self, *a: self.loc + self.scale * fixed(), raising=True
        )
    else:
        fixed.order = [0.2 * noise[i, 0] for i in range(4)]
        monkeypatch.setattr(torch.Tensor, "normal_", lambda self, *a, **k: self.copy_(fixed()))
    theirs.train(gradient_steps=4, batch_size=ROWS)
    assert fixed.drawn == len(fixed.order)
    ours.count = 0  # the phase of TD3's delay
    with torch.no_grad():
        for count in range(1, 5):
            if name == "SAC":
                ours.update(matrix, *noise[count - 1])
            else:
                ours.update(matrix, noise[count - 1, 0])
    expected = ALGORITHMS[name](data.spaces, 100, hidden=HIDDEN)
    copy_actor(expected.model, theirs.actor, name)
    copy_critics(expected.critics, theirs.critic)
    copy_critics(expected.targets, theirs.critic_target)
    for part in ("model", "critics", "targets"):
        for one, other in zip(getattr(ours, part).parameters(), getattr(expected, part).parameters(), strict=True):
            # Adam divides by gradients; theirs of tanh's correction adds 1e-6 within the logarithm
            torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)
    if name == "SAC":
        torch.testing.assert_close(ours.temperature["log_alpha"].data, theirs.log_ent_coef.data, rtol=1e-4, atol=1e-6)
