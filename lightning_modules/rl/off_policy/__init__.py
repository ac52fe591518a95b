"""Methods that learn from a replay buffer."""
