"""libvirt's domain XML in and out: `cairn define dom.xml`, `cairn dumpxml`, and cairn-xml itself."""

import glob
import json
import os
import random
import re
import shutil
import subprocess
import sys

import pytest

import guestlib
from conftest import BUILD, ROOT, until

sys.path.insert(0, os.path.join(ROOT, "tests"))
import xml_doc  # noqa: E402

CAIRN_XML = os.path.join(BUILD, "cairn-xml")
CORPUS = sorted(glob.glob(os.path.join(ROOT, "tests", "data", "xml", "*.xml")))
assert CORPUS
HEAD = "<domain type='kvm'><name>vm1</name>"
MEMORY = "<memory unit='MiB'>32</memory>"
OS = "<os><type>hvm</type><kernel>/k</kernel></os>"


def helper(mode, text):
    return subprocess.run([CAIRN_XML, mode], input=text, capture_output=True)


def read(text):
    r = helper("to-json", text.encode())
    assert r.returncode in (0, 1) and not r.stderr, (r, text)
    return json.loads(r.stdout)


def domain(more="", devices="", memory=MEMORY, os_=OS):
    return f"{HEAD}{memory}{os_}{more}<devices>{devices}</devices></domain>"


def error(text):
    return read(text)["error"]["desc"]


def disk(target="vda", more="", source="<source file='/d'/>", attrs="type='file'", bus="virtio",
         driver="<driver name='qemu' type='raw'/>"):
    return f"<disk {attrs}>{driver}{source}<target dev='{target}' bus='{bus}'/>{more}</disk>"


# ---- values ----

@pytest.mark.parametrize("text, unit, kib", [
    ("65536", None, 65536), ("65536", "KiB", 65536), ("65536", "k", 65536), ("65536", "K", 65536),
    ("64", "MiB", 65536), ("64", "M", 65536), ("64", "m", 65536), ("1", "GiB", 1 << 20), ("1", "G", 1 << 20),
    ("1", "TiB", 1 << 30), ("1", "T", 1 << 30), ("67108864", "b", 65536), ("67108864", "bytes", 65536),
    ("67108865", "bytes", 65540), ("100", "MB", 97660), ("1", "GB", 976564), ("1", "TB", 976562500),
    ("70000", "KB", 68360), (" 65536\n", " KiB", 65536)])
def test_memory_is_rounded_up(text, unit, kib):
    """The size is rounded up to KiB, as in libvirt, and then to pages."""
    got = read(domain(memory=f"<memory{f' unit={unit!r}' if unit else ''}>{text}</memory>"))
    assert got["definition"]["memory"] == f"{kib}K"


def test_invalid_memory_is_refused():
    for memory, why in (
            ("<memory unit='parsec'>5</memory>", '/domain/memory/@unit: "parsec" is not a unit; use '),
            ("<memory unit='KiBB'>5</memory>", '"KiBB" is not a unit'),
            ("<memory unit=''>5</memory>", '"" is not a unit'),
            ("<memory>-5</memory>", '/domain/memory: "-5" is not a whole number'),
            ("<memory>1.5</memory>", '"1.5" is not a whole number'),
            ("<memory/>", '"" is not a whole number'),
            ("<memory>18446744073709551616</memory>", "or is too large"),
            ("<memory unit='EiB'>16</memory>", "or is too large"),
            ("", "line 1: /domain: has no <memory>; give a size such as")):
        assert why in error(domain(memory=memory))
    got = read(domain(memory=f"{MEMORY}<currentMemory unit='MiB'>16</currentMemory>"))
    assert got["definition"]["memory"] == "32768K"
    assert got["warnings"] == ["line 1: /domain/currentMemory: has no effect: there is no balloon, "
                               "the VM has all of <memory>"]
    assert read(domain(memory=f"{MEMORY}<currentMemory>32768</currentMemory>"))["warnings"] == []


@pytest.mark.parametrize("more, key, value", [
    ("<uuid>2f1c0c0e-5d3a-4b53-9c39-0d8f1c6a7b11</uuid>", "uuid", "2f1c0c0e-5d3a-4b53-9c39-0d8f1c6a7b11"),
    ("<title>it&apos;s &lt;web&gt;</title>", "title", "it's <web>"),
    ("<description>a\n\n  b  c</description>", "description", "a b  c"),
    ("<memoryBacking><hugepages/></memoryBacking>", "hugepages", True),
    ("<cputune><shares>2048</shares></cputune>", "cpu_shares", 2048),
    ("<memtune><hard_limit unit='MiB'>96</hard_limit></memtune>", "memory_max", "98304K"),
    ("<memtune><hard_limit>9007199254740991</hard_limit></memtune>", "memory_max", None),
    ("<cputune><global_period>50000</global_period><global_quota>75001</global_quota></cputune>", "cpu_quota", 151),
    ("<vcpu>4</vcpu><cputune><quota>50000</quota></cputune>", "cpu_quota", 200),
    ("<vcpu>4</vcpu><cputune><quota>-1</quota><shares>7</shares></cputune>", "cpu_shares", 7),
    ("<vcpu>4</vcpu>", "vcpus", 4), ("<vcpu current='2'>4</vcpu>", "vcpus", 2), ("", "vcpus", 1),
    ("<vcpu>8</vcpu><cpu><topology sockets='2' cores='2' threads='2'/></cpu>", "topology",
     {"sockets": 2, "cores": 2, "threads": 2}),
    ("<vcpu>4</vcpu><cpu><topology sockets='1' dies='1' clusters='1' cores='4' threads='1'/></cpu>",
     "topology", {"sockets": 1, "cores": 4, "threads": 1}),
    ("<cpu mode='host-passthrough'/>", "cpu", None), ("<cpu mode='host-model'/>", "cpu", None),
    ("<cpu mode='custom'><model>x86-64-v2</model></cpu>", "cpu", "x86-64-v2"),
    ("<cpu mode='custom'><model>baseline</model><feature policy='require' name='aes'/><feature policy='disable' "
     "name='rdrand'/><feature policy='optional' name='avx2'/></cpu>", "cpu", "baseline,+aes,-rdrand"),
    ("<cpu mode='host-model'><feature policy='forbid' name='sha-ni'/></cpu>", "cpu", "host,-sha_ni"),
    ("<cpu mode='custom' match='exact'><model fallback='forbid'>Haswell-noTSX</model><feature policy='require' name='pni'/>"
     "<feature policy='require' name='stibp'/><feature policy='require' name='amd-stibp'/></cpu>", "cpu",
     "Haswell-noTSX,+sse3,+intel_stibp,+stibp"),
    ("<cpu match='exact'><model>core2duo</model><feature policy='disable' name='lahf_lm'/></cpu>", "cpu", "host,-lahf_lm"),
    ("<cpu mode='custom'><model fallback='forbid'>Skylake-Server-v3</model><feature policy='disable' name='pku'/></cpu>", "cpu",
     "Skylake-Server-v3,-pku"),
    ("<clock offset='utc'/>", "clock", None), ("<clock offset='localtime'/>", "clock", "localtime"),
    ("<clock offset='variable' adjustment='0' basis='localtime'/>", "clock", "localtime"),
    *[(f"<on_{when}>{what}</on_{when}>", f"on_{when}", kept or what)
      for when in ("poweroff", "reboot", "crash")
      for what, kept in (("destroy", None), ("restart", None), ("preserve", None),
                         ("rename-restart", "restart"))],
    ("<on_crash>coredump-destroy</on_crash>", "on_crash", "coredump-destroy"),
    ("<on_crash>coredump-restart</on_crash>", "on_crash", "coredump-restart"),
])
def test_values_are_converted(more, key, value):
    assert read(domain(more))["definition"].get(key) == value


@pytest.mark.parametrize("device, key, value", [
    ("<serial type='pty'/><console type='pty'/>", "console", None),
    ("<console type='pty'><target type='virtio'/></console>", "console", {"virtio": True}),
    ("<video><model type='bochs'/></video>", "screen", True),
    ("<video><model type='none'/></video>", "screen", None),
    ("<video><model type='bochs'/></video><input type='tablet' bus='virtio'/>", "tablet", True),
    ("<video><model type='bochs'/></video><input type='mouse' bus='ps2'/>", "tablet", None),
    ("<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>", "rng", True),
    ("<memballoon model='none'/>", "balloon", None),
    ("<memballoon model='virtio' autodeflate='on' freePageReporting='on'><stats period='10'/></memballoon>", "balloon", True),
    ("<watchdog model='i6300esb' action='poweroff'/>", "watchdog",
     {"model": "i6300esb", "action": "poweroff"}),
    ("<vsock model='virtio'><cid auto='yes'/></vsock>", "vsock", {"cid": 3}),
    ("<vsock model='virtio'><cid auto='no' address='77'/></vsock>", "vsock", {"cid": 77}),
    ("<vsock/>", "vsock", {"cid": 3}),
    ("<filesystem type='mount' accessmode='passthrough'><driver type='virtiofs'/><source dir='/s'/><target dir='t'/>"
     "</filesystem>", "shares", [{"path": "/s", "tag": "t", "readonly": False}]),
    ("<filesystem><driver type='virtiofs'/><source dir='/s'/><target dir='t'/><readonly/></filesystem>", "shares",
     [{"path": "/s", "tag": "t", "readonly": True}]),
    ("<watchdog model='i6300esb'/>", "watchdog", {"model": "i6300esb", "action": "reset"}),
    ("<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>",
     "guest_agent", True),
    ("<interface type='network'><mac address='52:54:00:01:02:03'/><source network='default'/>"
     "<model type='virtio'/></interface>", "interfaces",
     [{"mac": "52:54:00:01:02:03", "type": "network", "source": "default"}]),
    ("<interface type='bridge'><source bridge='br0'/><link state='down'/><alias name='ua-lan'/>"
     "</interface>", "interfaces",
     [{"id": "lan", "link": "down", "type": "bridge", "source": "br0"}]),
    ("<interface type='user'/>", "interfaces", [{"type": "user"}]),
    ("<interface type='network'><source network='lan'/><filterref filter='clean-traffic'/><port isolated='yes'/></interface>",
     "interfaces", [{"type": "network", "source": "lan", "filter": "clean-traffic", "isolated": True}]),
    ("<interface type='bridge'><source bridge='br0'/><driver name='vhost' queues='4'/></interface>",
     "interfaces", [{"type": "bridge", "source": "br0", "queues": 4, "vhost": True}]),
    ("<interface type='bridge'><source bridge='br0'/><driver name='qemu'/></interface>",
     "interfaces", [{"type": "bridge", "source": "br0"}]),
    ("<interface type='bridge'><source bridge='br0'/><driver queues='1'/></interface>",
     "interfaces", [{"type": "bridge", "source": "br0"}]),
    ("<interface type='network'><source network='lan'/><port isolated='no'/></interface>",
     "interfaces", [{"type": "network", "source": "lan"}]),
    ("<interface type='user'><bandwidth><inbound average='1000' peak='2000' burst='512'/><outbound average='7'/></bandwidth>"
     "</interface>", "interfaces", [{"type": "user", "bandwidth": {
         "inbound": {"average": 1000, "peak": 2000, "burst": 512}, "outbound": {"average": 7}}}]),
    ("<interface type='user'><backend type='passt'/><ip family='ipv4' address='10.9.0.5' prefix='16'/>"
     "<portForward proto='tcp' address='127.0.0.1'><range start='2222' to='22'/><range start='80'/></portForward>"
     "<portForward proto='udp'><range start='5000' end='5001' to='6000'/></portForward></interface>", "interfaces",
     [{"type": "user", "network": "10.9.0.0/16", "forwards": [
         {"protocol": "tcp", "address": "127.0.0.1", "port": 2222, "to": 22},
         {"protocol": "tcp", "address": "127.0.0.1", "port": 80, "to": 80},
         {"protocol": "udp", "address": "0.0.0.0", "port": 5000, "to": 6000},
         {"protocol": "udp", "address": "0.0.0.0", "port": 5001, "to": 6001}]}]),
])
def test_devices_are_converted(device, key, value):
    got = read(domain(devices=device))
    assert got["definition"].get(key) == value and not got["warnings"]


@pytest.mark.parametrize("text, want", [
    (disk(), {"id": "vda", "path": "/d", "format": "raw"}),
    (disk(attrs="type='block' device='disk'", source="<source dev='/dev/sda1'/>"),
     {"id": "vda", "path": "/dev/sda1", "format": "raw"}),
    (disk(driver="<driver type='qcow2' queues='2' queue_size='512' error_policy='report' "
          "discard='unmap'/>", more="<readonly/><serial>S1</serial><boot order='3'/>"),
     {"id": "vda", "readonly": True, "path": "/d", "format": "qcow2", "queues": 2, "queue_size": 512,
      "errors": "report", "serial": "S1", "boot_order": 3}),
    (disk(attrs="type='file' device='cdrom'", source=""),
     {"id": "vda", "device": "cdrom", "readonly": True}),
    (disk(attrs="type='file' device='cdrom'", source="<source file='/iso'/>", driver=""),
     {"id": "vda", "device": "cdrom", "readonly": True, "path": "/iso", "format": "raw"}),
    (disk("sda", bus="scsi", more="<wwn>5000c50015ea71aa</wwn><blockio logical_block_size='4096' physical_block_size='4096'/>",
          driver="<driver type='raw' discard='ignore' detect_zeroes='on'/>") + "<controller type='scsi' model='virtio-scsi'/>",
     {"id": "sda", "bus": "scsi", "path": "/d", "format": "raw", "discard": "ignore", "detect_zeroes": "on",
      "logical_block_size": 4096, "physical_block_size": 4096, "wwn": "5000c50015ea71aa"}),
    (disk(more="<alias name='ua-data'/>"), {"id": "data", "path": "/d", "format": "raw"}),
    (disk(driver="<driver type='qcow2'/>", source="<source file='/d' index='2'/><backingStore type='file'>"
          "<format type='qcow2'/><source file='/b1'/><backingStore type='block'><format type='raw'/>"
          "<source dev='/dev/b2'/><backingStore/></backingStore></backingStore>"),
     {"id": "vda", "path": "/d", "format": "qcow2", "backing": [
         {"path": "/b1", "format": "qcow2"}, {"path": "/dev/b2", "format": "raw"}]}),
    (disk(driver="<driver type='qcow2'/>", source="<source file='/d'><dataStore type='file'>"
          "<format type='raw'/><source file='/data'/></dataStore></source>"),
     {"id": "vda", "path": "/d", "format": "qcow2", "data_file": "/data"}),
])
def test_disk_is_converted(text, want):
    got = read(domain(devices=text))
    assert got["definition"]["disks"] == [want] and not got["warnings"]


def test_disks_are_ordered_as_libvirt_orders_them():
    """The guest numbers disks by target, whatever their order in the text."""
    got = read(domain(devices=disk("vdaa", source="<source file='/27'/>") + disk("vdb") +
                      disk("sdb", bus="scsi") + disk("vda") + disk("sda", bus="sata")))
    assert [d["id"] for d in got["definition"]["disks"]] == ["vda", "vdb", "vdaa", "sdb", "sda"]
    assert [w.split(": ", 2)[1] for w in got["warnings"]] == ["/domain/devices/disk[5]/target/@bus"]
    assert "the guest has sda as /dev/vd..., not /dev/sda" in got["warnings"][0]
    # Without a bus attribute, the target's name determines it.
    got = read(domain(devices=disk("vdb") + disk("vda").replace(" bus='virtio'", "") +
                      disk("hda").replace(" bus='virtio'", "")))
    assert [d["id"] for d in got["definition"]["disks"]] == ["vda", "vdb", "hda"]
    assert ['"ide" becomes virtio' in w for w in got["warnings"]] == [True]


def targets(xml):
    return re.findall(r"<target dev='([^']*)' bus='(?:virtio|scsi)'/>", xml)


def test_target_of_a_disk_is_the_name_that_verbs_take(fake):
    """Whatever the order of the disks; a target by position is never the name of another disk."""
    for i in range(5):
        (fake.tmp / f"{i}.raw").write_bytes(bytes(1 << 20))
    image = [{"path": f"{i}.raw", "format": "raw"} for i in range(5)]
    fake.define("vm1", disks=[{**image[0], "id": "vda"}, {**image[1], "id": "vdc"}, {"id": "sda", "device": "cdrom", "bus": "scsi"},
                              {**image[2], "id": "vdb"}])
    xml = round_trip(fake, "vm1")
    assert targets(xml) == ["vda", "vdc", "sda", "vdb"] and "<alias" not in xml
    fake.define("vm2", disks=[{**image[0], "id": "data"}, {**image[1], "id": "sda"}, {**image[2], "id": "vda"}, {**image[3], "id": "vdaa"},
                              {**image[4], "id": "vdb", "bus": "scsi"}])
    xml = round_trip(fake, "vm2")
    assert targets(xml) == ["vdc", "vdd", "vda", "vdaa", "sde"]
    assert re.findall(r"ua-\w+", xml) == ["ua-data", "ua-sda", "ua-vdb"]
    path = fake.tmp / "vm3.xml"
    path.write_text(re.sub(r"<uuid>.*</uuid>| machine='[^']*'", "", xml).replace("vm2", "vm3").replace("dev='vdc'", "dev='vdz'"))
    fake.cairn("define", str(path))
    assert [d["id"] for d in json.loads(fake.cairn("dumpjson", "vm3").stdout)["disks"]] == ["vda", "sda", "data", "vdaa", "vdb"]


def test_disks_of_own_xml_keep_their_order(fake):
    for name in ("a.raw", "b.raw"):
        (fake.tmp / name).write_bytes(bytes(1 << 20))
    fake.define("vm1", disks=[{"path": "a.raw", "format": "raw"}, {"id": "cd", "device": "cdrom", "bus": "scsi"}, {"path": "b.raw", "format": "raw"}])
    round_trip(fake, "vm1")


def test_empty_drives_and_a_second_watchdog_are_no_errors():
    """As virsh prints an empty CD drive, and libvirt's q35 has a watchdog of its own."""
    got = read(domain(devices=disk("sda", attrs="type='file' device='cdrom'", bus="sata", source="<source startupPolicy='optional'/>") +
                      disk("fda", attrs="type='file' device='floppy'", bus="fdc", source="") +
                      "<watchdog model='i6300esb' action='poweroff'/><watchdog model='itco' action='reset'/>"))
    one, = got["definition"]["disks"]
    assert (one["device"], "path" in one) == ("cdrom", False)
    assert got["definition"]["watchdog"] == {"model": "i6300esb", "action": "poweroff"}
    for why in ("there are no floppy disks, and this drive is empty", "the only model is i6300esb"):
        assert any(why in w for w in got["warnings"]), got["warnings"]


def test_features_count_although_the_model_is_unknown():
    got = read(domain("<cpu mode='custom'><model>NoSuch</model><feature policy='disable' name='vmx'/><feature policy='require' name='avx512f'/></cpu>"))
    assert got["definition"]["cpu"] == "host,-vmx"
    assert any("the guest sees the host's processor: " in w for w in got["warnings"])


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img, the oracle, is missing")
def test_backing_files_that_virsh_leaves_out_are_found(fake):
    """virsh dumpxml of a VM that is off has no <backingStore>."""
    for args in (["base.raw", "1M"], ["-b", "base.raw", "-F", "raw", "top.qcow2"]):
        subprocess.run(["qemu-img", "create", "-q", "-f", args[-1].rpartition(".")[2] if "-b" in args else "raw", *args], cwd=fake.tmp, check=True)
    path = fake.tmp / "vm1.xml"
    (fake.tmp / "kernel").write_bytes(b"none")
    path.write_text(domain(devices=disk(source=f"<source file='{fake.tmp}/top.qcow2'/>", driver="<driver name='qemu' type='qcow2'/>"))
                    .replace("/k<", f"{fake.tmp}/kernel<"))
    fake.cairn("define", str(path))
    one, = json.loads(fake.cairn("dumpjson", "vm1").stdout)["disks"]
    assert one["backing"] == [{"path": f"{fake.tmp}/base.raw", "format": "raw"}]


def test_cdrom_of_another_bus_becomes_scsi():
    """The firmware boots any ISO from a CD drive with bus scsi only."""
    cd = disk("sda", bus="sata", attrs="type='file' device='cdrom'", more="<blockio logical_block_size='512'/>")
    got = read(domain(devices=cd + cd.replace("sda", "hdb").replace(" bus='sata'", "") + cd.replace("sda", "vdc").replace("sata", "virtio")))
    assert [(d["id"], d.get("bus"), d.get("logical_block_size")) for d in got["definition"]["disks"]] == [
        ("sda", "scsi", None), ("hdb", "scsi", None), ("vdc", None, 512)]
    assert [w.split(": ", 2)[2] for w in got["warnings"]] == [
        '"sata" becomes scsi: the guest needs a driver for virtio-scsi', '"ide" becomes scsi: the guest needs a driver for virtio-scsi',
        "has no effect: a CD drive has blocks of 2048 bytes", "has no effect: a CD drive has blocks of 2048 bytes"]


def test_long_serial_is_truncated():
    """QEMU truncates serial numbers, too. An alias that cannot be an id has no effect."""
    got = read(domain(devices=disk(driver="<driver type='raw' queues='16'/>",
                                   more="<serial>0123456789abcdefghijXYZ</serial><alias name='ua-x.y'/>") +
                      "<interface type='user'><alias name='ua-0123456789abcdef'/></interface>"))
    assert got["definition"]["disks"] == [
        {"id": "vda", "path": "/d", "format": "raw", "queues": 8, "serial": "0123456789abcdefghij"}]
    assert got["definition"]["interfaces"] == [{"type": "user"}]
    assert sorted(w.split(": ", 1)[1] for w in got["warnings"]) == [
        "/domain/devices/disk/driver/@queues: there are at most 8",
        "/domain/devices/disk/serial: the guest sees its first 20 characters"]


def test_boot_order():
    devices = disk("vda", source="<source file='/1'/>") + disk("vdb", source="", attrs="device='cdrom'")
    os_ = OS.replace("</os>", "<boot dev='cdrom'/><boot dev='hd'/><boot dev='network'/></os>")
    got = read(domain(devices=devices, os_=os_))
    assert [d["boot_order"] for d in got["definition"]["disks"]] == [2, 1]
    assert got["warnings"] == ["line 1: /domain/os/boot[3]: has no effect: a VM has no such device to "
                               "start from"]
    assert "cannot be together with <boot order='...'/>" in error(
        domain(devices=disk(more="<boot order='1'/>"), os_=os_))
    devices += "<interface type='user'/><interface type='user'/>"
    got = read(domain(devices=devices, os_=os_))
    assert [i.get("boot_order") for i in got["definition"]["interfaces"]] == [3, None] and not got["warnings"]
    devices = devices.replace("<interface type='user'/>", "<interface type='user'><boot order='7'/></interface>", 1)
    assert "cannot be together with <boot order='...'/> in an interface" in error(domain(devices=devices, os_=os_))
    assert read(domain(devices=devices))["definition"]["interfaces"][0]["boot_order"] == 7


# ---- ignored and refused elements ----

@pytest.mark.parametrize("more, devices, path", [
    ("<genid/>", "", "genid"), ("<cputune><vcpupin vcpu='0' cpuset='1'/></cputune>", "", "cputune/vcpupin"),
    ("<features><hyperv/></features>", "", "features/hyperv"),
    ("<features><apic eoi='on'/></features>", "", "features/apic/@eoi"),
    ("<cpu mode='custom'><model>core2duo</model></cpu>", "", "cpu/@mode"),
    ("<cpu mode='host-model'><feature policy='require' name='no-such'/></cpu>", "", "cpu/feature"),
    ("<clock offset='utc'><timer name='hpet' present='yes'/></clock>", "", "clock/timer"),
    ("<clock offset='utc'><timer name='kvmclock' present='no'/></clock>", "", "clock/timer"),
    ("<pm><suspend-to-mem enabled='yes'/></pm>", "", "pm/suspend-to-mem"),
    ("<nonsense/>", "", "nonsense"), ("<x:name xmlns:x='urn:x'/>", "", "x:name"),
    ("", "<graphics type='vnc'/><video><model type='none'/></video>", "devices/graphics"), ("", "<graphics type='sdl'/>", "devices/graphics"),
    ("", "<video/><video/>", "devices/video[2]"), ("", "<input type='keyboard' bus='ps2'/>", "devices/input"),
    ("", "<controller type='scsi' model='lsilogic'/>", "devices/controller/@model"), ("", "<tpm model='tpm-tis'/>", "devices/tpm"),
    ("", "<interface type='user'><address type='pci' bus='0x01' slot='0x00'/></interface>", "devices/interface/address"),
    ("", "<interface type='user'><address type='pci' bus='0x00' slot='0x03'/></interface>", "devices/interface/address"),
    ("", "<memballoon model='xen'/>", "devices/memballoon/@model"),
    ("", "<watchdog model='itco'/>", "devices/watchdog"),
    ("", "<serial type='file'><source path='/x'/></serial>", "devices/serial/@type"),
    ("", "<channel type='spicevmc'><target type='virtio' name='x'/></channel>", "devices/channel"),
    ("", "<panic model='hyperv'/>", "devices/panic/@model"),
    ("", "<interface type='user'><model type='e1000'/></interface>", "devices/interface/model/@type"),
    ("", "<interface type='user'><target dev='tap9'/></interface>", "devices/interface/target/@dev"),
    ("", "<interface type='user'><mtu size='9000'/></interface>", "devices/interface/mtu"),
    ("", "<interface type='network'><source network='lan'/><ip address='10.0.0.9'/></interface>", "devices/interface/ip"),
    ("", "<interface type='bridge'><source bridge='br0'/><portForward proto='tcp'><range start='22'/></portForward></interface>",
     "devices/interface/portForward"),
    ("", "<interface type='user'><bandwidth><inbound average='9' floor='5'/></bandwidth></interface>",
     "devices/interface/bandwidth/inbound/@floor"),
    ("", disk(driver="<driver type='raw'/>", more="<iotune><group_name>g</group_name></iotune>"),
     "devices/disk/iotune/group_name"),
    ("", disk(driver="<driver type='raw'/>", more="<iotune><total_bytes_sec>9999999999999</total_bytes_sec></iotune>"),
     "devices/disk/iotune/total_bytes_sec"),
    ("", disk(driver="<driver type='raw' cache='writethrough'/>"), "devices/disk/driver/@cache"),
    ("", disk(driver="<driver type='raw' cache='directsync'/>"), "devices/disk/driver/@cache"),
    ("", disk(driver="<driver type='raw' error_policy='enospace'/>"),
     "devices/disk/driver/@error_policy"),
    ("", disk(driver=""), "devices/disk"), ("", disk(more="<shareable/>"), "devices/disk/shareable"),
    ("", disk(attrs="type='file' snapshot='no'"), "devices/disk/@snapshot"),
])
def test_ignored_elements_produce_warnings(more, devices, path):
    got = read(domain(more, devices))
    assert ["line 1", f"/domain/{path}"] in [w.split(": ", 2)[:2] for w in got["warnings"]]


def test_interfaces_keep_the_slots_of_bus_0():
    devices = "".join(f"<interface type='user'><address type='pci' domain='0x0000' {place} function='0x0'/></interface>"
                      for place in ("bus='0x00' slot='0x03'", "bus='0x02' slot='0x04'", "bus='0x00' slot='0x1f'"))
    got = read(domain(devices=devices))
    assert [i.get("slot") for i in got["definition"]["interfaces"]] == [3, None, None]
    assert sorted(w.split("address: ")[1] for w in got["warnings"] if "address" in w) == [
        "Linux may give the interface another name, such as enp0s3 for ens3",
        *["the guest finds the interface at another PCI address, so Linux may give it another name"] * 2]


@pytest.mark.parametrize("child, why", [
    ("<seclabel model='dac'/>", "Cairn opens an image with the rights of the user who defined the VM"),
    ("<reservations managed='yes'/>", "disks accept no SCSI commands"), ("<nonsense/>", "Cairn does not know it"),
])
def test_warning_for_child_of_source_fits_it(child, why):
    name = child.strip("</>").split()[0]
    got = read(domain(devices=disk(source=f"<source file='/d'>{child}</source>")))
    assert got["warnings"] == [f"line 1: /domain/devices/disk/source/{name}: has no effect: {why}"]


def test_unknown_version_of_model_is_told_with_the_known_ones():
    got = read(domain("<cpu mode='custom'><model>EPYC-v4</model></cpu>"))
    assert "cpu" not in got["definition"]
    assert got["warnings"] == [
        'line 1: /domain/cpu/@mode: has no effect, and the guest sees the host\'s processor: "EPYC-v4" is a version that Cairn '
        "lacks; it has EPYC-v1 (EPYC), EPYC-v2 (EPYC-IBPB)"]


def test_version_of_model_is_printed(fake):
    fake.define("v", cpu="EPYC-v2,-topoext")
    xml = round_trip(fake, "v")
    assert "<model fallback='forbid'>EPYC-v2</model>" in xml and "<feature policy='disable' name='topoext'/>" in xml


def test_each_warning_is_printed_once():
    got = read(domain("<features><hap/><kvm/></features>", "<sound/>" * 3 + disk(
        driver="<driver type='raw' cache='directsync' io='native'/>")))
    assert [re.sub(": has no effect.*", "", w) for w in sorted(got["warnings"])] == [
        "line 1: /domain/devices/disk/driver/@cache", "line 1: /domain/devices/disk/driver/@io",
        "line 1: /domain/devices/sound[1] and 2 more", "line 1: /domain/features/hap",
        "line 1: /domain/features/kvm"]


@pytest.mark.parametrize("more, devices, why", [
    ("<launchSecurity type='sev'/>", "", "/domain/launchSecurity: encrypted guests are not supported"),
    ("<commandline xmlns='http://libvirt.org/schemas/domain/qemu/1.0'/>", "", "is for QEMU"),
    ("<clock offset='timezone' timezone='Europe/Paris'/>", "", '/domain/clock/@offset: "timezone" is not'),
    ("<clock offset='variable' adjustment='3600'/>", "", "the guest would see another time"),
    ("<clock offset='utc' adjustment='7200'/>", "", "the guest would see another time"),
    ("", "<interface type='network'><source network='lan' portgroup='dmz'/></interface>", "networks have no port groups"),
    ("", "<watchdog model='i6300esb'/><watchdog model='i6300esb'/>", "is there twice; the first is in line 1"),
    ("", disk("fda", attrs="type='file' device='floppy'", bus="fdc") + disk("vdb", attrs="type='network'"), "\"floppy\" is not supported"),
    ("<on_crash>explode</on_crash>", "", '"explode" is not one of the choices; use destroy'),
    ("<on_reboot>coredump-restart</on_reboot>", "", "use destroy, restart or preserve"),
    ("<vcpu>x</vcpu>", "", '/domain/vcpu: "x" is not a number'),
    ("<vcpu current='3'>2</vcpu>", "", "/domain/vcpu/@current: is more than the 2 vCPUs"),
    ("<vcpu>4</vcpu><cpu><topology sockets='1' cores='2' threads='1'/></cpu>", "",
     "/domain/cpu/topology: sockets times cores times threads is 2, <vcpu> is 4"),
    ("<vcpu>4</vcpu><cpu><topology sockets='1' dies='2' cores='2' threads='1'/></cpu>", "", "@dies: "),
    ("<title>1</title><title>2</title>", "", "/domain/title[2]: is there twice; the first is in line 1"),
    ("", "<hostdev mode='subsystem'/>", "/domain/devices/hostdev: passing a host device"),
    ("", "<filesystem type='mount'><source dir='/s'/><target dir='t'/></filesystem>", "by 9p, which is not supported; add"),
    ("", "<filesystem type='file'/>", '/domain/devices/filesystem/@type: "file" is not supported; use mount'),
    ("", "<filesystem><driver type='virtiofs'/><target dir='t'/></filesystem>", "has no <source dir='...'/>"),
    ("", "<filesystem><driver type='virtiofs'/><source dir='/s'/></filesystem>", "has no <target dir='...'/>"),
    ("", "<filesystem><driver type='virtiofs'/><source dir='/s'/><target dir='t'/><idmap/></filesystem>", "other owners of files"),
    ("", "<memory model='dimm'/>", "memory modules"),
    ("", disk() + disk(), '/domain/devices/disk[2]/target/@dev: "vda" is also the target of the disk in line 1'),
    ("", disk(attrs="type='network'"), '@type: "network" is not supported; give a file'),
    ("", disk(attrs="type='volume'"), '@type: "volume" is not supported; give type=\'file\' and the path, which cairn vol-path'),
    ("", disk(attrs="type='file' device='lun'"), '@device: "lun" is not supported; use disk or cdrom'),
    ("", disk(driver="<driver type='vmdk'/>"), '"vmdk" is not a format Cairn reads'),
    ("", disk(source=""), "/domain/devices/disk: has no source"),
    ("", disk(source="<source dev='/dev/x'/>"), "has no file='...', which type='file' needs"),
    ("", disk("nonsense"), '"nonsense" is not a disk\'s name, such as vda'),
    ("", disk(more="<transient/>"), "transient disks are not supported"),
    ("", disk(more="<encryption format='luks'/>"), "encrypted images"),
    ("", disk(more="<blockio logical_block_size='many'/>"), '"many" is not a whole number'),
    ("", disk(driver="<driver type='raw' queues='many'/>"), '"many" is not a whole number'),
    ("", "<disk type='file'><source file='/d'/></disk>", "has no target; give"),
    ("", disk(driver="<driver type='qcow2'/>", more="<backingStore type='file'><source file='/b'/>"
              "</backingStore>"), "has no <format type='...'/>; give raw or qcow2"),
    ("", "<interface type='direct'><source dev='eth0'/></interface>", '"direct" is not supported'),
    ("", "<interface type='network'/>", "has no <source network='...'/>"),
    ("", "<interface/>", "has no type; use network, bridge or user"),
    ("", "<interface type='user'><portForward proto='tcp'/></interface>", "means all ports, which is not supported"),
    ("", "<interface type='user'><portForward proto='tcp' dev='eth0'><range start='1'/></portForward></interface>",
     "a forward listens on an address"),
    ("", "<interface type='user'><portForward proto='tcp'><range start='1' end='9'/><range start='3' exclude='yes'/>"
     "</portForward></interface>", "give the remaining ranges"),
    ("", "<interface type='user'><portForward proto='tcp'><range start='9' end='8'/></portForward></interface>",
     "give start, and an end of at least start"),
    ("", "<interface type='user'><ip address='::1'/></interface>", "is not an IPv4 address"),
    ("", "<interface type='user'><bandwidth><inbound average='fast'/></bandwidth></interface>", "inbound/@average"),
    ("", disk(driver="<driver type='raw'/>", more="<iotune><total_iops_sec>many</total_iops_sec></iotune>"),
     "iotune/total_iops_sec: is not a whole number"),
    ("", "<interface type='network'><source network='lan'/><filterref filter='no-ip-spoofing'/></interface>",
     "without the filter, blocked traffic would pass"),
    ("", "<interface type='user'><vlan><tag id='42'/></vlan></interface>", "VLAN tags"),
])
def test_unsupported_elements_are_refused(more, devices, why):
    got = error(domain(more, devices))
    assert got.startswith("line 1: /domain") and why in got


@pytest.mark.parametrize("text, why", [
    ("", "not well-formed XML"), ("<domain", "line 1, column 8: not well-formed XML"),
    ("<domain>\n<name>x</nam>\n</domain>", "line 2, column 14: not well-formed XML: Opening and ending tag"),
    ("<domain>&amp;&nope;</domain>", "Entity 'nope' not defined"),
    ("<domain>\0</domain>", "not well-formed"),
    ("<network/>", "line 1: /network: is not a <domain>; give a domain's XML"),
    ("<domain xmlns='urn:x'/>", "is not a <domain> without a namespace"),
    ("<domain type='kvm'/>", "has no <name>"),
    ("<domain type='xen'/>", '"xen" is for another hypervisor'),
    (HEAD + MEMORY + "</domain>", "has no <os>"),
    (HEAD + MEMORY + "<os/></domain>", "/domain/os: has no <type>"),
    (HEAD + MEMORY + "<os><type>exe</type></os></domain>", '"exe" is not run by KVM'),
    (HEAD + MEMORY + "<os><type arch='aarch64'>hvm</type></os></domain>", '"aarch64" is not supported'),
    (HEAD + MEMORY + "<os firmware='coreboot'><type>hvm</type></os></domain>", 'os/@firmware: "coreboot" is not supported'),
    (HEAD + MEMORY + "<os><type>hvm</type><loader type='flash'>/f</loader></os></domain>",
     'os/loader/@type: "flash" is not supported'),
    (HEAD + MEMORY + "<os firmware='efi'><type>hvm</type><firmware><feature enabled='yes' name='secure-boot'/></firmware></os></domain>",
     'os/firmware/feature/@enabled: "yes" is not supported, since Secure Boot needs system management mode'),
    (HEAD + MEMORY + "<os firmware='efi'><type>hvm</type><nvram format='qcow2'>/f</nvram></os></domain>",
     'os/nvram/@format: "qcow2" is not supported'),
    (HEAD + MEMORY + "<os><type>hvm</type><loader secure='yes'>/f</loader></os></domain>",
     'os/loader/@secure: "yes" is not supported'),
    (HEAD + MEMORY + "<os><type>hvm</type><bootmenu enable='yes' timeout='70000'/></os></domain>", "timeout"),
])
def test_other_xml_is_refused(text, why):
    assert why in error(text)


REFUSED = domain("\n<launchSecurity type='sev'/>\n<on_crash>sing</on_crash>", "\n<interface type='direct'><source dev='eth0'/></interface>\n"
                 + disk("vda", "<transient/>") + "\n" + disk("vdb", attrs="type='network'") + "\n<hostdev mode='subsystem' type='pci'/>\n"
                 "<interface type='user'><vlan><tag id='42'/></vlan></interface>\n<hostdev mode='subsystem' type='usb'/>")
REFUSED_AT = ["launchSecurity", "on_crash", "interface[1]/@type", "disk[1]/transient", "disk[2]/@type", "hostdev[1]", "interface[2]/vlan", "hostdev[2]"]


def test_all_refused_elements_are_told_at_once():
    got = read(REFUSED)
    assert [line.split(": ")[0] for line in got["refusals"]] == [f"line {i}" for i in range(2, 10)]
    assert all(f"/{at}: " in line for at, line in zip(REFUSED_AT, got["refusals"])), got["refusals"]
    assert got["error"]["desc"] == got["refusals"][0] and "definition" not in got
    assert "refusals" not in read(domain("<keywrap/>"))


def test_all_refused_parts_of_os_are_told():
    got = read(domain(os_="""<os firmware='efi'><type arch='ppc64'>hvm</type>
<loader secure='yes'>/x</loader>
<firmware><feature enabled='yes' name='secure-boot'/></firmware>
<nvram format='qcow2'>/n</nvram></os>"""))
    assert [sentence.split(": ")[1] for sentence in got["refusals"]] == [
        f"/domain/os/{at}" for at in ("type/@arch", "loader/@secure", "firmware/feature/@enabled", "nvram/@format")]


def test_define_prints_all_refused_elements(fake):
    (fake.tmp / "bad.xml").write_text(REFUSED)
    lines = fake.cairn("define", str(fake.tmp / "bad.xml"), ok=2).stderr.splitlines()
    assert [line.split(": ")[1] for line in lines[:8]] == [f"line {i}" for i in range(2, 10)]
    assert lines[8].startswith("error: Failed to define domain") and lines[9] == "error: 8 elements are refused, see above"


@pytest.mark.parametrize("n, more, total", [(32, [], "32"), (33, ["error: and 1 more"], "33"), (1000, ["error: and 968 more"], "1000"),
                                            (2000, ["error: and at least 968 more"], "at least 1000")])
def test_define_counts_refused_elements_beyond_those_it_prints(fake, n, more, total):
    (fake.tmp / "bad.xml").write_text(domain(devices="\n<hostdev mode='subsystem' type='pci'/>" * n))
    lines = fake.cairn("define", str(fake.tmp / "bad.xml"), ok=2).stderr.splitlines()
    assert [line.split(": ")[1] for line in lines[:32]] == [f"line {i}" for i in range(2, 34)]
    assert lines[32:-2] == more and lines[-1] == f"error: {total} elements are refused, see above"


def test_entity_bombs_are_refused():
    """No entity is expanded, and the limits on time and memory hold whatever the parser does."""
    entities = "".join(f"<!ENTITY l{i} '{f'&l{i - 1};' * 10 if i else 'ha'}'>" for i in range(10))
    bomb = f"<!DOCTYPE domain [{entities}]>\n<domain><name>&l9;</name></domain>"
    assert error(bomb) == "line 1: a DOCTYPE is not accepted; remove it"
    file = "<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><domain><name>&x;</name></domain>"
    assert "DOCTYPE" in error(file)
    assert "DOCTYPE" in error("\n\n<!DOCTYPE domain SYSTEM 'http://127.0.0.1:1/x.dtd'><domain/>")
    assert "not well-formed XML" in error("<domain>" + "<a>" * 100000)
    assert error(domain(memory="x" * (1 << 20))) == "the input is larger than 1048576 bytes"
    many = read(domain("<x/>" * 100000))
    assert len(many["warnings"]) == 101 and "omitted" in many["warnings"][-1]
    assert "one disk too many; the limit is 1024" in error(domain(devices="".join(
        f"<disk><target dev='vd{chr(97 + i // 676)}{chr(97 + i // 26 % 26)}{chr(97 + i % 26)}'/></disk>"
        for i in range(1100))))


def test_mutated_xml_gets_one_answer():
    """Every input gets one answer, without a crash."""
    rng = random.Random(1)
    texts = [open(p, "rb").read() for p in CORPUS]
    words = [b"<", b">", b"'", b"&", b"/", b"\0", b"\xff", b"</", b"<!--", b"]]>", b"99999999999999999999",
             b"-1", b"<![CDATA[", b" xmlns='x'", b"<disk>", b"<backingStore>", b"&#0;", b"\xed\xa0\x80"]
    for _ in range(150):
        text = bytearray(rng.choice(texts))
        for _ in range(rng.randrange(1, 6)):
            at, size = rng.randrange(len(text)), rng.randrange(1, 30)
            text[at:at + rng.choice((0, 1, size))] = rng.choice(
                (rng.choice(words), b"", text[at:at + size] * 2, bytes([rng.randrange(256)])))
        r = helper("to-json", bytes(text))
        assert r.returncode in (0, 1) and not r.stderr, (r, text)
        answer = json.loads(r.stdout)
        assert ("error" in answer) == (r.returncode == 1)


# ---- with a daemon ----

def place(tmp, path, kernel):
    """Return a file of the corpus with existing paths."""
    image, overlay = tmp / "disk.img", tmp / "overlay.qcow2"
    if not image.exists():
        image.write_bytes(bytes(1 << 20))
        subprocess.run([os.path.join(BUILD, "cairn-img"), "create", "-f", "qcow2", "-b", image, "-F", "raw", overlay],
                       check=True, stdout=subprocess.DEVNULL)
    with open(path) as f:
        text = f.read().replace("@KERNEL@", kernel).replace("@DISK@", str(image)).replace("@OVERLAY@", str(overlay))
    out = tmp / os.path.basename(path)
    out.write_text(text)
    return str(out), re.search("<name>(.*)</name>", text).group(1)


def schema_holds(path):
    r = subprocess.run(["virt-xml-validate", path, "domain"], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr + open(path).read()


def round_trip(daemon, name):
    """dumpxml | define changes nothing, and libvirt's schema accepts the XML."""
    before = daemon.cairn("dumpjson", name).stdout
    xml = daemon.cairn("dumpxml", name).stdout
    path = daemon.tmp / "dumped.xml"
    path.write_text(xml)
    schema_holds(str(path))
    assert daemon.cairn("define", "-", stdin=open(path)).stdout == f"Domain '{name}' defined from -\n"
    assert daemon.cairn("dumpjson", name).stdout == before
    return xml


def unplug(daemon, name):
    """Remove the links to bridges and networks, which this host lacks. Return the XML."""
    d = json.loads(daemon.cairn("dumpjson", name).stdout)
    for i in d["interfaces"]:
        i["link"] = "down" if i["type"] != "user" else i["link"]
    daemon.cairn("define", "-", input=json.dumps(d), stdin=None)
    return daemon.cairn("dumpxml", name).stdout


def test_corpus_starts(kvm, daemon):
    """XML as administrators have it defines a VM that runs."""
    for path in CORPUS:
        file, name = place(daemon.tmp, path, guestlib.bare("idle"))
        r = daemon.cairn("define", file)
        assert r.stdout == f"Domain '{name}' defined from {file}\n"
        assert all(line.startswith("warning: ") for line in r.stderr.splitlines())
        xml = round_trip(daemon, name)
        assert xml.startswith("<domain type='kvm'>\n") and xml.endswith("</domain>\n\n")
        if "<interface type='bridge'>" in xml or "<interface type='network'>" in xml:
            xml = unplug(daemon, name)
        d = json.loads(daemon.cairn("dumpjson", name).stdout)
        if d["cpu"] != "host":
            r = daemon.cairn("start", name, ok=None)
            if r.returncode:  # few hosts have the processors of the corpus
                assert re.search(f'the processor "{re.escape(d["cpu"])}" has features that this host lacks: |does not '
                                 f'virtualise CPUID, .* and not "{re.escape(d["cpu"])}"', r.stderr), r.stderr
            else:
                daemon.cairn("destroy", name)
            until(lambda: daemon.cairn("define", "-", input=json.dumps({**d, "cpu": "host"}), stdin=None,
                                       ok=None).returncode == 0)
            xml = daemon.cairn("dumpxml", name).stdout
        daemon.cairn("start", name)
        assert daemon.cairn("domstate", name).stdout in ("running\n", "idle\n")
        assert daemon.cairn("dumpxml", name).stdout.startswith("<domain type='kvm' id='")
        assert daemon.cairn("dumpxml", "--inactive", name).stdout == xml
        daemon.cairn("destroy", name)
        daemon.cairn("undefine", name)  # the next one may use its disk as a backing file


def virt_install(folder, *options):
    """Return virt-install's output for a host with KVM, as a file."""
    if not shutil.which("virt-install"):
        pytest.skip("virt-install is not there")
    caps = folder / "caps.xml"
    caps.write_text("""<capabilities><host><cpu><arch>x86_64</arch></cpu></host><guest><os_type>hvm</os_type>
        <arch name='x86_64'><wordsize>64</wordsize><emulator>/usr/bin/qemu-system-x86_64</emulator>
        <machine>pc-q35-7.2</machine><machine canonical='pc-q35-7.2'>q35</machine><domain type='kvm'/>
        </arch></guest></capabilities>""")
    initrd = folder / "initrd"
    initrd.write_bytes(b"initrd")
    r = subprocess.run(
        ["virt-install", "--connect", f"__virtinst_test__test:///default,fakeuri=qemu:///system,caps={caps}",
         "--print-xml", "--name", "installed", "--memory", "64", "--import", *options,
         "--boot", f"kernel={guestlib.bare('idle')},initrd={initrd},kernel_args=console=ttyS0"],
        capture_output=True, text=True, env={**os.environ, "HOME": str(folder)})
    assert r.returncode == 0 and "<domain type=\"kvm\">" in r.stdout, r.stdout + r.stderr
    path = folder / "installed.xml"
    path.write_text(r.stdout)
    return path


def test_virt_install_xml_starts(kvm, daemon):
    """The VM starts."""
    image, initrd = daemon.tmp / "disk.qcow2", daemon.tmp / "initrd"
    path = virt_install(
        daemon.tmp, "--vcpus", "2", "--disk", f"path={image},format=qcow2,bus=virtio,size=1",
        "--network", "network=default,model=virtio", "--rng", "/dev/urandom", "--watchdog", "none", "--graphics", "vnc",
        "--channel", "unix,target.type=virtio,target.name=org.qemu.guest_agent.0", "--osinfo", "detect=off,require=off")
    subprocess.run([os.path.join(BUILD, "cairn-img"), "create", "-f", "qcow2", image, "16M"], check=True,
                   stdout=subprocess.DEVNULL)
    daemon.cairn("define", str(path))
    d = json.loads(daemon.cairn("dumpjson", "installed").stdout)
    assert d["vcpus"] == 2 and d["memory"] == "64M" and d["guest_agent"] and d["rng"]
    assert d["disks"][0]["path"] == str(image) and d["disks"][0]["format"] == "qcow2"
    assert d["interfaces"][0]["source"] == "default"
    assert d["boot"] == {"kernel": guestlib.bare("idle"), "initrd": str(initrd), "cmdline": "console=ttyS0"}
    unplug(daemon, "installed")
    daemon.cairn("start", "installed")
    assert daemon.cairn("domstate", "installed").stdout in ("running\n", "idle\n")
    round_trip(daemon, "installed")


def test_recipe_with_virt_install_defines_a_vm(fake):
    """The recipe of docs/howto.md, without a libvirt daemon."""
    if not shutil.which("virt-install"):
        pytest.skip("virt-install is not there")
    with open(os.path.join(ROOT, "docs/howto.md"), encoding="utf-8") as page:
        commands = re.search(r"## Define a VM by virt-install.*?^```sh\n(.*?)^```$", page.read(), re.M | re.S)[1]
    (fake.tmp / "debian.iso").write_bytes(bytes(2048))

    def run(text, ok=True):
        r = subprocess.run(["sh", "-ec", text], cwd=fake.tmp, env={**fake.env, "HOME": str(fake.tmp), "PATH": f"{BUILD}:{os.environ['PATH']}"},
                           capture_output=True, text=True, check=False, timeout=100)
        assert (r.returncode == 0) == ok, r
        return r.stderr
    run(commands)
    d = json.loads(fake.cairn("dumpjson", "web1").stdout)
    assert (d["memory"], d["vcpus"], d["boot"]["firmware"]) == ("2048M", 2, "bios")
    assert [(x["id"], x["path"], x["format"]) for x in d["disks"]] == [("vda", f"{fake.tmp}/web1.qcow2", "qcow2")]
    assert [x["type"] for x in d["interfaces"]] == ["user"]
    fake.cairn("undefine", "web1")
    run(commands.replace("--import", "--cdrom debian.iso").replace("--print-xml", "--print-xml 1"))
    d = json.loads(fake.cairn("dumpjson", "web1").stdout)
    assert [(x["device"], x["boot_order"]) for x in d["disks"]] == [("disk", 2), ("cdrom", 1)] and d["on_reboot"] == "destroy"
    fake.cairn("undefine", "web1")
    said = run(commands.replace("--xml ./@type=kvm", ""), ok=False)
    assert '"test" is for another hypervisor' in said and "--xml ./@type=kvm" in said


@pytest.mark.parametrize("options, keys", [
    (["--osinfo", "generic", "--disk", "path=@DISK@,bus=sata", "--network", "user", "--graphics", "none"],
     {"interfaces": "user", "disks": "raw"}),
    (["--os-variant", "linux2020", "--disk", "path=@DISK@,readonly=on", "--network", "none", "--watchdog", "i6300esb",
      "--cpu", "host-passthrough", "--sound", "none", "--tpm", "none", "--autostart"], {"watchdog": "i6300esb"}),
    (["--os-variant", "generic", "--disk", "none", "--network", "network=default,mac=52:54:00:01:02:03", "--vcpus",
      "4,sockets=2,cores=2,threads=1", "--memballoon", "none", "--console", "pty,target.type=virtio",
      "--events", "on_crash=preserve"], {"vcpus": 4, "on_crash": "preserve"})])
def test_choices_of_virt_install(kvm, daemon, options, keys):
    """All of them start; elements without effect produce a warning."""
    image = daemon.tmp / "disk.img"
    image.write_bytes(bytes(1 << 20))
    path = virt_install(daemon.tmp, *[o.replace("@DISK@", str(image)) for o in options])
    r = daemon.cairn("define", str(path))
    assert all(line.startswith("warning: ") for line in r.stderr.splitlines())
    d = json.loads(daemon.cairn("dumpjson", "installed").stdout)
    got = {"interfaces": d["interfaces"] and d["interfaces"][0]["type"], "disks": d["disks"] and d["disks"][0]["format"],
           "watchdog": d.get("watchdog", {}).get("model"), "vcpus": d["vcpus"], "on_crash": d["on_crash"]}
    assert keys.items() <= got.items()
    unplug(daemon, "installed")
    daemon.cairn("start", "installed")
    assert daemon.cairn("domstate", "installed").stdout in ("running\n", "idle\n")
    round_trip(daemon, "installed")


def test_every_key_survives_round_trip(fake):
    """Keys that have no libvirt element are stored in <metadata> and restored."""
    for name in ("a.qcow2", "b.qcow2", "data", "c.raw", "initrd"):
        (fake.tmp / name).write_bytes(bytes(4096))
    fake.define(
        "all", title="  the \"web\" <server> & it's", description="a line", memory="1028K", hugepages=True,
        vcpus=4, topology={"sockets": 1, "cores": 2, "threads": 2}, cpu="x86-64-v2,+aes,-popcnt", clock="localtime",
        boot={"kernel": "kernel", "initrd": "initrd", "cmdline": "console=ttyS0 x='y' \"z\" "},
        disks=[{"id": "root", "path": "a.qcow2", "format": "qcow2", "data_file": "data", "queues": 2,
                "queue_size": 512, "errors": "report", "boot_order": 2, "serial": "A & B",
                "backing": [{"path": "b.qcow2", "format": "qcow2"}]},
               {"id": "vda", "path": "c.raw", "format": "raw", "readonly": True, "errors": "ignore", "cache": "writeback"},
               {"device": "cdrom"}, {"device": "cdrom", "path": "c.raw", "format": "raw", "boot_order": 1},
               {"bus": "scsi", "path": "c.raw", "format": "raw", "readonly": True, "wwn": "5000c50015ea71aa", "logical_block_size": 4096,
                "physical_block_size": 4096, "discard": "ignore", "detect_zeroes": "unmap", "cache": "unsafe", "poll_max_ns": 0}],
        interfaces=[{"type": "network", "source": "default"},
                    {"id": "lan", "type": "bridge", "source": "br0", "link": "down", "boot_order": 7, "slot": 9}, {"type": "user"},
                    {"type": "user", "network": "10.9.0.0/24", "restrict": True, "forwards": [{"port": 2222, "to": 22}]},
                    {"type": "user", "host_loopback": True, "forwards": [
                        {"protocol": "udp", "address": "0.0.0.0", "port": 53, "to": 53, "guest": "10.0.2.20"}]}],
        console={"virtio": True}, guest_agent=True, rng=True, screen=True, tablet=True, debug_exit=True, assist="off",
        on_poweroff="preserve", on_reboot="destroy", on_crash="restart", shutdown_deadline=77)
    xml = round_trip(fake, "all")
    assert "<cairn:definition xmlns:cairn='urn:cairn:definition:1'>" in xml
    assert "<alias name='ua-root'/>" in xml and "<alias name='ua-lan'/>" in xml
    fake.define("balanced", memory="64M", balloon=True, balance={"cpu_shares": {"max": 4096}, "memory": {"min": "32M", "max": "64M"}})
    assert '"balance": {' in round_trip(fake, "balanced")
    fake.define("some", memory="64M", balloon=True, current_memory="48M", reclaim_on_pressure=True)
    some = round_trip(fake, "some")
    assert "<memballoon model='virtio'/>" in some
    assert re.search(r'<cairn:definition [^>]*>\{\s*"reclaim_on_pressure": true\s*\}</cairn:definition>', some)
    assert json.loads(fake.cairn("dumpjson", "some").stdout)["reclaim_on_pressure"]
    # Metadata adds keys; it does not override the elements.
    sly = fake.tmp / "sly.xml"
    sly.write_text(xml.replace('"debug_exit"', '"memory": "64M", "debug_exit"'))
    assert "its memory has no effect: an element already sets it" in fake.cairn("define", str(sly)).stderr
    assert json.loads(fake.cairn("dumpjson", "all").stdout)["memory"] == "1028K"
    sly.write_text(xml.replace('"debug_exit"', '"nonsense": 1, "debug_exit"'))
    assert '"nonsense" is not a key of a definition' in fake.cairn("define", str(sly), ok=2).stderr
    sly.write_text(xml.replace('"debug_exit"', 'debug_exit'))
    assert "/domain/metadata/cairn:definition: " in fake.cairn("define", str(sly), ok=2).stderr
    # Well-formed XML that is not supported is an invalid definition as well.
    sly.write_text("<domain type='test'><name>t</name><memory>1</memory></domain>")
    for verb in ("define", "validate"):
        assert '@type: "test" is for another hypervisor' in fake.cairn(verb, str(sly), ok=2).stderr


@pytest.mark.parametrize("boot, want", [
    ({"loader": "rom"}, "<loader type='rom'>"),
    ({"loader": "rom", "menu": True, "menu_timeout": 3000}, "<bootmenu enable='yes' timeout='3000'/>"),
])
def test_bios_survives_round_trip(fake, boot, want):
    (fake.tmp / "rom").write_bytes(bytes(1 << 17))
    fake.define("bios", boot={"firmware": "bios", **boot}, disks=[{"path": "rom", "format": "raw"}])
    xml = round_trip(fake, "bios")
    assert want in xml and "<bios useserial='yes'/>" in xml and "metadata" not in xml


@pytest.mark.parametrize("boot, want", [
    ({}, "<os firmware='efi'>"),
    ({"loader": "rom", "nvram_template": "vars"}, "<loader readonly='yes' type='pflash'>"),
])
def test_uefi_survives_round_trip(fake, boot, want):
    for name in ("rom", "vars"):
        (fake.tmp / name).write_bytes(bytes(1 << 17))
    fake.define("efi", memory="64M", boot={"firmware": "uefi", **boot}, disks=[{"path": "rom", "format": "raw"}])
    xml = round_trip(fake, "efi")
    assert want in xml and "metadata" not in xml and "useserial" not in xml
    assert ("<nvram template=" in xml) == bool(boot)


def test_sysinfo_survives_round_trip(fake):
    (fake.tmp / "rom").write_bytes(bytes(1 << 17))
    for sysinfo, want in (
            ({"serial": "S <1>", "product": "P", "oem_strings": ["one", "two & more"]},
             "<oemStrings><entry>one</entry><entry>two &amp; more</entry></oemStrings>"),
            ({"bios": {"vendor": "V", "date": "01/31/2026"}, "board": {"product": "B", "location": "L"}, "chassis": {"asset": "A"}},
             "<bios><entry name='vendor'>V</entry><entry name='date'>01/31/2026</entry></bios><baseBoard><entry name='product'>B</entry>"
             "<entry name='location'>L</entry></baseBoard><chassis><entry name='asset'>A</entry></chassis>"),
            ({"sku": "", "family": " f ", "version": "1", "oem_strings": ["one", " two"]}, "<cairn:definition ")):
        fake.define("bios", boot={"loader": "rom"}, disks=[{"path": "rom", "format": "raw"}], sysinfo=sysinfo)
        xml = round_trip(fake, "bios")
        assert want in re.sub(r">\s+<", "><", xml) and "<smbios mode='sysinfo'/>" in xml


SYSINFO = "<sysinfo type='smbios'><bios><entry name='vendor'>X</entry><entry name='release'>1.0</entry></bios><system>" \
    "<entry name='serial'>1</entry></system></sysinfo>"
READ_SYSINFO = {"serial": "1", "bios": {"vendor": "X"}}
RELEASE = "sysinfo/bios/entry[2]: has no effect: SMBIOS has no such text here"


@pytest.mark.parametrize("os_, sysinfo, warnings", [
    ("<os><type>hvm</type><smbios mode='sysinfo'/></os>", READ_SYSINFO, [RELEASE]),
    ("<os><type>hvm</type></os>", None, ["sysinfo: has no effect without type='smbios' and <os><smbios mode='sysinfo'/>"]),
    (OS.replace("</os>", "<smbios mode='sysinfo'/></os>"), READ_SYSINFO, [RELEASE]),
])
def test_sysinfo(os_, sysinfo, warnings):
    got = read(domain(SYSINFO, os_=os_))
    assert got["definition"].get("sysinfo") == sysinfo
    assert len(got["warnings"]) == len(warnings)
    assert all(any(w in g for g in got["warnings"]) for w in warnings)


@pytest.mark.parametrize("graphics, vnc, warning", [
    ("<graphics type='vnc' socket='/s'/>", {"path": "/s"}, None),
    ("<graphics type='vnc'><listen type='socket' socket='/t'/></graphics>", {"path": "/t"}, None),
    ("<graphics type='vnc' port='5901' autoport='no' listen='::1'/>", {"port": 5901, "address": "::1"}, None),
    ("<graphics type='vnc' port='5901'><listen type='address' address='10.0.0.1'/></graphics>", {"port": 5901, "address": "10.0.0.1"}, None),
    ("<graphics type='vnc'/>", {}, None),
    ("<graphics type='vnc' port='-1' autoport='yes'/>", {}, "a port needs a password"),
    ("<graphics type='vnc' passwd='secret'/>", {}, "vnc.password_file"),
    ("<graphics type='spice' port='5900' autoport='yes'><image compression='off'/></graphics>", {}, '"spice" becomes vnc on a Unix socket'),
    ("<graphics type='sdl'/>", None, "the only type is vnc"),
    ("<graphics type='vnc'/><graphics type='vnc'/>", {}, "at most one display"),
    ("<graphics type='spice'/><graphics type='vnc' socket='/s'/>", {"path": "/s"}, "at most one display"),
])
def test_graphics(graphics, vnc, warning):
    got = read(domain(devices="<video><model type='bochs'/></video>" + graphics))
    assert got["definition"].get("vnc") == vnc
    assert not got["warnings"] if not warning else warning in got["warnings"][0]


@pytest.mark.parametrize("devices, screen, tablet, warnings", [
    ("<video><model type='qxl' ram='65536' heads='1'/></video>", True, None, ['video/model/@type: "qxl" becomes bochs']),
    ("<graphics type='vnc'/>", True, None, []),
    ("<video/>", True, None, []),
    ("<video><model type='none'/></video>", None, None, []),
    ("<video/><input type='tablet' bus='usb'/><input type='mouse' bus='ps2'/>", True, True, ['input[1]/@bus: "usb" becomes virtio']),
    ("<controller type='usb' model='qemu-xhci' ports='15'/><controller type='scsi'/><controller type='scsi' model='auto'/>"
     "<emulator>/usr/bin/kvm</emulator>", None, None, []),
])
def test_what_makes_a_screen(devices, screen, tablet, warnings):
    got = read(domain(devices=devices))
    assert (got["definition"].get("screen"), got["definition"].get("tablet")) == (screen, tablet)
    assert len(got["warnings"]) == len(warnings)
    assert all(w in g for w, g in zip(warnings, got["warnings"]))


def test_vnc_goes_to_xml_and_back(fake):
    (fake.tmp / "secret").write_text("pw")
    fake.define("one", screen=True, vnc=True)
    assert f"<graphics type='vnc' socket='{fake.tmp}/one.vnc'/>" in round_trip(fake, "one")
    fake.define("two", screen=True, vnc={"port": 5905, "password_file": "secret"})
    assert "<graphics type='vnc' port='5905' autoport='no' listen='127.0.0.1'/>" in round_trip(fake, "two")


@pytest.mark.parametrize("os_, boot, warning", [
    ("<os><type>hvm</type></os>", {"firmware": "bios"}, None),
    ("<os firmware='bios'><type>hvm</type><bootmenu enable='no'/></os>", {"firmware": "bios"}, None),
    ("<os firmware='efi'><type>hvm</type><loader secure='no'/><firmware><feature enabled='no' name='secure-boot'/></firmware></os>",
     {"firmware": "uefi"}, None),
    ("<os><type>hvm</type><loader readonly='yes' type='pflash'>/OVMF_CODE_4M.fd</loader></os>",
     {"firmware": "uefi", "loader": "/OVMF_CODE_4M.fd", "nvram_template": "/OVMF_VARS_4M.fd"}, None),
    ("<os><type>hvm</type><loader readonly='yes' type='pflash'>/code</loader><nvram>/vm_VARS.fd</nvram></os>",
     {"firmware": "uefi", "loader": "/code", "nvram_template": "/vm_VARS.fd"}, None),
    ("<os firmware='efi'><type>hvm</type><nvram template='/t'>/vm_VARS.fd</nvram></os>",
     {"firmware": "uefi", "nvram_template": "/t"}, "os/nvram: has no effect (No such file or directory). The variables, among them the boot entries,"),
    ("<os firmware='efi'><type>hvm</type><nvram template='/t'>/dev/null</nvram></os>",  # libvirt takes the VM's own file if it is there
     {"firmware": "uefi", "nvram_template": "/dev/null"}, "has no effect: the variables begin with the file /dev/null, which has to stay"),
    ("<os><type>hvm</type><nvram>/vm_VARS.fd</nvram></os>", {"firmware": "bios"}, "os/nvram: has no effect: only UEFI has variables"),
    ("<os><type>hvm</type><loader readonly='yes'>/r</loader><bootmenu enable='yes'/></os>",
     {"firmware": "bios", "loader": "/r", "menu": True}, None),
    ("<os><type>hvm</type><smbios mode='host'/></os>", {"firmware": "bios"}, "os/smbios/@mode: \"host\" has no effect"),
    ("<os firmware='efi'><type>hvm</type><kernel>/k</kernel></os>", {"kernel": "/k"}, "os/@firmware: has no effect"),
    ("<os><type>hvm</type><loader type='rom'>/r</loader><kernel>/k</kernel></os>", {"kernel": "/k"},
     "os/loader: has no effect: Cairn boots the kernel directly"),
])
def test_firmware(os_, boot, warning):
    got = read(domain(os_=os_))
    assert got["definition"]["boot"] == boot
    assert not got["warnings"] if not warning else warning in got["warnings"][0]


def test_simple_definition_needs_no_metadata(fake):
    fake.define("plain", disks=[{"path": "kernel", "format": "raw"}])
    xml = round_trip(fake, "plain")
    assert "metadata" not in xml and "alias" not in xml


def test_bad_input_changes_nothing(fake):
    """Each error is one sentence with the line of the XML, whichever program finds the fault."""
    fake.define("there")
    before = fake.cairn("dumpjson", "there").stdout
    kernel = fake.tmp / "kernel"
    os_ = f"<os><type>hvm</type><kernel>{kernel}</kernel></os>"
    good = f"<domain type='kvm'>\n<name>there</name>\n{MEMORY}\n{os_}\n</domain>"
    cases = [
        (good[:-3], "not well-formed XML"),
        ("<!DOCTYPE domain []>" + good, "a DOCTYPE is not accepted"),
        (good.replace("'MiB'", "'furlong'"), 'line 3: /domain/memory/@unit: "furlong" is not a unit'),
        (good.replace(">there<", ">../there<"), 'line 2: name: must not have a "/"'),
        (good.replace("32", "32000000"), "line 3: memory: "),
        (good.replace(f"{kernel}", "/nowhere/k"), "line 4: boot.kernel: /nowhere/k: No such file"),
        (good.replace("</os>", "</os><vcpu>65</vcpu>"), "line 4: vcpus: 65 is out of range"),
        (good.replace("</os>", "</os><devices>\n<disk type='file'><driver type='raw'/><source file='/no/d'/>"
                      "<target dev='vda'/></disk></devices>"), "line 5: disks[0].path: /no/d: No such file"),
        (good.replace("</name>", "</name><uuid>x</uuid>"), 'line 2: uuid: "x" is not a UUID'),
        ("\ufeff" + good.replace("'MiB'", "''"), 'line 3: /domain/memory/@unit: "" is not a unit'),
    ]
    path = fake.tmp / "bad.xml"
    for text, why in cases:
        path.write_text(text)
        r = fake.cairn("define", str(path), ok=None)
        assert r.returncode in (1, 2, 3), r.stderr
        lines = [x for x in r.stderr.splitlines() if not x.startswith("warning: ")]
        assert lines[0] == f"error: Failed to define domain from {path}" and len(lines) == 2
        assert why in lines[1], r.stderr
    path.write_bytes(b"<" + b"a" * 100_000_000)
    assert "is larger than 1048576 bytes" in fake.cairn("define", str(path), ok=2).stderr
    path.unlink()
    assert fake.cairn("list", "--all", "--name").stdout == "there\n"
    assert fake.cairn("dumpjson", "there").stdout == before


def test_validate_and_run_accept_xml(kvm, tmp_path):
    """Neither verb needs a daemon."""
    file, _ = place(tmp_path, CORPUS[0], guestlib.bare("first_byte"))
    text = open(file).read()
    with open(file, "w") as f:  # some hosts cannot hide features
        f.write(re.sub("<feature policy=.*/>", "", text))
    cairn = os.path.join(BUILD, "cairn")
    r = subprocess.run([cairn, "validate", file], capture_output=True, text=True)
    assert r.returncode == 0 and r.stdout == f"{file} validates\n"
    assert "warning: line " in r.stderr
    p = subprocess.Popen([cairn, "run", file], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL)
    assert p.stdout.read(1) == b"A"
    p.kill()
    p.wait()


def test_missing_helper_is_reported(fake, tmp_path):
    """A message when the helper cannot be started or is killed."""
    lone = tmp_path / "cairn"
    shutil.copy(os.path.join(BUILD, "cairn"), lone)
    r = subprocess.run([lone, "validate", CORPUS[0]], capture_output=True, text=True)
    assert r.returncode == 3 and "cairn-xml is neither in " in r.stderr
    broken = tmp_path / "cairn-xml"
    broken.write_text("#!/bin/sh\nkill -KILL $$\n")
    broken.chmod(0o755)
    r = subprocess.run([lone, "validate", CORPUS[0]], capture_output=True, text=True)
    assert r.returncode == 2 and "cairn-xml was killed by signal 9" in r.stderr
    broken.write_text("#!/bin/sh\necho nonsense\n")
    r = subprocess.run([lone, "validate", CORPUS[0]], capture_output=True, text=True)
    assert r.returncode != 0 and "the answer of cairn-xml" in r.stderr


def test_documented_table_matches_program():
    page, wanted = xml_doc.compare(BUILD)
    assert page.splitlines() == wanted.splitlines(), "run: tests/xml_doc.py BUILD --write"


def test_documented_definition_survives_round_trip():
    """Every key of the example in docs/definition.md survives the way to XML and back, whichever keys are added."""
    with open(os.path.join(ROOT, "docs", "definition.md")) as f:
        examples = [json.loads(e) for e in re.findall(r"```json\n(.*?)```", f.read(), re.S)]
    whole = json.dumps(max(examples, key=len))
    whole = json.loads(re.sub(r'"(path|kernel|initrd|data_file)": "([^/"][^"]*)"', r'"\1": "/\2"', whole))
    whole["restart"]["tries"] = 7
    r = helper("to-xml", json.dumps({"definition": whole, "id": "7"}).encode())
    assert r.returncode == 0, r.stdout
    back = read(json.loads(r.stdout)["xml"])["definition"]
    assert back["restart"] == {"tries": 7}
    for key in ("name", "uuid", "topology", "watchdog", "idle", "on_crash", "console"):
        assert back[key] == whole[key]
