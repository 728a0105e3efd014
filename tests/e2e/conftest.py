"""Fixtures of the tests from `helm install` on."""

from collections.abc import Iterator

import pytest
from builders import Builder
from chart_bench import Helm
from control_plane import ControlPlane
from e2e_site import Site, Story
from machine import MachineUnfit
from real_nodes import ARGUMENTS, RealNodes
from tools_here import need_tool

from components import ComponentMissing, binary


@pytest.fixture(scope="session")
def story() -> Story:
    return Story()


@pytest.fixture(scope="session")
def site(builder: Builder, story: Story, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three nodes with the trainer's image, a registry, a data set in a bucket, two namespaces; no chart yet."""
    folder = tmp_path_factory.mktemp("e2e")
    nodes = RealNodes(folder, count=3)
    try:
        with ControlPlane(folder, arguments=ARGUMENTS) as plane, nodes.of(plane):
            helm = Helm(binary("helm"), folder, kubeconfig=plane.admin_kubeconfig)
            took = ", ".join(f"{what} {took_s:.1f} s" for what, took_s in nodes.took_s.items())
            story(f"{len(nodes.nodes)} nodes are ready ({took})")
            found = Site(plane, nodes, helm, story)
            found.push(builder)
            found.upload()
            found.namespaces()
            found.pull()
            yield found
    except (ComponentMissing, MachineUnfit) as error:
        need_tool(str(error))


@pytest.fixture(scope="session")
def installed(site: Site) -> Site:
    """The same with the chart."""
    site.install()
    return site
