"""The watchdog: it fires when the guest does not reset it in time, and takes its action."""

import json
import time

import pytest

from conftest import Console, Qmp, QmpError, until

BITE = "watchdog start 40"
LONG_MS = 8000  # longer than a busy machine stands still


def bitten(console):
    """The watchdog event. It may come before the guest's answer, so do not wait for that."""
    console.sock.sendall(BITE.encode() + b"\n")


@pytest.fixture
def begin(daemon, guest, kvm):
    """Start vm1 with a watchdog. Return a client of the daemon, one of the VM, and the console."""
    opened = []

    def start(action="reset", define=True, **keys):
        if define:
            daemon.define("vm1", boot={"kernel": guest("interp.elf")},
                          watchdog={"model": "i6300esb", "action": action}, **keys)
        q = daemon.qmp()
        daemon.cairn("start", "vm1")
        vm = Qmp(daemon.cairn("qmp-path", "vm1").stdout.rstrip("\n"))
        console = Console(daemon, "vm1")
        opened.extend((vm, console))
        while console.line() != "interp":
            pass
        return q, vm, console

    yield start
    for x in opened:
        x.close()


def shown(console):
    return dict(w.split("=") for w in console.run("watchdog show")[0].split())


def state(daemon):
    return daemon.cairn("domstate", "--reason", "vm1").stdout.rstrip("\n")


def test_watchdog_resets_guest(daemon, begin):
    q, vm, console = begin()
    assert shown(console)["reload"] == "0x0"
    bitten(console)
    assert q.event("WATCHDOG", vm="vm1")["data"] == {
        "vm": "vm1", "vm-uuid": daemon.info("vm1")["uuid"], "action": "reset"}
    assert q.event("RESET", vm="vm1")["data"]["guest"]
    assert vm.event("WATCHDOG")["data"] == {"action": "reset"}
    vm.event("RESET")
    while not console.line().endswith("interp"):  # part of an answer may precede it
        pass
    # The guest can read once why it restarted; and the watchdog is off until it is enabled.
    assert shown(console) == {"config": "0x0", "lock": "0x0", "stage1": "0xfffff", "stage2": "0xfffff",
                              "reload": "0x1200"}
    console.run("watchdog clear")
    assert shown(console)["reload"] == "0x0"


def test_watchdog_reset_follows_on_reboot(daemon, begin):
    _, _, console = begin(on_reboot="destroy")
    bitten(console)
    daemon.wait("vm1", "shutoff")
    assert state(daemon) == "shut off (guest reset)"


def test_watchdog_shuts_guest_down(daemon, begin):
    """No user asked for this shutdown, so on_poweroff applies."""
    _, vm, console = begin("shutdown", on_poweroff="restart")
    console.run("button init")
    console.run(BITE)
    assert vm.event("WATCHDOG")["data"] == {"action": "shutdown"}
    vm.event("POWERDOWN")
    console.run("button wait")
    console.sock.sendall(b"poweroff\n")
    vm.event("RESET")
    while console.line() != "interp":
        pass


def test_watchdog_powers_vm_off(daemon, begin):
    q, vm, console = begin("poweroff", on_poweroff="restart", on_crash="restart")
    bitten(console)
    assert vm.event("SHUTDOWN")
    q.event("VM_STATE_CHANGE", vm="vm1", state="shutoff")
    assert state(daemon) == "shut off (watchdog)"


def test_watchdog_pauses_vm(daemon, begin):
    _, vm, console = begin("pause")
    bitten(console)
    vm.event("STOP")
    assert state(daemon) == "paused (watchdog)"
    assert vm.run("query-status") == {"status": "watchdog", "running": False, "singlestep": False}
    daemon.cairn("resume", "vm1")
    while console.line() != "ok":
        pass
    assert shown(console)["reload"] == "0x1200"


def test_watchdog_action_can_change_at_run_time(daemon, begin):
    _, vm, console = begin("inject-nmi")
    console.run(BITE)
    assert vm.event("WATCHDOG")["data"] == {"action": "inject-nmi"}
    until(lambda: "vector=0x2 count=1" in console.run("irqs"))
    assert vm.run("watchdog-set-action", action="none") == {}
    console.run(BITE)
    assert vm.event("WATCHDOG")["data"] == {"action": "none"}
    assert shown(console)["lock"] == "0x0"
    assert vm.run("watchdog-set-action", action="pause") == {}
    bitten(console)
    assert [vm.event(e)["event"] for e in ("WATCHDOG", "STOP")] == ["WATCHDOG", "STOP"]
    with pytest.raises(QmpError, match="Invalid parameter 'dump'"):
        vm.run("watchdog-set-action", action="dump")


def test_watchdog_does_not_fire_when_guest_resets_it(daemon, begin):
    _, _, console = begin("poweroff")
    begun = time.monotonic()
    console.run(f"watchdog start {LONG_MS}")
    while time.monotonic() < begun + LONG_MS / 1000 + 1:
        console.run("watchdog ping")
    assert (shown(console)["lock"], shown(console)["reload"]) == ("0x2", "0x0")
    console.run("watchdog stop")
    assert shown(console)["lock"] == "0x0"


def test_watchdog_time_stops_while_vm_is_paused(daemon, begin):
    """Over a pause, a managed save and a start from it."""
    q, vm, console = begin("pause")
    console.run(f"watchdog start {LONG_MS}")
    q.run("vm-suspend", vm="vm1")
    daemon.cairn("managedsave", "vm1")
    daemon.cairn("start", "vm1")
    q = daemon.qmp(timeout=LONG_MS / 1000 + 1)
    with pytest.raises(TimeoutError):
        q.event("WATCHDOG", vm="vm1")
    q = daemon.qmp()
    daemon.cairn("resume", "vm1")
    q.event("WATCHDOG", vm="vm1")
    q.event("STOP", vm="vm1")
    assert state(daemon) == "paused (watchdog)"


def test_guest_without_watchdog_finds_none(daemon, guest, kvm):
    daemon.define("vm1", boot={"kernel": guest("interp.elf")})
    daemon.cairn("start", "vm1")
    console = Console(daemon, "vm1")
    while console.line() != "interp":
        pass
    with pytest.raises(AssertionError, match="no watchdog"):
        console.run("watchdog show")
    console.close()


@pytest.mark.parametrize("watchdog, sentence", [
    ({"model": "ib700"}, 'watchdog.model: "ib700" is not'),
    ({"action": "explode"}, 'watchdog.action: "explode" is not'),
    ({"timeout": 3}, 'watchdog: "timeout" is not a key; known here: model, action'),
    ("i6300esb", "watchdog: must be an object"),
])
def test_invalid_watchdog_definition_is_refused(fake, watchdog, sentence):
    r = fake.cairn("define", fake.write("vm1", watchdog=watchdog), ok=None)
    assert r.returncode and sentence in r.stderr


def test_watchdog_definition_is_printed_unchanged(fake):
    fake.define("vm1", watchdog={})
    d = json.loads(fake.cairn("dumpjson", "vm1").stdout)
    assert d["watchdog"] == {"model": "i6300esb", "action": "reset"}
