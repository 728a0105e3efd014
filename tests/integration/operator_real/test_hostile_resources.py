"""Resources that mean harm: the operator lives, other runs go on, and neither logs nor events say what they should not.

What is refused by the API server is shown in `tests/integration/cluster`; free-form settings it keeps as they are.
"""

import json
import ssl
import time
import unicodedata
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from operator_site import SMALL_SPEC, OperatorProcess, Site
from waiting import wait_for

from sam3ft_api import names
from sam3ft_api.spec import API_VERSION, KIND
from sam3ft_launch.kubernetes.kinds import FINETUNE

pytestmark = pytest.mark.timeout(300)
ESCAPE, BIDI = "\x1b[2J", "\u202e"
DEEP = (300, 900, 1_500, 9_000)
"""Levels: some of them Python's reader takes, others not; the API server takes all."""


def nested(levels: int) -> str:
    """Return JSON of so many levels."""
    return '{"x":' * levels + "1" + "}" * levels


HOSTILE = {
    "interpolation": json.dumps({"optim": {"lr": "${oc.env:HOME}", "betas": "${env:KUBERNETES_SERVICE_HOST}"}}),
    "target": json.dumps({"optim": {"_target_": "os.system", "_args_": ["touch /tmp/harm"]}}),
    "controls": json.dumps({f"a{ESCAPE}{BIDI}": f'b{ESCAPE}{BIDI}\r\n{{"level": "error", "message": "forged"}}'}),
    "megabyte": json.dumps({"x": "a" * 1_000_000}),
    "wide": json.dumps({f"setting_{number}": number for number in range(20_000)}),
    **{f"deep-{levels}": nested(levels) for levels in DEEP},
}


def post(site: Site, name: str, config: str) -> None:
    """Create a resource with these free-form settings; Python could not write the deepest of them."""
    spec = SMALL_SPEC | {"training": {"maxSteps": 10, "config": "@"}}
    body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}
    request = urllib.request.Request(  # noqa: S310 - an https URL of our own
        site.plane.url + FINETUNE.path(site.namespace),
        data=json.dumps(body).replace('"@"', config).encode(),
        headers={"Authorization": f"Bearer {site.plane.admin_token}", "Content-Type": "application/json"},
    )
    context = ssl.create_default_context(cafile=str(site.plane.ca_file))
    with urllib.request.urlopen(request, timeout=30, context=context) as answer:  # noqa: S310 - as above
        assert 201 == answer.status


def texts(value: Any) -> Iterator[str]:
    """Yield every text in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts(inner)


def unsafe(value: Any) -> set[str]:
    """Return the characters of all texts that could change what a reader sees."""
    return {
        char for text in texts(value) for char in text if char not in "\n\t" and unicodedata.category(char)[0] == "C"
    }


def test_hostile_settings_harm_neither_the_operator_nor_another_run(site: Site, operator: OperatorProcess) -> None:
    for name, config in HOSTILE.items():
        post(site, name, config)
    for name in HOSTILE:
        wait_for(f"{name} has a status", lambda name=name: site.resource(name).get("status", {}).get("phase"))
    begun_s = time.monotonic()
    other = site.apply("other")["metadata"]["uid"]
    site.wait_for_pods(other, role="preflight", count=1)
    took_s = time.monotonic() - begun_s
    found = {name: site.resource(name)["status"] for name in HOSTILE}
    ours = [event for event in site.events() if event.get("source", {}).get("component") == "sam3ft-operator"]
    print({name: (it["phase"], it["summary"]["message"][:80]) for name, it in found.items()}, f"{took_s:.1f} s")

    assert 200 == operator.get("/healthz")[0]
    assert took_s < 20
    assert set() == {name for name, status in found.items() if status["phase"] != "Failed"}
    assert [
        event for event in ours if event["involvedObject"]["name"] == "controls" and "no setting" in event["message"]
    ]
    assert [names.preflight_name("other")] == site.created("jobs")
    assert set() == unsafe([found, [(event["message"], event["reason"]) for event in ours]])
    assert set() == unsafe(operator.lines())
    assert [] == [line for line in operator.lines() if line.get("message") == "forged"]
    assert max(len(line) for line in operator.log.read_text().splitlines()) < 20_000


def test_a_run_made_while_the_watch_cannot_be_read_is_seen_all_the_same(site: Site, operator: OperatorProcess) -> None:
    post(site, "deep", nested(9_000))
    for number in range(2):
        begun_s = time.monotonic()
        uid = site.apply(f"other-{number}")["metadata"]["uid"]
        site.wait_for_pods(uid, role="preflight", count=1)
        assert time.monotonic() - begun_s < 20
    site.api.delete(FINETUNE, site.namespace, "deep")
    wait_for("the watch is well again", lambda: 200 == operator.get("/readyz")[0])

    assert 200 == operator.get("/healthz")[0]
