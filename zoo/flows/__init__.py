"""Normalising flows: bijections with exact log-determinants, and the densities that they give."""
