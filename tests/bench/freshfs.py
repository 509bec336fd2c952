"""freshfs: a new file system for a benchmark whose figures depend on the history of the file system. An ext4 without a
journal, for instance, skips recently deleted inodes one by one: there, each of the nine files of a clone took 0.5 ms
instead of 0.03."""

import contextlib
import ctypes
import os
import pathlib
import subprocess
import tempfile

from benchlib import Unfit

CLONE_NEWNS = 0x20000
MIB = 1 << 20
NEW = "new ext4 on a loop device"


def namespace_own():
    """Give this process, and the daemons that it starts, a mount namespace: the mounts end with the processes, however
    these end."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True, stderr=subprocess.DEVNULL)


def run(*argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def loop_device(image, mib):
    """Make a loop device that works like a partition: its file is written throughout and bypasses the page cache. In a
    sparse file, each flush would also change the host's file system."""
    run("dd", "if=/dev/zero", f"of={image}", "bs=4M", f"count={mib // 4}", "oflag=direct")
    return run("losetup", "--direct-io=on", "--find", "--show", image)


def mount_new(folder, mib, inodes):
    """Mount an ext4 as mkfs makes it, with a journal. Return the mount; None: this user or host cannot."""
    image, at = folder / "image", folder / "mount"
    at.mkdir()
    device = None
    try:
        namespace_own()
        device = loop_device(image, mib)
        # Without lazy initialization, no kernel thread writes tables while the benchmark runs.
        run("mkfs.ext4", "-q", "-N", str(inodes), "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", device)
        run("mount", device, at)
    except (OSError, subprocess.CalledProcessError):
        return None
    finally:
        if device:
            run("losetup", "--detach", device)  # at once, or when it is unmounted
        image.unlink(missing_ok=True)
    return at


def name_of(folder):
    """Return the type of the folder's file system, for rows."""
    return run("findmnt", "--noheadings", "--output", "FSTYPE", "--target", folder) + " in use"


@contextlib.contextmanager
def folder(bench, mib, parent=None, inodes=1 << 16):
    """Yield a folder on a new ext4 of that size and for so many files below parent (TMPDIR), or, if it cannot be
    mounted, a folder of parent. The rows that are measured meanwhile name the file system."""
    with tempfile.TemporaryDirectory(prefix="cairn-bench-", dir=parent) as path:
        path = pathlib.Path(path)
        os.chmod(path, 0o711)
        st = os.statvfs(path)
        if st.f_bavail * st.f_frsize < mib * MIB:
            raise Unfit(f"{path.parent} has less than {mib} MiB free")
        at = mount_new(path, mib, inodes)
        bench.on = NEW if at else name_of(path)
        try:
            yield at or path
        finally:
            bench.on = ""
            if at:
                run("umount", "--lazy", at)
