"""Learning from the policy's own rollouts."""
