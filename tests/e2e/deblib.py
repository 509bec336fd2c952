"""Programs of Debian packages for the parts of make check-long that exist to run them: without them, a test fails."""

import os
import shutil
import subprocess

from conftest import ROOT

# $1: a folder for the lists and the packages. The rest: names.
FETCH = r"""
set -eu
. tests/apt.sh
work=$1
shift
mkdir -p "$work/lists/partial" "$work/archives/partial"
apt_sources deb >"$work/sources.list"
apt apt-get -qq update
cd "$work"
apt apt-get -qq download "$@"
"""


def needed(*programs):
    missing = [p for p in programs if not shutil.which(p)]
    assert not missing, f"missing: {' and '.join(missing)}; make deps installs all that the tests need"


def debs_fetched(folder, *names):
    """Fetch these packages of the machine's release, without what they depend on, and return their paths. They are not
    installed."""
    folder.mkdir()
    r = subprocess.run(["sh", "-c", FETCH, "sh", folder, *names], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert r.returncode == 0, f"apt has no {' or '.join(names)}: {r.stderr}"
    return sorted(folder.glob("*.deb"))


def deb_unpacked(deb, into):
    os.makedirs(into, exist_ok=True)
    subprocess.run(["dpkg-deb", "-x", deb, into], check=True)
