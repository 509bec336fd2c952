"""Pools: folders for images that have a name, and volumes in them. Tables and sentences are virsh's."""

import errno
import json
import os
import re
import subprocess
import time

import pytest

from conftest import BUILD, until
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
    assert fake.cairn("pool-undefine", "images").stdout == "Pool images has been undefined\n"
    assert (pool / "a.qcow2").exists() and fake.cairn("pool-list", "--name").stdout == ""


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
    refused(fake, "give --shrink if that is meant", "vol-resize", "a", "512K", "--pool", "images")
    refused(fake, "give its pool by --pool", "vol-info", "a")
    refused(fake, "File exists", "vol-clone", "a", "a", "--pool", "images")
    assert (pool / "a").read_bytes() == before and sorted(p.name for p in pool.iterdir()) == ["a"]
    os.rename(pool, fake.tmp / "moved")
    refused(fake, f"pool 'images': folder {pool}: No such file or directory", "vol-list", "images")
    assert " images   inactive   yes" in fake.cairn("pool-list").stdout


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
