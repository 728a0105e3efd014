"""What all tests stand on."""

import signal

pytest_plugins = ["component_fixtures"]


def pytest_configure() -> None:
    """Let Ctrl-C reach the programs under test, also when the suite was started in the background.

    A shell starts background jobs with SIGINT ignored, children inherit that, and programs rightly honour it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
