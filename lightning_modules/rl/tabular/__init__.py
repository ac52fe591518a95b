"""Algorithms on tables: planning with the model of an environment, and learning from its steps."""
