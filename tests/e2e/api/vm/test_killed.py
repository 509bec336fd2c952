"""A daemon that is killed again and again while its VMs start, stop, are saved and take snapshots: no VM is lost,
no process is orphaned, no event number is used twice, and the daemon agrees with the VMs. CAIRN_KILLS: how
often; CAIRN_KILLS_SEED."""

import contextlib
import os
import random
import signal
import socket
import threading
import time

import pytest

from conftest import FAKE_VM, Console, Daemon, Qmp, QmpError, environment, until
from daemonlib import kept_events

KILLS = int(os.environ.get("CAIRN_KILLS", 8))
SEED = int(os.environ.get("CAIRN_KILLS_SEED", 1))
VMS = 20 if KILLS > 50 else 6
TAG = "CAIRN_TEST_TAG"
# Errors that a client may get while a VM is between two states, or just after the daemon's restart.
EXPECTED = {"WrongState", "Busy", "Cancelled", "AlreadyExists", "NotFound", "Timeout"}
EXPECTED_WORDS = ("the VM was destroyed before it answered; see cairn log ", "the VM ended before it answered; see cairn log ")


class Client(threading.Thread):
    """Send requests to a VM of its own, in any state, until told to end."""

    def __init__(self, daemon, vm, seed):
        super().__init__(daemon=True)
        self.d, self.vm, self.rng = daemon, vm, random.Random(seed)
        self.end, self.done, self.strange = threading.Event(), 0, []

    def one(self, q):
        command = self.rng.choice(["vm-start", "vm-start", "vm-destroy", "vm-suspend", "vm-resume", "vm-shutdown",
                                   "vm-managed-save", "snapshot-create", "snapshot-list", "vm-info"])
        args = {"name": f"s{self.rng.randrange(8)}"} if command == "snapshot-create" else {}
        try:
            q.run(command, vm=self.vm, **args)
            self.done += 1
        except QmpError as e:
            if e.cls not in EXPECTED and not e.desc.startswith(EXPECTED_WORDS):
                self.strange.append(str(e))

    def run(self):
        while not self.end.is_set():
            try:
                q = Qmp(self.d.socket, timeout=45)
                while not self.end.is_set():
                    self.one(q)
                    q.events.clear()
            except (OSError, EOFError, socket.timeout):
                time.sleep(0.005)


def processes(tag):
    """Return this test's VM processes and processes that work on images."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if (os.readlink(f"/proc/{pid}/exe") == os.path.realpath(FAKE_VM) and
                    f"{TAG}={tag}".encode() in environment(pid, FAKE_VM).split(b"\0")):
                found.add(int(pid))
        except OSError:
            pass  # ended meanwhile
    return found


class Seen:
    """All events in the order of their numbers, and the states that follow from them."""

    def __init__(self):
        self.last, self.words, self.begun, self.open = 0, {}, set(), set()

    def take(self, ev):
        assert ev["seq"] > self.last, "a number that was given before"
        self.last = ev["seq"]
        data = ev["data"]
        if ev["event"] == "VM_STATE_CHANGE":
            self.words[data["vm"]] = data["state"]
        elif ev["event"] == "JOB_STATUS_CHANGE" and data["status"] == "created":
            assert data["id"] not in self.begun, f"{data['id']} is made twice"
            self.begun.add(data["id"])
            self.open.add(data["id"])
        elif ev["event"] == "JOB_STATUS_CHANGE" and data["status"] == "concluded":
            self.open.discard(data["id"])

    def catch_up(self, q):
        more = True
        while more:
            page = q.run("query-events", since=self.last)
            assert not page["lost"]
            for ev in page["events"]:
                self.take(ev)
            more = page["more"]


def agree(d, tag, names):
    """Query until nothing is in progress: then the daemon and the processes agree."""
    end = time.monotonic() + 50
    while True:
        q = Qmp(d.socket)
        infos = {n: q.run("vm-info", vm=n) for n in names}
        jobs = [j for j in q.jobs() if j["status"] != "concluded"]
        q.close()
        active = {i["pid"] for i in infos.values() if i["state"] in ("running", "idle", "paused", "in-shutdown")}
        alive = processes(tag)
        if not jobs and active == alive and all(("pid" in i) == (i["id"] >= 0) for i in infos.values()):
            return infos
        if time.monotonic() > end:
            odd = {n: i for n, i in infos.items() if ("pid" in i) != (i["id"] >= 0) or i.get("pid") not in {None} | alive}
            pytest.fail(f"not of one mind: jobs {jobs}, not ours {alive - active}, gone {active - alive}, {odd}\n"
                        + d.log.read_text()[-6000:])
        time.sleep(0.05)


@pytest.mark.seconds(60 + 3 * KILLS)
def test_killed_daemon_loses_no_vm_and_no_event_number(tmp_path):
    if not os.path.exists(FAKE_VM):
        pytest.fail("fake_vm is not built: make helpers")
    tag = f"{os.getpid()}-{time.time_ns()}"
    d = Daemon(tmp_path, vm_program=FAKE_VM, env={TAG: tag})
    try:
        storm(d, tag, tmp_path)
    finally:
        d.close()
    assert processes(tag) == set()


def storm(d, tag, tmp_path):
    rng = random.Random(SEED)
    names, seen, restarts = [f"vm{i}" for i in range(VMS)], Seen(), []
    for i, n in enumerate(names):
        (tmp_path / f"{n}.raw").write_bytes(bytes(1 << 20))
        d.define(n, cmdline=["work-takes=30", "work-takes=150", "deaf"][i % 3],
                 disks=[{"path": f"{n}.raw", "format": "raw"}])
    for n in names[::2]:
        d.cairn("start", n)
    total = 0
    for kill in range(KILLS):
        clients = [Client(d, n, rng.random()) for n in names]
        for c in clients:
            c.start()
        time.sleep(rng.uniform(0, 0.25))
        live = Qmp(d.socket)
        d.proc.send_signal(signal.SIGKILL)
        d.proc.wait()
        begin = time.monotonic()
        d.start()
        restarts.append(time.monotonic() - begin)
        if rng.random() < 0.5:  # some continue over the restart, some end
            time.sleep(rng.uniform(0, 0.1))
        for c in clients:
            c.end.set()
        for c in clients:
            c.join(50)
            assert not c.is_alive() and not c.strange, c.strange
            total += c.done
        live.close()
        for look in range(10):  # a guest that was asked to shut down may still do so
            infos = agree(d, tag, names)
            q = Qmp(d.socket)
            seen.catch_up(q)
            words = {n: {"idle": "running"}.get(i["word"], i["word"]) for n, i in infos.items()}
            odd = {n: (w, seen.words.get(n)) for n, w in words.items() if seen.words.get(n, "shutoff") != w}
            if not odd:
                break
            q.close()
        assert not odd, (kill, odd)
        assert not seen.open, "jobs without an end"
        for j in q.jobs():
            q.run("job-dismiss", id=j["id"])
        q.close()
        q = Qmp(d.socket)
        assert sorted(v["name"] for v in q.run("vm-list")["vms"]) == sorted(names)
        q.close()
        assert "damaged" not in d.log.read_text()
    assert total > KILLS
    print(f"{KILLS} kills of a daemon with {VMS} VMs: {total} calls were done; "
          f"the slowest restart took {max(restarts):.2f} s")


def test_shutdown_that_a_revert_ended_does_not_come_back(fake):
    """The daemon was killed before it knew of the revert. The shutdown's deadline must not end the VM."""
    fake.define("a", boot={"kernel": "kernel", "cmdline": "deaf renewed"})
    fake.define("b", boot={"kernel": "kernel", "cmdline": "deaf"})
    for name in ("a", "b"):
        fake.cairn("start", name)
        fake.cairn("shutdown", "--then", "destroy", "--timeout", "3600", name)
    until(lambda: fake.kept("b").get("state") == "in-shutdown" == fake.kept("a").get("state"))
    assert "shutdown-deadline" in fake.info("a")
    fake.stop(signal.SIGKILL)
    fake.start()
    until(lambda: fake.info("a")["state"] == "running")
    assert "shutdown-deadline" not in fake.info("a")
    b = fake.info("b")
    assert b["state"] == "in-shutdown" and "shutdown-deadline" in b


def test_guests_own_reset_does_not_bring_the_shutdown_back(daemon, kvm, guest):
    """A user reset the VM, which ended the shutdown, and then the guest reset itself. The daemon was killed before it
    had stored this."""
    daemon.define("a", boot={"kernel": guest("interp.elf")})
    daemon.cairn("start", "a")
    daemon.cairn("shutdown", "--then", "destroy", "--timeout", "3600", "a")
    until(lambda: daemon.kept("a").get("state") == "in-shutdown")
    state = daemon.state / "vms/a/state.json"
    before, q = state.read_bytes(), daemon.qmp()
    daemon.cairn("reset", "a")
    q.event("RESET", vm="a")
    c = Console(daemon, "a")
    c.sock.sendall(b"\necho here\n")
    until(lambda: c.line() == "here")
    c.sock.sendall(b"reset cf9\n")
    q.event("RESET", vm="a")
    c.close()
    daemon.stop(signal.SIGKILL)
    state.write_bytes(before)
    daemon.start()
    until(lambda: daemon.info("a")["state"] == "running")
    assert "shutdown-deadline" not in daemon.info("a")


def test_vm_started_for_a_revert_that_never_came_is_off_again(fake):
    """The daemon was killed between the start of a VM that was off and its revert."""
    fake.define("a", boot={"kernel": "kernel", "cmdline": "for-revert"})
    fake.define("b")
    for name in ("a", "b"):
        fake.cairn("start", name, "--paused")
    fake.stop(signal.SIGKILL)
    fake.start()
    until(lambda: fake.info("a")["state"] == "shutoff")
    assert fake.info("b")["state"] == "paused"


WORK = {"snapshot-create": ({"name": "two"}, ["one", "two"]), "snapshot-delete": ({"name": "one"}, []),
        "snapshot-revert": ({"name": "one"}, ["one"])}


@pytest.mark.parametrize("old, command", [(old, c) for c in WORK for old in ([False, True] if c == "snapshot-create" else [False])])
def test_next_daemon_adopts_work_on_snapshots(fake, command, old):
    """The VM's process continues the work. A process of an older version does not say so, and the result
    stays unknown."""
    go, disk, (args, names) = fake.tmp / "go", fake.tmp / "d.raw", WORK[command]
    disk.write_bytes(bytes(1 << 20))
    go.touch()
    fake.define("a", cmdline=f"work-until={go}" + " old-work" * old, disks=[{"path": "d.raw", "format": "raw"}])
    fake.cairn("start", "a")
    fake.cairn("snapshot-create-as", "a", "one")
    go.unlink()
    q = fake.qmp()
    was = q.run(command, vm="a", **args)["job"]
    until(lambda: q.jobs()[-1]["current-progress"] > 0)  # the process has the request
    fake.stop(signal.SIGKILL)
    fake.start()
    q = fake.qmp()

    def job():
        return next(j for j in q.jobs() if j["id"] == was)

    if old:
        assert "its result is unknown" in job()["error"]
        return
    assert (job()["status"], job()["type"], fake.info("a")["job"]) == ("running", command, was)
    with pytest.raises(QmpError, match=f"job {was} "):
        q.run("snapshot-create", vm="a", name="three")
    go.touch()
    q.event("JOB_STATUS_CHANGE", id=was, status="concluded")
    assert [s["name"] for s in q.run("snapshot-list", vm="a")["snapshots"]] == names
    until(lambda: fake.kept("a").get("snapshots", 0) == len(names))
    if command == "snapshot-create":
        assert job()["result"]["name"] == "two" and job()["result"]["pause"]
        assert [e["data"]["snapshot"] for e in q.run("query-events", event="SNAPSHOT_CREATED")["events"]] == ["one", "two"]
    assert ("deletes no further ones. Next: cairn snapshot-list a" in job().get("error", "")) == (command == "snapshot-delete")
    q.run("snapshot-create", vm="a", name="three")


def test_adopted_work_is_cancelled(fake):
    (fake.tmp / "d.raw").write_bytes(bytes(1 << 20))
    fake.define("a", cmdline=f"work-until={fake.tmp}/never", disks=[{"path": "d.raw", "format": "raw"}])
    fake.cairn("start", "a")
    q = fake.qmp()
    was = q.run("snapshot-create", vm="a", name="one")["job"]
    q.event("JOB_PROGRESS", id=was)
    for _ in range(2):  # the next daemon's next one adopts it, too
        fake.stop(signal.SIGKILL)
        fake.start()
        assert fake.info("a")["job"] == was
    q = fake.qmp()
    q.run("job-cancel", id=was)
    q.event("JOB_STATUS_CHANGE", id=was, status="concluded")
    assert "cancelled" in q.jobs()[-1]["error"] and q.run("snapshot-list", vm="a")["snapshots"] == []


@pytest.mark.parametrize("ran", [False, True])
def test_vm_whose_lost_start_never_ran_is_off(fake, ran):
    """The daemon was killed before it had stored the start, and the VM's process has ended."""
    fake.define("a", cmdline="" if ran else "never-runs")
    state = fake.state / "vms/a/state.json"
    until(state.exists)
    before = state.read_bytes()
    fake.cairn("start", "a")
    pid = fake.info("a")["pid"]
    until(lambda: fake.kept("a").get("state") == "running")
    fake.stop(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    state.write_bytes(before)
    fake.start()
    info = fake.info("a")
    if ran:
        assert (info["state"], info["reason"]) == ("crashed", "killed"), info
        return
    assert (info["state"], info["reason"]) == ("shutoff", "failed"), info
    assert info["detail"] == "the daemon ended during the start, and the guest has not run"
    event = kept_events(fake, vm="a")[-1]
    assert event["event"] == "VM_STATE_CHANGE" and [event["data"][k] for k in ("from", "state", "reason")] == ["running", "shutoff", "failed"]
    fake.stop()
    fake.start()
    assert fake.info("a")["reason"] == "failed"
    fake.cairn("start", "a")


@pytest.mark.parametrize("how, before", [("kill", "crashed"), ("managedsave", "saved")])
def test_lost_start_gives_back_a_state_that_was_not_stored(fake, how, before):
    """state.json is written in the background: it may still say that the run before the lost start goes on."""
    go, state, end = fake.tmp / "go", fake.state / "vms/a/state.json", fake.state / "vms/a/end"
    go.touch()
    fake.define("a", cmdline=f"config-until={go}")
    fake.cairn("start", "a")
    until(lambda: fake.kept("a").get("state") == "running")
    stale = state.read_bytes()
    if how == "kill":
        os.kill(fake.info("a")["pid"], signal.SIGKILL)
        fake.wait("a", "crashed")
    else:
        fake.cairn(how, "a")
    go.unlink()
    fake.qmp().send(b'{"execute":"vm-start","arguments":{"vm":"a"}}')
    until(lambda: end.read_bytes()[4096:4097] == b"\2" and fake.children())
    pids = fake.children()
    fake.stop(signal.SIGKILL)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it may have ended with the daemon
            os.kill(pid, signal.SIGKILL)
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))
    state.write_bytes(stale)
    go.touch()
    fake.start()
    info = fake.info("a")
    assert (info["state"], info["reason"]) == (before, "failed"), info
    fake.cairn("start", "a")
    assert fake.info("a")["reason"] == ("restored" if how == "managedsave" else "booted")
