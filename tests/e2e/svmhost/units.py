"""The unit programs that need /dev/kvm, for test_svmhost.py: in the emulated host, each is a test.
Elsewhere, tests/run.sh runs all unit programs."""

import os
import pathlib
import subprocess

import pytest

import guestlib

UNITS = pathlib.Path(guestlib.ROOT, "tests", "unit")
PROGRAMS = sorted(str(p.relative_to(UNITS).with_suffix("")) for p in UNITS.rglob("test_*.c")
                  if any(word in p.read_text() for word in ("/dev/kvm", "fixture_kvm.h")))


@pytest.mark.seconds(900)
@pytest.mark.parametrize("program", PROGRAMS)
def test_unit_program(program, tmp_path):
    if not os.path.exists(os.path.join(guestlib.BUILD, "unit", program)):
        pytest.skip("not built (make units)")
    run = subprocess.run([os.path.join(guestlib.ROOT, "tests", "unit.sh"), guestlib.BUILD, tmp_path, program], stdout=subprocess.PIPE,
                         text=True, timeout=880, env={**os.environ, "UNIT_SECONDS": "840", "TMPDIR": str(tmp_path)})
    passed, failed, _ = map(int, (tmp_path / (program.replace("/", "-") + ".sum")).read_text().split())
    assert passed and not failed and "/dev/kvm" not in run.stdout, run.stdout
