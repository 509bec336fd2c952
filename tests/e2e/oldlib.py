"""Programs of an earlier commit, built from git's history into the cache (as tests/guests/linux/build.sh does)."""

import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

from conftest import ROOT


def cache():
    base = os.environ.get("CAIRN_CACHE")
    return pathlib.Path(base or pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "cairn")


def old_build(commit, all_programs=False):
    """Return the folder with cairnd and cairn-vm of that commit; all_programs: with all programs and the tests'
    helpers. Skip the test if the clone has no such commit."""
    have = subprocess.run(["git", "-C", ROOT, "rev-parse", "--verify", "--quiet", commit + "^{commit}"],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if have.returncode:
        pytest.skip(f"the clone lacks commit {commit}: git fetch --unshallow")
    folder = cache() / f"old-{have.stdout[:12]}{'-all' if all_programs else ''}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = pathlib.Path(tempfile.mkdtemp(prefix="old-new-", dir=folder.parent))
        try:
            archive = subprocess.Popen(["git", "-C", ROOT, "archive", commit], stdout=subprocess.PIPE)
            subprocess.run(["tar", "-x", "-C", str(new)], stdin=archive.stdout, check=True)
            assert archive.wait() == 0
            targets = ["all", "helpers"] if all_programs else ["build/cairnd", "build/cairn-vm"]
            env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "BUILD")}
            subprocess.run(["make", "-C", str(new), f"-j{os.cpu_count()}", *targets], check=True, env=env,
                           stdout=subprocess.DEVNULL)
            new.rename(folder)
        except OSError:
            if not folder.exists():  # otherwise another test was faster
                raise
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return folder / "build"
