"""A file system fills while twenty VMs write to it."""
import threading

import pytest

from conftest import Console, until
from test_disk_errors import MIB, Small, image_with, run

VMS = 20
ROOM = MIB  # what the file system has for all of them
WRITES, SECTORS = 20, 128  # of each VM: more than ROOM, so none ends before the file system is full
KINDS = [(fmt, bus) for fmt in ("qcow2", "raw") for bus in ("virtio", "scsi")]


class Guest:
    def __init__(self, daemon, kernel, number, folder):
        self.fmt, bus = KINDS[number % len(KINDS)]
        self.daemon, self.number, self.name = daemon, number, f"vm{number}"
        self.image = image_with(folder / f"img{number}", self.fmt, "4M")
        self.open = "open 0" if bus == "virtio" else "sopen 0 512"
        self.done, self.thread = 0, threading.Thread(target=self.write)
        daemon.define(self.name, memory="24M", boot={"kernel": kernel}, debug_exit=True,
                      disks=[{"id": "vda", "bus": bus, "path": str(self.image), "format": self.fmt}])

    def connect(self):
        self.console = Console(self.daemon, self.name)
        self.console.sock.settimeout(100)  # a write waits while all VMs pause, twice
        while self.console.line() != "interp":
            pass
        self.console.run(self.open)

    def write(self):
        for i in range(WRITES):
            self.console.run(f"write {i * SECTORS} {SECTORS} {self.number}")
            self.done += 1
        self.console.run("flush")


def stops(q, since):
    """For each VM, what its events after `since` say of its stops; errors while it is paused are left out."""
    told, more = {}, True
    while more:
        page = q.run("query-events", since=since)
        for e in page["events"]:
            name, data = e["event"], e["data"]
            words = told.setdefault(data.get("vm"), ["running"])
            if name == "BLOCK_IO_ERROR" and words[-1] == "running":
                assert data["nospace"] and data["action"] == "stop" and data["operation"] == "write"
                words.append("error")
            elif name in ("STOP", "RESUME"):
                words.append(name)
            elif name == "VM_STATE_CHANGE":
                words.append("full" if data["reason"] == "I/O error: no space left" else data["state"])
        more, since = page["more"], page["next"]
    return told


@pytest.fixture
def small(tmp_path):
    s = Small(tmp_path / "small", "48m")
    yield s
    s.close()


@pytest.mark.seconds(120)
def test_twenty_vms_on_a_full_file_system_lose_nothing(daemon, kvm, guest, small):
    """Each pauses, keeps its writes, and continues when the file system has space again."""
    guests = [Guest(daemon, guest("interp.elf"), n, small.path) for n in range(VMS)]
    names = [g.name for g in guests]
    q = daemon.qmp()
    daemon.cairn("start", *names)
    for g in guests:
        g.connect()
    since = q.run("query-events")["last"]
    small.fill(keep=ROOM)
    for g in guests:
        g.thread.start()
    until(lambda: all(daemon.info(name)["state"] == "paused" for name in names))
    daemon.cairn("resume", *names)  # there is no room yet, so each pauses again
    until(lambda: all(daemon.info(name)["state"] == "paused" for name in names))
    once = ["error", "STOP", "full"]
    told = stops(q, since)
    assert {name: told[name] for name in names} == {name: ["running", *once, "RESUME", "running", *once] for name in names}
    assert all(g.thread.is_alive() for g in guests)
    small.empty()
    daemon.cairn("resume", *names)
    for g in guests:
        g.thread.join()
        assert g.done == WRITES
        g.console.close()
    daemon.cairn("destroy", *names)
    for g in guests:
        if g.fmt == "qcow2":
            run("qemu-img", "check", "-q", str(g.image))
    daemon.cairn("start", *names)
    for g in guests:
        g.connect()
        for i in range(WRITES):
            g.console.run(f"verify {i * SECTORS} {SECTORS} {g.number}")
        g.console.close()
