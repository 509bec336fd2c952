"""plainlib: daemons and VMs of a plain user in the group of /dev/kvm. Mount namespaces replace /dev/userfaultfd; the
host's own stays as it is. Needs root."""

import contextlib
import os
import pathlib
import shutil
import stat
import subprocess
import tempfile

from conftest import BUILD, Daemon

NOBODY = 65534
DEVICE = "/dev/userfaultfd"


def devices(folder):
    """Make the files that replace /dev/userfaultfd: one for the group of /dev/kvm, one for root only, and no
    userfaultfd."""
    number, group = os.stat(DEVICE).st_rdev, os.stat("/dev/kvm").st_gid
    for name, mode in (("permitted", 0o660), ("denied", 0o600)):
        os.mknod(folder / name, stat.S_IFCHR | mode, number)
        os.chown(folder / name, 0, group)
        os.chmod(folder / name, mode)
    os.symlink("/dev/null", folder / "absent")


def as_plain_user(device, *argv, uid=NOBODY):
    """Return argv as a user in the group of /dev/kvm, with `device` in the place of /dev/userfaultfd."""
    group = str(os.stat("/dev/kvm").st_gid)
    return ["unshare", "-m", "sh", "-c", f'mount --bind "$0" {DEVICE} && exec "$@"', str(device),
            "setpriv", "--reuid", str(uid), "--regid", str(uid), "--groups", group, *argv]


@contextlib.contextmanager
def plain_folder(uid=NOBODY, prefix="cairn-test-", place=None):
    """Make a folder that the plain user owns and reaches, with Cairn's programs: the build folder may be closed to
    others."""
    with tempfile.TemporaryDirectory(prefix=prefix, dir=place) as path:
        path = pathlib.Path(path)
        for program in ("cairnd", "cairn-vm", "cairn-log", "cairn"):
            shutil.copy(os.path.join(BUILD, program), path)
        devices(path)
        os.chown(path, uid, uid)
        yield path


class PlainDaemon(Daemon):
    """A plain user's daemon in a folder of plain_folder()."""

    def __init__(self, tmp, device, uid=NOBODY):
        self.device, self.uid = device, uid
        super().__init__(tmp, vm_program=str(tmp / "cairn-vm"))

    def command(self):
        _, *args = super().command()
        return as_plain_user(self.device, str(self.tmp / "cairnd"), *args, uid=self.uid)

    def define(self, name, **keys):
        """Define a VM whose kernel and disks root has made: give them to the user."""
        kernel = keys.get("boot", {}).get("kernel")
        if kernel and os.path.isabs(kernel):
            keys["boot"] = {**keys["boot"], "kernel": shutil.copy(kernel, self.tmp)}
        for disk in keys.get("disks", []):
            os.chown(disk["path"], self.uid, self.uid)
        super().define(name, **keys)


def qcow2(path, size):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, size], check=True)
    return {"path": str(path), "format": "qcow2"}
