"""What all tests share."""

import os
import sys

import hypothesis
import pytest

# Equality is tested, so a GPU computes with all bits here, in the processes that tests start too.
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")

# The same examples in every run; `--hypothesis-profile=default` draws new ones. A planted fault
# need only be found, not shown in its smallest example.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")
hypothesis.settings.register_profile(
    "unshrunk", phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate]
)


def pytest_addoption(parser):
    parser.addoption(
        "--all-notebooks",
        action="store_true",
        help="run every notebook in the browser, not two of them",
    )


@pytest.fixture(scope="session")
def densenet121():
    """Return DenseNet-121 as ours and as keras.applications', of equal weights, built once.

    For images of 64 x 64; the outputs are logits. A test that needs other weights sets both, one
    that freezes thaws.
    """
    import densenet_nb._startup  # noqa: F401

    from equality import peers

    return peers("DenseNet121")


@pytest.fixture(scope="module")
def on_a_processor():
    """As on a machine without a GPU, whatever this one has."""
    import densenet_nb._startup  # noqa: F401

    import tensorflow as tf

    from densenet_nb import optimizer
    from densenet_nb.engine import compiled

    with pytest.MonkeyPatch.context() as patch, tf.device("CPU"):
        patch.setattr(optimizer, "on_gpu", lambda: False)
        patch.setattr(compiled, "on_gpu", lambda: False)
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Seed what draws without a generator of its own: each test, and the fixtures made for it."""
    if "keras" in sys.modules:  # otherwise nothing here draws
        sys.modules["keras"].utils.set_random_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Fail what is skipped where CI=true: there, all that a test needs must be installed."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not accept: {report.longrepr[2]}"
    return report
