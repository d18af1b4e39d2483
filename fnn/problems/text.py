"""A text, one character after the other."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, Scalar

from fnn import data, layers, losses
from fnn.objective import Objective
from fnn.problems.problem import Budget, Measure, Problem

WINDOW = 32  # characters in an example


def char_rnn(file: str | Path) -> Problem:
    """The next character of a text of yours, by a gated recurrent unit of 64 units.

    The first 80 % of the text train, the next 10 % validate, the last 10 % test, in windows of 32
    characters that do not overlap. The network knows the characters of the training part; all
    others are one more character to it. The target is the loss of guessing from the last
    character alone, by the counts of pairs in the training part.

    Args:
        file: a text in UTF-8, of 640 characters or more.

    Returns:
        The problem.

    Raises:
        ValueError: if the file is no such text.

    Source:
        The task of Karpathy, Johnson and Fei-Fei, "Visualizing and understanding recurrent
        networks" (2015), arXiv:1506.02078; the cell of Cho et al. (2014), arXiv:1406.1078.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "text.txt")
        ...     _ = file.write_text("to be or not to be, " * 50)
        ...     problem = char_rnn(file)
        >>> problem.train.inputs.shape, problem.validation.targets.shape
        ((24, 32), (3, 32))
    """
    try:
        text = np.array([*Path(file).read_text(encoding="utf-8")])
    except UnicodeDecodeError as error:
        raise ValueError(
            f"char-rnn: expected {file} to be a text in UTF-8, got {error}; try another file"
        ) from error
    if len(text) < 20 * WINDOW:
        raise ValueError(
            f"char-rnn: expected {file} to hold {20 * WINDOW} characters or more, got {len(text)}; "
            "try a longer text"
        )
    known = np.unique(text[: len(text) * 8 // 10])
    place = np.minimum(np.searchsorted(known, text), len(known) - 1)
    codes = np.where(known[place] == text, place, len(known)).astype(np.int32)
    parts = np.split(codes, [len(codes) * 8 // 10, len(codes) * 9 // 10])
    train, validation, test = map(_windows, parts)
    characters = len(known) + 1

    model = layers.serial(
        layers.embedding(characters, 32),
        layers.scan_over(layers.gru(64)),
        layers.each(layers.dense(characters)),
    )

    def loss(outputs: Float[Array, "n k"], targets: Int[Array, " n"]) -> Scalar:
        return jnp.mean(jax.vmap(losses.softmax_cross_entropy)(outputs, targets))

    objective = Objective(model.apply, loss)

    def bits(params: PyTree, test: data.Data) -> Scalar:
        return objective.on(test)(params) / jnp.log(2)

    return Problem(
        name="char-rnn",
        summary=f"the next of {characters} characters of {Path(file).name}, by a GRU of 64 units",
        source="after Karpathy, Johnson and Fei-Fei (2015)",
        init=lambda key: model.init(key, train.inputs[0]),
        objective=objective,
        train=train,
        validation=validation,
        test=test,
        measure=Measure("bits per character", bits),
        batch_size=32,
        budget=Budget(20, "gradients"),
        target=_loss_by_pairs(train, validation, characters),
    )


def _windows(codes: Int[np.ndarray, " n"]) -> data.Data:
    n = (len(codes) - 1) // WINDOW * WINDOW
    return data.Data(codes[:n].reshape(-1, WINDOW), codes[1 : n + 1].reshape(-1, WINDOW))


def _loss_by_pairs(train: data.Data, other: data.Data, characters: int) -> float:
    """The mean of -log p(next | last), p from the counts of pairs, each begun at 1 / characters."""
    counts = np.full((characters, characters), 1 / characters)
    np.add.at(counts, (train.inputs.ravel(), train.targets.ravel()), 1)
    p = counts / counts.sum(axis=1, keepdims=True)
    return float(-np.mean(np.log(p[other.inputs.ravel(), other.targets.ravel()])))
