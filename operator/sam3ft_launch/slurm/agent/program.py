"""The agent as one object: what is made from what."""

import getpass
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sam3ft_api.errors import InvalidConfig
from sam3ft_launch.kubernetes.api import Api, ApiSettings
from sam3ft_launch.slurm.agent.agent import SiteAgent, TickResult
from sam3ft_launch.slurm.agent.attempt import Attempts
from sam3ft_launch.slurm.agent.checks import Checks
from sam3ft_launch.slurm.agent.cluster import SiteCluster
from sam3ft_launch.slurm.agent.credentials import RENEW_AFTER, Credentials
from sam3ft_launch.slurm.agent.files import read_kubeconfig
from sam3ft_launch.slurm.agent.folders import alone
from sam3ft_launch.slurm.agent.kept_logs import KeptLogs
from sam3ft_launch.slurm.agent.loop import AgentLoop
from sam3ft_launch.slurm.agent.scheduler import TickClient
from sam3ft_launch.slurm.settings import SlurmSettings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """What an agent is told.

    Attributes:
        site: name under which it is enrolled.
        settings: of the site.
        kubeconfig: that the enrolment has written.
        root: absolute folder of the run folders, shared by all nodes.
        every_s: between two ticks.
        check_command: the trainer's, without its verb.
        renew_after: share of its token's time after which the agent asks for a new one.
    """

    site: str
    settings: SlurmSettings
    kubeconfig: Path
    root: Path
    every_s: float
    check_command: Sequence[str]
    renew_after: float = RENEW_AFTER


def run_agent(
    options: AgentOptions,
    *,
    ticks: int | None = None,
    ticked: Callable[[TickResult, float], None] = lambda _result, _took_s: None,
) -> None:
    """Be the agent of a site until SIGTERM or SIGINT; jobs go on without it. For the main thread alone.

    Args:
        options: what it is told.
        ticks: look so many times, then end; None for no end.
        ticked: told of every tick and how many seconds it took.

    Raises:
        InvalidConfig: there are no credentials, or this is no login node.
        Fenced: another agent is at work in the same folder.
    """
    namespace = str(read_kubeconfig(options.kubeconfig)["contexts"][0]["context"]["namespace"])
    client = TickClient()
    client.require_programs()
    with alone(options.root):
        holder = f"{getpass.getuser()}@{socket.gethostname()}:{options.root}"
        cluster = SiteCluster(_api(options.kubeconfig), namespace=namespace, site=options.site, holder=holder)
        credentials = Credentials(options.kubeconfig, cluster, now_s=cluster.now_s, renew_after=options.renew_after)
        attempts = Attempts(client, options.settings, Checks(options.check_command), os.environ)
        logs = KeptLogs(options.check_command)
        agent = SiteAgent(cluster, client, attempts, options.root, credentials.account, logs)
        loop = AgentLoop(agent, credentials=credentials, every_s=options.every_s, ticked=ticked)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: loop.stop())
        _log.info("agent of site %s for namespace %s; runs in %s", options.site, namespace, options.root)
        loop.run(ticks=ticks)


def _api(path: Path) -> Api:
    settings = ApiSettings(kubeconfig=str(path), agent="sam3ft-slurm-agent", qps=20.0, burst=40.0, connections=4)
    try:
        return Api(settings)
    except RuntimeError as error:
        raise InvalidConfig(str(error)) from None
