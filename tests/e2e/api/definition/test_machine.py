"""The machine version: a VM keeps the one that it was defined with until its owner changes it."""

import json
import subprocess

import pytest

from conftest import Console, until

ANCHOR = int.from_bytes(b"_SM_", "little")  # of the SMBIOS tables, which machine version 3 lacks


def inactive(d, name="vm1"):
    return json.loads(d.cairn("dumpjson", name, "--inactive").stdout)


def test_new_vm_gets_newest_version(fake):
    fake.define("vm1")
    assert inactive(fake)["machine"] == fake.info("vm1")["machine"] == 7
    assert "Machine type:   cairn-7\n" in fake.cairn("dominfo", "vm1").stdout
    assert "<type arch='x86_64' machine='cairn-7'>hvm</type>" in fake.cairn("dumpxml", "vm1").stdout
    disk = fake.tmp / "disk"
    disk.write_bytes(bytes(1 << 20))
    for firmware, version, memory in (("bios", 8, "32M"), ("uefi", 9, "64M")):
        fake.define(firmware, memory=memory, boot={"firmware": firmware}, disks=[{"path": "disk", "format": "raw", "readonly": True}])
        assert inactive(fake, firmware)["machine"] == version


def test_vm_keeps_its_version_when_it_is_redefined(fake):
    fake.define("vm1", machine=3)
    fake.define("vm1", vcpus=2)
    assert inactive(fake)["machine"] == 3
    fake.define("vm1", machine=6)
    assert inactive(fake)["machine"] == 6
    fake.define("vm1", machine=3)
    (fake.tmp / "disk").write_bytes(bytes(1 << 20))
    fake.define("vm1", boot=None, disks=[{"path": "disk", "format": "raw"}])
    assert inactive(fake)["machine"] == 8


def test_version_passes_through_xml(fake):
    fake.define("vm1", machine=3)
    xml = fake.tmp / "vm1.xml"
    xml.write_text(fake.cairn("dumpxml", "vm1").stdout.replace("'cairn-3'", "'cairn-6'"))
    r = fake.cairn("define", str(xml))
    assert inactive(fake)["machine"] == 6 and r.stderr == ""
    xml.write_text(xml.read_text().replace("'cairn-6'", "'pc-q35-7.2'"))
    r = fake.cairn("define", str(xml))
    assert '@machine: "pc-q35-7.2" has no effect: it is a machine of another hypervisor' in r.stderr
    assert inactive(fake)["machine"] == 6
    xml.write_text(xml.read_text().replace("'pc-q35-7.2'", "'cairn-99'"))
    assert "does not boot as version 99; the newest that this Cairn has for it is 7" in fake.cairn("define", str(xml), ok=2).stderr


@pytest.mark.parametrize("version", [2, 4, 5, 8, 9, 255])
def test_version_of_another_vm_is_refused(fake, version):
    r = fake.cairn("define", fake.write("vm1", machine=version), ok=2)
    assert f"machine: a VM that boots a kernel does not boot as version {version}; the newest that this Cairn has for it is 7" in r.stderr


def key_removed(d, name="vm1"):
    """Restart the daemon with a definition as one from before the key `machine` stored it."""
    stored = d.state / "vms" / name / "definition.json"
    d.stop()
    old = json.loads(stored.read_text())
    del old["machine"]
    stored.write_text(json.dumps(old))
    d.start()


def test_vm_from_before_the_key(fake):
    fake.define("vm1", machine=3)
    key_removed(fake)
    assert inactive(fake)["machine"] == 1  # as commit 823e769 booted it


def test_clones_and_imported_vms_have_that_of_the_source(fake):
    fake.define("vm1", machine=3)
    fake.cairn("clone", "vm1", "copy")
    assert inactive(fake, "copy")["machine"] == 3
    fake.cairn("export", "vm1", str(fake.tmp / "vm1.tar"))
    fake.cairn("import", "vm1.tar", "--name", "again", cwd=fake.tmp)
    assert inactive(fake, "again")["machine"] == 3


def test_managed_save_outlives_a_change(fake):
    fake.define("vm1", machine=3)
    fake.cairn("start", "vm1")
    fake.cairn("managedsave", "vm1")
    fake.define("vm1", machine=6)
    assert fake.info("vm1")["managed-save"]


def console(d, name):
    """Attach without the output so far."""
    q = d.qmp()
    q.run("vm-console", vm=name, history=False)
    return Console(d, name, q.fds.pop())


def anchor(d, name="vm1"):
    """Return the guest's machine version, and whether it finds SMBIOS tables."""
    c = console(d, name)
    word, = c.run("rd32 0xf0000")
    c.close()
    return d.figures(name)["machine"], int(word, 0) == ANCHOR


def booted(d, verb, vm):
    c = console(d, vm) if verb == "reset" else None
    d.cairn(verb, vm)
    c = c or Console(d, vm)
    while c.line() != "interp":
        pass
    c.close()


def test_guest_gets_the_version_when_it_boots(daemon, kvm, guest, tmp_path):
    boot = {"kernel": guest("interp.elf")}
    daemon.define("vm1", boot=boot, machine=3)
    booted(daemon, "start", "vm1")
    assert anchor(daemon) == (3, False)
    daemon.cairn("save", "vm1", str(tmp_path / "saved"))
    daemon.define("vm1", boot=boot, machine=6)
    daemon.cairn("restore", str(tmp_path / "saved"))
    assert anchor(daemon) == (3, False)  # the guest continues
    assert json.loads(daemon.cairn("restart-process", "vm1", "--format", "json").stdout)[0]["way"] == "handover"
    assert anchor(daemon) == (3, False)
    daemon.cairn("reset", "vm1")
    until(lambda: daemon.figures("vm1")["machine"] == 6)
    daemon.cairn("destroy", "vm1")
    booted(daemon, "start", "vm1")
    assert anchor(daemon) == (6, True)


def test_guest_from_before_the_key_boots_as_version_1(daemon, kvm, guest, tmp_path):
    """The VM keeps that version, which has no hot-plug, over each kind of start, until its owner changes it."""
    boot = {"kernel": guest("interp.elf")}
    daemon.define("vm1", boot=boot)
    key_removed(daemon)
    booted(daemon, "start", "vm1")
    assert anchor(daemon) == (1, False)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "b.qcow2", "1M"], check=True)
    r = daemon.cairn("attach-disk", "vm1", str(tmp_path / "b.qcow2"), "vdb", "--subdriver", "qcow2", ok=False)
    assert "version 1" in r.stderr and "--config" in r.stderr
    booted(daemon, "reset", "vm1")
    assert anchor(daemon) == (1, False)
    assert json.loads(daemon.cairn("restart-process", "vm1", "--format", "json").stdout)[0]["way"] == "handover"
    assert anchor(daemon) == (1, False)
    daemon.cairn("managedsave", "vm1")
    daemon.cairn("start", "vm1")
    assert anchor(daemon) == (1, False)
    daemon.cairn("destroy", "vm1")
    daemon.define("vm1", boot=boot, machine=6)
    booted(daemon, "start", "vm1")
    assert anchor(daemon) == (6, True)
