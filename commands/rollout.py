"""Play a policy or a team for some episodes: the returns, and on request a video (.mp4 or .gif)."""

import argparse
import json
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from checkpoints.catalogue import Description, describe
from commands.options import add_device, at_least, check_output, choose_device

# (seed, explore, generator, on_step) -> return (1,), length (1,), returns of agents if any
PlayOne = Callable[..., Any]


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
    from checkpoints.locate import find
    from commands.drawing.films import check_video, filming
    from commands.policies import import_environments

    if args.video is not None:
        check_output(args.video, (".mp4", ".gif"), option="--video")
        check_video(args.video)
    import_environments(args.env_module)
    described = describe(find(args.model))
    name, play_one = (_team if described.task == "team" else _policy)(args, described)

    import torch

    generator = torch.Generator().manual_seed(args.seed)
    returns, lengths, of_agents = [], [], []
    with filming(args.video) if args.video is not None else nullcontext() as film:
        for seed in range(args.seed, args.seed + args.episodes):  # one at a time, in the order of the film
            total, length, *each = play_one(seed, explore=args.explore, generator=generator, on_step=film)
            returns.append(total.item())
            lengths.append(length.item())
            of_agents += [part[0].tolist() for part in each]
    mean, std = statistics.fmean(returns), statistics.pstdev(returns)
    if args.json:
        answer = {"returns": returns, "lengths": lengths}
        answer |= {"returns_of_agents": of_agents} if of_agents else {}
        print(json.dumps(answer | {"mean": mean, "std": std, "env": name}, allow_nan=False))
    else:
        where = f"; wrote {args.video}" if args.video is not None else ""
        means = [statistics.fmean(each) for each in zip(*of_agents, strict=True)]
        differ = f"; of the agents {', '.join(f'{each:.2f}' for each in means)}" * (len({*means}) > 1)
        print(f"{name}: return {mean:.2f} ± {std:.2f} over {args.episodes} episodes{differ}{where}")
    return 0


def _policy(args: argparse.Namespace, described: Description) -> tuple[str, PlayOne]:
    """The environment of a policy, and how it plays an episode."""
    from commands.policies import load_policy
    from datamodules.experience.environments import make
    from datamodules.experience.episodes import play

    policy, name, arguments = load_policy(args.model, choose_device(args.device), args.environment)
    make_one = partial(make, name, arguments, render=args.video is not None)
    return name, lambda seed, **options: play(policy, make_one, [seed], **options)


def _team(args: argparse.Namespace, described: Description) -> tuple[str, PlayOne]:
    """The environment of a team, and how it plays an episode."""
    from checkpoints.store import load
    from commands.teams import played, stage_of

    team = load(described, choose_device(args.device))
    stage = stage_of(described, team, args.environment)
    return stage.name, partial(played, stage, team)
