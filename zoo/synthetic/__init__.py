"""Data that is generated: densities of the plane, coloured shapes."""
