"""Teams that share one reward."""
