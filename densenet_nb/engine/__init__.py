"""Why it is fast: what runs instead of Keras's own operations. What DenseNet *is* stands outside.

Keras normalizes in five operations, each of which reads or writes all maps, and keeps what every
operation made for the backward pass. In here the same function is computed with less:

``backward``
    What all backward passes need: to run no earlier than they must, and to be differentiated once.
``statistics``
    Mean and variance of a map, computed once when it is made: a dense block's layers, which all
    read it, share them. The moving averages of a block move as one long vector, within XLA each
    by itself.
``formulas``
    Batch normalization in elementary operations, for what XLA compiles and where no kernel is.
``kernels``
    TensorFlow's fused batch normalization, with the statistics given or its own.
``composite``
    H, the composite function, by these kernels, keeping nothing but its input: what autodiff would
    keep costs two cheap passes to compute again.
``block``
    A dense block with its backward pass written out: by these kernels on a processor, by the
    formulas where XLA compiles the whole step.
``recomputation``
    The memory-efficient block: it keeps its maps, once, and runs its layers again in the backward
    pass.
``compiled``
    On a GPU: what stands between two convolutions as a few small functions, compiled by XLA, and
    the backward pass of a block written out.
``ways``
    Which of these serves a layer, and what the layer hands over.

Which of them serves: on TensorFlow ``block``; ``compiled`` on a GPU, unless XLA compiles all;
a layer that needs more (dropout, weights in the activation, a frozen normalization) takes
``composite``, and ``recomputation``, if memory-efficient. Float64 and JAX take Keras's operations
with the shared statistics.

Each module imports from those above it only, and nothing in here imports a layer.
"""
