"""Verbs that change a definition for the next start, with virsh's words."""

import json
import os
import select
import shutil
import stat
import subprocess
import threading

import pytest

from conftest import BUILD, QmpError
from daemonlib import NOBODY, shared  # noqa: F401
from terminallib import terminal


def inactive(fake, name):
    return json.loads(fake.cairn("dumpjson", "--inactive", name).stdout)


def image(fake, name, content=b"\0" * 512):
    path = fake.tmp / name
    path.write_bytes(content)
    return str(path)


def refused(fake, words, *args, ok=None):
    """Check that the command fails with these words and changes nothing."""
    before = inactive(fake, args[1])
    r = fake.cairn(*args, ok=ok)
    assert r.returncode != 0 and words in r.stderr, r
    assert inactive(fake, args[1]) == before
    return r


def test_setvcpus_and_setmem_change_the_definition(fake):
    fake.define("vm1")
    assert fake.cairn("setvcpus", "vm1", "3", "--config").stdout == ""
    assert "max_vcpus" not in inactive(fake, "vm1")
    assert fake.cairn("setvcpus", "vm1", "4", "--config", "--maximum").stdout == ""
    assert (inactive(fake, "vm1")["vcpus"], inactive(fake, "vm1")["max_vcpus"]) == (3, 4)
    refused(fake, "requested vcpus is greater than max allowable vcpus for the persistent domain: 5 > 4", "setvcpus", "vm1", "5")
    fake.cairn("setvcpus", "vm1", "2", "--maximum")
    assert (inactive(fake, "vm1")["vcpus"], inactive(fake, "vm1")["max_vcpus"]) == (2, 2)
    fake.cairn("setvcpus", "vm1", "4", "--maximum")
    fake.cairn("setvcpus", "vm1", "4")
    assert inactive(fake, "vm1")["vcpus"] == 4
    for given, memory in (("65536", "64M"), ("128M", "128M"), ("1GiB", "1024M"), ("2g", "2048M"),
                          ("512MB", "500000K"), ("67108864b", "64M"), ("100KiB", None)):
        if memory:
            assert fake.cairn("setmem", "vm1", given, "--config").stdout == ""
            assert inactive(fake, "vm1")["memory"] == memory, given
        else:
            refused(fake, "memory: 100K is too little", "setmem", "vm1", given)
    fake.cairn("setmaxmem", "vm1", "32M", "--config")
    assert inactive(fake, "vm1")["memory"] == "32M"
    refused(fake, '"lots" is not a size', "setmem", "vm1", "lots", ok=2)
    refused(fake, "is not a number of virtual CPUs", "setvcpus", "vm1", "1x", ok=2)
    refused(fake, "max_vcpus: 65 is out of range", "setvcpus", "vm1", "65", "--maximum", ok=2)
    fake.cairn("setvcpus", "none", "1", ok=3)


def test_desc(fake):
    fake.define("vm1")
    assert fake.cairn("desc", "vm1").stdout == "No description for domain: vm1\n"
    assert fake.cairn("desc", "vm1", "--title").stdout == "No title for domain: vm1\n"
    assert fake.cairn("desc", "vm1", "a", "web", "server").stdout == "Domain description updated successfully\n"
    assert fake.cairn("desc", "vm1").stdout == "a web server\n"
    assert fake.cairn("desc", "vm1", "--title", "--new-desc", "web 1").stdout == \
        "Domain title updated successfully\n"
    assert fake.cairn("desc", "vm1", "--title").stdout == "web 1\n"
    fake.cairn("desc", "vm1", "")
    assert "description" not in inactive(fake, "vm1")
    refused(fake, "must be one line", "desc", "vm1", "a\nb")


def test_attach_and_detach_disk(fake):
    fake.define("vm1", disks=[{"path": image(fake, "root.img"), "format": "raw"}])
    data, cow = image(fake, "data.img"), image(fake, "cow.qcow2", b"QFI\xfb" + b"\0" * 512)
    assert fake.cairn("attach-disk", "vm1", data, "vdc", "--config", "--serial", "S1", "--mode",
                      "readonly").stdout == "Disk attached successfully\n"
    d = inactive(fake, "vm1")["disks"][1]
    assert (d["id"], d["path"], d["format"], d["readonly"], d["serial"]) == ("vdc", data, "raw", True, "S1")
    refused(fake, "target vdc already exists", "attach-disk", "vm1", cow, "vdc", "--subdriver", "qcow2")
    refused(fake, "is a qcow2 image; add --subdriver qcow2", "attach-disk", "vm1", cow, "vdd", ok=2)
    refused(fake, "disks[2].path: is also the image of disks[1]", "attach-disk", "vm1", data, "vdd")
    refused(fake, "No such file", "attach-disk", "vm1", "/nonexistent", "vdd")
    refused(fake, "--mode shareable is not supported", "attach-disk", "vm1", cow, "vdd", "--mode",
            "shareable", ok=2)
    said = fake.cairn("attach-disk", "vm1", cow, "vdd", "--subdriver", "qcow2", "--print-only").stdout
    assert said.startswith('  disks[vdd]: added { "id": "vdd"') and len(inactive(fake, "vm1")["disks"]) == 2
    said = fake.cairn("detach-disk", "vm1", "vdc", "--print-only").stdout
    assert said.startswith('  disks[vdc]: removed { "id": "vdc"') and len(inactive(fake, "vm1")["disks"]) == 2
    # A relative source is relative to the current folder.
    r = fake.cairn("attach-disk", "vm1", "cow.qcow2", "vdd", "--subdriver", "qcow2", "--io", "native",
                   cwd=str(fake.tmp))
    assert r.stderr == "warning: --io has no effect\n"
    assert inactive(fake, "vm1")["disks"][2]["path"] == cow
    said = fake.cairn("domblklist", "vm1", "--details").stdout.splitlines()
    assert said[0].split() == ["Type", "Device", "Target", "Source", "Cache"] and set(said[1]) == {"-"}
    assert said[3] == f" file   disk     vdc      {data}".ljust(said[0].index("Cache")) + "none"
    assert fake.cairn("detach-disk", "vm1", "vdc", "--config").stdout == "Disk detached successfully\n"
    assert fake.cairn("detach-disk", "vm1", cow).stdout == "Disk detached successfully\n"
    assert [x["id"] for x in inactive(fake, "vm1")["disks"]] == ["vda"]
    refused(fake, "No disk found whose source path or target is vdc", "detach-disk", "vm1", "vdc", ok=3)


def img(*args):
    subprocess.run([os.path.join(BUILD, "cairn-img"), *args], check=True, stdout=subprocess.DEVNULL)


def test_attached_disk_brings_its_backing_files(fake):
    """An attached disk brings its backing files along; formats are never guessed."""
    fake.define("vm1")
    base, mid, top = (str(fake.tmp / n) for n in ("base.raw", "mid.qcow2", "top.qcow2"))
    img("create", "-f", "raw", base, "8M")
    img("create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", mid)
    img("create", "-f", "qcow2", "-b", "mid.qcow2", "-F", "qcow2", top)
    fake.cairn("attach-disk", "vm1", "top.qcow2", "vda", "--subdriver", "qcow2", cwd=str(fake.tmp))
    d = inactive(fake, "vm1")["disks"][0]
    assert (d["path"], d["backing"]) == (top, [{"path": mid, "format": "qcow2"}, {"path": base, "format": "raw"}])


def test_positionals_can_be_named_as_in_virsh(fake):
    """virsh accepts a name for each positional, as blogs write them."""
    fake.define("vm1", disks=[{"path": image(fake, "root.img"), "format": "raw"}])
    data = image(fake, "data.img")
    fake.cairn("attach-disk", "--domain", "vm1", "--source", data, "--target", "vdb", "--config")
    fake.cairn("attach-disk", "vm1", "--target=vdc", "--source", image(fake, "c.img"))
    assert [d["id"] for d in inactive(fake, "vm1")["disks"]] == ["vda", "vdb", "vdc"]
    fake.cairn("detach-disk", "--target", "vdc", "vm1", "--config")
    fake.cairn("attach-interface", "--domain", "vm1", "--type", "bridge", "--source", "br0", "--config")
    fake.cairn("detach-interface", "vm1", "--type", "bridge")
    fake.cairn("setvcpus", "--domain", "vm1", "--count", "2", "--config")
    fake.cairn("setmem", "vm1", "--size", "64M", "--config")
    fake.cairn("domrename", "--domain", "vm1", "--new-name", "vm2")
    d = inactive(fake, "vm2")
    assert (d["vcpus"], d["memory"], len(d["disks"]), d["interfaces"]) == (2, "64M", 2, [])
    assert "setvcpus needs VM COUNT" in fake.cairn("setvcpus", "--count", "2", ok=2).stderr
    assert "has no option --vm" in fake.cairn("setvcpus", "--vm", "vm2", ok=2).stderr


def test_change_media_inserts_and_ejects(fake):
    iso, other = image(fake, "a.iso"), image(fake, "b.iso")
    fake.define("vm1", disks=[{"path": image(fake, "root.img"), "format": "raw"}])
    fake.cairn("attach-disk", "vm1", iso, "cd0", "--type", "cdrom")
    assert inactive(fake, "vm1")["disks"][1]["readonly"] is True
    refused(fake, "The disk device 'vda' is not removable", "change-media", "vm1", "vda", "--eject")
    refused(fake, "The disk device 'cd0' already has media", "change-media", "vm1", "cd0", other, "--insert")
    assert fake.cairn("change-media", "vm1", "cd0", "--eject").stdout == "Successfully ejected media.\n"
    assert "path" not in inactive(fake, "vm1")["disks"][1]
    assert fake.cairn("domblklist", "vm1").stdout.splitlines()[-2].split() == ["cd0", "-"]
    refused(fake, "The disk device 'cd0' doesn't have media", "change-media", "vm1", "cd0", "--eject")
    refused(fake, "No source specified for inserting media", "change-media", "vm1", "cd0", "--insert", ok=2)
    assert fake.cairn("change-media", "vm1", "cd0", iso, "--insert").stdout == "Successfully inserted media.\n"
    assert fake.cairn("change-media", "vm1", "cd0", "--source", other, "--update").stdout == \
        "Successfully updated media.\n"
    assert inactive(fake, "vm1")["disks"][1]["path"] == other


def test_bus_of_a_new_disk_follows_the_target(fake):
    """As in libvirt: sd is scsi, and so is hd for a CD drive, because there is no ide."""
    fake.define("vm1")
    kinds = [("sda", "disk", "scsi"), ("sdab", "cdrom", "scsi"), ("hda", "cdrom", "scsi"), ("hdb", "disk", None), ("vdb", "cdrom", None),
             ("data", "disk", None)]
    for target, kind, _ in kinds:
        fake.cairn("attach-disk", "vm1", image(fake, f"{target}.img"), target, "--type", kind)
    fake.cairn("attach-disk", "vm1", image(fake, "sdc.img"), "sdc", "--targetbus", "virtio")
    got = [(d["id"], d.get("device", "disk"), d.get("bus")) for d in inactive(fake, "vm1")["disks"]]
    assert got == [*kinds, ("sdc", "disk", None)]


def test_attach_and_detach_interface(fake):
    fake.define("vm1")
    r = fake.cairn("attach-interface", "vm1", "bridge", "br0", "--mac", "52:54:00:00:00:01", "--model",
                   "virtio", "--config")
    assert r.stdout == "Interface attached successfully\n"
    assert not r.stderr
    r = fake.cairn("attach-interface", "vm1", "network", "default", "--config")
    assert r.stderr.startswith("warning: interface net1: ")
    fake.cairn("attach-interface", "vm1", "network", "default", "--target", "lan")
    first, second, third = inactive(fake, "vm1")["interfaces"]
    assert (first["mac"], second["id"], third["id"]) == ("52:54:00:00:00:01", "net1", "lan")
    assert second["mac"] != third["mac"] and second["mac"].startswith("52:54:00:")
    assert fake.cairn("domiflist", "vm1").stdout.splitlines()[2].split() == [
        "net0", "bridge", "br0", "virtio", "52:54:00:00:00:01"]
    refused(fake, "Please specify which one to detach using --mac", "detach-interface", "vm1", "network")
    refused(fake, "No interface found whose type is user", "detach-interface", "vm1", "user", ok=3)
    assert fake.cairn("detach-interface", "vm1", "network", "--mac", second["mac"].upper(),
                      "--config").stdout == "Interface detached successfully\n"
    # Detaching leaves the other disks unchanged; a new disk gets a free name.
    fake.cairn("attach-interface", "vm1", "user")
    assert [(i["id"], i["mac"]) for i in inactive(fake, "vm1")["interfaces"]][:2] == [
        ("net0", first["mac"]), ("lan", third["mac"])]
    assert inactive(fake, "vm1")["interfaces"][2]["id"] == "net1"
    # A user network, and its forwards.
    fake.cairn("attach-interface", "vm1", "user", "--forward", "2222:22", "--forward", "udp:53:5353", "--forward",
               "tcp:0.0.0.0:8080:80", "--network", "10.9.0.0/24", "--restrict", "--host-loopback")
    last = inactive(fake, "vm1")["interfaces"][3]
    assert (last["network"], last["restrict"], last["host_loopback"]) == ("10.9.0.0/24", True, True)
    assert last["forwards"] == [{"protocol": "tcp", "address": "127.0.0.1", "port": 2222, "to": 22},
                                {"protocol": "udp", "address": "127.0.0.1", "port": 53, "to": 5353},
                                {"protocol": "tcp", "address": "0.0.0.0", "port": 8080, "to": 80}]
    listed = fake.cairn("domiflist", "vm1")
    assert listed.stderr.splitlines()[-1] == "net2: tcp 0.0.0.0:8080 leads to port 80"
    assert [line.split()[4] for line in listed.stdout.splitlines()[2:] if line] == [i["mac"] for i in inactive(fake, "vm1")["interfaces"]]
    fake.cairn("attach-interface", "vm1", "user", "--egress", "deny 10.0.0.0/8", "--egress",
               "allow tcp 80,443 *.Example.org", "--egress", "allow 192.0.2.1", "--egress", "allow")
    assert inactive(fake, "vm1")["interfaces"][4]["egress"] == {"default": "allow", "rules": [
        {"deny": "10.0.0.0/8"}, {"allow": "*.example.org", "protocol": "tcp", "ports": "80,443"}, {"allow": "192.0.2.1"}]}
    assert "--egress must be like" in fake.cairn("attach-interface", "vm1", "user", "--egress", "permit x", ok=2).stderr
    refused(fake, "interfaces[5].egress.rules[0].ports: must be ports", "attach-interface", "vm1", "user", "--egress",
            "allow x any", ok=2)
    fake.cairn("detach-interface", "vm1", "user", "--mac", inactive(fake, "vm1")["interfaces"][4]["mac"])
    for bad in ("22", "a:22", "tcp:22", "1:2:3:4:5", "::", "tcp:127.0.0.1:22"):
        assert "--forward must be like tcp:127.0.0.1:2222:22" in fake.cairn(
            "attach-interface", "vm1", "user", "--forward", bad, ok=2).stderr
    refused(fake, "interfaces[4].forwards[0]: tcp 127.0.0.1:2222 is also used by interfaces[3].forwards[0]",
            "attach-interface", "vm1", "user", "--forward", "2222:23", ok=2)
    # A MAC is unique among VMs, and stays when an update does not name it.
    fake.define("vm2")
    refused(fake, "interfaces[0].mac: is taken by VM 'vm1'", "attach-interface", "vm2", "user", "--mac",
            first["mac"])
    fake.define("vm1", interfaces=[{"type": "bridge", "source": "br1"}])
    assert inactive(fake, "vm1")["interfaces"][0]["mac"] == first["mac"]


def test_change_of_running_vm_applies_at_next_start(fake):
    """The next start uses the change; until then the VM is shown as it runs."""
    fake.define("vm1", disks=[{"path": image(fake, "root.img"), "format": "raw"}])
    fake.cairn("start", "vm1")
    r = fake.cairn("setvcpus", "vm1", "2", "--config")
    assert r.stderr == "note: domain 'vm1' runs; the change applies to its next start\n"
    refused(fake, "VM 'vm1' runs without max_vcpus, so the number of its vCPUs cannot change. Next: cairn setvcpus vm1 N --maximum --config, "
            "then shut the VM down and start it", "setvcpus", "vm1", "3", "--live")
    refused(fake, "VM 'vm1' runs, and setvcpus cannot change a running VM; with --config the change applies to the next start",
            "setvcpus", "vm1", "3", "--current")
    fake.cairn("attach-disk", "vm1", image(fake, "b.img"), "vdb", "--config")
    assert json.loads(fake.cairn("dumpjson", "vm1").stdout)["vcpus"] == 1
    assert "vdb" not in fake.cairn("domblklist", "vm1").stdout
    assert "vdb" in fake.cairn("domblklist", "--inactive", "vm1").stdout
    assert inactive(fake, "vm1")["vcpus"] == 2
    assert fake.info("vm1")["vcpus"] == 1
    assert ">1</vcpu>" in fake.cairn("dumpxml", "vm1").stdout
    assert ">2</vcpu>" in fake.cairn("dumpxml", "--inactive", "vm1").stdout
    fake.cairn("destroy", "vm1")
    assert json.loads(fake.cairn("dumpjson", "vm1").stdout)["vcpus"] == 2
    assert fake.cairn("setvcpus", "vm1", "3", "--current").stderr == ""


def test_change_that_does_not_fit_saved_state_is_refused(fake):
    """A definition that the saved state may not fit is refused at once, not at the next start."""
    fake.define("vm1")
    fake.cairn("start", "vm1")
    fake.cairn("managedsave", "vm1")
    assert fake.cairn("desc", "vm1", "text").stderr == ""
    assert fake.cairn("setvcpus", "vm1", "2").stderr.startswith("warning: the VM has a managed save. ")
    assert fake.cairn("setvcpus", "vm1", "2").stderr == ""


def test_name_of_a_vm_is_no_uuid(fake):
    """A command for a UUID would be for the VM with that name."""
    fake.define("vm1")
    uuid = fake.info("vm1")["uuid"]
    why = "must not be a UUID, because a UUID may be another VM's"
    assert why in fake.cairn("define", fake.write(uuid), ok=2).stderr
    assert why in fake.cairn("domrename", "vm1", uuid, ok=2).stderr
    assert why in fake.cairn("clone", "vm1", uuid.upper(), ok=2).stderr
    assert fake.info(uuid)["name"] == "vm1"


def test_concurrent_changes_are_all_kept(fake):
    """Eight clients add a key each at the same time: all changes are kept."""
    fake.define("vm1")
    before = inactive(fake, "vm1")
    q = fake.qmp()
    changed = {**before, "vcpus": 2}
    assert q.run("vm-define", definition=changed, was=before)["pending"] is False
    with pytest.raises(QmpError, match="was changed by another user") as said:
        q.run("vm-define", definition={**before, "vcpus": 3}, was=before)
    assert said.value.cls == "Busy"
    threads = [threading.Thread(target=fake.cairn, args=("attach-interface", "vm1", "user"))
               for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    d = inactive(fake, "vm1")
    assert sorted(i["id"] for i in d["interfaces"]) == [f"net{i}" for i in range(6)] and d["vcpus"] == 2


def editor(fake, *scripts):
    """An editor that applies one of the scripts to the file at each call."""
    path = fake.tmp / "editor"
    turns = fake.tmp / "turns"
    turns.write_text("")
    cases = "".join(f"{i}) {s} ;;\n" for i, s in enumerate(scripts))
    path.write_text(f'#!/bin/sh\nn=$(wc -c < {turns}); printf x >> {turns}\ncase $n in\n{cases}esac\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    fake.env["VISUAL"] = str(path)


def test_edit_changes_definition_with_editor(fake):
    fake.define("vm1")
    editor(fake, ":")
    r = fake.cairn("edit", "vm1")
    assert r.stdout == "Domain 'vm1' JSON configuration not changed.\n"
    editor(fake, "sed -i 's/32M/64M/' \"$1\"")
    r = fake.cairn("edit", "vm1")
    assert r.stdout == "  memory: \"32M\" -> \"64M\"\nDomain 'vm1' JSON configuration edited.\n"
    assert inactive(fake, "vm1")["memory"] == "64M"
    # Without a terminal nothing is asked, and the edited text is kept.
    editor(fake, "sed -i 's/64M/1K/' \"$1\"")
    r = fake.cairn("edit", "vm1", ok=2)
    assert "error: memory: 1K is too little" in r.stderr and inactive(fake, "vm1")["memory"] == "64M"
    kept = r.stderr.split("your changes are in ")[1].strip()
    assert json.load(open(kept))["memory"] == "1K" and os.stat(kept).st_mode & 0o777 == 0o600
    os.unlink(kept)
    editor(fake, "sed -i 's/\"vm1\"/\"vm2\"/' \"$1\"")
    r = fake.cairn("edit", "vm1", ok=2)
    assert "use cairn domrename vm1 NEW" in r.stderr
    os.unlink(r.stderr.split("your changes are in ")[1].strip())
    fake.env |= {"VISUAL": "false", "TMPDIR": str(fake.tmp)}
    r = fake.cairn("edit", "vm1", ok=1)
    assert "the editor false failed" in r.stderr and "your changes" not in r.stderr
    fake.env["VISUAL"] = "rm"
    r = fake.cairn("edit", "vm1", ok=3)
    assert "No such file or directory" in r.stderr and "your changes" not in r.stderr
    assert not list(fake.tmp.glob("cairn-edit-*"))


def typed(fake, *answers):
    """Run `cairn edit vm1` at a terminal and type these answers. Return its exit status and output."""
    pid, fd = terminal(fake, "edit", "vm1")
    said, left = b"", list(answers)
    while True:
        assert select.select([fd], [], [], 30)[0]
        try:
            got = os.read(fd, 4096)
        except OSError:
            break
        if not got:
            break
        said += got
        if left and said.count(b"[y,n,k,?]: ") > len(answers) - len(left):
            os.write(fd, left.pop(0).encode() + b"\n")
    os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said.decode()


def test_edit_offers_another_try_after_conflict_or_error(fake):
    fake.define("vm1")
    editor(fake, "echo '{' > \"$1\"", "sed -i 's/{/nothing/' \"$1\"")
    status, said = typed(fake, "?", "y", "n")
    assert status == 2 and said.count("not JSON") == said.count("neither JSON") == 1 and "k - no, and keep the file" in said
    assert inactive(fake, "vm1")["memory"] == "32M"
    # Another user changes the definition first: edit shows this, and the next try compares with the new one.
    other = f"'{BUILD}/cairn' setvcpus vm1 5; sed -i 's/32M/64M/' \"$1\""
    editor(fake, other, "sed -i 's/\"vcpus\": *1/\"vcpus\":5/' \"$1\"")
    status, said = typed(fake, "y")
    assert status == 0, said
    assert "was changed by another user" in said and "vcpus: 1 -> 5" in said
    d = inactive(fake, "vm1")
    assert (d["memory"], d["vcpus"]) == ("64M", 5)


# ---- domrename ----

def folders(fake):
    return sorted(p.name for p in (fake.state / "vms").iterdir() if p.name[0] != ".")


def test_rename_keeps_schedule_permissions_and_saved_state(fake):
    """The next daemon finds them under the new name as well."""
    fake.define("vm1", title="T")
    fake.define("vm2")
    uuid = fake.info("vm1")["uuid"]
    fake.cairn("start", "vm1")
    assert "VM 'vm1' is running; domrename works when it is shut off" in fake.cairn(
        "domrename", "vm1", "web", ok=4).stderr
    fake.cairn("managedsave", "vm1")
    fake.cairn("snapshot-schedule", "vm1", "--every", "1d")
    fake.cairn("grant", "owner", "vm1", "--user", "4242")
    for name, words in (("vm2", "there is a VM 'vm2' already"), ("a/b", 'name: must not have a "/"'),
                        ("vm1", "VM 'vm1' has that name"), ("", "name: is empty"), (uuid, "must not be a UUID")):
        refused(fake, words, "domrename", "vm1", name)
    fake.cairn("domrename", "none", "web", ok=3)
    events = fake.qmp()
    assert fake.cairn("domrename", "vm1", "web").stdout == "Domain successfully renamed\n"
    assert events.event("VM_UNDEFINED")["data"] == {"vm": "vm1", "vm-uuid": uuid, "renamed-to": "web"}
    assert events.event("VM_DEFINED")["data"] == {"vm": "web", "vm-uuid": uuid, "renamed-from": "vm1"}
    for _ in range(2):
        assert folders(fake) == ["vm2", "web"]
        info = fake.info("web")
        assert (info["uuid"], info["state"], inactive(fake, "web")["title"]) == (uuid, "saved", "T")
        assert fake.cairn("list", "--all", "--name").stdout == "vm2\nweb\n"
        assert "web" in fake.cairn("snapshot-schedule").stdout
        permissions = fake.cairn("permissions").stdout
        assert "web" in permissions and "vm1" not in permissions
        fake.stop()
        fake.start()
    fake.cairn("start", "web")
    assert fake.info("web")["state"] == "running"
    # The old name is free and has no permissions left.
    fake.define("vm1")
    assert fake.info("vm1")["uuid"] != uuid
    lines = [x for x in fake.cairn("audit").stdout.splitlines() if "vm-rename" in x]
    assert any("vm1" in x for x in lines)


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("kept", [False, True])
def test_interrupted_rename_is_completed_by_next_daemon(fake, moved, kept):
    """A daemon dies between two steps of a rename. Before the folder has its new name nothing is renamed;
    afterwards the next daemon completes the rename."""
    fake.define("vm1")
    fake.cairn("grant", "owner", "vm1", "--user", "4242")
    uuid = fake.info("vm1")["uuid"]
    fake.stop()
    folder = fake.state / "vms" / "vm1"
    new = {**json.loads((folder / "definition.json").read_text()), "name": "web"}
    (folder / "renamed.json").write_text(json.dumps(new))
    if moved:
        folder = folder.rename(folder.parent / "web")
    if moved and kept:
        table = fake.state / "permissions.json"
        table.write_text(table.read_text().replace('"vm1"', '"web"'))
    if not moved and kept:
        (folder / "renamed.json").write_text('{"name": "we')
    fake.start()
    name = "web" if moved else "vm1"
    assert folders(fake) == [name] and fake.info(name)["uuid"] == uuid
    assert not (fake.state / "vms" / name / "renamed.json").exists()
    assert [p["vm"] for p in json.loads(fake.cairn("permissions", "--format", "json").stdout)
            if p.get("user") == 4242] == [name]
    fake.cairn("undefine", name)
    assert folders(fake) == []


def test_killed_daemon_leaves_vm_under_one_name(fake):
    """The daemon is killed while VMs are renamed: each has one of its two names, with all its files."""
    fake.define("vm0")
    fake.cairn("grant", "owner", "vm0", "--user", "4242")
    uuid, name = fake.info("vm0")["uuid"], "vm0"
    for i in range(1, 25):
        new = f"vm{i}"
        r = subprocess.Popen([os.path.join(BUILD, "cairn"), "domrename", name, new], env=fake.env,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Kill before the request, in the middle, or after the answer.
        for _ in range(i % 8):
            os.sched_yield()
            fake.state.stat()
        try:
            r.wait(timeout=i * 0.0005)
        except subprocess.TimeoutExpired:
            pass
        fake.stop(9)
        done = r.wait(30) == 0
        fake.start()
        (now,) = fake.cairn("list", "--all", "--name").stdout.split()
        assert now == new if done else now in (name, new)
        assert folders(fake) == [now] and fake.info(now)["uuid"] == uuid
        table = json.loads(fake.cairn("permissions", "--format", "json").stdout)
        assert [p["vm"] for p in table if p.get("user") == 4242] == [now]
        name = now


def test_edit_xml_changes_definition(fake):
    fake.define("vm1", disks=[{"path": image(fake, "root.img"), "format": "raw"}])
    editor(fake, ":")
    for how in (["--xml"], ["--format", "xml"], ["--format=xml"]):
        assert fake.cairn("edit", "vm1", *how).stdout == "Domain 'vm1' XML configuration not changed.\n"
    assert "--format must be json or xml" in fake.cairn("edit", "vm1", "--format", "yaml", ok=2).stderr
    before = inactive(fake, "vm1")
    editor(fake, "sed -i '/<vcpu/s/>1</>2</' \"$1\"")
    r = fake.cairn("edit", "vm1", "--xml", "--print-only")
    assert r.stdout == "  vcpus: 1 -> 2\nDomain 'vm1' XML configuration not changed.\n"
    assert inactive(fake, "vm1") == before
    editor(fake, "sed -i '/<vcpu/s/>1</>2</' \"$1\"")
    assert fake.cairn("edit", "vm1", "--xml").stdout == (
        "  vcpus: 1 -> 2\nDomain 'vm1' XML configuration edited.\n")
    assert inactive(fake, "vm1") == {**before, "vcpus": 2}
    editor(fake, "sed -i '/<vcpu/s/>2</>2<!/' \"$1\"")
    r = fake.cairn("edit", "vm1", "--xml", ok=2)
    assert "line " in r.stderr
    os.unlink(r.stderr.split("your changes are in ")[1].strip())


@pytest.mark.parametrize("verb, name, role", [("edit", "vm1", ["owner", "vm1"]), ("net-edit", "lan", ["admin"])])
def test_editor_opens_only_for_a_user_who_may_save(shared, verb, name, role):  # noqa: F811
    shared.define("vm1")
    (shared.tmp / "net.json").write_text('{"name": "lan", "ipv4": {"address": "10.77.0.1", "prefix": 24}}')
    shared.cairn("net-define", str(shared.tmp / "net.json"))
    shared.cairn("grant", "viewer", "--user", str(NOBODY))
    program, opened = shared.tmp / "cairn", shared.tmp / "nobody"
    shutil.copy(os.path.join(BUILD, "cairn"), program)
    opened.mkdir(exist_ok=True)
    opened.chmod(0o777)
    env = {**shared.env, "EDITOR": f"touch {opened}/{verb};:", "TMPDIR": str(opened)}

    def run(*args):
        return subprocess.run([program, verb, name, *args], env=env, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=100)

    r = run()
    assert r.returncode == 5 and f"requires the role {role[0]}" in r.stderr and not os.listdir(opened), r.stderr
    assert run("--print-only").returncode == 0 and os.listdir(opened) == [verb]
    os.unlink(opened / verb)
    shared.cairn("grant", *role, "--user", str(NOBODY))
    assert run().returncode == 0 and os.listdir(opened) == [verb]
