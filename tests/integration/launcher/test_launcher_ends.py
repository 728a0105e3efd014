"""What a launcher makes of the ends of real worker processes."""

import signal

from launcher_site import TOKEN, Site, is_alive, wait_for

from sam3ft_api.exit_codes import ExitCode


def test_workers_that_succeed_end_the_run_with_0(site: Site):
    site.start_coordinator()
    node = site.start_node("say=hello from the worker,result=0", arguments=("--nproc", "2"))

    assert node.wait() == 0
    assert node.termination().reason == "Succeeded"
    assert [start["RANK"] for start in (*node.starts(0), *node.starts(1))] == ["0", "1"]
    assert "hello from the worker" in node.log(1)
    assert node.text().count("hello from the worker") == 1  # rank 0's output is passed on, the others' is kept


def test_exit_10_is_not_retried_and_is_the_launcher_s_code(site: Site):
    site.start_coordinator()
    node = site.start_node("result=10")

    assert node.wait() == ExitCode.INVALID_CONFIG
    assert len(node.starts()) == 1
    assert "rank 0" in node.termination().message
    assert "told 10" in node.termination().message


def test_a_device_without_memory_halves_the_micro_batch_and_goes_on(site: Site):
    site.start_coordinator()
    config = {"runtime": {"device": "cpu"}, "scratch": {"train_batch_size": 16}}
    node = site.start_node(
        "raise=CUDA out of memory. Tried to allocate 20 MiB", "mb=6,result=16", "result=0", config=config
    )

    assert node.wait() == 0
    assert [start["SAM3FT_MICRO_BATCH_MAX"] for start in node.starts()] == [None, "8", "3"]


def test_a_device_that_does_not_fit_one_image_ends_with_16(site: Site):
    site.start_coordinator()
    config = {"runtime": {"device": "cpu"}, "scratch": {"train_batch_size": 4}}
    node = site.start_node("result=16", config=config)

    assert node.wait() == ExitCode.OUT_OF_MEMORY
    assert [start["SAM3FT_MICRO_BATCH_MAX"] for start in node.starts()] == [None, "2", "1"]


def test_an_eviction_saves_and_ends_with_20(site: Site):
    site.start_coordinator()
    node = site.start_node("until-flag", arguments=("--nproc", "2"))
    node.wait_for_starts(1, local_rank=1)
    node.signal(signal.SIGTERM)

    assert node.wait() == ExitCode.INTERRUPTED
    assert node.termination().checkpoint_step > 0
    assert len(node.starts()) == 1


def test_a_killed_child_is_named_by_rank_with_its_traceback(site: Site):
    site.start_coordinator()
    node = site.start_node("only=1,trace,kill=9", arguments=("--nproc", "2", "--max-restarts", "0"))

    assert node.wait() == ExitCode.KILLED
    word = node.termination()
    assert word.rank == 1
    assert "rank 1" in word.message
    assert "SIGKILL" in word.message
    assert "KeyError: 'the cause of it all'" in word.traceback
    assert "KeyError: 'the cause of it all'" in node.text()


def test_an_internal_error_is_tried_again_after_a_pause(site: Site):
    site.start_coordinator()
    node = site.start_node("raise=once", "result=0")

    assert node.wait() == 0
    assert len(node.starts()) == 2
    assert node.termination().restarts == 1
    assert "RuntimeError: once" in node.text()


def test_a_worker_that_ignores_sigterm_is_killed_with_what_it_started(site: Site):
    site.start_coordinator()
    node = site.start_node("deaf,spawn,sleep=0.5,only=1,result=12", arguments=("--nproc", "2"))
    deaf = node.wait_for_starts(1)[0]["pid"]

    assert node.wait() == ExitCode.MODEL_UNUSABLE
    assert not is_alive(deaf)
    assert not is_alive(int((node.work / "spawned").read_text()))


def test_a_second_signal_ends_at_once_without_a_checkpoint(site: Site):
    site.start_coordinator()
    node = site.start_node("deaf,sleep=200")
    pid = node.wait_for_starts(1)[0]["pid"]
    node.signal(signal.SIGINT)
    wait_for(lambda: "once more ends at once" in node.text())
    node.signal(signal.SIGINT)

    assert node.wait(within_s=20) == ExitCode.TERMINATED
    assert not is_alive(pid)


def test_an_eviction_that_takes_too_long_is_cut_off_at_its_deadline(site: Site):
    site.start_coordinator()
    node = site.start_node("sleep=200", arguments=("--eviction-grace-s", "1"))
    node.wait_for_starts(1)
    node.signal(signal.SIGTERM)

    assert node.wait(within_s=30) == ExitCode.TERMINATED
    assert "before a checkpoint could be saved" in node.termination().message


def test_workers_on_a_cpu_get_what_makes_runs_repeat_and_never_the_token(site: Site):
    site.start_coordinator()
    node = site.start_node("result=0")

    assert node.wait() == 0
    start = node.starts()[0]
    assert (start["PYTORCH_JIT"], start["SAM3FT_TOKEN"]) == ("0", None)
    assert TOKEN not in node.text()


def test_a_worker_asks_nvml_for_devices_so_that_one_whose_driver_does_not_start_is_no_cpu_run(site: Site):
    site.start_coordinator()
    node = site.start_node("result=0")

    assert node.wait() == 0
    assert "1" == node.starts()[0]["PYTORCH_NVML_BASED_CUDA_CHECK"]
