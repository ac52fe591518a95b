"""The table of models: what a config.json may name. A name from a file is looked up here and never imported.

Only the row that is asked for is imported: loading a policy brings in no diffusion model.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, get_type_hints


class Row(NamedTuple):
    """A model class.

    Attributes:
        source: "module:name" of a class, or of a function that builds one from plain values.
        task: a key of `checkpoints.tasks.TASKS`.
    """

    source: str
    task: str


MODELS = {
    "actor": Row("zoo.rl.off_policy.actors:Actor", "policy"),
    "actor-critic": Row("zoo.rl.policies:ActorCritic", "policy"),
    "autoregressive": Row("zoo.autoregressive.model:Autoregressive", "images"),
    "cnf": Row("zoo.flows.cnf_model:cnf", "points"),
    "encoder-decoder": Row("zoo.sequences.encoder_decoder:EncoderDecoder", "sequences"),
    "glow": Row("zoo.flows.builders:glow", "points"),
    "gsn": Row("zoo.energy.gsn:GSN", "images"),
    "image-classifier": Row("zoo.nn.classifier:ImageClassifier", "classifier"),
    "image-consistency": Row("zoo.diffusion.consistency_model:ImageConsistency", "images"),
    "image-diffusion": Row("zoo.diffusion.model:ImageDiffusion", "images"),
    "language-model": Row("zoo.sequences.language_model:LanguageModel", "text"),
    "nice": Row("zoo.flows.builders:nice", "points"),
    "noisy-classifier": Row("zoo.diffusion.noisy_classifier:NoisyClassifier", "classifier"),
    "q-network": Row("zoo.rl.off_policy.q_network:QNetwork", "policy"),
    "q-team": Row("zoo.teams.policy:Team", "team"),
    "rbm": Row("zoo.energy.rbm:RBM", "images"),
    "realnvp": Row("zoo.flows.builders:realnvp", "points"),
    "table": Row("zoo.rl.tabular.table:Table", "policy"),
    "vae": Row("zoo.vae.model:VAE", "images"),
    "vqvae": Row("zoo.vae.vqvae:VQVAE", "images"),
}


def builder(name: str) -> Callable[..., Any]:
    """The class or function of a row."""
    module, _, attribute = MODELS[name].source.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


def class_of(name: str) -> type:
    """The class that a row builds: itself, or what its function says it returns."""
    found = builder(name)
    made = found if inspect.isclass(found) else get_type_hints(found)["return"]
    assert isinstance(made, type)
    return made
