#!/usr/bin/env bash
# Install what the tests need from Debian or Ubuntu, and only what is missing. Usage: tools/components/system.sh
#   iproute2      networks of their own for the nodes of a group
#   libfaketime   nodes whose clocks differ
#   openssl       certificates of a store with an authority of its own
#   gcc, binutils libraries that stand in for others
#   containerd... real nodes of the test cluster, and a registry of images
#   SLURM         controller, nodes and their authentication; slurmdbd and MariaDB for a site with accounting
#   buildah...    images for the real nodes, and a base for them
#   Prometheus    the server and promtool, for metrics and alerts
#   Ceph          a second S3 server, monitor, object store daemon and gateway, 200 MB
set -euo pipefail

packages=()
need() { # COMMAND PACKAGE...
  command -v "$1" >/dev/null || packages+=("${@:2}")
}
need ip iproute2
need openssl openssl
need gcc gcc libc6-dev
need readelf binutils
need containerd containerd
need runc runc
need nft nftables
need iptables iptables
need conntrack conntrack
need docker-registry docker-registry
need buildah buildah
need debootstrap debootstrap
need prometheus prometheus
need promtool prometheus
[ -x /usr/lib/cni/bridge ] || packages+=(containernetworking-plugins)
for program in slurmctld slurmd sbatch munged; do
  PATH=$PATH:/usr/sbin need "$program" slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge
done
for program in slurmdbd mariadbd; do
  PATH=$PATH:/usr/sbin need "$program" slurmdbd mariadb-server
done
for program in radosgw radosgw-admin ceph-mon ceph-osd ceph-authtool monmaptool; do
  need "$program" radosgw ceph-mon ceph-osd ceph-common
done
compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || packages+=(libfaketime)

if [ "${#packages[@]}" -eq 0 ]; then
  exit 0
fi
mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)
command -v apt-get >/dev/null || {
  echo "components: ${packages[*]} are missing, and this is no Debian or Ubuntu; install what corresponds to them" >&2
  exit 1
}
sudo=()
[ "$(id -u)" -eq 0 ] || sudo=(sudo)
echo "components: installing ${packages[*]}"
"${sudo[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -qq -y --no-install-recommends "${packages[@]}" >/dev/null
