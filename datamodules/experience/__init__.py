"""Experience: environments, collection, replay, evaluation episodes."""
