"""Random requests on VMs that are off change only what a model says (tests/soak/off.py): no request on one VM changes
the content of another VM's disks, or of any snapshot, linked clone or template. CAIRN_OFF_STEPS steps from
CAIRN_OFF_SEED."""

import os
import shutil
import sys

import pytest

from conftest import ROOT

sys.path.insert(1, os.path.join(ROOT, "tests", "soak"))

from off import Failure, Run  # noqa: E402

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img, the oracle, is missing")

STEPS = int(os.environ.get("CAIRN_OFF_STEPS", 40))
SEED = int(os.environ.get("CAIRN_OFF_SEED", 1))


@pytest.mark.seconds(120 + 4 * STEPS)
def test_requests_on_vms_that_are_off_change_nothing_of_others(daemon, tmp_path):
    run = Run(daemon, tmp_path / "images", SEED, kills=0.1, pairs=0.2)
    try:
        run.go(STEPS)
    except Failure as e:
        pytest.fail(f"seed {SEED}: {e}", pytrace=False)
    for (kind, how), n in sorted(run.counts.items()):
        print(f"{kind}: {n} {how}")
