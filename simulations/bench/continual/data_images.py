"""Small grey images from a data folder: MNIST's test part, some of Fashion-MNIST, and Omniglot by drawer.

The files are read as what they should be and nothing more: no pickle, and no size is believed before it is checked.
"""

import gzip
import io
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from learning_core.errors import ConfigError, Malformed
from learning_core.samples import Batch

MNIST = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
OMNIGLOT = ("images_background_small1.zip", "images_background_small2.zip")
FASHION = "fashion_mnist_train_first3615.npz"
UNSIGNED_BYTES = 0x08


def load_mnist(data: Path) -> Batch:
    """The 10,000 images of MNIST's test part, features [10000, 1, 28, 28] in -1..1. LeCun, Cortes and Burges 1998."""
    images, labels = (idx(gzip.decompress(_file(data / "mnist_t10k" / name)), name) for name in MNIST)
    if images.ndim != 3 or labels.shape != (len(images),):
        raise Malformed(f"{data / 'mnist_t10k'}: {labels.shape} labels do not fit images of shape {images.shape}")
    return Batch(scaled(images), labels.astype(np.int64))


def load_fashion(data: Path) -> Batch:
    """Some thousand images of clothes, features [N, 1, 28, 28] in -1..1. Xiao et al. 2017 (arXiv:1708.07747)."""
    content = _file(data / "fashion_mnist_3615" / FASHION)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            images, labels = np.asarray(arrays["x.npy"]), np.asarray(arrays["y.npy"])
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise Malformed(f"{FASHION} is not an archive of images x and labels y") from error
    if images.dtype != np.uint8 or images.ndim != 3 or labels.shape != (len(images),):
        raise Malformed(f"{FASHION}: {labels.shape} labels do not fit images of shape {images.shape}")
    return Batch(scaled(images), labels.astype(np.int64))


def idx(content: bytes, name: str) -> NDArray[np.uint8]:
    """An array of bytes in the IDX format: 0 0, type, rank, the sizes (big-endian, 4 bytes each), then the values."""
    rank = content[3] if len(content) > 3 else 0
    start = 4 + 4 * rank
    if content[:3] != bytes((0, 0, UNSIGNED_BYTES)) or rank == 0 or len(content) < start:
        raise Malformed(f"{name} is not an IDX file of unsigned bytes")
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], ">u4"))
    if len(content) != start + int(np.prod(shape, dtype=object)):
        raise Malformed(f"{name} says it holds {shape} values, but has {len(content) - start} bytes of them")
    return np.frombuffer(content[start:], np.uint8).reshape(shape)


def scaled(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Bytes [N, H, W] -> [N, 1, H, W] in -1..1."""
    return (images[:, None].astype(np.float32) / 127.5 - 1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Hands:
    """One alphabet as twenty people drew it: each character once by each. drawers: [N] int64, 1..20."""

    samples: Batch
    drawers: NDArray[np.int64]


def load_omniglot(data: Path, alphabet: str, side: int) -> Hands:
    """Ink is bright; features [N, 1, side, side] in -1..1, conditions count the characters from 0.

    Lake, Salakhutdinov and Tenenbaum 2015 (doi:10.1126/science.aab3050). Raises ConfigError for an unknown alphabet.
    """
    images, characters, drawers = [], [], []
    for name in OMNIGLOT:
        with zipfile.ZipFile(io.BytesIO(_file(data / "omniglot" / name))) as archive:
            for path in sorted(archive.namelist()):
                if found := re.fullmatch(rf"[^/]+/{re.escape(alphabet)}/character(\d+)/\d+_(\d+)\.png", path):
                    images.append(_ink(archive.read(path), side, path))
                    characters.append(int(found[1]) - 1)
                    drawers.append(int(found[2]))
    if not images:
        raise ConfigError(f"there is no alphabet {alphabet!r} among Omniglot's files in {data / 'omniglot'}")
    samples = Batch(scaled(np.stack(images)), np.array(characters, np.int64))
    return Hands(samples, np.array(drawers, np.int64))


def _ink(content: bytes, side: int, name: str) -> NDArray[np.uint8]:
    """A black drawing on white as bytes [side, side], ink at 255; each pixel the mean of those it covers."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            small = image.convert("L").resize((side, side), Image.Resampling.BOX)
    except (OSError, ValueError) as error:
        raise Malformed(f"{name} is not a PNG image: {error}") from error
    return np.asarray(255 - np.asarray(small), np.uint8)


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f"there is no {path}; --data names the folder that holds {path.parent.name}/") from error
