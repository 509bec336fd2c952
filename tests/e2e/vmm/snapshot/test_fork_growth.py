"""A client that forks a VM and removes the clone, again and again, makes neither the daemon grow, nor the source's
process, nor its image."""

import itertools
import json
import os
import pathlib
import re

import pytest

from conftest import until
from forkpinlib import Vms, off, pins_in
from test_fork_idle_pins import daemon, due  # noqa: F401 (daemon is a fixture)

ROUNDS = int(os.environ.get("CAIRN_GROWTH_ROUNDS", "100"))
WARM = 80  # until the heap has its size
EVENTS = 10000  # EVENT_LOG_MAX


@pytest.fixture(params=[0, 1000], ids=["deleted at once", "waits"])
def waits(request):
    """How long a pin waits, in seconds."""
    return request.param


@pytest.fixture
def vms(daemon, kvm, guest, tmp_path):  # noqa: F811
    v = Vms(daemon, guest, tmp_path)
    yield v
    v.close()


def anonymous(pid):
    """Return the process's own memory, in KiB."""
    return int(re.search(r"RssAnon:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1])


def fork_and_remove(q, rounds):
    """The clone is gone with its end, because it is ephemeral."""
    for _ in range(rounds):
        job = q.run("vm-fork", vm="src", name="c", ephemeral=True)["job"]
        q.event("VM_STATE_CHANGE", vm="c", state="running")
        q.event("JOB_STATUS_CHANGE", type="fork", status="concluded")
        q.run("job-dismiss", id=job)
        q.run("vm-destroy", vm="c")
        q.event("VM_UNDEFINED", vm="c")
        q.events.clear()


def fill_event_log(daemon):  # noqa: F811
    """Let the daemon have as many events as it keeps, of those that the rounds cause."""
    path = daemon.state / "events.jsonl"
    daemon.stop()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    events = [e for e in lines if "event" in e]
    n = itertools.count(1)
    text = [json.dumps({**e, "seq": next(n)}) for e in (events * (EVENTS // len(events) + 1))[:EVENTS]]
    path.write_text("\n".join([json.dumps(lines[0]), *text, ""]))
    daemon.start()


def sizes(daemon, pid):  # noqa: F811
    """Return what the daemon and the source's process have: memory in KiB, files, and the daemon's children."""
    own = [daemon.proc.pid, pid]
    return [anonymous(p) for p in own], [len(os.listdir(f"/proc/{p}/fd")) for p in own], len(daemon.all_children())


@pytest.mark.seconds(100 + ROUNDS)
def test_forks_and_removals_leave_nothing(vms, daemon, tmp_path):  # noqa: F811
    a, stored = tmp_path / "a.qcow2", daemon.state / "pins.json"
    vms.start(vms.image("a.qcow2"))
    vms.close()
    fork_and_remove(daemon.qmp(), 1)
    fill_event_log(daemon)
    q, pid = daemon.qmp(), daemon.info("src")["pid"]
    fork_and_remove(q, WARM)
    memory, files, children = sizes(daemon, pid)
    before = stored.stat().st_size
    fork_and_remove(q, ROUNDS)
    # The heap gets holes, some 0.5 KiB a round at first.
    now = sizes(daemon, pid)
    assert now[0][0] <= memory[0] + 256 + ROUNDS and now[0][1] <= memory[1] + 256, (memory, now)
    until(lambda: sizes(daemon, pid)[1][0] <= files[0] + 2 and sizes(daemon, pid)[1][1] == files[1])
    until(lambda: sizes(daemon, pid)[2] <= children + 1)  # a process that was made ahead comes and goes
    until(lambda: stored.stat().st_size <= before + 100 and len(due(daemon)) <= 1)
    assert len(pins_in(a)) <= 1


def test_forks_of_a_snapshot_of_a_vm_that_is_off_leave_one_pin(vms, daemon, tmp_path):  # noqa: F811
    """The next fork deletes the pin: there is no process that would do so when the clone is removed."""
    a = tmp_path / "a.qcow2"
    vms.start(vms.image("a.qcow2"))
    for i in (1, 2):
        vms.write("src", 0, i)
        daemon.cairn("snapshot-create-as", "src", f"s{i}")
    off(vms, daemon)
    for i in (1, 2, 2, 1):
        vms.fork("c", "--snapshotname", f"s{i}")
        vms.holds("c", 0, i)
        assert len(pins_in(a)) == 1
        vms.fork("d", "--snapshotname", f"s{3 - i}")
        vms.end("c")
        vms.holds("d", 0, 3 - i)
        vms.end("d")
    assert len(due(daemon)) == len(pins_in(a)) == 2
    vms.boot("src")
    until(lambda: not due(daemon))
    assert not pins_in(a)
    vms.holds("src", 0, 2)
