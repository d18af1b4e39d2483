"""A text, one character after the other: of a grammar, or of a file of yours.

The first 80 % of a text train, the next 10 % validate, the last 10 % test, in windows of 32
characters that do not overlap. A network knows the characters of the training part; all others are
one more character to it. The target of a file is the loss of guessing from the last character
alone, by the counts of pairs in the training part.

Sentences of the grammar, "boys who mary chases feed cats. ", agree in number over clauses between
subject and verb, and in whether a verb takes an object. So what comes next may depend on a word
that lies far back.

Source:
    char-rnn          the task of Karpathy, Johnson and Fei-Fei, "Visualizing and understanding
                      recurrent networks" (2015), arXiv:1506.02078; the cell of Cho et al. (2014),
                      arXiv:1406.1078
    char-lstm         the cell of Hochreiter and Schmidhuber (1997), doi:10.1162/neco.1997.9.8.1735
    char-transformer  Vaswani et al., "Attention is all you need" (2017), arXiv:1706.03762, in the
                      order of Xiong et al., "On layer normalization in the transformer
                      architecture" (2020), arXiv:2002.04745
    the grammar       Elman, "Distributed representations, simple recurrent networks, and
                      grammatical structure", Machine Learning 7 (1991), doi:10.1007/BF00114844

Differs: Elman's network is given words, these are given characters. Here half of the nouns are
plural, a fifth of the subjects and objects are names, and a fourth of the nouns has a relative
clause.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree, Scalar

from fnn import data, layers, losses
from fnn.problems.problem import Budget, Problem, described
from fnn.problems.supervised import Score, supervised

WINDOW = 32  # characters in an example
CHARACTERS = 12_800
"""The length of the text by the grammar: 320 windows train, 40 validate and 40 test."""


def _next_character(
    name: str,
    what: str,
    source: str,
    text: str,
    layers_of: Callable[[int], list[layers.Layer]],
    budget: Budget,
    target: float | None = None,
) -> Problem:
    """The next character of a text, by layers for so many characters."""
    parts, known = _parts(text)
    train, validation, _ = parts
    return supervised(
        name,
        f"the next of {known} characters of {what}",
        source,
        model=layers.serial(*layers_of(known), layers.each(layers.dense(known))),
        loss=_mean_cross_entropy,
        parts=parts,
        score=Score("bits per character", _bits),
        batch_size=16,
        budget=budget,
        target=_loss_by_pairs(train, validation, known) if target is None else target,
    )


_mean_cross_entropy = losses.each(losses.softmax_cross_entropy)
"""The mean over the characters of a window."""


def _bits(outputs: Float[Array, "windows n k"], targets: Int[Array, "windows n"]) -> Scalar:
    """The same over all windows, in bits."""
    return jnp.mean(jax.vmap(_mean_cross_entropy)(outputs, targets)) / jnp.log(2)


def _parts(text: str) -> tuple[tuple[data.Data, ...], int]:
    """The windows that train, validate and test, and the number of characters."""
    letters = np.array([*text])
    known = np.unique(letters[: len(letters) * 8 // 10])
    place = np.minimum(np.searchsorted(known, letters), len(known) - 1)
    codes = np.where(known[place] == letters, place, len(known)).astype(np.int32)
    parts = np.split(codes, [len(codes) * 8 // 10, len(codes) * 9 // 10])
    return tuple(map(_windows, parts)), len(known) + 1


def _windows(codes: Int[np.ndarray, " n"]) -> data.Data:
    n = (len(codes) - 1) // WINDOW * WINDOW
    return data.Data(codes[:n].reshape(-1, WINDOW), codes[1 : n + 1].reshape(-1, WINDOW))


def _loss_by_pairs(train: data.Data, other: data.Data, characters: int) -> float:
    """The mean of -log p(next | last), p from the counts of pairs, each begun at 1 / characters."""
    counts = np.full((characters, characters), 1 / characters)
    np.add.at(counts, (train.inputs.ravel(), train.targets.ravel()), 1)
    p = counts / counts.sum(axis=1, keepdims=True)
    return float(-np.mean(np.log(p[other.inputs.ravel(), other.targets.ravel()])))


# Networks -----------------------------------------------------------------------------------------


def recurrent(cell: layers.Cell, features: int) -> Callable[[int], list[layers.Layer]]:
    """Characters as vectors, and a cell that goes over them."""
    return lambda known: [layers.embedding(known, features), layers.scan_over(cell)]


def transformer(features: int, heads: int) -> Callable[[int], list[layers.Layer]]:
    """Characters and their places as vectors, and a block of attention to what came before."""
    attention = layers.multi_head_attention(heads, mask=layers.causal)
    hidden = layers.each(layers.dense(2 * features)), layers.elementwise(jax.nn.gelu)
    forward = layers.serial(layers.layer_norm(), *hidden, layers.each(layers.dense(features)))
    return lambda known: [
        layers.embedding(known, features),
        _places(),
        layers.residual(layers.serial(layers.layer_norm(), attention)),
        layers.residual(forward),
        layers.layer_norm(),
    ]


def _places() -> layers.Layer:
    """A vector learned for each place, added to what is there."""

    def init(key: Key[Array, ""], x: Float[Array, "places features"]) -> dict[str, Array]:
        return {"weight": jax.random.normal(key, x.shape, x.dtype)}

    def apply(params: PyTree, x: Float[Array, "places features"], *, key: object = None) -> Array:
        del key
        return x + params["weight"]

    return layers.Layer(init, apply, "places")


# A file of yours ----------------------------------------------------------------------------------


def char_rnn(file: str | Path) -> Problem:
    """The next character of a text of yours, by a gated recurrent unit of 64 units.

    Args:
        file: a text in UTF-8, of 640 characters or more.

    Returns:
        The problem.

    Raises:
        ValueError: if the file is no such text.

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
        text = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"char-rnn: expected a text to read, got {error}; try the path of a file"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"char-rnn: expected {file} to be a text in UTF-8, got {error}; try another file"
        ) from error
    if len(text) < 20 * WINDOW:
        raise ValueError(
            f"char-rnn: expected {file} to hold {20 * WINDOW} characters or more, got {len(text)}; "
            "try a longer text"
        )
    return _next_character(
        "char-rnn", f"{Path(file).name}, by a GRU of 64 units",
        "after Karpathy, Johnson and Fei-Fei (2015)",
        text, recurrent(layers.gru(64), 32), Budget(20, "gradients"),
    )  # fmt: skip


# A grammar ----------------------------------------------------------------------------------------

NOUNS, NAMES = ("boy", "girl", "cat", "dog"), ("john", "mary")
WITH_OBJECT, EITHER, WITHOUT = ("chase", "feed"), ("see", "hear"), ("walk", "live")


def sentences(characters: int, seed: int = 0) -> str:
    """Sentences of Elman's grammar, cut off after so many characters.

    Args:
        characters: the length of the text, at least 0.
        seed: of the choices; the same seed gives the same text.

    Returns:
        The text.

    Source:
        Elman, "Distributed representations, simple recurrent networks, and grammatical
        structure", Machine Learning 7 (1991), doi:10.1007/BF00114844.

    Differs:
        In how often a noun is plural, a name, or has a relative clause, see the module.

    Example:
        >>> sentences(37)
        'dog who dogs who dog feeds feed hears'
    """
    rng, text = np.random.RandomState(seed), ""
    while len(text) < characters:
        subject, plural = _noun_phrase(rng)
        text += f"{subject} {_verb_phrase(rng, plural)}. "
    return text[:characters]


def entropy_of_sentences() -> float:
    """The entropy of a text of `sentences` in bits per character: what no model can stay below.

    It is that of the choices in a sentence, no two of which give the same one, over its mean
    length. Noun phrases hold verb phrases and each other, so that both obey

        noun phrase = a + (noun phrase + verb phrase) / 10
        verb phrase = b + noun phrase / 2

    with other a and b for the bits and for the characters.

    Returns:
        About 0.604; a text of finite length scatters around it.

    Example:
        >>> round(entropy_of_sentences(), 4)
        0.6044
    """
    fifth, quarter = (-p * np.log2(p) - (1 - p) * np.log2(1 - p) for p in (1 / 5, 1 / 4))
    # Two names; four nouns in two numbers, whose clause is of two kinds, one of them with one of
    # four verbs; three kinds of two verbs, of which one may have an object.
    clause = 1 + 1 / 2 * 2
    bits = fifth + 1 / 5 * 1 + 4 / 5 * (3 + quarter + 1 / 4 * clause), np.log2(3) + 1 + 1 / 3
    # A verb has 4 letters, and an s after a singular: half of the nouns, 3/5 of all subjects.
    clause = len(" who ") + 1 / 2 * 1 / 2 + 1 / 2 * (len(" ") + 4 + 3 / 5)
    letters = 1 / 5 * 4 + 4 / 5 * (13 / 4 + 1 / 2 + 1 / 4 * clause), 4 + 1 / 2 * len(" ")
    matrix = np.array([[9 / 10, -1 / 10], [-1 / 2, 1]])
    choices, characters = (np.sum(np.linalg.solve(matrix, parts)) for parts in (bits, letters))
    return float(choices / (characters + 3 / 5 + len(" ") + len(". ")))


def _noun_phrase(rng: np.random.RandomState) -> tuple[str, bool]:
    """A name, or a noun with or without a relative clause; and whether it is plural."""
    if rng.random_sample() < 1 / 5:
        return _one_of(rng, NAMES), False
    plural = rng.random_sample() < 1 / 2
    noun = _one_of(rng, NOUNS) + "s" * plural
    if rng.random_sample() < 3 / 4:
        return noun, plural
    if rng.random_sample() < 1 / 2:
        return f"{noun} who {_verb_phrase(rng, plural)}", plural
    subject, number = _noun_phrase(rng)  # whose object the noun is
    return f"{noun} who {subject} {_verb(rng, WITH_OBJECT + EITHER, number)}", plural


def _verb_phrase(rng: np.random.RandomState, plural: bool) -> str:
    """A verb that agrees, with its object if it takes one."""
    verbs = (WITH_OBJECT, EITHER, WITHOUT)[rng.randint(3)]
    verb = _verb(rng, verbs, plural)
    has_object = verbs is WITH_OBJECT or (verbs is EITHER and rng.random_sample() < 1 / 2)
    return f"{verb} {_noun_phrase(rng)[0]}" if has_object else verb


def _verb(rng: np.random.RandomState, verbs: tuple[str, ...], plural: bool) -> str:
    """One of the verbs, in the number of its subject."""
    return _one_of(rng, verbs) + "s" * (not plural)


def _one_of(rng: np.random.RandomState, words: tuple[str, ...]) -> str:
    """Any of the words, all alike."""
    return words[rng.randint(len(words))]


def _of_the_grammar(
    name: str,
    by: str,
    source: str,
    layers_of: Callable[[int], list[layers.Layer]],
    gradients: float,
    target: float,
) -> Problem:
    """The next character of sentences of the grammar."""
    return _next_character(
        name, f"sentences of a grammar, by {by}", f"{source}; sentences of Elman (1991)",
        sentences(CHARACTERS), layers_of, Budget(gradients, "gradients"), target,
    )  # fmt: skip


PROBLEMS: Mapping[str, Callable[..., Problem]] = {
    "char-lstm": described(
        "The next character of a grammar's sentences, by an LSTM of 24 units.", _of_the_grammar,
        "char-lstm", "an LSTM of 24 units", "Hochreiter and Schmidhuber (1997)",
        recurrent(layers.lstm(24), 8), 15, 0.59,
    ),
    "char-transformer": described(
        "The next character of a grammar's sentences, by a block of attention.",
        _of_the_grammar, "char-transformer", "a block of attention, 24 features in 3 heads",
        "Vaswani et al. (2017)", transformer(24, 3), 15, 0.68,
    ),
    "char-rnn": char_rnn,
}  # fmt: skip
"""The problems by their names."""
