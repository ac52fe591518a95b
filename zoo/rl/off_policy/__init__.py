"""Learning from a replay buffer."""
