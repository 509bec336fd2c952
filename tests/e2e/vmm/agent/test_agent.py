"""The daemon's knowledge of the guest agent; test_linux.py has a real agent."""

import os
import signal
import subprocess

from conftest import BUILD, Qmp


def test_agent_state_changes_are_reported(fake):
    fake.define("vm1", cmdline=f"agent-after=1 when={fake.tmp}/go", guest_agent=True)
    q = fake.qmp()
    fake.cairn("start", "vm1")
    own = Qmp(fake.cairn("qmp-path", "vm1").stdout.rstrip("\n"))
    (fake.tmp / "go").touch()
    fake.cairn("wait", "vm1", "--for", "agent", "--timeout", "45")
    vm = {"vm": "vm1", "vm-uuid": fake.info("vm1")["uuid"]}
    assert q.event("VSERPORT_CHANGE", vm="vm1")["data"] == {**vm, "id": "guest-agent0", "open": True}
    assert q.event("AGENT", vm="vm1")["data"] == {**vm, "connected": True}
    assert own.event("VSERPORT_CHANGE")["data"] == {"id": "guest-agent0", "open": True}
    assert fake.info("vm1")["agent"] == "connected"
    fake.cairn("wait", "vm1", "--for", "agent", "--timeout", "0")
    own.close()


def test_next_daemon_knows_agent_state(fake):
    fake.define("vm1", cmdline="agent-after=1", guest_agent=True)
    fake.cairn("start", "vm1")
    fake.cairn("wait", "vm1", "--for", "agent", "--timeout", "45")
    fake.stop(signal.SIGKILL)
    fake.start()
    fake.cairn("wait", "vm1", "--for", "agent", "--timeout", "45")


def test_wait_for_agent_times_out(fake):
    fake.define("vm1", guest_agent=True)
    fake.cairn("start", "vm1")
    assert fake.info("vm1")["agent"] == "closed"
    r = fake.cairn("wait", "vm1", "--for", "agent", "--timeout", "0.2", ok=None)
    assert r.returncode and r.stderr.startswith("error: No guest agent answers in domain 'vm1'\n") and "qemu-guest-agent" in r.stderr


def test_wait_for_agent_fails_without_port(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    assert "agent" not in fake.info("vm1")
    r = fake.cairn("wait", "vm1", "--for", "agent", "--timeout", "45", ok=None)
    assert r.returncode and '"guest_agent": true' in r.stderr


def test_wait_for_agent_includes_start(fake):
    fake.define("vm1", cmdline="agent-after=1", guest_agent=True)
    waits = subprocess.Popen([os.path.join(BUILD, "cairn"), "wait", "vm1", "--for", "agent", "--timeout", "30"], env=fake.env)
    fake.cairn("start", "vm1")
    assert waits.wait(30) == 0
