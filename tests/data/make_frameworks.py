"""Record what other frameworks give for the examples of docs/semantics.md.

    pip install tensorflow-cpu torch jax onnx onnxruntime
    python make_frameworks.py frameworks.json

Each example has one element. Its results are kept as text: a number as numpy prints it, or "refused".
"""

import json
import os
import sys
from importlib.metadata import version

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import jax
import numpy as np
import onnxruntime
import tensorflow as tf
import torch
from onnx import TensorProto, helper

#: dtype, x, alpha.
EXAMPLES = [
    ("float16", -3.0, 0.2),
    ("float32", -3.0, 0.2),
    ("float32", -1e-38, 0.2),
    ("float64", -1.0, 0.2),
    ("float32", 0.0, -0.3),
    ("float16", -1.0, 0.0),
    ("float32", float("-inf"), 0.0),
    ("float32", float("nan"), 0.2),
    ("int32", -3, 0.2),
]

ONNX_TYPES = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "int32": TensorProto.INT32}


def by_onnx(x: np.ndarray, alpha: float) -> np.ndarray:
    kind = ONNX_TYPES[x.dtype.name]
    values = [helper.make_tensor_value_info(name, kind, [None]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("LeakyRelu", ["x"], ["y"], alpha=alpha)], "graph", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def by_jax(x: np.ndarray, alpha: float) -> np.ndarray:
    jax.config.update("jax_enable_x64", x.dtype == np.float64)
    return np.asarray(jax.nn.leaky_relu(jax.numpy.asarray(x), alpha))


FRAMEWORKS = {
    f"TensorFlow {tf.__version__}": lambda x, alpha: tf.nn.leaky_relu(tf.constant(x), alpha=alpha).numpy(),
    f"PyTorch {version('torch').partition('+')[0]}": lambda x, alpha: torch.nn.functional.leaky_relu(torch.from_numpy(x), alpha).numpy(),
    f"ONNX Runtime {onnxruntime.__version__}": by_onnx,
    f"JAX {jax.__version__}": by_jax,
}


def result(function: object, dtype: str, x: float, alpha: float) -> str:
    try:
        y = function(np.array([x], dtype), alpha)
    except Exception:
        return "refused"
    return f"{y.dtype.name} {y[0]!s}"


def main(out: str) -> None:
    rows = [
        {"dtype": dtype, "x": str(x), "alpha": alpha, "results": {name: result(f, dtype, x, alpha) for name, f in FRAMEWORKS.items()}}
        for dtype, x, alpha in EXAMPLES
    ]
    with open(out, "w") as file:
        json.dump(rows, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
