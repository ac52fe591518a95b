"""Methods that learn from the policy's own rollouts."""
