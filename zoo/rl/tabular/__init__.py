"""Tables: finite Markov decision processes, planning in them, and learning from their steps."""
