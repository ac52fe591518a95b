"""Environment steps a second of whole training by methods that learn from rollouts, one thread, compared in turn.

    python -m benchmarks.onpolicy a2c [--runs 3]
    python -m benchmarks.onpolicy trpo
    python -m benchmarks.onpolicy impala-cartpole
    python -m benchmarks.onpolicy impala-waiting

a2c: CartPole, 8 environments x 5 steps, RMSprop (alpha 0.99, epsilon 1e-5 outside the root), lambda 1: ours with
Gymnasium's environments one after another, as theirs; ours with the environment as arrays, as in our config;
Stable-Baselines3. trpo: Hopper, 2 environments x 1,024 steps, 10 steps of conjugate gradients, 20 passes of the critic:
ours and sb3-contrib. impala: ours, with a thread that plays ahead, and our A2C, both with the settings of a2c, on
CartPole as arrays or on 8 processes that sleep 5 ms a step. Networks have 64 x 64 units; each run is a process of its
own. `benchmarks.ppo` says what is measured.
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

from benchmarks.actors import NAME, register
from benchmarks.ppo import Clock

CARTPOLE, HOPPER = ("CartPole-v1", 8, 5), ("Hopper-v5", 2, 1024)
WAITING = (NAME, 8, 5)
A2C: dict[str, Any] = {"gamma": 0.99, "learning_rate": 7e-4}
TRPO: dict[str, Any] = {"iterations": 10, "epochs": 20, "minibatch_size": 128}


def ours(total: int, method: str, setting: tuple[str, int, int], vectorization: str, options: dict[str, Any]) -> Any:
    import lightning as L
    from lightning.pytorch.callbacks import Callback

    import lightning_modules
    from datamodules import Experience

    clock = Clock(total)

    class Timing(Callback):
        def on_train_start(self, *_: Any) -> None:
            clock(0)

        def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
            clock(int(module.env_steps))

    if setting == WAITING:
        register()
    data = Experience(setting[0], total, *setting[1:], vectorization, seed=0, ahead=int(method == "IMPALA"))
    model = getattr(lightning_modules, method)(data.spaces, total, compile=True, **options)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu", "callbacks": [Timing()], "limit_val_batches": 0}
    L.Trainer(max_epochs=1, **quiet).fit(model, datamodule=data)
    return clock.speeds()


def theirs(total: int, method: str) -> dict[str, float]:
    from stable_baselines3 import A2C as SB3A2C
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

    environment, num_envs, steps = CARTPOLE if method == "a2c" else HOPPER
    options: dict[str, Any] = {"env": make_vec_env(environment, num_envs), "n_steps": steps, "device": "cpu", "seed": 0}
    if method == "a2c":
        model: Any = SB3A2C("MlpPolicy", **A2C, **options)
    else:
        from sb3_contrib import TRPO as SB3TRPO

        model = SB3TRPO("MlpPolicy", cg_max_steps=10, n_critic_updates=20, batch_size=128, **options)
    model.learn(total, callback=Timing())
    return clock.speeds()


# environment steps, and who is measured; the last is what the others are compared with
Side = Callable[[int], dict[str, float]]
METHODS: dict[str, tuple[int, dict[str, Side]]] = {
    "a2c": (
        40_000,
        {
            "ours, sync": partial(ours, method="PolicyGradient", setting=CARTPOLE, vectorization="sync", options=A2C),
            "ours, native": partial(
                ours, method="PolicyGradient", setting=CARTPOLE, vectorization="native", options=A2C
            ),
            "SB3": partial(theirs, method="a2c"),
        },
    ),
    "trpo": (
        60_000,
        {
            "ours": partial(ours, method="TRPO", setting=HOPPER, vectorization="sync", options=TRPO),
            "sb3-contrib": partial(theirs, method="trpo"),
        },
    ),
}
for kind, setting, vectorization, total in (
    ("cartpole", CARTPOLE, "native", 40_000),
    ("waiting", WAITING, "async", 10_000),
):
    METHODS[f"impala-{kind}"] = (
        total,
        {
            name: partial(ours, method=method, setting=setting, vectorization=vectorization, options=A2C)
            for name, method in (("IMPALA", "IMPALA"), ("A2C", "PolicyGradient"))
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--total", type=int, help="environment steps")
    parser.add_argument("--side", help="one run of one side, in this process")
    args = parser.parse_args()
    total, sides = METHODS[args.method]
    total = args.total or total
    if args.side:
        import torch

        torch.set_num_threads(1)
        print(json.dumps(sides[args.side](total)))
        return
    speeds: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(args.runs):
        for side, measured in speeds.items():
            command = [sys.executable, "-m", "benchmarks.onpolicy", args.method, "--side", side, "--total", str(total)]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            measured.append(json.loads(answer.stdout.splitlines()[-1]))
    *_, last = sides
    for what in ("steady", "steady_cpu", "whole"):
        for side, measured in speeds.items():
            ratios = sorted(a[what] / b[what] for a, b in zip(measured, speeds[last], strict=True))
            speed, middle = statistics.median(run[what] for run in measured), statistics.median(ratios)
            print(f"{what:<12}{side:<14}{speed:>8,.0f}/s  {middle:.2f} x {last} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
