"""How language models are measured: in bits a character, beside a compressor."""

import lzma
import math
import platform
from typing import Any

import torch

from checkpoints.catalogue import Description
from commands.measures.common import Measurement, Metrics, Say, device_of, load_data
from zoo.errors import UserError

BATCH = 64


def text(model: Any, described: Description, *, full: bool, say: Say) -> Metrics:
    """Bits a character of the test text, exact; and those of the compressor xz, which read the training text before."""
    data = load_data(described.data)
    if (getattr(data, "alphabet", None), getattr(data, "context", None)) != (model.alphabet, model.context):
        raise UserError(f"{described.data['class']} has another alphabet or context than the model")
    windows, half = data.split("test")[0], model.context // 2
    bits: list[float] = []
    for rows in torch.arange(len(windows)).split(BATCH):
        say(f"window {rows[0]} of {len(windows)}")
        with torch.inference_mode():
            nats = -model(windows[rows].to(device_of(model)))[:, half:].double()
        bits += (nats.mean(1) / math.log(2)).tolist()
    of = f" of Python {platform.python_version()}" * (data.path is None)
    how = f"mean over {len(windows)} windows of the test text{of}"
    say("xz")
    train, test = (data.texts[split].encode() for split in ("train", "test"))
    compressed = [len(lzma.compress(part, preset=9 | lzma.PRESET_EXTREME)) for part in (train, train + test)]
    added = 8 * (compressed[1] - compressed[0]) / len(data.texts["test"])
    return {
        "bits_per_character": Measurement.of(
            bits,
            f"-log2 P, exact, of each character given the {half} to {model.context - 1} before it; {how}; error over "
            "windows",
        ),
        "bits_per_character_xz": Measurement(
            added, 0.0, 1, "baseline: bits by which the test text lengthens the training text compressed by xz -9e"
        ),
    }
