"""What notebooks and tests share when pytest runs them, from whichever folder it is started."""

import pytest
import shield

shield.shield()


def pytest_configure(config: pytest.Config) -> None:
    """Set options of plugins that may not be there, which pyproject.toml could not."""
    options = vars(config.option)
    if "nbval_current_env" in options:
        options["nbval_current_env"] = True  # the kernel of the Python that runs pytest
    if options.get("dist") == "load":
        options["dist"] = "loadfile"  # a notebook's cells stay in one kernel


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Note for --lf, --ff and --sw that a notebook failed as a whole: cells need those before."""
    cache = getattr(session.config, "cache", None)
    if cache is None or hasattr(session.config, "workerinput"):  # pytest-xdist's workers keep none
        return
    failed = cache.get("cache/lastfailed", {})
    cache.set("cache/lastfailed", {_whole(nodeid, ""): True for nodeid in failed})
    stepwise = cache.get("cache/stepwise", {})
    if stepwise.get("last_failed"):
        first = _whole(stepwise["last_failed"], "::Cell 0")
        cache.set("cache/stepwise", stepwise | {"last_failed": first})


def _whole(nodeid: str, part: str) -> str:
    """Return a cell's node id as its notebook's, with `part` added; any other id as it is."""
    notebook, cell, _ = nodeid.partition(".ipynb::")
    return f"{notebook}.ipynb{part}" if cell else nodeid
