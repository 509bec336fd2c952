"""Snapshots of several VMs at one instant. With fake_vm, and with real guests. test_group_job.py has what they share
with clones."""

import json
import signal

import pytest

from conftest import Console, until
from daemonlib import as_nobody, audit, shared  # noqa: F401
from grouplib import Snapshots, begin, define, snapshots, trio  # noqa: F401
from test_handover import image
from test_kill_points import has_no_job, patient

nothing_is_left = Snapshots.nothing_is_left


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


def test_names_of_snapshots_of_one_second_count_up(trio):
    """Also if only some of the VMs have had one in that second."""
    made = [json.loads(trio.cairn("group-snapshot", *vms, "--format", "json").stdout)["name"] for vms in ("ab", "a", "bc", "abc")]
    trio.cairn("snapshot-create", "c")
    assert made[0] < made[1] < made[3] > made[2] > made[0] and [len(s) for s in snapshots(trio)] == [3, 3, 3]


@pytest.mark.parametrize("args, code, says", [
    (["a", "--name", ""], 2, "name: 1 to 255 bytes"), (["a", "--name", "x" * 256], 2, "name: 1 to 255 bytes"),
    (["a", "--name", "x\ny"], 2, "one line")])
def test_nonsense_is_refused(trio, args, code, says):
    r = trio.cairn("group-snapshot", *args, ok=code)
    assert says in r.stderr
    assert nothing_is_left(trio)


def test_one_vm_and_33(fake):
    names = [f"vm{i}" for i in range(33)]
    begin(fake, names)
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


def test_vm_whose_disk_can_have_no_snapshot(daemon):
    """It has none to delete, either."""
    (daemon.tmp / "disk.raw").write_bytes(bytes(1 << 20))
    daemon.define("a", disks=[image(daemon)])
    daemon.define("b", disks=[{"path": "disk.raw", "format": "raw"}])
    r = daemon.cairn("group-snapshot", "a", "b", "--name", "g", ok=False)
    assert "VM 'b': " in r.stderr and "need" in r.stderr and "qcow2" in r.stderr
    assert snapshots(daemon, "a") == [[]]
    until(lambda: not list((daemon.state / "groups").glob("*")))


def test_name_that_one_vm_has_already(trio):
    trio.cairn("snapshot-create-as", "b", "g")
    r = trio.cairn("group-snapshot", "a", "b", "c", "--name", "g", ok=False)
    assert "VM 'b': " in r.stderr
    assert [[x[0] for x in vm] for vm in snapshots(trio)] == [[], ["g"], []]
    assert snapshots(trio)[1][0][2] == []


def test_vm_with_another_job_is_busy(fake):
    done = fake.tmp / "done"
    begin(fake, "ab", b=f"work-until={done}")
    fake.qmp().run("snapshot-create", vm="b", name="long")
    assert "VM 'b'" in fake.cairn("group-snapshot", "a", "b", ok=6).stderr
    done.touch()
    until(lambda: has_no_job(fake))
    assert [[x[0] for x in vm] for vm in snapshots(fake, "a", "b")] == [[], ["long"]]


def test_role_is_needed_for_each_vm(shared):  # noqa: F811
    begin(shared, ["mine", "other"])
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
