"""The batch script of one more node of an elastic run: `sbatch --job-name=NAME attempt-N-node.sbatch SLOT`.

Each node but the first is a job of its own, with this one script for all of them: it joins the group that the first
job's coordinator keeps, and joins it again when it has lost it, until the attempt has ended. Nobody needs it: when
SLURM takes it away the others go on, and it goes back into the queue by itself.
"""

from collections.abc import Sequence

from sam3ft_api.plan import JobPlan
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.slurm.script import beginning_of, gpus_of, options_of, step_of
from sam3ft_launch.slurm.settings import SlurmSettings


def render_node_script(plan: JobPlan, settings: SlurmSettings, folder: RunDir, *, launcher: Sequence[str] = ()) -> str:
    """Return the script of the nodes beyond the first; pure.

    Args:
        plan: what runs.
        settings: of the site.
        folder: the run folder, the same path on every node.
        launcher: command that takes the place of `python -m sam3ft_trainer.run.launcher`; empty for that.
    """
    options = [option for option in options_of(plan, settings, folder) if not option.startswith("--job-name=")]
    return "\n".join(
        [
            "#!/bin/bash",
            f"# One more node of {plan.name}, attempt {plan.attempt}; written by sam3ft. By hand, in its folder:",
            f"#     sbatch --job-name=NAME {folder.slurm_node_script(plan.attempt).name} SLOT",
            *(f"#SBATCH {option}" for option in options),
            "",
            *beginning_of(plan, settings, folder),
            "",
            *step_of(plan, settings, folder, launcher),
            "",
            *_meeting(gpus_of(plan, settings)),
            *_LOOP,
            "",
        ]
    )


def _meeting(gpus: Sequence[str]) -> list[str]:
    step = " ".join(['"${srun[@]}"', *gpus])
    return [
        "# The place of this node in the group.",
        "slot=$1",
        "goes_on() { # the attempt has not ended, and nobody has asked to stop",
        """  [ -r "$run/attempt-$attempt.env" ] && ! grep -Eqs '"attempt": ?'"$attempt"'[,}]' "$run/stop.json\"""",
        "}",
        "# Where the coordinator of the first node's job says that it listens, the newest of several.",
        'meeting() { ls -t "$run"/work/coordinator-*.json 2> /dev/null | head -n 1; }',
        "launch() { # MEETING",
        '  rm -f "$run/work/node-$slot/termination.json"',
        f"  {step} --nodes=1 --ntasks=1 \\",
        '    "${python[@]}" sam3ft_launch.slurm.member "${about[@]}" --slot "$slot" --port-file "$1" -- \\',
        '    "${launcher[@]}" "${budget[@]}"',
        "}",
        "",
    ]


_LOOP = (
    "while goes_on; do",
    "  at=$(meeting)",
    '  [ -n "$at" ] || { sleep 2; continue; }',
    '  launch "$at"; code=$?',
    '  case "$code" in',
    '    0|1[0-6]|21) exit "$code" ;; # the group has ended, for this reason, or another has this place',
    "    20) # SLURM wants the node back, and it has left the group",
    "      goes_on || break",
    '      case "$(squeue -h -j "$SLURM_JOB_ID" -o %T)" in',
    "        CANCELLED|COMPLETING) exit 20 ;; # somebody has cancelled it, or SLURM itself puts it back",
    "      esac",
    "      trap - TERM",
    '      scontrol requeue "$SLURM_JOB_ID" && sleep 600',
    "      exit 20",
    "      ;;",
    "    1|24) # it has begun its workers again as often as it may: another node is asked for",
    '      echo "$SLURMD_NODENAME" >> "$run/work/avoided-nodes"',
    '      exit "$code"',
    "      ;;",
    "    *) sleep 5 ;;",
    "  esac",
    "done",
    "exit 20",
)
