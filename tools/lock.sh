#!/usr/bin/env bash
# Write requirements/*.lock from pyproject.toml: every package with its version and hashes, no addresses.
# The files hold for Linux and Python 3.11 and later; run it again after a change of the dependencies:
#
#     tools/lock.sh            keep the locked versions where they still satisfy pyproject.toml
#     tools/lock.sh --upgrade  take the newest versions
set -euo pipefail
cd "$(dirname "$0")/.."

uv=${UV:-$(command -v uv || echo .venv/bin/uv)}
mkdir -p requirements

lock() { # NAME EXTRA...
  local name=$1
  shift
  local extras=()
  for extra in "$@"; do extras+=(--extra "$extra"); done
  "$uv" pip compile pyproject.toml "${extras[@]}" "${options[@]}" \
    --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url \
    --no-emit-find-links --quiet --output-file "requirements/$name.lock"
  echo "requirements/$name.lock: $(grep -c '==' "requirements/$name.lock") packages"
}

options=("$@")
lock cli
lock build build
lock trainer trainer otlp
lock operator operator
lock dev trainer operator otlp mlflow wandb dev
