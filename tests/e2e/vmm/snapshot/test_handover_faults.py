"""Faults while a live clone is handed over to a new process: each message lost, late or cut, each process killed before
and after each message, no memory. The clone then runs in one process with its content, or it has crashed and no process
has its image. (test_handover.py kills processes at any moment; test_handover_clone.py has handovers without faults.)"""

import json
import os
import re
import subprocess

import pytest

import guestlib
from conftest import BUILD, Daemon, has_ended, is_vm, open_files, until
from relaylib import Relay
from forklib import AT, FILL, MIB, check, disk_holds, disk_write, image, vm  # noqa: F401 (vm is a fixture)
from test_handover import job_of

OWN = 40 * MIB  # two messages: the old process copies 32 MiB at a time
BLOCK = 65536
WORDS = 1024  # bytes of which one word is written
STEPS = [("memory", 0), ("memory-answer", 0), ("memory", 1), ("memory-answer", 1), ("config", 0), ("config-answer", 0),
         ("go", 0)]
steps = pytest.mark.parametrize("step, n", STEPS, ids=[f"{s}-{n}" for s, n in STEPS])


@pytest.fixture
def relay(tmp_path):
    with Relay(tmp_path, os.path.join(BUILD, "cairn-vm")) as r:
        yield r


@pytest.fixture
def daemon(tmp_path, relay):
    d = Daemon(tmp_path, vm_program=relay.program)
    yield d
    d.close()


def source(vm, tmp_path):  # noqa: F811
    vm.start(memory="128M", disks=[image(tmp_path / "a.qcow2")])
    disk_write(vm, "src", 0, 0, 1)


def cloned(vm, name):  # noqa: F811
    vm.clone(name)
    vm.run(name, f"fill {AT + FILL} {OWN} 2 {WORDS}")
    disk_write(vm, name, 0, 256, 2)


def holds(vm, name):  # noqa: F811
    vm.holds(name, AT, FILL, 1)
    vm.run(name, f"check {AT + FILL} {OWN} 2 {WORDS}")
    disk_holds(vm, name, 0, 0, 1)
    disk_holds(vm, name, 0, 256, 2)


def source_holds(vm):  # noqa: F811
    vm.holds("src", AT, FILL, 1)
    disk_holds(vm, "src", 0, 0, 1)


def begin(daemon, name):
    return daemon.cairn("restart-process", "--no-wait", name).stdout.strip()


def holders(path):
    return [int(p) for p in os.listdir("/proc") if p.isdigit() and is_vm(p) and str(path) in open_files(p)]


def one_has_it(daemon, tmp_path, name):
    """Wait until a handover is over. Returns whether the clone runs; it runs in one process, or in none."""
    until(lambda: daemon.info(name)["state"] in ("running", "crashed") and "job" not in daemon.info(name))
    runs = daemon.info(name)["state"] == "running"
    pid = [daemon.info(name)["pid"]] if runs else []
    until(lambda: holders(tmp_path / f"{name}-vda.qcow2") == pid)
    assert daemon.info(name)["state"] == ("running" if runs else "crashed")
    return runs


def undefine(vm, daemon, name):  # noqa: F811
    vm.consoles.pop(name).close()
    daemon.cairn("undefine", name, "--remove-all-storage")


def log_of(daemon, name):
    return daemon.log_of(name)


@steps
def test_processes_are_killed_and_messages_cut(vm, daemon, relay, tmp_path, step, n):  # noqa: F811
    """Until GO is sent, the old process keeps the clone unless it is the one that dies."""
    source(vm, tmp_path)
    cloned(vm, "c")
    for act in ("kill-new-before", "kill-new-after", "kill-old-before", "kill-old-after", "cut"):
        old = daemon.info("c")["pid"]
        relay.plan("c", act, step, n, old)
        id = begin(daemon, "c")
        job = job_of(daemon, id)
        runs = one_has_it(daemon, tmp_path, "c")
        if step == "go" or (step == "config-answer" and act.endswith("after")):
            keeps = None  # the old process has sent GO, or may have done so
        else:
            keeps = not act.startswith("kill-old")
            assert "error" in job
        assert keeps in (None, runs), (act, job, log_of(daemon, "c"))
        if runs:
            assert keeps is None or daemon.info("c")["pid"] == old
            holds(vm, "c")
        else:
            until(lambda: has_ended(old))
            undefine(vm, daemon, "c")
            cloned(vm, "c")
    daemon.cairn("restart-process", "c")
    holds(vm, "c")
    source_holds(vm)
    daemon.cairn("destroy", "c")
    daemon.cairn("destroy", "src")
    check(*tmp_path.glob("*.qcow2"))


@pytest.mark.seconds(240)
def test_lost_messages(vm, daemon, relay, tmp_path):  # noqa: F811
    """A process that never gets its answer keeps the VM after 20 s, for which all clones wait at once."""
    source(vm, tmp_path)
    jobs = {}
    for i, (step, n) in enumerate(STEPS[:-1]):
        name = f"c{i}"
        cloned(vm, name)
        relay.plan(name, "drop", step, n)
        jobs[name] = daemon.info(name)["pid"], begin(daemon, name)
    for name, (pid, id) in jobs.items():
        assert "the new process did not take the VM over within 20 s" in job_of(daemon, id)["error"]
        assert one_has_it(daemon, tmp_path, name) and daemon.info(name)["pid"] == pid
        holds(vm, name)
    relay.plan("c0", "drop", "go")
    id = begin(daemon, "c0")
    assert "error" in job_of(daemon, id)
    assert not one_has_it(daemon, tmp_path, "c0")
    source_holds(vm)


@steps
def test_late_message(vm, daemon, relay, tmp_path, step, n):  # noqa: F811
    """The guest runs, and writes, while the memory is copied."""
    source(vm, tmp_path)
    cloned(vm, "c")
    old = daemon.info("c")["pid"]
    relay.plan("c", "hold", step, n)
    id = begin(daemon, "c")
    until(lambda: relay.is_held("c"))
    if step.startswith("memory"):
        vm.run("c", f"fill {AT + FILL} {OWN} 3 {WORDS}")
        vm.run("c", f"fill {AT + FILL + MIB} {OWN - MIB} 2 {WORDS}")
        disk_write(vm, "c", 0, 512, 3)
        vm.run("c", f"fill {AT + FILL} {MIB} 2 {WORDS}")
    relay.release("c")
    assert "error" not in job_of(daemon, id)
    assert one_has_it(daemon, tmp_path, "c") and daemon.info("c")["pid"] != old
    until(lambda: has_ended(old))
    holds(vm, "c")
    source_holds(vm)


without_memory = pytest.mark.skipif(guestlib.SANITIZED, reason="a sanitizer's runtime ends the process when it gets no memory")


@without_memory
def test_successor_without_memory(vm, daemon, relay, tmp_path):  # noqa: F811
    source(vm, tmp_path)
    cloned(vm, "c")
    old = daemon.info("c")["pid"]
    relay.plan("c", "enomem")
    r = daemon.cairn("restart-process", "c", ok=False)
    assert "the new process cannot take the VM over: cannot map 128 MiB of guest memory: Cannot allocate memory" in r.stderr
    assert one_has_it(daemon, tmp_path, "c") and daemon.info("c")["pid"] == old
    holds(vm, "c")
    daemon.cairn("restart-process", "c")
    holds(vm, "c")


def address_space_limit(pid, limit):
    """Set the limit as the process's user, because root would need CAP_SYS_RESOURCE, which containers lack."""
    with open(f"/proc/{pid}/status") as f:
        uid = int(next(line for line in f if line.startswith("Uid:")).split()[1])
    user = {"user": uid, "group": uid, "extra_groups": []} if uid != os.geteuid() else {}
    subprocess.run(["prlimit", "--pid", str(pid), f"--as={limit}:unlimited"], check=True, timeout=60, **user)


@without_memory
def test_process_without_memory_for_copy(vm, daemon, tmp_path):  # noqa: F811
    source(vm, tmp_path)
    cloned(vm, "c")
    old = daemon.info("c")["pid"]
    daemon.cairn("dump", "c", str(tmp_path / "core"))  # starts the worker's thread, which needs memory, too
    address_space_limit(old, 1 << 20)
    assert "Cannot allocate memory" in daemon.cairn("restart-process", "c", ok=False).stderr
    address_space_limit(old, "unlimited")
    assert one_has_it(daemon, tmp_path, "c") and daemon.info("c")["pid"] == old
    holds(vm, "c")
    daemon.cairn("restart-process", "c")
    holds(vm, "c")


@pytest.mark.seconds(240)
def test_guest_that_writes_faster_than_the_copy_is_slowed_down(vm, daemon, relay, tmp_path):  # noqa: F811
    """In each round, the guest writes to more blocks than the 512 that the pause may copy aside."""
    written, at = 52 * MIB, AT + FILL
    vm.start(memory="96M", disks=[image(tmp_path / "a.qcow2")])
    vm.clone("c")
    vm.attach("c")
    seed = 1

    def outrun(*args):
        nonlocal seed
        relay.plan("c", "hold", "memory-answer", None)
        with subprocess.Popen([os.path.join(BUILD, "cairn"), "restart-process", "c", *args], env=daemon.env,
                              stdout=subprocess.PIPE, text=True) as p:
            while p.poll() is None:
                until(lambda: relay.is_held("c") or p.poll() is not None)
                if relay.is_held("c"):
                    seed += 1
                    vm.run("c", f"fill {at} {written} {seed} {BLOCK}")
                    relay.release("c")
            return p.stdout.read()

    def figures(text):
        return [json.loads(text)[0][f"memory-{k}"] for k in ("rounds", "throttle", "stopped")]

    assert re.search(r"\(handed over, paused [0-9.]+ ms, slowed down by 95 % because it wrote its memory faster than that "
                     r"was copied\)\n$", outrun())
    assert int(re.findall(r"(\d+) KiB of them in the pause", log_of(daemon, "c"))[-1]) >= written // 1024
    vm.run("c", f"check {at} {written} {seed} {BLOCK}")
    vm.holds("c", AT, FILL, 1)
    assert figures(outrun("--format", "json")) == [12, 95, True]
    vm.run("c", f"check {at} {written} {seed} {BLOCK}")
    rounds, throttle, stopped = figures(daemon.cairn("restart-process", "c", "--format", "json").stdout)
    assert rounds >= 1 and throttle == 0 and stopped is False
    vm.run("c", f"check {at} {written} {seed} {BLOCK}")
