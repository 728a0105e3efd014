"""Turns `@pytest.mark.oracle_cases("glob", ..., key=value)` into one test per oracle case, its argument `case`.

Keyword arguments keep the cases whose JSON has that value under that key.
"""

import pytest
from oracle_cases import case_id, oracle_cases


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "oracle_cases(*globs, **settings): run once for each oracle case that matches")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("oracle_cases")
    if marker is None:
        return
    cases = [
        case
        for case in oracle_cases(*marker.args)
        if all(case.settings.get(key) == value for key, value in marker.kwargs.items())
    ]
    if not cases:
        raise FileNotFoundError(f"no oracle case matches {marker.args} {marker.kwargs}: the test could not fail")
    metafunc.parametrize("case", cases, ids=[case_id(case) for case in cases])
