"""Joint environment steps a second of whole QMIX training, compared with PyMARLzoo+.

    python -m benchmarks.teams spread --peer /path/to/a/python/with/pymarlzooplus --runs 3

PyMARLzoo+ (1.1.0, a descendant of EPyMARL) needs NumPy 1, so it runs in an environment of its own. Equal networks (two
layers of 64 units, with --recurrent a GRU instead of the second; mixer of 32 units), minibatches of 32 episodes, an
update an episode. Each run is a process of its own with one thread, the sides in turn: ours with environments one
after another, ours with all copies in one array where there is such a version, theirs. `benchmarks.ppo` says what is
measured.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.ppo import Clock

TASKS = {
    "spread": ("mpe2/simple_spread_v3", "mpe:SimpleSpread-3-v0", 25),
    "foraging": ("Foraging-8x8-2p-2f-coop-v3", "lbforaging:Foraging-8x8-2p-2f-coop-v3", 50),
}
PEER = """
import json, os, sys, time
from pymarlzooplus import main
from pymarlzooplus.runners.episode_runner import EpisodeRunner

key, limit, total, recurrent = json.loads(sys.argv.pop())
main.SETTINGS["CAPTURE_MODE"] = "no"
run, marks = EpisodeRunner.run, []

def timed(self, test_mode=False):
    if self.t_env >= [0, total // 10, total][len(marks)]:
        marks.append((self.t_env, time.perf_counter(), time.process_time()))
    if len(marks) == 3:
        first, tenth, last = marks
        speed = lambda since, clock: (last[0] - since[0]) / (last[clock] - since[clock])
        answer = {"whole": speed(first, 1), "steady": speed(tenth, 1), "steady_cpu": speed(tenth, 2)}
        print("\\n" + json.dumps(answer), flush=True)
        os._exit(0)  # it would sleep, and draw
    return run(self, test_mode)

EpisodeRunner.run = timed
never = dict.fromkeys(("test_interval", "log_interval", "runner_log_interval", "learner_log_interval"), 10**9)
options = never | {"use_rnn": recurrent, "t_max": 2 * total, "test_nepisode": 1}
environment = {"key": key, "time_limit": limit, "seed": 0}
main.pymarlzooplus({"config": "qmix", "env-config": "gymma", "algo_args": options, "env_args": environment})
"""


def ours(environment: str, vectorization: str, total: int, recurrent: bool) -> dict[str, float]:
    import lightning as L
    from lightning.pytorch.callbacks import Callback

    from datamodules import TeamReplay
    from lightning_modules import ValueDecomposition

    clock = Clock(total)

    class Timing(Callback):
        def on_train_start(self, *_: Any) -> None:
            clock(0)

        def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
            clock(int(module.env_steps))

    sizes = {"num_envs": 8, "updates_per_round": 8, "batch_size": 32, "warmup_episodes": 32, "rounds_per_batch": 5}
    data = TeamReplay(environment, total, vectorization=vectorization, seed=0, **sizes)  # type: ignore[arg-type]
    model = ValueDecomposition(data.team_spaces, total, recurrent=recurrent, compile=True)
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    options |= {"enable_model_summary": False, "accelerator": "cpu", "callbacks": [Timing()], "limit_val_batches": 0}
    L.Trainer(max_epochs=1, **options).fit(model, datamodule=data)
    return clock.speeds()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--peer", help="the Python that has pymarlzooplus")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--total", type=int, default=20_000, help="joint steps")
    parser.add_argument("--recurrent", action="store_true")
    parser.add_argument("--side", choices=("copies", "native"), help="one run of ours, in this process")
    args = parser.parse_args()
    name, key, limit = TASKS[args.task]
    if args.side:
        import torch

        torch.set_num_threads(1)
        print(json.dumps(ours(name, args.side, args.total, args.recurrent)))
        return
    here = [sys.executable, "-m", "benchmarks.teams", args.task, "--total", str(args.total)]
    here += ["--recurrent"] * args.recurrent
    commands = {f"ours, {side}": [*here, "--side", side] for side in ("copies", "native")}
    if args.task == "foraging":
        del commands["ours, native"]
    if args.peer:
        commands["theirs"] = [args.peer, "-c", PEER, json.dumps([key, limit, args.total, args.recurrent])]
    speeds: dict[str, list[dict[str, float]]] = {side: [] for side in commands}
    for _ in range(args.runs):
        for side, measured in speeds.items():
            with tempfile.TemporaryDirectory() as folder:  # where theirs leaves its results
                options: dict[str, Any] = {"cwd": folder} if side == "theirs" else {}
                environment = os.environ | {"OMP_NUM_THREADS": "1"}
                done = subprocess.run(commands[side], env=environment, capture_output=True, text=True, **options)
            if done.returncode:
                raise SystemExit(f"{side}: {done.stderr}")
            measured.append(json.loads(done.stdout.splitlines()[-1]))
    for what in ("steady", "steady_cpu", "whole"):
        for side, measured in speeds.items():
            speed = statistics.median(run[what] for run in measured)
            line = f"{what:<12}{side:<14}{speed:>8,.0f}/s"
            if args.peer:
                ratios = sorted(a[what] / b[what] for a, b in zip(measured, speeds["theirs"], strict=True))
                line += f"  {statistics.median(ratios):.2f} x theirs ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            print(line)


if __name__ == "__main__":
    main()
