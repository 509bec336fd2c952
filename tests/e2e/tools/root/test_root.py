"""cairn-root: squashfs images of container images, tar archives and folders. unsquashfs says what is in them."""

import bz2
import contextlib
import gzip
import http.server
import io
import json
import lzma
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import threading

import pytest

import guestlib
from conftest import BUILD, until
from rootlib import NOBODY, TYPES, Layout, cat, entry, left, link, listing, make, symlink, tar

UIDS = range(100, 110)


@pytest.fixture(params=[None, NOBODY], ids=["root", "nobody"])
def user(request, tmp_path):
    """The user who makes the image, with a cache in tmp_path/cache."""
    if os.geteuid() != 0 and request.param is not None:
        pytest.skip("needs root to become nobody")
    (tmp_path / "cache").mkdir()
    if request.param:
        for folder in [tmp_path, *tmp_path.parents][:3]:
            os.chmod(folder, 0o755)
        os.chown(tmp_path / "cache", NOBODY, NOBODY)
    return request.param


def folders(*names):
    return [entry(n + "/") for n in names]


def layers():
    """Three layers: the second one changes and removes files of the first one; the third adds a link to one of them."""
    first = tar(*folders("bin", "srv", "old", "old/deep", "opaque", "opaque/sub"), entry("./", mode=0o751, uid=0),
                *[entry(f"srv/u{u}", b"%d" % u, uid=u, gid=u + 50) for u in UIDS],
                entry("bin/su", b"s" * 300000, mode=0o4755, xattrs={"user.a": "b"}), link("bin/su2", "bin/su"),
                entry("old/deep/gone", b"1"), entry("opaque/gone", b"1"), entry("opaque/sub/gone", b"1"),
                entry("null", kind=tarfile.CHRTYPE, mode=0o666, device=(1, 3)), entry("fifo", kind=tarfile.FIFOTYPE),
                entry("changed", b"first", uid=5), symlink("lib", "usr/lib"), entry("usr/lib/"), entry("keep", b"keep"),
                entry("linked", b"L" * 5000), link("name", "linked"))
    second = tar(entry(".wh.old"), entry("opaque/.wh..wh..opq"), entry("opaque/new", b"2"), entry("changed", b"second", uid=6),
                 entry("lib/added", b"3"), entry(".wh.linked"), entry("caf\u00e9 \u0065\u0301", b"4"), entry("bad\udcff", b"5"),
                 entry("x" * 200 + "/" + "y" * 200, b"6"), entry("a/b/c", b"7", uid=9))
    third = tar(link("a/again", "name"), entry("srv/.wh.u100"), entry("null/"), entry("null/in", b"8"))
    return first, second, third


EXPECTED = {"/": "drwxr-x--x 0/0", "/bin": "drwxr-xr-x 0/0", "/srv": "drwxr-xr-x 0/0", "/opaque": "drwxr-xr-x 0/0", "/opaque/new": "-rw-r--r-- 0/0 1",
            "/bin/su": "-rwsr-xr-x 0/0 300000", "/bin/su2": "-rwsr-xr-x 0/0 300000", "/fifo": "prw-r--r-- 0/0", "/changed": "-rw-r--r-- 6/0 6",
            "/lib": "lrwxrwxrwx 0/0 usr/lib", "/usr": "drwxr-xr-x 0/0", "/usr/lib": "drwxr-xr-x 0/0",
            "/usr/lib/added": "-rw-r--r-- 0/0 1", "/keep": "-rw-r--r-- 0/0 4", "/name": "-rw-r--r-- 0/0 5000", "/a": "drwxr-xr-x 0/0",
            "/a/again": "-rw-r--r-- 0/0 5000", "/a/b": "drwxr-xr-x 0/0", "/a/b/c": "-rw-r--r-- 9/0 1", "/null": "drwxr-xr-x 0/0",
            "/null/in": "-rw-r--r-- 0/0 1", "/" + "x" * 200: "drwxr-xr-x 0/0", "/" + "x" * 200 + "/" + "y" * 200: "-rw-r--r-- 0/0 1",
            **{f"/srv/u{u}": f"-rw-r--r-- {u}/{u + 50} 3" for u in UIDS if u != 100}}


def test_layers_are_merged_with_owners_modes_and_links_as_any_user(tmp_path, user):
    layout = Layout(tmp_path / "layout")
    manifest = layout.add(layout.manifest(*layers()), "tag")
    image = make(f"oci:{layout.path}:tag", tmp_path / "cache", user=user)
    assert image["digest"] == manifest["digest"]
    assert image["config"] == {"entrypoint": ["/bin/sh"], "cmd": ["-c", "id"], "env": ["PATH=/bin", "A=b c"], "user": "daemon", "working_dir": "/srv"}
    raw = subprocess.run(["unsquashfs", "-ls", image["image"]], capture_output=True, check=True, timeout=50).stdout
    assert b"/caf\xc3\xa9 e\xcc\x81\n" in raw and b"/bad\xff\n" in raw, "names are bytes, not normalized text"
    found = listing(image["image"])
    assert {k: v for k, v in found.items() if not k.startswith(("/caf", "/bad"))} == EXPECTED
    assert cat(image["image"], "changed") == b"second" and cat(image["image"], "a/again") == b"L" * 5000
    assert os.path.getsize(image["image"]) == image["size"]
    assert left(tmp_path / "cache") == ["sha256-" + manifest["digest"].split(":")[1]]


def test_image_has_devices_extended_attributes_and_hard_links(tmp_path):
    source = tmp_path / "root.tar"
    source.write_bytes(tar(entry("null", kind=tarfile.CHRTYPE, device=(1, 3)), entry("sda", kind=tarfile.BLKTYPE, mode=0o660, device=(8, 0)),
                           entry("f", b"x", xattrs={"user.a": "b", "security.capability": "\x01\0\0\x02\0\x20" + 14 * "\0"}), link("g", "f"),
                           entry(".wh.f", b"no layer"), entry("d/")))
    image = make(source, tmp_path / "cache")["image"]
    files = listing(image)
    assert files["/null"] == "crw-r--r-- 0/0 1,3" and files["/sda"] == "brw-rw---- 0/0 8,0"
    assert files["/.wh.f"].endswith(" 8"), "a tar archive is no layer, so it has no whiteouts"
    subprocess.run(["unsquashfs", "-q", "-n", "-d", tmp_path / "out", image], check=os.geteuid() == 0, capture_output=True, timeout=50)
    assert os.path.samefile(tmp_path / "out" / "f", tmp_path / "out" / "g")
    assert os.getxattr(tmp_path / "out" / "f", "user.a") == b"b"
    assert os.geteuid() != 0 or len(os.getxattr(tmp_path / "out" / "f", "security.capability")) == 20, "only root may set it"


@pytest.mark.parametrize("pack", [lambda d: d, gzip.compress, bz2.compress, lzma.compress], ids=["none", "gzip", "bzip2", "xz"])
def test_tar_archive_of_any_compression(tmp_path, pack):
    source = tmp_path / "root.tar"
    source.write_bytes(pack(tar(entry("etc/"), entry("etc/a", b"text"))))
    image = make(source, tmp_path / "cache")
    assert cat(image["image"], "etc/a") == b"text" and image["config"] == {}


def test_zstd_layer(tmp_path):
    layout = Layout(tmp_path / "layout")
    data = subprocess.run(["zstd", "-c"], input=tar(entry("a", b"z")), capture_output=True, check=True, timeout=100).stdout
    layout.add(layout.manifest(layout.blob(TYPES["layer"] + "+zstd", data)))
    assert cat(make(layout.path, tmp_path / "cache")["image"], "a") == b"z"


def test_folder_is_made_again_when_it_has_changed(tmp_path, user):
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "a").write_text("1")
    os.link(root / "etc" / "a", root / "b")
    if user:
        for path in (root, root / "etc", root / "b"):
            os.chown(path, user, user)
    first, second = (make(root, tmp_path / "cache", user=user) for _ in range(2))
    assert first == second and listing(first["image"])["/b"] == "-rw-r--r-- 0/0 1"
    assert listing(first["image"])["/"] == "drwxr-xr-x 0/0"
    (root / "etc" / "a").write_text("2")
    third = make(root, tmp_path / "cache", user=user)
    assert third["digest"] != first["digest"] and cat(third["image"], "b") == b"2"


def test_file_of_a_folder_that_the_user_may_not_read_is_named(tmp_path, user):
    """As etc/shadow of Fedora's images, which has mode 000."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "shadow").touch(0o000)
    if user is None:
        make(tmp_path / "root", tmp_path / "cache")
        return
    said = make(tmp_path / "root", tmp_path / "cache", user=user, ok=False)
    assert f"{tmp_path}/root/shadow: Permission denied; make the file readable (chmod u+r)" in said and "--rw" in said
    assert left(tmp_path / "cache") == []


def test_reason_of_tar_is_told(tmp_path):
    """Its last line tells no reason."""
    path = path_with_sqfstar(tmp_path / "bin", "cat >/dev/null")
    (tmp_path / "bin" / "tar").write_text("#!/bin/sh\necho 'tar: ./a: Cannot open: Input/output error' >&2\n"
                                          "echo 'tar: Exiting with failure status due to previous errors' >&2\nexit 2\n")
    (tmp_path / "bin" / "tar").chmod(0o755)
    (tmp_path / "root").mkdir()
    assert start(tmp_path / "root", tmp_path / "cache", PATH=path).communicate(timeout=50)[1] == "tar: ./a: Cannot open: Input/output error\n"


def archive(layout, path):
    with tarfile.open(path, "w") as t:
        for name in sorted(os.listdir(layout.path), reverse=True):
            t.add(layout.path / name, name)
    return path


def test_oci_archive_is_read_in_place(tmp_path):
    layout = Layout(tmp_path / "layout")
    layout.add(layout.manifest(*layers()), "v1")
    layout.add(layout.manifest(tar(entry("two", b"2"))), "v2")
    path = archive(layout, tmp_path / "image.tar")
    assert listing(make(f"oci-archive:{path}:v1", tmp_path / "cache")["image"])["/keep"] == "-rw-r--r-- 0/0 4"
    assert "append :TAG, one of: v1, v2" in make(path, tmp_path / "cache", ok=False)
    assert "v3; it has: v1, v2" in make(f"oci-archive:{path}:v3", tmp_path / "cache", ok=False)


def test_archive_of_too_many_files_names_the_limit(tmp_path):
    """A tar archive without the files of a layout is the root itself."""
    blobs = [entry(f"blobs/sha256/{n}") for n in range(4095)]
    for name, more in (("fits", 0), ("many", 1)):
        (tmp_path / name).write_bytes(tar(*blobs[:4094 + more], entry("oci-layout"), entry("index.json", b"{}")))
    (tmp_path / "plain").write_bytes(tar(*blobs, entry("blobs/a"), entry("blobs/b")))
    assert "names no image" in make(tmp_path / "fits", tmp_path / "cache", ok=False)
    for source in (tmp_path / "many", f"oci-archive:{tmp_path}/many"):
        assert "has more than 4096 files; copy the image that you need" in make(source, tmp_path / "cache", ok=False)
    assert "/blobs/b" in listing(make(tmp_path / "plain", tmp_path / "cache")["image"])


def test_skopeo_writes_the_same_image(tmp_path):
    layout = Layout(tmp_path / "layout")
    layout.add(layout.manifest(*layers()), "v1")
    subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", f"oci:{layout.path}:v1", f"oci-archive:{tmp_path}/i.tar:v1"], check=True, timeout=50)
    subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", f"oci:{layout.path}:v1", f"docker-archive:{tmp_path}/d.tar:a/b:v1"], check=True, timeout=50)
    mine, theirs, docker = (make(s, tmp_path / "cache") for s in (f"oci:{layout.path}:v1", f"{tmp_path}/i.tar", f"docker-archive:{tmp_path}/d.tar"))
    assert mine == theirs
    assert listing(docker["image"]) == listing(mine["image"]) and docker["config"] == mine["config"]
    assert make(f"docker-archive:{tmp_path}/d.tar", tmp_path / "cache", "--pull") == docker
    assert not [n for n in left(tmp_path / "cache") if n.endswith(".tmp")]


def test_index_chooses_the_image_of_this_processor(tmp_path):
    layout = Layout(tmp_path / "layout")
    arm = {**layout.manifest(tar(entry("arm")), architecture="arm64"), "platform": {"os": "linux", "architecture": "arm64"}}
    amd = {**layout.manifest(tar(entry("amd"))), "platform": {"os": "linux", "architecture": "amd64"}}
    layout.add(layout.blob("index", {"schemaVersion": 2, "manifests": [arm, amd]}), "both")
    layout.add(layout.blob("index", {"schemaVersion": 2, "manifests": [arm]}), "arm")
    layout.add(layout.manifest(tar(entry("arm")), architecture="arm64"), "plain")
    assert "/amd" in listing(make(f"oci:{layout.path}:both", tmp_path / "cache")["image"])
    for tag in ("arm", "plain"):
        assert make(f"oci:{layout.path}:{tag}", tmp_path / "cache", ok=False) == \
            "the image is for linux arm64; this host runs images for linux amd64"


# ---- bad input ----

BAD_LAYERS = {
    "name": (tar(entry("a/../../b")), "the name a/../../b leaves the root of the image"),
    "whiteout": (tar(entry("a/.wh...")), "the whiteout a/.wh... leaves"),
    "whiteout_up": (tar(entry("../.wh.a")), "the name ../.wh.a leaves"),
    "link": (tar(entry("a"), link("b", "../../etc/passwd")), "the target of a hard link, ../../etc/passwd leaves"),
    "link_host": (tar(link("b", "/etc/passwd")), "the hard link b has the target /etc/passwd, which is no file of the image"),
    "link_folder": (tar(entry("d/"), link("b", "d")), "which is no file"),
    "link_cycle": (tar(link("a", "b"), link("b", "a")), "which is no file"),
    "cycle": (tar(symlink("a", "b"), symlink("b", "a"), entry("a/f")), "the name a/f leads through a cycle of symbolic links"),
    "long_ways": (tar(entry("x/"), *(symlink(f"s{i}", "x/../" * 700 + (f"s{i + 1}" if i < 38 else "x")) for i in range(39)),
                      *(entry(f"s0/f{i}") for i in range(500))), "leads through more folders and symbolic links than"),
    "no_target": (tar(symlink("l", "")), "the symbolic link l has no target"),
    "root_file": (tar(entry(".", kind=tarfile.REGTYPE)), "must be a folder"),
    "long": (tar(entry("n" * 300)), "is too long"),
    "owner": (tar(entry("a", uid=1 << 33)), "the owner of a is no number"),
    "garbage": (b"no tar archive" * 100, "is no tar archive that can be read"),
    "truncated": (tar(entry("a", b"x" * 5000))[:3000], "is no tar archive that can be read"),
}


@pytest.mark.parametrize("bad", BAD_LAYERS)
def test_bad_layer_is_one_sentence_and_leaves_nothing(tmp_path, bad, user):
    layout = Layout(tmp_path / "layout")
    data, sentence = BAD_LAYERS[bad]
    if bad == "whiteout":
        data = tar(entry("a/"), entry("a/.wh..."))
    layout.add(layout.manifest(tar(entry("ok", b"ok")), data))
    assert sentence in make(layout.path, tmp_path / "cache", ok=False, user=user)
    assert left(tmp_path / "cache") == []


def test_symbolic_links_of_layers_stay_inside_the_root(tmp_path):
    layout = Layout(tmp_path / "layout")
    layout.add(layout.manifest(tar(symlink("up", "../../.."), symlink("abs", "/etc")), tar(entry("up/escaped"), entry("abs/passwd"), entry("/top"))))
    found = listing(make(layout.path, tmp_path / "cache")["image"])
    assert {"/escaped", "/etc/passwd", "/top"} <= set(found)


def damage(path, change):
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def flip(data):
    data[len(data) // 2] ^= 1


def cut(data):
    del data[len(data) // 2:]


@pytest.mark.parametrize("what", ["manifest", "config", "layer"])
@pytest.mark.parametrize("change", [flip, cut])
def test_damaged_blob_is_named(tmp_path, what, change):
    layout = Layout(tmp_path / "layout")
    m = layout.add(layout.manifest(tar(entry("a", os.urandom(9000)))))
    content = json.loads(layout.blob_path(m).read_text())
    d = {"manifest": m, "config": content["config"], "layer": content["layers"][0]}[what]
    damage(layout.blob_path(d), change)
    sentence = make(layout.path, tmp_path / "cache", ok=False)
    assert d["digest"] in sentence and "is damaged" in sentence and "get the image anew" in sentence
    assert left(tmp_path / "cache") == []


def bad_manifests(layout):
    good = layout.layer(tar(entry("a")))
    yield "missing", {**layout.manifest(good), "digest": "sha256:" + "0" * 64}, "is incomplete: blobs/sha256/000"
    yield "digest", {**layout.manifest(good), "digest": "sha512:" + "0" * 128}, "has no digest of the form sha256:HEX"
    yield "path", {**layout.manifest(good), "digest": "sha256:../../../../" + "0" * 52}, "has no digest of the form"
    yield "layer type", layout.manifest({**good, "mediaType": "application/wasm"}), "a layer of the type application/wasm"
    yield "no layers", layout.manifest(), "has 0 layers"
    yield "many layers", layout.manifest(*[good] * 513), "has 513 layers"
    yield "no image", layout.blob("manifest", {"config": layout.blob("application/vnd.example+json", {}), "layers": [good]}), "no container image"
    yield "no JSON", layout.blob("manifest", b"{"), "manifest"
    yield "array", layout.blob("manifest", b"[]"), "is no object"
    yield "large", layout.blob("manifest", b" " * (4 << 20) + b"{}"), "larger than 4 MiB"
    yield "config", layout.manifest(good, config={"Cmd": "ls"}), "Entrypoint, Cmd and Env are lists of texts"
    yield "large config", layout.manifest(good, config={"Env": ["A=" + "x" * (1 << 20)]}), "command and environment are larger than 512 KiB"
    yield "environment", layout.manifest(good, config={"Env": ["A=\0"]}), "Entrypoint, Cmd and Env are lists of texts"
    nested = layout.manifest(good)
    for _ in range(6):
        nested = layout.blob("index", {"manifests": [nested]})
    yield "nested", nested, "nested more than 4 deep"
    yield "other", layout.blob("text/plain", b"{}"), "names no image"


def test_bad_manifests_are_one_sentence_each(tmp_path):
    layout = Layout(tmp_path / "layout")
    for name, descriptor, sentence in list(bad_manifests(layout)):
        layout.write({"manifests": [descriptor]})
        assert sentence in make(layout.path, tmp_path / "cache", ok=False), name
        assert left(tmp_path / "cache") == [], name


@pytest.mark.parametrize("content", ["", "[]", "{", '{"manifests":1}', '{"manifests":[1,null,{}]}'])
def test_bad_index_is_one_sentence(tmp_path, content):
    layout = Layout(tmp_path / "layout")
    (layout.path / "index.json").write_text(content)
    make(layout.path, tmp_path / "cache", ok=False)


def test_limit_of_files(tmp_path):
    source = tmp_path / "root.tar"
    source.write_bytes(tar(*[entry(f"f{i}") for i in range(50)]))
    assert "more than 49 files" in make(source, tmp_path / "cache", "--files-max", "49", ok=False)
    assert left(tmp_path / "cache") == []
    make(source, tmp_path / "cache", "--files-max", "50")


def test_archive_that_expands_without_end_is_refused(tmp_path):
    i = tarfile.TarInfo("zeros")
    i.size = 2 << 40
    source = tmp_path / "root.tar"
    source.write_bytes(i.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    assert "more than 1 TiB" in make(source, tmp_path / "cache", ok=False)


def test_missing_things_are_named(tmp_path):
    assert "./nothing does not exist" in make("./nothing", tmp_path / "cache", ok=False, cwd=tmp_path)
    assert "is no OCI layout" in make(f"oci:{tmp_path}/nothing:tag", tmp_path / "cache", ok=False)
    assert "skopeo: " in make("localhost:1/no/image:tag", tmp_path / "cache", ok=False)
    assert left(tmp_path / "cache") == []


def test_name_of_a_file_here_is_no_image_of_a_registry(tmp_path):
    """Neither is it the file: a folder that is called python must not take the place of the image."""
    for name in ("python", "python:3.12"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").touch()
        said = make(name, tmp_path / "cache", ok=False, cwd=tmp_path)
        assert said == f"{name} is a file or folder here, and may be an image of a registry; name the former ./{name} or the latter docker://{name}"
        assert "/a" in listing(make(f"./{name}", tmp_path / "cache", cwd=tmp_path)["image"])


@pytest.mark.parametrize("program, package, source", [("sqfstar", "squashfs-tools", "./root.tar"), ("skopeo", "skopeo", "docker://a")])
def test_missing_program_names_its_package(tmp_path, program, package, source, monkeypatch):
    (tmp_path / "root.tar").write_bytes(tar(entry("a")))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert make(source, tmp_path / "cache", ok=False, cwd=tmp_path) == f"the program {program} is missing; install the package {package}"
    assert left(tmp_path / "cache") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_full_cache_is_one_sentence(tmp_path):
    (tmp_path / "root.tar").write_bytes(tar(entry("a", os.urandom(6 << 20))))
    cache = tmp_path / "cache"
    cache.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", cache], check=True, timeout=100)
    try:
        assert f"the cache {cache}/cairn/roots is full" in make(tmp_path / "root.tar", cache, ok=False)
        assert left(cache) == []
    finally:
        subprocess.run(["umount", cache], check=True, timeout=100)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
@pytest.mark.parametrize("before", [False, True], ids=["empty", "with-an-image"])
def test_read_only_cache_is_one_sentence(tmp_path, before):
    (tmp_path / "root.tar").write_bytes(tar(entry("a")))
    cache = tmp_path / "cache"
    cache.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", cache], check=True, timeout=50)
    try:
        if before:
            make(tmp_path / "root.tar", cache)
        subprocess.run(["mount", "-o", "remount,ro", cache], check=True, timeout=50)
        said = make(tmp_path / "root.tar", cache, ok=False)
        assert said == f"the cache {cache}/cairn/roots cannot be written (Read-only file system); set XDG_CACHE_HOME to a folder that you may write to and that has space"
    finally:
        subprocess.run(["umount", cache], check=True, timeout=50)


# ---- registry ----

class Registry(http.server.BaseHTTPRequestHandler):
    """Serve the blobs of one layout, as name/image:tag."""

    def do_GET(self):
        self.server.asked.append(self.path)
        self.server.open.wait(100)
        word = self.path.split("/")
        kind, what = word[-2:] if len(word) > 4 else (None, None)
        if kind == "manifests" and not what.startswith("sha256:"):
            what = self.server.tags.get(what, "")
        path = self.server.layout.path / "blobs" / "sha256" / what.removeprefix("sha256:") if kind else None
        data = b"{}" if not kind else path.read_bytes() if what and path.exists() else None
        self.send_response(404 if data is None else 200)
        self.send_header("Content-Length", str(len(data or b"")))
        self.send_header("Content-Type", TYPES["manifest"] if kind == "manifests" else "application/octet-stream")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write((data or b"")[:self.server.most if kind == "blobs" else None])

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture
def registry(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    server.asked, server.tags, server.most, server.layout = [], {}, None, Layout(tmp_path / "registry")
    server.open = threading.Event()
    server.open.set()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_image_of_a_registry_is_fetched_once(tmp_path, registry, user):
    registry.tags["1"] = registry.layout.manifest(*layers())["digest"]
    name, cache = f"127.0.0.1:{registry.server_port}/a/image:1", tmp_path / "cache"
    home = {"user": user, "cwd": cache}
    first = make(name, cache, "--insecure-registry", **home)
    assert first["digest"] == registry.tags["1"] and listing(first["image"])["/keep"]
    registry.asked.clear()
    assert make("docker://" + name, cache, **home) == first and not registry.asked
    registry.tags["1"] = registry.layout.manifest(tar(entry("new", b"new")))["digest"]
    assert make(name, cache, **home) == first
    second = make(name, cache, "--pull", "--insecure-registry", **home)
    assert second["digest"] == registry.tags["1"] and "/new" in listing(second["image"])
    assert len(left(cache)) == 2


def docker_archive(tmp_path, path, text):
    """Write an archive of docker save, whose image has the text as a file's name."""
    layout = Layout(tmp_path / f"layout-{text}")
    layout.add(layout.manifest(tar(entry(text))), "tag")
    path.unlink(missing_ok=True)
    subprocess.run(["skopeo", "copy", "--quiet", f"oci:{layout.path}:tag", f"docker-archive:{path}"], check=True, timeout=50)


def test_local_image_that_was_built_again_is_another_one(tmp_path):
    docker_archive(tmp_path, tmp_path / "app.tar", "first")
    first = make("docker-archive:app.tar", tmp_path / "cache", cwd=tmp_path)
    assert make("docker-archive:app.tar", tmp_path / "cache", cwd=tmp_path) == first and "/first" in listing(first["image"])
    docker_archive(tmp_path, tmp_path / "app.tar", "second")
    second = make("docker-archive:app.tar", tmp_path / "cache", cwd=tmp_path)
    assert second["digest"] != first["digest"] and "/second" in listing(second["image"])
    (tmp_path / "other").mkdir()
    docker_archive(tmp_path, tmp_path / "other" / "app.tar", "third")
    assert "/third" in listing(make("docker-archive:app.tar", tmp_path / "cache", cwd=tmp_path / "other")["image"])
    assert len(left(tmp_path / "cache")) == 3


def test_registry_that_sends_a_part_leaves_nothing(tmp_path, registry):
    registry.tags["1"] = registry.layout.manifest(tar(entry("a", os.urandom(100000))))["digest"]
    registry.most = 50000
    name = f"127.0.0.1:{registry.server_port}/a/image"
    assert "skopeo: " in make(name + ":1", tmp_path / "cache", "--insecure-registry", ok=False)
    assert "skopeo: " in make(name + ":none", tmp_path / "cache", "--insecure-registry", ok=False)
    assert left(tmp_path / "cache") == []


# ---- several makers, and killed ones ----

def start(source, cache, *options, **env):
    return subprocess.Popen([os.path.join(BUILD, "cairn-root"), *options, source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "XDG_CACHE_HOME": str(cache), **env})


def path_with_sqfstar(folder, script):
    """Return a PATH on which a script takes sqfstar's place, and decides how far the maker of the image gets."""
    folder.mkdir()
    (folder / "sqfstar").write_text("#!/bin/sh\n" + script)
    (folder / "sqfstar").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_two_makers_make_one_image(tmp_path):
    source = tmp_path / "root.tar"
    source.write_bytes(tar(entry("a", os.urandom(20 << 20))))
    makers = [start(source, tmp_path / "cache") for _ in range(4)]
    answers = [m.communicate(timeout=50) for m in makers]
    assert len({a[0] for a in answers}) == 1 and not any(a[1] for a in answers), answers
    assert len(left(tmp_path / "cache")) == 1


def waits_for_a_lock(pid):
    with open(f"/proc/{pid}/syscall") as f:
        return f.read().startswith("72 ")  # fcntl()


def test_three_makers_fetch_an_image_once(tmp_path, registry):
    registry.tags["1"] = registry.layout.manifest(*layers())["digest"]
    registry.open.clear()
    makers = [start(f"127.0.0.1:{registry.server_port}/a/image:1", tmp_path / "cache", "--insecure-registry") for _ in range(3)]
    until(lambda: registry.asked and sum(waits_for_a_lock(m.pid) for m in makers) == 2)
    registry.open.set()
    answers = [m.communicate(timeout=50) for m in makers]
    assert len({a[0] for a in answers}) == 1 and not any(a[1] for a in answers), answers
    blobs = [p for p in registry.asked if "/blobs/" in p]
    assert len(blobs) == len(set(blobs)) >= 3, blobs


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_killed_maker_leaves_no_image(tmp_path, sig):
    source, small = tmp_path / "root.tar", tmp_path / "small.tar"
    source.write_bytes(tar(entry("a", os.urandom(50 << 20))))
    small.write_bytes(tar(entry("a")))
    # The image has begun, and it does not end.
    maker = start(source, tmp_path / "cache", PATH=path_with_sqfstar(tmp_path / "bin", 'for last; do :; done; head -c 1000000 >"$last"; exec sleep 1000'))
    until(lambda: [n for n in left(tmp_path / "cache") if n.endswith(".tmp") and os.listdir(tmp_path / "cache/cairn/roots" / n)])
    maker.send_signal(sig)
    out, err = maker.communicate(timeout=50)
    assert out == "" and (sig == signal.SIGKILL or err == "cancelled\n")
    if sig == signal.SIGKILL:
        make(small, tmp_path / "cache")
    assert not [n for n in left(tmp_path / "cache") if n.endswith(".tmp")]
    assert cat(make(source, tmp_path / "cache")["image"], "a") == tarfile.open(fileobj=io.BytesIO(source.read_bytes())).extractfile("a").read()


def take(source, cache, *options):
    """Take an image as a run does. Returns the answer, and the open file that holds its lock."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        answer = make(source, cache, "--hand-over", str(theirs.fileno()), *options, pass_fds=[theirs.fileno()])
        _, fds, _, _ = socket.recv_fds(ours, 100, 8, socket.MSG_DONTWAIT)
    fd, = fds
    return answer, os.fdopen(fd, "rb")


def remove(cache, digest):
    return subprocess.run([os.path.join(BUILD, "cairn-root"), "--remove", digest], capture_output=True, text=True, check=False, timeout=50,
                          env={**os.environ, "XDG_CACHE_HOME": str(cache)})


def test_image_that_is_handed_over_stays_until_its_file_is_closed(tmp_path):
    source, cache = tmp_path / "root.tar", tmp_path / "cache"
    source.write_bytes(tar(entry("a", b"x" * 9000)))
    for _ in range(2):  # made for the caller, and found
        answer, file = take(source, cache)
        with file:
            assert os.path.samestat(os.fstat(file.fileno()), os.stat(answer["image"]))
            r = remove(cache, answer["digest"])
            assert (r.returncode, r.stderr) == (3, "a run uses the image; end it first\n")
    assert remove(cache, answer["digest"]).returncode == 0 and left(cache) == []


def test_image_is_there_when_it_is_handed_over(tmp_path):
    """Another process removes the image as often as it can."""
    source, cache, end = tmp_path / "root.tar", tmp_path / "cache", threading.Event()
    source.write_bytes(tar(entry("a")))
    digest = make(source, cache)["digest"]
    removed = []

    def remover():
        while not end.is_set():
            removed.append(remove(cache, digest).returncode == 0)
    t = threading.Thread(target=remover)
    t.start()
    try:
        for _ in range(20):
            answer, file = take(source, cache)
            with file:
                assert os.fstat(file.fileno()).st_nlink == 1 and os.path.samestat(os.fstat(file.fileno()), os.stat(answer["image"]))
    finally:
        end.set()
        t.join()
    assert any(removed)


@pytest.mark.parametrize("fd", ["x", "", "-1", "99", "0"])
def test_hand_over_needs_a_socket(tmp_path, fd):
    r = subprocess.run([os.path.join(BUILD, "cairn-root"), "--hand-over", fd, tmp_path], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       check=False, timeout=50)
    assert r.returncode == 2 and r.stderr.startswith("usage: cairn-root")


def children(pid):
    found = []
    with contextlib.suppress(OSError):  # the process, or a thread of it, has ended
        for t in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{t}/children") as f:
                found += map(int, f.read().split())
    return found


@pytest.mark.skipif(guestlib.SANITIZED, reason="a sanitizer's runtime needs more than the sandbox allows")
def test_process_that_reads_layers_is_confined(tmp_path):
    source = tmp_path / "root.tar"
    source.write_bytes(tar(entry("a", os.urandom(50 << 20))))
    # The process waits in a write until sqfstar reads.
    script = f'until [ -e {tmp_path}/go ]; do sleep 0.02; done; exec {shutil.which("sqfstar")} "$@"'
    maker = start(source, tmp_path / "cache", PATH=path_with_sqfstar(tmp_path / "bin", script))
    found = {}
    while found.get("Seccomp") != "2" and maker.poll() is None:
        for pid in children(maker.pid):
            try:
                with open(f"/proc/{pid}/status") as f:
                    status = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
            except OSError:
                continue
            if status["Name"] == "cairn-root" and status.get("Seccomp") == "2":
                found = status
    assert found["Seccomp"] == "2" and found["NoNewPrivs"] == "1" and int(found["CapEff"], 16) == 0 and int(found["CapPrm"], 16) == 0
    (tmp_path / "go").touch()
    assert maker.communicate(timeout=50)[1] == ""


def test_output_and_memory_of_sqfstar_are_limited(tmp_path):
    """sqfstar warns about each extended attribute that it does not know, and keeps the others in memory."""
    source = tmp_path / "root.tar"
    source.write_bytes(tar(entry("a")))
    script = f'ulimit -d >{tmp_path}/memory; yes | head -c 40M >&2; stat -Lc %s /proc/self/fd/2 >{tmp_path}/output; exit 1'
    maker = start(source, tmp_path / "cache", PATH=path_with_sqfstar(tmp_path / "bin", script))
    assert maker.communicate(timeout=50)[1] == "sqfstar: y\n"
    assert int((tmp_path / "memory").read_text()) == 4 << 20 and int((tmp_path / "output").read_text()) == 16 << 20


@pytest.mark.parametrize("kind", ["tar", "folder"])
@pytest.mark.parametrize("files", [100, 14200])
def test_many_files_of_one_size_are_not_compared(tmp_path, kind, files):
    """sqfstar would compare each of them with all others."""
    source = tmp_path / "root"
    if kind == "tar":
        source.write_bytes(tar(*(entry(f"{n % 100}/{n}", b"%6d" % n) for n in range(files))))
    for n in range(files if kind == "folder" else 0):
        (source / str(n % 100)).mkdir(parents=True, exist_ok=True)
        (source / str(n % 100) / str(n)).write_bytes(b"%6d" % n)
    maker = start(source, tmp_path / "cache", PATH=path_with_sqfstar(tmp_path / "bin", f'echo "$@" >{tmp_path}/args; exec {shutil.which("sqfstar")} "$@"'))
    assert maker.communicate(timeout=50)[1] == ""
    assert ("-no-duplicates" in (tmp_path / "args").read_text()) == (files > 1000)


def test_hard_links_in_several_folders(tmp_path):
    source = tmp_path / "root.tar"
    source.write_bytes(tar(entry("a/first", b"1"), *(link(f"{n % 3}/{n}", "a/first") for n in range(9)), entry("a/second", b"2"), link("0/last", "a/second")))
    image = make(source, tmp_path / "cache")["image"]
    assert [cat(image, f"{n % 3}/{n}") for n in range(9)] == [b"1"] * 9 and cat(image, "0/last") == b"2"
    subprocess.run(["unsquashfs", "-q", "-n", "-d", tmp_path / "out", image], check=True, capture_output=True, timeout=50)
    assert {os.stat(tmp_path / "out" / str(n % 3) / str(n)).st_ino for n in range(9)} == {os.stat(tmp_path / "out" / "a" / "first").st_ino}


@pytest.mark.parametrize("mtime, shown", [((1 << 31) - 1, "2038-01-19 03:14"), (1 << 32, "2106-02-07 06:28")])
def test_times_after_2038(tmp_path, mtime, shown):
    source = tmp_path / "root.tar"
    source.write_bytes(tar(entry("a", mtime=mtime)))
    image = make(source, tmp_path / "cache")["image"]
    text = subprocess.run(["unsquashfs", "-lln", image], env={**os.environ, "TZ": "UTC"}, text=True, capture_output=True, check=True, timeout=50).stdout
    assert f"{shown} squashfs-root/a\n" in text


def test_image_that_was_cut_off_is_made_anew(tmp_path):
    source = tmp_path / "root.tar"
    source.write_bytes(tar(entry("a", b"x" * 9000)))
    first = make(source, tmp_path / "cache")
    os.truncate(first["image"], 4096)
    assert make(source, tmp_path / "cache") == first
    assert cat(first["image"], "a") == b"x" * 9000


def test_usage():
    for args in ([], ["a", "b"], ["--files-max", "x", "a"], ["--what", "a"]):
        r = subprocess.run([os.path.join(BUILD, "cairn-root"), *args], capture_output=True, text=True, timeout=100)
        assert r.returncode == 2 and "usage: cairn-root" in r.stderr
