"""From `kubectl apply` to a model: a real API server, operator, agent, SLURM and trainer as they are shipped."""

import json
from pathlib import Path

import pytest
from agent_site import SITE, AgentSite
from control_plane import ControlPlane
from slurm_site import SlurmSite

BLOOD = Path(__file__).parents[3] / "examples/blood-cells"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_applied_resource_is_trained_scored_and_exported(
    cluster: ControlPlane, namespace: str, tmp_path: Path, slurm_site: SlurmSite
):
    with AgentSite(cluster, namespace, tmp_path, slurm_site, is_real=True) as site:
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
                checkpoint={"uri": str(tmp_path / "checkpoints"), "everySteps": 2},
                export={"uri": str(tmp_path / "model")},
                evaluation={"baseline": False},
            )
            resource = site.wait_for_phase("blood", "Succeeded", within_s=600)
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
