"""The batch script of one more node of an elastic run: `sbatch --job-name=NAME attempt-N-node.sbatch SLOT`.

Each node but the first is a job of its own, with this one script for all of them: it joins the group that the first
job's coordinator keeps, and joins it again when it has lost it, until the attempt has ended. Nobody needs it: when
SLURM takes it away the others go on, and it goes back into the queue by itself. When its workers fail for good the job
leaves the node for another one.
"""

from collections.abc import Sequence

from sam3ft_api.plan import JobPlan
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.slurm.bad_nodes import MOST_MOVES
from sam3ft_launch.slurm.script import (
    EXCLUDED_NODES,
    USABLE_NODES,
    beginning_of,
    gpus_of,
    options_of,
    step_of,
)
from sam3ft_launch.slurm.settings import SlurmSettings


def render_node_script(plan: JobPlan, settings: SlurmSettings, folder: RunDir, *, launcher: Sequence[str] = ()) -> str:
    """Return the script of the nodes beyond the first; pure.

    Args:
        plan: what runs.
        settings: of the site.
        folder: the run folder, the same path on every node.
        launcher: command that takes the place of `python -m sam3ft_trainer.run.launcher`; empty for that.
    """
    options = options_of(plan, settings, folder.node_log("%j"))
    return "\n".join(
        [
            "#!/bin/bash",
            f"# One more node of {plan.name}, attempt {plan.attempt}; written by sam3ft. By hand, in its folder:",
            f"#     sbatch --job-name=NAME {folder.slurm_node_script(plan.attempt).name} SLOT",
            *(f"#SBATCH {option}" for option in options if not option.startswith("--job-name=")),
            "",
            *beginning_of(plan, settings, folder),
            "",
            *step_of(plan, settings, folder, launcher),
            "",
            *_meeting(gpus_of(plan, settings), min_nodes=plan.min_nodes),
            *_leaving(folder.slurm_node_script(plan.attempt).name, nodes=plan.nodes),
            *_watch_of_the_first(),
            *_LOOP,
            "",
        ]
    )


def _meeting(gpus: Sequence[str], *, min_nodes: int) -> list[str]:
    step = " ".join(['"${srun[@]}"', *gpus])
    return [
        "# The place of this node in the group.",
        "slot=$1",
        'word="$run/work/node-$slot/termination.json" empty="$run/work/attempt-$attempt-node-$slot.empty"',
        "goes_on() { # the attempt has not ended, and nobody has asked to stop",
        """  [ -r "$run/attempt-$attempt.env" ] && ! grep -Eqs '"attempt": ?'"$attempt"'[,}]' "$run/stop.json\"""",
        "}",
        "# Where the coordinator of the first node's job says that it listens; its number is in the name.",
        'meeting() { ls -t "$run/work/coordinator-$attempt-"*.json 2> /dev/null | head -n 1; }',
        "launch() { # MEETING",
        '  rm -f "$word"',
        f"  {step} --nodes=1 --ntasks=1 \\",
        '    "${python[@]}" sam3ft_launch.slurm.member "${about[@]}" --slot "$slot" --port-file "$1" -- \\',
        f'    "${{launcher[@]}}" "${{budget[@]}}" --min-nodes {min_nodes}',
        "}",
    ]


def _leaving(script: str, *, nodes: int) -> list[str]:
    """Return how the job gives its node back, and how it leaves one on which its workers fail for good."""
    return [
        "is_leaving() { # somebody has cancelled this job, or SLURM itself takes it away",
        '  case "$(squeue -h -t all -j "$SLURM_JOB_ID" -o %T)" in CANCELLED|COMPLETING) return 0 ;; esac',
        "  return 1",
        "}",
        "give_back() { # the node, for a later turn",
        "  if goes_on && ! is_leaving; then",
        "    trap - TERM",
        '    scontrol requeue "$SLURM_JOB_ID" && sleep 600',
        "  fi",
        "  exit 20",
        "}",
        "has_failed_here() { # by the launcher's last word; else another node's failure has ended the group",
        """  grep -Eqs '"node": ?"(node-'"$slot"')?"' "$word\"""",
        "}",
        "may_move() { # NODES: away from these; SLURM has others beyond those that the run needs, and it was not often",
        f"  {USABLE_NODES}",
        '  moved=$(cat "$moves" 2> /dev/null | wc -l)',
        f'  [ "$moved" -lt {MOST_MOVES} ] && [ "$moved" -lt $((usable - {nodes})) ] &&',
        f'    sbatch --test-only --exclude="$1" "$run/{script}" "$slot" >&2',
        "}",
        "still_ours() { # the job; else it ends here",
        '  goes_on || exit "$code"',
        "  ! is_leaving || exit 20",
        "}",
        f"# The workers fail for good here: to another node, {MOST_MOVES} times at most; then this place stays empty.",
        "leave() {",
        '  local moves="$run/work/$name.moves" excluded away',
        "  for pause in 2 5 0; do # the scheduler may be away for a moment",
        f"    {EXCLUDED_NODES}",
        "    away=$excluded$SLURMD_NODENAME",
        "    still_ours",
        '    if may_move "$away" && still_ours && scontrol requeue "$SLURM_JOB_ID"; then',
        '      echo "$SLURMD_NODENAME" >> "$moves"',
        '      echo "the workers have failed on $SLURMD_NODENAME; this job goes on elsewhere" >&2',
        "      # Only now: SLURM changes this of jobs that wait, and of no others.",
        '      scontrol update "JobId=$SLURM_JOB_ID" "ExcNodeList=$away" ||',
        '        { sleep 1; scontrol update "JobId=$SLURM_JOB_ID" "ExcNodeList=$away"; }',
        '      goes_on || scancel --quiet "$SLURM_JOB_ID"',
        '      exit "$code"',
        "    fi",
        '    sleep "$pause"',
        "  done",
        '  echo "the workers have failed on $SLURMD_NODENAME; the others go on without this node" >&2',
        '  touch "$empty"',
        '  exit "$code"',
        "}",
        'rm -f "$empty"',
        "",
    ]


def _watch_of_the_first() -> list[str]:
    return [
        "# What becomes of the first node's job is asked once a minute: this one must not outlive it.",
        "(",
        "  trap - TERM",
        "  while sleep 60; do",
        "    at=$(meeting)",
        '    [ -n "$at" ] || continue',
        '    first=${at##*/coordinator-"$attempt"-}',
        '    word=$(squeue -h -t all -j "${first%%-*}" -o %T 2>&1)',
        '    case "$word" in',
        '      PENDING|REQUEUE*|PREEMPTED|NODE_FAIL) rm -f "$at" ;; # it comes back, with another coordinator',
        '      *"Invalid job id"*|COMPLETED|CANCELLED|FAILED|TIMEOUT|OUT_OF_MEMORY|DEADLINE)',
        '        scancel --quiet "$SLURM_JOB_ID" ;;',
        "    esac",
        "  done",
        ") &",
        "",
    ]


_LOOP = (
    "waited=0 failures=0",
    "while goes_on; do",
    "  at=$(meeting)",
    '  if [ -z "$at" ]; then',
    "    # The first node's job is not there: for three minutes this node is kept for it, and not for hours.",
    '    [ "$((waited += 2))" -lt 180 ] || give_back',
    "    sleep 2",
    "    continue",
    "  fi",
    "  waited=0 began=$SECONDS",
    '  launch "$at"; code=$?',
    "  # Without a word of the launcher it was not the workers: srun, Python, a disk.",
    '  [ "$code" != 1 ] || [ -e "$word" ] || code=2',
    '  case "$code" in',
    '    0|1[0-6]|21) exit "$code" ;; # the group has ended, for this reason, or another has this place',
    '    1|24) if has_failed_here; then leave; else exit "$code"; fi ;;',
    "    20) give_back ;; # SLURM wants the node back, and it has left the group",
    "    23) sleep 2 ;; # the coordinator has gone, perhaps to another node",
    "    *)",
    "      is_leaving && exit 20",
    "      [ $((SECONDS - began)) -lt 600 ] || failures=0",
    '      [ "$((failures += 1))" -lt 5 ] || { [ "$code" != 22 ] || exit 22; leave; } # 22: the store is away',
    "      sleep 5",
    "      ;;",
    "  esac",
    "done",
    "exit 20",
)
