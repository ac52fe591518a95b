"""Environment steps a second of whole A2C training on CartPole, compared with Stable-Baselines3.

    python -m benchmarks.a2c --runs 3

8 environments x 5 steps, RMSprop (alpha 0.99, epsilon 1e-5 outside the root), lambda 1, two networks of 64 x 64 units.
Each run is a process of its own with one thread, the sides in turn: ours with Gymnasium's environments one after
another, as theirs; ours with Gymnasium's CartPole as arrays, as in our config; theirs. `benchmarks.ppo` says what is
measured.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.ppo import Clock

ENVIRONMENT, NUM_ENVS, STEPS, RATE, GAMMA = "CartPole-v1", 8, 5, 7e-4, 0.99


def ours(total: int, vectorization: str) -> dict[str, float]:
    import lightning as L
    from lightning.pytorch.callbacks import Callback

    from datamodules import Experience
    from lightning_modules import PolicyGradient

    clock = Clock(total)

    class Timing(Callback):
        def on_train_start(self, *_: Any) -> None:
            clock(0)

        def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
            clock(int(module.env_steps))

    data = Experience(ENVIRONMENT, total, NUM_ENVS, STEPS, vectorization, seed=0)
    model = PolicyGradient(data.spaces, total, gamma=GAMMA, learning_rate=RATE, compile=True)
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    options |= {"enable_model_summary": False, "accelerator": "cpu", "callbacks": [Timing()], "limit_val_batches": 0}
    L.Trainer(max_epochs=1, **options).fit(model, datamodule=data)
    return clock.speeds()


def theirs(total: int) -> dict[str, float]:
    from stable_baselines3 import A2C
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    clock = Clock(total)

    class Timing(BaseCallback):
        def _on_training_start(self) -> None:
            clock(0)

        def _on_rollout_start(self) -> None:
            clock(self.num_timesteps)

        def _on_training_end(self) -> None:
            clock(max(self.num_timesteps, total))

        def _on_step(self) -> bool:
            return True

    envs = make_vec_env(ENVIRONMENT, NUM_ENVS)
    model = A2C("MlpPolicy", envs, learning_rate=RATE, n_steps=STEPS, gamma=GAMMA, device="cpu", seed=0)
    model.learn(total, callback=Timing())
    return clock.speeds()


SIDES: dict[str, Callable[[int], dict[str, float]]] = {
    "ours, sync": partial(ours, vectorization="sync"),
    "ours, native": partial(ours, vectorization="native"),
    "theirs": theirs,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--total", type=int, default=40_000, help="environment steps")
    parser.add_argument("--side", choices=SIDES, help="one run of one side, in this process")
    args = parser.parse_args()
    if args.side:
        import torch

        torch.set_num_threads(1)
        print(json.dumps(SIDES[args.side](args.total)))
        return
    speeds: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(args.runs):
        for side, measured in speeds.items():
            command = [sys.executable, "-m", "benchmarks.a2c", "--side", side, "--total", str(args.total)]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            measured.append(json.loads(answer.stdout.splitlines()[-1]))
    for what in ("steady", "steady_cpu", "whole"):
        for side, measured in speeds.items():
            ratios = sorted(a[what] / b[what] for a, b in zip(measured, speeds["theirs"], strict=True))
            speed, middle = statistics.median(run[what] for run in measured), statistics.median(ratios)
            print(f"{what:<12}{side:<14}{speed:>8,.0f}/s  {middle:.2f} x theirs ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
