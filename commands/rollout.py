"""Play a policy: its returns over some episodes, and a film of them (.mp4 or .gif) if asked for."""

import argparse
import json
import statistics
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from commands.options import add_device, at_least, check_output, choose_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a shipped name, or a model folder")
    parser.add_argument("--episodes", type=at_least(1), default=10, help="how many, from seeds SEED, SEED + 1, ...")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the first episode")
    parser.add_argument("--explore", action="store_true", help="draw actions instead of taking the most likely ones")
    parser.add_argument("--video", type=Path, metavar="FILE", help="a .mp4 or .gif file")
    parser.add_argument("--environment", metavar="ID", help="another environment than the policy was trained in")
    parser.add_argument("--env-module", metavar="MODULE", help="a module of yours to import, which registers it")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    from commands.drawing.films import check_video, filming
    from commands.policies import import_environments, load_policy

    if args.video is not None:
        check_output(args.video, (".mp4", ".gif"), option="--video")
        check_video(args.video)
    import_environments(args.env_module)
    policy, name, arguments = load_policy(args.model, choose_device(args.device), args.environment)

    import torch

    from datamodules.experience.environments import make
    from datamodules.experience.episodes import play

    generator = torch.Generator().manual_seed(args.seed)
    returns, lengths = [], []
    with filming(args.video) if args.video is not None else nullcontext() as film:
        for seed in range(args.seed, args.seed + args.episodes):  # one at a time, in the order of the film
            make_one = partial(make, name, arguments, render=film is not None)
            played = play(policy, make_one, [seed], explore=args.explore, generator=generator, on_step=film)
            returns.append(played.returns.item())
            lengths.append(played.lengths.item())
    mean, std = statistics.fmean(returns), statistics.pstdev(returns)
    if args.json:
        answer = {"returns": returns, "lengths": lengths}
        print(json.dumps(answer | {"mean": mean, "std": std, "env": name}, allow_nan=False))
    else:
        where = f"; wrote {args.video}" if args.video is not None else ""
        print(f"{name}: return {mean:.2f} ± {std:.2f} over {args.episodes} episodes{where}")
    return 0
