"""A pytest plug-in: `pytest --hv-mode NAME` runs the comparison suite (mode_suite.py) on an installed mode.

Without paths on the command line it runs nothing else, wherever it is started.
"""

from __future__ import annotations

from pathlib import Path

import pytest

SUITE = Path(__file__).with_name("mode_suite.py")
OPTION = "--hv-mode"


def pytest_addoption(parser: pytest.Parser) -> None:
    """One option, in a group of its own."""
    group = parser.getgroup("hv", "modes of hv")
    group.addoption(OPTION, metavar="NAME", help="compare this mode with bare metal: results, exits, hostile guests")


def pytest_configure(config: pytest.Config) -> None:
    """Add the suite to what is collected, or make it all that is."""
    name = config.getoption(OPTION)
    if name is None:
        return
    from hv.errors import HvError
    from hv.mode import find_modes

    try:
        modes = find_modes()
    except HvError as error:
        raise pytest.UsageError(str(error)) from None
    if name not in modes:
        raise pytest.UsageError(f"no mode is called {name!r}; installed are {', '.join(modes)}")
    asked_for_paths = config.args_source is pytest.Config.ArgsSource.ARGS
    others = [path for path in config.args if path != str(SUITE)] if asked_for_paths else []
    config.args = [*others, str(SUITE)]


@pytest.fixture(scope="session")
def hv_mode(pytestconfig: pytest.Config) -> str:
    """The name that the command line gave."""
    name = pytestconfig.getoption(OPTION)
    if name is None:
        pytest.fail(f"say which mode: pytest {OPTION} NAME")
    assert isinstance(name, str)
    return name
