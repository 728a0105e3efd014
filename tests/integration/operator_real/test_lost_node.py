"""A node that falls silent with workers on it: they are written off and replaced elsewhere, in the same attempt."""

from typing import Any

import pytest
from operator_site import OperatorProcess, Site
from waiting import wait_for

from sam3ft_launch.kubernetes import kinds

pytestmark = pytest.mark.timeout(240)


def test_workers_on_a_node_that_is_gone_are_replaced_on_another_and_the_attempt_goes_on(
    site: Site, operator: OperatorProcess
) -> None:
    uid, before = site.begin("blood")
    node = before[0]["spec"]["nodeName"]
    lost = {pod["metadata"]["name"] for pod in before if pod["spec"]["nodeName"] == node}

    def replaced() -> list[dict[str, Any]] | None:
        pods = [pod for pod in site.children(kinds.POD, uid, role="worker") if pod["metadata"]["name"] not in lost]
        running = [pod for pod in pods if pod["status"].get("phase") == "Running"]
        return running if len(running) == 2 else None

    site.plane.lose_node(node)
    try:
        after = wait_for("two workers run elsewhere", replaced, within_s=90)
        found = site.finish("blood", after)
    finally:
        site.plane.return_node(node)
    written_off = {call.name for call in site.calls() if (call.resource, call.subresource) == ("pods", "status")}

    assert lost == written_off
    assert node not in {pod["spec"]["nodeName"] for pod in after}
    assert [(1, 0)] == [(it["n"], it.get("counted", 0)) for it in found["status"]["attempts"]]
    assert 0 == found["status"].get("restarts", 0)
