"""From `kubectl apply` to a model: a real API server, operator, agent, SLURM and trainer as they are shipped."""

import json
from pathlib import Path
from typing import Any

import pytest
from agent_site import SITE, AgentSite
from control_plane import ControlPlane
from s3_server import S3Server
from slurm_site import SlurmSite
from waiting import wait_for

from sam3ft_api.worker import ENV_STORAGE_PROFILES
from sam3ft_launch.cli.cluster.site_log import SiteLog
from sam3ft_launch.cli.trainer import ask_trainer
from sam3ft_launch.kubernetes.runs import ClusterRun, to_run

BLOOD = Path(__file__).parents[3] / "examples/blood-cells"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_applied_resource_is_trained_scored_and_exported(
    cluster: ControlPlane, namespace: str, tmp_path: Path, slurm_site: SlurmSite, s3_server: S3Server, s3_bucket: str
):
    profiles = str(s3_server.profiles_file(tmp_path / "storage.yaml"))
    store = {**s3_server.environment(), ENV_STORAGE_PROFILES: profiles}
    kept = f"s3://{s3_bucket}/blood"
    with AgentSite(cluster, namespace, tmp_path, slurm_site, is_real=True, environ=store) as site:
        site.operator().wait_until_ready()
        agent = site.agent()
        try:
            site.apply(
                "blood",
                backend="slurm",
                slurm={"site": SITE},
                model={"uri": "preset:tiny-nano"},
                data={"uri": str(BLOOD)},
                training={"maxSteps": 4, "globalBatchSize": 2, "resolution": 28},
                workers={"nodes": 2, "gpusPerNode": 0},
                checkpoint={"uri": kept, "everySteps": 2},
                export={"uri": str(tmp_path / "model")},
                evaluation={"baseline": False},
            )
            resource = site.wait_for_phase("blood", "Succeeded", within_s=600)
            log = next(site.runs.glob("*/*/work/run.log"))
            asked = SiteLog(site_run(resource), ask=lambda words: ask_trainer(words, env=store))
            wait_for("all that was said is kept", lambda: len(asked.newest(lines=10**6)) == num_lines(log), within_s=90)
        except BaseException:
            print(agent.text(), *(path.read_text() for path in site.runs.glob("*/*/work/run.log")))
            raise
        finally:
            site.close()
        status = resource["status"]
        assert ("4/4", "Succeeded") == (status["summary"]["step"], status["attempts"][-1]["reason"])
        assert 4 == status["checkpoint"]["step"]
        assert status["dataset"]["images"] > 0
        assert {"metric", "value", "step"} <= set(status["best"])
        model = json.loads((tmp_path / "model/config.json").read_text())
        assert "Sam3" in model["architectures"][0]
        assert any("ends with 0 (Succeeded)" in line for line in asked.newest(lines=20)), asked.newest(lines=20)


def site_run(resource: dict[str, Any]) -> ClusterRun:
    found = to_run(resource)
    assert found.status.slurm is not None
    return found


def num_lines(path: Path) -> int:
    return len(path.read_text().splitlines())
