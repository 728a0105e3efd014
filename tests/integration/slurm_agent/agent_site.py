"""A cluster with the operator, a SLURM site, and the agent between them: the real command, with a trainer by script."""

import os
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from control_plane import ControlPlane
from operator_site import Site
from slurm_site import SlurmSite
from waiting import wait_for

from sam3ft_api import names
from sam3ft_launch.kubernetes import kinds
from sam3ft_launch.slurm.client import SlurmClient
from sam3ft_launch.slurm.states import JobView

FAKE_TRAINER = Path(__file__).parents[2] / "assets/launch/fake_trainer"
SITE = "alps"
COMMAND = (sys.executable, "-c", "import sys; from sam3ft_launch.cli.app import main; sys.exit(main())")
DYING = (sys.executable, str(Path(__file__).with_name("dying_agent.py")))
_NAME_OF_RUN = r"""scontrol show job "$SLURM_JOB_ID" -o | sed -n 's/.*Comment=sam3ft:\([^:]*\):.*/\1/p'"""


class AgentSite(Site):
    """A namespace with the operator's account, a SLURM site, and agents; each run follows a script of its own name."""

    def __init__(
        self,
        plane: ControlPlane,
        namespace: str,
        folder: Path,
        slurm: SlurmSite,
        *,
        is_real: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Enrol the agent; nothing is started.

        Args:
            plane: the cluster.
            namespace: of the runs.
            folder: for what lies beside.
            slurm: the site.
            is_real: runs train, with the trainer as it is shipped.
            environ: more of it for the agents: by what they and their runs reach a store.
        """
        super().__init__(plane, namespace, folder)
        self.slurm, self.is_real, self.environ = slurm, is_real, dict(environ or {})
        self.patience = 5.0  # a job is six programs, and the machine may have much else to do
        self.runs, self.scripts = folder / "runs", folder / "scripts"
        self.scripts.mkdir()
        self.agent_kubeconfig = folder / "agent.yaml"
        self._settings = folder / "slurm.yaml"
        self.configure()
        self.agents: list[Agent] = []
        self.enroll()

    def configure(self, *options: str) -> None:
        """Write the site's settings, with these options of sbatch."""
        setup = [f"export PYTHONPATH={FAKE_TRAINER}", f'export SCRIPT="$(cat {self.scripts}/$({_NAME_OF_RUN}))"']
        text = f"site: {SITE}\ngpus: none\n"
        text += "" if self.is_real else f"setup:\n{_yaml(setup)}"
        text += f"options:\n{_yaml(options)}" if options else ""
        self._settings.write_text(text)

    @property
    def agent_user(self) -> str:
        """What the API server calls this site's agent."""
        return f"system:serviceaccount:{self.namespace}:{names.agent_name(SITE)}"

    def enroll(self) -> None:
        """Call the command as an administrator does."""
        words = ["slurm-agent", "enroll", "--site", SITE, "-n", self.namespace, "--to", str(self.agent_kubeconfig)]
        words += ["--kubeconfig", str(self.plane.admin_kubeconfig)]
        done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=60, check=False)
        assert (0, "") == (done.returncode, done.stderr)

    def script(self, name: str, acts: str) -> None:
        """Say what the launchers of a run do."""
        (self.scripts / name).write_text(acts)

    def refuse(self, name: str, *, is_refused: bool = True) -> None:
        """Have the check of a run's data set fail, or pass again."""
        mark = self.scripts / f"{name}.refused"
        mark.touch() if is_refused else mark.unlink()

    def submit(self, name: str, acts: str, **spec: Any) -> str:
        """Apply a run of the site that follows a script; returns its uid."""
        self.script(name, acts)
        slurm = {"site": SITE, **spec.pop("slurm", {})}
        return str(self.apply(name, backend="slurm", slurm=slurm, **spec)["metadata"]["uid"])

    def agent(self, *arguments: str, program: Sequence[str] = COMMAND) -> "Agent":
        """Start an agent that looks every second."""
        agent = Agent(self, program, arguments, number=len(self.agents))
        self.agents.append(agent)
        return agent

    def jobs(self, uid: str, attempt: int = 1) -> list[JobView]:
        """Return the jobs that SLURM knows under the name of an attempt."""
        return SlurmClient(environ=self.slurm.environ).named(names.slurm_job_name(uid, attempt))

    def wait_for_job(self, uid: str, word: str, *, attempt: int = 1) -> JobView:
        """Return the one job of an attempt once it is in a state."""

        def read() -> JobView | None:
            found = self.jobs(uid, attempt)
            return found[0] if len(found) == 1 and found[0].word == word else None

        return wait_for(
            f"the job of attempt {attempt} is {word}, not {self.jobs(uid, attempt)}",
            read,
            within_s=40.0 * self.patience,
        )

    def wait_until_deleted(self, name: str, *, within_s: float = 200.0) -> None:
        """Wait until a resource is gone."""
        wait_for(f"{name} is gone", lambda: self.get(kinds.FINETUNE, name) is None, within_s=within_s)

    def close(self) -> None:
        """Kill the agents and end their jobs."""
        for agent in self.agents:
            agent.kill()
        self.slurm.ask(["scancel", "--me"], check=False)


class Agent:
    """One running agent."""

    def __init__(self, site: AgentSite, program: Sequence[str], arguments: Sequence[str], *, number: int) -> None:
        """Start it; it is not waited for."""
        self.log = site.folder / f"agent-{number}-{uuid.uuid4().hex[:6]}.log"
        words = ["slurm-agent", "run", "--kubeconfig", str(site.agent_kubeconfig), "--runs", str(site.runs)]
        environ = {**site.slurm.environ, "SAM3FT_SLURM_SETTINGS": str(site.folder / "slurm.yaml"), **site.environ}
        if not site.is_real:
            environ |= {
                "PYTHONPATH": f"{FAKE_TRAINER}:{os.environ.get('PYTHONPATH', '')}",
                "FAKE_REFUSALS": str(site.scripts),
            }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*program, *words, "--every", "1", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environ,
            )

    def kill(self) -> None:
        """End it at once."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def terminate(self) -> int:
        """Ask it to end and return its exit code."""
        self.process.terminate()
        return self.process.wait(60)

    def text(self) -> str:
        """Return what it has said."""
        return self.log.read_text(errors="replace")


def _yaml(lines: Sequence[str]) -> str:
    return "".join("  - '" + line.replace("'", "''") + "'\n" for line in lines)
