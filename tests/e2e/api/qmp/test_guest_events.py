"""Events that a guest can repeat at will: a burst is sent, then a count."""

from conftest import until

BURST, WINDOW_S = 20, 10  # base/ratelimit.h
REPEATED = ("WATCHDOG", "DEVICE_NEEDS_RESET", "BLOCK_IO_ERROR", "GUEST_PANICKED", "RESET", "POWERDOWN", "RESET_DELAYED",
            "LINK_LOST", "SNAPSHOT_RECOVERED", "GUEST_FROZEN")


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
