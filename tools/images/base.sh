#!/usr/bin/env bash
# Make a small Debian with Python as an image, for builds where no registry can be reached.
# Usage: tools/images/base.sh IMAGE [PACKAGE...]   (buildah and debootstrap; root)
set -euo pipefail

image=$1
shift
packages=$(IFS=,; echo "ca-certificates,python3,python3-venv${*:+,$*}")
mirror=${DEBIAN_MIRROR:-$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources 2>/dev/null || true; } |
  sed -n 's/^deb \(\[[^]]*\] \)\?\(http[^ ]*\).*/\2/p; s/^URIs: \([^ ]*\).*/\1/p' | head -1)}
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

debootstrap --variant=minbase --include="$packages" "$suite" "$root" "${mirror:-http://deb.debian.org/debian}" >&2
# What an image of Debian's slim kind lacks, too.
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/usr/share/{doc,man,info,locale}/*
container=$(buildah from scratch)
buildah add --quiet "$container" "$root" / >&2
buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --cmd python3 \
  --label dev.sam3ft.base=test "$container"
buildah commit --quiet --rm "$container" "$image"
