"""What happens inside a network: measured on it as it is, or counted on its graph. Arrays come out.

Nothing here trains a network or leaves its weights changed; what runs it in training mode says so.

`step`
    One training step: gradients of each convolution, and what is kept for the backward pass.
`features`
    What a linear classifier can tell from each layer's features.
`reuse`
    How much each layer of a dense block weighs each earlier one (the paper's Figure 5).
`boundary`
    Where two classes meet in the plane, and how smoothly.
`landscape`
    The loss around the weights (arXiv 1712.09913).
`explanations`
    Which pixels an answer hangs on: Grad-CAM, integrated gradients, guided backpropagation.
"""

from densenet_nb.probes.boundary import Boundary, decision_boundary
from densenet_nb.probes.explanations import (
    grad_cam,
    guided_backpropagation,
    integrated_gradients,
)
from densenet_nb.probes.features import layer_names, linear_probes, pooled_features
from densenet_nb.probes.landscape import loss_surface
from densenet_nb.probes.reuse import Reuse, feature_reuse
from densenet_nb.probes.step import gradient_norms, kept_bytes, kept_tensors

__all__ = [
    "integrated_gradients",
    "guided_backpropagation",
    "grad_cam",
    "Boundary",
    "Reuse",
    "decision_boundary",
    "feature_reuse",
    "gradient_norms",
    "kept_bytes",
    "kept_tensors",
    "layer_names",
    "linear_probes",
    "loss_surface",
    "pooled_features",
]
