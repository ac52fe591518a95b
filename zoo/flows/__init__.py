"""Normalizing flows: bijections that know their log-determinant, and densities made of them.

A bijection is a module with two methods, for x (B, ...) and a context None or (B, C):

    forward(x, context=None) -> z, log |det dz/dx| (B,) in nats
    inverse(z, context=None) -> x, log |det dx/dz| (B,) in nats

Both are differentiable, and neither changes its input.
"""
