"""Data sets in files: MNIST's IDX, CIFAR-10's batches, and Proben1's tables."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from fnn.data.sets import Data

# Files in MNIST's format --------------------------------------------------------------------------


def mnist(folder: str | Path) -> tuple[Data, Data]:
    """The training and test images of MNIST, or of a set in the same four files.

    Fashion-MNIST and Kuzushiji-MNIST come under the same names.

    Args:
        folder: holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
            t10k-labels-idx1-ubyte, each as it is or gzipped with .gz added.

    Returns:
        Training and test set: inputs (n, pixels) in [0, 1], float32, the bytes divided by 255;
        targets (n,).

    Raises:
        FileNotFoundError: if one of the four is missing.
        ValueError: if a file is damaged, or images and labels do not go together.

    Source:
        LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document
        recognition", Proceedings of the IEEE 86 (1998), doi:10.1109/5.726791.

    Example:
        >>> mnist("no such folder")
        Traceback (most recent call last):
        FileNotFoundError: mnist: expected no such folder to hold train-images-idx3-ubyte, ...
    """
    folder = Path(folder)
    names = [
        f"{part}-{kind}-ubyte"
        for part in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ]
    paths = [path for name in names for path in _plain_or_gzipped(folder / name)]
    if len(paths) < len(names):
        raise FileNotFoundError(_what_is_missing("mnist", folder, names))
    train_images, train_labels, test_images, test_labels = map(read_idx, paths)
    for images, labels in ((train_images, train_labels), (test_images, test_labels)):
        if images.ndim != 3 or images.dtype != np.uint8 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"mnist: expected images (n, rows, columns) of uint8 and labels (n,) in {folder}, "
                f"got {images.shape} of {images.dtype} and {labels.shape}; try read_idx on each"
            )
    return _pixels(train_images, train_labels), _pixels(test_images, test_labels)


def _what_is_missing(reader, folder, names):
    """What is said of a folder that does not hold all of these files."""
    listing = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else "no folder"
    return (
        f"{reader}: expected {folder} to hold {', '.join(names)}, each as it is or with .gz "
        f"added, got {listing}; try the folder you stored them in"
    )


def _plain_or_gzipped(path):
    """The file as it is, or the one with .gz added; none of both is an empty list."""
    return [p for p in (path, path.with_name(f"{path.name}.gz")) if p.exists()][:1]


def _pixels(images, labels):
    """Images and labels as a data set, rows of pixels in [0, 1]."""
    pixels = images.reshape(len(images), -1) / np.float32(255)
    return Data(pixels, labels.astype(np.int32))


_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | Path) -> np.ndarray:
    """The array in an IDX file, the format of MNIST, gzipped or not.

    The file is a magic number (two zero bytes, a code of the dtype, the number of axes), the
    lengths of the axes as 32-bit integers, and the numbers, last axis fastest; all big-endian.

    Args:
        path: the file. Its first bytes, not its name, tell whether it is gzipped.

    Returns:
        The array, in the file's dtype and the machine's byte order.

    Raises:
        ValueError: if the file has another format, is shorter or longer than its header says, or
            is damaged gzip.

    Source:
        LeCun, Cortes and Burges, "The MNIST database of handwritten digits" (1998), file formats.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "two-by-three")
        ...     _ = path.write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6]))
        ...     read_idx(path)
        array([[1, 2, 3],
               [4, 5, 6]], dtype=uint8)
    """
    content = _uncompressed("read_idx", Path(path))
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_DTYPES:
        codes = " ".join(f"{code:02x}" for code in _IDX_DTYPES)
        raise ValueError(
            f"read_idx: expected {path} to begin with the bytes 00 00, one of {codes}, and the "
            f"number of axes, got {content[:4].hex(' ') or 'no bytes'}; try a file of MNIST's kind"
        )
    dtype, axes = np.dtype(_IDX_DTYPES[content[2]]), content[3]
    start = 4 + 4 * axes
    _require_size(path, content, len(content) >= start, f"a header of {start} bytes")
    shape = np.frombuffer(content[4:start], ">u4").tolist()
    end = start + dtype.itemsize * math.prod(shape)
    expected = f"{end} bytes for {dtype.name} of shape {tuple(shape)}"
    _require_size(path, content, len(content) == end, expected)
    return np.frombuffer(content[start:], dtype).astype(dtype.newbyteorder("=")).reshape(shape)


def _uncompressed(reader, path):
    """The bytes of a file, gunzipped where they are gzip."""
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{reader}: expected {path} to be whole gzip, got {error}; try to fetch it again"
        ) from error


def _require_size(path, content, is_right, expected):
    if not is_right:
        raise ValueError(
            f"read_idx: expected {path} to hold {expected}, got {len(content)} bytes; try to fetch "
            "it again"
        )


# Files of CIFAR-10 --------------------------------------------------------------------------------


_CIFAR10 = *(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"
_IMAGE = 3, 32, 32


def cifar10(folder: str | Path) -> tuple[Data, Data]:
    """The training and test photographs of CIFAR-10, in its binary version.

    Args:
        folder: holds data_batch_1.bin to data_batch_5.bin and test_batch.bin, each as it is or
            gzipped with .gz added.

    Returns:
        Training and test set: inputs (n, 3072) in [0, 1], float32, the bytes divided by 255, pixel
        by pixel, each with its red, green and blue; targets (n,).

    Raises:
        FileNotFoundError: if one of the six is missing.
        ValueError: if a file does not consist of photographs and their classes.

    Source:
        Krizhevsky, "Learning multiple layers of features from tiny images", technical report,
        University of Toronto (2009).

    Example:
        >>> cifar10("no such folder")
        Traceback (most recent call last):
        FileNotFoundError: cifar10: expected no such folder to hold data_batch_1.bin, ...
    """
    folder, parts = Path(folder), []
    paths = [path for name in _CIFAR10 for path in _plain_or_gzipped(folder / name)]
    if len(paths) < len(_CIFAR10):
        raise FileNotFoundError(_what_is_missing("cifar10", folder, _CIFAR10))
    for path in paths:
        content, size = _uncompressed("cifar10", path), 1 + math.prod(_IMAGE)
        whole = len(content) // size
        rows = np.frombuffer(content, np.uint8, whole * size).reshape(whole, size)
        if not whole or len(content) % size or rows[:, 0].max() > 9:
            raise ValueError(
                f"cifar10: expected {path} to hold photographs of {size} bytes, the first of them "
                f"a class from 0 to 9, got {len(content)} bytes; try the binary version of CIFAR-10"
            )
        pixels = rows[:, 1:].reshape(whole, *_IMAGE).transpose(0, 2, 3, 1).reshape(whole, -1)
        parts.append(Data(pixels / np.float32(255), rows[:, 0].astype(np.int32)))
    *batches, test = parts
    return Data(*map(np.concatenate, zip(*batches, strict=True))), test


# Files of Proben1 ---------------------------------------------------------------------------------


_COLUMNS = "bool_in", "real_in", "bool_out", "real_out"
_PROBEN1 = *_COLUMNS, "training_examples", "validation_examples", "test_examples"


def proben1(file: str | Path) -> tuple[Data, Data, Data]:
    """Training, validation and test examples of a .dt file of Proben1.

    Seven lines NAME=COUNT begin it; then comes an example in each line, its inputs before its
    outputs. The first examples train, the next validate, the rest test.

    Args:
        file: such as cancer1.dt.

    Returns:
        Three data sets: inputs (n, bool_in + real_in); targets (n, bool_out + real_out), numbers
        as they are in the file.

    Raises:
        ValueError: if the file does not begin as it should, an example is anything but as many
            numbers as the beginning says, or there are more or fewer examples.

    Source:
        Prechelt, "Proben1: a set of neural network benchmark problems and benchmarking rules",
        Technical Report 21/94, Universität Karlsruhe (1994).

    Example:
        >>> import tempfile
        >>> counts = zip(_PROBEN1, [0, 2, 1, 0, 1, 1, 1])
        >>> lines = [f"{name}={count}" for name, count in counts] + ["0 0 0", "0 1 1", "1 1 0"]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "xor.dt")
        ...     _ = path.write_text(chr(10).join(lines))
        ...     proben1(path)[1]
        Data(inputs=array([[0., 1.]]), targets=array([[1.]]))
    """
    lines = Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    header, rows = lines[: len(_PROBEN1)], [line.split() for line in lines[len(_PROBEN1) :]]
    while rows and not rows[-1]:
        rows.pop()
    counts = []
    for number, name in enumerate(_PROBEN1):
        line = header[number] if number < len(header) else ""
        key, _, value = line.partition("=")
        if key.strip() != name or not value.strip().isdecimal():
            raise ValueError(
                f"proben1: expected line {number + 1} of {file} to be {name}=COUNT, got "
                f"'{line[:40]}'; try a .dt file of Proben1"
            )
        counts.append(int(value))
    bool_in, real_in, bool_out, real_out, *sizes = counts
    inputs, columns = bool_in + real_in, bool_in + real_in + bool_out + real_out
    if len(rows) != sum(sizes):
        raise ValueError(
            f"proben1: expected {sum(sizes)} examples in {file}, got {len(rows)}; try to fetch it "
            "again"
        )
    table = np.empty((len(rows), columns))
    for number, row in enumerate(rows):
        try:
            table[number] = [*map(float, row)]
        except ValueError:
            table[number] = np.nan
        is_complete = len(row) == columns and np.isfinite(table[number]).all()
        if not is_complete:
            raise ValueError(
                f"proben1: expected {columns} numbers in line {number + len(_PROBEN1) + 1} of "
                f"{file}, got '{' '.join(row)[:40]}'; try to fetch it again"
            )
    parts = np.split(table, np.cumsum(sizes)[:-1])
    train, validation, test = (Data(part[:, :inputs], part[:, inputs:]) for part in parts)
    return train, validation, test
