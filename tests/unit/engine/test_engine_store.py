"""What the watches have shown."""

from sam3ft_operator.store import Child, ChildStore, ResourceStore

A, B = ("lab", "a"), ("lab", "b")


def child_store() -> tuple[ChildStore, list[str]]:
    """Return an empty store and the list of runs of which it tells."""
    told: list[str] = []
    return ChildStore(["Job", "Pod"], changed=told.append), told


def test_a_change_is_told_and_the_same_again_is_not() -> None:
    store, told = child_store()
    store.put("Job", A, Child("run", 1, None))
    store.put("Job", A, Child("run", 2, None))

    assert ["run"] == told
    assert [("Job", "a", None)] == store.of_run("lab", "run")


def test_an_older_object_does_not_replace_a_newer_one() -> None:
    store, told = child_store()
    store.put("Job", A, Child("new", 5, None))
    store.put("Job", A, Child("old", 4, None))

    assert ["new"] == told
    assert [] == store.of_run("lab", "old")


def test_a_run_sees_no_child_of_another_namespace() -> None:
    store, _ = child_store()
    store.put("Job", ("elsewhere", "a"), Child("run", 1, None))

    assert [] == store.of_run("lab", "run")


def test_a_list_removes_what_it_does_not_have_and_tells_the_runs() -> None:
    store, told = child_store()
    store.put("Job", A, Child("one", 1, None))
    store.put("Job", B, Child("two", 2, None))
    told.clear()
    store.replace_all("Job", {B: Child("two", 2, None)}, version=10)

    assert ["one"] == told
    assert {"Job": 1, "Pod": 0} == store.counts()


def test_a_list_leaves_what_was_written_after_it() -> None:
    store, _ = child_store()
    store.put_own("Job", A, Child("run", 11, None))
    store.replace_all("Job", {}, version=10)

    assert [("Job", "a", None)] == store.of_run("lab", "run")


def test_a_list_beside_a_watch_brings_nothing_back_that_the_watch_has_removed() -> None:
    store, told = child_store()
    store.put("Job", A, Child("run", 5, None))
    with store.listing("Job"):
        found = {A: Child("run", 5, None), B: Child("run", 6, None)}  # as the server had them at version 10
        store.remove("Job", A, version=11)
        told.clear()
        assert 1 == store.replace_all("Job", found, version=10)

    assert (["run"], [("Job", "b", None)]) == (told, store.of_run("lab", "run"))


def test_what_was_made_anew_under_the_name_of_something_removed_is_taken_from_a_list() -> None:
    store, _ = child_store()
    store.put("Job", A, Child("run", 5, None))
    with store.listing("Job"):
        store.remove("Job", A, version=7)
        store.replace_all("Job", {A: Child("run", 8, None)}, version=10)

    assert [("Job", "a", None)] == store.of_run("lab", "run")


def test_what_was_removed_before_a_list_is_taken_from_it() -> None:
    store, _ = child_store()
    store.remove("Job", A, version=11)
    with store.listing("Job"):
        store.replace_all("Job", {A: Child("run", 5, None)}, version=12)

    assert [("Job", "a", None)] == store.of_run("lab", "run")


def test_a_list_that_is_older_than_the_last_one_is_passed_over() -> None:
    store, _ = child_store()
    store.replace_all("Job", {}, version=10)
    with store.listing("Job"):
        assert 0 == store.replace_all("Job", {A: Child("run", 5, None)}, version=9)

    assert {"Job": 0, "Pod": 0} == store.counts()


def test_an_object_is_known_at_its_own_version_alone() -> None:
    store, _ = child_store()
    store.put("Job", A, Child("run", 5, None))

    assert store.known("Job", A, 5) == Child("run", 5, None)
    assert [None, None, None] == [store.known("Job", A, 6), store.known("Job", B, 5), store.known("Pod", A, 5)]


def test_what_was_written_is_seen_at_once() -> None:
    store, told = child_store()
    store.put_own("Job", A, Child("run", 11, None))

    assert [("Job", "a", None)] == store.of_run("lab", "run")
    assert [] == told


def test_what_was_written_and_is_gone_again_does_not_come_back() -> None:
    store, _ = child_store()
    store.put("Job", A, Child("run", 11, None))
    store.remove("Job", A, version=12)
    store.put_own("Job", A, Child("run", 11, None))

    assert [] == store.of_run("lab", "run")


def test_an_event_that_comes_again_brings_nothing_back() -> None:
    store, _ = child_store()
    store.put("Pod", A, Child("run", 5, None))
    store.remove("Pod", A, version=9)
    store.put("Pod", A, Child("run", 5, None))

    assert [] == store.of_run("lab", "run")


def test_an_object_that_changes_its_run_leaves_the_old_one() -> None:
    store, told = child_store()
    store.put("Job", A, Child("old", 1, None))
    store.put("Job", A, Child("new", 2, None))

    assert [] == store.of_run("lab", "old")
    assert {"old", "new"} == set(told)


def test_an_index_of_nothing_is_not_kept() -> None:
    store, _ = child_store()
    store.put("Job", A, Child("run", 1, None))
    store.remove("Job", A, version=2)

    assert {} == store._by_run


def resource(version: int, **metadata: object) -> dict[str, object]:
    """Return a resource of a version."""
    return {
        "metadata": {"uid": "u", "name": "n", "resourceVersion": str(version), "managedFields": [1], **metadata},
        "spec": {"a": 1},
        "status": {"phase": "Running"},
    }


def test_a_resource_is_kept_without_what_nobody_reads() -> None:
    store = ResourceStore(changed=lambda _: None)
    store.put(resource(1, annotations={"a": "b"}))

    assert {
        "metadata": {"uid": "u", "name": "n", "resourceVersion": "1"},
        "spec": {"a": 1},
        "status": {"phase": "Running"},
    } == store.get("u")


def test_only_a_newer_resource_is_news() -> None:
    told: list[str] = []
    store = ResourceStore(changed=told.append)

    assert [True, False, False, True] == [store.put(resource(version)) for version in (5, 5, 4, 10)]
    assert ["u", "u"] == told


def test_a_list_forgets_what_is_gone_but_nothing_newer_than_itself() -> None:
    store = ResourceStore(changed=lambda _: None)
    store.put(resource(5))

    assert [] == store.keep_only(set(), version=4)
    assert ["u"] == store.keep_only(set(), version=5)
    assert store.get("u") is None


def test_a_resource_without_an_identity_is_passed_over() -> None:
    store = ResourceStore(changed=lambda _: None)

    assert not store.put({"metadata": {"name": "n"}})
    assert [] == store.all()
