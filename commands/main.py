"""Dispatches a verb to its file. Nothing heavy is imported before the verb is known."""

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from zoo.errors import UserError

TRAINING_VERBS = {
    "fit": "train a model from a config",
    "validate": "measure the validation loss of a training checkpoint",
    "test": "measure the test metrics of a training checkpoint",
    "predict": "run a model over data and write what it returns",
}
MODEL_VERBS = {
    "list": "the models that ship, with their headline metrics",
    "sample": "draw images or points from a model",
    "density": "log-probabilities of points or images under a model, or a map of a density",
    "rollout": "play a policy or a team: the returns, and on request a video",
    "figure": "draw a picture that explains a model or a method",
    "evaluate": "measure the metrics of a model's card again",
    "download": "fetch a model from the Hub, or copy a shipped one, and verify it",
    "publish": "send a model folder to the Hugging Face Hub",
    "export": "turn a training checkpoint into a model folder",
    "demo": "train a small model in about five minutes and look at what it draws",
}
WITH_MODEL_OPTIONS = ("sample", "density")  # the model that is named brings options of its own

HELP = """usage: {program} VERB ...

Generative models and reinforcement learning, trained with PyTorch Lightning, ready to use.

train, with a config (configs/*.yaml, or the name of a shipped model):
{training}

use a model (a shipped name, hf://owner/repo[@revision], or a model folder):
{model}

`{program} VERB --help` explains a verb. Start with:

  {program} demo
  {program} sample cfg-mnist5k --labels 7 --seed 0 --output sevens.png
  {program} fit --config ddpm-digits --trainer.default_root_dir runs/mine
"""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaint is a UserError, one line like every other."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (`{self.prog} --help` lists the options)")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit status: 0, 1 when a check failed, 2 for a user's mistake, 130 for Ctrl-C."""
    # The threads of a small network wait for each other thousands of times a second. On a busy machine, threads that
    # spin while they wait made sampling 40 times slower than threads that sleep. OpenMP reads this as PyTorch starts.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = list(sys.argv[1:] if argv is None else argv)
    program = os.path.basename(sys.argv[0]) or "lightning-zoo"
    if not arguments or arguments[0] in ("-h", "--help"):
        table = [
            "\n".join(f"  {verb:<10}{text}" for verb, text in verbs.items()) for verbs in (TRAINING_VERBS, MODEL_VERBS)
        ]
        print(HELP.format(program=program, training=table[0], model=table[1]), end="")
        return 0
    try:
        try:
            return _run(program, arguments[0], arguments[1:])
        finally:
            sys.stdout.flush()  # a closed pipe is met here and not when Python ends
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `lightning-zoo list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(program: str, verb: str, arguments: list[str]) -> int:
    if verb in TRAINING_VERBS:
        return importlib.import_module("commands.training.cli").run(verb, arguments)
    if verb not in MODEL_VERBS:
        verbs = [*TRAINING_VERBS, *MODEL_VERBS]
        near = difflib.get_close_matches(verb, verbs, n=2, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(verbs)}"
        raise UserError(f"unknown verb {verb!r}; {hint}")
    module = importlib.import_module(f"commands.{verb}")
    parser = Parser(
        prog=f"{program} {verb}", description=module.__doc__, formatter_class=_Formatter, allow_abbrev=False
    )
    module.add_arguments(parser)
    if verb in WITH_MODEL_OPTIONS:
        from commands.models import parse

        return module.run(parse(parser, verb, arguments))
    return module.run(parser.parse_args(arguments))


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)
