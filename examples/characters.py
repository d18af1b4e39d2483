"""The next character of a grammar's sentences: a network, counts, and the grammar's own entropy.

uv run examples/characters.py
"""

import time
from collections import Counter
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import fnn
from fnn import plots, problems, rules

PICTURE = Path(__file__).parent / "drawn" / "characters.png"
PLANS = {"adam": {"epochs": 30, "batch_size": 16}, "soap": {"epochs": 30, "batch_size": 16}}
RULES = {"adam": rules.adam(3e-3), "soap": rules.soap(3e-3)}


def by_counts(train, test, orders, characters):
    """Bits per character, by how many characters one looks back: counts, and what is shorter."""
    if not len(train) or not len(test):
        raise ValueError("by_counts: expected two texts, got an empty one; try longer ones")
    p, bits = np.full(len(test), 1 / characters), []
    for n in range(orders):
        seen = Counter(tuple(train[i - n : i + 1]) for i in range(n, len(train)))
        before = Counter(tuple(train[i - n : i]) for i in range(n, len(train)))
        asked = [tuple(test[i - n : i + 1]) for i in range(n, len(test))]
        p[n:] = [(seen[a] + q) / (before[a[:-1]] + 1) for a, q in zip(asked, p[n:], strict=True)]
        bits.append(-np.mean(np.log2(p)))
    return np.array(bits)


def sample(model, params, codes, letters, characters=60):
    """What the network writes on after the characters given."""
    last = jax.jit(lambda params, x: model(params, x)[-1])
    for key in jax.random.split(jax.random.key(4), characters):
        following = jax.random.categorical(key, last(params, codes[-32:]))
        codes = np.append(codes, following)
    return "".join(letters[codes])


def main(plans=PLANS, picture=PICTURE):
    """Draws the picture; returns the entropy, the bits by counts and by rule, and a sample."""
    problem, rate = problems.get("char-transformer"), problems.entropy_of_sentences()
    train, test = (np.ravel(part.inputs) for part in (problem.train, problem.validation))
    letters = np.append(np.unique([*problems.sentences(10_000)]), "?")
    counted, found, text = by_counts(train, test, 9, len(letters)), {}, ""
    params, model = problem.init(jax.random.key(0)), problem.objective.model
    figure, (left, right) = plt.subplots(1, 2, figsize=(12.5, 4.6), layout="constrained")
    left.plot(counted, "o-", color="black", label="counts")
    right.axhline(rate, color="gray", label=f"the grammar, {rate:.3f}")
    for i, (name, plan) in enumerate(plans.items()):
        begun = time.perf_counter()
        watched = {"key": jax.random.key(1), "validation": problem.validation}
        run = fnn.fit(RULES[name], problem.objective, params, problem.train, **plan, **watched)
        bits, seconds = run.history.validation["loss"] / np.log(2), time.perf_counter() - begun
        row = f"{name:5}{optax.tree.size(params):6}{len(run.history.value):6} steps{seconds:6.1f} s"
        print(f"{row}  {bits[-1]:.3f} bits per character")
        right.plot(run.history.steps, bits, color=plots.style(i).color, label=name)
        found[name], text = bits, sample(model, run.params, test[:32], letters)
    print(f"counts {counted.round(3)}, the grammar's entropy {rate:.3f}", text, sep="\n")
    left.axhline(rate, color="gray", label="the grammar's entropy")
    left.set(xlabel="characters looked back at", ylabel="bits per character, other sentences")
    right.set(ylim=(0.5, 2), xlabel="steps", title="a transformer of 32 characters")
    for axes in (left, right):
        axes.legend(frameon=False)
    left.set_title("counts")
    figure.supxlabel(text, family="monospace", fontsize=11)
    figure.savefig(picture, dpi=80)
    return rate, counted, found, text


if __name__ == "__main__":
    main()
