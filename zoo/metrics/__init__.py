"""Measures of generated samples and of densities."""
