"""The networks that are measured side by side; each is imported and built only where it is used.

A candidate is known by one name everywhere: on the command line, in the records, in the tables and
in the figures.
"""

import os
import tempfile
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from recording import cores

if TYPE_CHECKING:
    from densenet_nb.configurations import Configuration

if find_spec("tensorflow") is None:  # Keras would ask for it; a user's choice stays
    os.environ.setdefault("KERAS_BACKEND", "jax")


class Candidate(NamedTuple):
    """What a candidate needs, and which measurements it can take part in.

    Attributes
    ----------
    engine : str
        Name of the part of this module that runs it: ``"keras"``, ``"torch"``, ``"onnx"`` or
        ``"openvino"``.
    packages : tuple of str
        Import names of what must be installed.
    measured : tuple of str
        Of ``"training"``, ``"fit"`` and ``"inference"``.
    """

    engine: str
    packages: tuple[str, ...]
    measured: tuple[str, ...]


KERAS_APPLICATIONS = "keras.applications"
TEXTBOOK = "stock Keras layers"
OURS = "densenet_nb"
OURS_MEMORY_EFFICIENT = "densenet_nb, memory-efficient"
OURS_FROZEN = "densenet_nb, frozen"
OURS_IN_ONNX_RUNTIME = "densenet_nb, in ONNX Runtime"
OURS_IN_OPENVINO = "densenet_nb, in OpenVINO"
TORCHVISION_MEMORY_EFFICIENT = "torchvision, memory-efficient"

CANDIDATES = {
    KERAS_APPLICATIONS: Candidate("keras", (), ("training", "fit", "inference")),
    "keras-hub": Candidate("keras", ("keras_hub",), ("training", "inference")),
    TEXTBOOK: Candidate("keras", (), ("training", "fit", "inference")),
    OURS: Candidate("keras", (), ("training", "fit", "inference")),
    OURS_MEMORY_EFFICIENT: Candidate("keras", (), ("training",)),
    OURS_FROZEN: Candidate("keras", (), ("inference",)),
    "torchvision": Candidate("torch", ("torch", "torchvision"), ("training", "inference")),
    TORCHVISION_MEMORY_EFFICIENT: Candidate("torch", ("torch", "torchvision"), ("training",)),
    "ONNX Runtime": Candidate(
        "onnx", ("torch", "torchvision", "onnx", "onnxruntime"), ("inference",)
    ),
    "OpenVINO": Candidate("openvino", ("torch", "torchvision", "onnx", "openvino"), ("inference",)),
    OURS_IN_ONNX_RUNTIME: Candidate("onnx", ("tf2onnx", "onnxruntime"), ("inference",)),
    OURS_IN_OPENVINO: Candidate("openvino", ("tf2onnx", "openvino"), ("inference",)),
}
"""Ours is plain unless the name says otherwise. ONNX Runtime and OpenVINO run torchvision's
exported graph where the name does not say that it is ours."""


class Workload(NamedTuple):
    """What to build and on what to run it.

    Attributes
    ----------
    candidate : str
        A key of `CANDIDATES`.
    network : str
        A key of `densenet_nb.configurations.CONFIGURATIONS`, or ``"L=40"`` for the paper's network
        of that depth for small images with k = 12, ``"L=100-BC"`` for the one with bottlenecks and
        compression.
    side, batch : int
        Height and width of the images in pixels; images in a step or call.
    precision : str
        Keras's dtype policy.
    jit : bool
        Whether XLA compiles the step or call.
    gpu : bool
        Whether PyTorch runs on the GPU, where Keras runs by itself.
    """

    candidate: str
    network: str = "DenseNet121"
    side: int = 224
    batch: int = 32
    precision: str = "float32"
    jit: bool = False
    gpu: bool = False


def missing_packages(candidate: str) -> list[str]:
    """Return the packages that `candidate` needs and that are not installed."""
    return [name for name in CANDIDATES[candidate].packages if find_spec(name) is None]


def configuration(network: str) -> "Configuration":
    """Return the configuration of ``Workload.network``."""
    from densenet_nb.configurations import CONFIGURATIONS, cifar

    if network.startswith("L="):
        depth, _, kind = network[2:].partition("-")
        return cifar(int(depth), growth_rate=12, bottleneck=kind == "BC")
    return CONFIGURATIONS[network]


def classes(network: str) -> int:
    """Return how many classes the network tells apart: ImageNet's or CIFAR-10's."""
    return 1000 if configuration(network).imagenet_stem else 10


def data(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Return random images (batch, side, side, 3) in float32 and labels (batch,)."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(workload.batch, workload.side, workload.side, 3)).astype("float32")
    return images, rng.integers(0, classes(workload.network), size=workload.batch)


def keras_model(workload: Workload) -> Any:
    """Build a candidate in Keras; its outputs are logits, (batch, classes)."""
    import densenet_nb._startup  # noqa: F401

    import keras

    from densenet_nb import models, textbook

    keras.config.set_dtype_policy(workload.precision)
    keras.utils.set_random_seed(0)
    network, shape = configuration(workload.network), (workload.side, workload.side, 3)
    options = {"classes": classes(workload.network), "classifier_activation": None}
    if workload.candidate == KERAS_APPLICATIONS:
        build = getattr(keras.applications, workload.network)
        return build(weights=None, input_shape=shape, **options)
    if workload.candidate == "keras-hub":
        import keras_hub

        backbone = keras_hub.models.DenseNetBackbone(
            network.blocks, shape, network.compression, network.growth_rate
        )
        return _with_classifier(backbone, workload.network)
    if workload.candidate == TEXTBOOK:
        return _with_classifier(
            textbook.DenseNet(network, shape, include_top=False), workload.network
        )
    if workload.candidate == OURS_MEMORY_EFFICIENT:
        options["memory_efficient"] = True
    return models.from_configuration(network, input_shape=shape, **options)


def _with_classifier(trunk: Any, network: str) -> Any:
    """End a network that has no head as the others end."""
    import keras

    x = keras.layers.GlobalAveragePooling2D()(trunk.output)
    x = keras.layers.Dense(classes(network))(x)
    return keras.Model(trunk.input, keras.layers.Activation("linear", dtype="float32")(x))


def _compiled(workload: Workload, **options: Any) -> Any:
    model = keras_model(workload)

    import keras

    from densenet_nb.optimizer import NesterovSGD

    optimizer = keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True)
    if workload.candidate in (OURS, OURS_MEMORY_EFFICIENT):
        optimizer = NesterovSGD(0.01, momentum=0.9, weight_decay=None)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **options)
    return model


def keras_training(workload: Workload) -> Callable[[], Any]:
    """Return a training step on one batch; the optimizer's slots are made, nothing is traced."""
    model = _compiled(workload, jit_compile=workload.jit)

    import keras

    model.optimizer.build(model.trainable_variables)
    images, labels = map(keras.ops.convert_to_tensor, data(workload))
    return lambda: model.train_on_batch(images, labels)


def keras_fit(workload: Workload) -> Callable[[], Any]:
    """Return ``fit`` on a data set of one batch, right after ``compile``, as users call it.

    Where there is a GPU, Keras then has XLA compile the step of the peers, not of ours.
    """
    model = _compiled(workload)

    import tensorflow as tf

    batches = tf.data.Dataset.from_tensors(data(workload))
    return lambda: model.fit(batches, shuffle=False, verbose=0)


def look_trained(vectors: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Return random values between ½ and 3/2 for the vectors of batch normalization.

    A fresh network's zeros and ones are not what is used: TensorFlow drops an addition of zeros,
    and with it the fused form of convolution, bias and ReLU.
    """
    rng = np.random.default_rng(1)
    return [rng.uniform(0.5, 1.5, vector.shape).astype("float32") for vector in vectors]


def _looks_trained(workload: Workload) -> Any:
    model = keras_model(workload)
    vectors = [weight for weight in model.weights if len(weight.shape) == 1]
    for weight, value in zip(vectors, look_trained(vectors), strict=True):
        weight.assign(value)
    return model


def keras_inference(workload: Workload) -> Callable[[], Any]:
    """Return a call in inference mode, traced once."""
    model = _looks_trained(workload)

    import tensorflow as tf

    if workload.candidate == OURS_FROZEN:
        from densenet_nb import inference

        predict = inference.freeze(model)
    else:

        def predict(images: tf.Tensor) -> tf.Tensor:
            return model(images, training=False)

    function = tf.function(predict, autograph=False, jit_compile=workload.jit)
    images = tf.constant(data(workload)[0])
    return lambda: function(images).numpy()


def torch_model(workload: Workload) -> Any:
    """Build torchvision's network in channels_last, on all cores."""
    import torch
    import torchvision

    torch.set_num_threads(cores())
    torch.manual_seed(0)
    build = getattr(torchvision.models, workload.network.lower())
    model = build(
        num_classes=classes(workload.network),
        memory_efficient=workload.candidate == TORCHVISION_MEMORY_EFFICIENT,
    )
    vectors = [tensor for tensor in model.state_dict().values() if tensor.ndim == 1]
    for tensor, value in zip(vectors, look_trained(vectors), strict=True):
        tensor.copy_(torch.from_numpy(value))
    return model.to(torch_device(workload), memory_format=torch.channels_last)


def torch_device(workload: Workload) -> str:
    """Return where PyTorch runs; on a GPU it chooses convolutions by trying, as TensorFlow does."""
    import torch

    torch.backends.cudnn.benchmark = workload.gpu
    torch.backends.cuda.matmul.allow_tf32 = workload.gpu  # convolutions have TF32 by default
    return "cuda" if workload.gpu else "cpu"


def torch_images(workload: Workload) -> Any:
    """Return the images as (batch, 3, side, side), in channels_last memory."""
    import torch

    images = torch.from_numpy(data(workload)[0]).to(torch_device(workload))
    return images.permute(0, 3, 1, 2)  # a view: the memory stays as it is


def torch_training(workload: Workload) -> Callable[[], Any]:
    """Return a training step on one batch; PyTorch makes the optimizer's slots in the first."""
    import torch

    model = torch_model(workload).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    images = torch_images(workload)
    labels = torch.from_numpy(data(workload)[1]).to(images.device)
    half = workload.precision == "mixed_bfloat16"

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def torch_inference(workload: Workload) -> Callable[[], Any]:
    """Return a call in inference mode."""
    import torch

    model, images = torch_model(workload).eval(), torch_images(workload)

    def predict() -> np.ndarray:
        with torch.inference_mode():
            return model(images).numpy()

    return predict


def exported(workload: Workload, path: Path) -> np.ndarray:
    """Write the ONNX graph of our network or torchvision's; return the images as it takes them."""
    if workload.candidate in (OURS_IN_ONNX_RUNTIME, OURS_IN_OPENVINO):
        model = _looks_trained(workload)

        from densenet_nb import inference

        inference.freeze(model).export(path)
        return data(workload)[0]

    import torch

    images = torch_images(workload).contiguous()  # (batch, 3, side, side)
    torch.onnx.export(torch_model(workload).eval(), (images,), path, dynamo=False)
    return images.numpy()


def onnx_inference(workload: Workload) -> Callable[[], Any]:
    """Return a call of ONNX Runtime on an exported graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        images = exported(workload, path)
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: images}
    return lambda: session.run(None, inputs)


def openvino_inference(workload: Workload) -> Callable[[], Any]:
    """Return a call of OpenVINO on an exported graph, which is told the size of the batch.

    (torchvision's is exported for it. OpenVINO is slower where it has to ask for sizes.)
    """
    import openvino

    options = {"INFERENCE_NUM_THREADS": cores(), "INFERENCE_PRECISION_HINT": "f32"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        images = exported(workload, path)
        model = openvino.Core().read_model(path)
        model.reshape(images.shape)
        compiled = openvino.Core().compile_model(model, "CPU", options)
    return lambda: compiled([images])[0]


def prepare(what: str, workload: Workload) -> Callable[[], Any]:
    """Return the function, all but called, whose calls are measured.

    Parameters
    ----------
    what : str
        ``"training"``: a step on a constant batch. ``"fit"``: Keras's ``fit`` of one step.
        ``"inference"``: a call on a constant batch.
    workload : Workload
        What to build.
    """
    return globals()[f"{CANDIDATES[workload.candidate].engine}_{what}"](workload)
