"""Plain PyTorch: mathematics, networks and metrics. Imports nothing else of this project."""
