"""Trains a policy from several seeds, measures each final policy, and makes a model folder of the median one.

    python -m benchmarks.train_seeds ppo-cartpole --seeds 5

Writes runs/NAME/seed-S, runs/NAME/results.json and checkpoints/shipped/NAME, whose card lists the return of every seed;
an older folder there is replaced. A second call does not train the finished seeds again. Options after `--` go to
`fit`. Seeds that were trained elsewhere can be copied into runs/NAME first. Run it from a clean checkout, because the
card names the commit.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from checkpoints.catalogue import describe
from checkpoints.store import load
from commands.measures.policy import returns as measure_returns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of a config")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--no-folder", action="store_true", help="only train and measure")
    parser.add_argument("fit", nargs="*", help="more options of fit")
    args = parser.parse_intermixed_args()  # `fit` may follow options
    root, returns = Path("runs") / args.name, {}
    for seed in range(args.seeds):
        run = root / f"seed-{seed}"
        if not (run / "model").is_dir():
            options = ["--seed_everything", seed, "--trainer.default_root_dir", run, *args.fit]
            command("fit", "--config", args.name, *options)
            command("export", run / "last.ckpt", run / "model")
        returns[str(seed)] = mean_return(run / "model")
        print(f"{args.name} seed {seed}: {returns[str(seed)]:.2f}", flush=True)
        (root / "results.json").write_text(json.dumps(returns, indent=2) + "\n")
    if args.no_folder:
        return
    median = sorted(returns, key=returns.__getitem__)[len(returns) // 2]
    folder = Path("checkpoints/shipped") / args.name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(root / f"seed-{median}" / "model", folder)
    command(
        "evaluate",
        folder,
        "--update",
        "--license",
        "apache-2.0",
        "--seeds",
        *(root / f"seed-{seed}" / "model" for seed in returns),
    )


def mean_return(folder: Path) -> float:
    described = describe(folder)
    return measure_returns(load(described), described, full=True, say=lambda text: None)["mean_return"].value


def command(*words: object) -> None:
    subprocess.run([sys.executable, "cli.py", *map(str, words)], check=True)


if __name__ == "__main__":
    main()
