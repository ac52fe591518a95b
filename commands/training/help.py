"""What `fit --help` and its siblings say first; LightningCLI lists the options after it."""

from commands.training.configs import config_names

SUMMARIES = {
    "fit": """Trains a model. A config says which, on what, and for how long; every option after it changes one value.

  fit --config ddpm-digits                                  the run of a shipped model, into runs/ddpm-digits
  fit --config ddpm-digits --trainer.default_root_dir runs/mine --model.learning_rate 1e-3
  fit --config mine.yaml --trainer.max_epochs 20            a file of yours; several configs merge in order
  fit --config ddpm-digits --ckpt_path last                 go on with a run, as the config now says
  fit --config ddpm-digits --trainer.callbacks EarlyStopping --trainer.callbacks.monitor val/loss
                                                            adds a callback; `--trainer.callbacks null` removes all
  fit --config ddpm-digits --print_config                   every value of the run, as YAML
  fit --model.help DDPM   fit --data.help ImageFolder       the options of a model, of a data set

configs: {configs}

A run writes config.yaml, metrics.csv, curves.png and last.ckpt. Ctrl-C and SIGTERM save interrupted.ckpt.
""",
    "validate": """Measures the validation metrics of a training checkpoint, on the data of its config.

  validate --config runs/mine/config.yaml --ckpt_path runs/mine/last.ckpt
""",
    "test": """Measures the test metrics of a training checkpoint, on the data of its config.

  test --config runs/mine/config.yaml --ckpt_path runs/mine/last.ckpt
""",
    "predict": """Runs a model over data and writes what it returns to predictions.safetensors, images also to a PNG.

  predict --config ddim-digits                              64 digits from a shipped model
  predict --config runs/mine/config.yaml --ckpt_path runs/mine/last.ckpt
""",
}


def summary(verb: str) -> str:
    """The text above the options of a verb."""
    return SUMMARIES[verb].format(configs=", ".join(config_names())) if verb == "fit" else SUMMARIES[verb]
