"""Parity with diffusers, step by step, wherever diffusers is right."""

import itertools

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from zoo.diffusion.parameterization import prediction_to_x0
from zoo.diffusion.process import NoiseProcess
from zoo.diffusion.samplers import ancestral, ddim
from zoo.diffusion.schedules import timesteps
from zoo.diffusion.solvers import dpm_solver_pp

SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("schedule", "peer"), SCHEDULES.items())
def test_betas_match_diffusers(schedule, peer):
    abar = NoiseProcess(schedule, 1000).alpha_bar
    theirs = DDPMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule=peer)
    # their tables are float32: a beta is rounded a few times, by 6e-8 each; 1 - 0.999 magnifies that a thousandfold
    torch.testing.assert_close((1 - abar[1:] / abar[:-1]).float(), theirs.betas, rtol=1e-6, atol=0)
    torch.testing.assert_close(abar[1:].float(), theirs.alphas_cumprod, rtol=1e-4, atol=0)


# they divide T: elsewhere diffusers rounds differently; and its one step of "leading" is t = 1, which is no noise
TIMES = [(steps, spacing) for steps in (1, 4, 10, 50, 250, 1000) for spacing in ("trailing", "leading")]


@pytest.mark.parametrize(("steps", "spacing"), [pair for pair in TIMES if pair != (1, "leading")])
def test_times_match_diffusers(steps, spacing):
    scheduler = DDIMScheduler(num_train_timesteps=1000, timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    assert timesteps(1000, steps, spacing)[:-1] == (scheduler.timesteps + 1).tolist()  # ours count from 1


def assert_parity(peer, ours, schedule, parameterization, steps, spacing, *, config, **options):
    """Compares every step of theirs with the same step of ours.

    The network's answers are random, so that clipping bites. Their float32 table is replaced by our float64 one (the
    tables are compared above), so that what is left is the rounding of a float32 update.
    """
    process = NoiseProcess(schedule, 1000)
    scheduler = peer(
        num_train_timesteps=1000,
        beta_schedule=SCHEDULES[schedule],
        beta_start=1e-4,
        beta_end=0.02,
        prediction_type=PREDICTIONS[parameterization],
        timestep_spacing=spacing,
        clip_sample=True,
        **config,
    )
    scheduler.alphas_cumprod = process.alpha_bar[1:]
    scheduler.set_timesteps(steps)
    times = [*(scheduler.timesteps + 1).tolist(), 0]  # theirs count from 0
    for seed, (t, s) in enumerate(itertools.pairwise(times)):
        if peer is DDPMScheduler and s == 0 and t > 1:
            continue  # theirs asks whether t > 0, not whether the step is the last, and adds noise to the result
        x, prediction = torch.randn(2, 5, 3, 8, 6, generator=seeded(seed))

        def denoise(x_t, t, prediction=prediction):
            return prediction_to_x0(parameterization, prediction, x_t, *process.at(int(t[0]))).clamp(-1, 1)

        mine = ours(denoise, process, x, [t, s], generator=seeded(seed))
        theirs = scheduler.step(prediction, t - 1, x, generator=seeded(seed), **options).prev_sample
        # both are the same float32 arithmetic; allow some roundings, by 2e-7 each, of terms of size up to 5
        torch.testing.assert_close(mine, theirs, rtol=0, atol=5e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("parameterization", PREDICTIONS)
@pytest.mark.parametrize(("steps", "spacing"), [(10, "leading"), (20, "trailing"), (100, "trailing")])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_steps_match_diffusers(schedule, parameterization, steps, spacing, eta):
    """For counts that divide T: else their previous time, t - T // S, is not the next of their list.

    With `use_clipped_model_output`, without which their x_0 and eps disagree.
    """
    assert_parity(
        DDIMScheduler,
        lambda *args, **kwargs: ddim(*args, eta=eta, **kwargs),
        schedule,
        parameterization,
        steps,
        spacing,
        config={},
        eta=eta,
        use_clipped_model_output=True,
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("parameterization", PREDICTIONS)
@pytest.mark.parametrize(("steps", "spacing"), [(10, "leading"), (7, "trailing"), (9, "linspace"), (100, "trailing")])
@pytest.mark.parametrize("variance", ["small", "large"])
def test_ancestral_steps_match_diffusers(schedule, parameterization, steps, spacing, variance):
    assert_parity(
        DDPMScheduler,
        lambda *args, **kwargs: ancestral(*args, variance=variance, **kwargs),
        schedule,
        parameterization,
        steps,
        spacing,
        config={"variance_type": f"fixed_{variance}"},
    )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of theirs, under numpy 2
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sde", [False, True])
@pytest.mark.parametrize("order", [1, 2])
def test_dpm_solver_pp_matches_diffusers(schedule, sde, order):
    """A whole run, on our times and noise levels: theirs are interpolated between times and rounded otherwise."""
    process, steps = NoiseProcess(schedule, 1000), 12
    times = timesteps(1000, steps)
    scheduler = DPMSolverMultistepScheduler(
        solver_order=order,
        algorithm_type="sde-dpmsolver++" if sde else "dpmsolver++",
        prediction_type="sample",
        lower_order_final=False,
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(steps)
    scheduler.timesteps = torch.tensor(times[:-1])
    scheduler.sigmas = process.noise_levels[times]
    x = torch.randn(5, 3, 8, 6, dtype=torch.float64, generator=seeded(0))

    def denoise(x_t, t):
        return torch.tanh(x_t + t.view(-1, 1, 1, 1) / 1000)

    mine = dpm_solver_pp(denoise, process, x, times, order=order, sde=sde, generator=seeded(1))
    theirs, generator = x, seeded(1)
    for t in times[:-1]:
        noise = torch.randn(x.shape, generator=generator) if sde and t != times[-2] else torch.zeros_like(x)
        prediction = denoise(theirs, torch.full((5,), t))
        theirs = scheduler.step(prediction, t, theirs, variance_noise=noise).prev_sample
    # they round to float32 at each of the 12 steps
    torch.testing.assert_close(theirs, mine, rtol=0, atol=2e-5)
