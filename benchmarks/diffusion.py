"""Diffusion compared with diffusers and denoising_diffusion_pytorch: every table, or one of them.

    python -m benchmarks.diffusion [all | speed | levers | hotspots | scaling | time-to-loss] [options]

`all` prints every table with the defaults; a part has options of its own (`speed --help`). Needs the extra `peers`.
"""

import argparse
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before PyTorch starts, as the command line does

from benchmarks import hotspots, levers, scaling, speed, time_to_loss
from benchmarks.peers import quiet

PARTS = {
    "speed": speed,
    "levers": levers,
    "hotspots": hotspots,
    "scaling": scaling,
    "time-to-loss": time_to_loss,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part")
    parts.add_parser("all", help="everything, with the defaults")
    options = {}
    for name, part in PARTS.items():
        options[name] = parts.add_parser(name, help=part.__doc__.splitlines()[0])
        part.add_arguments(options[name])
    args = parser.parse_args()
    with quiet():
        if args.part in PARTS:
            PARTS[args.part].run(args)
            return
        for name, part in PARTS.items():
            part.run(options[name].parse_args([]))


if __name__ == "__main__":
    main()
