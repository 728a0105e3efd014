#!/usr/bin/env bash
# Every test but the soak, in two passes: what shares the machine well, on all cores, then what measures time, alone.
#
#   tools/test.sh PYTHON [ARGUMENTS OF PYTEST...]
#
# Both passes run even if the first one fails. That one of them finds no test is normal for a selection; that both do is
# an error.
set -uo pipefail

python=$1
shift
NOTHING_COLLECTED=5

# One process more than cores: the one with the control plane mostly waits.
"$python" -m pytest -m "not soak and not alone" --numprocesses $(($(nproc) + 1)) --maxprocesses 5 \
  --dist loadscope --no-loadscope-reorder "$@"
beside=$?
"$python" -m pytest -m "not soak and alone" "$@"
alone=$?

for code in "$beside" "$alone"; do
  if ((code != 0 && code != NOTHING_COLLECTED)); then
    exit "$code"
  fi
done
if ((beside == NOTHING_COLLECTED && alone == NOTHING_COLLECTED)); then
  exit "$NOTHING_COLLECTED"
fi
