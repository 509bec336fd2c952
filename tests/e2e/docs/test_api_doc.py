"""docs/api.md matches the sockets' introspection, and its examples work."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from conftest import BUILD, FAKE_VM, ROOT

sys.path.insert(0, os.path.join(ROOT, "tests"))
import api_doc  # noqa: E402

PAGE = pathlib.Path(ROOT, "docs", "api.md").read_text()
# Language, code and output; … in the output matches anything.
EXAMPLES = re.findall(r"```(sh|python|typescript)\n(.*?)```\n```\n(.*?)```", PAGE, re.S)


def test_reference_matches_schema():
    if not os.path.exists(FAKE_VM):
        pytest.fail("fake_vm is not built: make helpers")
    page, wanted = api_doc.compare(BUILD)
    assert page.splitlines() == wanted.splitlines(), "run: tests/api_doc.py BUILD --write"


TSC = ["tsc", "--strict", "--target", "es2020", "--lib", "es2020", "--module", "commonjs", "example.ts", "node.d.ts"]


def compiled(code, folder):
    """Check the types of a program and compile it. Returns its path."""
    if not shutil.which("tsc") or not shutil.which("node"):
        pytest.skip("needs node-typescript and nodejs")
    (folder / "example.ts").write_text(code)
    for path in (os.path.join(BUILD, "cairn.d.ts"), os.path.join(ROOT, "tests", "clients", "node.d.ts")):
        shutil.copy(path, folder)
    r = subprocess.run(TSC, cwd=folder, capture_output=True, text=True, timeout=100)
    assert r.returncode == 0, r.stdout + r.stderr
    return str(folder / "example.js")


@pytest.mark.seconds(120)
@pytest.mark.parametrize("n", range(5))
def test_examples_run_as_printed(fake, tmp_path, n):
    assert len(EXAMPLES) == 5
    language, code, prints = EXAMPLES[n]
    (fake.tmp / "disk").write_bytes(bytes(1 << 20))
    fake.define("web1", disks=[{"path": "disk", "format": "qcow2"}])
    fake.define("db1")
    fake.cairn("start", "web1")
    command = ["node", compiled(code, tmp_path)] if language == "typescript" else [*{"sh": ["sh", "-c"], "python": ["/usr/bin/python3", "-c"]}[language], code]
    r = subprocess.run(command, env={**fake.env, "PATH": BUILD + ":" + os.environ["PATH"], "PYTHONPATH": os.path.join(BUILD, "python")},
                       capture_output=True, text=True, timeout=60)
    assert r.returncode == 0 and not r.stderr, r.stderr
    pattern = ".*?".join(map(re.escape, prints.splitlines() and prints.split("…")))
    assert re.fullmatch(pattern, r.stdout.replace("\r\n", "\n")), r.stdout
