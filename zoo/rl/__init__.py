"""Reinforcement learning: returns, losses, policies. Time-major, (T, N, ...), everywhere."""
