"""The small Linux under `cairn run`: disk, console, button, second start. On a host whose KVM emulates kernel mode
a start takes ten seconds, so few tests share one there."""

import json
import os
import random
import re
import socket
import subprocess
import tempfile
import threading
import time

import pytest

import guestlib
from conftest import Console, until
from guestlib import GuestError, disk

KIND = guestlib.host_kind()
# An emulated kernel takes 10 ms per page of a file on an idle machine.
DATA = "512K" if KIND == "pvm" else "4M"
pytestmark = [
    pytest.mark.skipif(KIND == "none", reason="no usable /dev/kvm"),
    pytest.mark.seconds(1500),  # the first test that needs a kernel builds it
]
# make check skips these tests where KVM emulates kernel mode: test_revert_brings_deleted_files_back and the emulated
# host stand for them. The parts storm-linux and linux-svm of make check-long run them.
one_start = pytest.mark.skipif(KIND == "pvm" and "CAIRN_LINUX_ROUNDS" not in os.environ,
                               reason="one start is enough where a kernel runs in an emulator; make check-long runs this one")
elsewhere = pytest.mark.skipif(KIND == "pvm" and "CAIRN_LINUX_ROUNDS" not in os.environ,
                               reason="one start is enough where a kernel runs in an emulator; test_svmhost.py runs this one, and make check-long here")
slow_kernel = pytest.mark.skipif(KIND == "pvm", reason="one start is enough where a kernel runs in an emulator; "
                                 "test_svmhost.py runs this one")


@pytest.fixture
def image(tmp_path):
    path = str(tmp_path / "disk.img")
    with open(path, "wb") as f:
        f.truncate(32 << 20)
    subprocess.run(["/sbin/mke2fs", "-q", "-F", path], check=True)
    return path


def press_button(g):
    """Press the button; `cairn run` does so at SIGTERM."""
    g.terminate()
    g.expect("cairn-guest: power button")
    assert g.wait() == guestlib.EXIT_OK


@one_start
def test_file_survives_shutdown_and_second_start(image):
    with guestlib.linux(disks=[disk(image, serial="cairn-0001")]) as g:
        assert any("cairn-0001" in l for l in g.command("block"))
        g.command("mount /dev/vda /mnt ext2")
        g.command("write /mnt/note written before the button")
        g.command(f"fill /mnt/data 0 {DATA} 7")
        # A machine that Linux runs on without quirks on the command line.
        devices = g.command("pci")
        assert any("1af4:1042" in l and "driver virtio-pci" in l for l in devices)
        assert any("1af4:1044" in l and "driver virtio-pci" in l for l in devices)
        assert re.search("PNP0A08|PNP0A03", "\n".join(g.command("acpi")))
        assert any(l.startswith("hwrng ") for l in g.command("random 16"))
        press_button(g)
    assert subprocess.run(["/sbin/e2fsck", "-fn", image], stdout=subprocess.DEVNULL).returncode == 0
    with guestlib.linux(disks=[disk(image)]) as g:
        g.command("mount /dev/vda /mnt ext2 ro")
        assert g.command("read /mnt/note") == ["written before the button"]
        g.command(f"verify /mnt/data 0 {DATA} 7")
        with pytest.raises(GuestError, match="Read-only"):
            g.command("write /mnt/note again")
        press_button(g)


@slow_kernel
@pytest.mark.parametrize("kernel", ["vmlinux", "bzImage"])
def test_vmlinux_and_bzimage_boot(kernel):
    with guestlib.linux(kernel=kernel) as g:
        assert "Linux 6.1" in g.command("uname")[0]
        press_button(g)


@one_start
def test_memory_above_4_gib():
    with guestlib.linux(memory="5G") as g:
        total = re.search(r"MemTotal:\s+(\d+) kB", "\n".join(g.command("mem")))
        assert 4.7 * (1 << 20) < int(total.group(1)) < 5 << 20
        g.command("fill-ram 64 3")
        g.command("verify-ram")


@slow_kernel
@pytest.mark.parametrize("vcpus", [2, 4])
def test_all_vcpus_come_up_and_go_down(vcpus):
    with guestlib.linux(variant="smp", vcpus=vcpus) as g:
        assert g.command("cpus")[0] == str(vcpus)
        assert len(g.command("run-cpus 300")) == vcpus
        g.command("cpu 1 off")
        assert g.command("cpus")[0] == str(vcpus - 1)
        g.command("cpu 1 on")
        press_button(g)


@slow_kernel
def test_reboot_restarts_linux(image):
    with guestlib.linux(disks=[disk(image)]) as g:
        g.command("mount /dev/vda /mnt ext2")
        g.command("write /mnt/a kept")
        g.send("reboot\n")
        g.expect("cairn-guest: ready")
        g.line()
        g.command("mount /dev/vda /mnt ext2")
        assert g.command("read /mnt/a") == ["kept"]
        press_button(g)


@slow_kernel
def test_panic_of_linux_is_reported():
    """panic=-1 reboots with pvpanic or without; in neither case is the exit status 0."""
    with guestlib.linux(on_reboot="destroy", on_crash="destroy") as g:
        g.send("panic\n")
        g.expect("Kernel panic")
        assert g.wait() not in (guestlib.EXIT_OK, guestlib.EXIT_KILLED)


@slow_kernel
def test_clock_and_poweroff_from_inside():
    with guestlib.linux() as g:
        assert "kvm-clock" in "\n".join(g.command("clocksource"))

        def now():
            return float(re.search(r"monotonic ([\d.]+)", "\n".join(g.command("clock"))).group(1))

        begin, first, read = time.monotonic(), now(), time.monotonic()
        time.sleep(1)
        least = time.monotonic() - read
        passed = now() - first
        assert least - 0.1 < passed < time.monotonic() - begin + 0.1
        # A power-off from inside: no test of its own, because each start is long.
        g.send("poweroff\n")
        assert g.wait() == guestlib.EXIT_OK


@slow_kernel
def test_qcow2_disk(tmp_path, image):
    qcow2 = str(tmp_path / "disk.qcow2")
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", image, qcow2], check=True)
    for turn in range(2):
        with guestlib.linux(disks=[disk(qcow2, format="qcow2")]) as g:
            g.command("mount /dev/vda /mnt ext2")
            if turn == 0:
                g.command("fill /mnt/data 0 8M 11")
            g.command("verify /mnt/data 0 8M 11")
            press_button(g)
    subprocess.run(["qemu-img", "check", "-q", qcow2], check=True)


@slow_kernel
def test_two_disks_and_discard(tmp_path, image):
    second = str(tmp_path / "second.img")
    with open(second, "wb") as f:
        f.write(os.urandom(4 << 20))
    disks = [disk(image), disk(second, id="vdb", queues=1)]
    with guestlib.linux(disks=disks) as g:
        g.command("fill /dev/vdb 0 4M 5 direct")
        g.command("verify /dev/vdb 0 4M 5 direct")
        g.command("zeroout /dev/vdb 1M 1M")
        g.command("discard /dev/vdb 2M 1M")
        g.command("verify /dev/vdb 0 1M 5")
        press_button(g)
    with open(second, "rb") as f:
        f.seek(1 << 20)
        assert f.read(1 << 20) == bytes(1 << 20)


# ---- with the daemon ----

def begin(daemon, **keys):
    """A VM "linux", ready for commands on its serial port."""
    d = guestlib.linux_definition()
    keys = {k: v for k, v in {**d, **keys}.items() if k != "name"}
    daemon.define("linux", **keys)
    daemon.cairn("start", "linux")
    console = Console(daemon, "linux")
    console.sock.settimeout(180)
    while console.line() != "cairn-guest: ready":
        pass
    return console


def test_revert_brings_deleted_files_back(daemon, image, tmp_path):
    """Cairn's purpose: everything is deleted, and a revert brings it back."""
    qcow2 = tmp_path / "vda.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", image, qcow2], check=True)
    console = begin(daemon, disks=[{"path": str(qcow2), "format": "qcow2"}])
    console.run("mount /dev/vda /mnt ext2")
    console.run("write /mnt/precious all of it")
    console.run("fill-ram 2 7")
    # The kernel keeps the registers of its programs apart, also those that an assisted kernel saves with XSAVE.
    vectors, = console.run("vectors 600")
    assert vectors == "none" or re.fullmatch(r"looks [1-9]\d* [1-9]\d* bad 0 alarms \d+", vectors), vectors
    before = [float(v.split()[1]) for v in console.run("clock") if v.startswith("monotonic")][0]
    daemon.cairn("snapshot-create-as", "linux", "s1")
    console.run("rm -r /mnt")
    console.run("sync")
    assert console.run("ls /mnt") == []
    daemon.cairn("snapshot-revert", "linux", "s1")
    assert console.run("read /mnt/precious") == ["all of it"]
    console.run("verify-ram")
    after = [float(v.split()[1]) for v in console.run("clock") if v.startswith("monotonic")][0]
    assert after >= before
    # An interrupt first; the kernel does the work some time later.
    until(lambda: any("reseeded due to virtual machine fork" in l for l in console.run("dmesg 60")))
    daemon.cairn("shutdown", "linux", "--wait")
    console.close()
    subprocess.run(["qemu-img", "check", "-q", qcow2], check=True)
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", qcow2, image], check=True)
    assert subprocess.run(["/sbin/e2fsck", "-fn", image], stdout=subprocess.DEVNULL).returncode == 0


IDENTITY = {"machine-id": "0123456789abcdef0123456789abcdef", "hostname": "golden"}
# Replaces virt-sysprep, which would start a machine of its own: changes the same files in the image with e2fsprogs.
SYSPREP = """#!/bin/sh -e
while [ $# -gt 0 ]; do
	case $1 in
	--hostname) host=$2 ;;
	-a) image=$2 ;;
	esac
	shift
done
raw=$image.raw; trap 'rm -f "$raw" "$raw.text"' EXIT
qemu-img convert -O raw "$image" "$raw"
put() {
	echo "$2" >"$raw.text"
	printf 'rm /etc/%s\\nwrite %s /etc/%s\\n' "$1" "$raw.text" "$1" | /sbin/debugfs -w -f - "$raw"
}
put hostname "$host"; put machine-id "$(tr -d - </proc/sys/kernel/random/uuid)"
echo 'rm /etc/ssh/ssh_host_rsa_key' | /sbin/debugfs -w -f - "$raw"
qemu-img convert -O qcow2 "$raw" "$image"
"""


@pytest.fixture
def sysprep(tmp_path, monkeypatch):
    (tmp_path / "tools").mkdir()
    script = tmp_path / "tools/virt-sysprep"
    script.write_text(SYSPREP)
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/tools:{os.environ['PATH']}")


@pytest.fixture
def golden(tmp_path):
    """A disk with the identity of a Linux."""
    etc = tmp_path / "root/etc"
    (etc / "ssh").mkdir(parents=True)
    (etc / "ssh/ssh_host_rsa_key").write_text("a secret\n")
    for name, text in IDENTITY.items():
        (etc / name).write_text(text + "\n")
    raw, qcow2 = tmp_path / "golden.raw", tmp_path / "golden.qcow2"
    raw.touch()
    os.truncate(raw, 16 << 20)
    subprocess.run(["/sbin/mke2fs", "-q", "-F", "-d", tmp_path / "root", raw], check=True)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2], check=True)
    return qcow2


def identity(console):
    console.run("mount /dev/vda /mnt ext2")
    return {name: console.run(f"read /mnt/etc/{name}")[0] for name in IDENTITY}


@slow_kernel
def test_clone_has_another_identity(sysprep, golden, daemon):
    keys = {k: v for k, v in guestlib.linux_definition().items() if k != "name"}
    daemon.define("linux", **keys, disks=[{"path": str(golden), "format": "qcow2"}],
                  interfaces=[{"type": "user", "mac": "52:54:00:00:00:07"}])
    daemon.cairn("clone", "linux", "web_2", "--reset-identity")
    one, other = (json.loads(daemon.cairn("dumpjson", n).stdout) for n in ("linux", "web_2"))
    assert one["uuid"] != other["uuid"] and one["interfaces"][0]["mac"] != other["interfaces"][0]["mac"]
    daemon.cairn("start", "linux", "web_2")
    consoles = [Console(daemon, n) for n in ("linux", "web_2")]
    for c in consoles:
        c.sock.settimeout(180)
        while c.line() != "cairn-guest: ready":
            pass
    source, clone = (identity(c) for c in consoles)
    assert source == IDENTITY and clone["hostname"] == "web-2"
    assert re.fullmatch("[0-9a-f]{32}", clone["machine-id"]) and clone["machine-id"] != source["machine-id"]
    keys = [c.run("ls /mnt/etc/ssh") for c in consoles]
    assert any("ssh_host_rsa_key" in line for line in keys[0]) and not any("ssh_host_rsa_key" in line for line in keys[1])
    # Each writes to its own disk.
    consoles[1].run("write /mnt/etc/note by the clone")
    assert not any("note" in line for line in consoles[0].run("ls /mnt/etc"))
    for c in consoles:
        c.close()
    daemon.cairn("destroy", "linux", "web_2")


def behind(console):
    """Return by how many seconds the guest's time of day is late."""
    now = [float(v.split()[1]) for v in console.run("clock") if v.startswith("realtime")][0]
    return time.time() - now


LATE = 6


@slow_kernel
def test_clone_corrects_its_clock(daemon, image, tmp_path):
    """A clone continues with files and memory; with an agent, its time of day is right after a gap."""
    qcow2 = tmp_path / "vda.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", image, qcow2], check=True)
    console = begin(daemon, disks=[{"path": str(qcow2), "format": "qcow2"}], guest_agent=True)
    console.run("mount /dev/vda /mnt ext2")
    console.run("write /mnt/note by the source")
    console.run("fill-ram 2 7")
    assert daemon.info("linux")["agent"] == "closed"
    console.run("agent work /mnt")
    daemon.cairn("wait", "linux", "--for", "agent", "--timeout", "50")
    daemon.cairn("snapshot-create-as", "linux", "s1")
    daemon.cairn("clone", "--live", "linux", "copy")
    copy = Console(daemon, "copy")
    copy.sock.settimeout(180)
    assert copy.run("read /mnt/note") == ["by the source"]
    copy.run("verify-ram")
    until(lambda: any("reseeded due to virtual machine fork" in l for l in copy.run("dmesg 60")))
    copy.run("write /mnt/note by the clone")
    copy.run("sync")
    assert console.run("read /mnt/note") == ["by the source"]
    assert not any("reseeded due to" in l for l in console.run("dmesg 20"))
    until(lambda: {"time", "name copy"} <= set(copy.run("agent-log")))
    assert not any(l.startswith("name") for l in console.run("agent-log"))
    daemon.cairn("destroy", "copy")
    copy.close()
    time.sleep(LATE)
    daemon.cairn("snapshot-revert", "linux", "s1")
    while "time" not in console.run("agent-log"):
        time.sleep(0.1)
    until(lambda: behind(console) < LATE - 1)  # more than that only while the machine stands still
    console.close()
    daemon.cairn("destroy", "linux")


@slow_kernel
def test_shutdown_by_agent_is_not_restarted(daemon):
    """The VM stays off even if on_poweroff is "restart"."""
    console = begin(daemon, guest_agent=True, on_poweroff="restart")
    q = daemon.qmp()
    console.run("agent work")
    daemon.cairn("wait", "linux", "--for", "agent", "--timeout", "50")
    # Commands of clients go the same way. The long answer takes many buffers of the port.
    assert daemon.cairn("domhostname", "linux").stdout == "cairn-guest\n"
    assert daemon.cairn("guestinfo", "linux", "--os").stdout == f"os.id               : {'x' * 200000}\n"
    assert daemon.cairn("exec", "linux", "--", "true", ok=7).stdout == "hi\n"
    daemon.cairn("suspend", "linux")
    assert "paused" in daemon.cairn("domhostname", "linux", ok=4).stderr
    daemon.cairn("resume", "linux")
    daemon.cairn("shutdown", "--mode", "agent", "linux")
    q.event("VM_STATE_CHANGE", vm="linux", state="shutoff", reason="shutdown")
    assert not [e for e in q.run("query-events")["events"] if e["event"] in ("RESTART_SCHEDULED", "RESET")]
    console.close()


def agent_did(console):
    """Return what the guest's agent did, without the repeated thaws of a guest that answered later than in 5 s."""
    return [word for word in console.run("agent-log") if word != "thaw failed"]


def with_memory(daemon, console, quiesced):
    """The guest is frozen in the snapshot: a revert thaws it, paused in between or not."""
    quiesced("s2")
    console.run("write /mnt/more after s2")
    assert agent_did(console)[-2:] == ["freeze", "thaw"]
    frozen = daemon.cairn("snapshot-info", "linux", "s2").stdout
    assert re.search(r"State: +running", frozen)
    for how in ([], ["--paused"]):
        daemon.cairn("snapshot-revert", "linux", "s2", *how)
        if how:
            daemon.cairn("resume", "linux")
        console.run("write /mnt/more after the way back")  # waits while it is frozen
        until(lambda: agent_did(console)[-3:] == ["freeze", "thaw", "time"])
    console.run("agent stuck")
    quiesced("s3")
    q = daemon.qmp()
    daemon.cairn("snapshot-revert", "linux", "s3")
    q.event("GUEST_FROZEN", vm="linux")
    console.run("agent work")


@slow_kernel
def test_quiesced_snapshot_has_consistent_files(daemon, image, tmp_path):
    """The guest's agent writes data back and freezes; whatever the agent does, the guest continues."""
    qcow2, raw = tmp_path / "vda.qcow2", tmp_path / "then.img"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", image, qcow2], check=True)
    console = begin(daemon, disks=[{"path": str(qcow2), "format": "qcow2"}], guest_agent=True)
    console.run("mount /dev/vda /mnt ext2")

    def quiesced(name, *args, **kwargs):
        return daemon.cairn("snapshot-create-as", "linux", name, "--quiesce", *args, **kwargs)

    console.run("agent garbage /mnt")
    assert "did not answer within 5 s" in quiesced("s0", ok=1).stderr
    console.run("agent refuse")
    assert "cannot freeze its file systems: not today" in quiesced("s0", ok=1).stderr
    console.run("write /mnt/note only in the guest's cache so far")
    console.run("agent work")
    quiesced("s1", "--disk-only")
    console.run("write /mnt/more is possible")
    log = agent_did(console)
    assert log[-2:] == ["freeze", "thaw"] and "freeze failed" in log
    with_memory(daemon, console, quiesced)
    # Right after the pause, not by the agent's timeout.
    assert "frozen for too long" not in daemon.log_of("linux")
    daemon.cairn("suspend", "linux")
    assert "does not run" in quiesced("s0", ok=4).stderr
    daemon.cairn("resume", "linux")
    console.run("sync")
    console.close()
    daemon.cairn("destroy", "linux")
    assert daemon.cairn("snapshot-list", "linux", "--name").stdout.split() == ["s1", "s2", "s3"]
    assert "nothing to quiesce" in quiesced("s0", ok=4).stderr
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", "-l", "s1", qcow2, raw], check=True)
    assert subprocess.run(["/sbin/e2fsck", "-fn", raw], stdout=subprocess.DEVNULL).returncode == 0
    assert subprocess.run(["/sbin/debugfs", "-R", "cat /note", raw], capture_output=True,
                          text=True).stdout.strip() == "only in the guest's cache so far"


ROUNDS = int(os.environ.get("CAIRN_LINUX_ROUNDS", 2))
# Little memory, unless many rounds were requested: memory is slow in an emulated host.
FILL_MIB, DIRTY = (8, "64 1000000 16") if "CAIRN_LINUX_ROUNDS" in os.environ else (2, "16 1000000 4")
SEED = int(os.environ.get("CAIRN_STORM_SEED", 1))
KEPT = 3


class Storm:
    """Linux with a pattern in memory, more of it being dirtied, and disk writes in progress; with the expected
    content: the seeds of memory, and the possible seeds of the disk."""

    def __init__(self, console, rng):
        self.console, self.rng, self.n = console, rng, 0
        self.ram, self.disk = 0, set()

    def begin(self, command):
        self.console.sock.sendall(f"{command}\n".encode())

    def sync(self):
        """The revert may have cut a command in two: the x makes the rest invalid. Earlier commands have ended after
        this."""
        self.n += 1
        self.begin(f" x\necho token{self.n}")
        while not self.console.line().endswith(f"token{self.n}"):
            pass
        while self.console.line() != "ok":
            pass

    def fill(self):
        self.ram = self.rng.randrange(1, 1 << 30)
        self.console.run(f"fill-ram {FILL_MIB} {self.ram}")

    def write_begin(self):
        seed = self.rng.randrange(1, 1 << 30)
        self.begin(f"fill /dev/vda 0 1048576 {seed} direct")
        self.disk = self.disk | {seed}
        return seed

    def verify(self):
        self.console.run(f"verify-ram {self.ram}")
        for seed in sorted(self.disk):
            try:
                self.console.run(f"verify /dev/vda 0 1048576 {seed} direct")
                self.disk = {seed}
                break
            except AssertionError:
                self.sync()
                if seed == max(self.disk):
                    raise
        self.console.run("ticks 20")

    def clock(self):
        return [float(v.split()[1]) for v in self.console.run("clock") if v.startswith("monotonic")][0]


@pytest.mark.seconds(1500 + 20 * ROUNDS)
@one_start
def test_reverts_in_the_middle_of_work(daemon, image, tmp_path):
    """Two vCPUs, timers, disk and memory are busy: at any moment, all of it reverts together."""
    rng = random.Random(SEED)
    qcow2 = tmp_path / "vda.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", image, qcow2], check=True)
    several = KIND != "pvm"  # a second vCPU's start takes minutes where a kernel runs in an emulator
    console = begin(daemon, disks=[{"path": str(qcow2), "format": "qcow2"}], vcpus=1 + several,
                    boot=guestlib.linux_definition(variant="smp" if several else "up")["boot"])
    s = Storm(console, rng)
    s.disk = {s.write_begin()}
    s.sync()
    console.run(f"dirty-ram {DIRTY}")
    saved = {}
    for i in range(ROUNDS):
        s.fill()
        seed = s.write_begin()
        time.sleep(rng.random() * 0.05)
        daemon.cairn("snapshot-create-as", "linux", f"n{i}")
        saved[f"n{i}"] = s.ram, s.disk
        s.sync()
        s.disk = {seed}
        if len(saved) > KEPT:
            name = rng.choice(sorted(saved))
            del saved[name]
            daemon.cairn("snapshot-delete", "linux", name)
        before = s.clock()
        name = rng.choice(sorted(saved))
        daemon.cairn("snapshot-revert", "linux", name)
        s.ram, s.disk = saved[name]
        s.sync()
        s.verify()
        saved[name] = s.ram, s.disk
        assert s.clock() < before + 60  # no gap, in both cases
    log = console.run("dmesg 40")
    assert not [line for line in log if re.search("BUG|Oops|stall|I/O error|lockup", line)], log
    console.close()
    daemon.cairn("destroy", "linux")
    subprocess.run(["qemu-img", "check", "-q", qcow2], check=True)


def cli(*args, ok=0):
    r = subprocess.run([guestlib.CAIRN, *map(str, args)], capture_output=True, stdin=subprocess.DEVNULL, timeout=120)
    assert ok in (None, r.returncode), r
    return r.stdout.decode(), r.stderr.decode()


@slow_kernel
def test_agent_in_the_initramfs(tmp_path):
    """`cairn run --agent`: it starts before init, which runs as always; no daemon is needed to reach it."""
    with tempfile.TemporaryDirectory(prefix="vs-") as folder:
        vm = f"{folder}/s"
        with guestlib.Guest(guestlib.linux_definition(vsock={"path": vm}), ("--agent",)) as g:
            g.expect("cairn-guest: ready", 180)
            g.line()
            # The agent waits for the vsock device beside init, and may listen later than init is ready.
            until(lambda: "nothing in the guest listens" not in cli("exec", vm, "--", "/cairn-agent", "--usage", ok=None)[1])
            out, err = cli("exec", vm, "--", "/cairn-agent", "--usage", ok=1)
            assert not out and "usage: cairn-agent" in err
            _, err = cli("exec", vm, "--", "/missing", ok=127)
            assert "/missing: No such file or directory" in err
            _, err = cli("exec", "-w", "/missing", vm, "--", "/cairn-agent", ok=125)
            assert "the folder /missing" in err
            data = os.urandom(300_000)
            (tmp_path / "tree/empty").mkdir(parents=True)
            (tmp_path / "tree/data").write_bytes(data)
            (tmp_path / "tree/link").symlink_to("data")
            cli("cp", tmp_path / "tree", f"{vm}:/tmp")
            assert "300000" in g.command("sum /tmp/tree/data")[0]
            cli("cp", f"{vm}:/tmp/tree", tmp_path / "back")
            assert (tmp_path / "back/data").read_bytes() == data and (tmp_path / "back/empty").is_dir()
            assert os.readlink(tmp_path / "back/link") == "data"
            press_button(g)


@slow_kernel
def test_command_in_a_guest_of_its_own(tmp_path):
    """test_run_command.py has all else, with the agent on the host."""
    (tmp_path / "vm.json").write_text(json.dumps(guestlib.linux_definition()))
    out, err = cli("run", tmp_path / "vm.json", "--", "/cairn-agent", "--usage", ok=1)
    assert not out and "usage: cairn-agent" in err


@slow_kernel
def test_command_in_a_guest_without_a_definition(image, tmp_path):
    """Options are enough, and what the guest writes to the ephemeral disk vanishes. Init's own root has the volume."""
    (tmp_path / "sub").mkdir()
    with open(image, "rb") as f:
        before = f.read()
    out, err = cli("run", "--kernel", os.path.join(guestlib.linux_kernel(), "vmlinux"), "--initrd", guestlib.linux_initrd(), "--memory", "128M",
                   "--disk", image + ",ephemeral", "-v", f"{tmp_path}:/new/place:ro", "-w", "/new/place/sub", "--", "/cairn-agent", "--usage", ok=1)
    assert not out and "usage: cairn-agent" in err
    with open(image, "rb") as f:
        assert f.read() == before


@slow_kernel
def test_vsock(daemon, tmp_path):
    """Linux's driver echoes, and ends its connections after a revert; a new one works at once."""
    qcow2 = tmp_path / "vda.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", qcow2, "16M"], check=True)
    console = begin(daemon, vsock=True, disks=[{"path": str(qcow2), "format": "qcow2"}])

    def connect():
        console.sock.sendall(b"vsock 52\n")
        while "vsock listens" not in console.line():
            pass
        q = daemon.qmp()
        q.run("vsock-connect", vm="linux", port=52)
        s = socket.socket(fileno=q.fds.pop())
        s.settimeout(60)
        return s

    def ended():
        while console.line() != "ok":
            pass

    with connect() as s:
        data = os.urandom(200_000)  # more than a side keeps
        got, writer = b"", threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR)))
        writer.start()
        while part := s.recv(65536):
            got += part
        writer.join()
        assert got == data
    ended()
    with connect() as s:
        s.sendall(b"before")
        assert s.recv(6) == b"before"
        daemon.cairn("snapshot-create-as", "linux", "s1")
        daemon.cairn("snapshot-revert", "linux", "s1")
        assert s.recv(1) == b""
    while not (line := console.line()).startswith(("ok", "error")):  # the guest's connection has ended, too
        pass
    with connect() as s:
        s.sendall(b"after")
        assert s.recv(5) == b"after"
    ended()
    console.close()


@slow_kernel
def test_quiesced_group_of_two(daemon, image, tmp_path):
    """The guests of a group are frozen at its instant, and thawed whether the group succeeds or not."""
    qcow2 = tmp_path / "vda.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", image, qcow2], check=True)
    console = begin(daemon, disks=[{"path": str(qcow2), "format": "qcow2"}], guest_agent=True)
    console.run("mount /dev/vda /mnt ext2")
    console.run("agent work /mnt")

    def did(c):
        return [word for word in agent_did(c) if word in ("freeze", "thaw")]

    daemon.cairn("clone", "--live", "linux", "twin")
    twin = Console(daemon, "twin")
    daemon.cairn("group-snapshot", "linux", "twin", "--name", "g", "--quiesce")
    for c in (console, twin):
        assert did(c) == ["freeze", "thaw"]
        c.run("write /mnt/more after the group")
    twin.run("agent refuse")
    said = daemon.cairn("group-snapshot", "linux", "twin", "--name", "h", "--quiesce", ok=1).stderr
    assert "VM 'twin': " in said and "cannot freeze its file systems: not today" in said
    for c in (console, twin):
        c.run("write /mnt/more after the failure")
    assert did(console)[-1] == "thaw"
    daemon.cairn("destroy", "twin")
    said = daemon.cairn("group-snapshot", "linux", "twin", "--name", "h", "--quiesce", ok=4).stderr
    assert "VM 'twin' is" in said and "nothing to quiesce" in said
    for name in ("linux", "twin"):
        assert daemon.cairn("snapshot-list", name, "--name").stdout.split() == ["g"]
    twin.close()
    console.close()


@slow_kernel
def test_serial_port_for_a_person(daemon):
    """cairn.port=terminal: the guest echoes what is typed, backspace takes a character back, and Return ends a line."""
    boot = guestlib.linux_definition()["boot"]
    boot["cmdline"] = boot["cmdline"].replace("cairn.port=ttyS0", "cairn.port=terminal")
    console = begin(daemon, boot=boot)
    console.sock.sendall(b"echo onX\x7fe\r")
    assert [console.line() for _ in range(3)] == ["echo onX\b \be", "one", "ok"]
    console.sock.sendall(b"no-such\necho two\r")
    assert [console.line() for _ in range(2)] == ["no-such", "echo two"] and console.line().startswith("error: ")
    assert [console.line() for _ in range(2)] == ["two", "ok"]
    console.close()


@slow_kernel
def test_virtio_console(daemon):
    d = guestlib.linux_definition()
    d["boot"]["cmdline"] = d["boot"]["cmdline"].replace("cairn.port=ttyS0", "cairn.port=hvc0")
    begin(daemon, boot=d["boot"], console={"virtio": True}).close()
    q = daemon.qmp()
    q.run("vm-console", vm="linux", kind="virtio")
    port = Console(daemon, "linux", q.fds.pop())
    assert port.run("echo over hvc0") == ["over hvc0"]
    late = daemon.qmp()
    late.run("vm-console", vm="linux", kind="virtio", history=True)
    again = Console(daemon, "linux", late.fds.pop())
    while again.line() != "over hvc0":  # skip earlier output
        pass
    again.close()
    port.close()
