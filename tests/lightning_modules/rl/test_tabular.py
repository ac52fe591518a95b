"""The module Tabular in a Trainer: exact results on Gymnasium's small worlds, resuming, and what is refused."""

import gymnasium as gym
import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from datamodules import Experience, TabularExperience
from datamodules.experience.planning import mdp_of
from lightning_modules import PPO, Tabular
from zoo.errors import UserError
from zoo.rl.tabular.learning import LEARNERS
from zoo.rl.tabular.mdp import epsilon_greedy, greedy, policy_iteration, value_iteration

# environment, gamma, exact undiscounted return within the limit, rounds of policy iteration from action 0
PLANNED = [
    ("FrozenLake-v1", 0.99, 0.7401648977587, 7),
    ("FrozenLake8x8-v1", 0.99, 0.8629553799611, 11),
    ("FrozenLake8x8-v1", 0.999, 0.8856539193196, None),
    ("Taxi-v4", 0.99, 7.93, 17),
    ("CliffWalking-v1", 0.99, -13.0, 15),
]


def data(environment="FrozenLake-v1", **options):
    return TabularExperience(environment, **{"total_env_steps": 4000, "seed": 0, "simulate": True} | options)


def trainer(folder, **options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return L.Trainer(default_root_dir=folder, max_epochs=1, enable_model_summary=False, **quiet | options)


def fit(folder, world, callbacks=(), ckpt_path=None, **options):
    torch.manual_seed(0)
    module = Tabular(world.spaces, world.total_env_steps, **options)
    runner = trainer(folder, callbacks=[*callbacks], limit_val_batches=0)
    runner.fit(module, world, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    return module


def validated(folder, module, world):
    runner = trainer(folder)
    runner.validate(module, world, verbose=False)
    return float(runner.callback_metrics["val/return"])


@pytest.mark.parametrize(("environment", "gamma", "expected", "rounds"), PLANNED)
def test_planning_reaches_the_exact_return_of_each_world(environment, gamma, expected, rounds):
    env = gym.make(environment)
    mdp, limit = mdp_of(environment, env), env.spec.max_episode_steps
    q, _ = value_iteration(mdp, gamma)
    q_pi, _, counted = policy_iteration(mdp, gamma)
    assert torch.allclose(q, q_pi, atol=1e-9)  # 1e-12 / (1 - gamma)
    for table in (q, q_pi, q.float()):
        assert mdp.expected_return(greedy(table.double()), limit=limit) == pytest.approx(expected, abs=1e-6)
    assert rounds in (None, counted)


def test_the_cliff_at_a_fixed_epsilon():
    """Q* walks along the edge and falls; the best exploring policy keeps away from it."""
    mdp = mdp_of("CliffWalking-v1", gym.make("CliffWalking-v1"))
    edge, _ = value_iteration(mdp, 1.0)
    safe, _ = value_iteration(mdp.exploring(0.1), 1.0)
    exact = [(mdp.expected_return(greedy(q)), mdp.expected_return(epsilon_greedy(q, 0.1))) for q in (edge, safe)]
    assert exact[0] == pytest.approx((-13, -50.800048), abs=1e-6)
    assert exact[1] == pytest.approx((-15, -20.707677), abs=1e-6)


@pytest.mark.parametrize("method", ["value_iteration", "policy_iteration"])
def test_planning_in_a_trainer_stops_when_it_has_converged(tmp_path, method):
    module = fit(tmp_path, data(steps_per_batch=10), method=method)
    assert int(module.env_steps) == {"value_iteration": 704, "policy_iteration": 7}[method]
    assert validated(tmp_path, module, data()) == pytest.approx(0.7401649, abs=1e-6)
    assert module.model.epsilon == 0


@pytest.mark.parametrize("method", [*LEARNERS])
def test_every_method_learns_a_lake_without_slipping(tmp_path, method):
    world = data(environment_arguments={"is_slippery": False}, total_env_steps=20_000, steps_per_batch=1000)
    module = fit(tmp_path, world, method=method, epsilon=1.0, final_epsilon=0.2, step_power=0.6)
    assert validated(tmp_path, module, world) == 1
    assert int(module.env_steps) == 20_000


def test_sarsa_and_q_learning_on_the_cliff(tmp_path):
    found = {}
    for method, power in (("sarsa", 0.8), ("q_learning", 0.0)):
        world = data("CliffWalking-v1", total_env_steps=150_000, steps_per_batch=50_000, max_episode_steps=1000)
        module = fit(tmp_path, world, method=method, gamma=1.0, step_power=power)
        q = module.model.q.detach().double()
        found[method] = world.mdp.expected_return(greedy(q)), world.mdp.expected_return(epsilon_greedy(q, 0.1))
    assert found["sarsa"] == pytest.approx((-15, -20.71), abs=0.01)
    assert found["q_learning"] == pytest.approx((-13, -50.8), abs=0.02)


def test_gymnasium_and_the_arrays_are_the_same_process(tmp_path):
    world = data("CliffWalking-v1", simulate=False, total_env_steps=20_000, max_episode_steps=200)
    module = fit(tmp_path, world, gamma=1.0, step_power=0.0)
    assert world.mdp.expected_return(greedy(module.model.q.detach().double())) == -13


class Pause(Callback):
    """Saves after the second batch, and begins new episodes there, as a resumed run does."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 1:
            trainer.save_checkpoint(self.path, weights_only=False)
            trainer.datamodule.loader.reset()
            pl_module.learner.state = None


@pytest.mark.parametrize("method", ["sarsa", "double_q_learning"])
def test_a_resumed_run_is_the_run_that_resets_there(tmp_path, method):
    whole = fit(tmp_path, data(), [Pause(tmp_path / "half.ckpt")], method=method)
    resumed = fit(tmp_path, data(), ckpt_path=tmp_path / "half.ckpt", method=method)
    assert int(resumed.env_steps) == 4000
    for name in ("q", "second", "visits"):
        assert torch.equal(getattr(whole, name), getattr(resumed, name)), name


def test_td0_is_a_step_of_policy_improvement_from_the_policy_that_it_predicts(tmp_path):
    world = data(total_env_steps=100_000, steps_per_batch=50_000, environment_arguments={"is_slippery": False})
    module = fit(tmp_path, world, method="td0", step_power=0.8)
    uniform = torch.full((16, 4), 0.25, dtype=torch.float64)
    exact = world.mdp.action_values(uniform, 0.99)
    met = module.visits[:, 0] > 300
    # about 4,000 episodes, of which 1 % reach the goal
    assert torch.allclose(module.model.q.detach().double()[met], exact[met], atol=0.05)


def test_what_a_table_cannot_do_is_said_in_one_line(tmp_path):
    with pytest.raises(UserError, match="needs Discrete observations, but those of CartPole-v1"):
        TabularExperience("CartPole-v1")
    with pytest.raises(UserError, match="needs Discrete observations"):
        TabularExperience("Pendulum-v1")
    with pytest.raises(UserError, match="has no model that says all of it"):
        TabularExperience("Taxi-v4", simulate=True, environment_arguments={"fickle_passenger": True})
    fickle = TabularExperience("Taxi-v4", environment_arguments={"fickle_passenger": True}, validation_episodes=0)
    assert fickle.mdp is None
    with pytest.raises(UserError, match="value_iteration needs the model"):
        fit(tmp_path, fickle, method="value_iteration")
    spaces = fickle.spaces
    for options, match in (
        ({"method": "q-learning"}, "model.method must be one of"),
        ({"gamma": 1.5}, "model.gamma"),
        ({"step_size": 2.0}, "model.step_size must be at most 1"),
        ({"method": "policy_iteration", "gamma": 1.0}, "model.gamma below 1"),
    ):
        with pytest.raises(UserError, match=match):
            Tabular(spaces, **options)
    with pytest.raises(UserError, match="TabularExperience is for Tabular"):
        trainer(tmp_path).fit(PPO(spaces, 100), data())
    with pytest.raises(UserError, match="Tabular learns from TabularExperience"):
        trainer(tmp_path, limit_val_batches=0).fit(Tabular(spaces, 100), Experience("Taxi-v4", 100, 1, 100))


class Vast(gym.Env):
    """More states than any memory has room for."""

    observation_space, action_space = gym.spaces.Discrete(10**12), gym.spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        return 0, 0.0, False, False, {}


def test_more_states_than_fit_are_refused_with_the_figure():
    gym.register("Vast-v0", Vast, max_episode_steps=10)
    try:
        with pytest.raises(UserError, match=r"1,000,000,000,000 states of Vast-v0 times 4 actions takes 680,000\.0 GB"):
            TabularExperience("Vast-v0")
    finally:
        del gym.registry["Vast-v0"]


def test_a_world_without_a_limit_is_truncated_and_says_so():
    with pytest.warns(UserWarning, match="episodes are truncated after 100,000 steps"):
        TabularExperience("CliffWalking-v1").warn_without_limit()
