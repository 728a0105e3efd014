"""What several fault tests compare with: one run that nothing disturbs, made once for all of them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fault_bench import Bench, Undisturbed, make_data


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Undisturbed]:
    """Return the undisturbed run of so many processes, from a folder into a folder; made at the first call."""
    folder = tmp_path_factory.mktemp("undisturbed")
    data = make_data(folder / "data")
    made: dict[int, Undisturbed] = {}

    def run(processes: int) -> Undisturbed:
        if processes not in made:
            bench = Bench(folder, str(data), processes=processes)
            made[processes] = Undisturbed(bench, bench.run(f"with-{processes}").succeeded())
        return made[processes]

    return run


@pytest.fixture
def like(undisturbed: Callable[[int], Undisturbed], tmp_path: Path) -> Callable[[int], Bench]:
    """Return a bench in a folder of its own whose run is the undisturbed one's."""

    def bench(processes: int) -> Bench:
        return Bench(tmp_path, undisturbed(processes).bench.data, processes=processes)

    return bench
