"""Snapshots and live clones of several VMs at one instant, with fake_vm: the job makes all of them or none, even if a
process is killed.

test_group_snapshot.py and test_group_clone.py test what only one of the two jobs does."""

import os
import signal

import pytest

from conftest import QmpError, until
from grouplib import PHASES, Clones, Snapshots, begin, begin_staying, job_of, trio  # noqa: F401
from test_kill_points import killer, patient  # noqa: F401


@pytest.fixture(params=[Snapshots, Clones], ids=["snapshots", "clones"])
def kind(request):
    return request.param


@pytest.fixture
def staying(fake, kind):
    """Return a function that begins a group of a, b and c, of which b stays in a phase."""
    def go(phase):
        q, job = begin_staying(fake, kind, phase)
        until(lambda: list((fake.state / "groups").glob("*.json")) and (phase != "write" or all(kind.is_written(fake, "a", "c"))))
        return q, job
    return go


@pytest.mark.parametrize("args, code, says", [(["a", "nope"], 3, "there is no VM 'nope'"), ([], 2, None), (["z*"], 3, "no VM matches")])
def test_vms_that_are_not_there_are_refused(trio, kind, args, code, says):  # noqa: F811
    assert (says or kind.verb) in trio.cairn(kind.verb, *args, ok=code).stderr
    assert kind.nothing_is_left(trio)


def test_nonsense_from_a_socket_is_refused(trio, kind):  # noqa: F811
    q = trio.qmp()
    for vms in ([], [1], [None], ["a"] * 65, [["a"]]):
        with pytest.raises(QmpError, match="vms: "):
            q.run(kind.verb, vms=vms)
    with pytest.raises(QmpError, match="VM 'a' is there twice"):
        q.run(kind.verb, vms=["a", "b", "a"])
    with pytest.raises(QmpError):
        q.run(kind.verb, vms="a")
    assert kind.nothing_is_left(trio)


def test_process_of_an_older_cairn_is_refused(fake, kind):
    begin(fake, "ab", b=kind.lacks)
    fake.stop()
    fake.start()
    assert "cairn restart-process b" in fake.cairn(kind.verb, "a", "b", ok=False).stderr
    assert kind.nothing_is_left(fake, "a", "b")


def test_failure_of_one_vm_leaves_nothing(fake, kind):
    begin(fake, "abc", b="work-fails")
    assert "VM 'b': vda: no space left" in fake.cairn(kind.verb, "a", "b", "c", *kind.options, ok=False).stderr
    assert kind.nothing_is_left(fake)
    fake.cairn(kind.verb, "a", "c", *kind.options)


@pytest.mark.sample(12)
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("how", ["vm-killed", "vm-destroyed", "cancelled", "one-cancelled"])
def test_group_that_ends_in_a_phase_leaves_nothing(fake, staying, kind, phase, how):
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
    assert error == f"the job was cancelled; no {kind.noun} remains" if how == "cancelled" else error.startswith("VM 'b'")
    assert kind.nothing_is_left(fake)
    assert [fake.info(name)["state"] for name in "ac"] == ["running"] * 2
    fake.cairn(kind.verb, "a", "c", *kind.options)


@pytest.mark.sample(6)
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_end_of_the_daemon_in_a_phase_leaves_nothing(fake, staying, kind, phase, sig):
    staying(phase)
    pids = [fake.info(name)["pid"] for name in "abc"]
    fake.stop(sig)
    fake.tmp.joinpath("go").touch()
    fake.start()
    until(lambda: patient(lambda: kind.nothing_is_left(fake)))
    assert [(fake.info(name)["state"], fake.info(name)["pid"]) for name in "abc"] == [("running", pid) for pid in pids]


@pytest.mark.seconds(600)
def test_daemon_killed_at_any_call(killer, kind):  # noqa: F811
    d = killer.daemon
    begin(d, "ab")

    def look(done):
        made = kind.made(d, "a", "b")
        assert made in ([False] * 2, [True] * 2) and (all(made) or not done)
        assert [d.info(name)["state"] for name in "ab"] == ["running"] * 2
        if all(made):
            kind.remove(d, "a", "b")
        assert kind.nothing_is_left(d, "a", "b")
    killer.sweep(lambda: None, lambda: d.cairn(kind.verb, "a", "b", *kind.options, ok=None).returncode == 0, look,
                 lambda: kind.settled(d, "a", "b"), step=kind.steps)
