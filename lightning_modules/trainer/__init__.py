"""What training needs around a method: callbacks, optimizers, checkpoints on disk."""
