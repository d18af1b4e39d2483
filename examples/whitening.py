"""Whiten points in the plane and images of digits: rotated, scaled, and turned back again.

uv run examples/whitening.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from fnn import data, plots

PICTURE = Path(__file__).parent / "drawn" / "whitening.png"
KEPT = 1, 5, 20
EPS = 0.02


def stages(points):
    """The points centered, along their principal axes, and whitened in three ways."""
    pca = data.pca_whitening(points)
    axes = pca.forward / np.linalg.norm(pca.forward, axis=0)
    centered = data.centering(points).apply(points)
    return {
        "centered": centered,
        "rotated": centered @ axes,
        "PCA: rotated, scaled": pca.apply(points),
        "ZCA: turned back": data.zca_whitening(points).apply(points),
        "Cholesky": data.cholesky_whitening(points).apply(points),
    }


def reconstructions(images, few, kept):
    """Some images from their first principal components."""
    pca = data.pca_whitening(images)
    coordinates = pca.apply(few)
    return [pca.invert(np.where(np.arange(64) < k, coordinates, 0)) for k in kept]


def draw(points, images):
    """Above the stages in the plane, below the digits."""
    figure = plt.figure(figsize=(11, 5.2), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 1.1])
    made = stages(points)
    marked = np.argsort(points[:, 0])[30 :: len(points) // 6]  # followed by their colors
    for i, (axes, (name, rows)) in enumerate(zip(top.subplots(1, 5), made.items(), strict=True)):
        axes.plot(*rows.T, ".", color="0.75", markersize=3)
        for j, row in enumerate(rows[marked]):
            axes.plot(*row, "o", color=plots.COLORS[j], markersize=5)
        reach = 7.5 if i < 2 else 3.6
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=name)
        axes.plot([-9, 9, 0, 0, 0], [0, 0, 0, -9, 9], color="0.8", linewidth=0.6, zorder=0)
        axes.spines[:].set_visible(False)
        axes.tick_params(labelsize=7, length=2)
    few = images[:10]
    pca, zca = data.pca_whitening(images), data.zca_whitening(images, eps=EPS)
    sheets = {"digits": few, "eigenvectors": pca.forward.T[:10]}
    for k, rows in zip(KEPT, reconstructions(images, few, KEPT), strict=True):
        sheets[f"from the first {k}" if k > 1 else "from the first eigenvector"] = rows
    sheets |= {"whitened and turned back (ZCA)": zca.apply(few)}
    for axes, (name, rows) in zip(bottom.subplots(3, 2).T.flat, sheets.items(), strict=True):
        plots.features(axes, rows, (8, 8), columns=10)
        axes.set_title(name, fontsize=10, loc="left")
    return figure


def main(picture=PICTURE):
    """Draws the picture; returns the covariances of the stages and what reconstructions lose."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(400, 2)) @ [[2.5, 1.2], [0.0, 0.6]] + [3, 1]
    images = data.digits().inputs
    draw(points, images).savefig(picture, dpi=80)
    covariances = {name: np.cov(rows.T, bias=True) for name, rows in stages(points).items()}
    lost = [np.mean((rows - images) ** 2) for rows in reconstructions(images, images, KEPT)]
    for k, share in zip(KEPT, np.array(lost) / images.var(axis=0).mean(), strict=True):
        print(f"{k} of 64 components leave {share:.0%} of the variance")
    return covariances, lost


if __name__ == "__main__":
    main()
