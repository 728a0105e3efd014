"""An operator is replaced while a run trains: by a newer one, the older one again, none at all; the run goes on."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from builders import Builder
from e2e_site import BASES, OPERATORS, ROOT, Site, phase_of, step_of
from waiting import wait_until

from images import NOT_PUBLISHED
from sam3ft_api import names

pytestmark = [pytest.mark.soak, pytest.mark.timeout(2400)]
EARLIER = "fbf70f2c24d6b9e448518c4997df69702abecf7e"
"""The first commit whose chart could be installed; tagged `chart-first`."""
RUN = "lasting"
GONE_WITHIN_S = 60


@pytest.fixture(scope="module")
def earlier(site: Site, builder: Builder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The earlier chart, and values with both images of that commit: a release brings them together."""
    folder = tmp_path_factory.mktemp("earlier")
    archive = subprocess.run(["git", "archive", EARLIER], cwd=ROOT, capture_output=True, check=False)
    assert 0 == archive.returncode, f"the history has no {EARLIER}; fetch it: {archive.stderr.decode()}"
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
    values = {}
    for name, value, more in (("operator", "image", ()), ("trainer", "trainerImage", ("--variant", NOT_PUBLISHED))):
        words = ["build", name, "--prefix", "localhost/sam3ft-earlier", *BASES, *more]
        subprocess.run(
            [sys.executable, str(folder / "tools/images/images.py"), *words], check=True, env=builder.environ
        )
        tag = f"dev-{NOT_PUBLISHED}" if more else "dev"
        repository, _ = site.copy(builder, f"localhost/sam3ft-earlier/{name}:{tag}", name, "earlier")
        values[value] = {"repository": repository, "tag": "earlier"}
    site.story(f"the images of {EARLIER[:10]} are built and pushed")
    return folder / "charts" / "sam3ft", values


@pytest.fixture(scope="module")
def lasting(site: Site, earlier: tuple[Path, dict[str, Any]]) -> Site:
    """A run that trains under the earlier operator."""
    chart, values = earlier
    site.helm("uninstall", "sam3ft", "-n", OPERATORS, "--wait", check=False)
    site.install(chart=chart, **values)
    site.apply(RUN, steps=5000)
    site.wait(RUN, "both workers train", lambda run: step_of(run) >= 12 and len(site.pods(RUN, "worker")) == 2)
    return site


def uids(site: Site) -> set[str]:
    """Return who runs."""
    return {pod["metadata"]["uid"] for role in ("worker", "coordinator") for pod in site.pods(RUN, role)}


def test_an_upgrade_a_rollback_and_a_new_start_leave_every_pod_alone(lasting: Site) -> None:
    site, before = lasting, uids(lasting)
    assert 3 == len(before)
    changes = (
        ("upgraded", lambda: site.install("upgrade")),
        ("rolled back", lambda: site.helm("rollback", "sam3ft", "1", "-n", OPERATORS, "--wait", "--timeout", "300s")),
        ("uninstalled", lambda: site.helm("uninstall", "sam3ft", "-n", OPERATORS, "--wait")),
        ("installed again", site.install),
    )
    for what, change in changes:
        change()
        if what == "uninstalled":
            assert RUN in site.in_lab("get", "sft", "-o", "name"), "the runs are kept"
            assert "Running" == phase_of(site.run(RUN))
            time.sleep(5)
        else:
            step = site.step(RUN)
            site.wait(RUN, f"{what}: newer steps are told", lambda run, step=step: step_of(run) > step)
        assert before == uids(site), f"{what}: no pod may be made anew"
    status = site.run(RUN)["status"]

    assert (0, 1) == (status.get("restarts") or 0, len(status["attempts"]))


def test_deleting_a_run_removes_its_children_and_keeps_its_bucket(lasting: Site) -> None:
    site = lasting
    stored = site.nodes.folder / "s3" / "runs" / RUN
    before = {path for path in stored.rglob("*") if path.is_file()}
    assert before
    begun_s = time.monotonic()
    site.in_lab("delete", "sft", RUN, "--wait=false")

    def left() -> str:
        kinds = "jobs,pods,services,configmaps,secrets,networkpolicies"
        return site.in_lab("get", kinds, "-l", f"{names.LABEL_RUN}={RUN}", "-o", "name")

    wait_until(lambda: not left(), within_s=GONE_WITHIN_S)
    site.story(f"kubectl delete sft: every child of it is gone after {time.monotonic() - begun_s:.1f} s")
    commits = [path for path in before if "commits" in path.parts or path.suffix == ".json"]

    assert RUN not in site.in_lab("get", "sft", "-o", "name")
    assert [] == [path for path in commits if not path.exists()]
