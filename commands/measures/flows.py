"""How flows are measured: the protocols behind the numbers on their cards."""

from typing import TYPE_CHECKING, Any

from commands.measures.common import DRAWS, Measurement, Metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from datamodules import Densities
    from datamodules.images import ImageDataModule
    from zoo.flows.model import Flow

    Say = Callable[[str], None]

IMPORTANCE_DRAWS = 32  # of the noise behind the importance estimate
GRID, REACH = 800, 6.0  # cells a side of the integral, standard deviations to each side
PRIOR = 0.1  # counts that every grey level of a pixel starts with, in the baseline


def measure_density(model: "Flow", data: "Densities", say: "Say") -> Metrics:
    """How far from the true density: NLL less that of the truth on the test points; the NLL; the integral.

    The difference has the mean of NLL - entropy, but the same points score both densities, so that most of the noise
    of the NLL falls away.
    """
    from commands.drawing.flows import in_batches

    log_prob = in_batches(model)
    excess, nll = scores(model, data, say)
    evaluations = getattr(model, "evaluations", None)
    metrics = {"nll_minus_floor_nats": excess, "nll_nats": nll}
    say("integral")
    mass = integral(log_prob, data.mean, data.std)
    text = f"sum of p over {GRID} x {GRID} cells, {REACH:g} standard deviations of the data to each side of its mean"
    metrics["integral"] = Measurement(mass, 0.0, 1, text)
    if evaluations is not None:
        metrics["network_evaluations"] = Measurement(
            evaluations, 0.0, 1, "evaluations of the field that log p of the last 10,000 test points takes"
        )
    return metrics


def scores(model: "Flow", data: "Densities", say: "Say") -> tuple[Measurement, Measurement]:
    """NLL less that of the truth on the test points, and the NLL."""
    from commands.drawing.flows import in_batches

    points = data.points("test")
    say("test points")
    learned = in_batches(model)(points).double()
    say("true density")
    true = data.log_density(points)
    how = f"{len(points)} test points of {data.density}"
    excess = Measurement.of(
        (true - learned).tolist(),
        f"mean of log p_true - log p on {how}: an estimate of KL(p_true, p), which is NLL less the entropy "
        f"{data.entropy:.4f}, paired by points",
    )
    return excess, Measurement.of((-learned).tolist(), f"mean of -log p on {how}")


def integral(log_prob: "Callable[[Tensor], Tensor]", mean: "Tensor", std: "Tensor") -> float:
    """Midpoint sum of a density of the plane over REACH standard deviations to each side of the mean."""
    import torch

    steps = 2 * REACH * std.double() / GRID
    middle = (torch.arange(GRID, dtype=torch.float64) - (GRID - 1) / 2)[:, None] * steps + mean
    total = 0.0
    for rows in middle[:, 0].float().split(25):
        total += log_prob(torch.cartesian_prod(rows, middle[:, 1].float())).double().exp().sum().item()
    return total * steps.prod().item()


def measure_flow_images(model: "Flow", data: "ImageDataModule", *, full: bool, say: "Say") -> Metrics:
    """Bits per dimension of the test images, twice: the importance estimate and the bound of one draw.

    Then those of independent pixels, the baseline that a model of so few images must beat, and the quality of samples.
    """
    import torch

    from commands.measures.images import measure_samples
    from zoo.metrics.likelihood import bits_per_dim

    images, labels = data.images("test"), data.labels("test")
    device = model.like.device
    metrics: Metrics = {}
    for name, draws, text in (
        (f"bits_per_dim_{IMPORTANCE_DRAWS}_draws", IMPORTANCE_DRAWS, "importance estimate"),
        ("bits_per_dim_1_draw", 1, "lower bound of the likelihood"),
    ):
        generator, bits = torch.Generator().manual_seed(0), []
        for rows in torch.arange(len(images)).split(100):
            say(f"{text}: image {rows[0]} of {len(images)}")
            given = labels[rows].to(device) if model.num_classes else None
            with torch.inference_mode():
                nats = model.log_likelihood(images[rows].to(device), labels=given, generator=generator, draws=draws)
            bits += bits_per_dim(nats.double(), model.dims).tolist()
        how = f"{text}, {draws} draw{'s' * (draws > 1)} of uniform dequantisation, {data.levels} grey levels"
        metrics[name] = Measurement.of(bits, f"{how}, {len(images)} test images; error over images")
    metrics["bits_per_dim_independent_pixels"] = Measurement.of(
        independent_pixels(data).tolist(),
        f"baseline: each pixel's grey levels as often as in the training images, {PRIOR:g} added to each count; exact, "
        f"{len(images)} test images",
    )
    if model.num_classes:
        return metrics
    draws = DRAWS if full else 4
    sets: dict[str, tuple[dict[str, Any], int]] = {"temperature1": ({}, draws)}
    return metrics | measure_samples(model, data, sets, say)


def independent_pixels(data: "ImageDataModule") -> "Tensor":
    """Bits per dimension (N,) of the test images under the product of the pixels' own distributions."""
    import torch
    import torch.nn.functional as F

    from zoo.metrics.likelihood import bits_per_dim

    train, test = (
        ((data.images(split).flatten(1) + 1) * ((data.levels - 1) / 2)).round().long() for split in ("train", "test")
    )
    counts = F.one_hot(train, data.levels).double().sum(0) + PRIOR  # (D, levels)
    log_share = (counts / counts.sum(1, keepdim=True)).log()
    pixels = torch.arange(train.shape[1])
    return bits_per_dim(log_share[pixels, test].sum(1), train.shape[1])
