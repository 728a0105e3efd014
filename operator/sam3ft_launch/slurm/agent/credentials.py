"""The agent's token: renewed by itself while the cluster can be reached, taken from its file after a new enrolment."""

import logging
from collections.abc import Callable
from pathlib import Path

from sam3ft_api.errors import InvalidConfig
from sam3ft_launch.kubernetes.api import ApiProblem
from sam3ft_launch.slurm.agent.cluster import SiteCluster, facts_of
from sam3ft_launch.slurm.agent.files import read_kubeconfig, write_kubeconfig

_log = logging.getLogger(__name__)

TOKEN_S = 24 * 3600
"""How long a token is good for: as long as the cluster may be out of reach without a new enrolment."""
RENEW_AFTER = 0.2
"""Share of a token's time after which it is renewed."""


class Credentials:
    """Keeps the agent's token young, and takes up a new one that somebody has enrolled meanwhile."""

    def __init__(
        self,
        path: Path,
        cluster: SiteCluster,
        *,
        now_s: Callable[[], float],
        renew_after: float = RENEW_AFTER,
    ) -> None:
        """Prepare.

        Args:
            path: of the kubeconfig.
            cluster: that uses the token.
            now_s: seconds since the epoch.
            renew_after: share of a token's time after which it is renewed.

        Raises:
            InvalidConfig: the file is no kubeconfig of an agent.
        """
        self._renew_after = renew_after
        self._path, self._cluster, self._now_s = path, cluster, now_s
        self._token = _token_in(path)

    @property
    def account(self) -> str:
        """Uid of the agent's account; empty where the token does not say so."""
        facts = facts_of(self._token)
        return facts.account if facts is not None else ""

    def renew(self) -> None:
        """Ask for a fresh token where a part of the present one's time is over, write it down, and use it.

        Raises:
            ApiProblem: the API server refused or did not answer; the present token stays.
            InvalidConfig: the file is no kubeconfig any more.
            OSError: the file cannot be written; the present token stays.
        """
        facts = facts_of(self._token)
        if facts is None:
            return
        if self._now_s() < facts.issued_s + self._renew_after * (facts.expires_s - facts.issued_s):
            return
        document = read_kubeconfig(self._path)
        token = self._cluster.new_token(seconds=TOKEN_S)
        document["users"][0]["user"]["token"] = token
        write_kubeconfig(self._path, document)
        self._take(token)
        _log.info("the token was renewed")

    def read_again(self) -> bool:
        """Take the token of the file where it is another one than the present; True when it is."""
        try:
            token = _token_in(self._path)
        except InvalidConfig:
            return False
        if token == self._token:
            return False
        self._take(token)
        _log.info("took up the token of a new enrolment")
        return True

    def _take(self, token: str) -> None:
        self._token = token
        self._cluster.use_token(token)


def is_refused(problem: ApiProblem) -> bool:
    """Tell whether the token has run out, or is not known any more."""
    return problem.code == 401


def _token_in(path: Path) -> str:
    return str(read_kubeconfig(path)["users"][0]["user"]["token"])
