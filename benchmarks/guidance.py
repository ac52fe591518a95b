"""What guidance costs: a guided run of 50 DDIM steps compared with its evaluations alone, here and in diffusers.

    python -m benchmarks.guidance [--threads 1] [--rounds 7]

64 images of the 8x8 network, conditional on 10 classes, scale 2: each step evaluates the network once, on a batch of
128. The network evaluations alone are 50 such calls of the same network.
"""

import argparse
from typing import Any

import torch
from torch import Tensor

from benchmarks.clock import alternate, machine, milliseconds, ratios, table
from benchmarks.peers import SIZES, diffusers_unet, quiet
from zoo.diffusion.model import ImageDiffusion

COUNT, STEPS, SCALE = 64, 50, 2.0


def guided_diffusers(network: Any, labels: Tensor) -> Tensor:
    """diffusers' own parts: UNet2DModel with class embeddings, both branches in one call, DDIMScheduler."""
    import diffusers

    scheduler = diffusers.DDIMScheduler(num_train_timesteps=1000)
    scheduler.set_timesteps(STEPS)
    x = torch.randn(COUNT, *SIZES["8x8"].image_shape)
    for t in scheduler.timesteps:
        prediction = network(torch.cat([x, x]), t, labels, return_dict=False)[0]
        without, told = prediction.chunk(2)
        x = scheduler.step(without + SCALE * (told - without), t, x, return_dict=False)[0]
    return x


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    size = SIZES["8x8"]
    print(machine())
    model = ImageDiffusion(
        size.image_shape, size.channels, size.multipliers, size.blocks, size.attention, num_classes=10, null_label=True
    ).eval()
    with quiet():
        theirs: Any = diffusers_unet(size, num_class_embeds=11).eval()
    labels, nulls = torch.arange(COUNT) % 10, torch.full((COUNT,), 10)
    both = torch.cat([nulls, labels])
    x, t = torch.randn(2 * COUNT, *size.image_shape), torch.full((2 * COUNT,), 500)

    def bare(network: Any) -> None:
        for _ in range(STEPS):
            network(x, t, both)

    times = alternate(
        {
            "ours": lambda: model.sample(COUNT, sampler="ddim", steps=STEPS, labels=labels, guidance_scale=SCALE),
            "ours, bare": lambda: bare(model.network),
            "diffusers": lambda: guided_diffusers(theirs, both),
            "diffusers, bare": lambda: bare(theirs),
        },
        args.rounds,
    )
    rows = [
        (side, milliseconds(times[side]), ratios(times[side], times[f"{side}, bare"])) for side in ("ours", "diffusers")
    ]
    table("a guided run", ("side", "ms", "over its bare evaluations"), rows)


if __name__ == "__main__":
    main()
