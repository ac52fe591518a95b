"""Configs of runs: one flat YAML each."""
