"""VMs with a disk whose qcow2 image has an external data file."""
import os
import shutil
import subprocess

import pytest

import guestlib
from conftest import Console

pytestmark = [
    pytest.mark.usefixtures("kvm"),
    pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img, the oracle, is missing"),
]

MIB = 1 << 20


def qemu(*args, cwd):
    return subprocess.run(["qemu-img", *args], cwd=cwd, check=True, capture_output=True, text=True)


@pytest.mark.parametrize("raw", ["on", "off"])
def test_guest_writes_reach_data_file(tmp_path, raw):
    qemu("create", "-f", "qcow2", "-o", f"data_file=data,data_file_raw={raw}", "disk", "16M", cwd=tmp_path)
    disk = guestlib.disk(str(tmp_path / "disk"), format="qcow2", data_file=str(tmp_path / "data"))
    with guestlib.interp(disks=[disk]) as g:
        g.command("open 0")
        g.command("write 0 256 7")
        g.command("write 4097 300 8")
        g.command("write 9000 300 9")
        g.command("discard 9000 300")
        g.command("zero 4100 16")
        g.command("flush")
        g.command("verify 0 256 7")
    qemu("check", "-f", "qcow2", "disk", cwd=tmp_path)
    qemu("convert", "-f", "qcow2", "-O", "raw", "disk", "flat", cwd=tmp_path)
    flat = (tmp_path / "flat").read_bytes()
    assert any(flat[:256 * 512]) and any(flat[4097 * 512:4100 * 512])
    assert not any(flat[4100 * 512:4116 * 512])
    if raw == "on":
        assert (tmp_path / "data").read_bytes() == flat
    # the guest reads what QEMU has written, also through an overlay
    qemu("create", "-f", "qcow2", "-b", "disk", "-F", "qcow2", "top", cwd=tmp_path)
    top = guestlib.disk(str(tmp_path / "top"), format="qcow2", backing=[
        {"path": str(tmp_path / "disk"), "format": "qcow2", "data_file": str(tmp_path / "data")}])
    with guestlib.interp(disks=[top]) as g:
        g.command("open 0")
        g.command("verify 0 256 7")
        g.command("write 100 8 3")
        g.command("flush")
    qemu("check", "-f", "qcow2", "top", cwd=tmp_path)


def test_data_file_must_be_named_in_definition(tmp_path):
    """Daemon and VM never open a file that only an image names."""
    qemu("create", "-f", "qcow2", "-o", "data_file=data", "disk", "1M", cwd=tmp_path)
    qemu("create", "-f", "qcow2", "plain", "1M", cwd=tmp_path)
    path = {name: str(tmp_path / name) for name in ("disk", "plain", "data", "nothing")}
    for disk, says in (
            (guestlib.disk(path["disk"], format="qcow2"), "another file"),
            (guestlib.disk(path["plain"], format="qcow2", data_file=path["data"]), "keeps its data itself"),
            (guestlib.disk(path["disk"], format="qcow2", data_file=path["disk"]), "its own data file"),
            (guestlib.disk(path["disk"], format="qcow2", data_file=path["nothing"]), "data_file"),
            (guestlib.disk(path["data"], format="raw", data_file=path["plain"]), "or set format to qcow2")):
        with guestlib.Guest(guestlib.definition(disks=[disk])) as g:
            assert g.wait() not in (0, None)
            assert says in g.log()


def test_snapshots_are_refused(daemon, guest, tmp_path):
    qemu("create", "-f", "qcow2", "vda", "16M", cwd=tmp_path)
    qemu("create", "-f", "qcow2", "-o", "data_file=data", "vdb", "16M", cwd=tmp_path)
    daemon.define("vm1", debug_exit=True, memory="64M", boot={"kernel": guest("interp.elf")}, disks=[
        {"path": str(tmp_path / "vda"), "format": "qcow2"},
        {"path": str(tmp_path / "vdb"), "format": "qcow2", "data_file": str(tmp_path / "data")}])
    daemon.cairn("start", "vm1")
    console = Console(daemon, "vm1")
    while console.line() != "interp":
        pass
    says = daemon.cairn("snapshot-create-as", "vm1", "s", ok=None)
    assert says.returncode != 0 and "disk vdb" in says.stderr and "data file" in says.stderr
    console.run("open 1")
    console.run("write 0 8 1")
    console.run("flush")
    console.close()
    daemon.cairn("destroy", "vm1")
    # off as well, and the other disk is unchanged
    says = daemon.cairn("snapshot-create-as", "vm1", "s", ok=None)
    assert says.returncode != 0 and "disk vdb" in says.stderr
    assert qemu("snapshot", "-l", "vda", cwd=tmp_path).stdout == ""
    qemu("check", "-f", "qcow2", "vdb", cwd=tmp_path)
    assert os.path.getsize(tmp_path / "data") == 16 * MIB
