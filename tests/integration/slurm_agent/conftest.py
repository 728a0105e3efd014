"""Sites with the operator at work."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from agent_site import AgentSite
from control_plane import ControlPlane
from slurm_fixtures import running_slurm
from slurm_site import SiteSettings, SlurmSite


@contextmanager
def at_work(cluster: ControlPlane, namespace: str, folder: Path, slurm: SlurmSite) -> Iterator[AgentSite]:
    """Start an operator, and end it and the agents; what agents have said is shown where a test has failed."""
    with AgentSite(cluster, namespace, folder, slurm) as found:
        found.operator().wait_until_ready()
        try:
            yield found
        finally:
            for agent in found.agents:
                print(f"--- {agent.log.name}\n{agent.text()[-10_000:]}")
            found.close()


@pytest.fixture
def site(cluster: ControlPlane, namespace: str, tmp_path: Path, slurm_site: SlurmSite) -> Iterator[AgentSite]:
    """A namespace with an operator that works, and an enrolled agent that is not started."""
    with at_work(cluster, namespace, tmp_path, slurm_site) as found:
        yield found


@pytest.fixture
def own_site(cluster: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Callable[[SiteSettings], AgentSite]]:
    """Starts a SLURM site for a test that stops a part of it, or has it forget."""
    with ExitStack() as stack:

        def start(settings: SiteSettings) -> AgentSite:
            slurm = stack.enter_context(running_slurm(settings))
            return stack.enter_context(at_work(cluster, namespace, tmp_path, slurm))

        yield start
