"""Writes checkpoints atomically, so that a killed run leaves a complete one."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO


class WholeFileIO(TorchCheckpointIO):
    """Writes a checkpoint next to its destination, flushes it to disk, and renames it.

    Lightning writes into the system's temporary folder and moves the file: across disks, a move is a copy, and a run
    killed during the copy has destroyed the checkpoint that it would resume from.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if storage_options is not None or "://" in str(path):  # not a file of this machine
            return super().save_checkpoint(checkpoint, path, storage_options)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.partial")  # a fixed name: what a killed run left is overwritten
        try:
            with beside.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, target)
        except RuntimeError as error:  # torch.save hides why the write failed
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
        finally:
            beside.unlink(missing_ok=True)
