"""Environment steps a second of SAC, TD3 and DQN, compared with Stable-Baselines3.

    python -m benchmarks.offpolicy sac --precision bf16-mixed
    python -m benchmarks.offpolicy dqn

SAC and TD3, HalfCheetah, 256x256 networks, minibatches of 256: an update after each environment step, and 32 steps and
then 32 updates. DQN, CartPole: the defaults of Stable-Baselines3 (64x64, minibatches of 32, an update every 4 steps),
and the settings of its zoo (256x256, minibatches of 64, 256 steps and then 128 updates). Both sides train in one
process, in turns, after 1,000 random environment steps and a turn that is not counted, in which ours compiles. The
medians are over turns; the ratio is that of each turn of ours to the following one of theirs. `Trainer` is how much
longer a turn of `fit` takes than its `training_step`, the loop without Lightning. Both CPU and wall time are given:
another program on the machine slows the latter and hardly the former.
"""

import argparse
import statistics
import time
import warnings
from typing import Any, NamedTuple

import lightning as L
import stable_baselines3
import torch
from lightning.pytorch.callbacks import Callback

import lightning_modules
from datamodules import Replay

WARMUP = 1000
Times = tuple[float, float]  # wall and CPU time, in seconds


class Setting(NamedTuple):
    """What both sides do alike: `steps` environment steps and then `updates`, until `turn` steps make a turn."""

    environment: str
    hidden: tuple[int, int]
    batch_size: int
    steps: int
    updates: int
    turn: int


CHEETAH = [Setting("HalfCheetah-v5", (256, 256), 256, period, period, 256) for period in (1, 32)]
SETTINGS = {
    "sac": CHEETAH,
    "td3": CHEETAH,
    "dqn": [Setting("CartPole-v1", (64, 64), 32, 4, 1, 2048), Setting("CartPole-v1", (256, 256), 64, 256, 128, 2048)],
}


def now() -> Times:
    return time.perf_counter(), time.process_time()


def since(start: Times) -> Times:
    wall, processor = now()
    return wall - start[0], processor - start[1]


class Turns(Callback):
    """Times each turn of ours, and then one of theirs."""

    def __init__(self, theirs: Any, turn: int) -> None:
        self.theirs, self.turn = theirs, turn
        self.ours_took, self.theirs_took, self.step_took = [], [], []  # type: ignore[var-annotated]

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        step = module.training_step

        def timed(*arguments: Any) -> None:
            start = now()
            step(*arguments)
            self.step_took.append(since(start))

        module.training_step = timed
        self.theirs.learn(WARMUP + self.turn)
        self.start = now()

    def on_train_batch_end(self, *_: Any) -> None:
        self.ours_took.append(since(self.start))
        start = now()
        self.theirs.learn(self.turn, reset_num_timesteps=False)
        self.theirs_took.append(since(start))
        self.start = now()


def measure(algorithm: str, setting: Setting, turns: int, precision: str) -> Turns:
    """Alternates `turns` turns of both after one that is left out."""
    options: dict[str, Any] = {"policy_kwargs": {"net_arch": [*setting.hidden]}, "batch_size": setting.batch_size}
    options |= {"train_freq": setting.steps, "gradient_steps": setting.updates, "learning_starts": WARMUP}
    options |= {"device": "cpu", "seed": 0}
    own: dict[str, Any] = {}
    if algorithm == "dqn":  # both explore with epsilon 0.05 from the end of the warm-up on
        options |= {"target_update_interval": 500, "exploration_final_eps": 0.05}
        own = {"target_period": 500, "epsilon_env_steps": 1}
    turn = Turns(
        getattr(stable_baselines3, algorithm.upper())("MlpPolicy", setting.environment, **options), setting.turn
    )
    total = WARMUP + setting.turn * (turns + 1)
    data = Replay(
        setting.environment,
        total,
        seed=0,
        warmup_env_steps=WARMUP,
        batch_size=setting.batch_size,
        update_every=setting.steps,
        replay_ratio=setting.updates / setting.steps,
        rounds_per_batch=setting.turn // setting.steps,
    )
    model = getattr(lightning_modules, algorithm.upper())(
        data.spaces, total, hidden=setting.hidden, compile=True, **own
    )
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu", "devices": 1, "limit_val_batches": 0}
    L.Trainer(max_epochs=1, precision=precision, callbacks=[turn], **quiet).fit(model, datamodule=data)
    return turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithm", choices=[*SETTINGS])
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true", help="of ours")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    for setting in SETTINGS[args.algorithm]:
        turn = measure(args.algorithm, setting, args.turns, args.precision)
        for clock, name in enumerate(("wall", "cpu")):
            ours, theirs, step = (
                [took[clock] for took in part[1:]] for part in (turn.ours_took, turn.theirs_took, turn.step_took)
            )
            ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
            beyond = statistics.median(a - b for a, b in zip(ours, step, strict=True)) / statistics.median(step)
            print(
                f"{args.algorithm} {args.precision} {setting.steps:>3} steps, {setting.updates:>3} updates  {name:<5}"
                f"ours {setting.turn / statistics.median(ours):>5.0f}/s  "
                f"SB3 {setting.turn / statistics.median(theirs):>5.0f}/s  "
                f"{statistics.median(ratios):.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f})  Trainer {beyond:+.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
