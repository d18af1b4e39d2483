"""Kronecker-factored curvature: a matrix of small factors for every leaf.

rule              `kfac` and `ekfac`, whose factors come from the model's curvature
step              what both do in one step
blocks            what both remember: factors, and their eigenvectors or inverses
layout            where the matrices of a structure stand when equal ones are stacked
two_step_sizes    how far along the step, and how far along the one before
from_gradients    `shampoo` and `soap`, whose factors come from gradients alone
sides             what both know of a leaf: what its gradients are like along every axis
"""

from fnn.rules.kronecker.from_gradients import shampoo as shampoo
from fnn.rules.kronecker.from_gradients import soap as soap
from fnn.rules.kronecker.rule import ekfac as ekfac
from fnn.rules.kronecker.rule import kfac as kfac
