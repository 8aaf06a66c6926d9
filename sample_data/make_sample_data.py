"""Train a small network on scikit-learn's digits and save its pre-activations.

Usage: python make_sample_data.py [OUTPUT_FOLDER]    (default: the folder of this script)

Requirements: numpy, scikit-learn, zarr>=3

A pre-activation is the value a layer computes *before* its activation function, so these files are
what a leaky ReLU would be given in practice. The network, with 3x3 convolutions:

    8x8 image -> conv1 (8 maps, 8x8) -> conv2 (12 maps, 6x6) -> dense1 (64) -> logits (10)
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from zarr.codecs import ZstdCodec

SEED = 0
ALPHA = 0.2  # slope of the leaky ReLU for negative values
EPOCHS = 15
BATCH = 32
LEARNING_RATE = 0.02
MOMENTUM = 0.9
# The images are not shuffled before the split. Their labels repeat about every 130 images, as if one
# writer after another filled in the same form, so a random split would put each hand on both sides.
TRAINING_IMAGES = 1437
SAVED_IMAGES = 200  # the first held-out images; a sample keeps the files small
QUANTISATION_SCALE = 1 / 1024  # a power of two, so "stored integer * scale" is exact

Floats = NDArray[np.float64]
Weights = dict[str, Floats]


def leaky_relu(z: Floats) -> Floats:
    return np.where(z >= 0, z, ALPHA * z)


def leaky_relu_slope(z: Floats) -> Floats:
    return np.where(z >= 0, 1.0, ALPHA)


def pad(x: Floats, width: int) -> Floats:
    return np.pad(x, ((0, 0), (0, 0), (width, width), (width, width)))


def convolve(x: Floats, kernels: Floats) -> Floats:
    """Cross-correlate images (n, in, y, x) with 3x3 kernels (out, in, 3, 3), without padding."""
    windows = sliding_window_view(x, (3, 3), axis=(2, 3))  # (n, in, y, x, 3, 3)
    return np.moveaxis(np.tensordot(windows, kernels, axes=([1, 4, 5], [1, 2, 3])), 3, 1)


def kernel_gradient(x: Floats, dz: Floats) -> Floats:
    windows = sliding_window_view(x, (3, 3), axis=(2, 3))
    gradient: Floats = np.tensordot(dz, windows, axes=([0, 2, 3], [0, 2, 3]))
    return gradient


def initial_weights(rng: np.random.Generator) -> Weights:
    shapes = {"conv1": (8, 1, 3, 3), "conv2": (12, 8, 3, 3), "dense1": (64, 12 * 6 * 6), "logits": (10, 64)}
    weights: Weights = {}
    for layer, shape in shapes.items():
        # He initialisation for a leaky ReLU keeps the spread of values alike from layer to layer.
        spread = np.sqrt(2 / ((1 + ALPHA**2) * np.prod(shape[1:])))
        weights[layer] = rng.normal(0, spread, shape)
        weights[layer + "_bias"] = np.zeros(shape[0])
    return weights


def pre_activations(w: Weights, images: Floats) -> dict[str, Floats]:
    conv1 = convolve(pad(images, 1), w["conv1"]) + w["conv1_bias"][:, None, None]
    conv2 = convolve(leaky_relu(conv1), w["conv2"]) + w["conv2_bias"][:, None, None]
    dense1 = leaky_relu(conv2).reshape(len(images), -1) @ w["dense1"].T + w["dense1_bias"]
    logits = leaky_relu(dense1) @ w["logits"].T + w["logits_bias"]
    return {"conv1": conv1, "conv2": conv2, "dense1": dense1, "logits": logits}


def gradients(w: Weights, images: Floats, labels: NDArray[np.int64]) -> Weights:
    """Gradient of the mean cross-entropy loss, by back-propagation."""
    z = pre_activations(w, images)
    exponentials = np.exp(z["logits"] - z["logits"].max(axis=1, keepdims=True))
    d_logits = exponentials / exponentials.sum(axis=1, keepdims=True)
    d_logits[np.arange(len(labels)), labels] -= 1
    d_logits /= len(labels)

    d_dense1 = d_logits @ w["logits"] * leaky_relu_slope(z["dense1"])
    d_conv2 = (d_dense1 @ w["dense1"]).reshape(z["conv2"].shape) * leaky_relu_slope(z["conv2"])
    # The gradient through a convolution is a convolution with the kernels flipped and in/out swapped.
    flipped = w["conv2"][:, :, ::-1, ::-1].swapaxes(0, 1)
    d_conv1 = convolve(pad(d_conv2, 2), flipped) * leaky_relu_slope(z["conv1"])
    return {
        "conv1": kernel_gradient(pad(images, 1), d_conv1),
        "conv1_bias": d_conv1.sum(axis=(0, 2, 3)),
        "conv2": kernel_gradient(leaky_relu(z["conv1"]), d_conv2),
        "conv2_bias": d_conv2.sum(axis=(0, 2, 3)),
        "dense1": d_dense1.T @ leaky_relu(z["conv2"]).reshape(len(images), -1),
        "dense1_bias": d_dense1.sum(axis=0),
        "logits": d_logits.T @ leaky_relu(z["dense1"]),
        "logits_bias": d_logits.sum(axis=0),
    }


def train(images: Floats, labels: NDArray[np.int64]) -> Weights:
    """Plain mini-batch SGD with momentum."""
    rng = np.random.default_rng(SEED)
    w = initial_weights(rng)
    velocity = {name: np.zeros_like(value) for name, value in w.items()}
    for _ in range(EPOCHS):
        order = rng.permutation(len(images))
        for start in range(0, len(images), BATCH):
            batch = order[start : start + BATCH]
            for name, gradient in gradients(w, images[batch], labels[batch]).items():
                velocity[name] = MOMENTUM * velocity[name] - LEARNING_RATE * gradient
                w[name] += velocity[name]
    return w


def write_zarr(path: Path, sample: dict[str, Floats], labels: NDArray[np.int64], accuracy: float) -> None:
    group = zarr.create_group(
        path,
        zarr_format=3,
        overwrite=True,
        attributes={
            "title": "Convolution pre-activations of a small digits network",
            "source": "scikit-learn load_digits()",
            "first_image": TRAINING_IMAGES,
            "leaky_relu_alpha": ALPHA,
            "test_accuracy": round(accuracy, 4),
        },
    )
    # The chunk sizes do not divide the shapes on purpose: the last chunks along an axis stick out.
    chunks = {"conv1": (96, 3, 8, 5), "conv2": (96, 5, 6, 4)}
    for name, chunk_shape in chunks.items():
        group.create_array(
            name,
            data=sample[name].astype(np.float32),
            chunks=chunk_shape,
            compressors=ZstdCodec(level=9),
            dimension_names=("image", "channel", "y", "x"),
            attributes={"description": f"{name} feature maps before the activation"},
        )
    group.create_array(
        "labels",
        data=labels,
        chunks=(96,),
        compressors=ZstdCodec(level=9),
        dimension_names=("image",),
        attributes={"description": "the digit each image shows"},
    )


def saved_arrays(folder: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """Read everything back, so that the printed summary is about the files themselves."""
    yield "digits_dense.npy", np.load(folder / "digits_dense.npy")
    with np.load(folder / "digits_layers.npz") as layers:
        for name in layers.files:
            yield f"digits_layers.npz {name}", layers[name]
    for name in ("conv1", "conv2", "labels"):
        array = zarr.open_array(folder / "digits_features.zarr", path=name, mode="r")
        yield f"digits_features.zarr {name}", np.asarray(array[...])


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent
    folder.mkdir(parents=True, exist_ok=True)

    digits = load_digits()
    images: Floats = digits.images[:, None] / 16  # pixels are 0 to 16; (image, channel, y, x)
    labels: NDArray[np.int64] = digits.target.astype(np.int64)

    weights = train(images[:TRAINING_IMAGES], labels[:TRAINING_IMAGES])
    z = pre_activations(weights, images)
    right = z["logits"].argmax(axis=1) == labels
    held_out = right[TRAINING_IMAGES:]
    accuracy = float(held_out.mean())
    print(f"training accuracy {right[:TRAINING_IMAGES].mean():.4f}")
    print(f"test accuracy {accuracy:.4f} ({held_out.sum()} of {held_out.size} held-out images)")

    saved = slice(TRAINING_IMAGES, TRAINING_IMAGES + SAVED_IMAGES)
    sample = {name: values[saved] for name, values in z.items()}
    np.save(folder / "digits_dense.npy", np.ascontiguousarray(z["dense1"], dtype=np.float32))
    np.savez_compressed(
        folder / "digits_layers.npz",
        conv1=np.ascontiguousarray(sample["conv1"], dtype=np.float16),
        dense1=sample["dense1"].astype(np.float32),
        logits=sample["logits"],
        quantised=np.rint(sample["dense1"] / QUANTISATION_SCALE).astype(np.int32),
    )
    write_zarr(folder / "digits_features.zarr", sample, labels[saved], accuracy)

    for name, array in saved_arrays(folder):
        print(
            f"{name:28} {array.shape!s:16} {array.dtype!s:8} min {array.min():.6g} max {array.max():.6g} negative {(array < 0).mean():.1%}"
        )


if __name__ == "__main__":
    main()
