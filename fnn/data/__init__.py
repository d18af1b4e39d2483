"""Data sets as pairs of plain arrays, and what is done to them before and while a network trains.

A data set is `Data(inputs, targets)`: NumPy arrays whose first axis counts the examples, and what
`Objective.on` takes. It unpacks, `inputs, targets = data.iris()`. The inputs of one example are a
row of numbers; an image lies in it row by row, and `inputs.reshape(-1, 8, 8, 1)` makes images with
one channel of digits. Classes are int32, counted from 0. Nothing is standardized on reading, and
nothing is fetched over a network: scikit-learn carries its sets with it, and MNIST, CIFAR-10 and
Proben1 are read from your files.

    train, validation, test = data.split(data.wine(), (0.6, 0.2, 0.2), key)
    prepare = data.standardization(train.inputs)    # fitted on training examples alone
    prepare.apply(test.inputs)                      # and applied to all

sets      what scikit-learn carries; `split`
files     MNIST and its kind, CIFAR-10, Proben1
affine    centering, scaling and whitening: fitted, applied, inverted
points    spirals and other patterns in the plane, which small networks learn
images    random shifts, rotations, zooms and noise of one image
shapes    drawn scenes of disks, squares and triangles, with masks and boxes
"""

from fnn.data.affine import Affine as Affine
from fnn.data.affine import centering as centering
from fnn.data.affine import cholesky_whitening as cholesky_whitening
from fnn.data.affine import min_max_scaling as min_max_scaling
from fnn.data.affine import non_negative_shift as non_negative_shift
from fnn.data.affine import pca_whitening as pca_whitening
from fnn.data.affine import standardization as standardization
from fnn.data.affine import zca_whitening as zca_whitening
from fnn.data.files import cifar10 as cifar10
from fnn.data.files import mnist as mnist
from fnn.data.files import proben1 as proben1
from fnn.data.files import read_idx as read_idx
from fnn.data.images import add_noise as add_noise
from fnn.data.images import resample as resample
from fnn.data.images import rotate as rotate
from fnn.data.images import shift as shift
from fnn.data.images import zoom as zoom
from fnn.data.points import clusters as clusters
from fnn.data.points import plane as plane
from fnn.data.points import sine as sine
from fnn.data.points import spirals as spirals
from fnn.data.points import xor as xor
from fnn.data.sets import Data as Data
from fnn.data.sets import breast_cancer as breast_cancer
from fnn.data.sets import circles as circles
from fnn.data.sets import diabetes as diabetes
from fnn.data.sets import digits as digits
from fnn.data.sets import iris as iris
from fnn.data.sets import moons as moons
from fnn.data.sets import split as split
from fnn.data.sets import wine as wine
from fnn.data.shapes import Shapes as Shapes
from fnn.data.shapes import shapes as shapes

__all__ = [
    "Affine",
    "Data",
    "Shapes",
    "add_noise",
    "breast_cancer",
    "centering",
    "cholesky_whitening",
    "cifar10",
    "circles",
    "clusters",
    "diabetes",
    "digits",
    "iris",
    "min_max_scaling",
    "mnist",
    "moons",
    "non_negative_shift",
    "pca_whitening",
    "plane",
    "proben1",
    "read_idx",
    "resample",
    "rotate",
    "shapes",
    "shift",
    "sine",
    "spirals",
    "split",
    "standardization",
    "wine",
    "xor",
    "zca_whitening",
    "zoom",
]
__dir__ = __all__.copy
