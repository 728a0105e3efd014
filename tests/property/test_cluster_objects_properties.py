"""Whatever a resource says, as long as it is valid: its objects are well formed, restricted, and its own."""

import hashlib
import re
from typing import Any

from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from objects_bench import SETTINGS, of_kind, pods, restriction_problems, structure_problems
from spec_cases import FULL, LEAVES, SMALL, candidates, pydantic_verdict, resource, with_value

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.fields import DNS_LABEL
from sam3ft_api.spec import SAM3FineTune
from sam3ft_launch.kubernetes.plan import plan_on_cluster
from sam3ft_launch.kubernetes.render import render

GOOD = {path: [value for value in candidates(path) if not isinstance(value, bool)] for path in LEAVES}
NAMES = st.from_regex(DNS_LABEL, fullmatch=True)
UIDS = st.uuids().map(str)
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
KNOWN = SETTINGS.model_copy(update={"storage_profiles": "profiles: {a: {}, ceph: {}, aws: {}}"})


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """A valid spec that a cluster can run: a small or a full one with a few fields set to what is on their borders."""
    full = with_value(with_value(FULL["spec"], ("backend",), "kubernetes"), ("workers", "profile"), "a100")
    small = with_value(SMALL, ("checkpoint", "uri"), "s3://runs/x")
    spec = draw(st.sampled_from([full, small]))
    for path in draw(st.lists(st.sampled_from(sorted(GOOD)), max_size=4)):
        if GOOD[path]:
            changed = with_value(spec, path, draw(st.sampled_from(GOOD[path])))
            spec = spec if pydantic_verdict(resource(changed)) else changed
    return spec


@given(spec=specs(), name=NAMES, namespace=NAMES, uid=UIDS, attempt=st.integers(1, 1_000_000))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_any_valid_spec_becomes_well_formed_objects(
    spec: dict[str, Any], name: str, namespace: str, uid: str, attempt: int
):
    document = {**resource(spec), "metadata": {"name": name, "namespace": namespace}}
    finetune = SAM3FineTune.model_validate(document)
    try:
        plan = plan_on_cluster(
            finetune,
            uid=uid,
            attempt=attempt,
            nodes=finetune.spec.workers.nodes,
            excluded_nodes=(),
            settings=KNOWN,
        )
    except InvalidConfig as error:
        event(f"refused: {str(error)[:40]}")
        return
    event("rendered")
    submission = render(plan, KNOWN)

    for thing in submission.objects:
        about = thing["metadata"]
        assert [] == structure_problems(thing)
        assert re.fullmatch(DNS_LABEL, about["name"])
        assert namespace == about["namespace"]
        assert all(LABEL_VALUE.fullmatch(value) for value in about["labels"].values())
        assert [uid] == [owner["uid"] for owner in about["ownerReferences"]]
    assert of_kind(submission, "Service", "coordinator")["metadata"]["name"][0].isalpha()
    for _, about, pod in pods(submission):
        assert [] == restriction_problems(pod)
        assert uid == about["labels"]["sam3ft.dev/uid"]
        assert len({volume["name"] for volume in pod.get("volumes", ())}) == len(pod.get("volumes", ()))
    assert submission.objects == render(plan, KNOWN).objects


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[str, str]:
    """Two names, the second often made of the first in the ways in which names of objects are made."""
    one = draw(NAMES)
    digest = hashlib.sha256(one.encode()).hexdigest()[:10]
    made = [f"{one}-{word}" for word in ("1", "config", "meeting", "coordinator", digest)] + [f"run-{one}"]
    other = draw(st.one_of(NAMES, st.sampled_from(made)))
    assume(one != other and re.fullmatch(DNS_LABEL, other))
    return one, other


@given(runs=neighbours(), attempts=st.tuples(st.integers(1, 1_000_000), st.integers(1, 1_000_000)))
@settings(deadline=None)
def test_two_runs_of_a_namespace_never_meet(runs: tuple[str, str], attempts: tuple[int, int]):
    named = []
    for name, attempt in zip(runs, attempts, strict=True):
        document = resource(with_value(SMALL, ("checkpoint", "uri"), "s3://runs/x"))
        finetune = SAM3FineTune.model_validate({**document, "metadata": {"name": name}})
        plan = plan_on_cluster(finetune, uid=name, attempt=attempt, nodes=1, excluded_nodes=(), settings=SETTINGS)
        named.append({(thing["kind"], thing["metadata"]["name"]) for thing in render(plan, SETTINGS).objects})

    assert set() == named[0] & named[1]
