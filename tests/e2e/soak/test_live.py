"""Random requests on the disks of a running VM leave what the guest has written (tests/soak/live.py).
CAIRN_LIVE_STEPS steps from CAIRN_LIVE_SEED; up to CAIRN_LIVE_CLONES live clones stay beside the VM."""

import os
import shutil
import sys

import pytest

from conftest import ROOT

sys.path.insert(1, os.path.join(ROOT, "tests", "soak"))

from live import Run  # noqa: E402
from user import Difference  # noqa: E402

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img, the oracle, is missing")

STEPS = int(os.environ.get("CAIRN_LIVE_STEPS", 20))
SEED = int(os.environ.get("CAIRN_LIVE_SEED", 1))


@pytest.mark.seconds(300 + 10 * STEPS)
def test_requests_on_the_disks_of_a_running_vm_keep_its_data(daemon, kvm, guest, tmp_path):
    run = Run(daemon, guest("interp.elf"), tmp_path / "images", SEED, kills=0.1, pairs=0.2, clones=int(os.environ.get("CAIRN_LIVE_CLONES", 0)))
    try:
        run.go(STEPS)
    except Difference as e:
        pytest.fail(f"seed {SEED}: {e}", pytrace=False)
    for (kind, how), n in sorted(run.counts.items()):
        print(f"{kind}: {n} {how}")
