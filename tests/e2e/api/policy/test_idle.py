"""Idle VMs are suspended or saved, and wake on demand."""

import signal

from conftest import Console, until


def asleep(daemon, state, vm="vm1"):
    def true():
        i = daemon.info(vm)
        return (i["state"], i["reason"]) == (state, "idle")
    until(true)


def test_idle_vm_is_suspended_and_woken(daemon, guest, kvm):
    """A busy VM, and a VM with an attached console, keep running."""
    daemon.define("busy", boot={"kernel": guest("interp.elf"), "cmdline": "crash spin"}, idle={"after": "1s"})
    daemon.define("watched", boot={"kernel": guest("idle.elf")}, idle={"after": "1s"})
    daemon.define("vm1", boot={"kernel": guest("idle.elf")}, idle={"after": "1s"})
    daemon.cairn("start", "busy", "watched")
    watching = Console(daemon, "watched")
    q = daemon.qmp()
    daemon.cairn("start", "vm1")
    q.event("STOP", vm="vm1")
    asleep(daemon, "paused")
    console = Console(daemon, "vm1")
    q.event("RESUME", vm="vm1")
    q.event("VM_STATE_CHANGE", vm="vm1", state="running", reason="woken")
    while console.line() != "idle":
        pass
    console.sock.sendall(b"x")
    assert console.sock.recv(1) == b"x"
    console.close()
    asleep(daemon, "paused")  # the idle time starts again
    assert [daemon.info(vm)["reason"] for vm in ("busy", "watched")] == ["booted", "booted"]
    watching.close()
    asleep(daemon, "paused", "watched")
    first = daemon.info("watched")["id"]
    daemon.cairn("reboot", "watched")
    until(lambda: daemon.info("watched")["id"] > first)
    until(lambda: daemon.kept("vm1").get("reason") == "idle")
    daemon.stop(signal.SIGKILL)
    daemon.start()
    asleep(daemon, "paused")
    daemon.cairn("shutdown", "--wait", "vm1")
    assert daemon.info("vm1")["reason"] == "shutdown"


def test_idle_vm_is_saved_and_woken(daemon, guest, kvm):
    for vm in ("vm1", "vm2"):
        daemon.define(vm, boot={"kernel": guest("idle.elf")}, idle={"after": "1s", "action": "save"})
    daemon.cairn("start", "vm1", "vm2")
    for vm in ("vm1", "vm2"):
        asleep(daemon, "saved", vm)
    console = Console(daemon, "vm1")
    console.sock.sendall(b"x")
    while console.sock.recv(1) != b"x":
        pass
    assert daemon.info("vm1")["state"] in ("running", "idle") and daemon.info("vm1")["reason"] == "restored"
    # The console keeps this one awake, and the other sleeps: none is being saved.
    assert daemon.cairn("jobs", "--format", "csv").stdout.count("managed-save") == 0
    console.close()
    q = daemon.qmp()
    daemon.cairn("start", "vm2")
    q.event("VM_STATE_CHANGE", vm="vm2", state="running", reason="restored")


def test_vm_suspended_by_killed_daemon_is_woken(fake):
    """The daemon is killed after it told the VM to stop. The state from before records the intention."""
    fake.define("vm1", "stops-quietly", idle={"after": "1s"})
    fake.cairn("start", "vm1")
    until(lambda: fake.kept("vm1").get("falling_asleep"))
    until(lambda: "stands still" in (fake.state / "vms/vm1/log").read_text())
    fake.stop(signal.SIGKILL)
    fake.start()
    asleep(fake, "paused")
    until(lambda: "falling_asleep" not in fake.kept("vm1"))  # written behind
    Console(fake, "vm1").close()
    until(lambda: fake.info("vm1")["reason"] == "woken")


def test_vm_suspended_by_user_is_not_woken(fake):
    fake.define("vm1", idle={"after": "1s"})
    fake.cairn("start", "vm1")
    fake.cairn("suspend", "vm1")
    Console(fake, "vm1").close()
    assert (fake.info("vm1")["state"], fake.info("vm1")["reason"]) == ("paused", "user")
    assert "is paused" in fake.cairn("shutdown", "vm1", ok=4).stderr
