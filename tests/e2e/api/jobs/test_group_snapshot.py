"""Snapshots of several VMs at one instant: all of them or none, whichever process is killed when. With fake_vm, and
with real guests."""

import json
import os
import signal

import pytest

from conftest import Console, QmpError, until
from test_daemon import as_nobody, audit, shared  # noqa: F401
from test_kill_points import has_no_job, killer, patient  # noqa: F401
from test_handover import image

PHASES = ["settle", "freeze", "resume", "write"]


def define(d, name, cmdline=None):
    (d.tmp / f"{name}.raw").write_bytes(bytes(1 << 20))
    d.define(name, cmdline=cmdline, disks=[{"path": f"{name}.raw", "format": "raw"}])


@pytest.fixture
def trio(fake):
    for name in "abc":
        define(fake, name)
        fake.cairn("start", name)
    return fake


def snapshots(d, *names):
    """Return name, state and tags of each VM's snapshots."""
    q = d.qmp()
    try:
        return [[(s["name"], s["state"], s["tags"]) for s in q.run("snapshot-list", vm=name)["snapshots"]] for name in names or "abc"]
    finally:
        q.close()


def nothing_is_left(d, *names):
    return has_no_job(d) and not list((d.state / "groups").glob("*")) and not any(snapshots(d, *names))


def test_each_vm_has_a_snapshot_of_one_group(trio):
    q = trio.qmp()
    out = trio.cairn("group-snapshot", "a", "b", "c", "--name", "g", "--description", "before").stdout
    assert out.startswith("Domain snapshots g created: 3 domains within ")
    tag, = {tag for vm in snapshots(trio) for name, state, tags in vm for tag in tags if (name, state) == ("g", "running")}
    assert tag.startswith("group:") and len(tag) == 22 and tag[6:] in out
    events = [q.event("SNAPSHOT_CREATED")["data"] for _ in range(3)]
    assert {(e["vm"], e["snapshot"]) for e in events} == {(name, "g") for name in "abc"}
    assert not list((trio.state / "groups").glob("*")) and json.loads(trio.cairn("jobs", "--format", "json").stdout) == []
    line = [x for x in audit(trio) if x["command"] == "group-snapshot"][-1]
    assert line["arguments"]["vms"] == ["a", "b", "c"] and line["outcome"] == "ok"
    result = json.loads(trio.cairn("group-snapshot", "[ab]", "--format", "json").stdout)
    assert [vm["vm"] for vm in result["vms"]] == ["a", "b"] and result["name"].isdigit() and result["group"] != tag[6:]


@pytest.mark.parametrize("args, code, says", [
    (["a", "nope"], 3, "there is no VM 'nope'"), ([], 2, "group-snapshot"),
    (["a", "--name", ""], 2, "name: 1 to 255 bytes"), (["a", "--name", "x" * 256], 2, "name: 1 to 255 bytes"),
    (["a", "--name", "x\ny"], 2, "one line"), (["z*"], 3, "no VM matches")])
def test_nonsense_is_refused(trio, args, code, says):
    r = trio.cairn("group-snapshot", *args, ok=code)
    assert says in r.stderr
    assert nothing_is_left(trio)


def test_nonsense_from_a_socket_is_refused(trio):
    q = trio.qmp()
    for vms in ([], [1], [None], ["a"] * 65, [["a"]]):
        with pytest.raises(QmpError, match="vms: "):
            q.run("group-snapshot", vms=vms)
    with pytest.raises(QmpError, match="VM 'a' is there twice"):
        q.run("group-snapshot", vms=["a", "b", "a"])
    with pytest.raises(QmpError):
        q.run("group-snapshot", vms="a")
    assert nothing_is_left(trio)


def test_one_vm_and_33(fake):
    names = [f"vm{i}" for i in range(33)]
    for name in names:
        define(fake, name)
        fake.cairn("start", name)
    fake.cairn("group-snapshot", "vm7", "--name", "one")
    result = json.loads(fake.cairn("group-snapshot", *names, "--name", "g", "--format", "json").stdout)
    assert [vm["vm"] for vm in result["vms"]] == names
    assert all("g" in [name for name, *_ in s] for s in snapshots(fake, *names))


def test_vms_that_are_paused_or_off(trio):
    trio.cairn("suspend", "b")
    trio.cairn("destroy", "c")
    r = trio.cairn("group-snapshot", "a", "b", "c", "--name", "g", "--verbose").stdout.splitlines()
    assert [[x[0] for x in vm] for vm in snapshots(trio)] == [["g"]] * 3
    assert [line.split()[0] for line in r if line.startswith(" ")][-3:] == ["a", "b", "c"]
    assert trio.info("b")["state"] == "paused" and trio.info("c")["state"] == "shutoff"
    trio.cairn("destroy", "a")
    trio.cairn("destroy", "b")
    trio.cairn("group-snapshot", "a", "b", "c", "--name", "off")
    assert [[x[0] for x in vm] for vm in snapshots(trio)] == [["g", "off"]] * 3


def test_name_that_one_vm_has_already(trio):
    trio.cairn("snapshot-create-as", "b", "g")
    r = trio.cairn("group-snapshot", "a", "b", "c", "--name", "g", ok=False)
    assert "VM 'b': " in r.stderr
    assert [[x[0] for x in vm] for vm in snapshots(trio)] == [[], ["g"], []]
    assert snapshots(trio)[1][0][2] == []


def test_vm_with_another_job_is_busy(fake):
    done = fake.tmp / "done"
    define(fake, "a")
    define(fake, "b", f"work-until={done}")
    for name in "ab":
        fake.cairn("start", name)
    fake.qmp().run("snapshot-create", vm="b", name="long")
    assert "VM 'b'" in fake.cairn("group-snapshot", "a", "b", ok=6).stderr
    done.touch()
    until(lambda: has_no_job(fake))
    assert [[x[0] for x in vm] for vm in snapshots(fake, "a", "b")] == [[], ["long"]]


def test_process_of_an_older_cairn_is_refused(fake):
    define(fake, "a")
    define(fake, "b", "no-groups")
    for name in "ab":
        fake.cairn("start", name)
    fake.stop()
    fake.start()
    assert "cairn restart-process b" in fake.cairn("group-snapshot", "a", "b", ok=False).stderr
    assert nothing_is_left(fake, "a", "b")


def test_failure_of_one_vm_leaves_no_snapshot(fake):
    for name in "abc":
        define(fake, name, "work-fails" if name == "b" else None)
        fake.cairn("start", name)
    r = fake.cairn("group-snapshot", "a", "b", "c", "--name", "g", ok=False)
    assert "VM 'b': vda: no space left" in r.stderr
    assert nothing_is_left(fake)
    fake.cairn("destroy", "b")
    fake.cairn("group-snapshot", "a", "c", "--name", "g")


@pytest.fixture
def staying(fake):
    """Return a function that begins a group's snapshots of a, b and c, of which b stays in a phase."""
    def begin(phase):
        stays = f"group-stays-at={PHASES.index(phase) + 1}" if phase != "write" else f"work-until={fake.tmp / 'go'}"
        for name in "abc":
            define(fake, name, stays if name == "b" else None)
            fake.cairn("start", name)
        q = fake.qmp()
        job = q.run("group-snapshot", vms=["a", "b", "c"], name="g")["job"]
        until(lambda: list((fake.state / "groups").glob("*.json")) and (phase != "write" or all(snapshots(fake, "a", "c"))))
        return q, job
    return begin


def job_of(d, job):
    q = d.qmp()
    try:
        return next(j for j in q.jobs() if j["id"] == job)
    finally:
        q.close()


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("how", ["vm-killed", "vm-destroyed", "cancelled", "one-cancelled"])
def test_group_that_ends_in_a_phase_leaves_nothing(fake, staying, phase, how):
    q, job = staying(phase)
    if how == "vm-killed":
        os.kill(fake.info("b")["pid"], signal.SIGKILL)
    elif how == "vm-destroyed":
        fake.cairn("destroy", "b")
    elif how == "cancelled":
        q.run("job-cancel", id=job)
    else:
        q.run("job-cancel", id=fake.info("b")["job"])
    until(lambda: job_of(fake, job)["status"] == "concluded")
    error = job_of(fake, job)["error"]
    assert "cancelled" in error if how == "cancelled" else error.startswith("VM 'b': ")
    assert nothing_is_left(fake)
    assert [fake.info(name)["state"] for name in "ac"] == ["running"] * 2
    fake.cairn("group-snapshot", "a", "c", "--name", "g")


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_end_of_the_daemon_in_a_phase_leaves_nothing(fake, staying, phase, sig):
    staying(phase)
    pids = [fake.info(name)["pid"] for name in "abc"]
    fake.stop(sig)
    fake.tmp.joinpath("go").touch()
    fake.start()
    until(lambda: patient(lambda: nothing_is_left(fake)))
    assert [(fake.info(name)["state"], fake.info(name)["pid"]) for name in "abc"] == [("running", pid) for pid in pids]


@pytest.mark.seconds(600)
def test_daemon_killed_at_any_call(killer):  # noqa: F811
    d = killer.daemon
    for name in "ab":
        define(d, name)
        d.cairn("start", name)

    def settled():
        return has_no_job(d) and not list((d.state / "groups").glob("*"))

    def look(done):
        found = [[x[0] for x in vm] for vm in snapshots(d, "a", "b")]
        assert found in ([[], []], [["g"], ["g"]]) and (all(found) or not done)
        for name in "ab":
            assert d.info(name)["state"] == "running"
            d.cairn("snapshot-delete", name, "g", ok=None)
    killer.sweep(lambda: None, lambda: d.cairn("group-snapshot", "a", "b", "--name", "g", ok=None).returncode == 0, look, settled, step=12)


def test_role_is_needed_for_each_vm(shared):  # noqa: F811
    for name in ("mine", "other"):
        define(shared, name)
        shared.cairn("start", name)
    shared.cairn("grant", "operator", "mine", "--user", "nobody")
    for vms in (["mine", "other"], ["mine", "none"], ["other"]):
        answer, = as_nobody(shared, ["group-snapshot", {"vms": vms}])
        assert answer["error"]["class"] == "PermissionDenied" and vms[-1] in answer["error"]["desc"]
    assert audit(shared)[-1]["outcome"] == "PermissionDenied"
    assert not any(snapshots(shared, "mine", "other"))
    shared.cairn("grant", "viewer", "other", "--user", "nobody")
    assert "error" in as_nobody(shared, ["group-snapshot", {"vms": ["mine", "other"]}])[0]
    shared.cairn("grant", "operator", "other", "--user", "nobody")
    answer, = as_nobody(shared, ["group-snapshot", {"vms": ["mine", "other"], "name": "g"}])
    until(lambda: all(snapshots(shared, "mine", "other")))
    assert "job" in answer["return"]


# ---- reverting ----

def test_group_is_reverted(trio):
    trio.cairn("suspend", "b")
    trio.cairn("group-snapshot", "a", "b", "--name", "g")
    trio.cairn("resume", "b")
    assert trio.cairn("group-revert", "--name", "g", "a", "b").stdout == "2 domains reverted to snapshots g\n"
    assert [trio.info(name)["state"] for name in "ab"] == ["running", "paused"]


def test_group_is_not_reverted_in_part(trio):
    trio.cairn("group-snapshot", "a", "b", "--name", "g")
    trio.cairn("snapshot-create-as", "c", "g")
    pids = [trio.info(name)["pid"] for name in "abc"]
    for args, says in ((["a", "c"], "belongs to no group"), (["a", "nope"], "no VM 'nope'")):
        r = trio.cairn("group-revert", "--name", "g", *args, ok=False)
        assert says in r.stderr and "no domain was reverted" in r.stderr
    assert "no snapshot 'h'" in trio.cairn("group-revert", "--name", "h", "a", ok=3).stderr
    trio.cairn("group-revert", "a", ok=2)
    trio.cairn("snapshot-delete", "c", "g")
    trio.cairn("group-snapshot", "c", "--name", "g")
    assert "belongs to another group" in trio.cairn("group-revert", "--name", "g", "a", "c", ok=False).stderr
    assert [trio.info(name)["pid"] for name in "abc"] == pids


# ---- real guests ----

@pytest.fixture
def pair(daemon, guest, kvm):
    consoles = {}
    for name in "ab":
        daemon.define(name, boot={"kernel": guest("interp.elf")}, debug_exit=True, disks=[image(daemon, name, size="1M")])
        daemon.cairn("start", name)
        c = consoles[name] = Console(daemon, name)
        while c.line() != "interp":
            pass
    yield daemon, consoles
    for c in consoles.values():
        c.close()


def test_real_guests_stand_still_together(pair):
    d, consoles = pair
    for c in consoles.values():
        for command in ("fill 0x800000 0x10000 1", "open 0", "write 0 8 1", "flush"):
            c.run(command)
    result = json.loads(d.cairn("group-snapshot", "a", "b", "--name", "g", "--format", "json").stdout)
    instants, pauses = ([vm[key] for vm in result["vms"]] for key in ("instant", "pause"))
    print("spread", result["spread"] / 1e6, "ms, pauses", [p / 1e6 for p in pauses])
    assert max(instants) - min(instants) == result["spread"]
    assert min(a + p for a, p in zip(instants, pauses)) >= max(instants)  # none went on before all stood still
    # A busy machine delays a process now and then.
    spreads = [json.loads(d.cairn("group-snapshot", "a", "b", "--name", f"g{i}", "--format", "json").stdout)["spread"] for i in range(4)]
    assert min(spreads + [result["spread"]]) < 100e6
    for c in consoles.values():
        for command in ("check 0x800000 0x10000 1", "fill 0x800000 0x10000 2", "write 0 8 2", "flush"):
            c.run(command)
    d.cairn("group-revert", "--name", "g", "a", "b")
    for name, c in consoles.items():
        assert d.info(name)["state"] == "running"
        c.run("check 0x800000 0x10000 1")
        c.run("verify 0 8 1")


def test_real_processes_without_their_daemon_undo(pair):
    """The daemon ends while the processes are at work: none of them keeps a snapshot."""
    d, consoles = pair
    q = d.qmp()
    for i in range(6):
        q.run("group-snapshot", vms=["a", "b"], name=f"g{i}")
        until(lambda: i % 3 == 0 or list((d.state / "groups").glob("*.json")) or not d.info("a").get("job"))
        d.stop(signal.SIGKILL)
        d.start()
        q = d.qmp()
        until(lambda: patient(lambda: has_no_job(d) and not list((d.state / "groups").glob("*"))))
        a, b = ([x[0] for x in vm] for vm in snapshots(d, "a", "b"))
        assert a == b
        for c in consoles.values():
            c.run("fill 0x800000 0x1000 1")
