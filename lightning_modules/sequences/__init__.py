"""Training of models of sequences."""
