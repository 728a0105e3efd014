#!/usr/bin/env bash
# Make a virtual environment with exactly the locked packages and this project in editable form.
# Usage: tools/install.sh PYTHON VENV LOCK
set -euo pipefail

python=$1 venv=$2 lock=$3

fail() {
  echo "install: $*" >&2
  exit 1
}

[ -n "$python" ] || fail "no Python >= 3.11 is found; install one, or name it: make install PYTHON=/path/to/python3"
echo "install: $("$python" --version) -> $venv, $(grep -c '==' "$lock") locked packages (several GB with CUDA)"

if command -v uv >/dev/null; then
  [ -x "$venv/bin/python" ] || uv venv --quiet --python "$python" "$venv"
  install() { VIRTUAL_ENV=$venv uv pip install --quiet "$@"; }
else
  if [ ! -x "$venv/bin/python" ]; then
    "$python" -m venv "$venv" ||
      fail "$python cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv (or install uv)"
  fi
  install() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
fi

install --require-hashes -r "$lock"
install --no-deps --no-build-isolation --editable .
echo "install: done; $("$venv/bin/sam3ft" version)"
