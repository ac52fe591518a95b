"""Short training runs through the real command line, in this process and in others."""

import multiprocessing
import os
import signal
import socket
import sys
from itertools import zip_longest
from pathlib import Path

import torch

from commands.main import main
from datamodules import Digits
from lightning_modules import CNF, DDPM, ClassifierFree, ClassifierGuidance, RealNVP, ScoreMatching
from zoo.diffusion.model import ImageDiffusion
from zoo.diffusion.noisy_classifier import NoisyClassifier
from zoo.flows.model import Flow

TINY = str(Path(__file__).with_name("tiny.yaml"))
TINY_FLOW = str(Path(__file__).with_name("tiny_flow.yaml"))
DDP = ("--trainer.devices", 2, "--trainer.strategy", "ddp", "--model.augmentation", 0)

# a server that has imported everything and done nothing: its processes start at once, and never inherit a thread
PROCESSES = multiprocessing.get_context("forkserver")
LATE = ["commands.training.cli", "matplotlib.backends.backend_agg", "sklearn.datasets", "torch.utils.tensorboard"]
PROCESSES.set_forkserver_preload([__name__, *LATE])


def command(log: Path, arguments: list[str]) -> None:
    """A whole command line, for a process of its own, whose output goes to `log`."""
    sys.stderr = sys.stdout = log.open("w", buffering=1)
    sys.argv = ["cli.py"]
    sys.exit(main(arguments))


def run(verb: str, folder: Path, *options: object) -> int:
    """One verb of the Trainer in this process, with `folder` as its run folder; the exit status.

    The config is tiny.yaml, unless `options` name another.
    """
    before = sys.argv
    sys.argv = ["cli.py"]
    config = [] if "--config" in options else ["--config", TINY]
    try:
        return main([verb, *config, "--trainer.default_root_dir", str(folder), *map(str, options)])
    finally:
        sys.argv = before


def fit(folder: Path, *options: object) -> Path:
    """A run that succeeds; returns its folder."""
    assert run("fit", folder, *options) == 0
    return folder


def read(checkpoint: Path) -> dict:
    return torch.load(checkpoint, weights_only=True)


def snapshot(folder: Path) -> dict:
    """Every file below a folder: its bytes and when it was written."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def differences(a: object, b: object, path: str = "") -> list[str]:
    """Where two trees of dicts, lists, tensors and plain values are not bit-equal."""
    if isinstance(a, dict) and isinstance(b, dict):
        missing = [f"{path}/{key}" for key in a.keys() ^ b.keys()]
        return missing + [line for key in a.keys() & b.keys() for line in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [line for i, pair in enumerate(zip(a, b, strict=True)) for line in differences(*pair, f"{path}/{i}")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [path]
    return [] if a == b else [path]


def assert_same_run(a: Path, b: Path) -> None:
    """Two checkpoints hold the same weights, averages, optimizer, counters and random states, bit for bit."""
    one, two = read(a), read(b)
    for content in (one, two):  # it holds the path of the run folder
        content["callbacks"] = {name: state for name, state in content["callbacks"].items() if "Checkpoint" not in name}
    assert {"current_model_state", "averaging_state", "optimizer_states", "random_states"} <= one.keys()
    assert differences(one, two) == []


def fit_with_signal(folder: Path, *options: object, step: int, number: int) -> tuple[int, str]:
    """A `fit` in a process of its own that gets a signal as training step `step` begins.

    Returns:
        (its exit status, negative if a signal ended it; its standard error)
    """
    log = folder.with_suffix(".log")
    process = PROCESSES.Process(target=_fit_with_signal, args=(log, folder, options, step, number), daemon=True)
    process.start()
    process.join(120)
    return process.exitcode, log.read_text()


def _fit_with_signal(log, folder, options, step, number):
    sys.stderr = log.open("w", buffering=1)
    original = DDPM.training_step

    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == step:
            os.kill(os.getpid(), number)
        return original(self, batch, batch_idx)

    DDPM.training_step = training_step
    sys.exit(run("fit", folder, *options))


def run_in_ranks(
    folder: Path, *commands: list[object], statuses: tuple[int, ...] = (), signal_after: int = 0
) -> list[dict]:
    """Runs each command in two processes together, as Lightning's launcher would start them.

    Args:
        statuses: the exit statuses that the commands must have, 0 unless given.
        signal_after: the second process gets a SIGTERM after this step.

    Returns:
        For each rank what its training steps saw: "images" (or points), "noise", "labels" of a denoiser, the noised
        "images" and "times" of a classifier; and the raw "weights" after the last.
    """
    codes = two(_run_as_rank, folder, commands, statuses, signal_after)
    assert codes == [0, 0], [log.read_text() for log in sorted(folder.glob("*.log"))]
    return [read(folder / f"rank-{rank}.pt") for rank in range(2)]


def two(target, *given) -> list[int | None]:
    """The exit codes of two processes that call target(number, port, *given), with a free port to meet at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [PROCESSES.Process(target=target, args=(n, port, *given), daemon=True) for n in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(200)
    return [process.exitcode for process in processes]


def _run_as_rank(rank, port, folder, commands, statuses, signal_after):
    sys.stderr = (folder / f"rank-{rank}.log").open("w", buffering=1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    seen = {"images": [], "noise": [], "labels": [], "times": []}
    original, classify = ImageDiffusion.loss, NoisyClassifier.forward

    def loss(self, x0, t, noise, labels=None, augmentation=None):
        if self.training:
            seen["images"].append(x0)
            seen["noise"].append(noise)
            seen["labels"].append(labels)
        return original(self, x0, t, noise, labels)

    def forward(self, x, t):
        if self.training:
            seen["images"].append(x)
            seen["times"].append(t)
        return classify(self, x, t)

    original_log_prob = Flow.log_prob

    def log_prob(self, x, labels=None):
        if self.training:
            seen["images"].append(x)
        return original_log_prob(self, x, labels)

    def on_train_batch_end(self, *_):
        seen["weights"] = {name: weight.detach().clone() for name, weight in self.state_dict().items()}
        if rank and self.trainer.global_step == signal_after:
            os.kill(os.getpid(), signal.SIGTERM)

    ImageDiffusion.loss, NoisyClassifier.forward, Flow.log_prob = loss, forward, log_prob
    for kind in (DDPM, ClassifierFree, ClassifierGuidance, ScoreMatching, RealNVP, CNF):
        kind.on_train_batch_end = on_train_batch_end
    for command, expected in zip_longest(commands, statuses, fillvalue=0):
        if run(*command) != expected:
            sys.exit(f"{command} did not end with {expected}")
    torch.save(seen, folder / f"rank-{rank}.pt")


def digits_batches(number: int, size: int) -> list[torch.Tensor]:
    """The first training batches of the digits in one process."""
    data = Digits(batch_size=size, batches_per_epoch=number)
    return [images for images, _ in data.train_dataloader()]
