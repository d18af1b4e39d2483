"""Augmentation: random changes of an image that leave its class alone.

Each is a pure function of a key and one image, under `jit` and `vmap`:

    def augment(key, image):
        turn, move = jax.random.split(key)
        return shift(move, rotate(turn, image, angle=0.2), pixels=1)

    images = jax.vmap(augment)(jax.random.split(key, len(images)), images)

and `perturbations.augmented(model, augment)` draws anew whenever an example is trained on. An image
is (rows, columns) or (rows, columns, channels), of floating-point numbers. Values between pixels
are interpolated linearly, and outside the image everything is 0.
"""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Key

from fnn.products import dot

Image = Float[Array, "rows columns *channels"]


def resample(
    image: Image, matrix: Float[Array, "2 2"], offset: Float[Array, " 2"] | float = 0.0
) -> Image:
    """The image under an affine map of the plane: pixel p shows what was at matrix @ p + offset.

    Positions are (row, column), counted from the middle of the image.

    Args:
        image: one image, of floating-point numbers.
        matrix: the linear part, from positions in the result to positions in the image.
        offset: the offset in pixels.

    Returns:
        An image of the same shape.

    Raises:
        ValueError: if the image has other axes.
        TypeError: if it is not of floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> image = jnp.array([[1.0, 2.0], [3.0, 4.0]])
        >>> resample(image, jnp.eye(2), jnp.array([0.0, 1.0])).tolist()
        [[2.0, 0.0], [4.0, 0.0]]
    """
    image = jnp.asarray(image)
    if image.ndim not in (2, 3):
        raise ValueError(
            "resample: expected one image of shape (rows, columns) or (rows, columns, channels), "
            f"got {image.shape}; try x.reshape(8, 8), and jax.vmap over images"
        )
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(
            f"resample: expected floating-point numbers, got {image.dtype}; try image / 255"
        )
    rows, columns, *_ = image.shape
    middle = jnp.array([rows - 1, columns - 1]) / 2
    grid = jnp.stack(jnp.meshgrid(jnp.arange(rows), jnp.arange(columns), indexing="ij"), axis=-1)
    places = dot(grid - middle, jnp.asarray(matrix).T) + middle + offset
    places = tuple(jnp.moveaxis(places, -1, 0).astype(image.dtype))

    def of_channel(channel: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
        return map_coordinates(channel, places, order=1)

    return of_channel(image) if image.ndim == 2 else jax.vmap(of_channel, -1, -1)(image)


def shift(key: Key[Array, ""], image: Image, pixels: float | Array = 1.0) -> Image:
    """The image moved by a random distance along each axis.

    Args:
        key: the key of the draw.
        image: one image.
        pixels: the farthest that it is moved up, down, left or right; >= 0.

    Returns:
        The moved image, with 0 where it came from.

    Example:
        >>> import jax
        >>> image = jnp.zeros((5, 5)).at[2, 2].set(1.0)
        >>> moved = shift(jax.random.key(0), image, pixels=1.0)
        >>> bool(jnp.allclose(moved.sum(), 1)), float(moved[2, 2]) < 1
        (True, True)
    """
    return resample(image, jnp.eye(2), jax.random.uniform(key, (2,), minval=-pixels, maxval=pixels))


def rotate(key: Key[Array, ""], image: Image, angle: float | Array = 0.2) -> Image:
    """The image turned about its middle by a random angle.

    Args:
        key: the key of the draw.
        image: one image.
        angle: the farthest that it is turned either way, in radians; >= 0.

    Returns:
        The turned image.

    Example:
        >>> import jax
        >>> image = jnp.zeros((5, 5)).at[2].set(1.0)
        >>> turned = rotate(jax.random.key(0), image, angle=0.2)
        >>> float(turned[2, 2]), float(turned[2, 0]) < 1
        (1.0, True)
    """
    turn = jax.random.uniform(key, minval=-angle, maxval=angle)
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    return resample(image, jnp.array([[cos, -sin], [sin, cos]]))


def zoom(key: Key[Array, ""], image: Image, factor: float | Array = 1.2) -> Image:
    """The image made larger or smaller about its middle by a random factor.

    Args:
        key: the key of the draw.
        image: one image.
        factor: the largest factor, > 0; the least is 1 / factor, and the logarithm is uniform in
            between.

    Returns:
        The image in its old shape, cut or with a frame of 0.

    Example:
        >>> import jax
        >>> zoomed = zoom(jax.random.key(1), jnp.ones((5, 5)), factor=2.0)
        >>> float(zoomed[2, 2])
        1.0
    """
    bound = jnp.log(factor)
    scale = jnp.exp(jax.random.uniform(key, minval=-bound, maxval=bound))
    return resample(image, jnp.eye(2) * scale)


def add_noise(key: Key[Array, ""], x: Array, stddev: float | Array = 0.1) -> Array:
    """`x + stddev N(0, 1)`: Gaussian noise on every number of an example of any shape.

    On the inputs of a linear model with squared error it is, in the mean, weight decay with weight
    stddev^2 (Bishop, 1995).

    Args:
        key: the key of the draw.
        x: one example.
        stddev: the standard deviation; >= 0.

    Returns:
        The noisy example.

    Source:
        Bishop (1995), "Training with noise is equivalent to Tikhonov regularization",
        doi:10.1162/neco.1995.7.1.108.

    Example:
        >>> import jax
        >>> noise = add_noise(jax.random.key(0), jnp.zeros(10_000), stddev=0.5)
        >>> float(noise.std().round(1))
        0.5
    """
    x = jnp.asarray(x)
    return x + jnp.asarray(stddev, x.dtype) * jax.random.normal(key, x.shape, x.dtype)
