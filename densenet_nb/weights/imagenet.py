"""ImageNet's weights, which ``keras.applications`` publishes: fetched when asked for, checked."""

import hashlib
from pathlib import Path

import densenet_nb._startup  # noqa: F401

import keras
from keras.src.backend.config import keras_home  # where `get_file` keeps its files

from densenet_nb import connection
from densenet_nb.configurations import CONFIGURATIONS, Configuration

__all__ = ["KERAS_EPSILON", "ORIGIN", "PUBLISHED", "fetch", "imagenet_file", "published"]

ORIGIN = "https://storage.googleapis.com/tensorflow/keras-applications/densenet/"
"""Where ``keras.applications`` fetches its files from."""

PUBLISHED = {
    "DenseNet121": ("9d60b8095a5708f2dcce2bca79d332c7", "30ee3e1110167f948a6b9946edeeb738"),
    "DenseNet169": ("d699b8f76981ab1b30698df4c175e90b", "b8c4d4c20dd625c148057b9ff1c1176b"),
    "DenseNet201": ("1ceb130c1ea1b78c3bf6114dbdfd8807", "c13680b51ded0fb44dff2d8f86ac8bb1"),
}
"""MD5, the only hash that is published, of each file: with the classifier, and without it."""

KERAS_EPSILON = 1.001e-5
"""Of the normalizations in ``keras.applications``, and so of ours by default."""


def imagenet_file(network: str, include_top: bool = True) -> Path:
    """Return where ``keras.applications``' file of ImageNet weights is kept, there or not.

    Parameters
    ----------
    network : {"DenseNet121", "DenseNet169", "DenseNet201"}
        Nothing is published for the others.
    include_top : bool
        Whether the file has the classifier.
    """
    if network not in PUBLISHED:
        raise ValueError(
            f"network={network!r}: keras.applications has weights for {', '.join(PUBLISHED)} and "
            "no other network."
        )
    top = "" if include_top else "_notop"
    file = f"{network.lower()}_weights_tf_dim_ordering_tf_kernels{top}.h5"
    return Path(keras_home(), "models", file)


def published(
    configuration: Configuration, include_top: bool, classes: int, channels: int, epsilon: float
) -> Path:
    """Return the file of ImageNet weights for a network, fetched if it is not there yet.

    Raises
    ------
    ValueError
        There are none for such a network.
    ConnectionError
        As in :func:`fetch`.
    """
    peers = {CONFIGURATIONS[name]: name for name in PUBLISHED}
    if configuration not in peers:
        how = f"keras.applications has them for {', '.join(PUBLISHED)} and no other network."
    elif include_top and classes != 1000:
        how = f"They have 1000 classes, not {classes}: take them with include_top=False."
    elif channels != 3:
        how = f"They take images of 3 channels, not {channels}: repeat a single channel."
    elif epsilon != KERAS_EPSILON:
        how = f"They were trained with epsilon={KERAS_EPSILON}, not {epsilon}."
    else:
        return fetch(peers[configuration], include_top)
    raise ValueError(f"weights='imagenet': {how}")


def fetch(network: str, include_top: bool = True) -> Path:
    """Return ``keras.applications``' file of ImageNet weights, fetched if it is not there yet.

    Keras keeps such files in its cache (``~/.keras/models``): what ``keras.applications`` has
    fetched before is not fetched again. Only a file with the published hash is returned.

    Parameters
    ----------
    network, include_top
        As in :func:`imagenet_file`.

    Raises
    ------
    ConnectionError
        It cannot be fetched, which is told in seconds; the message says how to do without.
    ValueError
        The file that is there is another one; it is left as it is.
    """
    path = imagenet_file(network, include_top)
    md5 = PUBLISHED[network][0 if include_top else 1]
    by_hand = f"Put {path.name}, whose MD5 is {md5} (no stronger hash is published), there: {path}"
    if path.exists():
        if _md5(path) != md5:
            raise ValueError(
                f"{path} is broken, or another file: its MD5 is {_md5(path)}. Delete it to have it "
                f"fetched again, or: {by_hand}"
            )
        return path
    url = ORIGIN + path.name
    if not connection.answers(*connection.first_host(url)):
        raise ConnectionError(
            f"no answer within {connection.SECONDS} s on the way to {url}. {by_hand}"
        )
    try:
        keras.utils.get_file(path.name, url, cache_subdir="models", file_hash=md5)
    except Exception as error:  # Keras raises nothing more special
        path.unlink(missing_ok=True)
        raise ConnectionError(f"{url} was not fetched: {error} {by_hand}") from error
    return path


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
