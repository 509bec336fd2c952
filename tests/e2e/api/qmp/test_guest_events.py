"""Events that a guest can repeat at will: a burst is sent, then a count. A flood of them harms nobody."""

import signal

from conftest import Console, until

BURST, WINDOW_S = 20, 10  # base/ratelimit.h
REPEATED = ("WATCHDOG", "DEVICE_NEEDS_RESET", "BLOCK_IO_ERROR", "GUEST_PANICKED", "RESET", "POWERDOWN", "RESET_DELAYED",
            "LINK_LOST", "DEVICE_TRAY_MOVED", "SNAPSHOT_RECOVERED", "GUEST_FROZEN")


def told(q, name):
    return q.run("query-events", event=name, vm="vm1")["events"]


def test_repeated_guest_events_are_rate_limited(fake):
    fake.define("vm1", cmdline="repeats-after=1", guest_agent=True)
    fake.define("vm2")
    fake.cairn("start", "vm1")
    q = fake.qmp()
    until(lambda: fake.info("vm1").get("agent") == "open" and len(told(q, "RESET")) >= BURST)
    fake.cairn("start", "vm2")
    until(lambda: fake.info("vm1")["agent"] == "open" and told(q, "VSERPORT_CHANGE")[-1]["data"]["open"])
    for name in (*REPEATED, "VSERPORT_CHANGE"):
        events = told(q, name)
        # A daemon that was delayed for longer than a window would send some of the next.
        assert BURST <= len(events) <= BURST + 2, name
    assert q.run("query-events", vm="vm2")["events"]


def test_client_sees_its_own_powerdown_after_a_flood(fake):
    fake.define("vm1", cmdline="repeats-after=1 deaf", guest_agent=True)
    fake.cairn("start", "vm1")
    q = fake.qmp()
    until(lambda: len(told(q, "GUEST_FROZEN")) >= BURST and fake.info("vm1").get("agent") == "open")
    for _ in range(5):
        before = len(told(q, "POWERDOWN"))
        q.run("vm-shutdown", vm="vm1", mode="acpi")
        until(lambda: len(told(q, "POWERDOWN")) > before)


def test_flood_of_events_at_a_stopped_daemon_harms_no_vm(daemon, guest, kvm):
    """The socket between VM and daemon holds some 170 events. The VM used to close the full socket, and the daemon then
    killed the VM."""
    daemon.define("vm1", boot={"kernel": guest("interp.elf")}, on_poweroff="preserve")
    daemon.cairn("start", "vm1")
    console, pid = Console(daemon, "vm1"), daemon.info("vm1")["pid"]
    until(lambda: console.line() == "interp")
    daemon.proc.send_signal(signal.SIGSTOP)
    for _ in range(400):
        console.run("outb 0x505 2")  # pvpanic: a crash kernel takes over
    daemon.proc.send_signal(signal.SIGCONT)
    daemon.cairn("suspend", "vm1")
    daemon.cairn("resume", "vm1")
    daemon.proc.send_signal(signal.SIGSTOP)
    for _ in range(400):
        console.run("outb 0x505 2")
    console.sock.sendall(b"poweroff\n")
    daemon.proc.send_signal(signal.SIGCONT)
    until(lambda: daemon.info("vm1")["state"] == "paused")
    assert daemon.info("vm1")["reason"] == "shutdown"
    assert daemon.info("vm1")["pid"] == pid
    daemon.cairn("destroy", "vm1")
