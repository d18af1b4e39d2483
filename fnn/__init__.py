"""fnn: neural networks that are pure functions, trained with curvature as easily as with gradients."""
