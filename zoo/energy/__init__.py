"""Models of an energy: P(x) = exp(-E(x)) / Z."""
