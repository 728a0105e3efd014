"""What the agent does on the cluster: lists resources, tells `status.slurm`, renews its Lease and its own token."""

import base64
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sam3ft_api import names
from sam3ft_api.spec import API_VERSION, KIND
from sam3ft_api.status import SlurmStatus
from sam3ft_launch.kubernetes.api import APPLY, Api, ApiProblem
from sam3ft_launch.kubernetes.kinds import FINETUNE, LEASE, SERVICE_ACCOUNT
from sam3ft_launch.slurm.agent.wanted import SiteRun

PAGE = 100
"""Resources a page: a page of 500 would be some MiB at once."""
LEASE_S = 60
"""Said in the Lease; the operator calls an agent silent after 90 s."""


class SiteCluster:
    """One namespace of a cluster, as the agent of one site may use it."""

    def __init__(
        self, api: Api, *, namespace: str, site: str, holder: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Prepare; nothing is asked.

        Args:
            api: with the agent's own credentials.
            namespace: of the runs.
            site: name under which the agent is enrolled.
            holder: who this is, for the Lease; the same after a new start.
            clock: monotonic seconds.
        """
        self._api, self.namespace, self.site = api, namespace, site
        self._holder, self._clock = holder, clock
        self._other: tuple[str, float] | None = None

    def now_s(self) -> float:
        """Return seconds since the epoch by the API server's clock."""
        return self._api.clock.now_s()

    def resources(self) -> list[dict[str, Any]]:
        """Return all resources of the namespace; complete, or an error.

        Raises:
            ApiProblem: a page was refused, or there was no answer.
        """
        found: list[dict[str, Any]] = []
        query: dict[str, Any] = {"limit": PAGE}
        while True:
            page = self._api.list(FINETUNE, self.namespace, query)
            if page.get("kind") != f"{KIND}List" or not isinstance(page.get("items"), list):
                # What is not in a list is gone, and its job is ended: nothing else may be taken for one.
                raise ApiProblem(0, "NoList", "the answer is no list of runs; is there a proxy in between?")
            found += page["items"]
            again = (page.get("metadata") or {}).get("continue")
            if not again:
                return found
            query = {"limit": PAGE, "continue": again}

    def tell(self, run: SiteRun, told: SlurmStatus) -> bool:
        """Apply `status.slurm` and nothing else; False when the resource is gone, or is another by now.

        Raises:
            ApiProblem: the API server refused or did not answer.
        """
        body = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": run.name, "namespace": run.namespace, "uid": run.uid},
            "status": {"slurm": told.model_dump(mode="json", by_alias=True, exclude_none=True)},
        }
        try:
            self._api.patch(
                FINETUNE,
                run.namespace,
                run.name,
                body,
                manager=names.FIELD_MANAGER_AGENT,
                subresource="status",
                content_type=APPLY,
                options={"force": "true"},
            )
        except ApiProblem as problem:
            if problem.code in (404, 409):
                return False
            raise
        return True

    def give_sign(self) -> str:
        """Renew the Lease, or take it; returns the name of another agent that has it, and empty when it is ours.

        Another's Lease has run out when it has not changed for `LEASE_S` since this process saw it, by its own clock.

        Raises:
            ApiProblem: the API server refused or did not answer.
        """
        name = names.agent_name(self.site)
        renewed = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": self._holder, "leaseDurationSeconds": LEASE_S, "renewTime": renewed}
        try:
            lease = self._api.get(LEASE, self.namespace, name)
        except ApiProblem as problem:
            if problem.code != 404:
                raise
            body = {"apiVersion": LEASE.group_version, "kind": LEASE.name, "metadata": {"name": name}, "spec": spec}
            self._api.create(LEASE, self.namespace, body, manager=names.FIELD_MANAGER_AGENT)
            return ""
        if other := self._held_by_another(lease):
            return other
        self._api.replace(LEASE, self.namespace, name, {**lease, "spec": spec}, manager=names.FIELD_MANAGER_AGENT)
        return ""

    def _held_by_another(self, lease: Mapping[str, Any]) -> str:
        holder = str((lease.get("spec") or {}).get("holderIdentity") or "")
        version = str((lease.get("metadata") or {}).get("resourceVersion"))
        if holder in ("", self._holder):
            self._other = None
            return ""
        if self._other is None or self._other[0] != version:
            self._other = (version, self._clock())
        return holder if self._clock() - self._other[1] < LEASE_S else ""

    def new_token(self, *, seconds: int) -> str:
        """Return a fresh token of the agent's own account.

        Raises:
            ApiProblem: the API server refused or did not answer.
        """
        return token_of(self._api, self.namespace, names.agent_name(self.site), seconds=seconds)

    def use_token(self, token: str) -> None:
        """Take another token from now on."""
        # The client would go back to the kubeconfig's at every request.
        self._api.configuration.refresh_api_key_hook = None
        self._api.configuration.api_key["BearerToken"] = f"Bearer {token}"


def token_of(api: Api, namespace: str, account: str, *, seconds: int) -> str:
    """Return a token of an account that is good for so many seconds, or fewer where the cluster says so.

    Raises:
        ApiProblem: the API server refused or did not answer.
    """
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": seconds},
    }
    made = api.create_in(SERVICE_ACCOUNT, namespace, account, "token", body)
    token = str((made.get("status") or {}).get("token") or "")
    if not token:
        raise ApiProblem(0, "NoToken", f"the cluster has given no token for {account}")
    return token


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """What a token says of itself.

    Attributes:
        issued_s: when it was made, seconds since the epoch.
        expires_s: when it runs out.
        account: uid of its ServiceAccount; empty where it does not say so.
    """

    issued_s: float
    expires_s: float
    account: str


def facts_of(token: str) -> TokenFacts | None:
    """Return what a token says of itself; None where it is none of a ServiceAccount's. Nothing is verified."""
    try:
        _, payload, _ = token.split(".")
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        account = claims.get("kubernetes.io", {}).get("serviceaccount", {}).get("uid", "")
        return TokenFacts(float(claims["iat"]), float(claims["exp"]), str(account))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
