"""cairn-img with bad input, for every verb: one sentence, the right exit status, nothing changed."""

import hashlib
import shutil

import pytest

from test_img import box  # noqa: F401

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img, the oracle, is missing")

# A is the image; NEW is the target of verbs that create one.
READERS = [["info", "A"], ["check", "A"], ["map", "A"], ["measure", "-f", "qcow2", "A"], ["compare", "A", "other"],
           ["convert", "A", "NEW"], ["convert", "-c", "-O", "qcow2", "A", "NEW"], ["snapshot", "-l", "A"],
           ["bench", "-c", "1", "A"]]
WRITERS = [["check", "-r", "all", "A"], ["check", "-r", "leaks", "A"], ["resize", "A", "20M"],
           ["resize", "--shrink", "A", "1M"], ["trim", "A"], ["amend", "-o", "lazy_refcounts=on", "A"],
           ["rebase", "-u", "-b", "", "A"], ["snapshot", "-c", "s", "A"], ["snapshot", "-d", "old", "A"],
           ["snapshot", "-a", "old", "A"], ["bench", "-w", "-c", "1", "A"], ["commit", "-f", "qcow2", "A"],
           ["convert", "-O", "qcow2", "other", "A"], ["convert", "-n", "-O", "qcow2", "other", "A"]]
VERBS = READERS + WRITERS
# "compare" exits with 2 when it fails.
ERROR = {"compare": 2}


def text(verb):
    return " ".join(verb)


def contents(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.is_file()}


def fails(box, verb, image, says=""):
    """The verb on that image prints one sentence and leaves every file unchanged."""
    before = contents(box.path)
    p = box.img(*[image if a == "A" else a for a in verb], status=ERROR.get(verb[0], 1))
    # An unknown option prints a second line: where to find the options.
    sentences = [line for line in p.stderr.splitlines() if not line.startswith("Try `cairn-img help ")]
    assert len(sentences) == 1 and sentences[0].startswith("cairn-img: ") and says in sentences[0], p.stderr
    assert contents(box.path) == before
    return p.stderr


@pytest.fixture
def images(box):  # noqa: F811
    box.img("create", "-q", "-f", "qcow2", "A", "16M")
    box.img("create", "-q", "-f", "qcow2", "other", "16M")
    box.io("A", "write -P 1 0 1M")
    box.img("snapshot", "-c", "old", "A")
    return box


# These make A.
MAKERS = [v for v in VERBS if v[0] == "convert" and v[-1] == "A" and "-n" not in v]
# These look at one file only.
LOOK_AT_ONE_FILE = [v for v in VERBS if v[0] in ("rebase", "amend", "check", "trim", "info") or v[:2] == ["snapshot", "-l"]]


@pytest.mark.parametrize("verb", [v for v in VERBS if v not in MAKERS and "A" in (v[1], v[-1])], ids=text)
def test_missing_image_is_an_error(images, verb):
    fails(images, verb, "gone", "No such file")


@pytest.mark.parametrize("verb", VERBS, ids=text)
def test_folder_as_image_is_an_error(images, verb):
    (images.path / "dir").mkdir()
    fails(images, verb, "dir")


@pytest.fixture
def loop(images):
    """Image `one` stands on `two`, and `two` on `one`."""
    images.qemu("create", "-q", "-f", "qcow2", "-b", "other", "-F", "qcow2", "one", "16M")
    images.qemu("create", "-q", "-f", "qcow2", "-b", "one", "-F", "qcow2", "two", "16M")
    images.qemu("rebase", "-u", "-f", "qcow2", "-b", "two", "-F", "qcow2", "one")
    return images


@pytest.mark.parametrize("verb", [v for v in VERBS if v not in MAKERS + LOOK_AT_ONE_FILE], ids=text)
def test_backing_loop_is_an_error(loop, verb):
    fails(loop, verb, "one")


@pytest.mark.parametrize("verb", LOOK_AT_ONE_FILE, ids=text)
def test_verbs_of_one_file_work_in_a_backing_loop(loop, verb):
    loop.img(*["one" if a == "A" else a for a in verb])


@pytest.mark.parametrize("size", ["-1", "1Z", "abc", "", "0x", "9999999999999999999", "8E"])
@pytest.mark.parametrize("verb", [["create", "-f", "qcow2", "NEW"], ["create", "-f", "raw", "NEW"], ["resize", "A"],
                                  ["measure", "-O", "qcow2", "--size"]], ids=text)
def test_bad_sizes_are_refused(images, verb, size):
    fails(images, [*verb, size], "A")


@pytest.mark.parametrize("name,says", [("old", "already"), ("", "1 to 255"), ("x" * 256, "1 to 255")], ids=["exists", "empty", "long"])
def test_bad_snapshot_names_are_refused(images, name, says):
    fails(images, ["snapshot", "-c", name, "A"], "A", says)


def test_in_use_by_a_running_vm(daemon, kvm, guest, images):
    images.qemu("create", "-q", "-f", "qcow2", "-b", "other", "-F", "qcow2", "over")
    before = contents(images.path)["A"]
    daemon.define("vm1", boot={"kernel": guest("idle.elf")}, disks=[
        {"path": str(images.path / "A"), "format": "qcow2"},
        {"path": str(images.path / "over"), "format": "qcow2",
         "backing": [{"path": str(images.path / "other"), "format": "qcow2"}]}])
    daemon.cairn("start", "vm1")
    for verb in READERS:
        fails_in_use(images, verb, "is open for writing")
    for verb in WRITERS + [["create", "-f", "qcow2", "A", "1M"], ["create", "-f", "raw", "A", "1M"]]:
        # Snapshots, which A has, are a reason of their own not to commit.
        fails_in_use(images, ["commit", "-f", "qcow2", "over"] if verb[0] == "commit" else verb, "in use")
    for verb in (["info", "-U", "A"], ["check", "-U", "A"], ["map", "-U", "A"]):
        images.img(*verb)
    daemon.cairn("destroy", "vm1")
    assert contents(images.path)["A"] == before
    images.img("check", "A")


def fails_in_use(box, verb, says):
    before = {n: h for n, h in contents(box.path).items() if not n.startswith("cairnd.")}
    p = box.img(*verb, status=ERROR.get(verb[0], 1))
    sentences = [line for line in p.stderr.splitlines() if not line.startswith("Try -U ")]
    assert len(sentences) == 1 and sentences[0].startswith("cairn-img: ") and says in sentences[0], (verb, p.stderr)
    assert {n: h for n, h in contents(box.path).items() if not n.startswith("cairnd.")} == before, verb
