"""How models of one sequence given another are measured: by the sequences that decoding finds."""

from typing import Any

import torch

from checkpoints.catalogue import Description
from commands.measures.common import Measurement, Metrics, Say, device_of, load_data
from zoo.errors import UserError

BEAMS = 4
BATCH = 200


def exact_match(model: Any, described: Description, *, full: bool, say: Say) -> Metrics:
    """The share of test sources whose decoded target is right in every character, greedily and by beam search; nats."""
    data = load_data(described.data)
    if getattr(data, "alphabet", None) != model.alphabet:
        raise UserError(f"{described.data['class']} is no data of the model's characters, {model.alphabet!r}")
    sources, targets = (part.to(device_of(model)) for part in data.split("test"))
    how = f"{len(sources)} test pairs, none of whose sources was trained on"
    metrics: Metrics = {}
    for name, beams, text in (
        ("exact_match", 1, "greedy decoding"),
        (f"exact_match_beam{BEAMS}", BEAMS, f"beam search, {BEAMS} beams"),
    ):
        right: list[float] = []
        for rows in torch.arange(len(sources)).split(BATCH):
            say(f"{text}: pair {rows[0]} of {len(sources)}")
            found = model.search(sources[rows], beams)[0][:, 0]
            right += (found == targets[rows]).all(1).double().tolist()
        metrics[name] = Measurement.of(right, f"share of targets that {text} finds, in every character; {how}")
    with torch.inference_mode():
        pairs = zip(sources.split(BATCH), targets.split(BATCH), strict=True)
        nats = torch.cat([-model.log_prob(x, y) for x, y in pairs]).double()
    metrics["nats"] = Measurement.of(nats.tolist(), f"-log P(target given source), exact; {how}")
    return metrics
