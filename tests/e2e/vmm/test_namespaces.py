"""The processes of root's daemon leave the host's file systems, network, IPC objects and host name before they read
anything."""

import os
import subprocess

import pytest

from conftest import Console, Daemon, until
from plainlib import qcow2

pytestmark = [pytest.mark.usefixtures("kvm", "sandbox"),
              pytest.mark.skipif(os.geteuid() != 0, reason="a plain user may make no namespaces")]

SHARED, OWN, KEPT = ("mnt", "net"), ("ipc", "uts"), ("pid", "user", "cgroup")


def spaces(pid):
    return {n: os.readlink(f"/proc/{pid}/ns/{n}") for n in (*SHARED, *OWN, *KEPT)}


def assert_caged(pid):
    """The process sees one file system, which is empty and read-only, and a loopback device that is down."""
    with open(f"/proc/{pid}/mountinfo") as f:
        (mount,) = f.readlines()
    root, options, kind = mount.split()[4], mount.split()[5], mount.split(" - ")[1].split()
    assert root == "/" and {"ro", "nosuid", "nodev", "noexec"} <= set(options.split(",")) and kind[0] == "tmpfs", mount
    assert os.listdir(f"/proc/{pid}/root/") == [] and os.readlink(f"/proc/{pid}/cwd") == "/"
    with open(f"/proc/{pid}/net/dev") as f:
        assert [line.split(":")[0].strip() for line in f.readlines()[2:]] == ["lo"]
    with open(f"/proc/{pid}/net/if_inet6") as f:
        assert f.read() == ""  # lo has an address once it is up
    ours, its = spaces("self"), spaces(pid)
    assert {n for n in ours if ours[n] != its[n]} == {*SHARED, *OWN}
    folders = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")
               if os.path.isdir(f"/proc/{pid}/fd/{fd}")]
    assert folders == []
    assert not [fd for fd in os.listdir(f"/proc/{pid}/fd") if os.readlink(f"/proc/{pid}/fd/{fd}").startswith(("mnt:", "net:"))]


def start(daemon, guest, name, **keys):
    daemon.define(name, debug_exit=True, boot={"kernel": guest("interp.elf")}, **keys)
    daemon.cairn("start", name)
    return daemon.info(name)["pid"]


def test_processes_have_an_empty_root_and_no_interfaces(daemon, guest):
    a, b = (start(daemon, guest, name) for name in ("a", "b"))
    assert_caged(a)
    assert_caged(b)
    first, second = spaces(a), spaces(b)
    assert {n for n in first if first[n] == second[n]} == {*SHARED, *KEPT}
    assert daemon.qmp().run("vm-sandbox", vm="a")["lacks"] == []
    assert "keep these namespaces" not in daemon.log.read_text()


def test_restarted_process_and_clone_are_caged(daemon, guest, tmp_path):
    """A process that takes a VM over, and that of a live clone; the guest and its disk go on."""
    pid = start(daemon, guest, "a", disks=[qcow2(tmp_path / "a.qcow2", "16M")])
    console = Console(daemon, "a")
    until(lambda: console.line() == "interp")
    for command in ("open 0", "write 0 4096 1", "flush", "fill 0x1000000 1048576 1"):
        console.run(command)
    daemon.cairn("restart-process", "a")
    assert (successor := daemon.info("a")["pid"]) != pid
    assert_caged(successor)
    daemon.cairn("clone", "--live", "a", "b")
    assert_caged(daemon.info("b")["pid"])
    clone = Console(daemon, "b")
    for c in (console, clone):
        c.run("verify 0 4096 1")
        c.run("check 0x1000000 1048576 1")
    clone.close()
    console.close()


def test_next_daemon_makes_its_own(daemon, guest):
    """VMs go on in the namespaces of a daemon that is gone."""
    old = start(daemon, guest, "a")
    daemon.stop()
    daemon.start()
    assert_caged(old)
    assert daemon.info("a")["pid"] == old
    assert_caged(start(daemon, guest, "b"))


class Without(Daemon):
    """A daemon whose host lacks something."""

    def __init__(self, tmp, *wrapper):
        self.wrapper = wrapper
        super().__init__(tmp)

    def command(self):
        return [*self.wrapper, *super().command()]


def lacks_of(daemon, guest):
    try:
        pid = start(daemon, guest, "a")
        return pid, daemon.qmp().run("vm-sandbox", vm="a"), daemon.log.read_text()
    finally:
        daemon.close()


def test_lacking_right_to_make_namespaces_is_said(guest, tmp_path):
    d = Without(tmp_path, "setpriv", "--bounding-set", "-sys_admin", "--")
    _, o, log = lacks_of(d, guest)
    refused = "Operation not permitted"
    assert [x for x in o["lacks"] if "namespace" in x] == [f"{n} namespace: {refused}" for n in ("mnt", "net", "ipc", "uts")]
    assert o["mounts"] > 1
    assert "warning cairnd/sandbox: VM processes keep these namespaces of the host: " + ", ".join(
        f"{n} ({refused})" for n in ("mnt", "net", "ipc", "uts")) in log


def test_lacking_namespace_is_said_and_others_are_used(guest, tmp_path):
    """The limit is that of a user namespace of the daemon's own."""
    d = Without(tmp_path, "unshare", "--user", "--map-root-user", "sh", "-c",
                'echo 0 >/proc/sys/user/max_net_namespaces && exec "$@"', "sh")
    _, o, log = lacks_of(d, guest)
    full = "net namespace: No space left on device"
    assert [x for x in o["lacks"] if "namespace" in x] == [full]
    assert {n: w for n, w in o["namespaces"].items() if n in (*SHARED, *OWN)} == {
        "mnt": "own", "net": "daemon", "ipc": "own", "uts": "own"}
    assert o["mounts"] == 1
    assert "VM processes keep these namespaces of the host: net (No space left on device)" in log


def test_process_that_reaches_a_limit_goes_on_and_says_so(guest, tmp_path):
    """The host reached its limit of IPC namespaces after the daemon's start."""
    d = Without(tmp_path, "unshare", "--user", "--map-root-user")
    subprocess.run(["nsenter", "--user", "--target", str(d.proc.pid), "sh", "-c", "echo 0 >/proc/sys/user/max_ipc_namespaces"],
                   check=True, timeout=60)
    _, o, log = lacks_of(d, guest)
    assert "keep these namespaces" not in log
    assert o["lacks"][0] == "ipc namespace: see the VM's log; an older version of Cairn may have started the process"
    vm_log = (d.state / "vms" / "a" / "log").read_text()
    assert "warning a: the sandbox lacks namespaces: own IPC namespace: No space left on device" in vm_log
