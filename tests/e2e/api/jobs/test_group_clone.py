"""Live clones of several VMs at one instant. With fake_vm, and with real guests. test_group_job.py has what they share
with snapshots."""

import json
import os
import signal

import pytest

from conftest import QmpError, until
from daemonlib import as_nobody, audit, shared  # noqa: F401
from fuselib import Op, fuse
from grouplib import Clones, begin_staying, define, job_of, trio  # noqa: F401
from test_group_snapshot import pair  # noqa: F401
from test_handover import console
from test_kill_points import has_no_job, listed, patient

nothing_is_left = Clones.nothing_is_left


def test_each_vm_has_a_clone(trio):  # noqa: F811
    out = trio.cairn("group-clone", "a", "b", "c", "--name-pattern", "try-%s").stdout.splitlines()
    assert out[:3] == [f"Domain '{name}' cloned as 'try-{name}'" for name in "abc"]
    assert out[3].startswith("3 domains cloned as of one instant, within ")
    for name in "abc":
        clone = trio.info(f"try-{name}")
        assert clone["state"] == "running" and clone["persistent"] is True and trio.info(name)["state"] == "running"
        assert (trio.tmp / f"try-{name}-vda.raw").exists()
    assert not list((trio.state / "groups").glob("*")) and json.loads(trio.cairn("jobs", "--format", "json").stdout) == []
    line = [x for x in audit(trio) if x["command"] == "group-clone"][-1]
    assert line["arguments"]["vms"] == ["a", "b", "c"] and line["outcome"] == "ok"
    result = json.loads(trio.cairn("group-clone", "[ab]", "--format", "json").stdout)
    assert [(c["vm"], c["name"], c["uuid"]) for c in result["clones"]] == [(n, f"{n}-clone", trio.info(f"{n}-clone")["uuid"]) for n in "ab"]
    r = trio.cairn("group-clone", "a", "b", "--name-pattern", "%s2", "--verbose").stdout
    assert "a: paused for " in r and " ms in all" in r
    assert "\n1 domain cloned as of one instant" in trio.cairn("group-clone", "a", "--name-pattern", "one-%s").stdout


def test_disk_that_was_attached_stays_when_the_clones_are_removed(trio):  # noqa: F811
    """The daemon was killed after one clone was complete, and a user has attached a disk to it."""
    data = trio.tmp / "data.img"
    data.write_bytes(bytes(1 << 20))
    trio.cairn("group-clone", "a", "b")
    uuids = [trio.info(f"{n}-clone")["uuid"] for n in "ab"]
    trio.cairn("attach-disk", "a-clone", data, "vdz", "--subdriver", "raw", "--config")
    trio.stop(signal.SIGKILL)
    (trio.state / f"groups/clone-{0:016x}.json").write_text(json.dumps({"version": 1, "vms": uuids}))
    trio.start()
    until(lambda: nothing_is_left(trio))
    assert data.exists() and not list(trio.tmp.glob("*-clone-*"))


def test_clones_are_paused_or_ephemeral_if_asked(trio):  # noqa: F811
    trio.cairn("suspend", "b")
    trio.cairn("group-clone", "a", "b", "--paused", "--ephemeral")
    assert [trio.info(f"{n}-clone")["state"] for n in "ab"] == ["paused"] * 2
    assert [trio.info(f"{n}-clone")["ephemeral"] for n in "ab"] == [True] * 2
    for name in "ab":
        trio.cairn("destroy", f"{name}-clone")
    until(lambda: nothing_is_left(trio))
    assert [trio.info(name)["state"] for name in "ab"] == ["running", "paused"]


def test_clones_have_limits_if_asked(trio):  # noqa: F811
    trio.cairn("group-clone", "a", "b", "--cpus", "0.5", "--memory-max", "512M")
    for name, limits in (("a", (None, None)), ("a-clone", (50, "512M")), ("b-clone", (50, "512M"))):
        d = json.loads(trio.cairn("dumpjson", name).stdout)
        assert (d.get("cpu_quota"), d.get("memory_max")) == limits
    q = trio.qmp()
    for args, why in (({"cpu-quota": 0}, "cpu-quota: 0 is out of range; give 1 to 25600"), ({"memory-max": 4097}, "memory-max: 4097 is not a multiple of 4 KiB"),
                      ({"forwards": [{}]}, "forwards"), ({"forwards": [None]}, "forwards"), ({"forwards": 1}, "forwards")):
        with pytest.raises(QmpError, match=why):
            q.run("group-clone", vms=["c"], **args)
    for args, why in ((["--cpus", "nan"], "--cpus must be a number of processors"), (["--memory-max", "much"], "--memory-max must be a size such as 512M"),
                      (["--publish", "x"], "--publish")):
        assert why in trio.cairn("group-clone", "c", *args, ok=2).stderr
    assert sorted(listed(trio)) == ["a", "a-clone", "b", "b-clone", "c"]


@pytest.mark.parametrize("args, code, says", [
    (["a", "--name-pattern", "x"], 2, 'name-pattern: "x" must have one %s, for the name of the VM, as in try-%s'),
    (["a", "--name-pattern", "%s%s"], 2, "must have one %s"), (["a", "--name-pattern", "%d%s"], 2, "must have one %s"),
    (["a", "--name-pattern", "%s" + "x" * 300], 2, "name-pattern: makes a name of 301 bytes of 'a'"),
    (["a", "--name-pattern", "%s/b"], 2, 'name-pattern: "a/b": must not have a "/"'),
    (["a", "b", "--name-pattern", "%s"], 4, "there is a VM 'a' already; choose other names with name-pattern")])
def test_nonsense_is_refused(trio, args, code, says):  # noqa: F811
    r = trio.cairn("group-clone", *args, ok=None)
    assert says in r.stderr and r.returncode == code
    assert nothing_is_left(trio)


def test_vm_that_is_off_or_busy_is_refused(fake):
    define(fake, "a")
    define(fake, "b")
    define(fake, "c", f"work-until={fake.tmp / 'go'}")
    fake.cairn("start", "a", "c")
    r = fake.cairn("group-clone", "a", "b", ok=False).stderr
    assert "VM 'b'" in r and "shut off" in r and "no domain was cloned" in r
    fake.qmp().run("snapshot-create", vm="c", name="long")
    assert "VM 'c'" in fake.cairn("group-clone", "a", "c", ok=6).stderr
    (fake.tmp / "go").touch()
    until(lambda: nothing_is_left(fake))


def test_file_in_the_place_of_an_image_leaves_no_clone(trio):  # noqa: F811
    (trio.tmp / "c-clone-vda.raw").touch()
    assert "VM 'c': " in trio.cairn("group-clone", "a", "c", ok=False).stderr
    (trio.tmp / "c-clone-vda.raw").unlink()
    assert nothing_is_left(trio)
    trio.cairn("group-clone", "a", "c")


def test_end_of_a_clone_before_all_are_there_leaves_nothing(fake):
    _, job = begin_staying(fake, Clones, "write")
    until(lambda: all(Clones.is_written(fake, "a", "c")) and "a-clone" in listed(fake))
    assert fake.info("a-clone")["state"] == "paused"
    os.kill(fake.info("a-clone")["pid"], signal.SIGKILL)
    until(lambda: fake.info("a-clone")["state"] != "paused")
    (fake.tmp / "go").touch()
    until(lambda: job_of(fake, job)["status"] == "concluded")
    assert "VM 'a-clone': " in job_of(fake, job)["error"]
    assert nothing_is_left(fake)
    assert [fake.info(name)["state"] for name in "abc"] == ["running"] * 3


@pytest.mark.seconds(50)  # the process of b would stay for longer
@pytest.mark.parametrize("how, error", [("cancelled", "the job was cancelled"), ("killed", "the VM ended before its state was taken")])
def test_clone_that_ends_while_its_files_are_opened(fake, how, error):
    define(fake, "a")
    with fuse(fake.tmp / "fuse", image=bytes(1 << 20)) as f:
        fake.define("b", cmdline="group-stays-at=1", disks=[{"path": f["image"], "format": "raw"}])
        fake.cairn("start", "a", "b")
        f.hang(Op.OPEN, Op.CREATE)
        q = fake.qmp()
        job = q.run("group-clone", vms=["a", "b"])["job"]
        until(f.hanging)
        if how == "cancelled":
            q.run("job-cancel", id=fake.info("b")["job"])
        else:
            os.kill(fake.info("b")["pid"], signal.SIGKILL)
            until(lambda: fake.info("b")["state"] != "running")
        f.release()
        until(lambda: job_of(fake, job)["status"] == "concluded")
        assert f"VM 'b': {error}" in job_of(fake, job)["error"]
        assert has_no_job(fake) and sorted(listed(fake)) == ["a", "b"] and not os.path.exists(fake.tmp / "fuse/b-clone-vda.raw")


def test_role_admin_is_needed(shared):  # noqa: F811
    define(shared, "mine")
    shared.cairn("start", "mine")
    shared.cairn("grant", "owner", "mine", "--user", "nobody")
    answer, = as_nobody(shared, ["group-clone", {"vms": ["mine"]}])
    assert answer["error"]["class"] == "PermissionDenied" and "mine-clone" not in listed(shared)


# ---- real guests ----

def test_real_guests_are_cloned_as_of_one_instant(pair, guest):  # noqa: F811
    d, consoles = pair
    d.define("c", boot={"kernel": guest("idle.elf")})  # without a disk
    d.cairn("start", "c")
    for c in consoles.values():
        for command in ("fill 0x800000 0x10000 1", "open 0", "write 0 8 1", "flush"):
            c.run(command)
    result = json.loads(d.cairn("group-clone", "a", "b", "c", "--name-pattern", "try-%s", "--format", "json").stdout)
    instants, pauses = ([vm[key] for vm in result["clones"]] for key in ("instant", "pause"))
    print("spread", result["spread"] / 1e6, "ms, pauses", [p / 1e6 for p in pauses])
    assert max(instants) - min(instants) == result["spread"]
    assert min(a + p for a, p in zip(instants, pauses)) >= max(instants)  # none went on before all stood still
    assert d.info("try-c")["state"] == "running"
    for name, c in consoles.items():
        for command in ("fill 0x800000 0x10000 2", "write 0 8 2", "flush"):
            c.run(command)
        clone = console(d, f"try-{name}")
        for command in ("check 0x800000 0x10000 1", "verify 0 8 1", "write 0 8 3", "flush"):
            clone.run(command)
        clone.close()
        c.run("verify 0 8 2")


def test_real_processes_without_their_daemon_leave_no_clone(pair):  # noqa: F811
    d, consoles = pair
    for i in range(6):
        d.qmp().run("group-clone", vms=["a", "b"])
        until(lambda: i % 3 == 0 or list((d.state / "groups").glob("*.json")) or not d.info("a").get("job"))
        d.stop(signal.SIGKILL)
        d.start()
        until(lambda: patient(lambda: has_no_job(d) and not list((d.state / "groups").glob("*")) and len(listed(d)) in (2, 4)))
        for name in set(listed(d)) - set("ab"):
            d.cairn("destroy", name)
            d.cairn("undefine", name, "--remove-all-storage")
        assert not list(d.tmp.glob("*-clone-*"))
        for c in consoles.values():
            c.run("fill 0x800000 0x1000 1")
