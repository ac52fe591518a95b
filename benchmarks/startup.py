"""CPU and wall seconds of whole commands, start-up included; the median of several runs.

python benchmarks/startup.py
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CLI = Path(__file__).resolve().parent.parent / "cli.py"
COMMANDS = {
    "--help": ["--help"],
    "list": ["list"],
    "sample, 64 images, 50 DDIM steps": [
        *("sample", "ddpm-digits", "--num-samples", "64", "--sampler", "ddim", "--steps", "50", "--output", "a.png")
    ],
}


def measure(arguments: list[str], folder: str) -> tuple[float, float]:
    """(CPU, wall) seconds of one run."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, str(CLI), *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in COMMANDS.items():
            measure(arguments, folder)  # reads the files into memory once
            runs = [measure(arguments, folder) for _ in range(5)]
            cpu, wall = (statistics.median(values) for values in zip(*runs, strict=True))
            print(f"{name:<36}{cpu:6.2f} s CPU {wall:6.2f} s wall")


if __name__ == "__main__":
    main()
