"""commit to any backing file of the chain (-b), compared with qemu-img; its rate limit."""
import os
import shutil
import time

import pytest
from test_img import box  # noqa: F401
from test_img_verbs import sha

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img, the oracle, is missing")

NAMES = ("base", "mid", "low", "top")


@pytest.fixture(params=["8M 8M 8M", "2M 6M 8M", "8M 3M 5M", "8M 8M 2M"])
def chain(box, request):
    """base (raw, 4 MiB) <- mid <- low <- top, in two folders with the same content: ours and theirs. The layers have
    several sizes: a layer that is too short hides what lies below."""
    for folder in ("ours", "theirs"):
        (box.path / folder).mkdir()
        box.qemu("create", "-q", "-f", "raw", f"{folder}/base", "4M")
        box.io(f"{folder}/base", "write -P 1 0 4M", fmt="raw")
        for below, (i, name), size in zip(NAMES, enumerate(NAMES[1:]), request.param.split()):
            fmt = "raw" if below == "base" else "qcow2"
            box.qemu("create", "-q", "-f", "qcow2", "-b", below, "-F", fmt, f"{folder}/{name}", size)
            box.io(f"{folder}/{name}", f"write -P {2 + i} {i * 512}k 700k", f"write -z {i * 100 + 1600}k 100k")
    return box


@pytest.mark.sample(8)
@pytest.mark.parametrize("base", NAMES[:3])
@pytest.mark.parametrize("options", [(), ("-d", "-r", "100M")])
def test_commit_to_a_base(chain, base, options):
    before = sha(chain, "ours/top")
    for tool, folder in ((chain.img, "ours"), (chain.qemu, "theirs")):
        assert tool("commit", "-f", "qcow2", "-b", base, *options, f"{folder}/top").stdout == "Image committed.\n"
    fmt = "raw" if base == "base" else "qcow2"
    assert sha(chain, f"ours/{base}", fmt) == sha(chain, f"theirs/{base}", fmt)
    assert sha(chain, "ours/top") == before
    for name in NAMES[1:]:
        chain.qemu("check", f"ours/{name}")


def test_commit_to_a_path(box):
    (box.path / "sub").mkdir()
    box.qemu("create", "-q", "-f", "raw", "sub/base", "1M")
    box.qemu("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "sub/mid")
    box.qemu("create", "-q", "-f", "qcow2", "-b", "mid", "-F", "qcow2", "sub/top")
    box.io("sub/top", "write -P 7 0 64k")
    box.img("commit", "-f", "qcow2", "-q", "-b", box.path / "sub/base", "sub/top")
    box.io("sub/base", "read -P 7 0 64k", fmt="raw")


@pytest.mark.sample(2)
@pytest.mark.parametrize("args", [["commit", "-f", "qcow2", "top"], ["commit", "-f", "qcow2", "-d", "above"], ["commit", "-f", "qcow2", "-b", "base", "above"],
                                  ["rebase", "-b", "", "top"], ["rebase", "-b", "base", "-F", "raw", "above"]])
def test_snapshots_keep_what_they_read_of_the_backing_file(box, args):
    """A snapshot reads the clusters that it lacks from the present backing file."""
    box.qemu("create", "-q", "-f", "raw", "base", "1M")
    box.io("base", "write -P 1 0 1M", fmt="raw")
    for name, below, fmt in (("top", "base", "raw"), ("above", "top", "qcow2")):
        box.qemu("create", "-q", "-f", "qcow2", "-b", below, "-F", fmt, name)
        box.qemu("snapshot", "-c", "s1", name)
        box.io(name, "write -P 2 0 64k")
    files = {name: (box.path / name).read_bytes() for name in ("base", "top", "above")}
    assert "has internal snapshots (1), which read the backing file" in box.fails(*args)
    assert {name: (box.path / name).read_bytes() for name in files} == files
    if "above" in args:
        box.img("snapshot", "-d", "s1", "above")
        if "-b" in args and "commit" in args:  # "top" has snapshots, too
            box.fails(*args)
            box.img("snapshot", "-d", "s1", "top")
        box.img(*args)
    box.img("rebase", "-u", "-b", "base", "-F", "raw", "top")  # the backing file has moved


@pytest.mark.sample(4)
@pytest.mark.parametrize("base", ["nosuch", "top", ""])
def test_commit_to_what_is_not_in_the_chain(chain, base):
    before = [(chain.path / "ours" / n).read_bytes() for n in NAMES]
    assert "is not in the backing chain" in chain.fails("commit", "-f", "qcow2", "-b", base, "ours/top")
    chain.qemu("commit", "-f", "qcow2", "-b", base, "theirs/top", status=1)
    assert [(chain.path / "ours" / n).read_bytes() for n in NAMES] == before


def test_commit_waits_for_its_rate(box):
    """A rate limit delays; how long a commit takes without one is not asked."""
    box.qemu("create", "-q", "-f", "raw", "base", "8M")
    box.qemu("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "top")
    box.io("top", "write -P 7 0 8M")
    begin = time.monotonic()
    box.img("commit", "-f", "qcow2", "-q", "-r", "8M", "top")
    assert time.monotonic() - begin > 0.5
    box.io("base", "read -P 7 0 8M", fmt="raw")


@pytest.mark.parametrize("args", [("-r", "fast"), ("-t", "fast"), ("-U",), ("-b",)])
def test_commit_refuses_as_qemu_does(box, args):
    box.qemu("create", "-q", "-f", "raw", "base", "1M")
    box.qemu("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "top")
    box.io("top", "write -P 7 0 64k")
    box.fails("commit", "-f", "qcow2", "top", *args)
    box.qemu("commit", "-f", "qcow2", "top", *args, status=1)
    assert not any((box.path / "base").read_bytes())
    assert sorted(os.listdir(box.path)) == ["base", "top"]
