"""What all tests share."""

import os

import pytest


def pytest_addoption(parser):
    parser.addoption(
        "--all-notebooks",
        action="store_true",
        help="run every notebook in the browser, not two of them",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Fail what is skipped where CI=true: there, all that a test needs must be installed."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not accept: {report.longrepr[2]}"
    return report
