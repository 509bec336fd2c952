"""Linux guests on one network, with the real cairn-net and dnsmasq: `make check-long`, part "net-svm", which runs
this file in the emulated SVM host. Ten guests meet. The kernel serves two, also over pauses, a save and a new driver."""

import json
import os
import subprocess
import threading

import pytest

import guestlib
from conftest import Console
from test_network_ports import lan, real  # noqa: F401
from test_vhost import has_vhost, needs_vhost

GUESTS = 10
SECONDS = 150  # times 10 in the SVM host

pytestmark = [pytest.mark.seconds(SECONDS),
              pytest.mark.skipif("CAIRN_IN_SVMHOST" not in os.environ, reason="a start of Linux takes ten seconds elsewhere")]

INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mkdir -p /proc /sys /dev /bin
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
$b --install -s /bin
for w in $(cat /proc/cmdline); do case $w in name=*) name=${w#*=};; esac; done
hostname $name
ip link set lo up
ip link set eth0 up
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo
udhcpc -q -n -t 20 -i eth0 -x hostname:$name -s /dhcp >/dev/null 2>&1
echo "guest $name $(ip -4 -o addr show eth0 | awk '{ print $4 }')"
while read -r line; do eval "$line"; echo "status $? over"; done
"""

DHCP = """#!/bin/busybox sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
ip route add default via "$router"
echo "nameserver $dns" >/etc/resolv.conf
"""


def initrd(tmp):
    tree = tmp / "tree"
    for d in ("bin", "etc"):
        (tree / d).mkdir(parents=True)
    for name, text in ("init", INIT), ("dhcp", DHCP):
        (tree / name).write_text(text)
        (tree / name).chmod(0o755)
    subprocess.run(["cp", "-L", "/bin/busybox", tree / "bin"], check=True)
    found = subprocess.run(["find", "."], cwd=tree, stdout=subprocess.PIPE, check=True).stdout
    packed = subprocess.run(["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"], cwd=tree, input=found, stdout=subprocess.PIPE, check=True).stdout
    path = tmp / "initrd"
    # The kernel opens /dev/console before init mounts anything: the archive of mkinitrd.sh has it.
    with open(guestlib.linux_initrd(), "rb") as f:
        path.write_bytes(f.read() + packed)
    return str(path)


class Guest:
    def __init__(self, d, name):
        self.console = Console(d, name)
        self.console.sock.settimeout(SECONDS)
        line = ""
        while not line.startswith("guest "):
            line = self.console.line()
        assert line.split()[1] == name
        self.address = line.split()[2].split("/")[0]

    def do(self, command, status=0):
        """Run a line of shell. Return what it prints."""
        self.begin(command)
        return self.end(command, status)

    def begin(self, command):
        self.console.sock.sendall(command.encode() + b"\n")

    def end(self, command, status=0):
        lines = []
        while True:
            line = self.console.line()
            if line.startswith("status ") and line.endswith(" over"):
                assert line == f"status {status} over", (command, lines)
                return "\n".join(lines)
            lines.append(line)


def define(real, tmp_path, archive, name, i, vhost):  # noqa: F811
    v = guestlib.linux_definition(name, memory="64M", interfaces=[
        {"type": "network", "source": "lan", "mac": f"52:54:00:00:01:{i:02x}", "vhost": vhost}])
    v["boot"].update(initrd=archive, cmdline=f"{guestlib.linux_cmdline()} name={name}")
    (tmp_path / f"{name}.json").write_text(json.dumps(v))
    real.cairn("define", str(tmp_path / f"{name}.json"))


def test_ten_linux_guests_on_one_network(real, tmp_path):  # noqa: F811
    """Each has an address of its own by DHCP and the name that it told, reaches the gateway, and another one by name,
    with ping and TCP."""
    archive = initrd(tmp_path)
    names = [f"tux{i}" for i in range(1, GUESTS + 1)]
    for i, name in enumerate(names, 1):
        define(real, tmp_path, archive, name, i, i % 2 == 0 and has_vhost())
        real.cairn("start", name)
    guests = {name: Guest(real, name) for name in names}
    addresses = {name: g.address for name, g in guests.items()}
    assert len(set(addresses.values())) == GUESTS and all(a.startswith("10.77.0.") for a in addresses.values())
    told = {x["address"]: x["name"] for x in json.loads(real.cairn("net-dhcp-leases", "lan", "--format", "json").stdout)}
    assert told == {a: n for n, a in addresses.items()}
    for name, g in guests.items():
        g.do("ping -c 1 -W 20 10.77.0.1 >/dev/null")
        g.do(f"(while nc -l -p 7 -e sh -c 'read x; echo {name} $x'; do :; done) </dev/null >/dev/null 2>&1 &")
    for i, name in enumerate(names):
        other = names[(i + 1) % GUESTS]
        assert f"({addresses[other]})" in guests[name].do(f"ping -c 1 -W 20 {other}")
        answer = f"for n in 1 2 3 4 5; do echo hello | nc -w 20 {other} 7 && break; sleep 1; done"
        assert guests[name].do(answer).split("\n")[-1] == f"{other} hello"


MIB = 8


def sleeps(real, name):  # noqa: F811
    """Return how often the thread of the VM's interface has slept."""
    pid = real.info(name)["pid"]
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/status") as f:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
        if status["Name"] == "net0":
            return int(status["voluntary_ctxt_switches"])
    raise AssertionError("no thread of that name")


def transfer(server, client, meanwhile=lambda: None):
    """Send MIB from one guest to the other by TCP, and check that all of it arrives."""
    count = "nc -l -p 9 -e sh -c 'wc -c >/dev/count'; cat /dev/count"
    send = f"dd if=/dev/zero bs=64k count={16 * MIB} 2>/dev/null | nc -w 60 {server.address} 9"
    server.begin(count)
    client.begin(f"for n in 1 2 3 4 5; do {send} && break; sleep 1; done")
    meanwhile()
    client.end(send)
    assert int(server.end(count)) == MIB << 20


@needs_vhost
def test_kernel_moves_the_frames_of_linux_without_the_vm_s_process(real, tmp_path):  # noqa: F811
    archive = initrd(tmp_path)
    names = "tux1", "tux2"
    for i, name in enumerate(names, 1):
        define(real, tmp_path, archive, name, i, True)
        real.cairn("start", name)
    one, two = (Guest(real, name) for name in names)
    transfer(one, two)
    before = [sleeps(real, name) for name in names]
    packets = [real.figures(name)["interfaces"][0]["tx-packets"] for name in names]
    transfer(one, two)
    # KVM sends the interrupts: the thread has nothing to do.
    assert [sleeps(real, name) - n <= 3 for name, n in zip(names, before)] == [True, True]
    assert all(real.figures(name)["interfaces"][0]["tx-packets"] - n >= 20 for name, n in zip(names, packets))
    # No interrupt is lost while vhost begins and ends again.
    stop = threading.Event()

    def change():
        while not stop.is_set():
            for name in names:
                real.cairn("suspend", name)
                real.cairn("resume", name)

    t = threading.Thread(target=change)
    transfer(one, two, meanwhile=t.start)
    stop.set()
    t.join()
    # A saved state, and a driver that begins anew.
    real.cairn("managedsave", "tux2")
    real.cairn("start", "tux2")
    two.console = Console(real, "tux2")
    two.console.sock.settimeout(SECONDS)
    transfer(two, one)
    two.do("cd /sys/bus/virtio/drivers/virtio_net && d=$(echo virtio*) && echo $d >unbind && echo $d >bind && cd /")
    two.do(f"ip addr add {two.address}/24 dev eth0; ip link set eth0 up")
    transfer(one, two)
    before = sleeps(real, "tux2")
    transfer(two, one)
    assert sleeps(real, "tux2") - before <= 3
