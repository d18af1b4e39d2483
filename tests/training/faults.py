"""Faults on purpose: in data, in gradients, in memory, on disk, in files."""

import contextlib
import resource

import jax
import jax.numpy as jnp
import numpy as np


def poisoned(batches, at, value=np.nan):
    """The same batches, one input of one of them being no number."""
    for number, (inputs, targets) in enumerate(batches):
        yield (inputs.at[0, 0].set(value) if number == at else inputs), targets


def broken(batches, at):
    """The same batches until the disk is gone."""
    for number, batch in enumerate(batches):
        if number == at:
            raise OSError("the disk is gone")
        yield batch


def infinite_below(bound):
    """The identity, with an infinite derivative below a bound: finite values, no gradient."""

    @jax.custom_jvp
    def identity(x):
        return 1.0 * x

    @identity.defjvp
    def _(primals, tangents):
        return primals[0], jnp.where(primals[0] < bound, jnp.inf, 1.0) * tangents[0]

    return identity


def memory_for(examples, model):
    """A model on a device that has no room for more examples at a time, and what was tried."""
    tried = []

    def require_room(inputs):
        tried.append(len(inputs))
        if len(inputs) > examples:
            raise MemoryError("RESOURCE_EXHAUSTED: Out of memory allocating")
        return inputs

    def small(params, x):
        x = jax.pure_callback(require_room, x, x, vmap_method="expand_dims")
        return model(params, x)

    return small, tried


@contextlib.contextmanager
def full_disk(free=0):
    """No file grows beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def newest(folder):
    """The newest checkpoint in a folder."""
    return max((p for p in folder.iterdir() if p.name.isdecimal()), key=lambda p: int(p.name))


def numbers_of(checkpoint):
    """The file that holds most of a checkpoint's numbers."""
    return max((checkpoint / "d").iterdir(), key=lambda path: path.stat().st_size)


def cut(folder):
    """Half of the numbers in the newest checkpoint are lost."""
    file = numbers_of(newest(folder))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(folder):
    """A bit flips amid the numbers in the newest checkpoint."""
    file = numbers_of(newest(folder))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)


def forget(folder):
    """The newest checkpoint loses what describes it."""
    (newest(folder) / "_CHECKPOINT_METADATA").unlink()
