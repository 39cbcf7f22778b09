"""What all tests share."""

import functools
import os
import sys

import hypothesis
import pytest

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
def peers():
    """Return what gives a network of ours and keras.applications', each pair built once.

    For images of 64 x 64; the output is the last feature map or logits. A test that needs weights
    sets them.
    """
    import densenet_nb._startup  # noqa: F401

    import keras

    from densenet_nb import models

    @functools.cache
    def pair(name, include_top):
        options = {"weights": None, "input_shape": (64, 64, 3), "include_top": include_top}
        if include_top:
            options["classifier_activation"] = None
        return [getattr(source, name)(**options) for source in (models, keras.applications)]

    return pair


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
