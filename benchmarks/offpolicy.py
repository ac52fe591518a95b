"""Environment steps a second of SAC and TD3, compared with Stable-Baselines3: 256x256 networks, batch 256, HalfCheetah.

    python -m benchmarks.offpolicy sac --precision bf16-mixed

Two rows: an update after each environment step, and 32 steps and then 32 updates (`train_freq = gradient_steps = 32`
there). Both sides train in one process, in turns of 256 environment steps, after 1,000 random ones and a turn that is
not counted, in which ours compiles. The medians are over turns; the ratio is that of each turn of ours to the following
one of theirs. `Trainer` is how much longer a turn of `fit` takes than its `training_step`, the loop without Lightning.
Both CPU and wall time are given: another program on the machine slows the latter and hardly the former.
"""

import argparse
import statistics
import time
import warnings
from typing import Any

import lightning as L
import stable_baselines3
import torch
from lightning.pytorch.callbacks import Callback

import lightning_modules
from datamodules import Replay

ENVIRONMENT, WARMUP, TURN = "HalfCheetah-v5", 1000, 256
Times = tuple[float, float]  # wall and CPU time, in seconds


def now() -> Times:
    return time.perf_counter(), time.process_time()


def since(start: Times) -> Times:
    wall, processor = now()
    return wall - start[0], processor - start[1]


class Turns(Callback):
    """Times each turn of ours, and then one of theirs."""

    def __init__(self, theirs: Any) -> None:
        self.theirs = theirs
        self.ours_took, self.theirs_took, self.step_took = [], [], []  # type: ignore[var-annotated]

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        step = module.training_step

        def timed(*arguments: Any) -> None:
            start = now()
            step(*arguments)
            self.step_took.append(since(start))

        module.training_step = timed
        self.theirs.learn(WARMUP + TURN)
        self.start = now()

    def on_train_batch_end(self, *_: Any) -> None:
        self.ours_took.append(since(self.start))
        start = now()
        self.theirs.learn(TURN, reset_num_timesteps=False)
        self.theirs_took.append(since(start))
        self.start = now()


def measure(algorithm: str, period: int, turns: int, precision: str) -> Turns:
    """Alternates `turns` turns of both after one that is left out."""
    options: dict[str, Any] = {"policy_kwargs": {"net_arch": [256, 256]}, "batch_size": 256, "learning_starts": WARMUP}
    options |= {"train_freq": period, "gradient_steps": period, "device": "cpu", "seed": 0}
    turn = Turns(getattr(stable_baselines3, algorithm.upper())("MlpPolicy", ENVIRONMENT, **options))
    total = WARMUP + TURN * (turns + 1)
    data = Replay(
        ENVIRONMENT, total, seed=0, warmup_env_steps=WARMUP, update_every=period, rounds_per_batch=TURN // period
    )
    model = getattr(lightning_modules, algorithm.upper())(data.spaces, total, compile=True)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu", "devices": 1, "limit_val_batches": 0}
    L.Trainer(max_epochs=1, precision=precision, callbacks=[turn], **quiet).fit(model, datamodule=data)
    return turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithm", choices=("sac", "td3"))
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true", help="of ours")
    parser.add_argument("--periods", type=int, nargs="+", default=[1, 32])
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    for period in args.periods:
        turn = measure(args.algorithm, period, args.turns, args.precision)
        for clock, name in enumerate(("wall", "cpu")):
            ours, theirs, step = (
                [took[clock] for took in part[1:]] for part in (turn.ours_took, turn.theirs_took, turn.step_took)
            )
            ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
            beyond = statistics.median(a - b for a, b in zip(ours, step, strict=True)) / statistics.median(step)
            print(
                f"{args.algorithm} {args.precision} every {period:<3} {name:<5}"
                f"ours {TURN / statistics.median(ours):>5.0f}/s  SB3 {TURN / statistics.median(theirs):>5.0f}/s  "
                f"{statistics.median(ratios):.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f})  Trainer {beyond:+.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
