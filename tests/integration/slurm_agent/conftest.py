"""A site with the operator at work."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_site import AgentSite
from control_plane import ControlPlane
from slurm_site import SlurmSite


@pytest.fixture
def site(cluster: ControlPlane, namespace: str, tmp_path: Path, slurm_site: SlurmSite) -> Iterator[AgentSite]:
    """A namespace with an operator that works, and an enrolled agent that is not started."""
    with AgentSite(cluster, namespace, tmp_path, slurm_site) as found:
        found.operator().wait_until_ready()
        try:
            yield found
        finally:
            for agent in found.agents:
                print(f"--- {agent.log.name}\n{agent.text()[-10_000:]}")
            found.close()
