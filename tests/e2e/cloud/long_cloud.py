"""A Debian cloud image in the emulated SVM host: `make check-long`, part "cloud". The tests are in cloud_checks.py;
each of them is a test case here."""

import ast
import functools
import os
import shutil
import subprocess
import tempfile
import xml.etree.ElementTree as xml

import pytest

import guestlib

SECONDS = 7200  # on a busy machine; at load 25 it took 1,530
BUILD_SECONDS = 1200  # of the image, once
NO_IMAGE = 77
CHECKS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "cloud_checks.py")
IMAGE = os.path.join(guestlib.ROOT, "tests", "guests", "debian", "build.sh")

pytestmark = [
    pytest.mark.seconds(SECONDS + BUILD_SECONDS + 120),
    pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="no QEMU"),
]


def names():
    with open(CHECKS) as f:
        return [node.name for node in ast.parse(f.read()).body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]


@functools.lru_cache(maxsize=None)
def image():
    """Return the folder of the image and None, or None and the reason why it cannot be built."""
    r = subprocess.run([IMAGE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=BUILD_SECONDS)
    if r.returncode == NO_IMAGE:
        return None, r.stderr.strip().splitlines()[-1]
    assert r.returncode == 0, r.stderr
    return r.stdout.strip(), None


@functools.lru_cache(maxsize=None)
def results():
    """Run the tests in the host. Return {name: None or the text of its failure}, and the end of the output."""
    with tempfile.TemporaryDirectory(prefix="cairn-cloud-") as share:
        run = subprocess.run(
            [*guestlib.SVMHOST[:1], "--smp", "2", "--timeout", str(SECONDS), "--share", share, "--", "/usr/bin/python3", "-m", "pytest", "-s",
             "-x", "-v", "--tb=short", "-p", "no:cacheprovider", "--junitxml=/host-share/results.xml", CHECKS],
            env={**os.environ, "CAIRN_IN_SVMHOST": "1", "CAIRN_BUILD": guestlib.BUILD, "CAIRN_DEBIAN": image()[0]},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=SECONDS + 60)
        said, found, path = run.stdout[-20000:], {}, os.path.join(share, "results.xml")
        for name in sorted(n for n in os.listdir(share) if n.endswith(".console")):
            with open(os.path.join(share, name), errors="replace") as f:
                said += f"\n--- {name}\n{f.read()[-4000:]}"
        for case in xml.parse(path).getroot().iter("testcase") if os.path.exists(path) else ():
            child = next((c for c in case if c.tag in ("failure", "error", "skipped")), None)
            found[case.get("name")] = None if child is None else f"{child.get('message')}\n{child.text or ''}"
        print(said)
        return found, said


@pytest.mark.parametrize("name", names())
def test_cloud(name):
    if image()[1]:
        pytest.skip(image()[1])
    found, said = results()
    assert name in found, f"{name} did not run: an earlier one has failed\n{said}"
    assert found[name] is None, f"{found[name]}\n{said}"
