"""What the benchmarks share: alternating timing, tables, the machine in words, results that survive interruption."""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "diffusers", "denoising_diffusion_pytorch", "zuko", "nflows", "normflows", "lightning")


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], repeats: int = 1) -> float:
    """Wall seconds of one call, after waiting for the device."""
    synchronise()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    synchronise()
    return (time.perf_counter() - start) / repeats


def alternate(works: Mapping[str, Callable[[], object]], rounds: int, repeats: int = 1) -> dict[str, list[float]]:
    """Seconds a call of each work in each round; the works take turns, in reverse order every other round."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for i in range(rounds):
        for name in list(works)[:: -1 if i % 2 else 1]:
            times[name].append(seconds(works[name], repeats))
    return times


def first_call(work: Callable[[], object]) -> float:
    """Seconds of the first call of a compiled work minus those of the fourth: the time of compiling."""
    first = seconds(work)
    seconds(work, 2)
    return max(0.0, first - seconds(work))


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """theirs / ours round by round: median (smallest to largest)."""
    values = sorted(a / b for a, b in zip(theirs, ours, strict=True))
    return f"{statistics.median(values):.2f} ({values[0]:.2f} to {values[-1]:.2f})"


def milliseconds(times: Sequence[float]) -> str:
    """Median (smallest to largest), in ms."""
    low, middle, high = (1e3 * f(times) for f in (min, statistics.median, max))
    return f"{middle:.1f} ({low:.1f} to {high:.1f})" if middle >= 1 else f"{middle:.3f} ({low:.3f} to {high:.3f})"


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a Markdown table."""
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    print(f"\n## {title}\n")
    for line in lines:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")
    sys.stdout.flush()


def machine(device: str = "cpu") -> str:
    """The processor, threads and versions in one line."""
    if device != "cpu":
        chip = torch.cuda.get_device_name(device)
    else:
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if info.is_file() else []
        chip = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
        flags = next((line for line in lines if line.startswith("flags")), "")
        chip = f"{chip or platform.processor()}{' with AMX' * ('amx_bf16' in flags)}, {os.cpu_count()} cores"
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"{chip}; {torch.get_num_threads()} threads; {versions}"


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def peak_flops(device: str) -> float:
    """FLOPs a second of a large bfloat16 product on a device: the peak that its networks could reach."""
    side = 8192 if device != "cpu" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds(lambda: a @ b, 3)
    return 2 * side**3 / min(seconds(lambda: a @ b, 10) for _ in range(3))


def child(arguments: Sequence[str], threads: int, cache: str | None = None) -> Any:
    """Runs `python -m benchmarks...` with a number of threads; what it prints last, read as JSON.

    OpenMP's waiting threads sleep. With `cache`, compiled code goes there: a fresh folder makes compiling cold.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    if cache is not None:
        environment["TORCHINDUCTOR_CACHE_DIR"] = cache
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def read(path: Path) -> dict[str, Any]:
    """Results so far, or none."""
    return json.loads(path.read_text()) if path.is_file() else {}


def write(path: Path, results: Mapping[str, Any]) -> None:
    """Writes results in one move, so that an interruption leaves the old ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1))
    part.replace(path)
