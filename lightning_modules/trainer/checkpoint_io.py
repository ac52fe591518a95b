"""How a run writes its checkpoints: beside their place first, so that a killed run leaves a whole one."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO


class WholeFileIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, waits until the disk has it, and renames it.

    Lightning's own way is a file in the system's temporary folder that is moved afterwards: where that is another disk,
    moving is copying, and a run that is killed meanwhile has destroyed the checkpoint that it would go on from.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if storage_options is not None or "://" in str(path):  # not a file of this machine
            return super().save_checkpoint(checkpoint, path, storage_options)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.partial")  # always the same: what a killed run left is overwritten
        try:
            with beside.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, target)
        except RuntimeError as error:  # torch.save hides why a write failed
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
        finally:
            beside.unlink(missing_ok=True)
