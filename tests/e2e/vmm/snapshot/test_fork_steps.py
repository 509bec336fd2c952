"""The steps of a fork, with VM processes that fail or wait on demand (fake_vm): which clones start when, and what a
failure, a cancel or a killed daemon leaves."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time

import pytest

from conftest import BUILD, open_fds, until
from forklib import concluded, have_state, names, processes


def left(fake):
    """Return names of VMs and of their folders."""
    return names(fake), sorted(os.listdir(fake.state / "vms"))


ALONE = (["src"], ["src"])


@pytest.mark.parametrize("dies", ["c-1", "c-7", "c-20"])
def test_dying_clone_fails_whole_batch(fake, dies):
    fake.define("src", cmdline=f"clone-dies={dies}")
    fake.cairn("start", "src")
    q = fake.qmp()
    r = fake.cairn("clone", "--live", "src", "c", "--count", "20", ok=1)
    assert r.stderr.startswith("error: Failed to clone domain 'src'\nerror: the VM's process ended")
    assert left(fake) == ALONE
    assert len(processes(fake)) == 1
    made = {q.event("VM_DEFINED")["data"]["vm"]}
    while (ev := q.read())["event"] != "JOB_STATUS_CHANGE" or ev["data"]["status"] != "concluded":
        if ev["event"] == "VM_DEFINED":
            made.add(ev["data"]["vm"])
        if ev["event"] == "VM_UNDEFINED":
            made.remove(ev["data"]["vm"])
    assert not made and fake.cairn("domstate", "src").stdout != "shut off\n"
    # The names are free again.
    fake.cairn("clone", "--live", "src", "d")


def test_fork_fails_when_source_refuses(fake):
    fake.define("src", cmdline="work-fails")
    fake.cairn("start", "src")
    r = fake.cairn("clone", "--live", "src", "c", "--count", "3", ok=1)
    assert "no space left on the device" in r.stderr
    assert left(fake) == ALONE


def test_fork_fails_when_source_dies(fake):
    fake.define("src", cmdline="work-takes=60000")
    fake.cairn("start", "src")
    q = fake.qmp()
    job = q.run("vm-fork", vm="src", name="c", count=3)["job"]
    os.kill(fake.info("src")["pid"], signal.SIGKILL)
    assert "signal 9" in concluded(q, job)["error"]
    assert left(fake) == ALONE and processes(fake) == []


def first_process(fake, source):
    """Wait for the process that the daemon spawns for the first clone before the source has answered."""
    until(lambda: len(processes(fake)) == 2)
    (pid,) = set(processes(fake)) - {str(source)}
    return int(pid)


def test_first_clone_uses_the_process_spawned_ahead(fake):
    fake.define("src", cmdline=f"work-until={fake.tmp}/go")
    fake.cairn("start", "src")
    q = fake.qmp()
    job = q.run("vm-fork", vm="src", name="c", count=3)["job"]
    pid = first_process(fake, fake.info("src")["pid"])
    assert fake.info("c-1")["state"] == "shutoff"
    (fake.tmp / "go").touch()
    concluded(q, job)
    assert fake.info("c-1")["pid"] == pid and len(processes(fake)) == 4


def test_clone_starts_when_its_process_ended_ahead(fake):
    fake.define("src", cmdline=f"work-until={fake.tmp}/go")
    fake.cairn("start", "src")
    q = fake.qmp()
    job = q.run("vm-fork", vm="src", name="c")["job"]
    pid = first_process(fake, fake.info("src")["pid"])
    os.kill(pid, signal.SIGKILL)
    until(lambda: len(processes(fake)) == 1)
    (fake.tmp / "go").touch()
    assert "error" not in concluded(q, job)
    assert fake.info("c")["pid"] != pid and len(processes(fake)) == 2


def test_killed_daemon_leaves_no_process_spawned_ahead(fake):
    fake.define("src", cmdline=f"work-until={fake.tmp}/go")
    fake.cairn("start", "src")
    fake.qmp().run("vm-fork", vm="src", name="c")
    first_process(fake, fake.info("src")["pid"])
    fake.stop(signal.SIGKILL)
    fake.start()
    until(lambda: left(fake) == ALONE)
    until(lambda: len(processes(fake)) == 1)


def test_process_without_configuration_ends_with_its_client(tmp_path):
    path = str(tmp_path / "vm.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(path)
        listening.listen()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.connect(path)
            fd = listening.fileno()
            p = subprocess.Popen([os.path.join(BUILD, "cairn-vm"), "--listen", str(fd)], pass_fds=[fd],
                                 stderr=subprocess.PIPE, text=True)
            os.unlink(path)
        assert "the client sent no configuration" in p.communicate(timeout=60)[1] and p.returncode == 2


@pytest.mark.parametrize("reaped", [False, True])
def test_process_without_configuration_ends_although_its_clients_socket_is_open(tmp_path, reaped):
    path = str(tmp_path / "vm.sock")
    with (socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening,
          socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client):
        listening.bind(path)
        listening.listen()
        connects = ("import socket, sys\n"
                    f"socket.socket(fileno={client.fileno()}).connect(sys.argv[1])\n"
                    "print(flush=True)\ninput()")
        d = subprocess.Popen([sys.executable, "-c", connects, path], pass_fds=[client.fileno()], text=True, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
        assert d.stdout.readline() == "\n"
        if reaped:
            d.communicate("\n")
        fd = listening.fileno()
        p = subprocess.Popen([os.path.join(BUILD, "cairn-vm"), "--listen", str(fd)], pass_fds=[fd], stderr=subprocess.PIPE,
                             text=True)
        if not reaped:
            with pytest.raises(subprocess.TimeoutExpired):
                p.wait(1)
            d.communicate("\n")
        assert "the client sent no configuration" in p.communicate(timeout=60)[1] and p.returncode == 2


@pytest.fixture
def ready(fake):
    """A fork whose clones run, while the source has not answered yet: (client, job)."""
    fake.define("src", cmdline=f"fork-ready work-until={fake.tmp}/go")
    fake.cairn("start", "src")
    q = fake.qmp()
    job = q.run("vm-fork", vm="src", name="c", count=6)["job"]
    running = set()
    while len(running) < 6:
        data = q.event("VM_STATE_CHANGE", state="running")["data"]
        running.add(data["vm"])
    return q, job


def test_fork_succeeds_when_source_has_answered(fake, ready):
    q, job = ready
    (j,) = q.run("query-jobs", id=job)
    assert j["status"] == "running" and len(list(fake.state.glob("batches/*.json"))) == 1
    for args in (("clone", "--live", "src", "d"), ("undefine", "c-6")):
        assert fake.cairn(*args, ok=None).returncode in (4, 6)
    (fake.tmp / "go").touch()
    j = concluded(q, job)
    assert "error" not in j
    assert set(names(fake)) == {"src", *(f"c-{i}" for i in range(1, 7))} and len(processes(fake)) == 7


def test_source_that_dies_ends_clones_that_run(fake, ready):
    q, job = ready
    os.kill(fake.info("src")["pid"], signal.SIGKILL)
    assert "signal 9" in concluded(q, job)["error"]
    assert left(fake) == ALONE and processes(fake) == []


def test_source_that_fails_ends_clones_that_start(fake):
    fake.define("src", cmdline=f"fork-ready work-fails work-until={fake.tmp}/go clone-until={fake.tmp}/never:c-2")
    fake.cairn("start", "src")
    q = fake.qmp()
    job = q.run("vm-fork", vm="src", name="c", count=3)["job"]
    assert {q.event("VM_STATE_CHANGE", state="running")["data"]["vm"] for _ in range(2)} == {"c-1", "c-3"}
    (fake.tmp / "go").touch()
    assert "no space left" in concluded(q, job)["error"]
    assert left(fake) == ALONE and len(processes(fake)) == 1


def test_cancel_ends_clones_that_run(fake, ready):
    q, job = ready
    q.run("job-cancel", id=job)
    (fake.tmp / "go").touch()
    concluded(q, job)
    assert left(fake) == ALONE and len(processes(fake)) == 1


def test_cancel_ends_clones_that_start(fake):
    fake.define("src", cmdline=f"fork-ready work-until={fake.tmp}/go clone-until={fake.tmp}/never:c-2")
    fake.cairn("start", "src")
    q = fake.qmp()
    job = q.run("vm-fork", vm="src", name="c", count=3)["job"]
    assert {q.event("VM_STATE_CHANGE", state="running")["data"]["vm"] for _ in range(2)} == {"c-1", "c-3"}
    q.run("job-cancel", id=job)
    until(lambda: "VM 'c-2': the VM was destroyed while starting" in fake.log.read_text())
    (fake.tmp / "go").touch()
    assert "cancelled" in concluded(q, job)["error"]
    assert left(fake) == ALONE and len(processes(fake)) == 1


@pytest.mark.seconds(120)
def test_clone_waits_for_a_source_that_is_slower_than_a_start_may_be(fake):
    fake.define("src", cmdline=f"fork-ready work-until={fake.tmp}/go clone-until={fake.tmp}/go:c-2")
    fake.cairn("start", "src")
    q = fake.qmp()
    job = q.run("vm-fork", vm="src", name="c", count=2)["job"]
    q.event("VM_STATE_CHANGE", state="running", vm="c-1")
    time.sleep(32)  # a start has 30 s
    assert q.run("query-jobs", id=job)[0]["status"] == "running"
    (fake.tmp / "go").touch()
    assert "error" not in concluded(q, job) and set(names(fake)) == {"src", "c-1", "c-2"}


UNUSED = 14 << 20  # of a state; the sections, the definition, checksums and memory lie elsewhere


@pytest.fixture
def begun(fake):
    """A fork whose first clone has its configuration and waits for the source's state: (client, job)."""
    fake.define("src", cmdline=f"fork-stages work-until={fake.tmp}/go answer-until={fake.tmp}/end")
    fake.cairn("start", "src")
    q = fake.qmp()
    job = q.run("vm-fork", vm="src", name="c", count=6)["job"]
    until(lambda: len(have_state(fake)) == 2)
    return q, job


def test_first_clone_starts_before_the_state_is_written(fake, begun):
    q, job = begun
    (j,) = q.run("query-jobs", id=job)
    assert j["status"] == "running" and fake.info("c-1")["state"] == "shutoff" and len(processes(fake)) == 2
    (fake.tmp / "go").touch()
    assert len({q.event("VM_STATE_CHANGE", state="running")["data"]["vm"] for _ in range(6)}) == 6
    until(lambda: not list(fake.state.glob("batches/*.json")))  # all is on stable storage
    (j,) = q.run("query-jobs", id=job)
    assert j["status"] == "running"
    fake.cairn("destroy", "c-6")
    (fake.tmp / "end").touch()
    assert "error" not in concluded(q, job)
    assert set(names(fake)) == {"src", *(f"c-{i}" for i in range(1, 7))} and len(processes(fake)) == 6


def test_clones_may_go_before_the_source_has_answered(fake, begun):
    q, job = begun
    (fake.tmp / "go").touch()
    assert len({q.event("VM_STATE_CHANGE", state="running")["data"]["vm"] for _ in range(6)}) == 6
    until(lambda: not list(fake.state.glob("batches/*.json")))  # all is on stable storage
    uuids = [fake.info(f"c-{i}")["uuid"] for i in range(1, 7)]
    for name in ("c-6", "c-1"):
        fake.cairn("destroy", name)
        fake.cairn("undefine", name)
    (fake.tmp / "end").touch()
    result = concluded(q, job)["result"]
    assert [(c["name"], c["uuid"]) for c in result["clones"]] == [(f"c-{i + 1}", uuid) for i, uuid in enumerate(uuids)]
    assert result["pause"] == 1500000 and set(names(fake)) == {"src", *(f"c-{i}" for i in range(2, 6))}


def test_source_that_dies_ends_clone_that_waits_for_its_state(fake, begun):
    q, job = begun
    os.kill(fake.info("src")["pid"], signal.SIGKILL)
    assert "signal 9" in concluded(q, job)["error"]
    assert left(fake) == ALONE and processes(fake) == []


def test_cancel_ends_clone_that_waits_for_the_state(fake, begun):
    q, job = begun
    q.run("job-cancel", id=job)
    (fake.tmp / "end").touch()
    assert "cancelled" in concluded(q, job)["error"]
    assert left(fake) == ALONE and len(processes(fake)) == 1


def test_source_that_dies_after_all_is_stored_does_not_fail_the_fork(fake, begun):
    q, job = begun
    (fake.tmp / "go").touch()
    assert len({q.event("VM_STATE_CHANGE", state="running")["data"]["vm"] for _ in range(6)}) == 6
    until(lambda: not list(fake.state.glob("batches/*.json")))
    os.kill(fake.info("src")["pid"], signal.SIGKILL)
    assert "error" not in concluded(q, job)
    assert set(names(fake)) == {"src", *(f"c-{i}" for i in range(1, 7))} and len(processes(fake)) == 6


def test_killed_daemon_ends_clone_that_waits_for_the_state(fake, begun):
    fake.stop(signal.SIGKILL)
    until(lambda: len(processes(fake)) == 1)
    fake.start()
    until(lambda: left(fake) == ALONE and not list(fake.state.glob("batches/*")))


def sealing_or_over(j):
    return j["unit"] == "clones" or j["status"] == "concluded"


@pytest.fixture
def in_use(fake, begun):
    """As begun, once the source has written the state, of which the kernel uses a page: (client, job, release)."""
    q, job = begun
    pid = fake.info("src")["pid"]
    (fd,) = [f for f, target in open_fds(pid).items() if "memfd:cairn-fork" in target]
    with open(f"/proc/{pid}/fd/{fd}", "r+b", buffering=0) as state:
        os.pwrite(state.fileno(), b"x", UNUSED)
        out, pipe = os.pipe()
        assert os.splice(state.fileno(), pipe, 1, offset_src=UNUSED) == 1
    (fake.tmp / "go").touch()
    until(lambda: sealing_or_over(q.run("query-jobs", id=job)[0]))
    yield q, job, lambda: os.read(out, 1)
    os.close(out)
    os.close(pipe)


def test_fork_waits_for_pages_of_the_state_that_the_kernel_uses(fake, in_use):
    q, job, release = in_use
    time.sleep(0.5)  # the kernel waits 0.15 s
    assert q.run("query-jobs", id=job)[0]["status"] == "running" and fake.info("c-1")["state"] == "shutoff"
    release()
    (fake.tmp / "end").touch()
    assert "error" not in concluded(q, job)
    assert set(names(fake)) == {"src", *(f"c-{i}" for i in range(1, 7))}


def test_cancel_ends_fork_whose_state_the_kernel_uses(fake, in_use):
    q, job, _ = in_use
    q.run("job-cancel", id=job)
    (fake.tmp / "end").touch()
    assert "cancelled" in concluded(q, job)["error"]
    assert left(fake) == ALONE and len(processes(fake)) == 1


def test_clones_in_progress_refuse_other_operations(fake):
    """No other operation touches the clones before the fork is complete."""
    fake.define("src", cmdline=f"clone-until={fake.tmp}/go:c-2")
    fake.cairn("start", "src")
    q = fake.qmp()
    job = q.run("vm-fork", vm="src", name="c", count=8)["job"]
    fake.cairn("clone", "--live", "src", "d", ok=6)
    for args in (("start", "c-8"), ("undefine", "c-8")):  # the clone may already run
        assert fake.cairn(*args, ok=None).returncode in (4, 6)
    assert fake.cairn("destroy", "c-1", ok=None).returncode in (0, 4, 6)
    (fake.tmp / "go").touch()
    error = concluded(q, job).get("error")
    if error:  # c-1 did not run yet, so the fork has failed
        assert "the VM was destroyed while starting" in error and names(fake) == ["src"]
    else:
        assert "d" not in names(fake) and set(names(fake)) == {"src", *(f"c-{i}" for i in range(1, 9))}
    fake.cairn("clone", "--live", "src", "d")


def test_cancelled_fork_leaves_nothing(fake):
    fake.define("src", cmdline=f"clone-until={fake.tmp}/go:c-2")
    fake.cairn("start", "src")
    q = fake.qmp()
    job = q.run("vm-fork", vm="src", name="c", count=30)["job"]
    q.event("VM_DEFINED", vm="c-3")
    q.run("job-cancel", id=job)
    concluded(q, job)
    assert left(fake) == ALONE and len(processes(fake)) == 1


def test_killed_daemon_leaves_no_partial_clones(fake):
    fake.define("src", cmdline=f"clone-until={fake.tmp}/go:c-4")
    fake.cairn("start", "src")
    q = fake.qmp()
    q.run("vm-fork", vm="src", name="c", count=5)
    q.event("VM_STATE_CHANGE", vm="c-5", state="running")
    fake.stop(signal.SIGKILL)
    (fake.tmp / "go").touch()
    assert len(list(fake.state.glob("batches/*.json"))) == 1
    fake.start()
    until(lambda: left(fake) == ALONE and not list(fake.state.glob("batches/*")))
    assert len(processes(fake)) == 1
    fake.cairn("clone", "--live", "src", "c", "--count", "3")


def test_daemon_killed_at_last_step_leaves_all_clones_or_none(fake):
    """The clones already run, and nobody was notified."""
    fake.define("src")
    fake.cairn("start", "src")
    rnd = random.Random(6)
    seen = set()
    for i in range(12):
        q = fake.qmp()
        q.run("vm-fork", vm="src", name="c", count=4)
        q.event("VM_STATE_CHANGE", vm=f"c-{i % 4 + 1}", state="running")
        time.sleep(rnd.random() * 0.004)
        fake.stop(signal.SIGKILL)
        fake.start()
        until(lambda: not list(fake.state.glob("batches/*")))
        clones = [n for n in names(fake) if n != "src"]
        seen.add(len(clones))
        if clones:
            fake.cairn("destroy", *clones)
            fake.cairn("undefine", *clones)
        assert left(fake) == ALONE and len(processes(fake)) == 1
    assert seen <= {0, 4}


def test_clones_survive_daemon(fake):
    fake.define("src")
    fake.cairn("start", "src")
    fake.cairn("clone", "--live", "src", "c", "--count", "3")
    assert not list(fake.state.glob("batches/*"))
    before = {n: fake.info(n)["uuid"] for n in names(fake)}
    fake.stop(signal.SIGKILL)
    fake.start()
    assert {n: fake.info(n)["uuid"] for n in names(fake)} == before and len(before) == 4
    assert all(fake.info(n)["state"] != "shutoff" for n in before)


def test_fork_is_audited(fake):
    fake.define("src")
    fake.cairn("start", "src")
    fake.cairn("clone", "--live", "src", "c")
    lines = json.loads(fake.cairn("audit", "--format", "json").stdout)
    assert any(l["command"] == "vm-fork" and l["vm"] == "src" for l in lines)
