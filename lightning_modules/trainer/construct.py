"""Builds the model of a LightningModule from its options, which the checkpoint records."""

import inspect
from typing import Any

import lightning as L
from torch import nn

from checkpoints.store import load_weights
from checkpoints.table import builder
from lightning_modules.trainer.optimizers import check_options


def construct(module: L.LightningModule, name: str, **given: Any) -> Any:
    """Builds a model of the table from those options of the module that are named like the model's arguments.

    Sets `module.model_name` and `module.arguments`, what a model folder needs, and copies the weights of the option
    `pretrained`, if the module has it.

    Args:
        module: that has called `save_hyperparameters`. name: a key of `checkpoints.table.MODELS`.
        given: arguments of the model that are not options of the module, or override them.

    Raises:
        UserError: naming an invalid option of the optimizer, or a `pretrained` model that does not fit.
        ValueError: as the model's constructor.
    """
    # hyperparameters from the command line include what the data provides and this module has no parameter for
    own = inspect.signature(type(module)).parameters
    options = {key: value for key, value in module.hparams.items() if key in own}
    if "weight_decay" in options:
        check_options(options)
    make = builder(name)
    arguments = {key: options[key] for key in inspect.signature(make).parameters if key in options} | given
    model: nn.Module = make(**arguments)
    module.model_name = name  # type: ignore[assignment]
    module.arguments = {key: plain(value) for key, value in arguments.items()}  # type: ignore[assignment]
    if options.get("pretrained") is not None:
        load_weights(model, options["pretrained"], name, module.arguments)  # type: ignore[arg-type]
    return model


def plain(value: Any) -> Any:
    """The value after a round trip through JSON."""
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
