"""Models of sequences of characters: one into another, and one character after the other."""
