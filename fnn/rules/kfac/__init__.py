"""Kronecker-factored curvature: a matrix of small factors for every leaf.

rule              `kfac` and `ekfac`
step              what both do in one step
blocks            what both remember of a leaf: factors, eigenvectors, curvature
two_step_sizes    how far along the step, and how far along the one before
"""

from fnn.rules.kfac.rule import ekfac as ekfac
from fnn.rules.kfac.rule import kfac as kfac
