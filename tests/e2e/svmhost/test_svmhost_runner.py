"""tests/svmhost/svmhost: what it does with a host that stands still."""

import os
import re
import shutil
import subprocess
import tempfile

import pytest

import guestlib

pytestmark = [
    pytest.mark.seconds(300),  # the first start saves the host
    pytest.mark.skipif("CAIRN_IN_SVMHOST" in os.environ, reason="this is the SVM host"),
    pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="no QEMU"),
]


def run(script, *options):
    return subprocess.run([*guestlib.SVMHOST, "--timeout", "120", *options, "--", "sh", "-c", script],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=280)


def test_each_cpu_has_a_periodic_tick():
    """A lost interrupt of a one-shot timer would be the last one that its CPU gets."""
    done = run("grep -e ^Per.CPU -e event_handler /proc/timer_list")
    assert done.returncode == 0, done.stdout
    handlers = [line.split()[-1] for line in done.stdout.splitlines() if "event_handler" in line]
    assert handlers.count("tick_handle_periodic") == done.stdout.count("Per CPU device") > 0, done.stdout


@pytest.mark.parametrize("options", [(), ("--cold",)])
def test_clock_has_the_speed_of_the_machine(options, tmp_path):
    """The kernel measures it wrongly on a busy machine, and the clock of a saved host would be wrong for ever."""
    program = tmp_path / "tsc_khz"
    subprocess.run(["gcc", "-O2", "-o", program, os.path.join(guestlib.ROOT, "tests/svmhost/tsc_khz.c")], check=True)
    mhz = int(subprocess.run([program], capture_output=True, text=True, check=True).stdout) / 1000
    done = run("dmesg", *options)
    seen = [float(n) for n in re.findall(r"tsc: .*?([0-9.]+) MHz", done.stdout)]
    assert seen and all(abs(n - mhz) < mhz / 100 for n in seen), (mhz, done.stdout)


LOOP = r"""
#include <stdio.h>
#include <time.h>

int main(void)
{
	long least = -1;
	for (int i = 0; i < 20; i++) {
		struct timespec a, b;
		int n = 1000000;
		clock_gettime(CLOCK_MONOTONIC, &a);
		__asm__ volatile("1: dec %0; jnz 1b" : "+r"(n));
		clock_gettime(CLOCK_MONOTONIC, &b);
		long ns = (b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec;
		if (least < 0 || ns < least)
			least = ns;
	}
	printf("%ld ns\n", least);
}
"""


def test_clock_can_count_instructions(tmp_path):
    """A loop of a million times two instructions takes 4 ms of that clock on each machine, at each load."""
    subprocess.run(["gcc", "-O2", "-static", "-xc", "-", "-o", tmp_path / "loop"], input=LOOP, text=True, check=True)
    done = run(f"{tmp_path}/loop", "--count")
    assert done.returncode == 0, done.stdout
    assert 4_000_000 <= int(re.search(r"(\d+) ns", done.stdout)[1]) < 4_200_000, done.stdout


def test_instructions_of_two_processors_are_not_counted():
    done = run("true", "--count", "--smp", "2")
    assert (done.returncode, done.stdout) == (125, "svmhost: --count needs --smp 1\n")


def test_host_without_a_sign_of_life_is_ended_and_its_processors_are_told():
    done = run("kill -STOP $(cat /run/svmhost/alive) && exec sleep 1000", "--silence", "6")
    assert done.returncode == 125, done.stdout
    for words in ("no sign of life for 6 seconds", "VM status: running", "RIP=", "APIC state for CPU 0",
                  "NMI received", "NMI backtrace for cpu 0", "event_handler:  tick_handle_periodic"):
        assert words in done.stdout


def test_folder_that_the_user_may_not_list_is_named():
    with tempfile.TemporaryDirectory() as folder:
        below = os.path.join(folder, "below")
        os.mkdir(below)
        os.chmod(below, 0o755)
        script = shutil.copy(guestlib.SVMHOST[0], below)  # another user may not enter this tree
        os.chmod(script, 0o755)
        os.chmod(folder, 0o300 if os.geteuid() else 0o711)
        user = {} if os.geteuid() else {"user": 65534, "group": 65534, "extra_groups": []}
        done = subprocess.run([script, "--", "true"], cwd=below, **user, capture_output=True, text=True)
        os.chmod(folder, 0o700)
    assert (done.returncode, done.stdout) == (125, "")
    assert re.fullmatch(rf"svmhost: the emulated host cannot enter {below}: .* may not list {folder}; chmod it, or work elsewhere\n", done.stderr)
