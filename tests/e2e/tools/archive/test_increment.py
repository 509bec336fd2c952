"""cairn-archive: an increment has what differs since a snapshot, and import joins a chain of archives. qemu-img is the
oracle."""
import json
import os
import random
import shutil
import subprocess

import pytest

import archivelib

MIB = 1024 * 1024
DISKS = "a.qcow2", "b.qcow2"
DEFINITION = {"name": "x", "boot": {"kernel": "kernel"}, "disks": [
    {"path": "vda.qcow2", "format": "qcow2"}, {"path": "vdb.qcow2", "format": "qcow2"}, {"path": "iso", "format": "raw"}]}
FILES = [("kernel", "kernel.bin", {"whole": True}), ("vda.qcow2", "a.qcow2", {"format": "qcow2"}),
         ("vdb.qcow2", "b.qcow2", {"format": "qcow2"}), ("iso", "iso.raw", {"whole": True})]


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def export(to, snapshot, since=None, files=FILES, definition=DEFINITION):
    """Export as the daemon does: disks as of the snapshot, other files whole. Return the last line and the
    exit status."""
    out = archivelib.high(to, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    fds, entries = [out], []
    for name, path, extra in files:
        fds.append(archivelib.high(path))
        extra = dict(extra)
        entries.append({"name": name, **extra, **({"fd": fds[-1]} if extra.pop("whole", False) else
                                                  {"layers": [{"fd": fds[-1], "format": "qcow2"}]})})
    spec = {"output": out, "compress": "none", "definition": definition, "files": entries, "snapshot": snapshot}
    return archivelib.Archive("export", spec if since is None else {**spec, "since": since}, fds).end()


def take(paths, name):
    return archivelib.take(paths[0], ".", name, increments=[os.path.abspath(p) for p in paths[1:]]).end(b"keep\n")


def manifest(path):
    return json.loads(run("tar", "-xOf", path, "manifest.json"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two disks with snapshots s1 to s4, random writes before each, a disk that grows, and an archive for each one."""
    folder, before = tmp_path_factory.mktemp("made"), os.getcwd()
    os.chdir(folder)
    try:
        make()
    finally:
        os.chdir(before)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def chain(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["cp", "-a", "--sparse=always", f"{made}/.", "."], check=True)
    return tmp_path


def make():
    rng = random.Random(11)
    size = {"a.qcow2": 64 * MIB, "b.qcow2": 24 * MIB + 512}
    for disk, options in (("a.qcow2", "cluster_size=64k"), ("b.qcow2", "cluster_size=4k")):
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, disk, str(size[disk]))
    for name in ("kernel.bin", "iso.raw"):
        with open(name, "wb") as f:
            f.write(os.urandom(70000))
    for n in range(1, 5):
        for disk in DISKS:
            writes = []
            for _ in range(12):
                off = rng.randrange(0, size[disk] - 512, 512)
                length = min(rng.choice((512, 4096, 65536, 700 * 512, 3 * MIB)), size[disk] - off)
                kind = rng.choice((f"write -P {n}", "write -P 200", "write -z", "discard"))
                writes += ["-c", f"{kind} {off} {length}"]
            if n == 3:
                size[disk] += MIB
                run("qemu-img", "resize", "-q", disk, str(size[disk]))
            run("qemu-io", *writes, disk)
            run("qemu-img", "snapshot", "-c", f"s{n}", disk)
        last, status = export(f"{n}.tar", f"s{n}", f"s{n - 1}" if n > 1 else None)
        assert status == 0, last


@pytest.mark.parametrize("n", [1, 2, 4])
def test_chain_restores_the_last_snapshot(chain, n):
    last, status = take([f"{k}.tar" for k in range(1, n + 1)], "new")
    assert status == 0, last
    expected = {"kernel", "iso", "vda.qcow2", "vdb.qcow2", *(f"{k}-vd{d}.qcow2" for k in range(n - 1) for d in "ab")}
    assert set(os.listdir("new")) == expected
    for disk, name in zip(DISKS, ("vda.qcow2", "vdb.qcow2")):
        run("qemu-img", "convert", "-l", f"s{n}", "-O", "raw", disk, "expected.raw")
        run("qemu-img", "compare", "-F", "raw", f"new/{name}", "expected.raw")
        run("qemu-img", "check", "-q", f"new/{name}")
        layers = json.loads(run("qemu-img", "info", "--backing-chain", "--output=json", f"new/{name}"))
        assert [os.path.basename(y["filename"]) for y in layers] == [name, *(f"{k}-{name}" for k in range(n - 2, -1, -1))]
    run("cmp", "iso.raw", "new/iso")


def test_definition_names_the_chain(chain):
    job = archivelib.take("1.tar", ".", "new", increments=[os.path.abspath("2.tar"), os.path.abspath("3.tar")])
    ready = job.until("ready")
    assert job.end()[1] != 0  # nothing is kept
    vda, vdb, iso = ready["ready"]["definition"]["disks"]
    assert vda == {"path": "vda.qcow2", "format": "qcow2", "backing": [
        {"path": "1-vda.qcow2", "format": "qcow2"}, {"path": "0-vda.qcow2", "format": "qcow2"}]}
    assert [y["path"] for y in vdb["backing"]] == ["1-vdb.qcow2", "0-vdb.qcow2"] and "backing" not in iso
    assert sorted(f["name"] for f in ready["ready"]["files"]) == [
        "0-vda.qcow2", "0-vdb.qcow2", "1-vda.qcow2", "1-vdb.qcow2", "iso", "kernel", "vda.qcow2", "vdb.qcow2"]


def test_increment_has_only_clusters_that_differ(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "4G")
    run("qemu-io", "-c", "write -P 1 0 32M", "a.qcow2")
    run("qemu-img", "snapshot", "-c", "s1", "a.qcow2")
    run("qemu-io", "-c", "write -P 2 1M 64k", "-c", "write -P 3 3G 512", "-c", "write -z 8M 4M", "a.qcow2")
    run("qemu-img", "snapshot", "-c", "s2", "a.qcow2")
    files = [("vda.qcow2", "a.qcow2", {"format": "qcow2"})]
    definition = {"name": "x", "disks": [{"path": "vda.qcow2", "format": "qcow2"}]}
    for to, *which in ("1.tar", "s1"), ("2.tar", "s2", "s1"):
        assert export(to, *which, files=files, definition=definition)[1] == 0
    full, inc = (manifest(f"{n}.tar") for n in (1, 2))
    assert (full["format"], inc["format"]) == (1, 2)
    assert inc["since"] == "s1" and inc["since_id"] == full["snapshot_id"] and inc["files"][0]["increment"] is True
    # Header, refcount table and block, L1 and two L2 tables, and two clusters of data.
    assert inc["files"][0]["data"] == 8 * 65536
    assert take(["1.tar", "2.tar"], "new")[1] == 0
    run("qemu-img", "convert", "-l", "s2", "-O", "qcow2", "a.qcow2", "expected")
    run("qemu-img", "compare", "new/vda.qcow2", "expected")


def test_disk_without_the_earlier_snapshot_is_whole(chain):
    """The disk was attached later. At least one disk must have the snapshot."""
    run("qemu-img", "snapshot", "-d", "s2", "b.qcow2")
    last, status = export("i.tar", "s3", "s2")
    assert status == 0, last
    assert [f["name"] for f in manifest("i.tar")["files"] if f.get("increment")] == ["vda.qcow2"]
    assert take(["1.tar", "2.tar", "i.tar"], "new")[1] == 0
    assert {"1-vda.qcow2", "vdb.qcow2"} <= set(os.listdir("new")) and "1-vdb.qcow2" not in os.listdir("new")
    run("qemu-img", "snapshot", "-d", "s2", "a.qcow2")
    last, status = export("j.tar", "s3", "s2")
    assert status == 1 and "no disk that the archive gets has a snapshot 's2'" in last["error"]["message"]


@pytest.mark.parametrize("which,says", [
    (["2.tar"], "the archive is an increment since snapshot 's1'; give the archive with that snapshot before it"),
    (["1.tar", "3.tar"], "archive 2 is an increment since snapshot 's2', but the archive before it has another snapshot, 's1'"),
    (["1.tar", "2.tar", "2.tar"], "archive 3 is an increment since snapshot 's1'"),
    (["1.tar", "1.tar"], "archive 2 is no increment"),
    (["1.tar", "iso.raw"], "archive 2: not an archive of cairn export"),
    (["1.tar", "cut.tar"], "archive 2: the archive is damaged or truncated"),
    (["1.tar", "none"], "No such file"),
    (["1.tar", "."], "is no regular file"),
    (["1.tar", *["2.tar"] * 16], "at most 16 archives"),
])
def test_wrong_chain_is_refused(chain, which, says):
    with open("2.tar", "rb") as f, open("cut.tar", "wb") as to:
        to.write(f.read()[:-20480 - 512])
    last, status = take(which, "new")
    assert status == 1 and says in last["error"]["message"], last
    assert not [n for n in os.listdir(".") if "new" in n]


def test_increment_on_a_whole_image_is_refused(chain):
    """The archive of a VM that is off has the disks themselves, whose content is that of no snapshot."""
    archivelib.export("whole.tar", DEFINITION, [("vda.qcow2", "a.qcow2", {"format": "qcow2"})]).end()
    last, status = take(["whole.tar", "2.tar"], "new")
    assert status == 1 and "the archive before it has no snapshot that was exported alone" in last["error"]["message"]


def test_same_snapshot_is_refused(chain):
    last, status = export("i.tar", "s3", "s3")
    assert status == 1 and "snapshot 's3' does not descend from 's3'" in last["error"]["message"]


def test_forged_increment_is_refused(chain):
    """Its image has no backing file, or names one itself."""
    for of, says in (("a.qcow2", "needs a file which the manifest does not name"), ("stranger.qcow2", None)):
        run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw", "stranger.qcow2", "64M")
        os.makedirs("forged", exist_ok=True)
        run("tar", "-xf", "2.tar", "-C", "forged")
        text = manifest("2.tar")
        with open(of, "rb") as f:
            data = f.read()
        entry = text["files"][1]
        entry["size"] = entry["data"] = len(data)
        forge("f.tar", text, {"vda.qcow2": data})
        last, status = take(["1.tar", "f.tar"], "new")
        if says:
            assert status == 1 and says in last["error"]["message"]
        else:  # the name in the header is replaced
            assert status == 0, last
            info = json.loads(run("qemu-img", "info", "--output=json", "new/vda.qcow2"))
            assert info["backing-filename"] == "0-vda.qcow2"


def forge(path, text, files):
    import hashlib
    import io
    import tarfile
    text["files"] = [f for f in text["files"] if f["name"] in files]
    text["definition"]["disks"] = text["definition"]["disks"][:1]
    del text["definition"]["boot"]
    sums = {}

    def digest(data):
        sha = hashlib.sha256()
        for n in range(0, len(data), 4096):
            block = data[n:n + 4096]
            if block.strip(b"\0"):
                sha.update((n // 4096).to_bytes(8, "big") + block)
        return sha.hexdigest()

    with tarfile.open(path, "w") as t:
        def add(name, data):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
            sums[name] = digest(data)
        add("manifest.json", json.dumps(text).encode())
        for name, data in files.items():
            add(name, data)
        add("sums.json", json.dumps({"sha256": dict(sums)}).encode())
