"""grouplib: what the tests of group-snapshot and of group-clone have in common, and the two as kinds of one job."""

import pytest

from test_kill_points import has_no_job, listed

PHASES = ["settle", "freeze", "resume", "write"]


def define(d, name, cmdline=None):
    (d.tmp / f"{name}.raw").write_bytes(bytes(1 << 20))
    d.define(name, cmdline=cmdline, disks=[{"path": f"{name}.raw", "format": "raw"}])


def begin(d, names, b=None):
    """Define VMs, of which b has a command line, and start them."""
    for name in names:
        define(d, name, b if name == "b" else None)
        d.cairn("start", name)


@pytest.fixture
def trio(fake):
    begin(fake, "abc")
    return fake


def has_no_group(d):
    return has_no_job(d) and not list((d.state / "groups").glob("*"))


def job_of(d, job):
    q = d.qmp()
    try:
        return next(j for j in q.jobs() if j["id"] == job)
    finally:
        q.close()


def snapshots(d, *names):
    """Return name, state and tags of each VM's snapshots."""
    q = d.qmp()
    try:
        return [[(s["name"], s["state"], s["tags"]) for s in q.run("snapshot-list", vm=name)["snapshots"]] for name in names or "abc"]
    finally:
        q.close()


class Snapshots:
    """The job group-snapshot, which makes snapshots g."""

    verb, noun = "group-snapshot", "snapshot"
    arguments, options = {"name": "g"}, ["--name", "g"]
    steps = 12  # kill the daemon at each 12th call
    lacks = "no-groups"  # what fake_vm calls a process of an older Cairn

    @staticmethod
    def made(d, *names):
        """Return whether each VM has what the job makes of it."""
        return [[name for name, *_ in vm] == ["g"] for vm in snapshots(d, *names)]

    is_written = made

    @staticmethod
    def nothing_is_left(d, *names):
        return has_no_group(d) and not any(snapshots(d, *names))

    settled = staticmethod(lambda d, *names: has_no_group(d))

    @staticmethod
    def remove(d, *names):
        for name in names:
            d.cairn("snapshot-delete", name, "g")


class Clones:
    """The job group-clone, which makes clones NAME-clone."""

    verb, noun = "group-clone", "clone"
    arguments, options = {}, []
    steps = 24
    lacks = "no-group-forks"

    @staticmethod
    def made(d, *names):
        return [f"{name}-clone" in listed(d) for name in names]

    @staticmethod
    def is_written(d, *names):
        return [d.info(name).get("job") is None for name in names]

    @staticmethod
    def nothing_is_left(d, *names):
        names = sorted(names or "abc")
        return has_no_group(d) and sorted(listed(d)) == names and sorted(p.name for p in d.tmp.glob("*.raw")) == [f"{name}.raw" for name in names]

    @staticmethod
    def settled(d, *names):
        return has_no_group(d) and len(listed(d)) in (len(names), 2 * len(names))

    @staticmethod
    def remove(d, *names):
        for name in names:
            d.cairn("destroy", f"{name}-clone", ok=None)
            d.cairn("undefine", f"{name}-clone", "--remove-all-storage")


def begin_staying(d, kind, phase):
    """Begin a group of a, b and c, of which b stays in a phase. Returns a client, and the job's id."""
    begin(d, "abc", b=f"group-stays-at={PHASES.index(phase) + 1}" if phase != "write" else f"work-until={d.tmp / 'go'}")
    q = d.qmp()
    return q, q.run(kind.verb, vms=["a", "b", "c"], **kind.arguments)["job"]
