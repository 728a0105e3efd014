"""A real node: kubelet, containerd and kube-proxy in network, mount and process namespaces of their own.

The namespaces end with their first process, and that ends with the keeper of the cluster: containers, mounts, bridges
and rules go with them, whatever has happened.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from machine import CNI, PRIVATE, Wires, call, make_cgroup
from oci_image import SANDBOX
from programs import Program

from components import binary

START_S = 60.0
_CONTAINERD = "/run/containerd/containerd.sock"


class NodeProgram(Program):
    """A program inside a node's namespaces: `nsenter` waits for it, and signals go to the program."""

    def send(self, process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
        """Send a signal to the program, and have `nsenter` follow it."""
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                os.kill(int(pid), number)
        if number is signal.SIGCONT:
            process.send_signal(number)


class RealNode:
    """One node; its parts are `containerd`, `kubelet` and `kube-proxy` in `programs`.

    Attributes:
        name: of the node.
        programs: by name; each can be stopped, killed, paused and started again.
    """

    def __init__(
        self, folder: Path, number: int, wires: Wires, *, kubelet: Path, proxy: Path, registry: str, dns: str
    ) -> None:
        """Prepare; nothing is started.

        Args:
            folder: of the node's files; exists.
            number: counts from 0; names the node and gives it addresses.
            wires: the cluster's network.
            kubelet: kubeconfig of the kubelet.
            proxy: kubeconfig of kube-proxy.
            registry: host and port of a registry that speaks plain HTTP.
            dns: address of the name server that pods ask.
        """
        self.name, self.folder, self._number, self._wires = f"real-{number}", folder, number, wires
        self._kubeconfigs, self._registry, self._dns = (kubelet, proxy), registry, dns
        self.address, self.cgroup = wires.address(number), wires.plug(number)
        self._holder = Program("holder", self._holder_command(), folder / "holder.log")
        self.programs: dict[str, Program] = {}

    def start(self, *, others: Sequence[int]) -> None:
        """Start the node; it is Ready a little later.

        Args:
            others: numbers of the other nodes, to whose pods there are routes.
        """
        make_cgroup(self.cgroup)
        self._holder.start()
        self._wait(self._is_set_up, "holder")
        self._plug_in(others)
        self._write_files()
        self._run("containerd", ["/usr/bin/containerd", "--config", str(self.folder / "containerd.toml")])
        self._wait(self._containerd_answers, "containerd")
        for archive in sorted(self.folder.parent.glob("*.image.tar")):
            self.import_image(archive)
        self._run("kubelet", [
            *(str(binary("kubernetes", "kubelet")), "--config", str(self.folder / "kubelet.json")),
            *("--kubeconfig", str(self._kubeconfigs[0]), "--hostname-override", self.name, "--node-ip", self.address),
        ])  # fmt: skip
        self._run("kube-proxy", [str(binary("kubernetes", "kube-proxy")), "--config", str(self.folder / "proxy.json")])

    def stop(self) -> None:
        """End the node with all of its containers, as when its power is cut."""
        for program in [*self.programs.values()][::-1]:
            program.stop(kill=True)
        self.programs.clear()
        self._holder.stop(kill=True)

    def cut_off(self) -> None:
        """Pull the node's wire: nothing of it, kubelet or pod, reaches anything else. Containers go on."""
        call("ip", "link", "set", self._wires.plug(self._number), "down")

    def heal(self) -> None:
        """Undo `cut_off`."""
        call("ip", "link", "set", self._wires.plug(self._number), "up")

    def inside(self, *command: str) -> str:
        """Return what a program prints that is run in the node's namespaces."""
        return call(*self._enter(), *command)

    def import_image(self, archive: Path) -> None:
        """Give the node an image: an archive of `docker save` or of the OCI."""
        self.inside("ctr", "-n", "k8s.io", "images", "import", str(archive))

    def _enter(self) -> list[str]:
        children = f"/proc/{self._holder.pid}/task/{self._holder.pid}/children"
        first = Path(children).read_text().split()[0]
        return ["nsenter", "--target", first, "--mount", "--net", "--pid", "--uts", "--ipc"]

    def _holder_command(self) -> list[str]:
        mounts = "".join(f"mkdir -p {path} && mount -t tmpfs tmpfs {path} && " for path in PRIVATE)
        mounts += f"mkdir -p {self.folder}/kubelet && mount --bind {self.folder}/kubelet /var/lib/kubelet && "
        # The kubelet wants mounts that are handed on, which stay inside: this machine's are above and see nothing.
        script = f"mount --make-rshared / && {mounts}mkdir -p /run/lock && touch /run/set-up && exec $0 pause"
        return [
            *("unshare", "--fork", "--kill-child=SIGKILL", "--pid", "--mount-proc", "--mount", "--net", "--uts"),
            *("--ipc", "--propagation", "slave", "sh", "-c", script, str(binary("probe"))),
        ]

    def _is_set_up(self) -> bool:
        return "set-up" in self.inside("ls", "/run").split()

    def _containerd_answers(self) -> bool:
        return bool(self.inside("ctr", "version"))

    def _plug_in(self, others: Sequence[int]) -> None:
        plug, wires, pid = self._wires.plug(self._number), self._wires, self._enter()[2]
        call("ip", "link", "add", plug, "type", "veth", "peer", "name", "eth0", "netns", pid)
        call("ip", "link", "set", plug, "master", wires.switch, "up")
        pods = wires.pods(self._number)
        self.inside("ip", "link", "set", "lo", "up")
        self.inside("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        self.inside("ip", "link", "set", "eth0", "up")
        self.inside("ip", "route", "add", "default", "via", wires.host)
        for other in others:
            self.inside("ip", "route", "add", str(wires.pods(other)), "via", wires.address(other))
        self.inside("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        self.inside("sh", "-c", "echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables")
        call("ip", "route", "replace", str(pods), "via", self.address)

    def _run(self, name: str, command: Sequence[str]) -> None:
        self.programs[name] = NodeProgram(name, [*self._enter(), *command], self.folder / f"{name}.log")
        self.programs[name].start()

    def _wait(self, condition: Callable[[], bool], name: str) -> None:
        program = self.programs.get(name, self._holder)
        give_up_at, trouble = time.monotonic() + START_S, ""
        while time.monotonic() < give_up_at:
            program.raise_if_ended()
            try:
                if condition():
                    return
            except (RuntimeError, IndexError) as error:
                trouble = str(error)  # not there yet
            time.sleep(0.1)
        raise RuntimeError(
            f"{name} of {self.name} did not come up within {START_S:g} s: {trouble}\n{program.log_tail()}"
        )

    def _write_files(self) -> None:
        for folder in ("containerd", "cni", "certs.d/" + self._registry):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        hosts = f'[host."http://{self._registry}"]\n  capabilities = ["pull", "resolve"]\n'
        (self.folder / "certs.d" / self._registry / "hosts.toml").write_text(hosts)
        subnet = {"subnet": str(self._wires.pods(self._number))}
        ipam = {"type": "host-local", "ranges": [[subnet]], "routes": [{"dst": "0.0.0.0/0"}]}
        bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipam": ipam}
        network = {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]}
        (self.folder / "cni" / "pods.conflist").write_text(json.dumps(network))
        (self.folder / "containerd.toml").write_text(self._containerd_settings())
        (self.folder / "resolv.conf").write_text(f"nameserver {self._dns}\n")
        (self.folder / "kubelet.json").write_text(json.dumps(self._kubelet_settings(), indent=1))
        (self.folder / "proxy.json").write_text(json.dumps(self._proxy_settings(), indent=1))

    def _containerd_settings(self) -> str:
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        return f"""version = 2
root = "{self.folder}/containerd"
state = "/run/containerd"
[grpc]
address = "{_CONTAINERD}"
[{cri}]
sandbox_image = "{SANDBOX}"
restrict_oom_score_adj = true  # a container without CAP_SYS_RESOURCE around it may not lower it
[{cri}.registry]
config_path = "{self.folder}/certs.d"
[{cri}.cni]
bin_dir = "{CNI}"
conf_dir = "{self.folder}/cni"
"""

    def _kubelet_settings(self) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address,
            "healthzPort": 0,
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "containerRuntimeEndpoint": f"unix://{_CONTAINERD}",
            "clusterDomain": "cluster.local",
            "clusterDNS": [self._dns],
            "resolvConf": str(self.folder / "resolv.conf"),
            "imageGCHighThresholdPercent": 100,  # or it removes the sandbox's image from a disk that is full enough
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            # The controllers miss a node after 10 s: five signs of life must fail, not one.
            "nodeLeaseDurationSeconds": 8,
            "volumePluginDir": "/var/lib/kubelet/volumeplugins",
        }

    def _proxy_settings(self) -> dict[str, object]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "hostnameOverride": self.name,
            "bindAddress": self.address,
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            "conntrack": {"maxPerCore": 0, "min": 0},
            "clientConnection": {"kubeconfig": str(self._kubeconfigs[1])},
        }
