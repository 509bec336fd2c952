"""Two who want different things of one VM at the same time: the second is told so, and nothing is lost."""

import json
import socket
import subprocess

import pytest



@pytest.fixture
def two(fake, tmp_path):
    """A VM with an image, and two clients."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "a.qcow2", "1M"], check=True)
    fake.define("vm1", disks=[{"path": "a.qcow2", "format": "qcow2"}])
    return fake, fake.qmp(), fake.qmp()


def ask(q, command, **args):
    q.send(json.dumps({"execute": command, "arguments": args}).encode())


def ask_with_file(q, path, command, **args):
    with open(path, "xb") as f:
        socket.send_fds(q.sock, [json.dumps({"execute": command, "arguments": args}).encode()], [f.fileno()])


def no_more_vms(daemon):
    q = daemon.qmp()
    return q.run("vm-list")["vms"] == [] and q.run("query-version")


WAYS = [{}, {"remove-all-storage": True, "snapshots-metadata": True}]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("what", [("vm-start", {}), ("snapshot-create", {"name": "s1"}), ("vm-rename", {"name": "vm2"}),
                                  ("vm-fork", {"name": "vm2", "snapshot": "s1"})])
def test_of_a_vm_that_is_being_undefined(two, how, what):
    """Which takes a while: its snapshots are looked at, or its images removed."""
    daemon, a, b = two
    ask(a, "vm-undefine", vm="vm1", **how)
    ask(b, what[0], vm="vm1", **what[1])
    assert "return" in a.answer()
    assert "is being changed" in b.answer()["error"]["desc"]
    assert no_more_vms(daemon)


@pytest.mark.parametrize("how", WAYS)
def test_an_export_of_a_vm_that_is_being_undefined(two, how, tmp_path):
    daemon, a, b = two
    ask(a, "vm-undefine", vm="vm1", **how)
    ask_with_file(b, tmp_path / "x.tar", "vm-export", vm="vm1")
    assert "return" in a.answer()
    assert "is being changed" in b.answer()["error"]["desc"]
    assert no_more_vms(daemon)
