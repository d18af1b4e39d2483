"""Data sets, IDX files written here byte by byte, and splits."""

import gzip
import struct
import sys

import jax
import numpy as np
import pytest

from fnn import data

# --- scikit-learn's sets ---


@pytest.mark.parametrize(
    ("make", "shape", "classes"),
    [
        (data.digits, (1797, 64), 10),
        (data.iris, (150, 4), 3),
        (data.wine, (178, 13), 3),
        (data.breast_cancer, (569, 30), 2),
        (data.diabetes, (442, 10), None),
        (data.moons, (1000, 2), 2),
        (data.circles, (1000, 2), 2),
    ],
)
def test_sets_are_pairs_of_plain_arrays(make, shape, classes):
    made = make()
    assert isinstance(made, data.Data)
    inputs, targets = made
    assert type(inputs) is type(targets) is np.ndarray
    assert inputs.shape == shape
    assert targets.shape == shape[:1]
    assert inputs.dtype == np.float64
    if classes is None:
        assert targets.dtype == np.float64
    else:
        assert targets.dtype == np.int32
        np.testing.assert_array_equal(np.unique(targets), np.arange(classes))


def test_digits_are_images_row_by_row():
    inputs, targets = data.digits()
    assert (inputs.min(), inputs.max()) == (0, 1)
    np.testing.assert_array_equal(np.unique(16 * inputs), np.arange(17))
    ring = inputs[targets == 0].mean(axis=0).reshape(8, 8)
    assert ring[3:5, 4].max() < 0.05 < 0.5 < ring[3:5, [2, 5]].min()


def test_points_on_circles_and_their_seed():
    inputs, targets = data.circles(200, noise=0.0, factor=0.25)
    np.testing.assert_allclose(np.linalg.norm(inputs, axis=1), np.where(targets, 0.25, 1))
    for make in (data.moons, data.circles):
        np.testing.assert_array_equal(make(50, seed=3).inputs, make(50, seed=3).inputs)
        assert np.abs(make(50, seed=3).inputs - make(50, seed=4).inputs).max() > 0.01
    noise = data.moons(2000, noise=0.2).inputs.std() - data.moons(2000, noise=0.0).inputs.std()
    assert noise > 0


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"expected scikit-learn.*pip install 'fnn\[sklearn\]'"):
        data.iris()


# --- IDX ---

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx(array):
    """The bytes of an IDX file, from the format's description."""
    array = np.asarray(array)
    header = bytes([0, 0, CODES[array.dtype.str[1:]], array.ndim])
    lengths = b"".join(struct.pack(">I", length) for length in array.shape)
    return header + lengths + array.astype(array.dtype.newbyteorder(">")).tobytes()


def written(folder, content, name="some-idx"):
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("shape", [(), (5,), (0,), (2, 3), (2, 3, 4, 5)])
def test_idx_of_every_dtype_plain_and_gzipped(tmp_path, dtype, shape):
    size = int(np.prod(shape))
    array = (1000 * np.arange(size) - 7 + 0.5 * np.arange(size)).astype(dtype).reshape(shape)
    for content in (idx(array), gzip.compress(idx(array))):
        read = data.read_idx(str(written(tmp_path, content)))
        assert read.dtype == np.dtype(dtype)
        assert read.dtype.isnative
        assert read.flags.writeable
        assert read.shape == shape
        np.testing.assert_array_equal(read, array)


def test_idx_bytes_of_mnist_as_published(tmp_path):
    # the magic numbers 2051 and 2049, and the first lengths, that the format's page prints
    images = struct.pack(">IIII", 2051, 1, 2, 2) + bytes([0, 255, 7, 8])
    labels = struct.pack(">II", 2049, 1) + bytes([5])
    np.testing.assert_array_equal(
        data.read_idx(written(tmp_path, images)), np.array([[[0, 255], [7, 8]]])
    )
    np.testing.assert_array_equal(data.read_idx(written(tmp_path, labels)), [5])


GOOD = idx(np.arange(6, dtype=np.int16).reshape(2, 3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got no bytes"),
        (b"\0\0\x08", "got 00 00 08"),
        (b"\x89PNG" + bytes(20), "got 89 50 4e 47; try"),
        (b"\0\0\x0a\x01" + bytes(20), "one of 08 09 0b 0c 0d 0e, .*got 00 00 0a 01"),
        (GOOD[:11], "a header of 12 bytes, got 11 bytes"),
        (GOOD[:-1], r"24 bytes for int16 of shape \(2, 3\), got 23 bytes"),
        (GOOD + b"\0", r"24 bytes for int16 of shape \(2, 3\), got 25 bytes"),
        (b"\0\0\x08\x02" + b"\xff" * 8, "got 12 bytes"),  # 2^64 numbers announced
        (gzip.compress(GOOD, mtime=0)[:-9], "whole gzip"),
        (gzip.compress(GOOD, mtime=0)[:-4] + bytes(4), "whole gzip"),
        (
            gzip.compress(GOOD, mtime=0)[:12] + b"\xff\xff" + gzip.compress(GOOD, mtime=0)[14:],
            "whole gzip",
        ),
        (gzip.compress(GOOD[:-2], mtime=0), "24 bytes .* got 22 bytes"),
    ],
)
def test_damaged_idx_names_the_file_and_the_damage(tmp_path, content, message):
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match=message) as raised:
        data.read_idx(path)
    assert f"read_idx: expected {path} to " in str(raised.value)
    assert "; try " in str(raised.value)


def test_a_missing_idx_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        data.read_idx(tmp_path / "absent")


@pytest.fixture
def mnist_folder(tmp_path):
    for part, n in (("train", 7), ("t10k", 3)):
        images = (np.arange(n * 6) % 256).astype(np.uint8).reshape(n, 2, 3)
        written(tmp_path, gzip.compress(idx(images)), f"{part}-images-idx3-ubyte.gz")
        written(tmp_path, idx(np.arange(n, dtype=np.uint8)), f"{part}-labels-idx1-ubyte")
    return tmp_path


def test_mnist_of_a_folder(mnist_folder):
    train, test = data.mnist(mnist_folder)
    assert train.inputs.shape == (7, 6)
    assert test.inputs.shape == (3, 6)
    assert (train.inputs.dtype, train.targets.dtype) == (np.float32, np.int32)
    np.testing.assert_allclose(train.inputs, np.arange(42).reshape(7, 6) / 255, rtol=1e-6)
    np.testing.assert_array_equal(test.targets, [0, 1, 2])
    # an unpacked file goes before its archive
    written(mnist_folder, idx(np.full((7, 2, 3), 255, np.uint8)), "train-images-idx3-ubyte")
    np.testing.assert_array_equal(data.mnist(str(mnist_folder))[0].inputs, 1)


def test_mnist_says_what_is_missing_and_what_does_not_match(mnist_folder):
    written(mnist_folder, idx(np.zeros((3, 2, 3), np.int32)), "t10k-images-idx3-ubyte")
    with pytest.raises(ValueError, match=r"got \(3, 2, 3\) of int32"):
        data.mnist(mnist_folder)
    written(mnist_folder, idx(np.zeros(4, np.uint8)), "train-labels-idx1-ubyte")
    with pytest.raises(ValueError, match=r"got \(7, 2, 3\) of uint8 and \(4,\)"):
        data.mnist(mnist_folder)
    (mnist_folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"t10k-labels-idx1-ubyte.*\.gz.*got \['t10k-im"):
        data.mnist(mnist_folder)
    with pytest.raises(FileNotFoundError, match="got no folder"):
        data.mnist(mnist_folder / "absent")


def photographs(folder, name, red, labels):
    """A batch whose photographs have one shade of red each, green that grows along a row."""
    green = np.tile(np.arange(32, dtype=np.uint8), 32)
    rows = [
        [label, *([shade] * 1024), *green, *([7] * 1024)]
        for shade, label in zip(red, labels, strict=True)
    ]
    (folder / name).write_bytes(np.array(rows, np.uint8).tobytes())


def test_cifar10_of_a_folder(tmp_path):
    for i in range(1, 6):
        photographs(tmp_path, f"data_batch_{i}.bin", [i], [i])
    photographs(tmp_path, "test_batch.bin", [51, 255], [9, 0])
    train, test = data.cifar10(tmp_path)
    assert train.targets.tolist() == [1, 2, 3, 4, 5]
    assert test.targets.tolist() == [9, 0]
    assert train.inputs.dtype == np.float32
    images = 255 * test.inputs.reshape(2, 32, 32, 3)
    np.testing.assert_allclose(images[:, 5, 11], [[51, 11, 7], [255, 11, 7]], rtol=1e-6)

    batch = tmp_path / "data_batch_2.bin"
    whole = batch.read_bytes()
    for content in (b"", whole[:-1], bytes([10]) + whole[1:]):
        batch.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"data_batch_2\.bin to hold photographs of 3073 bytes"
        ):
            data.cifar10(tmp_path)
    batch.write_bytes(b"\x1f\x8b" + whole)
    with pytest.raises(ValueError, match=r"cifar10: expected .* to be whole gzip"):
        data.cifar10(tmp_path)
    batch.unlink()
    with pytest.raises(FileNotFoundError, match=r"to hold data_batch_1\.bin, .*test_batch\.bin"):
        data.cifar10(tmp_path)


# --- Proben1 ---

HEADER = ["bool_in=1", "real_in=1", "bool_out=1", "real_out=0"]
HEADER += ["training_examples=2", "validation_examples=1", "test_examples=1"]
ROWS = ["0 0.5 1", "1 0.25 0", "0 1e-1 1", "1 -2 0"]


def proben1(folder, lines):
    return data.proben1(written(folder, "\n".join([*lines, ""]).encode(), "set.dt"))


def test_proben1_is_cut_by_the_counts_of_its_header(tmp_path):
    train, validation, test = proben1(tmp_path, HEADER + ROWS)
    np.testing.assert_array_equal(train.inputs, [[0, 0.5], [1, 0.25]])
    np.testing.assert_array_equal(train.targets, [[1], [0]])
    np.testing.assert_array_equal(validation.inputs, [[0, 0.1]])
    np.testing.assert_array_equal(test.inputs, [[1, -2]])
    np.testing.assert_array_equal(test.targets, [[0]])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], r"line 1 of .*set\.dt to be bool_in=COUNT, got ''"),
        (HEADER[:6], "line 7 .* to be test_examples=COUNT, got ''"),
        (["bool_in=-1", *HEADER[1:], *ROWS], "line 1 .*, got 'bool_in=-1'"),
        ([HEADER[1], HEADER[0], *HEADER[2:], *ROWS], "line 1 .*, got 'real_in=1'"),
        (HEADER + ROWS[:3], "expected 4 examples in .*, got 3; try to fetch it again"),
        (HEADER + ROWS + ROWS[:1], "expected 4 examples in .*, got 5"),
        ([*HEADER, *ROWS[:2], "0 1", ROWS[3]], "expected 3 numbers in line 10 of .*, got '0 1'"),
        ([*HEADER, "0 1 1 1", *ROWS[1:]], "expected 3 numbers in line 8 of .*, got '0 1 1 1'"),
        ([*HEADER, "0 ? 1", *ROWS[1:]], r"in line 8 of .*, got '0 \? 1'"),
        ([*HEADER, "0 nan 1", *ROWS[1:]], "in line 8 of .*, got '0 nan 1'"),
        ([*HEADER, "1", *ROWS[1:]], "in line 8 of .*, got '1'"),
    ],
)
def test_proben1_says_which_line_is_damaged(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        proben1(tmp_path, lines)


# --- splits ---


def test_split_is_disjoint_exhaustive_and_keeps_pairs_together():
    rows = np.arange(101)
    whole = data.Data(rows[:, None] * [1.0, 10.0], rows)
    parts = data.split(whole, (0.7, 0.15, 0.15), jax.random.key(0))
    assert [len(part.targets) for part in parts] == [71, 15, 15]
    drawn = np.concatenate([part.targets for part in parts])
    np.testing.assert_array_equal(np.sort(drawn), rows)
    assert not np.array_equal(drawn, rows)
    for part in parts:
        assert isinstance(part, data.Data)
        assert isinstance(part.inputs, np.ndarray)
        np.testing.assert_array_equal(part.inputs, part.targets[:, None] * [1.0, 10.0])
    again = data.split(whole, (0.7, 0.15, 0.15), jax.random.key(0))
    other = data.split(whole, (0.7, 0.15, 0.15), jax.random.key(1))
    np.testing.assert_array_equal(again[1].targets, parts[1].targets)
    assert not np.array_equal(other[1].targets, parts[1].targets)


def test_split_of_any_tree():
    tree = ({"x": jax.numpy.arange(10), "t": np.arange(10)},)
    left, right = data.split(tree, (0.5, 0.5), jax.random.key(0))
    for part in (left, right):
        assert isinstance(part[0]["x"], jax.Array)
        np.testing.assert_array_equal(part[0]["x"], part[0]["t"])
    (same,) = data.split(tree, (1.0,), jax.random.key(0))
    np.testing.assert_array_equal(np.sort(same[0]["t"]), np.arange(10))


@pytest.mark.parametrize(
    ("pair", "fractions", "message"),
    [
        ((np.ones(4), np.ones(4)), (0.5, 0.4), r"sum 1, got \(0.5, 0.4\)"),
        ((np.ones(4), np.ones(4)), (1.5, -0.5), "expected positive fractions"),
        ((np.ones(4), np.ones(4)), (), "expected positive fractions"),
        ((np.ones(4), np.ones(5)), (0.5, 0.5), r"got shapes \[\(4,\), \(5,\)\]"),
        ((np.ones(4), np.float64(1)), (0.5, 0.5), r"got shapes \[\(4,\), \(\)\]"),
        ((np.ones(4), np.ones(4)), (0.95, 0.05), r"sizes \[4, 0\] of 4"),
        ((), (0.5, 0.5), r"got shapes \[\]"),
    ],
)
def test_split_refuses(pair, fractions, message):
    with pytest.raises(ValueError, match=message):
        data.split(pair, fractions, jax.random.key(0))
