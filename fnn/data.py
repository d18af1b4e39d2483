"""Data sets, as pairs of plain arrays.

A data set is `Data(inputs, targets)`: NumPy arrays whose first axis counts the examples, and what
`Objective.on` takes. It unpacks, `inputs, targets = data.iris()`. The inputs of one example are a
row of numbers; an image lies in it row by row, and `inputs.reshape(-1, 8, 8, 1)` makes images with
one channel of digits. Classes are int32, counted from 0. Nothing is standardized here, and nothing
is fetched over a network: scikit-learn carries its sets with it, and MNIST and Proben1 are read
from your files.
"""

import gzip
import importlib
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Key, PyTree

Dataset = TypeVar("Dataset", bound=PyTree)


class Data(NamedTuple):
    """A data set.

    Attributes:
        inputs: one row for each example.
        targets: one target for each example, a class (int32) or numbers.
    """

    inputs: np.ndarray
    targets: np.ndarray


# Sets that scikit-learn carries with it -----------------------------------------------------------


def digits() -> Data:
    """1797 handwritten digits of 8 x 8 pixels, in 10 classes.

    Returns:
        inputs (1797, 64) in [0, 1], the original counts 0..16 divided by 16; targets (1797,).

    Source:
        Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI Machine Learning
        Repository (1998), its test set, doi:10.24432/C50P49.

    Example:
        >>> inputs, targets = digits()
        >>> inputs.shape, float(inputs.max()), targets[:4].tolist()
        ((1797, 64), 1.0, [0, 1, 2, 3])
    """
    inputs, targets = _scikit_learn().load_digits(return_X_y=True)
    return _classes(inputs / 16, targets)


def iris() -> Data:
    """150 iris flowers, 50 of each of 3 species.

    Returns:
        inputs (150, 4), lengths and widths in cm of sepal and petal; targets (150,).

    Source:
        Fisher, "The use of multiple measurements in taxonomic problems", Annals of Eugenics 7
        (1936), table I, doi:10.1111/j.1469-1809.1936.tb02137.x.

    Example:
        >>> iris().inputs[0].tolist()
        [5.1, 3.5, 1.4, 0.2]
    """
    return _classes(*_scikit_learn().load_iris(return_X_y=True))


def wine() -> Data:
    """178 Italian wines of 3 cultivars.

    Returns:
        inputs (178, 13), chemical measurements of very different scales; targets (178,).

    Source:
        Aeberhard and Forina, "Wine", UCI Machine Learning Repository (1991), doi:10.24432/C5PC7J.

    Example:
        >>> wine().inputs.shape
        (178, 13)
    """
    return _classes(*_scikit_learn().load_wine(return_X_y=True))


def breast_cancer() -> Data:
    """569 breast tumors, malignant (0) or benign (1).

    Returns:
        inputs (569, 30), measurements of cell nuclei; targets (569,).

    Source:
        Wolberg, Mangasarian, Street and Street, "Breast cancer Wisconsin (diagnostic)", UCI
        Machine Learning Repository (1993), doi:10.24432/C5DW2B.

    Example:
        >>> int(breast_cancer().targets.sum())
        357
    """
    return _classes(*_scikit_learn().load_breast_cancer(return_X_y=True))


def diabetes() -> Data:
    """442 patients and the progress of their diabetes after a year: a regression.

    Returns:
        inputs (442, 10), columns of mean 0 and sum of squares 1; targets (442,), from 25 to 346.

    Source:
        Efron, Hastie, Johnstone and Tibshirani, "Least angle regression", Annals of Statistics 32
        (2004), doi:10.1214/009053604000000067.

    Example:
        >>> diabetes().targets[:2].tolist()
        [151.0, 75.0]
    """
    return Data(*_scikit_learn().load_diabetes(return_X_y=True))


def moons(n: int = 1000, *, noise: float = 0.1, seed: int = 0) -> Data:
    """Two interleaved half circles, one for each class.

    Args:
        n: how many examples, half of them in each class; > 0.
        noise: standard deviation of the Gaussian noise on the points; >= 0.
        seed: the same seed gives the same points.

    Returns:
        inputs (n, 2); targets (n,).

    Example:
        >>> moons(100).inputs.shape
        (100, 2)
    """
    return _classes(*_scikit_learn().make_moons(n, noise=noise, random_state=seed))


def circles(n: int = 1000, *, noise: float = 0.1, factor: float = 0.5, seed: int = 0) -> Data:
    """A circle of radius 1 (class 0) and a smaller one inside it (class 1).

    Args:
        n: how many examples, half of them in each class; > 0.
        noise: standard deviation of the Gaussian noise on the points; >= 0.
        factor: radius of the inner circle; in [0, 1).
        seed: the same seed gives the same points.

    Returns:
        inputs (n, 2); targets (n,).

    Example:
        >>> int(circles(100, noise=0.0).targets.sum())
        50
    """
    return _classes(*_scikit_learn().make_circles(n, noise=noise, factor=factor, random_state=seed))


def _scikit_learn():
    try:
        return importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise ImportError(
            f"fnn.data: expected scikit-learn, which carries this data set, got {error}; "
            "try pip install 'fnn[race]'"
        ) from error


def _classes(inputs, targets):
    return Data(inputs, targets.astype(np.int32))


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
        there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else "no folder"
        raise FileNotFoundError(
            f"mnist: expected {folder} to hold {', '.join(names)}, each as it is or with .gz "
            f"added, got {there}; try the folder you stored them in"
        )
    train_images, train_labels, test_images, test_labels = map(read_idx, paths)
    for images, labels in ((train_images, train_labels), (test_images, test_labels)):
        if images.ndim != 3 or images.dtype != np.uint8 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"mnist: expected images (n, rows, columns) of uint8 and labels (n,) in {folder}, "
                f"got {images.shape} of {images.dtype} and {labels.shape}; try read_idx on each"
            )
    return _pixels(train_images, train_labels), _pixels(test_images, test_labels)


def _plain_or_gzipped(path):
    return [p for p in (path, path.with_name(f"{path.name}.gz")) if p.exists()][:1]


def _pixels(images, labels):
    return _classes(images.reshape(len(images), -1) / np.float32(255), labels)


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
    content = _uncompressed(Path(path))
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


def _uncompressed(path):
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"read_idx: expected {path} to be whole gzip, got {error}; try to fetch it again"
        ) from error


def _require_size(path, content, fits, expected):
    if not fits:
        raise ValueError(
            f"read_idx: expected {path} to hold {expected}, got {len(content)} bytes; try to fetch "
            "it again"
        )


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
        complete = len(row) == columns and np.isfinite(table[number]).all()
        if not complete:
            raise ValueError(
                f"proben1: expected {columns} numbers in line {number + len(_PROBEN1) + 1} of "
                f"{file}, got '{' '.join(row)[:40]}'; try to fetch it again"
            )
    parts = np.split(table, np.cumsum(sizes)[:-1])
    train, validation, test = (Data(part[:, :inputs], part[:, inputs:]) for part in parts)
    return train, validation, test


# Splits -------------------------------------------------------------------------------------------


def split(data: Dataset, fractions: Sequence[float], key: Key[Array, ""]) -> tuple[Dataset, ...]:
    """Disjoint parts of a data set, drawn at random, which together are all of it.

    Args:
        data: arrays whose first axis counts the examples, in a `Data` or any other tree.
        fractions: the share of each part; > 0, with sum 1.
        key: the same key gives the same parts.

    Returns:
        One data set for each fraction, of the same kind as `data`. Sizes are rounded.

    Raises:
        ValueError: if the fractions are not positive with sum 1, the arrays disagree on the number
            of examples, or a part would be empty.

    Example:
        >>> train, validation, test = split(iris(), (0.6, 0.2, 0.2), jax.random.key(0))
        >>> len(train.inputs), len(validation.inputs), len(test.targets)
        (90, 30, 30)
    """
    if any(fraction <= 0 for fraction in fractions) or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(
            f"split: expected positive fractions with sum 1, got {tuple(fractions)}; try "
            "(0.8, 0.1, 0.1)"
        )
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(data)]
    if len({shape[:1] for shape in shapes}) != 1 or () in shapes:
        raise ValueError(
            f"split: expected arrays with one number of examples as first axis, got shapes {shapes}"
            "; try (inputs, targets)"
        )
    n = shapes[0][0]
    bounds = np.rint(n * np.cumsum(fractions)[:-1]).astype(int)
    parts = np.split(np.asarray(jax.random.permutation(key, n)), bounds)
    if min(map(len, parts)) == 0:
        raise ValueError(
            f"split: expected an example or more in each part, got sizes {[*map(len, parts)]} of "
            f"{n}; try larger fractions, or fewer of them"
        )
    return tuple(jax.tree.map(lambda leaf, part=part: leaf[part], data) for part in parts)
