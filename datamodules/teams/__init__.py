"""Environments of teams, their whole episodes, and a replay of these."""
