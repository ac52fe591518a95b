"""Denoising diffusion: the noise process, parameterisations, losses, samplers and the variational bound."""
