"""Pools: folders for images that have a name, and volumes in them. Tables and sentences are virsh's."""

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import time
import xml.etree.ElementTree as ET

import pytest

from conftest import BUILD, until
from daemonlib import NOBODY, shared  # noqa: F401
from test_pool_volumes import Held
from test_slow_disk import PRELOAD

MIB = 1 << 20


@pytest.fixture
def pool(fake):
    folder = fake.tmp / "images"
    folder.mkdir()
    assert fake.cairn("pool-define-as", "images", "dir", "--target", str(folder)).stdout == "Pool images defined\n"
    return folder


def info(d, *args):
    return json.loads(d.cairn("vol-info", *args, "--format", "json").stdout)


def img_info(path):
    return json.loads(subprocess.check_output([os.path.join(BUILD, "cairn-img"), "info", "--output", "json", str(path)]))


def test_pools_are_listed_with_their_space_and_outlive_the_daemon(fake, pool):
    assert fake.cairn("pool-list").stdout.splitlines()[::2] == [" Name     State    Autostart", " images   active   yes"]
    assert re.search(r"^ images   active   yes         yes          [\d.]+ [KMGT]iB ", fake.cairn("pool-list", "--details").stdout, re.M)
    fake.cairn("vol-create-as", "images", "a.qcow2", "10M")
    fake.stop()
    fake.start()
    said = fake.cairn("pool-info", "images").stdout
    assert said.startswith("Name:           images\nState:          running\nPersistent:     yes\nAutostart:      yes\n")
    assert re.search(r"^Capacity:       [\d.]+ [KMGT]iB\nAllocation:     [\d.]+ [KMGT]iB\nAvailable:      [\d.]+ [KMGT]iB\nVolumes:        1$", said, re.M)
    shown = json.loads(fake.cairn("pool-info", "images", "--format", "json").stdout)
    s = os.statvfs(pool)
    assert shown["capacity"] == s.f_blocks * s.f_frsize and shown["volume-capacity"] == 10 * MIB
    assert f"\nCapacity:       {s.f_blocks * s.f_frsize}\n" in fake.cairn("pool-info", "images", "--bytes").stdout
    assert f"\nCapacity:       {10 * MIB} bytes\n" in fake.cairn("vol-info", "a.qcow2", "--pool", "images", "--bytes").stdout
    assert fake.cairn("pool-undefine", "images").stdout == "Pool images has been undefined\n"
    assert (pool / "a.qcow2").exists() and fake.cairn("pool-list", "--name").stdout == ""


def test_filters_of_virsh_choose_pools(fake, pool):
    def listed(*filters):
        return fake.cairn("pool-list", "--name", *filters).stdout.split()
    gone = fake.tmp / "gone"
    gone.mkdir()
    fake.cairn("pool-define-as", "gone", "dir", "--target", str(gone))
    gone.rmdir()
    for filters in ([], ["--all"], ["--persistent"], ["--autostart"], ["--type", "fs,dir"], ["--inactive", "--all"], ["--transient", "--persistent"]):
        assert sorted(listed(*filters)) == ["gone", "images"], filters
    assert listed("--inactive") == ["gone"]
    for filters in (["--transient"], ["--no-autostart"], ["--type", "logical"]):
        assert listed(*filters) == [], filters


def test_change_that_is_not_stored_has_no_effect(fake, pool):
    fails = fake.tmp / "fails"
    fake.stop()
    fake.env |= {"LD_PRELOAD": PRELOAD, "SLOW_SYNC_OF": "/pools.json", "SLOW_SYNC_FAIL": str(errno.EIO), "SLOW_SYNC_FAIL_IF": str(fails)}
    fake.start()
    fails.touch()
    for args in (["pool-undefine", "images"], ["pool-define-as", "other", "dir", "--target", str(fake.tmp)]):
        assert "pools.json: Input/output error" in fake.cairn(*args, ok=False).stderr
    assert fake.cairn("pool-list", "--name").stdout.split() == ["images"]
    fails.unlink()
    fake.cairn("pool-define-as", "other", "dir", "--target", str(fake.tmp))
    fake.stop()
    fake.start()
    assert fake.cairn("pool-list", "--name").stdout.split() == ["images", "other"]


def test_volumes_are_created_cloned_resized_and_deleted(fake, pool):
    assert fake.cairn("vol-create-as", "images", "a.qcow2", "10M").stdout == "Vol a.qcow2 created\n"
    fake.cairn("vol-create-as", "images", "b.raw", "1M", "--format", "raw", "--allocation", "1M")
    fake.cairn("vol-create-as", "images", "c.qcow2", "12M", "--backing-vol", "a.qcow2")
    (pool / ".hidden").touch()
    (pool / "folder").mkdir()
    os.mkfifo(pool / "fifo")
    os.symlink("a.qcow2", pool / "link")
    table = fake.cairn("vol-list", "images").stdout
    assert table.splitlines()[0].split() == ["Name", "Path"]
    assert [x.split() for x in table.splitlines()[2:-1]] == [[n, f"{pool}/{n}"] for n in ("a.qcow2", "b.raw", "c.qcow2")]
    assert re.search(r"a.qcow2 +file   10.00 MiB  ", fake.cairn("vol-list", "images", "--details").stdout)
    assert fake.cairn("vol-info", "b.raw", "--pool", "images").stdout == (
        "Name:           b.raw\nType:           file\nFormat:         raw\nCapacity:       1.00 MiB\nAllocation:     1.00 MiB\n\n")
    assert info(fake, "c.qcow2", "--pool", "images")["backing"] == f"{pool}/a.qcow2" and info(fake, f"{pool}/c.qcow2")["capacity"] == 12 * MIB
    assert fake.cairn("vol-path", "a.qcow2", "--pool", "images").stdout == f"{pool}/a.qcow2\n"
    (pool / "b.raw").write_bytes(b"data" * (MIB // 4))
    assert fake.cairn("vol-clone", "b.raw", "d.raw", "--pool", "images").stdout == "Vol d.raw cloned from b.raw\n"
    assert (pool / "d.raw").read_bytes() == (pool / "b.raw").read_bytes()
    assert fake.cairn("vol-resize", "a.qcow2", "20M", "--pool", "images").stdout == "Size of volume 'a.qcow2' successfully changed to 20M\n"
    fake.cairn("vol-resize", "a.qcow2", "4M", "--pool", "images", "--delta")
    assert img_info(pool / "a.qcow2")["virtual-size"] == 24 * MIB
    fake.cairn("vol-resize", "d.raw", "512K", "--pool", "images", "--shrink")
    assert (pool / "d.raw").stat().st_size == 512 << 10
    assert fake.cairn("vol-delete", "c.qcow2", "--pool", "images").stdout == "Vol c.qcow2 deleted\n"
    assert not (pool / "c.qcow2").exists()


def test_content_of_volumes_is_downloaded_and_uploaded(fake, pool):
    fake.cairn("vol-create-as", "images", "a", "4M", "--format", "raw")
    copy, data = fake.tmp / "copy", b"data" * 25000
    copy.write_bytes(data)
    options = "--pool", "images"
    assert fake.cairn("vol-upload", "a", str(copy), *options, "--offset", "1M").stdout == ""
    whole = bytes(MIB) + data + bytes(3 * MIB - len(data))
    assert (pool / "a").read_bytes() == whole
    out = fake.tmp / "out"
    assert fake.cairn("vol-download", "a", str(out), *options).stdout == "" and out.read_bytes() == whole
    assert out.stat().st_blocks * 512 >= 4 * MIB
    fake.cairn("vol-download", "a", str(out), *options, "--sparse")  # over a longer file, whose content goes
    assert out.read_bytes() == whole and out.stat().st_blocks * 512 < MIB
    fake.cairn("vol-download", f"{pool}/a", str(out), "--offset", str(MIB + 4), "--length", "8")
    assert out.read_bytes() == b"datadata"
    # Holes make holes: no older data shows there.
    (pool / "a").write_bytes(b"x" * (4 * MIB))
    with open(copy, "wb") as f:
        f.truncate(5 * MIB)
        f.write(b"begin")
    fake.cairn("vol-upload", "a", str(copy), *options, "--sparse")
    assert (pool / "a").read_bytes() == b"begin" + bytes(5 * MIB - 5) and (pool / "a").stat().st_blocks * 512 < MIB
    fake.cairn("vol-upload", "a", str(copy), *options, "--length", "2", "--offset", "9M")
    assert (pool / "a").stat().st_size == 9 * MIB + 2
    with subprocess.Popen([os.path.join(BUILD, "cairn"), "vol-upload", "a", "/dev/stdin", *options, "--sparse"], env=fake.env, stdin=subprocess.PIPE) as p:
        p.communicate(b"pipe")
        assert p.returncode == 0
    assert (pool / "a").read_bytes()[:5] == b"pipen"


def test_content_of_volumes_that_others_need_stays(fake, pool):
    fake.cairn("vol-create-as", "images", "a", "1M")
    options = "a", str(fake.tmp / "file"), "--pool", "images"
    (fake.tmp / "file").write_bytes(b"file")
    before = (pool / "a").read_bytes()
    refused(fake, f"{pool}/a is the volume itself", "vol-upload", "a", str(pool / "a"), *options[2:])
    refused(fake, f"{pool}/a is the volume itself", "vol-download", "a", str(pool / "a"), *options[2:])
    refused(fake, "is behind the end of the volume", "vol-download", *options, "--offset", "1G")
    refused(fake, '"x" is no size', "vol-download", *options, "--length", "x")
    refused(fake, "nowhere/x: No such file or directory", "vol-download", "a", "/nowhere/x", *options[2:])
    assert not os.path.exists("/nowhere") and (fake.tmp / "file").read_bytes() == b"file"
    with open(pool / "a", "rb") as f:  # as a VM that reads it: nobody else may write
        fcntl.fcntl(f, 37, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 201, 1, 0))  # F_OFD_SETLK
        refused(fake, "a is in use by another process; stop the VM or tool that has it open", "vol-upload", *options)
    fake.cairn("vol-create-as", "images", "top", "1M", "--backing-vol", "a")
    refused(fake, f"{pool}/a is the backing file of top", "vol-upload", *options)
    fake.define("web1", disks=[{"path": str(pool / "top"), "format": "qcow2", "backing": [{"path": str(pool / "a"), "format": "qcow2"}]}])
    refused(fake, f"{pool}/a is a backing file of VM 'web1', so it must not change", "vol-upload", *options)
    assert (pool / "a").read_bytes() == before
    fake.cairn("vol-download", *options)
    assert (fake.tmp / "file").read_bytes() == before


def test_volumes_and_snapshots_are_printed_as_libvirts_xml(fake, pool):
    fake.cairn("vol-create-as", "images", "a.qcow2", "10M")
    fake.cairn("vol-create-as", "images", "b <c>", "12M", "--backing-vol", "a.qcow2")
    xml = ET.fromstring(fake.cairn("vol-dumpxml", "b <c>", "--pool", "images").stdout)
    assert xml.tag == "volume" and xml.get("type") == "file" and xml.findtext("name") == "b <c>"
    assert xml.findtext("key") == xml.findtext("target/path") == f"{pool}/b <c>" and xml.find("target/format").get("type") == "qcow2"
    assert xml.findtext("capacity") == str(12 * MIB) and xml.find("allocation").get("unit") == "bytes"
    assert xml.findtext("backingStore/path") == f"{pool}/a.qcow2"
    refused(fake, "pool 'images' has no volume 'd'", "vol-dumpxml", "d", "--pool", "images")
    fake.define("web1", disks=[{"path": str(pool / "a.qcow2"), "format": "qcow2"}])
    for name in "one", "two":
        fake.cairn("snapshot-create-as", "web1", name)
    xml = ET.fromstring(fake.cairn("snapshot-dumpxml", "web1", "two").stdout)
    assert xml.tag == "domainsnapshot" and xml.findtext("name") == "two" and xml.findtext("parent/name") == "one"
    assert xml.findtext("state") == "shutoff" and xml.find("memory").get("snapshot") == "no"
    assert int(xml.findtext("creationTime")) == json.loads(fake.cairn("snapshot-info", "web1", "two", "--format", "json").stdout)["time"] // 10**9
    assert ET.fromstring(fake.cairn("snapshot-dumpxml", "web1", "one").stdout).find("parent") is None


def refused(d, sentence, *args):
    r = d.cairn(*args, ok=False)
    assert sentence in r.stderr and not r.stdout, r.stderr


def test_volume_in_use_is_not_deleted(fake, pool):
    for name in ("base", "top", "other"):
        fake.cairn("vol-create-as", "images", name, "1M", *(["--backing-vol", "base"] if name == "top" else []))
    refused(fake, f"{pool}/base is the backing file of top; delete that first", "vol-delete", "base", "--pool", "images")
    fake.define("web1", disks=[{"path": str(pool / "other"), "format": "qcow2"}])
    refused(fake, f"{pool}/other is an image of VM 'web1'", "vol-delete", "other", "--pool", "images")
    fake.cairn("undefine", "web1")
    fake.cairn("vol-delete", "other", "--pool", "images")


def test_volume_that_vms_use_has_their_format(fake, pool):
    """A guest may write a qcow2 header into its raw disk, with any file of the host as its backing file."""
    fake.cairn("vol-create-as", "images", "secret", "1M", "--format", "raw")
    fake.cairn("vol-create-as", "images", "disk", "1M", "--backing-vol", "secret")
    assert info(fake, "disk", "--pool", "images") | {"allocation": 0} == {
        "name": "disk", "path": f"{pool}/disk", "type": "file", "format": "qcow2", "capacity": MIB, "allocation": 0, "backing": f"{pool}/secret", "vms": []}
    size = (pool / "disk").stat().st_size
    fake.define("web1", disks=[{"path": str(pool / "disk"), "format": "raw"}])
    shown = info(fake, "disk", "--pool", "images")
    assert shown["format"] == "raw" and shown["capacity"] == size and shown["vms"] == ["web1"] and "backing" not in shown
    fake.cairn("vol-create-as", "images", "top", "1M", "--backing-vol", "disk")
    fake.cairn("vol-create-as", "images", "forced", "1M", "--backing-vol", f"{pool}/disk", "--backing-vol-format", "qcow2")
    assert [img_info(pool / n)["backing-filename-format"] for n in ("top", "forced")] == ["raw", "qcow2"]
    refused(fake, f"{pool}/disk is an image of VM 'web1'; detach the disk or undefine the VM first", "vol-delete", f"{pool}/disk")


@pytest.mark.parametrize("make", [os.link, os.symlink])
def test_volume_that_vms_use_by_another_path_has_their_format(fake, pool, make):
    fake.cairn("vol-create-as", "images", "secret", "1M", "--format", "raw")
    fake.cairn("vol-create-as", "images", "disk", "1M", "--backing-vol", "secret")
    make(pool / "disk", fake.tmp / "other")
    fake.define("web1", disks=[{"path": str(fake.tmp / "other"), "format": "raw"}])
    fake.cairn("vol-clone", "disk", "copy", "--pool", "images")
    assert (pool / "copy").read_bytes() == (pool / "disk").read_bytes()
    fake.cairn("vol-create-as", "images", "top", "1M", "--backing-vol", "disk")
    assert img_info(pool / "top")["backing-filename-format"] == "raw"
    refused(fake, "the data at the end would be lost; give --shrink", "vol-resize", "disk", "1K", "--pool", "images")
    fake.cairn("vol-resize", "disk", "2M", "--pool", "images")
    assert (pool / "disk").stat().st_size == 2 * MIB
    refused(fake, f"{pool}/disk is an image of VM 'web1'", "vol-delete", "disk", "--pool", "images")


def test_space_of_volume_is_reserved(fake, pool):
    fake.cairn("vol-create-as", "images", "thin", "8M")
    fake.cairn("vol-create-as", "images", "tables", "8M", "--prealloc-metadata", "--allocation", "1M")
    fake.cairn("vol-create-as", "images", "full", "8M", "--allocation", "8M")
    maps = [json.loads(subprocess.check_output([os.path.join(BUILD, "cairn-img"), "map", "--output", "json", pool / n])) for n in ("thin", "tables", "full")]
    assert [sum(x["length"] for x in m if x["present"]) for m in maps] == [0, 8 * MIB, 8 * MIB]
    assert [(pool / n).stat().st_blocks * 512 >= 8 * MIB for n in ("tables", "full")] == [False, True]
    refused(fake, "is no size such as 20G", "vol-create-as", "images", "b", "8M", "--allocation", "some")


def test_path_names_a_volume_of_the_pool_with_its_folder(fake, pool):
    fake.cairn("vol-create-as", "images", "a", "1M")
    os.symlink(pool, fake.tmp / "other")
    assert fake.cairn("vol-path", f"{fake.tmp}/other/a").stdout == f"{pool}/a\n"
    fake.cairn("vol-resize", f"{fake.tmp}/other/a", "1M", "--delta")
    fake.cairn("vol-clone", f"{pool}/a", "b")
    assert info(fake, f"{pool}/b")["capacity"] == 2 * MIB
    fake.cairn("vol-resize", f"{pool}/b", "512K", "--delta", "--shrink")
    assert info(fake, f"{pool}/b")["capacity"] == 3 * MIB // 2
    (fake.tmp / "outside").write_bytes(bytes(MIB))
    for args in (["vol-info"], ["vol-path"], ["vol-delete"], ["vol-resize", "2M"], ["vol-clone", "c"]):
        said = fake.cairn(args[0], str(fake.tmp / "outside"), *args[1:], ok=3).stderr
        assert f"{fake.tmp}/outside is in the folder of no pool; for other files, use cairn-img. Next: cairn pool-list" in said
    assert (fake.tmp / "outside").stat().st_size == MIB
    refused(fake, "is no name of a volume", "vol-delete", f"{pool}/")


def test_volume_of_a_large_pool_is_found(fake, pool):
    for i in range(200):
        (pool / f"é-{i:03}").touch()
    (pool / "éz").touch()
    for name in ("é-000", "é-199", "éz"):
        assert fake.cairn("vol-path", name, "--pool", "images").stdout == f"{pool}/{name}\n"
    for name in ("é-1990", "é", "z", ""):
        assert f"pool 'images' has no volume '{name}', that is, no regular file of this name" in fake.cairn("vol-path", name, "--pool", "images", ok=3).stderr


def test_symbolic_link_is_no_volume(fake, pool):
    fake.cairn("vol-create-as", "images", "a", "1M")
    os.symlink("a", pool / "link")
    refused(fake, "pool 'images' has no volume 'link'", "vol-info", "link", "--pool", "images")
    for args in (["vol-clone", "link", "b"], ["vol-delete", "link"], ["vol-resize", "link", "2M"]):
        refused(fake, "volume link is no regular file", *args, "--pool", "images")
    refused(fake, f"volume {pool}/link is no regular file", "vol-create-as", "images", "b", "1M", "--backing-vol", "link")
    assert sorted(p.name for p in pool.iterdir()) == ["a", "link"] and img_info(pool / "a")["virtual-size"] == MIB
    # A path is the user's own choice.
    fake.cairn("vol-create-as", "images", "b", "1M", "--backing-vol", f"{pool}/link")
    assert info(fake, f"{pool}/b")["backing"] == f"{pool}/link"


def test_names_with_control_characters_are_refused(fake, pool):
    fake.cairn("vol-create-as", "images", "a", "1M")
    for name in ("red\x1b[31m", "line\nbreak", "c1\u009b"):
        (pool / name).touch()
        for args in (["vol-create-as", "images", name, "1M"], ["vol-clone", "a", name, "--pool", "images"], ["vol-delete", name, "--pool", "images"],
                     ["vol-resize", name, "2M", "--pool", "images"], ["vol-create-as", "images", "b", "1M", "--backing-vol", name]):
            r = fake.cairn(*args, ok=False)
            assert "is no name of a volume" in r.stderr, r.stderr
        refused(fake, "control characters", "vol-create-as", "images", "b", "1M", "--backing-vol", f"{pool}/{name}")
    assert [v["name"] for v in json.loads(fake.cairn("vol-list", "images", "--format", "json").stdout)] == ["a"]
    assert len(list(pool.iterdir())) == 4


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act for another user")
def test_verbs_need_a_role_and_have_the_users_rights(shared):  # noqa: F811
    folder = shared.tmp / "images"
    folder.mkdir(mode=0o755)
    (folder / "roots").write_bytes(bytes(MIB))
    (folder / "roots").chmod(0o600)
    for program in ("cairn", "cairnd", "cairn-img"):  # the build folder may be closed to others
        shutil.copy(os.path.join(BUILD, program), shared.tmp)
    shared.stop()
    options = shared.command()[1:]
    shared.command = lambda: [str(shared.tmp / "cairnd"), *options]  # finds cairn-img beside it
    shared.start()
    shared.cairn("pool-define-as", "images", "dir", "--target", str(folder))

    def ask(*args, ok=0):
        r = subprocess.run([shared.tmp / "cairn", *args], env=shared.env, cwd="/", user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, text=True)
        assert r.returncode == ok, r.stderr
        return r.stdout or r.stderr
    os.chmod(shared.socket, 0o666)
    shared.cairn("grant", "operator", "mine", "--user", "nobody")
    assert "query-pools requires the role viewer, and you have no role for all VMs; an admin can" in ask("vol-list", "images", ok=5)
    changes = ["volume-create", ("vol-create-as", "images", "a", "1M")], ["volume-clone", ("vol-clone", "roots", "a", "--pool", "images")], \
        ["volume-resize", ("vol-resize", "roots", "2M", "--pool", "images")], ["volume-open", ("vol-download", "roots", "/nowhere/a", "--pool", "images")], \
        ["volume-open", ("vol-upload", "roots", "/etc/passwd", "--pool", "images")], ["volume-delete", ("vol-delete", "roots", "--pool", "images")]
    shared.cairn("grant", "viewer", "--user", "nobody")
    assert json.loads(ask("vol-list", "images", "--format", "json")) == [
        {"name": "roots", "path": f"{folder}/roots", "type": "file", "format": None, "capacity": None, "allocation": None, "vms": []}]
    assert ask("vol-list", "images", "--details").splitlines()[2].split() == ["roots", f"{folder}/roots", "file", "-", "-"]
    assert ask("vol-list", "images", "--format", "csv").splitlines()[0].startswith("name,path,type,format,capacity,allocation")
    for command, args in changes:
        assert f"{command} requires the role operator, and you have the role viewer" in ask(*args, ok=5)
    shared.cairn("grant", "operator", "--user", "nobody")
    for _, args in changes:
        assert "Permission denied (for user 65534, who sent the command)" in ask(*args, ok=5), args
    assert "Permission denied" in ask("vol-resize", "roots", "2M", "--pool", "images", "--delta", ok=5)
    assert os.listdir(folder) == ["roots"] and (folder / "roots").stat().st_size == MIB
    os.chown(folder, NOBODY, NOBODY)
    assert ask("vol-create-as", "images", "a", "1M") == "Vol a created\n"
    assert ask("vol-clone", f"{folder}/a", "b") == "Vol b cloned from " + f"{folder}/a\n"
    assert ask("vol-delete", "a", "--pool", "images") == "Vol a deleted\n"
    made = (folder / "b").stat()
    assert (made.st_uid, made.st_gid) == (NOBODY, NOBODY) and sorted(os.listdir(folder)) == ["b", "roots"]


def test_bad_requests_get_a_sentence_and_lose_nothing(fake, pool):
    fake.cairn("vol-create-as", "images", "a", "1M")
    before = (pool / "a").read_bytes()
    refused(fake, "there is no pool 'nope'. Next: cairn pool-list", "vol-list", "nope")
    refused(fake, "No such file or directory", "pool-define-as", "x", "dir", "--target", str(fake.tmp / "nope"))
    refused(fake, "is no folder", "pool-define-as", "x", "dir", "--target", str(pool / "a"))
    refused(fake, "a pool has the type dir", "pool-define-as", "x", "logical", "--target", str(pool))
    refused(fake, f"{pool} is the folder of pool 'images'", "pool-define-as", "x", "dir", "--target", str(pool))
    refused(fake, "pool 'images' exists already", "pool-define-as", "images", "dir", "--target", str(fake.tmp))
    refused(fake, "is no name of a pool", "pool-define-as", "<script>", "dir", "--target", str(fake.tmp))
    refused(fake, "File exists", "vol-create-as", "images", "a", "2M")
    refused(fake, "is no name of a volume", "vol-create-as", "images", "../b", "2M")
    refused(fake, "is no size such as 20G", "vol-create-as", "images", "b", "much")
    refused(fake, "a raw image has no backing file", "vol-create-as", "images", "b", "1M", "--format", "raw", "--backing-vol", "a")
    refused(fake, "No such file", "vol-create-as", "images", "b", "1M", "--backing-vol", "nope")
    refused(fake, "give --shrink to allow that", "vol-resize", "a", "512K", "--pool", "images")
    refused(fake, "give its pool by --pool", "vol-info", "a")
    refused(fake, "File exists", "vol-clone", "a", "a", "--pool", "images")
    assert (pool / "a").read_bytes() == before and sorted(p.name for p in pool.iterdir()) == ["a"]
    os.rename(pool, fake.tmp / "moved")
    for args in (["vol-list", "images"], ["vol-info", "a", "--pool", "images"], ["vol-path", "a", "--pool", "images"], ["vol-create-as", "images", "b", "1M"],
                 ["vol-clone", "a", "b", "--pool", "images"], ["vol-resize", "a", "2M", "--pool", "images"], ["vol-delete", f"{pool}/a"]):
        refused(fake, f"folder {pool}: No such file or directory", *args)
    assert " images   inactive   yes" in fake.cairn("pool-list").stdout and "State:          inactive\n" in fake.cairn("pool-info", "images").stdout
    assert json.loads(fake.cairn("pool-list", "--format", "json").stdout)[0]["state"] == "inactive"


def query(d):
    q = d.qmp()
    pools = q.run("query-pools")["pools"]
    q.close()
    return pools


def test_growth_and_days_left_come_from_the_history(fake, pool):
    until(lambda: "used" in query(fake)[0])
    now, s = int(time.time()), os.statvfs(pool)
    total, used = s.f_blocks * s.f_frsize, (s.f_blocks - s.f_bavail) * s.f_frsize
    assert query(fake)[0]["total"] == total and "growth" not in query(fake)[0]
    if used < (total - used) // 2:
        pytest.skip("the file system is too empty for a history of growth")
    fake.stop()
    # Each hour of the last two days, a hundredth of what is free now was added.
    a_day = 24 * (total - used) // 100
    points = [[now - 3600 * h, used - a_day * h // 24, total] for h in range(48, 0, -1) if used > a_day * h // 24]
    (fake.state / "pool-space.json").write_text(json.dumps({"version": 1, "pools": [
        {"name": "images", "target": str(pool), "low": False, "points": points},
        {"name": "gone", "target": "/gone", "low": False, "points": []}]}))
    fake.start()
    until(lambda: query(fake)[0].get("low"))
    shown = query(fake)[0]
    assert shown["growth"] == pytest.approx(a_day, rel=0.2) and 3 <= shown["days-left"] <= 5
    said = fake.cairn("pool-info", "images").stdout
    assert re.search(r"^Growth:         [\d.]+ [KMGT]iB a day\nFull in:        [345] days \(low\)$", said, re.M), said
    q = fake.qmp()
    event, = [e["data"] for e in q.run("query-events")["events"] if e["event"] == "POOL_SPACE"]
    q.close()
    assert event["pool"] == "images" and event["state"] == "low" and event["total"] == total
    # It is stored, and told once.
    fake.stop()
    assert [p["low"] for p in json.loads((fake.state / "pool-space.json").read_text())["pools"]] == [True]


def test_copy_is_as_private_as_a_new_volume(fake, pool):
    """By the daemon's umask, all users could read the copy."""
    fake.cairn("vol-create-as", "images", "a.qcow2", "1M")
    for name, mode in ("private", 0o600), ("shared", 0o644):
        (pool / "a.qcow2").chmod(mode)
        fake.cairn("vol-clone", "a.qcow2", name, "--pool", "images")
        assert (pool / name).stat().st_mode & 0o777 == 0o600


def test_clone_shows_a_bar_and_ends_with_ctrl_c(fake, pool):
    (pool / "a").write_bytes(b"a" * MIB)
    held = Held(fake)
    job = fake.cairn("vol-clone", "a", "b", "--pool", "images", "--no-wait").stdout.strip()
    held.begun()
    assert json.loads(fake.cairn("jobs", "--format", "json").stdout)[0]["id"] == job
    fake.cairn("job-cancel", job)
    until(lambda: json.loads(fake.cairn("jobs", "--format", "json").stdout)[0]["status"] == "concluded")
    screen, terminal = os.openpty()
    with subprocess.Popen([os.path.join(BUILD, "cairn"), "vol-clone", "a", "b", "--pool", "images"], env=fake.env, stdout=subprocess.PIPE, stderr=terminal,
                          text=True) as p:
        os.close(terminal)
        said = b""
        while b" 41 %" not in said:
            said += os.read(screen, 4096)
        assert said.startswith(b"\rClone: [")
        p.send_signal(signal.SIGINT)
        assert p.wait(100) == -signal.SIGINT and p.stdout.read() == ""
    said = b""
    while b"made no volume" not in said:
        said += os.read(screen, 4096)
    os.close(screen)
    assert b"Failed to clone vol from a" in said and os.listdir(pool) == ["a"]
    held.begun(2)
