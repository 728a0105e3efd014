#!/usr/bin/env bash
# Install a Ceph cluster's programs from Debian: monitor, object store daemon and S3 gateway, 200 MB.
# The slow storage tests start them as one small cluster in memory; without them those tests are refused by name.
set -euo pipefail

programs=(radosgw radosgw-admin ceph-mon ceph-osd ceph-authtool monmaptool)
missing=()
for program in "${programs[@]}"; do command -v "$program" >/dev/null || missing+=("$program"); done
if [ "${#missing[@]}" -eq 0 ]; then
  echo "ceph: $(radosgw --version | cut -d' ' -f3) is installed"
  exit 0
fi

command -v apt-get >/dev/null || {
  echo "ceph: ${missing[*]} are missing, and this is no Debian or Ubuntu; install radosgw, ceph-mon and ceph-osd" >&2
  exit 1
}
sudo=()
[ "$(id -u)" -eq 0 ] || sudo=(sudo)
"${sudo[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -qq -y --no-install-recommends radosgw ceph-mon ceph-osd ceph-common
echo "ceph: $(radosgw --version | cut -d' ' -f3) is installed"
