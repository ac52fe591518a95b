"""64 images by our defaults, and by diffusers' DDIM and DPM-Solver++: seconds, and the FID at each number of steps.

    python -m benchmarks.few_steps cfg-mnist5k [--rounds 5] [--fid --draws 2]

Time: the shipped model, and diffusers' UNet2DModel of the same levels, widths and patches, both in float32, eager, in
turns; the CPU's time, which a busy machine changes less. FID (with --fid): diffusers' schedulers drive the weights of
the shipped model, so that both sides have the same network; as many samples as there are test images, with their
labels. Needs the extra `peers`.
"""

import argparse
import inspect
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.clock import machine, milliseconds, ratios, table
from benchmarks.peers import Size, diffusers_unet, quiet
from checkpoints import load
from checkpoints.catalogue import describe
from checkpoints.locate import find
from commands.measures.common import data_for, draw_samples, in_words, mean
from commands.measures.judge import Judge

COUNT = 64
DDIM, MULTISTEP = (50,), (5, 10, 15, 20)  # steps of diffusers' DDIM and DPM-Solver++, of which FIDs are measured
BEST = 10  # of its DPM-Solver++ in the timing, as of ours: one method (tests/zoo/diffusion/test_parity.py)
Network = Callable[[Tensor, Tensor], Tensor]  # x_t, t counted from 0 -> v


def schedulers(model: Any) -> dict[str, Any]:
    """Diffusers' samplers, with the noise of a model that predicts v."""
    import diffusers

    keep = model.process.alpha_bar[1:] / model.process.alpha_bar[:-1]
    common = {
        "num_train_timesteps": model.process.num_timesteps,
        "trained_betas": (1 - keep).float().numpy(),
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
    }
    ddim = diffusers.DDIMScheduler(**common, clip_sample=True)
    found = {f"diffusers DDIM {steps}": (ddim, steps) for steps in DDIM}
    for kind in ("dpmsolver++", "sde-dpmsolver++"):
        multistep = diffusers.DPMSolverMultistepScheduler(**common, algorithm_type=kind)
        found |= {f"diffusers {kind} {steps}": (multistep, steps) for steps in MULTISTEP}
    return found


@torch.inference_mode()
def sample(scheduler: Any, steps: int, network: Network, shape: Sequence[int], generator: Any = None) -> Tensor:
    """A whole run of one of diffusers' samplers."""
    scheduler.set_timesteps(steps)
    x = torch.randn(*shape, generator=generator)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t.expand(len(x))), t, x, generator=generator, return_dict=False)[0]
    return x.clamp(-1, 1)


def times(model: Any, arguments: dict[str, Any], rounds: int) -> None:
    """Prints how long 64 images take."""
    known = inspect.signature(type(model)).parameters
    names = ("channels", "channel_multipliers", "blocks_per_level", "attention_levels", "patch_size")
    *given, patch = (arguments.get(name, known[name].default) for name in names)
    height, width = (side // patch for side in model.shape[1:])
    size = Size((model.shape[0] * patch**2, height, width), *given, {})
    theirs: Any = diffusers_unet(size, model.labels[0] + 1 if model.labels else None).eval()
    labels = torch.arange(COUNT) % model.labels[0] if model.labels else None
    asked = {} if labels is None else {"labels": labels}

    def network(x: Tensor, t: Tensor) -> Tensor:
        return theirs(x, t, labels, return_dict=False)[0]

    sides: dict[str, Callable[[], Tensor]] = {"ours, defaults": lambda: model.sample(COUNT, **asked)}
    for name, (scheduler, steps) in schedulers(model).items():
        if steps in (*DDIM, BEST) and not name.startswith("diffusers sde"):
            sides[name] = lambda s=scheduler, n=steps: sample(s, n, network, (COUNT, *size.image_shape))
    parameters = [sum(weight.numel() for weight in network.parameters()) for network in (model.network, theirs)]
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(1 + rounds):
        for name, draw in sides.items():
            start = time.process_time()
            draw()
            found[name].append(time.process_time() - start)
    found = {name: seconds[1:] for name, seconds in found.items()}  # the first round warms up
    ours = found["ours, defaults"]
    rows = [(name, milliseconds(found[name]), ratios(ours, found[name])) for name in sides]
    title = f"{COUNT} images{in_words(model, {})}; {parameters[0]} parameters, diffusers' {parameters[1]}"
    table(title, ("sampler", "ms of CPU", "time of ours over it"), rows)


def quality(model: Any, data: Any, draws: int) -> None:
    """Prints the FID of each sampler with the weights of one network."""
    labelled = bool(model.labels)
    judge = Judge(data, by_label=labelled)
    labels = judge.labels if labelled else None
    count = len(judge.test)

    def network(x: Tensor, t: Tensor) -> Tensor:
        return model(x, t + 1, labels)  # our times count from 1

    def fid(draw: Callable[[int], Tensor]) -> str:
        found = [judge(draw(seed)) for seed in range(draws)]
        return f"{mean([scores.fid for scores in found]) / judge.base:.2f}"

    rows = [("ours, defaults", fid(lambda seed: draw_samples(model, count, seed, labels)))]
    for name, (scheduler, steps) in schedulers(model).items():

        def draw(seed: int, scheduler: Any = scheduler, steps: int = steps) -> Tensor:
            return sample(scheduler, steps, network, (count, *model.shape), torch.Generator().manual_seed(seed))

        rows.append((name, fid(draw)))
    table(f"{count} samples, {draws} draws", ("sampler", "FID over training images'"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a shipped diffusion model of images that predicts v")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fid", action="store_true", help="measure the FID too")
    parser.add_argument("--draws", type=int, default=2, help="sets of samples behind an FID")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    described = describe(find(args.model))
    model: Any = load(args.model)
    print(machine())
    with quiet():
        times(model, described.arguments, args.rounds)
        if args.fid:
            quality(model, data_for(model, described), args.draws)


if __name__ == "__main__":
    main()
