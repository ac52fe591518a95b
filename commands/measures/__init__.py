"""How each kind of model is measured."""
