"""Live clones of several VMs at one instant: all of them or none, whichever process is killed when. With fake_vm, and
with real guests."""

import json
import os
import signal

import pytest

from conftest import QmpError, until
from fuselib import Op, fuse
from test_daemon import as_nobody, audit, shared  # noqa: F401
from test_group_snapshot import PHASES, define, job_of, pair, trio  # noqa: F401
from test_handover import console
from test_kill_points import has_no_job, killer, listed, patient  # noqa: F401


def nothing_is_left(d, *names):
    return (has_no_job(d) and not list((d.state / "groups").glob("*")) and sorted(listed(d)) == sorted(names or "abc")
            and sorted(p.name for p in d.tmp.glob("*.raw")) == [f"{name}.raw" for name in sorted(names or "abc")])


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


def test_clones_are_paused_or_ephemeral_if_asked(trio):  # noqa: F811
    trio.cairn("suspend", "b")
    trio.cairn("group-clone", "a", "b", "--paused", "--ephemeral")
    assert [trio.info(f"{n}-clone")["state"] for n in "ab"] == ["paused"] * 2
    assert [trio.info(f"{n}-clone")["ephemeral"] for n in "ab"] == [True] * 2
    for name in "ab":
        trio.cairn("destroy", f"{name}-clone")
    until(lambda: nothing_is_left(trio))
    assert [trio.info(name)["state"] for name in "ab"] == ["running", "paused"]


@pytest.mark.parametrize("args, code, says", [
    (["a", "nope"], 3, "there is no VM 'nope'"), ([], 2, "group-clone"), (["z*"], 3, "no VM matches"),
    (["a", "--name-pattern", "x"], 2, 'name-pattern: "x" must have one %s, for the name of the VM, as in try-%s'),
    (["a", "--name-pattern", "%s%s"], 2, "must have one %s"), (["a", "--name-pattern", "%d%s"], 2, "must have one %s"),
    (["a", "--name-pattern", "%s" + "x" * 300], 2, "name-pattern: makes a name of 301 bytes of 'a'"),
    (["a", "--name-pattern", "%s/b"], 2, 'name-pattern: "a/b": must not have a "/"'),
    (["a", "b", "--name-pattern", "%s"], 4, "there is a VM 'a' already; choose other names with name-pattern")])
def test_nonsense_is_refused(trio, args, code, says):  # noqa: F811
    r = trio.cairn("group-clone", *args, ok=None)
    assert says in r.stderr and r.returncode == code
    assert nothing_is_left(trio)


def test_nonsense_from_a_socket_is_refused(trio):  # noqa: F811
    q = trio.qmp()
    for vms in ([], [1], [None], ["a"] * 65, [["a"]]):
        with pytest.raises(QmpError, match="vms: "):
            q.run("group-clone", vms=vms)
    with pytest.raises(QmpError, match="VM 'a' is there twice"):
        q.run("group-clone", vms=["a", "b", "a"])
    assert nothing_is_left(trio)


def test_vm_that_is_off_busy_or_of_an_older_cairn_is_refused(fake):
    define(fake, "a")
    define(fake, "b", "no-group-forks")
    define(fake, "c", f"work-until={fake.tmp / 'go'}")
    fake.cairn("start", "a")
    r = fake.cairn("group-clone", "a", "b", ok=False).stderr
    assert "VM 'b'" in r and "shut off" in r and "no domain was cloned" in r
    fake.cairn("start", "b")
    fake.cairn("start", "c")
    fake.stop()
    fake.start()
    assert "cairn restart-process b" in fake.cairn("group-clone", "a", "b", ok=False).stderr
    fake.qmp().run("snapshot-create", vm="c", name="long")
    assert "VM 'c'" in fake.cairn("group-clone", "a", "c", ok=6).stderr
    (fake.tmp / "go").touch()
    until(lambda: nothing_is_left(fake))


def test_failure_of_one_vm_leaves_no_clone(fake):
    for name in "abc":
        define(fake, name, "work-fails" if name == "b" else None)
        fake.cairn("start", name)
    r = fake.cairn("group-clone", "a", "b", "c", ok=False)
    assert "VM 'b': vda: no space left" in r.stderr
    assert nothing_is_left(fake)
    (fake.tmp / "c-clone-vda.raw").touch()
    assert "VM 'c': " in fake.cairn("group-clone", "a", "c", ok=False).stderr
    (fake.tmp / "c-clone-vda.raw").unlink()
    assert nothing_is_left(fake)
    fake.cairn("group-clone", "a", "c")


@pytest.fixture
def staying(fake):
    """Return a function that begins clones of a, b and c, of which b stays in a phase."""
    def begin(phase):
        stays = f"group-stays-at={PHASES.index(phase) + 1}" if phase != "write" else f"work-until={fake.tmp / 'go'}"
        for name in "abc":
            define(fake, name, stays if name == "b" else None)
            fake.cairn("start", name)
        q = fake.qmp()
        job = q.run("group-clone", vms=["a", "b", "c"])["job"]
        until(lambda: list((fake.state / "groups").glob("*.json")) and (phase != "write" or [fake.info(n).get("job") for n in "abc"][::2] == [None] * 2))
        return q, job
    return begin


@pytest.mark.parametrize("phase, how", [*((p, how) for p in PHASES for how in ("vm-killed", "cancelled", "one-cancelled")), ("write", "clone-killed")])
def test_group_that_ends_in_a_phase_leaves_nothing(fake, staying, phase, how):
    q, job = staying(phase)
    if how == "vm-killed":
        os.kill(fake.info("b")["pid"], signal.SIGKILL)
    elif how == "cancelled":
        q.run("job-cancel", id=job)
    elif how == "one-cancelled":
        q.run("job-cancel", id=fake.info("b")["job"])
    else:
        assert fake.info("a-clone")["state"] == "paused"
        os.kill(fake.info("a-clone")["pid"], signal.SIGKILL)
        until(lambda: fake.info("a-clone")["state"] != "paused")
        (fake.tmp / "go").touch()
    until(lambda: job_of(fake, job)["status"] == "concluded")
    error = job_of(fake, job)["error"]
    assert {"cancelled": "the job was cancelled; no clone remains", "clone-killed": "VM 'a-clone': "}.get(how, "VM 'b': ") in error
    assert nothing_is_left(fake)
    assert [fake.info(name)["state"] for name in "ac"] == ["running"] * 2
    fake.cairn("group-clone", "a", "c")


@pytest.mark.seconds(50)  # the process of b would stay for longer
def test_clone_that_is_cancelled_while_its_files_are_opened(fake):
    define(fake, "a")
    with fuse(fake.tmp / "fuse", image=bytes(1 << 20)) as f:
        fake.define("b", cmdline="group-stays-at=1", disks=[{"path": f["image"], "format": "raw"}])
        fake.cairn("start", "a", "b")
        f.hang(Op.OPEN, Op.CREATE)
        q = fake.qmp()
        job = q.run("group-clone", vms=["a", "b"])["job"]
        until(f.hanging)
        q.run("job-cancel", id=fake.info("b")["job"])
        f.release()
        until(lambda: job_of(fake, job)["status"] == "concluded")
        assert "VM 'b': the job was cancelled" in job_of(fake, job)["error"]
        assert has_no_job(fake) and sorted(listed(fake)) == ["a", "b"] and not os.path.exists(fake.tmp / "fuse/b-clone-vda.raw")


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
        return has_no_job(d) and not list((d.state / "groups").glob("*")) and sorted(listed(d)) in (["a", "b"], ["a", "a-clone", "b", "b-clone"])

    def look(done):
        assert len(listed(d)) == 4 or not done
        for name in "ab":
            assert d.info(name)["state"] == "running"
            if len(listed(d)) > 2:
                d.cairn("destroy", f"{name}-clone", ok=None)
        for name in set(listed(d)) - set("ab"):
            d.cairn("undefine", name, "--remove-all-storage")
        assert nothing_is_left(d, "a", "b")
    killer.sweep(lambda: None, lambda: d.cairn("group-clone", "a", "b", ok=None).returncode == 0, look, settled, step=24)


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
