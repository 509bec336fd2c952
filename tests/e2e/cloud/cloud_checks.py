"""Two Debian cloud guests on the network `default`, for long_cloud.py: runs in the emulated SVM host. CAIRN_DEBIAN is
the folder of the image. The tests share one daemon and both guests, in this order."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import threading
import time

import pytest

from conftest import BUILD, Console, Daemon
from hostnetlib import Host

STATE = "/var/lib/cairn"
IMAGE = os.environ.get("CAIRN_DEBIAN", "")
SECONDS = 400  # times 10 in the SVM host
COPY_SECONDS = 1800  # one way, and a checksum; minutes on a busy machine
COPY_BYTES = 100 << 20
RESET_SECONDS = 120  # one, in a host that is emulated; only cairn can send it
NAMES = ("web1", "web2")
CMDLINE = "root=/dev/vda ro console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on"
CMDLINE += " systemd.default_timeout_start_sec=0 systemd.service_watchdogs=no"  # 0: no limit; the host may be slow
# The second guest is there for the network, and does without cloud-init, which takes most of a start.
PLAIN = " cloud-init=disabled systemd.hostname=web2 ip=dhcp"

pytestmark = [pytest.mark.skipif(not IMAGE, reason="long_cloud.py runs this file"), pytest.mark.seconds(SECONDS)]
BEGIN = time.monotonic()


def note(text):
    """Print how long it took so far; the run's output has it."""
    print(f"cloud: {time.monotonic() - BEGIN:6.1f} s {text}", flush=True)


class SystemDaemon(Daemon):
    """The system's daemon, which has the network `default`, in a host's network namespace."""

    def __init__(self, tmp, host):
        self.host = host
        shutil.rmtree(STATE, ignore_errors=True)  # the machine's own, below an overlay
        super().__init__(tmp)
        self.state = pathlib.Path(STATE)

    def command(self):
        return [*self.host.enter, os.path.join(BUILD, "cairnd")]

    def cairn(self, *args, ok=True, **more):
        """Try again what a guest on a busy machine did not answer in time."""
        while True:
            r = super().cairn(*args, ok=None, **more)
            if "did not answer within" not in r.stderr or args[0] == "wait":
                break
        if ok is not None:
            assert (r.returncode == 0) == ok if isinstance(ok, bool) else r.returncode == ok, r
        return r

    def text(self, *args, **more):
        return self.cairn(*args, **more).stdout

    def json(self, *args):
        return json.loads(self.text(*args, "--format", "json"))


def console_keep(d, name):
    """Write what the guest prints to a file that outlives the emulated host."""
    console = Console(d, name)
    console.sock.settimeout(None)

    def copy():
        with open(f"/host-share/{name}.console", "wb", 0) as f, contextlib.suppress(OSError):
            while data := console.sock.recv(65536):
                f.write(data)
    threading.Thread(target=copy, daemon=True).start()


def disk_boots_by_kernel(d, name, disks, **keys):
    """Define a VM that boots the image, which has no boot loader, by its kernel."""
    cmdline = CMDLINE + (PLAIN if name == "web2" else "")
    d.define(name, memory="512M", guest_agent=True, vsock=True, rng=True,
             boot={"kernel": f"{IMAGE}/vmlinuz", "initrd": f"{IMAGE}/initrd", "cmdline": cmdline}, disks=disks, **keys)


def new_vm(d, name):
    """Make the VM as a user would, by one command; only the firmware cannot boot it."""
    d.cairn("new", name, "--image", f"{IMAGE}/disk.img", "--image-format", "raw", "--size", "3G", "--memory", "512M", "--network", "default",
            "--folder", str(d.tmp), "--user", "carol", "--ssh-key", f"{d.key}.pub", "--ssh-over-vsock", "--no-start")
    made = d.json("dumpjson", name)
    assert made["vsock"] and made["rng"]
    disk_boots_by_kernel(d, name, made["disks"], interfaces=made["interfaces"])


def plain_vm(d, name):
    disk = d.tmp / f"{name}.qcow2"
    subprocess.run([os.path.join(BUILD, "cairn-img"), "create", "-q", "-f", "qcow2", "-b", f"{IMAGE}/disk.img", "-F", "raw", disk],
                   check=True)
    disk_boots_by_kernel(d, name, [{"id": "vda", "path": str(disk), "format": "qcow2", "backing": [{"path": f"{IMAGE}/disk.img", "format": "raw"}]}],
                         interfaces=[{"type": "network", "source": "default"}])


def guest_start(d, name):
    (plain_vm if name == "web2" else new_vm)(d, name)
    d.cairn("start", name)
    console_keep(d, name)
    note(f"{name} started")


def wait_for_agent(d, name):
    """Wait as long as the test may take: a start takes a minute, on a busy machine ten."""
    while d.cairn("wait", name, "--for", "agent", "--timeout", "60", ok=None).returncode:
        pass
    note(f"{name}: the agent answers")


@pytest.fixture(scope="module")
def cloud():
    """A network namespace with an uplink, a daemon, the network `default` and a guest that has started."""
    with tempfile.TemporaryDirectory(prefix="cloud-") as name:
        tmp = pathlib.Path(name)
        key = tmp / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        host = Host(tmp)
        d = SystemDaemon(tmp, host)
        d.key = key
        # The command line's ssh reads the configuration of the user, root.
        os.makedirs("/root/.ssh", exist_ok=True)
        pathlib.Path("/root/.ssh/config").write_text(f"IdentityFile {key}\nIdentitiesOnly yes\n")
        try:
            d.cairn("net-start", "default")
            guest_start(d, "web1")
            yield d
            d.close()
        finally:
            if d.proc.poll() is None:
                d.stop()
            host.close()


def test_seed_of_a_new_vm_is_applied(cloud):
    wait_for_agent(cloud, "web1")
    assert "Debian GNU/Linux" in cloud.text("guestinfo", "web1", "--os")
    r = cloud.cairn("exec", "web1", "--", "cloud-init", "status", "--wait", "--long", ok=None)
    note(f"web1: cloud-init: {r.returncode} {r.stdout!r} {r.stderr!r}")
    assert "status: done" in r.stdout
    assert cloud.text("exec", "web1", "--", "hostname") == "web1\n"
    assert cloud.text("exec", "web1", "--user", "carol", "--", "sudo", "id", "-u") == "0\n"
    key = pathlib.Path(f"{cloud.key}.pub").read_text()
    assert key.split()[1] in cloud.text("exec", "web1", "--", "cat", "/home/carol/.ssh/authorized_keys")
    assert int(cloud.text("exec", "web1", "--", "findmnt", "-bno", "SIZE", "/")) > 5 << 29  # of the 3 GiB, more than the image's 2


def address(d, name):
    mac, = (i["mac"] for i in d.json("dumpjson", name)["interfaces"])
    lease, = (x for x in d.json("net-dhcp-leases", "default") if x["mac"] == mac)
    return lease


def test_guest_reaches_a_host_outside_through_nat(cloud):
    outside = cloud.host.outside
    with outside.listen("10.9.0.1") as listener:
        port = listener.getsockname()[1]
        script = f"exec 3<>/dev/tcp/10.9.0.1/{port}; echo from the guest >&3; cat <&3"
        r = subprocess.Popen([os.path.join(BUILD, "cairn"), "exec", "web1", "--", "bash", "-c", script], env=cloud.env, text=True,
                             stdout=subprocess.PIPE)
        conn, (peer, _) = listener.accept()
        with conn:
            conn.settimeout(60)
            assert peer == "10.9.0.2"  # the host's own address
            assert conn.makefile().readline() == "from the guest\n"
            conn.sendall(b"from outside\n")
        assert r.communicate(timeout=60)[0] == "from outside\n"
    assert " 0% packet loss" in cloud.text("exec", "web1", "--", "ping", "-c", "1", "-W", "10", "10.9.0.1")


def test_exec_passes_streams_and_status(cloud):
    r = cloud.cairn("exec", "web1", "--env", "A=b", "--workdir", "/tmp", "-i", "--", "sh", "-c", "cat; pwd; echo $A >&2; exit 7",
                    ok=7, input="in\n", stdin=None)
    assert (r.stdout, r.stderr) == ("in\n/tmp\n", "b\n")


def test_ssh_over_vsock(cloud):
    assert cloud.text("ssh", "carol@web1", "sudo", "hostname") == "web1\n"
    assert cloud.cairn("ssh", "nobody@web1", "true", ok=None).returncode == 255  # only this key's user


def test_ssh_by_network(cloud):
    cloud.cairn("exec", "web1", "--", "systemctl", "disable", "--now", "cairn-ssh.socket")
    # ssh runs on the host that has the network.
    r = subprocess.run([*cloud.host.enter, os.path.join(BUILD, "cairn"), "ssh", "carol@web1", "hostname"], env=cloud.env, text=True,
                       stdin=subprocess.DEVNULL, capture_output=True, timeout=500)
    assert r.stdout == "web1\n", r


def digest(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else hashlib.sha256(f.read()).hexdigest()


def test_copy_of_100_mb_has_the_same_checksum(cloud):
    here, back = cloud.tmp / "big", cloud.tmp / "back"
    here.write_bytes(os.urandom(1 << 20) * (COPY_BYTES >> 20))
    cloud.cairn("cp", str(here), "web1:/var/tmp/big", timeout=COPY_SECONDS)
    note("100 MB copied into the guest")
    assert cloud.text("exec", "web1", "--", "sha256sum", "/var/tmp/big", timeout=COPY_SECONDS).split()[0] == digest(here)
    cloud.cairn("cp", "web1:/var/tmp/big", str(back), timeout=COPY_SECONDS)
    note("100 MB copied out of the guest")
    assert digest(back) == digest(here)
    back.unlink()
    here.unlink()


ECHO = """
import socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(1000):
            self.request.sendall(data)
socketserver.ThreadingTCPServer(("", 7), Echo).serve_forever()
"""


def echoes(sock, data):
    sock.sendall(data)
    return sock.recv(len(data), socket.MSG_WAITALL) == data


def test_revert_resets_the_connection_that_has_moved_and_the_quiet_one_goes_on(cloud):
    cloud.cairn("exec", "web1", "--", "systemd-run", "--unit", "echo", "python3", "-c", ECHO)
    where, sockets = (address(cloud, "web1")["address"], 7), []
    while len(sockets) < 2:  # until the server listens
        sock = cloud.host.connect(where)
        if sock:
            sock.settimeout(120)
            sockets.append(sock)
    quiet, moved = sockets
    assert echoes(quiet, b"before") and echoes(moved, b"before")
    cloud.cairn("snapshot-create-as", "web1", "s1")
    note("snapshot")
    assert echoes(moved, b"after the snapshot")
    cloud.cairn("snapshot-revert", "web1", "s1")
    note("reverted")
    moved.settimeout(RESET_SECONDS)
    with pytest.raises(ConnectionResetError):
        moved.recv(1)
    note("reset")
    assert echoes(quiet, b"after the revert")
    with cloud.host.connect(where) as new:
        new.settimeout(120)
        assert echoes(new, b"a new connection")
    for sock in sockets:
        sock.close()


def test_two_guests_know_their_addresses_and_names(cloud):
    guest_start(cloud, "web2")
    wait_for_agent(cloud, "web2")
    found = {}
    for vm in NAMES:
        lease = address(cloud, vm)
        assert lease["name"] == vm, lease
        found[vm] = lease["address"]
        assert cloud.text("wait", vm, "--for", "ip", "--timeout", "60").strip() == found[vm]
    for vm, other in (NAMES, NAMES[::-1]):
        assert cloud.text("exec", vm, "--", "getent", "ahostsv4", other).split()[0] == found[other]
        assert " 0% packet loss" in cloud.text("exec", vm, "--", "ping", "-c", "2", "-W", "10", other)
    note(f"addresses {found}")


def test_net_destroy_leaves_nothing(cloud):
    assert "in use" in cloud.cairn("net-destroy", "default", ok=False).stderr
    for vm in NAMES:
        cloud.cairn("shutdown", vm)
    for vm in NAMES:
        cloud.wait(vm, "shutoff")
    note("guests off")
    cloud.cairn("net-destroy", "default")
    assert cloud.host.ip("link", "show", "type", "bridge") == []
