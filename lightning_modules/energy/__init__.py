"""Models of an energy."""
