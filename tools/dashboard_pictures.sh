#!/usr/bin/env bash
# Draw every dashboard from the answers of a Prometheus that scrapes real runs, and leave a PNG of each.
# Usage: tools/dashboard_pictures.sh PYTHON FOLDER
set -euo pipefail
cd "$(dirname "$0")/.."

python=$1 folder=$2
browser=$(command -v chromium || command -v google-chrome || true)
[ -n "$browser" ] || { echo "dashboard-pictures: no chromium is found; on Debian: apt-get install chromium" >&2; exit 1; }

pages=$(mktemp -d)
trap 'rm -rf "$pages"' EXIT
"$python" -m pytest tests/observability/test_live_dashboards.py -k drawn --draw-dashboards "$pages"
mkdir -p "$folder"
for page in "$pages"/dashboard-*.html; do
  name=$(basename "$page" .html)
  height=$(sed -n 's/.*data-height="\([0-9]*\)".*/\1/p' "$page" | head -1)
  "$browser" --headless --no-sandbox --hide-scrollbars --window-size="1400,$height" \
    --screenshot="$folder/$name.png" "file://$page" > /dev/null 2>&1
  echo "$folder/$name.png"
done
