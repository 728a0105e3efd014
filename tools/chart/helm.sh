#!/usr/bin/env bash
# Run the user's own helm, else the one that is built from its module. Usage: tools/chart/helm.sh PYTHON ARGUMENTS...
set -euo pipefail

python=$1
shift
if ! helm=$(command -v helm); then
  "$python" tools/components/components.py build helm >&2
  helm=$("$python" -c 'import sys; sys.path.insert(0, "tools/components"); import components; print(components.binary("helm"))')
fi
echo "+ helm $*"
exec "$helm" "$@"
