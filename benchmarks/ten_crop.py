"""One crop or ten: what ten-crop testing gains on Fashion-MNIST, over seeds.

usage: python benchmarks/ten_crop.py [--seeds 20] [--output FILE] [--short]

A small DenseNet-BC reads 24x24 pixels. It is trained on 2,500 images of 28x28 pixels, shifted and
mirrored ("+" in Table 2), and then names 2,000 test images twice: by the crop from their middle,
and by ten as in Table 3 (`densenet_nb.evaluation.ten_crops`). Notebook 07 shows the result.

The file is written anew after each seed; the same command goes on where it stopped. It takes about
eight minutes of one processor core.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import densenet_nb._startup  # noqa: F401

import fashion_mnist
import keras
import recording

from densenet_nb import evaluation, examples, training
from densenet_nb.configurations import Configuration
from densenet_nb.recipes import Recipe

OUTPUT = recording.RESULTS / "ten_crop.json"

RECIPE = Recipe(epochs=3, batch_size=32, augmentation="shift", dropout_rate=0.0)
NETWORK = Configuration((2, 2), 12, 24, imagenet_stem=False)
SIDE = 24
TRAIN, TEST = 2_500, 2_000


def load(train: int = TRAIN, test: int = TEST) -> examples.Splits:
    """Return the first images of each part."""
    (images, labels), (test_images, test_labels) = fashion_mnist.load_arrays()
    return examples.from_arrays(
        (images[:train], labels[:train]), (test_images[:test], test_labels[:test])
    )


def run(splits: examples.Splits, seed: int) -> dict[str, Any]:
    """Train once; count the images that are named rightly by one crop and by ten."""
    keras.utils.set_random_seed(seed)
    shape = (SIDE, SIDE, *splits.train.shape[2:])
    model = RECIPE.network(NETWORK, input_shape=shape, classes=len(splits.train.classes))
    with tempfile.TemporaryDirectory() as folder:
        training.train(model, splits, RECIPE, folder, seed=seed, progress=False)
    found = {"seed": seed, "of": len(splits.test)}
    for name, ten_crop in (("one", False), ("ten", True)):
        top_1 = evaluation.evaluate(model, splits.test, ten_crop=ten_crop).top_1
        found[name] = round(top_1 * len(splits.test))
    return found


def settings() -> dict[str, Any]:
    """Return what all runs of a record share, as a file gives it back."""
    shared = {"recipe": vars(RECIPE), "network": vars(NETWORK), "side": SIDE, "images": TRAIN}
    return json.loads(json.dumps(shared))


def main() -> None:
    """Run the seeds that the record lacks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="default 20")
    parser.add_argument("--output", type=Path, help=f"default {OUTPUT.name}, none with --short")
    parser.add_argument("--short", action="store_true", help="one seed of few images: a trial")
    options = parser.parse_args()
    seeds, splits = (1, load(64, 50)) if options.short else (options.seeds, load())
    path = options.output or (None if options.short else OUTPUT)
    record = recording.resume(path, settings())
    done = {found["seed"] for found in record["runs"]}
    for seed in [seed for seed in range(seeds) if seed not in done]:
        cpu = time.process_time()
        try:
            found = run(splits, seed)
        except KeyboardInterrupt:
            sys.exit("\nStopped. The same command goes on from here." if path else "\nStopped.")
        record["runs"].append(found)
        record["cpu_seconds"] = round(record["cpu_seconds"] + time.process_time() - cpu, 1)
        if path:
            recording.save(record, path)
        print(f"seed {seed}: {found['one']} by one crop, {found['ten']} by ten, of {found['of']}")


if __name__ == "__main__":
    main()
