"""Figures of soak land in one table, whatever else the file holds."""

import datetime as dt
from pathlib import Path

from sam3ft_faults.record import HEADING, TABLE, Figures, figures_file, this_machine

NOW = dt.datetime(2026, 3, 1, 12, 5, tzinfo=dt.UTC)


def test_cases_of_a_figure_become_one_row_with_sums_and_seeds(tmp_path: Path):
    figures = Figures(tmp_path / "benchmarks.md")
    figures.add("simulated schedules", seed=5, kills=3, missed_images=0)
    figures.add("simulated schedules", seed=6, kills=4, missed_images=0)
    figures.add("nodes", seed=2, kills=1)

    rows = figures.write(now=NOW, machine="2 cores")

    assert [
        "| 2026-03-01 12:05 | simulated schedules | 5 .. 6 | 2 cases, 7 kills, 0 missed images | 2 cores |",
        "| 2026-03-01 12:05 | nodes | 2 | 1 cases, 1 kills | 2 cores |",
    ] == rows
    assert [HEADING, "", *TABLE, *rows] == (tmp_path / "benchmarks.md").read_text().splitlines()


def test_seconds_are_written_to_a_tenth(tmp_path: Path):
    figures = Figures(tmp_path / "benchmarks.md")
    figures.add("a way back", seed="none", steps_done_again=0, **{"s until it runs": 1.44})

    (row,) = figures.write(now=NOW, machine="m")

    assert "| 1 cases, 0 steps done again, 1.4 s until it runs |" in row


def test_rows_are_put_behind_the_last_one_and_the_rest_stays(tmp_path: Path):
    file = tmp_path / "benchmarks.md"
    file.write_text("\n".join(["# Figures", "", HEADING, "", "Words.", "", *TABLE, "| old |", "", "## Last", "", "x"]))
    figures = Figures(file)
    figures.add("a", seed=1)

    (row,) = figures.write(now=NOW, machine="m")

    expected = ["# Figures", "", HEADING, "", "Words.", "", *TABLE, "| old |", row, "", "## Last", "", "x"]
    assert expected == file.read_text().splitlines()
    assert [file] == list(tmp_path.iterdir())


def test_without_figures_nothing_is_touched(tmp_path: Path):
    assert [] == Figures(tmp_path / "benchmarks.md").write(now=NOW, machine="m")
    assert [] == list(tmp_path.iterdir())


def test_the_environment_may_name_another_file_and_the_machine_goes_without_a_name():
    assert Path("/a.md") == figures_file(Path("/b.md"), {"SAM3FT_FIGURES_FILE": "/a.md"})
    assert Path("/b.md") == figures_file(Path("/b.md"), {})
    assert "cores" in this_machine()
    assert "GiB" in this_machine()
