"""A VAE of 28x28 binary images of ours and of pythae (in an environment of its own): training step and samples.

    python -m benchmarks.vae [--threads 1] [--rounds 15]

The networks are the same perceptrons, with the same latents and a Bernoulli distribution of each pixel; parameters are
asserted to be equal. "defaults": each optimizer as its library makes it, AdamW fused against torch.optim.Adam. "best":
the fused AdamW on both sides. "compiled": that, and torch.compile of the loss and of sampling, where a library's code
can be compiled. A sample is the mean image, the only one that pythae draws. All take turns.
"""

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.clock import alternate, first_call, machine, milliseconds, ratios, seconds, table
from zoo.vae.model import VAE

SHAPE, LATENTS, HIDDEN, DEPTH, BATCH = (1, 28, 28), 32, 256, 2, 64
SETTINGS = {
    "defaults": {"best": False, "compiled": False},
    "best": {"best": True, "compiled": False},
    "compiled": {"best": True, "compiled": True},
}
Calls = dict[str, Callable[[], object]]


def network() -> VAE:
    torch.manual_seed(0)
    return VAE(SHAPE, 2, LATENTS, HIDDEN, DEPTH, dropout=0.0, head="bernoulli")


def ours(x: Tensor) -> tuple[nn.Module, Callable[[], Tensor], Callable[[], Tensor]]:
    """The model, -ELBO of a batch, and as many mean images."""
    model = network()

    def loss() -> Tensor:
        bound = model.elbo(x, torch.randn(len(x), LATENTS))
        return bound.kl.mean(0).sum() - bound.log_likelihood.mean()

    return model, loss, lambda: model.sample(len(x), expected=True)


def of_pythae(x: Tensor) -> tuple[nn.Module, Callable[[], Tensor], Callable[[], Tensor]]:
    from pythae.models import VAE as Pythae
    from pythae.models import VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.samplers import NormalSampler

    same = network()

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.body = same.encoder

        def forward(self, x: Tensor) -> Any:
            mean, log_variance = self.body(x.flatten(1)).chunk(2, dim=1)
            return ModelOutput(embedding=mean, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.body = same.decoder

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.body(z).sigmoid().unflatten(1, SHAPE))

    config = VAEConfig(input_dim=SHAPE, latent_dim=LATENTS, reconstruction_loss="bce")
    model = Pythae(config, encoder=Encoder(), decoder=Decoder())
    grey, sampler = {"data": (x + 1) / 2}, NormalSampler(model)
    return model, lambda: model(grey).loss, lambda: sampler.sample(len(x), batch_size=len(x))


def calls(name: str, x: Tensor, best: bool, compiled: bool) -> Calls:
    """A training step and a batch of samples."""
    model, loss, draw = (ours if name == "ours" else of_pythae)(x)
    parameters = sum(weight.numel() for weight in model.parameters())
    expected = sum(weight.numel() for weight in network().parameters())
    if parameters != expected:
        raise ValueError(f"the networks are not equal: {parameters:,} weights of {name}, and {expected:,} of ours")
    if best or name == "ours":
        optimizer: Any = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    forward = torch.compile(loss) if compiled else loss

    def train() -> None:
        optimizer.zero_grad()
        forward().backward()
        optimizer.step()

    return {"train": train, "sample": torch.compile(draw) if compiled else draw}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # the peer's
    torch.set_num_threads(args.threads)
    print(machine())
    x = 2.0 * (torch.rand(BATCH, *SHAPE) < 0.2) - 1
    made: dict[str, Calls] = {}
    for name in ("ours", "pythae"):
        for setting, options in SETTINGS.items():
            made[f"{name}, {setting}"] = sides = calls(name, x, **options)
            try:
                for call in sides.values():
                    first_call(call)
            except Exception as error:  # whatever torch.compile raises for code that it cannot trace
                print(f"{name}, {setting}: {type(error).__name__}")
                del made[f"{name}, {setting}"]
    for work in ("train", "sample"):
        named = {name: sides[work] for name, sides in made.items()}
        times = alternate(named, args.rounds, max(1, int(0.1 / max(seconds(call) for call in named.values()))))
        base = [f"ours, {setting}" for setting in SETTINGS]
        rows = [(name, milliseconds(t), *(ratios(t, times[other]) for other in base)) for name, t in times.items()]
        table(f"{work}, batch {BATCH}, {args.threads} threads", ("side", "ms", *(f"over {b}" for b in base)), rows)


if __name__ == "__main__":
    main()
