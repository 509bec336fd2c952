"""A VM whose definition has systemd_scope gets a scope of systemd and a machine of systemd-machined. Real systemd-run
and busctl talk to the systemd of tests/e2e/systemdlib.py. `make check-long`, part "systemd", has a real systemd."""

import os
import shutil
import signal
import subprocess

import pytest

from conftest import BUILD, until
from systemdlib import Bus
from test_cgroups import Grouped, group, group_of, sandbox, start  # noqa: F401

pytestmark = [pytest.mark.usefixtures("kvm", "sandbox"),
              pytest.mark.skipif(os.geteuid() != 0, reason="only root's daemon asks for scopes"),
              pytest.mark.skipif(not shutil.which("systemd-run") or not shutil.which("busctl"), reason="no systemd-run or busctl")]

# A host that systemd runs, as far as the daemon and systemd's clients can see. $1: the socket of its bus, and of
# systemd itself, which systemd-run of Debian 13 needs.
BOOTED = ["unshare", "-m", "sh", "-c", "mkdir -p /run/systemd /run/dbus && mount -t tmpfs none /run/systemd && mkdir /run/systemd/system && "
          'mount -t tmpfs none /run/dbus && ln -s "$1" /run/dbus/system_bus_socket && ln -s "$1" /run/systemd/private && shift && exec "$@"', "sh"]
NO_SYSTEMD = ["unshare", "-m", "sh", "-c", 'mkdir -p /run/systemd && mount -t tmpfs none /run/systemd && exec "$@"', "sh"]


@pytest.fixture
def bus(tmp_path, group):  # noqa: F811
    b = Bus(tmp_path / "bus", group)
    yield b
    b.close()


@pytest.fixture
def daemon(tmp_path, bus):
    d = Grouped(tmp_path, "--cgroup", "none", wrapper=[*BOOTED, str(tmp_path / "bus")])
    yield d
    d.close()


def scope_of(d, name="a"):
    return d.info(name)["systemd-scope"]


def is_empty(scope):
    return "populated 0" in (scope / "cgroup.events").read_text()


def holder(scope):
    return (scope / "holder" / "cgroup.procs").read_text().split()


def test_vm_is_in_a_scope_and_a_machine_until_it_ends(daemon, bus, group, guest):  # noqa: F811
    pid = start(daemon, guest, systemd_scope=True)
    until(lambda: "machine" in scope_of(daemon))
    uuid = daemon.info("a")["uuid"]
    unit = f"cairn-vm-{uuid}-1.scope"
    scope = group / "machine.slice" / unit
    assert group_of(pid) == scope / uuid
    assert scope_of(daemon) == {"unit": unit, "machine": "cairn-a"}
    (_, args), = [c for c in bus.calls if c[0] == "StartTransientUnit"]
    properties = dict(args[2])
    assert args[0] == unit and properties["Delegate"] and properties["Description"] == "VM a of Cairn", args
    assert {"cairnd.service", "cairn-guests.service"} <= {u for k, v in args[2] if k == "Before" for u in v}, args
    assert bus.machines == {"cairn-a": [list(bytes.fromhex(uuid.replace("-", ""))), "cairn", "vm", pid, ""]}
    text = daemon.cairn("dominfo", "a").stdout
    assert f"{unit}\n" in text and "cairn-a\n" in text
    assert not [t for t in sandbox(daemon)["lacks"] if t.startswith("systemd_scope")]
    assert len(holder(scope)) == 1
    daemon.cairn("destroy", "a")
    until(lambda: is_empty(scope))
    assert "systemd-scope" not in daemon.info("a")
    # The machine of the last run is still known: it is replaced.
    pid = start(daemon, guest, systemd_scope=True)
    assert group_of(pid).parent.name == f"cairn-vm-{uuid}-2.scope"
    until(lambda: bus.machines.get("cairn-a", [0] * 4)[3] == pid)
    until(lambda: scope_of(daemon).get("machine") == "cairn-a")


def test_scope_outlives_the_daemon(daemon, bus, guest):
    pid = start(daemon, guest, systemd_scope=True)
    until(lambda: "machine" in scope_of(daemon))
    shown, scope = scope_of(daemon), group_of(pid).parent
    for sig in (signal.SIGTERM, signal.SIGKILL):
        daemon.stop(sig)
        until(lambda: not holder(scope))
        bus.calls.clear()
        daemon.start()
        until(lambda: daemon.info("a").get("systemd-scope") == shown)
        assert daemon.info("a")["pid"] == pid and group_of(pid).parent == scope
        assert set(bus.members()) == {"GetMachine"}
        until(lambda: holder(scope))
    daemon.cairn("destroy", "a")
    until(lambda: is_empty(scope))


def test_process_that_takes_the_vm_over_is_in_the_scope_and_is_the_machine(daemon, bus, guest):
    pid = start(daemon, guest, systemd_scope=True)
    until(lambda: "machine" in scope_of(daemon))
    group_before = group_of(pid)
    daemon.cairn("restart-process", "a")
    pid2 = daemon.info("a")["pid"]
    assert pid2 != pid and group_of(pid2) == group_before
    until(lambda: bus.machines.get("cairn-a", [0] * 4)[3] == pid2)


def test_clone_of_a_running_vm_has_a_scope_of_its_own(daemon, bus, guest):
    pid = start(daemon, guest, systemd_scope=True)
    until(lambda: "machine" in scope_of(daemon))
    daemon.cairn("clone", "a", "b", "--live")
    until(lambda: scope_of(daemon, "b").get("machine") == "cairn-b")
    clone = daemon.info("b")
    assert group_of(clone["pid"]).parent.name == clone["systemd-scope"]["unit"]
    assert group_of(pid).parent.name == scope_of(daemon)["unit"] != clone["systemd-scope"]["unit"]


def test_vm_without_the_key_asks_nobody(daemon, bus, guest):
    start(daemon, guest)
    assert bus.calls == [] and "systemd-scope" not in daemon.info("a")


def lack_is(d, why):
    assert why in scope_of(d)["lack"], scope_of(d)
    assert [t for t in sandbox(d)["lacks"] if t.startswith("systemd_scope: ") and why in t]
    assert why in d.cairn("dominfo", "a").stdout and why in d.log.read_text()


@pytest.mark.parametrize("member, why", [("StartTransientUnit", "systemd-run made none; see the daemon's log"),
                                         ("RegisterMachine", "install systemd-machined")])
def test_vm_runs_without_what_is_refused(daemon, bus, guest, member, why):
    bus.fail.add(member)
    pid = start(daemon, guest, systemd_scope=True)
    until(lambda: "lack" in scope_of(daemon))
    lack_is(daemon, why)
    assert (".scope" in str(group_of(pid))) == (member == "RegisterMachine") == ("unit" in scope_of(daemon))
    assert f"{member} is not for you" in daemon.log.read_text()


def test_host_without_systemd_runs_the_vm(tmp_path, guest):
    d = Grouped(tmp_path, "--cgroup", "none", wrapper=NO_SYSTEMD)
    try:
        start(d, guest, systemd_scope=True)
        lack_is(d, "systemd does not run this host; remove systemd_scope from the definition")
    finally:
        d.close()


def start_in_background(d, name):
    return subprocess.Popen([os.path.join(BUILD, "cairn"), "start", name], env=d.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_stuck_bus_holds_one_start_and_nothing_else(daemon, bus, guest):
    bus.hold.add("StartTransientUnit")
    for name in "abc":
        daemon.define(name, debug_exit=True, boot={"kernel": guest("interp.elf")}, systemd_scope=True)
    with start_in_background(daemon, "a") as p:
        until(lambda: "StartTransientUnit" in bus.members())
        daemon.cairn("list", "--all")
        # destroy ends the start at once.
        daemon.cairn("destroy", "a")
        assert "destroyed while starting" in p.communicate()[0] and p.returncode == 1
    until(lambda: "systemd-run" not in daemon.all_children().values())
    assert "did not answer within 10 s" not in daemon.log.read_text()
    # Without destroy, the start continues after a time. The next one does not wait.
    daemon.cairn("start", "b")
    assert "systemd did not answer within 10 s; see systemctl status" in scope_of(daemon, "b")["lack"]
    daemon.cairn("start", "c")
    assert "systemd did not answer another VM within the last minute" in scope_of(daemon, "c")["lack"]
    assert bus.members().count("StartTransientUnit") == 2


def test_registration_without_an_answer_is_tried_again(daemon, bus, guest):
    bus.hold_once.add("cairn-a")
    start(daemon, guest, systemd_scope=True)
    until(lambda: "machine" in scope_of(daemon))
    assert scope_of(daemon).keys() == {"unit", "machine"}
    assert bus.members().count("RegisterMachine") == 2
    failed, registered = (daemon.log.read_text().find(t) for t in (
        "VM 'a': no machine of systemd-machined: systemd-machined did not answer within 10 s; cairn-scope tries again in 10 s",
        "VM 'a': machine cairn-a"))
    assert 0 < failed < registered


def test_vm_that_ends_before_its_registration_leaves_no_scope(daemon, bus, guest):
    bus.hold.add("RegisterMachine")
    pid = start(daemon, guest, systemd_scope=True)
    scope = group_of(pid).parent
    until(lambda: "RegisterMachine" in bus.members())
    daemon.cairn("destroy", "a")
    until(lambda: is_empty(scope))
    assert bus.machines == {}


def is_refused(d, guest, why):
    """The start fails, names the reason and leaves no process."""
    d.define("a", debug_exit=True, boot={"kernel": guest("interp.elf")}, systemd_scope=True)
    r = d.cairn("start", "a", ok=7)
    assert "the VM has no scope of systemd, and cairnd runs with --require-sandbox: " in r.stderr and why in r.stderr, r.stderr
    assert d.info("a")["state"] == "shutoff"
    until(lambda: not {"cairn-vm", "cairn-scope", "systemd-run"} & set(d.all_children().values()))


def test_required_sandbox_refuses_a_vm_to_which_systemd_gives_no_scope(tmp_path, bus, guest):
    bus.fail.add("StartTransientUnit")
    d = Grouped(tmp_path, "--cgroup", "none", "--require-sandbox", wrapper=[*BOOTED, str(tmp_path / "bus")])
    try:
        is_refused(d, guest, "systemd-run made none")
    finally:
        d.close()


def test_required_sandbox_refuses_a_scope_on_a_host_without_systemd(tmp_path, guest):
    d = Grouped(tmp_path, "--cgroup", "none", "--require-sandbox", wrapper=NO_SYSTEMD)
    try:
        is_refused(d, guest, "systemd does not run this host; remove systemd_scope from the definition")
    finally:
        d.close()
