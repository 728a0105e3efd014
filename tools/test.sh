#!/usr/bin/env bash
# Every test but the soak, in four passes: what shares the machine well; what keeps a core busy, one for each core; what
# measures time, alone; what needs real nodes, told as a story.
#
#   tools/test.sh PYTHON [ARGUMENTS OF PYTEST...]
#
# All passes run even if one fails; what failed is said again at the end. That one of them finds no test is normal for a
# selection; that all do is an error.
set -uo pipefail

python=$1
shift
NOTHING_COLLECTED=5
# Hundreds of processes import this code; where its compiled form may not be kept, each of them compiles it anew.
unset PYTHONDONTWRITEBYTECODE
reports=$(mktemp -d)
trap 'rm -rf "$reports"' EXIT

# One process more than cores: the one with the control plane waits now and then.
"$python" -m pytest -m "not soak and not nodes and not alone and not paired" \
  --numprocesses $(($(nproc) + 1)) --maxprocesses 5 \
  --dist loadscope --no-loadscope-reorder --junitxml "$reports/beside.xml" "$@"
beside=$?
OMP_NUM_THREADS=1 "$python" -m pytest -m "paired and not soak and not nodes" --numprocesses "$(nproc)" \
  --dist loadscope --no-loadscope-reorder --junitxml "$reports/paired.xml" "$@"
paired=$?
"$python" -m pytest -m "alone and not soak and not nodes" --junitxml "$reports/alone.xml" "$@"
alone=$?
"$python" -m pytest -m "nodes and not soak" -s -p no:randomly --junitxml "$reports/nodes.xml" "$@"
nodes=$?

"$python" "$(dirname "$0")/test_summary.py" "$reports"/{beside,paired,alone,nodes}.xml

ran=$NOTHING_COLLECTED
for code in "$beside" "$paired" "$alone" "$nodes"; do
  if ((code != 0 && code != NOTHING_COLLECTED)); then
    exit "$code"
  fi
  ((code == 0)) && ran=0
done
exit "$ran"
