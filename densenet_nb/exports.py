"""Files of a predictor's graph for other runtimes: ONNX, and TensorFlow Lite (LiteRT)."""

import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import densenet_nb._startup  # noqa: F401

import numpy as np
import tensorflow as tf

__all__ = ["writer"]

OPSET = 17
"""The version of ONNX's operations. (From 18 on tf2onnx leaves global pooling unmerged.)"""

LARGEST = float(np.finfo("float16").max)


def writer(path: str | os.PathLike, precision: str) -> Callable[[Any, str, Any], None]:
    """Return what writes such a file: called with a graph, the path and examples for int8.

    The graph is a ``tf.function`` with an input signature, ``images -> {"predictions": …}``, all of
    whose weights are constants.

    Raises
    ------
    ValueError
        No such file can be written.
    """
    suffix = Path(path).suffix
    if suffix not in WRITERS:
        raise ValueError(f"path={os.fspath(path)!r}: must end with {' or '.join(WRITERS)}.")
    writers = WRITERS[suffix]
    if precision not in writers:
        raise ValueError(
            f"precision={precision!r}: a {suffix} file is written in {' or '.join(writers)}."
        )
    return writers[precision]


def _onnx(graph: Any, path: str, _: None) -> None:
    _save_onnx(_converted(graph), path)


def _onnx_float16(graph: Any, path: str, _: None) -> None:
    model = _converted(graph)
    _halve(model.graph)
    _save_onnx(model, path)


def _save_onnx(model: Any, path: str) -> None:
    import onnx

    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _converted(graph: Any) -> Any:
    """Return the graph as an ONNX model."""
    converted, _ = _require_onnx().convert.from_function(
        graph, input_signature=graph.input_signature, opset=OPSET
    )
    made = converted.graph
    del made.value_info[:]  # shapes of intermediate maps, in terms of unnamed axes
    _name_axes(made.input[0], ("batch", "height", "width"))
    _name_axes(made.output[0], ("batch", "output_height", "output_width"))
    _pad_while_pooling(made)
    return converted


def _require_onnx() -> Any:
    try:
        import tf2onnx
        from keras.src.export.tf2onnx_lib import patch_tf2onnx
    except ImportError as error:
        raise ImportError(
            f"export needs the package {error.name!r}: pip install densenet_nb[onnx]",
            name=error.name,
        ) from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"In the future `np\.object`", FutureWarning)
        patch_tf2onnx()  # tf2onnx does not know NumPy 2
    return tf2onnx


def _name_axes(value: Any, names: tuple[str, ...]) -> None:
    """Give the axes of an ONNX input or output that have no size a name."""
    for axis, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
        if axis.dim_value == 0:
            axis.dim_param = name


def _pad_while_pooling(graph: Any) -> None:
    """Let maximum pooling pad by itself what comes from a ReLU: there ONNX's −∞ is as good as 0.

    ONNX Runtime has pooling, but no padding, in the layout of its convolutions.
    """
    from onnx import helper

    made = {name: node for node in graph.node for name in node.output}
    reads = Counter(name for node in graph.node for name in node.input)
    for pool in [node for node in graph.node if node.op_type == "MaxPool"]:
        pad = made.get(pool.input[0])
        relu = made.get(pad.input[0]) if pad is not None else None
        if relu is None or (pad.op_type, relu.op_type, reads[pad.output[0]]) != ("Pad", "Relu", 1):
            continue
        options = {each.name: helper.get_attribute_value(each) for each in pool.attribute}
        around = _zeros_around(pad, graph.initializer)
        bare = not any(options.get("pads", ())) and options.get("auto_pad", b"VALID") == b"VALID"
        if bare and around and max(around) < min(options["kernel_shape"]):  # as ONNX has it
            options = options | {"pads": around, "auto_pad": "NOTSET"}
            pooled = helper.make_node("MaxPool", pad.input[:1], pool.output, pool.name, **options)
            graph.node.insert(list(graph.node).index(pool), pooled)
            graph.node.remove(pad)
            graph.node.remove(pool)
    read = {name for node in graph.node for name in node.input}
    for weight in [each for each in graph.initializer if each.name not in read]:
        graph.initializer.remove(weight)


def _zeros_around(pad: Any, weights: Any) -> list[int] | None:
    """Return how many zeros stand before and after height and width, if nothing else is padded."""
    from onnx import numpy_helper

    constants = {each.name: numpy_helper.to_array(each) for each in weights}
    _, *values = [constants.get(name) for name in pad.input]
    if pad.attribute or any(value is None for value in values):  # a mode; sizes known later only
        return None
    pads, *filled = values
    (*others, top, left), (*more, bottom, right) = np.split(pads, 2)
    if len(pads) != 8 or any([*others, *more]) or any(filled):
        return None
    return [int(size) for size in (top, left, bottom, right)]


def _halve(graph: Any) -> None:
    """Turn float32 into float16 everywhere but in the input and the output."""
    from onnx import TensorProto, helper, numpy_helper

    for weight in graph.initializer:
        if weight.data_type == TensorProto.FLOAT:
            value = np.clip(numpy_helper.to_array(weight), -LARGEST, LARGEST).astype("float16")
            weight.CopyFrom(numpy_helper.from_array(value, weight.name))
    for node in graph.node:
        for attribute in node.attribute:
            if (node.op_type, attribute.name, attribute.i) == ("Cast", "to", TensorProto.FLOAT):
                attribute.i = TensorProto.FLOAT16
    (images,), (predictions,) = graph.input, graph.output
    casts = {}
    for value, at in ((images, 0), (predictions, len(graph.node) + 1)):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            casts[value.name] = at
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{name}_float16" if name in casts else name for name in names]
    for name, at in casts.items():
        ends = [name, f"{name}_float16"][:: 1 if at == 0 else -1]
        to = TensorProto.FLOAT16 if at == 0 else TensorProto.FLOAT
        graph.node.insert(at, helper.make_node("Cast", ends[:1], ends[1:], to=to))


def _tflite(graph: Any, path: str, _: None) -> None:
    _save_tflite(graph, path)


def _tflite_int8(graph: Any, path: str, examples: Any) -> None:
    (images,) = graph.input_signature
    size = images.shape[0] or 1
    batches = [examples[end - size : end] for end in range(size, len(examples) + 1, size)]
    if not batches:
        raise ValueError(
            f"examples: {len(examples)} images; int8 needs {size} at least, for a batch of "
            f"{size}, and better some hundred."
        )
    _save_tflite(
        graph,
        path,
        optimizations=[tf.lite.Optimize.DEFAULT],
        representative_dataset=lambda: ([batch] for batch in batches),
        target_spec=tf.lite.TargetSpec([tf.lite.OpsSet.TFLITE_BUILTINS_INT8]),
    )


def _save_tflite(graph: Any, path: str, **options: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:  # of the converter's sources it alone has names
        tf.saved_model.save(tf.Module(), folder, signatures=graph)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        for name, value in options.items():
            setattr(converter, name, value)
        with warnings.catch_warnings():
            # Images and predictions stay in float32, as they shall.
            warnings.filterwarnings("ignore", "Statistics for quantized inputs", UserWarning)
            written = converter.convert()
    Path(path).write_bytes(written)


WRITERS = {
    ".onnx": {"float32": _onnx, "float16": _onnx_float16},
    ".tflite": {"float32": _tflite, "int8": _tflite_int8},
}
"""What writes a file, by its suffix and its precision."""
