"""The batch script of one attempt: plain text that a person can read, and submit by hand as it is.

    batch script, on the first node
        coordinator, beside it
        launchers, one step over all nodes; signals of SLURM go to steps, and this one saves and ends
        verdict: what follows from the launchers' end (`sam3ft_launch.slurm.verdict`)

The script decides nothing: it asks, and then ends, begins again, or has SLURM put the job back into the queue. It does
that itself because `scontrol` is outside of the containers.
"""

import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from sam3ft_api import names
from sam3ft_api.errors import InvalidConfig
from sam3ft_api.plan import JobPlan
from sam3ft_api.worker import ENV_SIGNALS_REACH_WORKERS
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.kubernetes.quantities import num_bytes
from sam3ft_launch.launcher import LAUNCHER_MODULE, budget_arguments, grace_arguments
from sam3ft_launch.slurm.settings import SlurmSettings
from sam3ft_launch.slurm.submission import RUN_FOLDER

EARLY_S = 60
"""SLURM may send the warning of a time limit so much earlier than asked for, and never later."""
MARGIN_S = 30
"""For the verdict and the way back into the queue, after the workers have saved."""
SHORTEST_LIMIT_S = 120
LONGEST_SAVE_S = 86_400
"""Seconds granted for saving where somebody other than a person ends a run: as long as it takes."""
USABLE_NODES = 'usable=$(sinfo -h -N -p "$SLURM_JOB_PARTITION" -t alloc,idle,mix -o %N | sort -u | wc -l)'
"""How many nodes the job's partition has that can run something."""
EXCLUDED_NODES = (
    'excluded=$(scontrol show job "$SLURM_JOB_ID" -o | sed -n "s/.* ExcNodeList=\\([^( ][^ ]*\\).*/\\1,/p")'
)
"""The nodes that the job keeps away from, with a comma at the end, so that one can be added; empty for none."""


def render_script(plan: JobPlan, settings: SlurmSettings, folder: RunDir, *, launcher: Sequence[str] = ()) -> str:
    """Return the batch script of one attempt; pure.

    Args:
        plan: what runs.
        settings: of the site.
        folder: the run folder, the same path on every node.
        launcher: command that takes the place of `python -m sam3ft_trainer.run.launcher`; empty for that.

    Raises:
        InvalidConfig: the run folder's path means something to SLURM or a shell, or the time limit is too short.
    """
    if not RUN_FOLDER.fullmatch(str(folder.root)):
        raise InvalidConfig(
            f"run folder {str(folder.root)!r}: on SLURM its path may hold letters, digits, spaces and _ . + = @ - "
            "alone; name another one with --run-dir"
        )
    return "\n".join(
        [
            "#!/bin/bash",
            f"# Fine-tunes {plan.name}, attempt {plan.attempt}; written by sam3ft. By hand, in its folder:",
            f"#     sbatch {folder.slurm_script(plan.attempt).name}",
            *(f"#SBATCH {option}" for option in options_of(plan, settings, folder.log)),
            "",
            *beginning_of(plan, settings, folder),
            "",
            *_programs(plan, settings, folder, launcher),
            *(_deadline(plan.deadline_s) if plan.deadline_s is not None else []),
            "",
            *_LOOP,
            "",
        ]
    )


def is_elastic(plan: JobPlan) -> bool:
    """Tell whether every node of the run is a job of its own."""
    return plan.min_nodes < plan.nodes


def nodes_of_job(plan: JobPlan) -> int:
    """Return how many nodes the job has that the coordinator is in."""
    return 1 if is_elastic(plan) else plan.nodes


def options_of(plan: JobPlan, settings: SlurmSettings, output: Path) -> list[str]:
    """Return what stands behind #SBATCH; every job of a run has the same but for its name and output.

    Args:
        plan: what runs.
        settings: of the site.
        output: file of the job's output, of which one job alone is the writer; SLURM's signs (`%j`) count.
    """
    slurm = plan.slurm
    partition = (slurm.partition if slurm else "") or settings.partition
    account = (slurm.account if slurm else "") or settings.account
    limit_s = slurm.time_limit_s if slurm else None
    resources = plan.placement.resources
    return [
        f"--job-name={names.slurm_job_name(plan.uid, plan.attempt)}",
        f"--comment=sam3ft:{plan.name}:{plan.attempt}",
        "--dependency=singleton",
        *([f"--partition={partition}"] if partition else []),
        *([f"--account={account}"] if account else []),
        *([f"--time={_minutes(limit_s)}"] if limit_s is not None else []),
        f"--nodes={nodes_of_job(plan)}",
        "--ntasks-per-node=1",
        *([f"--cpus-per-task={math.ceil(_cores(resources['cpu']))}"] if "cpu" in resources else []),
        *([f"--mem={math.ceil(num_bytes(resources['memory']) / 2**20)}M"] if "memory" in resources else []),
        *gpus_of(plan, settings),
        f"--signal=USR2@{_warning_s(plan, limit_s)}",
        "--requeue",
        "--open-mode=append",
        f'--output="{output}"',
        "--export=NONE",
        *settings.options,
    ]


def _minutes(limit_s: int) -> int:
    if limit_s < SHORTEST_LIMIT_S:
        raise InvalidConfig(
            f"slurm.timeLimit is {limit_s} s; set {SHORTEST_LIMIT_S} s or more, so that there is time to save"
        )
    return limit_s // 60


def _warning_s(plan: JobPlan, limit_s: int | None) -> int:
    """Return how long before its time limit a job is warned: enough to save, and never most of the time there is."""
    wanted = math.ceil(plan.grace_s) + MARGIN_S
    return wanted if limit_s is None else min(wanted, max(MARGIN_S, limit_s // 2 - EARLY_S))


def _cores(quantity: str) -> float:
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def beginning_of(plan: JobPlan, settings: SlurmSettings, folder: RunDir) -> list[str]:
    """Return what every job of a run begins with: signals, setup, the variables of the run, and its claim."""
    return [
        "# Signals of SLURM are for the launchers; this script outlives them and asks what is next.",
        "trap '' TERM USR2 CONT",
        *settings.setup,
        "set -u",
        "umask 077",
        "# The job inherits no variable from the shell that submitted it; what is set here reaches the steps.",
        "export SLURM_EXPORT_ENV=ALL",
        "# The launchers' step asks for the GPUs itself, and no other has any.",
        "unset SLURM_GPUS_PER_NODE",
        "# A signal to a step reaches all its processes: workers leave it to their launcher.",
        f"export {ENV_SIGNALS_REACH_WORKERS}=1",
        "",
        f"run={shlex.quote(str(folder.root))}",
        f"attempt={plan.attempt}",
        "name=$SLURM_JOB_NAME",
        "# The variables of the run, its key among them: mode 0600.",
        '[ -r "$run/attempt-$attempt.env" ] || { echo "attempt $attempt has ended; use sam3ft run" >&2; exit 21; }',
        'source "$run/attempt-$attempt.env"',
        "",
        "# An attempt belongs to one job, should it ever have been submitted twice.",
        'owner="$run/work/$name.job"',
        '(set -o noclobber; echo "$SLURM_JOB_ID" > "$owner") 2> /dev/null',
        'if [ "$(cat "$owner")" != "$SLURM_JOB_ID" ]; then',
        '  echo "attempt $attempt belongs to job $(cat "$owner"); job $SLURM_JOB_ID ends" >&2',
        "  exit 21",
        "fi",
    ]


def step_of(plan: JobPlan, settings: SlurmSettings, folder: RunDir, launcher: Sequence[str]) -> list[str]:
    """Return the variables with which a script starts programs of ours: how, with which Python, and the budget.

    Args:
        plan: what runs.
        settings: of the site.
        folder: of the run.
        launcher: as in `render_script`.
    """
    flags, prefix = _container(settings, folder)
    python = _python(settings)
    told = [
        *("--nproc", str(plan.processes_per_node)),
        *grace_arguments(plan.grace_s),
        *(("--warm-spares",) if plan.warm_spares else ()),
    ]
    command = shlex.join([*(launcher or [python, "-m", LAUNCHER_MODULE]), *told])
    return [
        f"srun=({shlex.join([*_SRUN, *flags])})",
        f"python=({shlex.join([*prefix, python, '-m'])})",
        'about=(--run-dir "$run" --attempt "$attempt")',
        f"budget=({shlex.join(budget_arguments(plan.budget))})",
        f"launcher=({command})",
    ]


def gpus_of(plan: JobPlan, settings: SlurmSettings) -> list[str]:
    """Return how GPUs are asked for, by a job and again by its step."""
    if not plan.gpus_per_node or settings.gpus == "none":
        return []
    amount = f"{settings.gpu_type}:{plan.gpus_per_node}" if settings.gpu_type else str(plan.gpus_per_node)
    return [f"--gpus-per-node={amount}" if settings.gpus == "gpus-per-node" else f"--gres=gpu:{amount}"]


def _python(settings: SlurmSettings) -> str:
    return settings.python or (sys.executable if settings.runtime == "none" else "python")


def _programs(plan: JobPlan, settings: SlurmSettings, folder: RunDir, launcher: Sequence[str]) -> list[str]:
    flags, _ = _container(settings, folder)
    step, here = '"${srun[@]}"', nodes_of_job(plan)
    # Only pyxis needs a step to run something in the image; a job that is being cancelled may start none.
    beside = f'{step} --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" --gres=none ' if flags else ""
    fewer = f" --min-nodes {plan.min_nodes} --gate-deadline-s {plan.start_deadline_s:g}" if is_elastic(plan) else ""
    return [
        *step_of(plan, settings, folder, launcher),
        'meeting="$run/work/coordinator-$attempt-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}.json"',
        'rm -f "$run"/work/coordinator-*.json',
        "",
        "# The coordinator decides who belongs to the group. It ends when its file is removed.",
        'address=$(scontrol show node "$SLURMD_NODENAME" --oneliner | sed -n "s/.* NodeAddr=\\([^ ]*\\).*/\\1/p")',
        f'{beside}"${{python[@]}}" sam3ft_launch.slurm.coordinate --address "$address" --port-file "$meeting" \\',
        f'  --attempt "$attempt" --nodes {plan.nodes}{fewer} &',
        "coordinator=$!",
        "dismiss() {",
        '  rm -f "$meeting"',
        '  for _ in {1..50}; do kill -0 "$coordinator" 2> /dev/null || break; sleep 0.2; done',
        "}",
        'for _ in {1..600}; do [ -e "$meeting" ] && break; sleep 0.2; done',
        "",
        "# One launcher a node starts the workers, and ends with the code that says why.",
        "launchers() {",
        *_old_words(plan),
        f"  {' '.join([step, *gpus_of(plan, settings)])} \\",
        f"    --nodes={here} --ntasks={here} --ntasks-per-node=1 \\",
        '    "${python[@]}" sam3ft_launch.slurm.member "${about[@]}" --port-file "$meeting" -- \\',
        '    "${launcher[@]}" "${budget[@]}"',
        "}",
        "may_begin() { # nobody has asked to stop, and the coordinator is there",
        """  ! grep -Eqs '"attempt": ?'"$attempt"'[,}]' "$run/stop.json" && kill -0 "$coordinator" 2> /dev/null""",
        "}",
        *_farewell(plan),
        "# Whether there are other nodes to go to, should one of these be bad.",
        'hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | paste -sd, -)',
        USABLE_NODES,
        EXCLUDED_NODES,
        "can_run_without() { # NODES",
        f'  sbatch --test-only --exclude="$excluded$1" "$run/{folder.slurm_script(plan.attempt).name}" >&2',
        "}",
        "# What follows from their end: again SECONDS, elsewhere NODES, requeue, queued, or end CODE.",
        "verdict() { # CODE [--cannot-requeue]",
        f'  {beside}"${{python[@]}}" sam3ft_launch.slurm.verdict "${{about[@]}}" "${{budget[@]}}" \\',
        f'    --hosts "$hosts" --spare "$((${{usable:-0}} - {plan.nodes}))" \\',
        '    --word "$(squeue -h -j "$SLURM_JOB_ID" -O State:32,RestartCnt:16)" --code "$@"',
        "}",
    ]


def _old_words(plan: JobPlan) -> list[str]:
    """Last words of the turn before would be taken for this one's; those of other jobs' nodes are theirs."""
    if is_elastic(plan):
        return ['  rm -f "$run"/work/termination.json']
    return ['  rm -f "$run"/work/termination.json "$run"/work/node-*/termination.json']


def _farewell(plan: JobPlan) -> list[str]:
    """Return what the script does when the attempt is over: nothing of it may be left that runs or waits."""
    others = [
        "  squeue -h --me -o '%A %j' | while read -r id job; do",
        '    case "$job" in "${name%-0-0}"-*) [ "$id" = "$SLURM_JOB_ID" ] || scancel --quiet "$id" ;; esac',
        "  done",
    ]
    return [
        "farewell() { # the attempt is over",
        '  rm -f "$run/attempt-$attempt.env"',
        *(others if is_elastic(plan) else []),
        "  dismiss",
        "}",
    ]


def _deadline(deadline_s: float) -> list[str]:
    """Return the lines that ask the launchers to save and end when the run's time is over, over all requeues."""
    return [
        "",
        "# activeDeadlineSeconds, from the first start on: a request to stop, as `sam3ft cancel` makes one.",
        'began="$run/work/$name.began"',
        '[ -e "$began" ] || date +%s > "$began"',
        "(",
        "  trap - TERM",
        f'  left=$(($(cat "$began") + {math.ceil(deadline_s)} - $(date +%s)))',
        '  sleep "$((left > 0 ? left : 0))"',
        '  echo "activeDeadlineSeconds has passed; saving" >&2',
        f'  echo "{{\\"attempt\\": $attempt, \\"grace_s\\": {LONGEST_SAVE_S}}}" > "$run/stop.json.tmp"',
        '  mv "$run/stop.json.tmp" "$run/stop.json"',
        ") &",
    ]


_SRUN = ("srun", "--overlap", "--cpu-bind=none", "--kill-on-bad-exit=0", "--wait=0")
"""One task that ends does not end the others, whose launchers save first; workers choose their cores themselves."""


def _container(settings: SlurmSettings, folder: RunDir) -> tuple[list[str], list[str]]:
    """Return what srun is told, and what stands before `python`, so that it runs in the image."""
    seen = ",".join(f"{path}:{path}" for path in (str(folder.root), *settings.mounts))
    if settings.runtime == "pyxis":
        # With a name the image is unpacked once a node, and not for every step.
        image = [f"--container-image={settings.image}", "--container-name=sam3ft"]
        return [*image, f"--container-mounts={seen}", "--no-container-mount-home"], []
    if settings.runtime == "apptainer":
        return [], ["apptainer", "exec", "--nv", "--no-home", "--bind", seen, str(settings.image)]
    return [], []


_LOOP = (
    "while :; do",
    "  code=20",
    "  if may_begin; then launchers; code=$?; fi",
    "  next=",
    '  for _ in 1 2 3; do [ -n "$next" ] || next=$(verdict "$code"); done',
    '  case "$next" in',
    "    'again '*) sleep \"${next#again }\" ;;",
    "    'elsewhere '*)",
    "      away=${next#elsewhere }",
    '      if can_run_without "$away" && scontrol requeue "$SLURM_JOB_ID"; then',
    "        # Only now: SLURM changes this of jobs that wait, and of no others.",
    '        scontrol update "JobId=$SLURM_JOB_ID" "ExcNodeList=$excluded$away"',
    "        dismiss",
    '        exit "$code"',
    "      fi",
    '      next=$(verdict "$code" --cannot-requeue)',
    '      if [[ $next == "again "* ]]; then sleep "${next#again }"; continue; fi',
    "      farewell",
    '      exit "$code"',
    "      ;;",
    "    requeue)",
    "      dismiss",
    "      trap - TERM",
    '      if scontrol requeue "$SLURM_JOB_ID"; then sleep 600; fi',
    "      # The site does not let a job do that: the run ends as interrupted, and the same command goes on.",
    '      verdict "$code" --cannot-requeue',
    "      farewell",
    '      exit "$code"',
    "      ;;",
    "    *)",
    '      if [[ $next == "end "* ]]; then farewell; else dismiss; fi',
    '      exit "${code:-1}"',
    "      ;;",
    "  esac",
    "done",
)
