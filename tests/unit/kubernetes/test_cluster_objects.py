"""Rules that every object of a run keeps, whatever its kind."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from objects_bench import (
    SETTINGS,
    UID,
    environment,
    finetune,
    of_kind,
    planned,
    pods,
    rendered,
    restriction_problems,
    spec_with,
    structure_problems,
    worker_pod,
)

from sam3ft_api.errors import InvalidConfig
from sam3ft_launch.kubernetes.objects.secret import PLACEHOLDER, with_key
from sam3ft_launch.kubernetes.render import PARTS, KubernetesSubmission, render
from sam3ft_launch.kubernetes.settings import ClusterSettings

EVERYTHING = finetune(
    spec_with(
        workers={"profile": "a100", "warmSpares": True, "priorityClassName": "high"},
        storage={"secretRef": "w", "dataSecretRef": "r"},
        queue={"localQueue": "gpu"},
    )
)
SUBMISSIONS = {
    "small": rendered(),
    "everything": rendered(EVERYTHING, attempt=3, excluded=("n1", "n2")),
    "longest name": rendered(finetune(name="x" * 63, namespace="n" * 63), attempt=1_000_000),
    "digits": rendered(finetune(name="3d-cells")),
    "a cluster that chooses users": rendered(settings=SETTINGS.model_copy(update={"run_as_user": None})),
}
every_submission = pytest.mark.parametrize("submission", SUBMISSIONS.values(), ids=SUBMISSIONS.keys())


@every_submission
def test_parts_hold_what_they_promise_in_the_order_of_creation(submission: KubernetesSubmission):
    kinds = {part: [thing["kind"] for thing in submission.parts[part]] for part in PARTS}

    assert {
        "preflight": ["ConfigMap", "NetworkPolicy", "Job"],
        "group": ["NetworkPolicy", "NetworkPolicy", "Secret", "Service", "Pod"],
        "workers": ["Job"],
    } == kinds
    assert [thing for part in PARTS for thing in submission.parts[part]] == list(submission.objects)


@every_submission
def test_the_published_models_know_every_key_and_type(submission: KubernetesSubmission):
    assert [] == [problem for thing in submission.objects for problem in structure_problems(thing)]


def test_the_check_of_structure_finds_unknown_keys_and_wrong_types():
    job = copy.deepcopy(of_kind(SUBMISSIONS["small"], "Job", "worker"))
    job["spec"]["parallelismm"] = 1
    job["spec"]["completions"] = "2"
    job["spec"]["template"]["spec"]["tolerations"][0]["tolerationSeconds"] = True

    assert [
        "Job.spec.completions: '2' is no int",
        "Job.spec.template.spec.tolerations[0].tolerationSeconds: True is no int",
        "Job.spec.parallelismm: unknown",
    ] == structure_problems(job)


@every_submission
def test_every_pod_is_restricted_and_gets_no_token_of_the_cluster(submission: KubernetesSubmission):
    problems = {role: restriction_problems(pod) for role, _, pod in pods(submission)}

    assert {"preflight": [], "coordinator": [], "worker": []} == problems


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda pod: pod.update(hostNetwork=True), "hostNetwork is set"),
        (lambda pod: pod.update(serviceAccountName="admin"), "serviceAccountName is set"),
        (lambda pod: pod.pop("automountServiceAccountToken"), "automountServiceAccountToken is not off"),
        (lambda pod: pod["securityContext"].update(runAsUser=0), "may run as root"),
        (lambda pod: pod["securityContext"].pop("seccompProfile"), "has no seccomp profile"),
        (lambda pod: pod["volumes"].append({"name": "x", "hostPath": {"path": "/"}}), "volume x"),
        (lambda pod: pod["containers"][0]["securityContext"].update(privileged=True), "may gain privileges"),
        (lambda pod: pod["containers"][0]["securityContext"].pop("capabilities"), "keeps capabilities"),
        (lambda pod: pod["containers"][0]["securityContext"].pop("readOnlyRootFilesystem"), "may write to its root"),
    ],
)
def test_the_check_of_restrictions_finds_what_is_not_restricted(change: Callable[[Any], object], said: str):
    pod = copy.deepcopy(worker_pod(SUBMISSIONS["everything"]))

    change(pod)

    assert said in restriction_problems(pod)


@every_submission
def test_every_object_says_whose_it_is_and_goes_with_its_resource(submission: KubernetesSubmission):
    for thing in submission.objects:
        about = thing["metadata"]
        owner = about["ownerReferences"]

        assert [("SAM3FineTune", UID, True, False)] == [
            (one["kind"], one["uid"], one["controller"], one["blockOwnerDeletion"]) for one in owner
        ]
        assert f"{about['namespace']}/{owner[0]['name']}" == about["annotations"]["sam3ft.dev/owner"]
        assert about["annotations"]["sam3ft.dev/plan-digest"]
        assert ("sam3ft", "sam3ft", UID) == (
            about["labels"]["app.kubernetes.io/managed-by"],
            about["labels"]["app.kubernetes.io/part-of"],
            about["labels"]["sam3ft.dev/uid"],
        )
        assert about["labels"]["sam3ft.dev/role"] == about["labels"]["app.kubernetes.io/component"]
        assert all(len(value) <= 63 for value in about["labels"].values())


def test_labels_tell_the_attempt_where_there_is_one_object_for_each():
    submission = SUBMISSIONS["everything"]
    labels = [(thing["kind"], thing["metadata"]["labels"]) for thing in submission.objects]
    attempts = {(kind, own["sam3ft.dev/role"]): own["sam3ft.dev/attempt"] for kind, own in labels}

    assert {("Pod", "coordinator"), ("Job", "worker")} == {key for key, attempt in attempts.items() if attempt == "3"}
    assert {"0", "3"} == set(attempts.values())
    assert "3" == of_kind(submission, "Job", "worker")["spec"]["template"]["metadata"]["labels"]["sam3ft.dev/attempt"]


@every_submission
def test_pods_of_a_job_carry_its_labels_of_identity(submission: KubernetesSubmission):
    for role in ("preflight", "worker"):
        job = of_kind(submission, "Job", role)
        inside = job["spec"]["template"]["metadata"]["labels"]

        own = {key: value for key, value in job["metadata"]["labels"].items() if not key.startswith("kueue")}
        assert own.items() <= inside.items()


def test_two_runs_of_one_name_select_nothing_of_each_other():
    one, other = rendered(), rendered(uid="another")
    selectors = [
        thing["spec"].get("selector") or thing["spec"]["podSelector"]["matchLabels"]
        for thing in one.objects
        if thing["kind"] in ("Service", "NetworkPolicy")
    ]

    assert 4 == len(selectors)
    for selector in selectors:
        hits = [role for role, about, _ in pods(other) if selector.items() <= about["labels"].items()]
        assert [] == hits
        assert any(selector.items() <= about["labels"].items() for _, about, _ in pods(one))


def test_equal_plans_render_to_equal_objects_and_nothing_is_touched():
    plan = planned(EVERYTHING)
    before = plan.model_dump_json()

    assert render(plan, SETTINGS).objects == render(plan, SETTINGS).objects
    assert (UID, 1) == render(plan, SETTINGS).key
    assert before == plan.model_dump_json()
    json.dumps(render(plan, SETTINGS).objects, allow_nan=False)


def test_a_plan_of_other_settings_is_refused():
    with pytest.raises(InvalidConfig, match="'a100' is no worker profile"):
        render(planned(EVERYTHING), ClusterSettings(operator_image="o:1"))


# --- the key of the run -----------------------------------------------------------------------------------------------


def test_the_key_is_put_where_the_placeholder_stands_and_is_shown_nowhere():
    submission = SUBMISSIONS["small"]
    secret = of_kind(submission, "Secret", "coordinator")
    key = bytes(range(32))

    made = with_key(secret, key)

    encoded = "MDAwMTAyMDMwNDA1MDYwNzA4MDkwYTBiMGMwZDBlMGYxMDExMTIxMzE0MTUxNjE3MTgxOTFhMWIxYzFkMWUxZg=="
    assert {"key": encoded} == made["data"]
    assert "stringData" not in made
    assert {"key": PLACEHOLDER} == secret["stringData"]
    assert [] == structure_problems(made)


def test_text_of_a_submission_has_no_key_even_where_one_was_put_in():
    submission = SUBMISSIONS["small"]
    group = tuple(
        with_key(thing, b"k" * 32) if thing["kind"] == "Secret" else thing for thing in submission.parts["group"]
    )

    shown = str(type(submission)(submission.uid, submission.attempt, {**submission.parts, "group": group}))

    assert str(submission) == shown
    assert "6b6b" not in shown
    assert "NmI2" not in shown


@pytest.mark.parametrize(("key", "said"), [(b"short", "5 bytes"), (b"", "0 bytes")])
def test_a_key_that_could_be_guessed_is_refused(key: bytes, said: str):
    with pytest.raises(ValueError, match=said):
        with_key(of_kind(SUBMISSIONS["small"], "Secret", "coordinator"), key)


def test_a_key_is_not_put_into_anything_else():
    made = with_key(of_kind(SUBMISSIONS["small"], "Secret", "coordinator"), b"k" * 32)

    with pytest.raises(ValueError, match="has no place for a key"):
        with_key(made, b"k" * 32)
    with pytest.raises(ValueError, match="has no place for a key"):
        with_key(of_kind(SUBMISSIONS["small"], "ConfigMap", "preflight"), b"k" * 32)


@every_submission
def test_only_those_who_meet_get_the_key(submission: KubernetesSubmission):
    holders = {role for role, _, pod in pods(submission) if "SAM3FT_RUN_KEY" in environment(pod["containers"][0])}

    assert {"coordinator", "worker"} == holders
    secret = of_kind(submission, "Secret", "coordinator")
    for _, _, pod in pods(submission):
        source = environment(pod["containers"][0]).get("SAM3FT_RUN_KEY")
        assert source in (None, {"secretKeyRef": {"name": secret["metadata"]["name"], "key": "key"}})


# --- hostile text -----------------------------------------------------------------------------------------------


def test_text_of_the_user_stays_inside_the_config_map():
    hostile = "x\"\n---\nkind: Pod\n$(POD_IP) '{{ . }}' # \u2028".replace("\n", " ")
    submission = rendered(finetune(spec_with(data={"phrases": {"cell": [hostile]}})))

    for thing in submission.objects:
        assert (thing["kind"] == "ConfigMap") == ("{{ . }}" in json.dumps(thing))


def test_variables_of_a_profile_are_taken_literally():
    found = environment(worker_pod(SUBMISSIONS["everything"])["containers"][0])

    assert "5$$(POD_IP)" == found["PRICE"]
