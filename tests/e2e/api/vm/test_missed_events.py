"""Events that a client fetches later by their numbers (query-events)."""

import json
import os
import signal
import time

import pytest

from conftest import has_ended, until
from daemonlib import kept_events, pid_of


def test_missed_events_can_be_fetched(fake):
    q = fake.qmp()
    fake.define("vm1")
    fake.cairn("start", "vm1")
    last = q.event("VM_STATE_CHANGE", vm="vm1")["seq"]
    q.close()
    fake.cairn("suspend", "vm1")
    fake.define("vm2")
    want = [("STOP", "vm1"), ("VM_STATE_CHANGE", "vm1"), ("VM_DEFINED", "vm2")]
    assert [(e["event"], e["data"]["vm"]) for e in kept_events(fake, since=last)] == want
    pid = pid_of(fake, "vm1")
    fake.stop(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    while not has_ended(pid):
        time.sleep(0.01)
    fake.start()
    # The next daemon reports what happened while none ran.
    got = kept_events(fake, since=last)
    assert [(e["event"], e["data"]["vm"]) for e in got] == want + [("VM_STATE_CHANGE", "vm1")]
    assert got[-1]["data"]["state"] == "crashed"
    assert [e["seq"] for e in got] == list(range(last + 1, last + 5))
    assert [e["event"] for e in kept_events(fake, vm="vm2")] == ["VM_DEFINED"]
    assert [e["data"]["vm"] for e in kept_events(fake, event="VM_DEFINED")] == ["vm1", "vm2"]
    out = fake.cairn("event", "--since", str(last), "--event", "STOP", "--format", "json").stdout
    assert json.loads(out) == got[0]
    assert fake.cairn("event", "--since", str(last), "--loop", "--timeout", "0.1").stdout.count(
        "event '") == 4
    fake.cairn("event", "--since", "x", ok=2)


def test_event_is_sent_although_daemon_is_killed_before_state_is_stored(fake):
    """A state is reported at once and written soon after, so a daemon that was killed in between has reported too
    much."""
    for n in ("vm1", "vm2"):
        fake.define(n)
        fake.cairn("start", n)
        until(lambda: fake.kept(n).get("state") == "running")
    fake.stop(signal.SIGKILL)
    events = fake.state / "events.jsonl"
    lines = events.read_text().splitlines()
    ev = json.loads(next(l for l in reversed(lines) if "VM_STATE_CHANGE" in l and "vm1" in l))
    ev["data"].update({"from": "running", "state": "in-shutdown"})
    ev["seq"] = json.loads(lines[-1])["seq"] + 1
    events.write_text("\n".join(lines + [json.dumps(ev)]) + "\n")
    fake.start()
    got = kept_events(fake, since=ev["seq"])
    assert [(e["event"], e["data"]["vm"], e["data"]["from"], e["data"]["state"]) for e in got] == [
        ("VM_STATE_CHANGE", "vm1", "in-shutdown", "running")]
    fake.stop(signal.SIGKILL)
    fake.start()
    assert kept_events(fake, since=got[0]["seq"]) == []


@pytest.mark.parametrize("how, ends", [("destroy", True), ("suspend", False)])
def test_change_that_was_told_is_not_told_again(fake, how, ends):
    """state.json does not have the change yet when the daemon is killed."""
    fake.define("vm1")
    fake.cairn("start", "vm1")
    until(lambda: fake.kept("vm1").get("state") == "running")
    state = fake.state / "vms/vm1/state.json"
    stale = state.read_bytes()
    fake.cairn(how, "vm1")
    told = kept_events(fake)
    fake.stop(signal.SIGKILL)
    state.write_bytes(stale)
    fake.start()
    assert kept_events(fake) == told and fake.info("vm1")["state"] == ("shutoff" if ends else "paused")
    fake.cairn("start" if ends else "resume", "vm1")
    change = kept_events(fake)[-1]["data"]
    assert (change["from"], change["state"]) == ("shutoff" if ends else "paused", "running")


def test_event_numbers_are_never_reused(fake):
    seen = []
    for i in range(8):
        q = fake.qmp()
        fake.define(f"vm{i}")
        seen.append(q.event("VM_DEFINED")["seq"])
        fake.stop(signal.SIGKILL)
        fake.start()
    assert seen == sorted(set(seen))
    assert [e["seq"] for e in kept_events(fake)] == seen
    # A power cut: another boot, half a line, and unsynced data is missing.
    fake.stop(signal.SIGKILL)
    f = fake.state / "events.jsonl"
    lines = f.read_text().replace('{"boot":"', '{"boot":"another').splitlines()
    at = next(i for i, l in enumerate(lines) if "vm6" in l)
    f.write_text("\n".join(lines[:at] + [lines[at][:20]]))
    fake.start()
    assert len(kept_events(fake)) == 6
    q = fake.qmp()
    fake.define("after")
    assert q.event("VM_DEFINED")["seq"] > seen[-1] + 1000


def test_last_ten_thousand_events_are_kept(fake):
    fake.stop()
    line = '{"timestamp":{"seconds":1,"microseconds":1},"event":"STOP","data":{"vm":"vm1"},"seq":%d}\n'
    (fake.state / "events.old.jsonl").write_text("".join(line % i for i in range(1, 10001)))
    (fake.state / "events.jsonl").write_text("".join(line % i for i in range(10001, 20000)))
    fake.start()
    fake.define("vm1")
    fake.define("vm2")  # and the file is rotated
    q = fake.qmp()
    page = q.run("query-events", since=5)
    assert page["lost"] is True
    assert page["events"][0]["seq"] > 10000 and page["last"] > 20000
    got = kept_events(fake)
    assert len(got) == 10000 and got[-1]["data"]["vm"] == "vm2"
    assert not q.run("query-events", since=got[0]["seq"])["lost"]
    fake.stop()
    assert len((fake.state / "events.jsonl").read_text().splitlines()) < 100
    fake.start()
    assert kept_events(fake) == got
