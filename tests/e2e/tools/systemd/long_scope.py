"""The daemon under this machine's own systemd, which is the init of a pid namespace in the emulated SVM host: the scope
of VMs, their limits, what restarts of the daemon and of systemd leave, VMs in users' folders, systemd-machined and the
journal. `make check-long`, part "systemd"."""

import os
import subprocess

import pytest

import guestlib
from deblib import debs_fetched

SECONDS = 3600  # the emulated host may get a tenth of a processor
# $1: the build folder. /run/systemd/system has the daemon's units, and one that runs scope_checks.py and ends systemd.
# Units do without their default dependencies: the host needs no devices and mounts of this machine. The packages of
# systemd and machined are of one version, and are unpacked in the host's overlay only.
OUTER = r"""
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
for deb in /host-share/debs/*.deb; do
	dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C / || exit 1
done
grep -q ^messagebus: /etc/passwd || useradd --system messagebus
mkdir -p /run/systemd/system /run/lock
rm -rf /var/lib/cairn
cd /run/systemd/system
for unit in cairnd.service cairnd.socket cairn-metrics.service; do
	sed "s,@SBINDIR@,$1,; s,@LIBEXECDIR@,/run/libexec,; s,^.Unit.,&\nDefaultDependencies=no," "$2/$unit" >$unit
done
for unit in dbus.socket dbus.service systemd-machined.service; do
	mkdir $unit.d
	printf '[Unit]\nDefaultDependencies=no\n' >$unit.d/checks.conf
done
cat >checks.service <<END
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
ExecStart=/usr/bin/python3 $2/../../tests/e2e/tools/systemd/scope_checks.py $1 /host-share/result
ExecStopPost=/bin/systemctl exit 0
END
printf '[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\nWants=checks.service systemd-journald.service\n' >checks.target
touch /host-share/console
mount --bind /host-share/console /dev/console
export container=other
exec /lib/systemd/systemd --system --unit=checks.target --log-target=console --show-status=no
"""


@pytest.mark.seconds(SECONDS + 120)
def test_scope_under_systemd(tmp_path):
    build = os.path.abspath(guestlib.BUILD)
    debs_fetched(tmp_path / "debs", "systemd", "systemd-container", "libsystemd-shared", "dbus", "dbus-system-bus-common")
    (tmp_path / "outer").write_text(OUTER)
    run = subprocess.run(
        [*guestlib.SVMHOST, "--timeout", str(SECONDS), "--share", str(tmp_path), "--", "unshare", "--pid", "--fork", "--mount",
         "--kill-child", "sh", "/host-share/outer", build, os.path.join(guestlib.ROOT, "tools", "systemd")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=SECONDS + 60)
    result = tmp_path / "result"
    assert result.exists() and result.read_text() == "ok\n", (run.stdout[-4000:], result.exists() and result.read_text())
