"""Parameters in safetensors: what goes in comes out, and what does not fit is named."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import exchange, layers

PARAMS = [
    {"weight": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3, jnp.bfloat16)},
    (jnp.float16(2.5), {"count": jnp.array([1, 2], jnp.int8), "none": jnp.zeros((0, 4))}),
    {"on": jnp.array([True, False]), "single": np.float32([1.5])},
]
NAMES = ["0.bias", "0.weight", "1.0", "1.1.count", "1.1.none", "2.on", "2.single"]


def test_what_goes_in_comes_out(tmp_path):
    exchange.save(tmp_path / "a", PARAMS)
    read = exchange.load(tmp_path / "a", like=PARAMS)
    assert jax.tree.structure(read) == jax.tree.structure(PARAMS)
    for one, other in zip(jax.tree.leaves(read), jax.tree.leaves(PARAMS), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert sorted(exchange.load(tmp_path / "a")) == NAMES
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_format_is_the_published_one(tmp_path):
    """A length in 8 bytes, a header in JSON, and the numbers as they lie in memory."""
    exchange.save(tmp_path / "a", PARAMS)
    content = (tmp_path / "a").read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    assert header["0.bias"]["dtype"] == "BF16"
    begin, end = header["0.weight"]["data_offsets"]
    assert content[8 + size + begin : 8 + size + end] == np.asarray(PARAMS[0]["weight"]).tobytes()


def test_into_the_shapes_of_a_network(tmp_path):
    network, x = layers.serial(layers.dense(4), layers.dense(1)), jnp.zeros(3)
    params = network.init(jax.random.key(0), x)
    exchange.save(tmp_path / "a", params)
    read = exchange.load(tmp_path / "a", like=jax.eval_shape(network.init, jax.random.key(1), x))
    np.testing.assert_array_equal(network.apply(read, x + 1), network.apply(params, x + 1))


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"a": jnp.zeros(3), "b": jnp.zeros(2)}, r"a of float64\[3\], got float64\[2\]"),
        ({"a": jnp.zeros(2, "float32"), "b": jnp.zeros(2)}, r"a of float32\[2\], got float64\[2\]"),
        ({"a": jnp.zeros(2)}, r"b of no such name, got float64\[2\]"),
        ({"a": jnp.zeros(2), "b": jnp.zeros(2), "c": jnp.zeros(1)}, r"c of float64\[1\], got none"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, like, message):
    exchange.save(tmp_path / "a", {"a": jnp.zeros(2), "b": jnp.zeros(2)})
    with pytest.raises(ValueError, match=message):
        exchange.load(tmp_path / "a", like=like)


def test_misuse(tmp_path, monkeypatch):
    file = tmp_path / "a"
    with pytest.raises(ValueError, match=r"got two of the name a\.b"):
        exchange.save(file, {"a.b": jnp.zeros(1), "a": {"b": jnp.zeros(1)}})
    with pytest.raises(TypeError, match="arrays of numbers, got 'relu' as a"):
        exchange.save(file, {"a": "relu"})
    with pytest.raises(TypeError, match="key_data for a key"):
        exchange.save(file, {"a": jax.random.key(0)})
    with pytest.raises(ValueError, match="without any"):
        exchange.save(file, {})
    with pytest.raises(FileNotFoundError, match="expected a file"):
        exchange.load(file)
    file.write_bytes(b"PK\x03\x04 a pickle of another program")
    with pytest.raises(ValueError, match="expected a safetensors file"):
        exchange.load(file)
    with pytest.raises(OSError, match="expected to write"):
        exchange.save(tmp_path / "none" / "a", PARAMS)
    monkeypatch.setitem(sys.modules, "safetensors.flax", None)
    with pytest.raises(ImportError, match=r"pip install 'fnn\[checkpoint\]'"):
        exchange.load(file)
    assert file.read_bytes().startswith(b"PK")
