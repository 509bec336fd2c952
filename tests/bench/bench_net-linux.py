"""net-linux: iperf3 between two small Linux guests on one NAT network, in the SVM host, beside two of QEMU with taps on
its bridge: MiB/s, and the processor time of both VMs' processes for each MiB. Then the same with vhost-net on both
sides, with the processor time of its threads. Cairn's taps have the rules that the network gives them."""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile

if __name__ == "__main__":  # in the SVM host, without run.py
    sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))

import guestlib
from benchlib import QEMU, Program, Unfit, need_qemu
from conftest import Console
from netbench import BRIDGE, NETWORK, initrd_pack, nat_daemon

SECONDS = 3  # each transfer
ROUNDS = 5
INSIDE_SECONDS = 900
START_SECONDS = 90  # on a busy machine
ANSWER_SECONDS = 30
STARTS = 4
CPU_SHARE = 0.8  # of QEMU's processor time
TICKS = os.sysconf("SC_CLK_TCK")
SIDES = "ours", "peer"
ENDS = "server", "client"

# Init of the guests: runs the lines that come on the serial port.
INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for w in $(cat /proc/cmdline); do case $w in address=*) ifconfig eth0 ${w#*=} up;; esac; done
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo
echo guest ready
while read -r line; do eval "$line"; echo "status $? over"; done
"""


def packages():
    """Return the folder with Debian's iperf3 and its libraries, fetched once. Nothing is installed."""
    script = os.path.join(guestlib.ROOT, "tests/bench/iperf3.sh")
    r = subprocess.run([script], stdout=subprocess.PIPE, text=True)
    if r.returncode:
        raise Unfit("iperf3 cannot be fetched")
    return r.stdout.strip()


def address(side, end):
    return f"10.77.0.{10 * SIDES.index(side) + ENDS.index(end) + 2}"


def mac(side, end):
    return f"52:54:00:00:{SIDES.index(side):02x}:{ENDS.index(end) + 1:02x}"


def comm(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm") as f:
        return f.read()
    return ""


def cpu_s(pids):
    """Return the processor time of processes, and of the threads of vhost-net that work for them, which are the
    kernel's, and named after the threads that made them."""
    names = {f"vhost-{thread}\n" for pid in pids for thread in os.listdir(f"/proc/{pid}/task")}
    threads = [int(p) for p in os.listdir("/proc") if p.isdigit() and comm(p) in names]
    total = 0
    for pid in pids + threads:
        with open(f"/proc/{pid}/stat") as f:
            total += sum(map(int, f.read().rsplit(")", 1)[1].split()[11:13]))
    return total / TICKS


def check(text):
    if "status 0 over" not in text:
        raise RuntimeError(text)
    return text


class Ours:
    """A VM of the daemon, on its network."""

    def __init__(self, daemon, initrd, end, vhost):
        d = {"name": end, "memory": "256M", "vcpus": 1, "rng": True,
             "boot": {"kernel": os.path.join(sys.argv[2], "vmlinux"), "initrd": initrd,
                      "cmdline": guestlib.linux_cmdline() + f" address={address('ours', end)}"},
             "interfaces": [{"type": "network", "source": NETWORK, "mac": mac("ours", end), "vhost": vhost}]}
        path = daemon.tmp / f"{end}.json"
        path.write_text(json.dumps(d))
        self.daemon, self.name = daemon, end
        daemon.cairn("define", str(path))
        daemon.cairn("start", end)
        self.console = Console(daemon, end)
        self.pid = daemon.info(end)["pid"]

    def until(self, word, seconds):
        self.console.sock.settimeout(seconds)
        lines = []
        try:
            while not lines or not lines[-1].endswith(word):
                lines.append(self.console.line())
        except TimeoutError as e:
            raise RuntimeError(f"no {word!r} within {seconds} s: {lines}") from e
        return "\n".join(lines)

    def do(self, line):
        self.console.sock.sendall(line.encode() + b"\n")
        return check(self.until(" over", ANSWER_SECONDS))

    def cpu_s(self):
        return cpu_s([self.pid])

    def close(self):
        self.console.close()
        self.daemon.cairn("destroy", self.name)


class Peer:
    """A VM of QEMU, with a tap on the network's bridge."""

    def __init__(self, daemon, initrd, end, vhost):
        tap = "peer" + end
        daemon.lan.ip("tuntap", "add", tap, "mode", "tap", "vnet_hdr")
        daemon.lan.ip("link", "set", tap, "master", BRIDGE, "up")
        self.daemon, self.tap = daemon, tap
        argv = [QEMU, "-M", "pc", "-accel", "kvm", "-cpu", "host", "-m", "256", "-nodefaults", "-display",
                "none", "-serial", "stdio", "-kernel", os.path.join(sys.argv[2], "vmlinux"), "-initrd", initrd,
                "-append", guestlib.linux_cmdline() + f" address={address('peer', end)}", "-device", "virtio-rng-pci",
                "-netdev", f"tap,id=t,ifname={tap},script=no,downscript=no,vhost={'on' if vhost else 'off'}", "-device",
                f"virtio-net-pci,netdev=t,disable-legacy=on,mac={mac('peer', end)}"]
        self.program = Program(["/usr/bin/nsenter", *daemon.lan.enter[1:], *argv])

    def until(self, word, seconds):
        self.program.until(word.encode(), seconds)
        return self.program.output.decode(errors="replace")

    def do(self, line):
        self.program.output = b""
        os.write(self.program.stdin, line.encode() + b"\n")
        return check(self.until(" over", ANSWER_SECONDS))

    def cpu_s(self):
        return cpu_s([self.program.pid])

    def close(self):
        self.program.close()
        self.daemon.lan.ip("link", "delete", self.tap)


def transfer(server, client, to):
    """Return MiB/s, and the ms of processor time for each MiB."""
    server.do("iperf3 -s -1 -D")
    before = server.cpu_s() + client.cpu_s()
    text = client.do(f"until iperf3 -c {to} -t {SECONDS} -f K -i 0 >/tmp/out; do sleep 1; done; tail -3 /tmp/out")
    cpu = server.cpu_s() + client.cpu_s() - before
    got = re.search(r"-([\d.]+) +sec .* ([\d.]+) KBytes/sec +receiver", text)
    if not got:
        raise RuntimeError(text)
    seconds, mib_s = float(got[1]), float(got[2]) / 1024
    return mib_s, 1000 * cpu / (seconds * mib_s)


def round_run(vms):
    """Return [our MiB/s, QEMU's, our ms for each MiB, QEMU's]."""
    one = [transfer(vms[side, "server"], vms[side, "client"], address(side, "server")) for side in SIDES]
    return [v for pair in zip(*one) for v in pair]


def rounds_run(initrd, vhost, result):
    """Start two VMs of each side, and append ROUNDS rounds to result, or fewer if a guest stops answering."""
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(nat_daemon(None))
        vms = {}
        for side, make in zip(SIDES, (Ours, Peer)):
            for end in ENDS:
                vms[side, end] = vm = make(daemon, initrd, end, vhost)
                stack.callback(vm.close)
        for vm in vms.values():
            vm.until("guest ready", START_SECONDS)
        round_run(vms)  # the first one warms up
        while len(result) < ROUNDS:
            result.append(round_run(vms))


def measure(initrd, vhost):
    """Return the rounds. The emulated host loses a guest's interrupt now and then, ours and QEMU's alike
    (tests/svmhost/README.md): the guest then waits for ever, and all are started again."""
    result = []
    for _ in range(STARTS):
        try:
            rounds_run(initrd, vhost, result)
            break
        except RuntimeError as e:
            print("again:", e, flush=True)
    return result


def initrd_make(folder, root):
    """Pack init, busybox, iperf3 and its libraries. Returns the path."""
    tree = os.path.join(folder, "tree")
    for d in ("bin", "lib64", "dev", "proc", "sys", "tmp"):
        os.makedirs(os.path.join(tree, d))
    with open(os.path.join(tree, "init"), "w") as f:
        f.write(INIT)
    os.chmod(f.name, 0o755)
    copy = ["cp", "-L"]
    subprocess.run([*copy, "/bin/busybox", f"{root}/usr/bin/iperf3", os.path.join(tree, "bin")], check=True)
    for name in ("sh", "mount", "cat", "ifconfig", "stty", "sleep", "tail"):
        os.symlink("busybox", os.path.join(tree, "bin", name))
    lib = "usr/lib/x86_64-linux-gnu"
    os.makedirs(os.path.join(tree, lib))
    ldd = subprocess.run(["ldd", f"{root}/usr/bin/iperf3"], env={**os.environ, "LD_LIBRARY_PATH": f"{root}/{lib}"},
                         stdout=subprocess.PIPE, text=True, check=True).stdout
    for path in re.findall(r"(/\S+) \(0x", ldd):
        subprocess.run([*copy, path, os.path.join(tree, "lib64" if "ld-linux" in path else lib)], check=True)
    out = os.path.join(folder, "initrd")
    initrd_pack(tree, out)
    return out


def run(bench):
    need_qemu()
    kernel, root = guestlib.linux_kernel(), packages()
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        argv = ["/usr/bin/python3", os.path.abspath(__file__), initrd_make(folder, root), kernel]
        r = subprocess.run([guestlib.SVMHOST[0], "--smp", "2", "--timeout", str(INSIDE_SECONDS), "--", *argv],
                           stdout=subprocess.PIPE, text=True, errors="replace")
    rounds = [json.loads(line[len("rounds "):]) for line in r.stdout.splitlines() if line.startswith("rounds ")]
    if not rounds:
        raise Unfit(f"the SVM host gave no result, status {r.returncode}: {r.stdout[-1500:]}")
    for got, case, peer in zip(rounds, ("", ", vhost-net"), ("QEMU pc", "QEMU pc, vhost=on")):
        bench.pairs("iperf3" + case, "MiB/s", [x[:2] for x in got], peer, 1.0, rate=True)
        bench.pairs("processor time" + case, "ms/MiB", [x[2:] for x in got], peer, 1 / CPU_SHARE)


if __name__ == "__main__":
    print("rounds", json.dumps(measure(sys.argv[1], False)), flush=True)
    subprocess.run(["modprobe", "vhost_net"], check=True)
    print("rounds", json.dumps(measure(sys.argv[1], True)), flush=True)
