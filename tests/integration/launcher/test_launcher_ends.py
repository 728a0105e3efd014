"""What a launcher makes of the ends of real worker processes."""

import signal
from typing import Any

from sam3ft_api.exit_codes import ExitCode


def test_workers_that_succeed_end_the_run_with_0(site: Any):
    site.start_coordinator()
    node = site.start_node("say=hello from the worker,result=0", arguments=("--nproc", "2"))

    assert node.wait() == 0
    assert node.termination().reason == "Succeeded"
    assert [start["RANK"] for start in (*node.starts(0), *node.starts(1))] == ["0", "1"]
    assert "hello from the worker" in node.log(1)
    assert node.text().count("hello from the worker") == 1  # rank 0's output is passed on, the others' is kept


def test_exit_10_is_not_retried_and_is_the_launcher_s_code(site: Any):
    site.start_coordinator()
    node = site.start_node("result=10")

    assert node.wait() == ExitCode.INVALID_CONFIG
    assert len(node.starts()) == 1
    assert "rank 0" in node.termination().message
    assert "told 10" in node.termination().message


def test_a_device_without_memory_halves_the_micro_batch_and_goes_on(site: Any):
    site.start_coordinator()
    config = {"runtime": {"device": "cpu"}, "scratch": {"train_batch_size": 16}}
    node = site.start_node(
        "raise=CUDA out of memory. Tried to allocate 20 MiB", "mb=6,result=16", "result=0", config=config
    )

    assert node.wait() == 0
    assert [start["SAM3FT_MICRO_BATCH_MAX"] for start in node.starts()] == [None, "8", "3"]


def test_a_device_that_does_not_fit_one_image_ends_with_16(site: Any):
    site.start_coordinator()
    config = {"runtime": {"device": "cpu"}, "scratch": {"train_batch_size": 4}}
    node = site.start_node("result=16", config=config)

    assert node.wait() == ExitCode.OUT_OF_MEMORY
    assert [start["SAM3FT_MICRO_BATCH_MAX"] for start in node.starts()] == [None, "2", "1"]


def test_an_eviction_saves_and_ends_with_20(site: Any):
    site.start_coordinator()
    node = site.start_node("until-flag", arguments=("--nproc", "2"))
    node.wait_for_starts(1, rank=1)
    node.signal(signal.SIGTERM)

    assert node.wait() == ExitCode.INTERRUPTED
    assert node.termination().checkpoint_step > 0
    assert len(node.starts()) == 1


def test_a_killed_child_is_named_by_rank_with_its_traceback(site: Any):
    site.start_coordinator()
    node = site.start_node("only=1,trace,kill=9", arguments=("--nproc", "2", "--max-restarts", "0"))

    assert node.wait() == ExitCode.KILLED
    word = node.termination()
    assert word.rank == 1
    assert "rank 1" in word.message
    assert "SIGKILL" in word.message
    assert "LookupError: the cause of it all" in word.traceback
    assert "LookupError: the cause of it all" in node.text()
