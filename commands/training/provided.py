"""Model options that the data fill in: each DataModule lists their names in `provides`."""

import inspect
from typing import Any

import lightning as L

import datamodules
import lightning_modules
from zoo.errors import UserError


def provided_names() -> list[str]:
    """Every option of a model that some DataModule of this project fills in."""
    classes = [getattr(datamodules, name) for name in datamodules.__all__]
    return sorted({name for kind in classes for name in kind.provides})


def provided(data: L.LightningDataModule, name: str, model: str, given: Any, explicit: bool = False) -> tuple[Any, str]:
    """The value of a model option, and the error message if model and data disagree, "" if they agree.

    Args:
        data: may provide the option. name: of the option. model: class path of the model.
        given: the option's value in the config. explicit: the command line names it, so that a value that happens to be
            the default is meant as well.
    """
    offered = getattr(data, name, None) if name in getattr(data, "provides", ()) else None
    value = given if offered is None else offered
    model, data_class = model.rsplit(".", 1)[-1], type(data).__name__
    parameter = inspect.signature(getattr(lightning_modules, model, object)).parameters.get(name)
    if parameter is None:
        return value, ""
    if value is None and parameter.default is inspect.Parameter.empty:
        return value, f"{model} needs {name}, which {data_class} does not provide: name another model or other data"
    if given not in (None, value) and (explicit or given != parameter.default):
        return value, (
            f"model.{name} {given} is not that of {data_class}, {value}: leave it out, "
            "and the model takes it from its data"
        )
    return value, ""


def check_agreement(model: L.LightningModule, data: L.LightningDataModule) -> None:
    """Raises a UserError if a model that was built elsewhere has another size than its data."""
    for name in getattr(data, "provides", ()):
        of_model, of_data = getattr(model, name, None), getattr(data, name, None)
        if of_model is not None and of_data is not None and of_model != of_data:
            raise UserError(f"the model's {name} {of_model} is not that of the data, {of_data}")
