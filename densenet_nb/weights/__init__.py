"""Weights in and out: those of ``keras.applications``, of torchvision and of timm; their images.

All these networks have the same arrays as ours, under other names, and Torch's with other axes. So
carrying them over is a copy, and what is computed stays the same. Files hold arrays here, never
code: HDF5 and safetensors are read, pickles are not.

The ImageNet weights are those that ``keras.applications`` publishes. All of these networks expect
the same images, which `preprocess` makes.

``parts``
    The layers with weights of a network of ours, and what the other libraries call them.
``imagenet``
    The published files, fetched when asked for.
``images``
    What a network with such weights expects.
``torch_networks``
    Weights of torchvision and timm, in and out.
``keras_files``
    Files of ``keras.applications``, in and out, and whose a file is.
"""

from densenet_nb.weights.imagenet import PUBLISHED, fetch, imagenet_file, published
from densenet_nb.weights.images import IMAGENET_MEAN, IMAGENET_STD, preprocess
from densenet_nb.weights.keras_files import (
    load_stock,
    of_stock_layers,
    require_loadable,
    to_keras_applications,
)
from densenet_nb.weights.torch_networks import from_torch, to_torch

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "PUBLISHED",
    "fetch",
    "from_torch",
    "imagenet_file",
    "load_stock",
    "of_stock_layers",
    "preprocess",
    "published",
    "require_loadable",
    "to_keras_applications",
    "to_torch",
]
