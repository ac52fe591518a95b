"""Which method of value decomposition finds the optimum of which matrix game, over training seeds.

    python -m benchmarks.matrix_games [--updates 20000] [--seeds 20] [--methods vdn qmix ...]

Tables for utilities, every joint action equally often (uniform exploration), Adam at 1e-2, all seeds and games at once.
Prints how many seeds end with the optimal greedy joint action, the mean payoff, and the squared error of Q_tot.
"""

import argparse
import time

import torch

from zoo.teams.losses import METHODS
from zoo.teams.payoffs import additive_fit, payoff
from zoo.teams.tabular import fit_tables

GAMES = ("qtran", "climbing", "mg1", "mg3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--methods", nargs="+", choices=[*METHODS], default=[m for m in METHODS if m != "resz"])
    parser.add_argument("--games", nargs="+", default=[*GAMES])
    parser.add_argument("--compile", action="store_true", help="compile the gradient: a quarter of a minute a method")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tables = torch.stack([payoff(game) for game in args.games])
    games, seeds = tables.repeat_interleave(args.seeds, 0), [*range(args.seeds)] * len(tables)
    print(f"{'seeds with the optimum, of ' + str(args.seeds):<30}" + "".join(f"{game:>12}" for game in args.games))
    options = (
        {"prepare": lambda function: torch.compile(function, options={"cpp_wrapper": True})} if args.compile else {}
    )
    for method in args.methods:
        start = time.process_time()
        fit = fit_tables(method, games, seeds, args.updates, **options)
        found = fit.payoffs.view(len(tables), -1)
        optimal = (found == tables.flatten(1).amax(1)[:, None]).sum(1).tolist()
        errors = (fit.total - games).square().mean((1, 2)).view(len(tables), -1).mean(1).tolist()
        for label, values, form in (
            (method, optimal, "d"), ("  mean payoff", found.mean(1).tolist(), ".2f"), ("  squared error", errors, ".2f")
        ):  # fmt: skip
            print(f"{label:<30}" + "".join(f"{value:>12{form}}" for value in values), flush=True)
        print(f"  {time.process_time() - start:.0f} s of CPU", flush=True)
    residual = [(table - additive_fit(table)).square().mean().item() for table in tables]
    print(f"{'additive residual':<30}" + "".join(f"{value:>12.2f}" for value in residual))


if __name__ == "__main__":
    main()
