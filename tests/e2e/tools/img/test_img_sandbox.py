"""cairn-img that an image has taken over (tests/helpers/img/traitor.c) tries to leave. Before the first byte of an
image is read, only what the command line names can be opened; when the last image is open, nothing can."""

import errno
import os
import shutil
import subprocess
import sys

import pytest

from conftest import BUILD
from plainlib import NOBODY
from test_img import box  # noqa: F401
from test_namespaces import NO_LANDLOCK
from test_sandbox import FORBIDDEN, FORBIDDEN_LATER

pytestmark = pytest.mark.usefixtures("sandbox")

TRAITOR = os.path.join(BUILD, "helpers", "traitor_img")
OPENAT, RENAME, UNLINK, SOCKET, RDWR, CREATE = 257, 82, 87, 41, 2, 0o102
HERE = -100

# Each verb, with the images that it reads: "q" names the backing file "base"; both are qcow2.
VERBS = {
    "info": ("info", "q"), "chain": ("info", "--backing-chain", "q"), "check": ("check", "q"), "repair": ("check", "-r", "all", "q"),
    "convert": ("convert", "-O", "qcow2", "q", "new"), "compressed": ("convert", "-c", "-O", "qcow2", "q", "new"),
    "overlay": ("convert", "-O", "qcow2", "-B", "base", "-F", "qcow2", "q", "new"), "stream": ("convert", "q", "-"),
    "existing": ("convert", "-n", "-O", "qcow2", "q", "target"), "dd": ("dd", "-O", "qcow2", "if=q", "of=new"),
    "compare": ("compare", "q", "base"), "map": ("map", "q"), "resize": ("resize", "-f", "qcow2", "q", "+1M"),
    "measure": ("measure", "-O", "qcow2", "q"), "rebase": ("rebase", "-f", "qcow2", "-b", "", "q"),
    "rebase on another": ("rebase", "-f", "qcow2", "-b", "target", "-F", "qcow2", "q"),
    "commit": ("commit", "-f", "qcow2", "target"), "amend": ("amend", "-f", "qcow2", "-o", "lazy_refcounts=on", "q"),
    "trim": ("trim", "--zeros", "-f", "qcow2", "q"), "snapshots": ("snapshot", "-l", "q"),
    "snapshot": ("snapshot", "-c", "s", "-f", "qcow2", "q"), "bitmap": ("bitmap", "--add", "-f", "qcow2", "q", "b"),
    "bitmap of another": ("bitmap", "--add", "--merge", "b", "-b", "base", "-F", "qcow2", "-f", "qcow2", "q", "b"),
    "vmstate-info": ("vmstate-info", "q", "s"), "bench": ("bench", "-c", "1", "q"),
    "create": ("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "new"),
}
# These open images one after the other.
NEVER_SEALED = {"amend", "trim", "rebase", "rebase on another", "create"}
SEALED = {v: a for v, a in VERBS.items() if v not in NEVER_SEALED}

# Calls of these lists that some verb needs; what they may open is tested below.
NEEDED = {"openat", "unlink", "rename", "readlink", "memfd_create", "capset", "rt_sigaction", "a filter for all threads", "open",
          "statx of a path", "a filter that another process answers"}
KILLING = {name: call for name, call in {**FORBIDDEN, **FORBIDDEN_LATER}.items() if name not in NEEDED}


@pytest.fixture
def images(box):
    """The folder with the images of VERBS, and "other", which no image names."""
    box.img("create", "-q", "-f", "qcow2", "base", "8M")
    box.io("base", "write -P 1 0 1M")
    for name in ("q", "target"):
        box.img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", name)
    box.img("create", "-q", "-f", "qcow2", "other", "8M")
    for name in ("q", "base"):
        box.img("bitmap", "--add", "-f", "qcow2", name, "old" if name == "q" else "b")
    box.img("snapshot", "-c", "s", "-f", "qcow2", "q")
    return box


def order(images, stage, call, *args, program=TRAITOR, wrapper=()):
    """Run a verb that makes the call at that stage. Returns the call's result; None: it was forbidden."""
    words = " ".join([stage, *map(str, call)])
    p = subprocess.run([*wrapper, program, *args], cwd=images.path, env={**os.environ, "TRAITOR": words}, capture_output=True, timeout=30)
    if p.returncode == 2 and b"result: " in p.stdout:
        return int(p.stdout.rpartition(b"result: ")[2])
    assert (p.returncode, p.stderr.decode()) == (1, "traitor_img: a forbidden system call; the image is an attack, or cairn-img "
                                                 f"has a bug: number {call[0]}\n"), p
    return None


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_each_verb_is_confined_before_it_reads_a_byte(images, verb):
    assert order(images, "byte", [SOCKET, 1, 1, 0], *verb) is None
    # The backing files of one that the user names may be anywhere.
    way = RDWR if verb in (VERBS["create"], VERBS["rebase on another"]) else 0
    assert order(images, "byte", [OPENAT, HERE, "=/etc/passwd", way], *verb) == -errno.EACCES


@pytest.mark.parametrize("verb", SEALED.values(), ids=SEALED)
def test_nothing_is_opened_when_the_last_image_is_open(images, verb):
    assert order(images, "open", [OPENAT, HERE, "=q", 0], *verb) is None
    assert order(images, "open", [SOCKET, 1, 1, 0], *verb) is None


@pytest.mark.sample(60)
@pytest.mark.parametrize("stage", ["byte", "open"])
@pytest.mark.parametrize("call", KILLING.values(), ids=KILLING)
def test_no_way_out(images, stage, call):
    assert order(images, stage, call, "map", "q") is None


def tries(images, verb, *calls):
    return [order(images, "byte", call, *verb) for call in calls]


OTHERS = [[OPENAT, HERE, "=other", RDWR], [OPENAT, HERE, "=made", CREATE, 0o600], [UNLINK, "=other"], [RENAME, "=other", "=moved"]]


def test_verb_that_reads_changes_no_file(images):
    assert tries(images, VERBS["map"], *OTHERS, [OPENAT, HERE, "=q", RDWR]) == [-errno.EACCES] * 5
    assert order(images, "byte", [OPENAT, HERE, "=base", 0], *VERBS["map"]) >= 0


def test_verb_that_writes_changes_its_image_only(images):
    """The format is found out, so the image's names of other files lead to no write."""
    verb = ("resize", "q", "+1M")
    assert tries(images, verb, *OTHERS) == [-errno.EACCES] * 4
    assert order(images, "byte", [OPENAT, HERE, "=q", RDWR], *verb) >= 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs a filter without no_new_privs")
@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM], ids=errno.errorcode.get)
def test_host_without_landlock(images, error):
    """An old kernel, one that has it switched off, or a container that refuses it: the rights of files are the user's
    until the last image is open, and seccomp holds as elsewhere."""
    wrapper = [sys.executable, "-c", NO_LANDLOCK.replace("| 95", f"| {error}")]
    for verb in (VERBS["map"], VERBS["resize"]):
        p = subprocess.run([*wrapper, os.path.join(BUILD, "cairn-img"), *verb], cwd=images.path, capture_output=True, text=True, timeout=30)
        assert (p.returncode, p.stderr) == (0, "")
        assert order(images, "byte", [OPENAT, HERE, "=other", RDWR], *verb, wrapper=wrapper) >= 0
        assert order(images, "byte", [SOCKET, 1, 1, 0], *verb, wrapper=wrapper) is None
        assert order(images, "open", [OPENAT, HERE, "=q", 0], *verb, wrapper=wrapper) is None


def test_verb_that_makes_a_file_changes_its_folder_only(images):
    for folder in ("to", "beside"):
        (images.path / folder).mkdir()
        shutil.copy(images.path / "other", images.path / folder / "other")
    verb = ("convert", "-O", "qcow2", "q", "to/new")
    assert tries(images, verb, *OTHERS) == [-errno.EACCES] * 4
    outside = [[n, *(a.replace("=", "=beside/") if isinstance(a, str) else a for a in call)] for n, *call in OTHERS]
    assert tries(images, verb, *outside) == [-errno.EACCES] * 4


def test_options_of_trust_and_folders_widen_the_sandbox(images):
    """--allow DIR for its folder, --trust-backing for all, both for reading."""
    (images.path / "sub").mkdir()
    os.rename(images.path / "other", images.path / "sub/other")
    folder = images.path / "elsewhere"
    folder.mkdir()
    os.rename(images.path / "q", folder / "q")
    look = [OPENAT, HERE, "=sub/other", 0]
    assert order(images, "byte", look, "info", "--backing-chain", "elsewhere/q") == -errno.EACCES
    assert order(images, "byte", look, "info", "--backing-chain", "--allow", "sub", "elsewhere/q") >= 0
    assert order(images, "byte", look, "info", "--backing-chain", "--trust-backing", "elsewhere/q") >= 0
    assert order(images, "byte", [*look[:3], RDWR], "info", "--backing-chain", "--trust-backing", "elsewhere/q") == -errno.EACCES


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_roots_rights_are_those_of_opening_files(images):
    """Files of another user, in a folder of that user, are read and written. Their owner is not changed."""
    folder = images.path / "of-nobody"
    folder.mkdir()
    for name in ("q", "base"):
        os.rename(images.path / name, folder / name)
        os.chown(folder / name, NOBODY, NOBODY)
        os.chmod(folder / name, 0o600)
    os.chown(folder, NOBODY, NOBODY)
    os.chmod(folder, 0o700)
    assert "base" in images.img("info", "--backing-chain", "of-nobody/q").stdout
    images.img("snapshot", "-d", "s", "-f", "qcow2", "of-nobody/q")
    images.img("commit", "-f", "qcow2", "of-nobody/q")
    images.img("convert", "-O", "qcow2", "of-nobody/q", "of-nobody/new")
    images.img("compare", "of-nobody/q", "of-nobody/new")
    assert order(images, "byte", [92, "=of-nobody/q", 0, 0], "map", "of-nobody/q") is None


def test_links_are_followed(images):
    """An image is the file to which its name leads, but its backing file is beside the name, as before."""
    os.mkdir(images.path / "names")
    os.symlink("../base", images.path / "names/link")
    assert "8 MiB" in images.img("info", "names/link").stdout
    images.img("resize", "-f", "qcow2", "names/link", "+1M")
    images.img("convert", "names/link", "names/raw")
    os.symlink("../made", images.path / "names/new")
    images.img("create", "-q", "-f", "qcow2", "names/new", "1M")
    assert os.path.getsize(images.path / "made")


def test_many_sources_in_many_folders_are_read(images):
    """No limit holds for the number of folders that cairn-img permits itself to read."""
    for i in range(100):
        (images.path / f"d{i}").mkdir()
        (images.path / f"d{i}/raw").write_bytes(b"x" * 512)
    images.img("convert", "-f", "raw", "-O", "raw", *(f"d{i}/raw" for i in range(100)), "all")
    assert (images.path / "all").read_bytes() == b"x" * 51200
