"""Environment steps a second of whole PPO training, compared with Stable-Baselines3: same networks and hyperparameters.

    python -m benchmarks.ppo cartpole --runs 3

Each run is a process of its own with one thread, the sides in turn: ours through the Trainer, a bare loop over the same
collector and gradient (which shows what the Trainer costs), and theirs. `steady` leaves out the first tenth of a run,
and compiling with it; `whole` is the time of `fit` from its first rollout to its end, compiling included. Both CPU and
wall time are given: another program on the machine slows the latter and hardly the former.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

COMMON: dict[str, dict[str, Any]] = {
    "cartpole": {
        "environment": "CartPole-v1", "num_envs": 8, "steps": 32, "batch": 256, "epochs": 20, "gamma": 0.98,
        "gae_lambda": 0.8, "learning_rate": 1e-3, "total": 100_000, "vectorization": "native",
    },
    "halfcheetah": {
        "environment": "HalfCheetah-v5", "num_envs": 1, "steps": 2048, "batch": 64, "epochs": 10, "gamma": 0.99,
        "gae_lambda": 0.95, "learning_rate": 3e-4, "total": 60_000, "vectorization": "sync",
    },
}  # fmt: skip
# as in our configs: as many rows a rollout, from 16 environments
COMMON["halfcheetah-16"] = COMMON["halfcheetah"] | {"num_envs": 16, "steps": 128}


class Clock:
    """Reads wall and CPU time when the first step, a tenth, and all of the steps are done."""

    def __init__(self, total: int) -> None:
        self.total, self.marks = total, []  # type: ignore[var-annotated]

    def __call__(self, steps: int) -> None:
        due = [0, self.total // 10, self.total][min(len(self.marks), 2)]
        if steps >= due and len(self.marks) < 3:
            self.marks.append((steps, time.perf_counter(), time.process_time()))

    def speeds(self) -> dict[str, float]:
        first, tenth, last = self.marks
        return {
            "whole": (last[0] - first[0]) / (last[1] - first[1]),
            "steady": (last[0] - tenth[0]) / (last[1] - tenth[1]),
            "steady_cpu": (last[0] - tenth[0]) / (last[2] - tenth[2]),
        }


def ours(o: dict[str, Any]) -> dict[str, float]:
    import lightning as L
    from lightning.pytorch.callbacks import Callback

    from datamodules import Experience
    from lightning_modules import PPO

    clock = Clock(o["total"])

    class Timing(Callback):
        def on_train_start(self, *_: Any) -> None:
            clock(0)

        def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
            clock(int(module.env_steps))

    data = Experience(o["environment"], o["total"], o["num_envs"], o["steps"], o["vectorization"], seed=0)
    names = ("gamma", "gae_lambda", "epochs", "learning_rate")
    model = PPO(data.spaces, o["total"], minibatch_size=o["batch"], compile=True, **{name: o[name] for name in names})
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    options |= {"enable_model_summary": False, "accelerator": "cpu", "callbacks": [Timing()], "limit_val_batches": 0}
    L.Trainer(max_epochs=1, **options).fit(model, datamodule=data)
    return clock.speeds()


def bare(o: dict[str, Any]) -> dict[str, float]:
    """What `ours` does, without Trainer, module, callbacks and logs."""
    import torch

    from datamodules.experience.collector import Collector
    from datamodules.experience.environments import spaces_of
    from datamodules.experience.vector import make_vector
    from zoo.rl.flat import FlatAdam, FlatParameters
    from zoo.rl.on_policy.ppo import ppo_loss, rows_of
    from zoo.rl.policies import ActorCritic

    clock = Clock(o["total"])
    envs = make_vector(o["environment"], o["num_envs"], o["vectorization"], None)
    policy = ActorCritic(**spaces_of(o["environment"], envs.single_observation_space, envs.single_action_space))
    flat = FlatParameters(policy)
    optimizer, one, clip = FlatAdam(flat.vector, o["learning_rate"]), torch.ones(()), torch.tensor(0.2)
    options: dict[str, Any] = {"policy": policy, "value_weight": 0.5, "entropy_weight": 0.0, "value_clip": None}

    def gradient(matrix: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return flat.gradient(lambda p: ppo_loss(p, matrix, clip, normalize_advantages=True, **options))

    compiled = torch.compile(gradient, fullgraph=True, options={"cpp_wrapper": True})
    collector, steps = Collector(envs, o["steps"]), 0
    collector.reset(0)
    clock(0)
    with torch.no_grad():
        while steps < o["total"]:
            rollout = collector.collect(policy)
            matrix = rows_of(policy, rollout, one, o["gamma"], o["gae_lambda"]).pack()
            for _ in range(o["epochs"]):
                for minibatch in matrix[torch.randperm(len(matrix))].split(o["batch"]):
                    optimizer.update(compiled(minibatch)[0], 0.5)
            steps += int(rollout.valid.sum())
            clock(steps)
    return clock.speeds()


def theirs(o: dict[str, Any]) -> dict[str, float]:
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    clock = Clock(o["total"])

    class Timing(BaseCallback):
        def _on_training_start(self) -> None:
            clock(0)

        def _on_rollout_start(self) -> None:
            clock(self.num_timesteps)

        def _on_training_end(self) -> None:
            clock(max(self.num_timesteps, o["total"]))

        def _on_step(self) -> bool:
            return True

    model = PPO(
        "MlpPolicy", make_vec_env(o["environment"], o["num_envs"]), learning_rate=o["learning_rate"],
        n_steps=o["steps"], batch_size=o["batch"], n_epochs=o["epochs"], gamma=o["gamma"], gae_lambda=o["gae_lambda"],
        device="cpu", seed=0,
    )  # fmt: skip
    model.learn(o["total"], callback=Timing())
    return clock.speeds()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=COMMON)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--total", type=int, help="environment steps, by default those of the setting")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side", choices=SIDES, help="one run of one side, in this process")
    args = parser.parse_args()
    setting = COMMON[args.setting] | ({"total": args.total} if args.total else {})
    if args.side:
        import torch

        torch.set_num_threads(args.threads)
        print(json.dumps(SIDES[args.side](setting)))
        return
    speeds: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    for _ in range(args.runs):
        for side, measured in speeds.items():
            command = [sys.executable, "-m", "benchmarks.ppo", args.setting, "--side", side]
            command += ["--threads", str(args.threads), "--total", str(setting["total"])]
            answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            measured.append(json.loads(answer.stdout.splitlines()[-1]))
    for what in ("steady", "steady_cpu", "whole"):
        median = {side: statistics.median(run[what] for run in measured) for side, measured in speeds.items()}
        print(f"{args.setting:<15}{what:<12}" + "".join(f"{side} {speed:>7,.0f}/s  " for side, speed in median.items()))
        for other in ("bare", "theirs"):
            ratios = sorted(a[what] / b[what] for a, b in zip(speeds["ours"], speeds[other], strict=True))
            middle, ends = statistics.median(ratios), f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
            print(f"{'':<27}ours / {other}: {middle:.2f} ({ends})")


SIDES = {"ours": ours, "bare": bare, "theirs": theirs}


if __name__ == "__main__":
    main()
