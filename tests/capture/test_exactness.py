"""Everything that follows from a capture, against the explicit Jacobian, over a zoo of models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import curvature
from fnn.capture.captured import examples
from tests.capture.zoo import ZOO, N


def cross_entropy(outputs, target):
    p = jax.nn.softmax(jnp.ravel(outputs))
    root = jnp.sqrt(p)
    factor = jnp.diag(root) - jnp.outer(p, root)
    return factor.reshape(*outputs.shape, -1), root - jax.nn.one_hot(target, p.size) / root


def squared(outputs, target):
    return jnp.eye(outputs.size).reshape(*outputs.shape, -1), jnp.ravel(outputs) - target


def explicit(model, params, inputs, factor, targets):
    """The rows B^T J, leaf by leaf (N, R, ...), for leaves that are real."""

    def rows(x, target):
        outputs = model(params, x)
        columns, slopes = factor(outputs, target)
        jacobian = jax.jacrev(lambda p: model(p, x), allow_int=True)(params)
        columns = columns.reshape(outputs.size, -1)

        def row(leaf, block):
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                return jnp.zeros((columns.shape[1], *leaf.shape))
            block = block.reshape(outputs.size, -1)
            return (columns.T @ block).reshape(-1, *leaf.shape)

        return jax.tree.map(row, params, jacobian), slopes

    return jax.vmap(rows, axis_name="examples")(inputs, targets)


def both(model, params, inputs, factor, targets):
    """Pairs of what the capture says and what the explicit Jacobian says."""
    captured = curvature.capture(model, params, inputs, factor, targets)
    jacobian, slopes = explicit(model, params, inputs, factor, targets)
    n, r = captured.shape
    leaves, structure = jax.tree.flatten(jacobian)
    scales = [1.0 + i for i in range(len(leaves))]
    u = jnp.sin(1.0 + jnp.arange(n * r)).reshape(n, r)
    v = jax.tree.map(lambda p: jnp.cos(1.0 + jnp.arange(p.size)).reshape(p.shape), params)
    flat = [j.reshape(n * r, -1) for j in leaves]
    along = [t.reshape(-1) for t in jax.tree.leaves(v)]
    return {
        "slopes": (captured.slopes, slopes),
        "outputs": (captured.outputs, jax.vmap(lambda x: model(params, x))(inputs)),
        "jacobian": (curvature.jacobian(captured), jacobian),
        "gram": (
            curvature.gram(captured, scales=structure.unflatten(scales)),
            sum(s * j @ j.T for s, j in zip(scales, flat, strict=True)),
        ),
        "transpose_product": (
            curvature.transpose_product(captured, u),
            jax.tree.map(lambda j: jnp.tensordot(u, j, 2), jacobian),
        ),
        "product": (
            curvature.product(captured, v),
            sum(j @ t for j, t in zip(flat, along, strict=True)).reshape(n, r),
        ),
        "diagonal": (
            curvature.diagonal(captured),
            jax.tree.map(lambda j: jnp.sum(j * j, (0, 1)), jacobian),
        ),
    } | kroneckers(captured, jacobian)


def in_parts(model, params, inputs):
    """What is made block by block: a budget of one byte is the smallest blocks."""
    captured = curvature.capture(model, params, inputs)
    one, two = (curvature.capture(model, params, x) for x in (inputs[:1], inputs[1:]))
    (n, r), leaves = captured.shape, jax.tree.leaves(curvature.jacobian(captured))
    whole = jnp.concatenate([j.reshape(n * r, -1) for j in leaves], 1)
    scales = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size)).reshape(p.shape), params)
    scaled = whole * jnp.concatenate([s.ravel() for s in jax.tree.leaves(scales)]) @ whole.T
    matrix, squares = whole @ whole.T, jnp.sum(whole * whole, 1)
    diagonal = curvature.diagonal(captured)
    return {
        "tiles": (curvature.gram(captured, memory_budget=1), matrix),
        "entries scaled": (curvature.gram(captured, scales=scales), scaled),
        "entries scaled in tiles": (
            curvature.gram(captured, scales=scales, memory_budget=1),
            scaled,
        ),
        "blocks": (curvature.diagonal(captured, memory_budget=1), diagonal),
        "kernel": (curvature.gram(one, two), matrix[:r, r:]),
        "kernel in tiles": (curvature.gram(two, one, memory_budget=1), matrix[r:, :r]),
        "norms": (curvature.norms(captured) ** 2, squares.reshape(n, r)),
        "norms in turn": (curvature.norms(captured, memory_budget=1) ** 2, squares.reshape(n, r)),
    }


def kroneckers(captured, jacobian):
    """A leaf with one use at one position: for one example, A (x) Delta is its own J^T J."""
    pairs = {}
    leaves = jax.tree.leaves(jacobian)
    one = examples(captured, 0, 1)
    program = captured.program
    for use, factors in zip(program.uses, curvature.kronecker(one), strict=True):
        (leaf, *more) = sorted(use.weight.leaves)
        alone = sum(leaf in other.weight.leaves for other in program.uses) == 1
        view = use.weight.views.get(leaf)
        if more or not alone or use.form.shape[:2] != (1, 1) or not view or view.scale:
            continue
        rows = jnp.stack([use.form.matrix(view(row))[0] for row in leaves[leaf][0]])
        inputs, outputs = factors.inputs[0], factors.outputs[0]
        pairs[f"kronecker {factors.leaves}"] = (
            (inputs * jnp.trace(outputs), outputs * jnp.trace(inputs)),
            (jnp.einsum("rio,rjo->ij", rows, rows), jnp.einsum("rio,rip->op", rows, rows)),
        )
    return pairs


def far(pair):
    """The largest relative difference of two trees; NaN where one is."""
    leaves = zip(*(map(np.asarray, jax.tree.leaves(tree)) for tree in pair), strict=True)
    return np.max(
        [np.max(np.abs(a - b)) / (np.max(np.abs(b)) + 1e-300) for a, b in leaves if a.size],
        initial=0.0,
    )


def assert_equal(pairs, tolerance):
    differences = {what: far(pair) for what, pair in pairs.items()}
    assert {what: d for what, d in differences.items() if not d < tolerance} == {}


def quickly(fn, *args):
    """A function compiled without optimization and called once."""
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(fn, compiler_options=options)(*args)


@pytest.mark.parametrize("name", ["mlp", "tied_layers", "embedding", "convolution", "recurrent"])
def test_blocks_do_not_change_a_result(name):
    model, params, inputs = ZOO[name]()
    pairs = quickly(lambda p, x: in_parts(model, p, x), params, inputs)
    assert_equal(pairs, 1e-12)


@pytest.mark.parametrize("name", ZOO)
def test_the_capture_says_what_the_explicit_jacobian_says(name):
    model, params, inputs = ZOO[name]()
    outputs = jax.eval_shape(lambda x: model(params, x[0]), inputs)
    if outputs.size > 1 and len(name) % 2:
        factor, targets = cross_entropy, jnp.arange(N) % outputs.size
    else:
        factor, targets = squared, jnp.zeros((N, outputs.size))
    pairs = quickly(lambda p, x, t: both(model, p, x, factor, t), params, inputs, targets)
    assert_equal(pairs, 1e-6 if "float32" in name else 1e-12)
