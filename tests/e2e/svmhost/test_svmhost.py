"""Run the tests with guests again in the emulated SVM host, where KVM behaves as on hardware.
Two such hosts run side by side. Each test that runs in a host is a test case of this file."""

import collections
import concurrent.futures
import functools
import glob
import os
import shutil
import subprocess
import tempfile
import time
import xml.etree.ElementTree as xml

import pytest

import guestlib
import units

# Tests in which the host's KVM or userfaultfd matters, for each with the least of its parameters. The parts bare-svm,
# linux-svm and snapshots-svm of make check-long run all.
BARE = (
    "test_first_byte", "test_start_info", "test_memory_map", "test_pit_ticks", "test_lapic_timer_ticks",
    "test_kvm_clock_goes_with_the_host", "test_unknown_msr_raises_fault_in_guest", "test_processors_start[2]",
    "test_sixty_four_processors_start", "test_topology_in_cpuid", "test_system_calls", "test_interrupts_of_each_kind",
    "test_disk_keeps_written_data", "test_disk_discard_and_zeroes", "test_disk_ring_shapes[16-1-268435456-5]",
    "test_several_disks", "test_malformed_ring_needs_reset[loop]", "test_unclaimed_ports_read_all_ones",
    "test_unclaimed_addresses_read_all_ones", "test_device_registers_survive_random_access[1]",
    "test_pci_configuration_survives_random_writes[1]", "test_triple_fault_is_a_crash",
    "test_unemulatable_instruction_is_a_crash", "test_panic_is_reported", "test_deadline_ends_guest_that_ignores_button",
    "test_power_off_ends_with_status_0", "test_debug_exit_is_the_status[42]", "test_power_button_reaches_the_guest",
    "test_reset_restarts_guest", "test_reset_ends_when_the_definition_says_so",
    "test_idle_guest_uses_no_cpu", "test_interrupt_lines")
LINUX = (
    "test_file_survives_shutdown_and_second_start", "test_vmlinux_and_bzimage_boot[bzImage]",
    "test_all_vcpus_come_up_and_go_down[2]", "test_reboot_restarts_linux", "test_panic_of_linux_is_reported",
    "test_revert_brings_deleted_files_back", "test_shutdown_by_agent_is_not_restarted",
    "test_quiesced_snapshot_has_consistent_files", "test_agent_in_the_initramfs",
    "test_command_in_a_guest_without_a_definition",
    "test_vsock", "test_virtio_console")
LINUX_DEVICES = ("test_scsi_disk_and_cd_drive", "test_scsi_disk_comes_and_goes")
SNAPSHOT = (
    "test_vm_clock_counts_the_time_that_the_guest_ran", "test_revert_restores_page_tables",
    "test_second_snapshot_writes_changed_memory_only", "test_guest_reset_waits_for_snapshot[True-poweroff]",
    "test_snapshot_of_several_vcpus", "test_each_revert_has_new_generation_id", "test_clocks_after_revert",
    "test_managed_save_keeps_memory_and_disk")
GOLDEN_STATES = (
    "test_golden_state_of_baseline_is_refused_by_name",
    "test_machine_is_that_of_golden_states_of_its_version[9-devices]", "test_restored_golden_state_is_saved_again[9-devices]",
    "test_a_golden_state_is_restored[1]", "test_a_golden_state_is_restored[9-devices]")
# Tests that need all controllers of control groups.
CGROUPS = (
    "test_limits_follow_the_definition", "test_image_in_memory_leaves_memory_without_limit",
    "test_process_beyond_its_memory_is_killed_alone", "test_taken_over_process_takes_memory_until_its_limit",
    "test_taken_over_process_makes_threads_until_its_limit", "test_full_vm_is_forked_and_its_clone_takes_a_snapshot",
    "test_process_made_ahead_has_the_limits_of_its_vm", "test_daemon_without_systemd_makes_a_tree", "test_daemon_of_systemd_asks_for_a_scope")
# For each host, the test files and the tests of each file that run there. Other tests would take too long.
HOSTS = (
    {"test_bare.py": BARE, "test_linux.py": LINUX, "test_fork.py": ("test_clone_continues_with_memory_of_its_source",),
     "test_linux_devices.py": LINUX_DEVICES, "test_linux_root.py": ("test_image_runs_with_its_environment_and_folder", "test_terminal_of_an_image"),
     "test_linux_warm.py": ("test_later_runs_begin_from_a_state_and_a_damaged_one_is_not_used",
                            "test_guest_that_begins_from_a_state_mounts_the_volumes_of_its_own_run"),
     "test_net.py": ("test_linux_uses_network_with_offloads_and_announces_itself",), "test_share.py": ("test_linux_mounts_shares",),
     "test_boot.py": ("test_32_bit_kernel_turns_paging_on", "test_memtest86_starts[x64]", "test_linux_shows_smbios")},
    {"test_snapshot.py": SNAPSHOT, "test_golden_states.py": GOLDEN_STATES,
     "test_nested.py": ("test_revert_leaves_and_enters_the_guests_guest", "test_guests_guest_goes_on_in_a_clone_and_its_source"),
     "test_registers.py": ("test_states_of_processors_without_a_guest", "test_reset_clears_registers[by the guest]"),
     "test_processor.py": ("test_guest_sees_its_named_model", "test_chosen_processor", "test_missing_feature_is_refused_by_name",
                           "test_hidden_feature_stays_hidden_or_is_told"),
     "test_cgroups.py": CGROUPS,
     "test_live.py": ("test_requests_on_the_disks_of_a_running_vm_keep_its_data",),
     "test_tracking.py": ("test_system_call_follows_the_device[denied]",),
     "test_faults.py": ("test_daemon_of_root_exceeds_the_hard_limit_of_open_files",),
     "test_pressure.py": ("test_pressure_of_the_vms_group_frees_its_memory",),
     "test_balance.py": ("test_shares_move_to_the_vm_that_waits",),
     "test_transparent_huge_pages.py": ("test_host_that_collects_huge_pages_does_not_fill_memory_with_zeros",),
     "test_bios.py": ("test_fill_of_memory_by_the_firmware",),
     "test_vhost.py": ("test_kernel_moves_the_frames", "test_snapshot_and_revert_have_what_the_kernel_wrote"),
     "test_namespaces.py": ("test_required_sandbox_that_is_complete", "test_required_sandbox_that_lacks_a_part_starts_no_vm"),
     "units.py": tuple(f"test_unit_program[{program}]" for program in units.PROGRAMS)},
    {"test_transparent_huge_pages.py": (
        "test_memory_of_128_mib_is_in_huge_pages", "test_memory_of_a_plain_users_vm_is_in_huge_pages",
        "test_small_guests_and_those_that_ask_for_it_have_small_pages", "test_memory_in_huge_pages_survives_whatever_moves_it",
        "test_memory_is_in_huge_pages_again_after_a_new_process", "test_revert_of_a_huge_page_that_is_in_use_replaces_all_memory",
        "test_host_that_collects_huge_pages_does_not_fill_memory_with_zeros"),
     "test_linux_warm.py": ("test_pages_that_a_guest_touches_first_are_mapped_in_advance",),
     "units.py": ("test_unit_program[vmm/kvm/test_prefault]",)},
)
# Of the small Linux. A machine without KVM has no use for the other variant, which takes 9 minutes to build.
VARIANT = "smp"
KERNELS = ("", "", "backports")  # of each host: CAIRN_SVMHOST_KERNEL
E2E = os.path.join(guestlib.ROOT, "tests", "e2e")
SECONDS = 2400  # on an idle machine each host takes 1 to 3 minutes
LINES_MAX = 400  # of a host's output that a failed test shows

def unlisted():
    """Return a folder above this tree that the user may not list: the emulated host cannot enter it. None: none."""
    parts = os.path.realpath(guestlib.ROOT).split("/")
    return next((p for i in range(2, len(parts) + 1) if not os.access(p := "/".join(parts[:i]), os.R_OK)), None)


pytestmark = [
    pytest.mark.seconds(SECONDS + 1500),  # the first test also builds kernels and runs them all
    pytest.mark.skipif("CAIRN_IN_SVMHOST" in os.environ, reason="this is the SVM host"),
    pytest.mark.skipif(guestlib.host_kind() in ("svm", "vmx"), reason="this host has real hardware"),
    pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="no QEMU"),
    pytest.mark.skipif(unlisted() is not None, reason=f"the emulated host cannot enter this folder: the user may not list {unlisted()}"),
]


def path_of(name):
    """Return the path of a test file, which may be in any folder of tests/e2e."""
    [path] = glob.glob(os.path.join(E2E, "**", name), recursive=True)
    return path


def run_there(files, kernel):
    """Run these tests in one host with this kernel. Return (results, output): results maps a test's name to
    [(outcome, text), ...]."""
    nodes = [f"{path_of(name)}::{test}" for name, tests in files.items() for test in tests]
    with tempfile.TemporaryDirectory(prefix="cairn-svmhost-") as share:
        begin = time.monotonic()
        with subprocess.Popen(
            [*guestlib.SVMHOST, "--timeout", str(SECONDS), "--share", share, "--", "/usr/bin/python3", "-m", "pytest",
             "-v", "--tb=short", "-p", "no:cacheprovider", "--basetemp=/tmp/svmhost-e", "--junitxml=/host-share/results.xml", *nodes],
            env={**os.environ, "CAIRN_IN_SVMHOST": "1", "CAIRN_BUILD": guestlib.BUILD, "CAIRN_SVMHOST_KERNEL": kernel, "CAIRN_LINUX_VARIANT": VARIANT},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as run:
            lines = collections.deque((f"{time.monotonic() - begin:4.0f} s {line}" for line in run.stdout), LINES_MAX)
        path = os.path.join(share, "results.xml")
        cases = xml.parse(path).getroot().iter("testcase") if os.path.exists(path) else ()
        found = {}
        for case in cases:
            name = case.get("classname").split(".")[-1] + "." + case.get("name")
            child = next((c for c in case if c.tag in ("failure", "error", "skipped")), None)
            text = "" if child is None else f"{case.get('name')}: {child.get('message')}\n{child.text or ''}"
            for key in {name, name.split("[")[0]}:  # HOSTS may name all parameters of a test, or one
                found.setdefault(key, []).append((None if child is None else child.tag, text))
        return found, "".join(lines)


told = set()  # hosts whose output a failed test has shown


@functools.lru_cache(maxsize=None)
def results():
    """Run all hosts once and return the result of run_there() for each, in the order of HOSTS."""
    guestlib.linux_kernel(VARIANT)  # the host would need an hour to build it
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(run_there, HOSTS, KERNELS))


@functools.lru_cache(maxsize=None)
def fault(kernel):
    """Return the reason why no test can run in a host with this kernel, or None."""
    version = subprocess.run([*guestlib.SVMHOST, "--qemu"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    if int(version.split(".")[0]) < 10:
        return f"QEMU {version} loses interrupts of guests in the SVM host, and QEMU 10 could not be fetched"
    if kernel:
        r = subprocess.run([*guestlib.SVMHOST, "--prepare"], env={**os.environ, "CAIRN_SVMHOST_KERNEL": kernel}, capture_output=True, text=True)
        return f"no kernel of {kernel} could be fetched: {r.stderr}" if r.returncode else None
    return None


@pytest.mark.parametrize("host, name", [
    pytest.param(i, f"{name[:-3]}.{test}", id=f"{name[:-3]}.{test}")
    for i, files in enumerate(HOSTS) for name, tests in files.items() for test in tests])
def test_svmhost(host, name):
    if fault(KERNELS[host]):
        pytest.skip(fault(KERNELS[host]))
    found, output = results()[host]
    if name not in found:
        words = "the first test of this host that did not run shows them" if host in told else "\n" + output
        told.add(host)
        pytest.fail("it did not run; the host's last words: " + words)
    bad = [text for kind, text in found[name] if kind in ("failure", "error")]
    if bad:
        pytest.fail("\n".join(bad))
    if all(kind == "skipped" for kind, _ in found[name]):
        pytest.skip(found[name][0][1].strip())
