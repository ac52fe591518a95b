"""Environment steps a second of SAC and TD3, beside Stable-Baselines3: 256x256 networks, batch 256, HalfCheetah-v5.

    python -m benchmarks.offpolicy sac --runs 3 --precision bf16-mixed

Two rows: an update after each environment step, and 32 steps and then 32 updates (`train_freq = gradient_steps = 32`
there). Each run is a process of its own, ours and theirs in turn, from 1,000 random steps on. `wall` and `cpu` are
medians over runs of steps a second of wall and of processor time, from the first thousandth trained step on, so that
compiling is left out: another program on the machine slows the one and hardly the other. `bare` is our own update in a
loop without Lightning.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from typing import Any

ENVIRONMENT, WARMUP, LEAD = "HalfCheetah-v5", 1000, 1000  # LEAD: trained steps before the clock starts


class Clock:
    """Wall and processor time between two counts of environment steps."""

    def __init__(self, last: int) -> None:
        self.due, self.marks = [WARMUP + LEAD, last], []  # type: ignore[var-annotated]

    def __call__(self, steps: int) -> None:
        if len(self.marks) < 2 and steps >= self.due[len(self.marks)]:
            self.marks.append((steps, time.perf_counter(), time.process_time()))

    def speeds(self) -> dict[str, float]:
        first, last = self.marks
        steps = last[0] - first[0]
        return {"wall": steps / (last[1] - first[1]), "cpu": steps / (last[2] - first[2])}


def ours(algorithm: str, period: int, total: int, precision: str, bare: bool) -> dict[str, float]:
    import lightning as L
    from lightning.pytorch.callbacks import Callback

    import lightning_modules
    from datamodules import Replay

    clock = Clock(total)

    class Timing(Callback):
        def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
            clock(int(module.env_steps))

    class Bare(Callback):
        """Goes through a batch's rounds in a loop of its own: what the Trainer adds is left out."""

        def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
            batch.count = (total - WARMUP) // period
            step, seen = module.training_step, WARMUP

            def timed(rounds: Any) -> Any:
                nonlocal seen
                for minibatches in rounds:
                    yield minibatches
                    seen += period
                    clock(seen)

            class Rounds:
                env_steps, episodes = total, batch.episodes

                def __iter__(self) -> Any:
                    return timed(batch)

            step(Rounds(), 0)
            batch.count = 1
            trainer.should_stop = True

    data = Replay(
        ENVIRONMENT, total, seed=0, warmup_env_steps=WARMUP, update_every=period, rounds_per_batch=1000 // period
    )
    model = {"sac": lightning_modules.SAC, "td3": lightning_modules.TD3}[algorithm]
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    options |= {"enable_model_summary": False, "accelerator": "cpu", "devices": 1, "limit_val_batches": 0}
    options |= {"precision": precision, "callbacks": [Bare() if bare else Timing()]}
    L.Trainer(max_epochs=1, **options).fit(model(*data.sizes, total, compile=True), datamodule=data)
    return clock.speeds()


def theirs(algorithm: str, period: int, total: int) -> dict[str, float]:
    import stable_baselines3
    from stable_baselines3.common.callbacks import BaseCallback

    clock = Clock(total)

    class Timing(BaseCallback):
        def _on_step(self) -> bool:
            clock(self.num_timesteps)
            return True

    options: dict[str, Any] = {"policy_kwargs": {"net_arch": [256, 256]}, "batch_size": 256, "learning_starts": WARMUP}
    options |= {"train_freq": period, "gradient_steps": period, "device": "cpu", "seed": 0}
    model = getattr(stable_baselines3, algorithm.upper())("MlpPolicy", ENVIRONMENT, **options)
    model.learn(total + 1, callback=Timing())
    return clock.speeds()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithm", choices=("sac", "td3"))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3000, help="that are timed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true", help="of ours")
    parser.add_argument("--periods", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--side", choices=("ours", "theirs", "bare"), help="one run of one side, in this process")
    args = parser.parse_args()
    total = WARMUP + LEAD + args.steps
    if args.side:
        import torch

        warnings.simplefilter("ignore")
        torch.set_num_threads(args.threads)
        setting = (args.algorithm, args.periods[0], total)
        measured = theirs(*setting) if args.side == "theirs" else ours(*setting, args.precision, args.side == "bare")
        print(json.dumps(measured))
        return
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    for period in args.periods:
        speeds: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": [], "bare": []}
        for _ in range(args.runs):
            for side, runs in speeds.items():
                command = [sys.executable, "-m", "benchmarks.offpolicy", args.algorithm, "--side", side]
                command += ["--threads", str(args.threads), "--steps", str(args.steps)]
                command += ["--precision", args.precision, "--periods", str(period)]
                answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                runs.append(json.loads(answer.stdout.splitlines()[-1]))
        for what in ("wall", "cpu"):
            median = {side: statistics.median(run[what] for run in runs) for side, runs in speeds.items()}
            print(
                f"{args.algorithm} {args.precision} every {period:<3} {what:<5} ours {median['ours']:>6.0f}/s  "
                f"SB3 {median['theirs']:>6.0f}/s  {median['ours'] / median['theirs']:.2f}x  "
                f"bare {median['bare']:>6.0f}/s  Trainer {median['bare'] / median['ours'] - 1:+.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
