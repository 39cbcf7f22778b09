"""Weights of the real torchvision and timm, carried over and back: outputs compared, recorded.

``densenet_nb.weights`` is to make a network that answers as theirs does. Where torch, torchvision
and timm are installed beside this package, a few minutes::

    python benchmarks/weights_against_torch.py

writes ``densenet_nb/records/weights_against_torch.json``. Nothing is fetched: each network has
random weights, with normalizations that show in the answers. The tests hold the names of our
arrays to those recorded.
"""

import argparse
import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# isort: off
import safetensors.torch
import timm  # Torch before TensorFlow: the other way about, the process crashed
import torch
import torchvision

import densenet_nb._startup  # noqa: F401
# isort: on

import numpy as np
import recording

from densenet_nb import models, weights

SETTINGS = {
    "networks": ["DenseNet121", "DenseNet161", "DenseNet169", "DenseNet201"],
    "refused": ["densenetblur121d", "densenet264d"],
    "images": 4,
    "side": 64,
    "seed": 0,
}
"""The networks of the paper that both libraries have, and timm's that are other networks."""


def pixels() -> np.ndarray:
    """Return images of random colours and contrasts, uint8 (images, side, side, 3)."""
    rng = np.random.default_rng(SETTINGS["seed"])
    shape = SETTINGS["images"], SETTINGS["side"], SETTINGS["side"], 3
    colours = rng.uniform(0, 200, (shape[0], 1, 1, 3))
    return (colours + rng.uniform(0, 55, shape)).astype("uint8")


def digest(arrays: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all names and shapes, in order of the names."""
    lines = (f"{name} {tuple(arrays[name].shape)}\n" for name in sorted(arrays))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return ‖actual − expected‖ / ‖expected‖, both less the mean of the images."""
    spread = expected - expected.mean(axis=0)
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(spread))


def torch_network(library: str, network: str) -> Any:
    """Build a network of torchvision or timm with random weights."""
    torch.manual_seed(SETTINGS["seed"])
    if library == "timm":
        return timm.create_model(network.lower(), pretrained=False).eval()
    return getattr(torchvision.models, network.lower())(weights=None).eval()


def as_torch_sees(images: np.ndarray) -> Any:
    """Preprocess as torchvision documents it, to (images, channels, height, width)."""
    transforms = torchvision.transforms
    normalize = transforms.Normalize(weights.IMAGENET_MEAN, weights.IMAGENET_STD)
    steps = transforms.Compose([transforms.ToTensor(), normalize])
    return torch.stack([steps(image) for image in images])


def perturb(net: Any, images: Any) -> None:
    """Give normalizations weights that show: drawn γ and β, averages of a batch, somewhat off."""
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_()
            norm.momentum = 1.0
        net.train()(images)
        net.eval()
        for norm in norms:
            norm.running_mean *= torch.empty_like(norm.running_mean).uniform_(0.7, 1.3)
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.7, 1.3)


def compare(library: str, network: str) -> dict[str, Any]:
    """Carry the weights of one network over and back; return what was found."""
    images = pixels()
    theirs, seen = torch_network(library, network), as_torch_sees(images)
    perturb(theirs, seen)
    with torch.no_grad():
        expected = theirs(seen).numpy()
    state = {n: a for n, a in theirs.state_dict().items() if not n.endswith("_tracked")}

    options = {"input_shape": images.shape[1:], "classifier_activation": None}
    ours = getattr(models, network)(epsilon=1e-5, **options)
    weights.from_torch(ours, theirs.state_dict())
    found = np.array(ours(weights.preprocess(images)))
    arrays = ours.get_weights()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "theirs.safetensors")
        safetensors.torch.save_file(theirs.state_dict(), path)
        weights.from_torch(ours, path)
    from_file = all(map(np.array_equal, arrays, ours.get_weights()))

    back = torch_network(library, network)
    torch.manual_seed(1)
    perturb(back, seen)
    carried = {name: torch.tensor(array) for name, array in weights.to_torch(ours).items()}
    back.load_state_dict(carried)  # strict: it refuses what is missing or superfluous
    with torch.no_grad():
        returned = back(seen).numpy()

    keras_epsilon = getattr(models, network)(**options)
    keras_epsilon.set_weights(arrays)
    other = np.array(keras_epsilon(weights.preprocess(images)))
    return {
        "library": library,
        "network": network,
        "arrays": len(state),
        "parameters": sum(p.numel() for p in theirs.parameters()),
        "names and shapes": digest(state),
        "equal from a file": from_file,
        "difference": relative(found, expected),
        "difference after the way back": relative(returned, expected),
        "difference with keras.applications' epsilon": relative(other, expected),
    }


def refusal(network: str) -> dict[str, Any]:
    """Return what is said of a network of timm that is not the paper's."""
    try:
        weights.from_torch(
            models.DenseNet121(epsilon=1e-5, input_shape=(64, 64, 3)),
            torch_network("timm", network).state_dict(),
        )
    except ValueError as error:
        return {"library": "timm", "network": network, "refused": str(error)}
    raise AssertionError(f"{network} was taken for the paper's network.")


def main() -> None:
    """Compare all networks, then write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output", type=Path, default=recording.RESULTS / "weights_against_torch.json"
    )
    path = parser.parse_args().output
    record = recording.provenance() | {"settings": SETTINGS, "runs": []}
    for library in ("torchvision", "timm"):
        for network in SETTINGS["networks"]:
            record["runs"].append(compare(library, network))
            print(record["runs"][-1], flush=True)
    record["runs"] += [refusal(network) for network in SETTINGS["refused"]]
    recording.save(record, path)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
