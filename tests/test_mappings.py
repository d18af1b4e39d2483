"""Memory mappings: programs are forgotten before Linux grants no more of them."""

import jax
import jax.numpy as jnp
import pytest

from fnn import devices, mappings


def test_a_process_with_few_programs_keeps_them():
    assert not mappings.spare()


def test_programs_are_forgotten_with_a_warning_and_compiled_again(monkeypatch, tmp_path):
    granted = tmp_path / "max_map_count"
    granted.write_text("10\n")
    monkeypatch.setattr(mappings, "_GRANTED", granted)
    double = jax.jit(lambda x: 2 * x)
    assert double(jnp.ones(3)).sum() == 6
    assert double._cache_size() == 1
    with pytest.warns(UserWarning, match=r"of the 10 memory mappings .* vm\.max_map_count"):
        assert mappings.spare()
    assert double._cache_size() == 0
    assert double(jnp.ones(3)).sum() == 6


def test_where_there_is_no_limit_nothing_is_forgotten(monkeypatch, tmp_path):
    monkeypatch.setattr(mappings, "_GRANTED", tmp_path / "none")
    assert not mappings.spare(1e-9)


def test_a_function_of_many_shapes_looks_now_and_then(monkeypatch):
    looks = []
    monkeypatch.setattr(mappings, "spare", lambda: looks.append(1))
    total = devices.jit(jnp.sum)
    for size in range(1, 33):
        total(jnp.ones(size))
    assert len(looks) == 2
    total(jnp.ones(32))
    assert len(looks) == 2
