"""Small stand-ins for data sets that must not be downloaded, in the formats of their original files."""

import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
from PIL import Image


def _draw(rng, *shape):
    return rng.integers(0, 256, shape, dtype=np.uint8)


def write_idx(folder: Path, train: int, test: int, side: int = 28):
    """The four files of MNIST and Fashion-MNIST; returns ((images (N, H, W), labels (N,)) of train and of test."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    answer = []
    for part, count in (("train", train), ("t10k", test)):
        images, labels = _draw(rng, count, side, side), rng.integers(0, 10, count, dtype=np.uint8)
        # a magic number that says uint8 and the number of dimensions, each dimension, all big-endian, then the bytes
        header = struct.pack(">4i", 0x0803, count, side, side)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x0801, count) + labels.tobytes())
        answer.append((images, labels))
    return answer


def write_cifar10(folder: Path, monkeypatch, each: int, test: int):
    """The seven files of CIFAR-10; returns ((images (N, 3, 32, 32), labels (N,)) of train and of test.

    torchvision reads a file only if its checksum is the published one, so the checksums that it knows are changed too.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)

    def write(name, content):
        written = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(written)
        return hashlib.md5(written).hexdigest()

    def batch(name, count):
        images, labels = _draw(rng, count, 3, 32, 32), rng.integers(0, 10, count).tolist()
        digest = write(name, {"data": images.reshape(count, 3072), "labels": labels})
        return images, labels, [name, digest]

    batches = [batch(f"data_batch_{i}", each) for i in range(1, 6)]
    images, labels, entry = batch("test_batch", test)
    known = "torchvision.datasets.CIFAR10"
    monkeypatch.setattr(f"{known}.train_list", [entry for _, _, entry in batches])
    monkeypatch.setattr(f"{known}.test_list", [entry])
    meta = {
        "filename": "batches.meta",
        "key": "label_names",
        "md5": write("batches.meta", {"label_names": [*"abcdefghij"]}),
    }
    monkeypatch.setattr(f"{known}.meta", meta)
    train = np.concatenate([part for part, _, _ in batches]), [label for _, part, _ in batches for label in part]
    return train, (images, labels)


def write_pictures(root: Path, counts: dict[str, int], height: int, width: int):
    """A folder of coloured PNG files for each class; returns class -> pixels (N, H, W, 3)."""
    rng = np.random.default_rng(0)
    answer = {}
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        answer[name] = _draw(rng, count, height, width, 3)
        for i, pixels in enumerate(answer[name]):
            Image.fromarray(pixels).save(root / name / f"{i:02}.png")
    return answer
