"""Turns `@pytest.mark.oracle_cases("glob", ...)` into one test per oracle case, passed as the argument `case`."""

import pytest
from oracle_cases import case_id, oracle_cases


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "oracle_cases(*globs): run once for each oracle case that matches")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("oracle_cases")
    if marker is None:
        return
    cases = oracle_cases(*marker.args)
    if not cases:
        raise FileNotFoundError(f"no oracle case matches {marker.args}: a test without cases cannot fail")
    metafunc.parametrize("case", cases, ids=[case_id(case) for case in cases])
