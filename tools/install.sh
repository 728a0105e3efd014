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

uv=$(command -v uv || true)
if [ ! -x "$venv/bin/python" ]; then
  if [ -n "$uv" ]; then
    "$uv" venv --quiet --python "$python" "$venv"
  else
    "$python" -m venv "$venv" ||
      fail "$python cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv (or install uv)"
  fi
fi
if [ -z "$uv" ]; then
  # pip unpacks and compiles gigabytes anew for every environment; uv, in the lock's own version, links what it has.
  only_uv=$(mktemp)
  trap 'rm -f "$only_uv"' EXIT
  awk '/^uv==/ { found = 1 } found { print } found && !/\\$/ { exit }' "$lock" > "$only_uv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$only_uv"
  uv=$venv/bin/uv
  # An index of one's own is pip's setting; uv has another name for it.
  index=${PIP_INDEX_URL:-$("$venv/bin/python" -m pip config get global.index-url 2> /dev/null || true)}
  if [ -n "$index" ]; then export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}; fi
fi
install() { VIRTUAL_ENV=$venv "$uv" pip install --quiet --compile-bytecode "$@"; }

install --require-hashes -r "$lock"
install --no-deps --no-build-isolation --editable .
echo "install: done; $("$venv/bin/sam3ft" version)"
