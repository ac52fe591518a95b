"""Teams: agents that share one reward, the mixers of their utilities, and what these learn from."""
