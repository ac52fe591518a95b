"""Hides messages of libraries that say nothing to a user."""

import logging
import warnings

LOGGED = ("litlogger", "litmodels", "to estimate number of stepping batches", "TPU available")
WARNED = (
    "does not have many workers",
    "exists and is not empty",  # the run folder: config.yaml is there
    "dirpath has changed",  # a run folder may be moved
    "infer the batch indices",  # a loader of ours has no sampler
    "smaller than the logging interval",  # modules log by themselves
    "LeafSpec",
    "all_gather is deprecated",
    "jsonargparse",
)


def quieten() -> None:
    """Filters advertisements of services, and hints that do not apply to this project's data loaders."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: not any(words in record.getMessage() for words in LOGGED)
    )
    for words in WARNED:
        warnings.filterwarnings("ignore", message=f".*{words}.*")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # of a missing GPU, when compiling
