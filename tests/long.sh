#!/bin/sh
# Run the tests that take too long for every change: long.sh BUILD. The parts, in this order:
# - oracle-KIND: LONG_OPS operations of the oracle on each kind of image (10000)
# - oracle-forks: LONG_OPS operations on each image of a chain of four forks, each time it grows
# - oracle-pins: LONG_OPS / 10 looks, on each kind of image, whether a pin still has the content of the disk
# - power-cuts: LONG_CUTS power cuts (100000)
# - power-cuts-forks: LONG_CHAIN_CUTS power cuts over a chain of four forks whose disks all write (20000)
# - mirror-cuts: LONG_CUTS / 5 power cuts while a disk is mirrored to another image
# - commit-cuts: LONG_CUTS / 10 power cuts while layers of a disk are committed
# - disk-set-cuts: a power cut at every write of a snapshot of three disks
# - storm: LONG_STORM snapshots and reverts of a running guest (1000)
# - storm-linux, storm-linux-svm: LONG_LINUX of them with Linux, on this host and on the emulated one (200), and on
#   this host a second start and a handover of Linux, and Linux on a user network
# - bare-svm, linux-svm, snapshots-svm: all tests of the bare-metal guests, of Linux and of snapshots on the emulated
#   host; make check runs a part of them there
# - vmx: snapshots, saved states and clones of bare-metal guests, of guests that are hypervisors and of Linux on an
#   emulated Intel host (vmxhost); Bochs, which emulates it, is fetched
# - bios, bios-svm: GRUB with Linux, an ISO and the network under SeaBIOS, on this host and on the emulated one
# - uefi-svm: OVMF boots a disk on the emulated host; its variables after a revert, a reset and a clone; its keyboard
# - installer-svm: Debian's installer from an ISO up to its first question, on the emulated host;
#   tests/guests/debian/installer.sh fetches the installer
# - memtest-svm: a whole pass of memtest86+ over 64 MiB, on the emulated host
# - debian-svm: Debian on a partitioned disk boots by BIOS and by UEFI on the emulated host; tests/guests/debian/disk.sh
#   makes the disk, for which it needs root
# - net-svm: vhost-net, ten Linux guests on one network, and guests that boot from a network, in the emulated host
# - plugs: LONG_PLUGS disks attached to a running VM and detached, while another disk works (1000), and as many as go
# - kills: LONG_KILLS kills of a VM with three disks or of its daemon (300)
# - daemon-kills: LONG_DAEMON_KILLS kills of a daemon with 20 VMs (500)
# - kill-points: a kill before each call of a daemon that changes something outside of it, during 38 requests, and
#   before each call of cairn run
# - copy-kills: LONG_COPIES kills during an export, an import, a clone or an undefine (200)
# - forks: LONG_FORKS steps with clones (1000)
# - races: LONG_RACES rounds of commands at random moments of others (2000)
# - fork-growth: LONG_GROWTH forks whose clones are removed at once (500)
# - promotions: LONG_PROMOTIONS promotions of a live clone while a client connects (1000)
# - images: LONG_IMAGES operations of cairn-img and QEMU's tools on images (100000), and an image with 65,536 snapshots
# - policies: LONG_POLICIES rounds with policies (300)
# - definitions: schema and parser agree about each value in each place of a definition
# - off: LONG_OFF random requests on VMs that are off (1500)
# - live-svm: LONG_LIVE random requests on the disks of a running VM, on the emulated host (400)
# - soak: LONG_SOAK steps of each of three users of one daemon (3000)
# - cpu-models: all processor models in guests of the emulated host
# - sysprep: a clone with another identity by the real virt-sysprep, in an emulated machine
# - container-images: images of Debian packages with python3, node and gcc, from Debian's docker-registry; making them
#   needs root
# - container: the tests of containers with Docker's own profile, which is fetched from Debian 13
# - upgrade: an upgrade with VMs of an older commit, which is built from git's history
# - attacks: attacks that work against commit 823e769, which is built from git's history, and fail here
# - systemd: the daemon and its scope under a real systemd in the emulated host, with machined and journald
# - packages: the Debian packages: reproducible, lintian, autopkgtest, and upgraded with a running VM in a clean Debian
# - prometheus: a scrape by Debian's Prometheus, the expressions of the board, and the alert rules in promtool
# - browser: the page of cairn web in Debian's Chromium, which is fetched if it is not installed (needs root);
#   screenshots in BUILD/web
# - firewalls: networks beside the real ufw, firewalld and Docker
# - cloud: a Debian cloud image in the emulated host, from first boot to ssh
# - variants: all variants of the tests of which make check runs a sample
# - epoll-unit, epoll-e2e: all unit and end-to-end tests with the loop on epoll
# - fresh, fresh-13: a build and check on a fresh machine with Debian 12, and with 13 (fresh.sh)
# LONG_SEED seeds their random choices (the date). LONG_PARTS names the parts to run (all of them). A part without an
# end after LONG_SECONDS (30000) has failed, and so has a part without a sum of its tests.
#
# Prints the result of each part, and at the end the sum of all tests: "N passed, N failed, N skipped". A failed part
# keeps its folders in BUILD/failed-PART. Exit status 1 when a part failed.
set -u
cd "$(dirname "$0")/.." || exit 1

build=$(cd "${1:?usage: long.sh BUILD}" && pwd) || exit 1
ops=${LONG_OPS:-10000}
cuts=${LONG_CUTS:-100000}
chain_cuts=${LONG_CHAIN_CUTS:-20000}
storm=${LONG_STORM:-1000}
linux=${LONG_LINUX:-200}
plugs=${LONG_PLUGS:-1000}
kills=${LONG_KILLS:-300}
daemon_kills=${LONG_DAEMON_KILLS:-500}
copies=${LONG_COPIES:-200}
forks=${LONG_FORKS:-1000}
growth=${LONG_GROWTH:-500}
races=${LONG_RACES:-2000}
promotions=${LONG_PROMOTIONS:-1000}
images=${LONG_IMAGES:-100000}
policies=${LONG_POLICIES:-300}
off=${LONG_OFF:-1500}
live=${LONG_LIVE:-400}
soak=${LONG_SOAK:-3000}
seed=${LONG_SEED:-$(date +%Y%m%d)}
seconds=${LONG_SECONDS:-30000}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
ran=0 bad=0 passed=0 failed=0 skipped=0

# End the last part: print its result and its sum, and keep what it left.
part_end() { # NAME EXIT-STATUS SECONDS
	sum=$(grep -xE '[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped' "$tmp/out" | tail -n 1)
	how=passed
	case $2:$sum in
	124:* | 137:*) how="FAILED (no end within $seconds s)" ;;
	*:) how="FAILED (exit status $2, and no sum of its tests)" ;;
	0:0\ passed,*0\ skipped) how="FAILED (it ran no test)" ;;
	0:*) ;;
	*) how=FAILED ;;
	esac
	echo "  $1: $how in $3 s: ${sum:=0 passed, 1 failed, 0 skipped}"
	# shellcheck disable=SC2046 # three numbers
	set -- "$1" $(echo "$sum" | tr -dc '0-9 ')
	passed=$((passed + $2)) failed=$((failed + $3)) skipped=$((skipped + $4))
	if [ "$how" = passed ]; then
		grep -E '# SKIP|^SKIPPED' "$tmp/out" | sed 's/^ */    /'
		return
	fi
	bad=$((bad + 1))
	tail -n 60 "$tmp/out" | sed 's/^/    /'
	rm -rf "$build/failed-$1"
	[ ! -e "$build/failed" ] || mv "$build/failed" "$build/failed-$1"
}

part() { # NAME VARIABLE=VALUE... COMMAND...
	name=$1
	shift
	case " ${LONG_PARTS:-$name} " in
	*" $name "*) ;;
	*) return ;;
	esac
	ran=$((ran + 1))
	begin=$(date +%s)
	# Runners that know the limit have a minute to say which test did not end.
	timeout -k 60 $((seconds + 60)) env CAIRN_BUILD="$build" UNIT_SECONDS="$seconds" E2E_SECONDS="$seconds" "$@" >"$tmp/out" 2>&1
	part_end "$name" $? $(($(date +%s) - begin))
}

unit() { # NAME PROGRAM VARIABLE=VALUE...
	name=$1 program=$2
	shift 2
	part "$name" TEST_KEEP=1 UNIT_ARGS="$program" "$@" tests/run.sh "$build" unit
}

e2e() { # NAME TESTS VARIABLE=VALUE...
	name=$1 tests=tests/e2e/$2
	shift 2
	part "$name" TEST_JOBS=1 E2E_ARGS="$tests" "$@" tests/run.sh "$build" e2e
}

echo "Seed $seed"
for kind in $(ORACLE_SET=list "$build/unit/block/qcow2/test_oracle"); do
	unit "oracle-$kind" block/qcow2/test_oracle ORACLE_SET="$kind" ORACLE_OPS="$ops" ORACLE_SEED="$seed"
done
unit oracle-forks block/qcow2/test_pin FORKS_OPS="$ops" FORKS_SEED="$seed"
unit oracle-pins block/qcow2/test_pin_share PIN_LOOKS="$((ops / 10))" PIN_SEED="$seed"
unit power-cuts block/qcow2/test_powercut_random POWERCUT_CUTS="$cuts" POWERCUT_SEED="$seed"
unit power-cuts-forks block/qcow2/test_powercut_chain POWERCUT_CUTS="$chain_cuts" POWERCUT_SEED="$seed"
unit mirror-cuts block/test_mirror MIRROR_CUTS="$((cuts / 1000))" MIRROR_SEED="$seed"
unit commit-cuts block/qcow2/test_powercut_commit COMMIT_CUTS="$((cuts / 1000))" COMMIT_SEED="$seed"
unit disk-set-cuts vmm/snapshot/test_snapshot_set SET_CUTS="$seed"
e2e storm vmm/snapshot/test_storm.py CAIRN_STORM_ROUNDS="$storm" CAIRN_STORM_SEED="$seed"
e2e storm-linux "vmm/test_linux.py tests/e2e/vmm/test_linux_root.py tests/e2e/vmm/test_linux_warm.py tests/e2e/api/net/test_net.py
	tests/e2e/api/jobs/test_handover_devices.py
	tests/e2e/api/net/test_usernet.py -k linux" \
	CAIRN_LINUX_ROUNDS="$linux" CAIRN_STORM_SEED="$seed"
e2e storm-linux-svm "vmm/test_linux.py -k middle_of_work" CAIRN_LINUX_ROUNDS="$linux" CAIRN_STORM_SEED="$seed" CAIRN_IN_SVMHOST=1 \
	tests/svmhost/svmhost --smp 1 --timeout "$seconds" --env E2E_ARGS --env E2E_SECONDS --env TEST_JOBS --
e2e bare-svm vmm/test_bare.py CAIRN_IN_SVMHOST=1 \
	tests/svmhost/svmhost --smp 1 --timeout "$seconds" --env E2E_ARGS --env E2E_SECONDS --env TEST_JOBS --
e2e linux-svm "vmm/test_linux.py tests/e2e/vmm/test_linux_devices.py tests/e2e/vmm/test_linux_root.py tests/e2e/vmm/test_linux_warm.py
	tests/e2e/vmm/test_boot.py" CAIRN_IN_SVMHOST=1 \
	tests/svmhost/svmhost --smp 1 --timeout "$seconds" --env E2E_ARGS --env E2E_SECONDS --env TEST_JOBS --
part vmx tests/vmxhost/vmxhost "$build"
e2e bios vmm/long_bios.py
e2e bios-svm vmm/long_bios.py CAIRN_IN_SVMHOST=1 \
	tests/svmhost/svmhost --smp 1 --timeout "$seconds" --env E2E_ARGS --env E2E_SECONDS --env TEST_JOBS --
e2e uefi-svm vmm/long_uefi.py CAIRN_IN_SVMHOST=1 \
	tests/svmhost/svmhost --smp 1 --timeout "$seconds" --env E2E_ARGS --env E2E_SECONDS --env TEST_JOBS --
e2e debian-svm vmm/long_debian.py CAIRN_IN_SVMHOST=1 tests/guests/debian/disk.sh \
	tests/svmhost/svmhost --smp 1 --timeout "$seconds" --env E2E_ARGS --env E2E_SECONDS --env TEST_JOBS --
e2e installer-svm vmm/long_installer.py CAIRN_IN_SVMHOST=1 tests/guests/debian/installer.sh \
	tests/svmhost/svmhost --smp 1 --timeout "$seconds" --env E2E_ARGS --env E2E_SECONDS --env TEST_JOBS --
e2e memtest-svm vmm/long_memtest.py CAIRN_IN_SVMHOST=1 \
	tests/svmhost/svmhost --smp 1 --timeout "$seconds" --env E2E_ARGS --env E2E_SECONDS --env TEST_JOBS --
e2e snapshots-svm "vmm/snapshot/test_snapshot.py tests/e2e/vmm/snapshot/test_snapshot_disks.py \
	tests/e2e/vmm/snapshot/test_snapshot_faults.py tests/e2e/vmm/snapshot/test_golden_states.py tests/e2e/vmm/snapshot/test_fork_snapshot.py \
	tests/e2e/vmm/snapshot/test_tracking.py tests/e2e/vmm/snapshot/test_nested.py \
	tests/e2e/vmm/snapshot/test_registers.py tests/e2e/vmm/snapshot/test_midway.py" CAIRN_IN_SVMHOST=1 \
	tests/svmhost/svmhost --smp 1 --timeout "$seconds" --env E2E_ARGS --env E2E_SECONDS --env TEST_JOBS --
e2e net-svm "api/net/test_vhost.py tests/e2e/api/net/long_linux_guests.py tests/e2e/api/net/long_network_boot.py" CAIRN_IN_SVMHOST=1 \
	tests/svmhost/svmhost --timeout "$seconds" --env E2E_ARGS --env E2E_SECONDS --env TEST_JOBS --
e2e plugs "vmm/test_hotplug.py tests/e2e/vmm/test_scsi_hotplug.py" CAIRN_PLUGS="$plugs"
e2e kills "vmm/snapshot/test_snapshot_set.py -k killed" CAIRN_KILL_ROUNDS="$kills" CAIRN_KILL_SEED="$seed"
e2e daemon-kills api/vm/test_killed.py CAIRN_KILLS="$daemon_kills" CAIRN_KILLS_SEED="$seed"
e2e kill-points "api/jobs/test_kill_points.py tests/e2e/api/policy/test_timetable_kills.py tests/e2e/tools/cairn/test_run_command.py::test_kill_before_any_call_leaves_nothing" CAIRN_KILL_STEP=1 CAIRN_KILL_SEED="$seed"
e2e copy-kills api/jobs/test_killed_copies.py CAIRN_COPY_ROUNDS="$copies" CAIRN_COPY_SEED="$seed"
e2e forks vmm/snapshot/test_fork_random.py CAIRN_FORK_STEPS="$forks" CAIRN_FORK_SEED="$seed"
e2e races api/vm/test_races.py CAIRN_RACES="$races" CAIRN_RACES_SEED="$seed"
e2e fork-growth vmm/snapshot/test_fork_growth.py CAIRN_GROWTH_ROUNDS="$growth"
e2e promotions "api/jobs/test_promote.py -k rounds_refuse" CAIRN_PROMOTE_ROUNDS="$promotions"
e2e images "tools/img/test_img_random.py tests/e2e/tools/img/test_img_many.py" CAIRN_IMG_STEPS="$images" CAIRN_IMG_SEED="$seed"
e2e policies api/policy/test_policy_random.py CAIRN_POLICY_ROUNDS="$policies" CAIRN_POLICY_SEED="$seed"
e2e definitions api/definition/test_validate.py CAIRN_VALIDATE_STEP=1
e2e off soak/test_off.py CAIRN_OFF_STEPS="$off" CAIRN_OFF_SEED="$seed"
e2e live-svm soak/test_live.py CAIRN_LIVE_STEPS="$live" CAIRN_LIVE_SEED="$seed" CAIRN_LIVE_CLONES=2 CAIRN_IN_SVMHOST=1 \
	tests/svmhost/svmhost --smp 1 --timeout "$seconds" --env E2E_ARGS --env E2E_SECONDS --env TEST_JOBS --
e2e soak soak/test_soak.py CAIRN_SOAK_STEPS="$soak" CAIRN_SOAK_SEED="$seed" CAIRN_SOAK_HITS=0.1
e2e cpu-models "vmm/snapshot/test_processor.py -k model" CAIRN_CPU_MODELS=all CAIRN_IN_SVMHOST=1 \
	tests/svmhost/svmhost --cpu max,-la57 --mem 2048 --timeout "$seconds" --env E2E_ARGS --env E2E_SECONDS --env TEST_JOBS --
e2e sysprep api/jobs/long_sysprep.py
e2e container-images tools/root/long_images.py
e2e container vmm/long_container.py
e2e upgrade api/vm/long_upgrade.py
e2e attacks attacks/long_attacks.py
e2e systemd tools/systemd/long_scope.py
e2e packages tools/packaging/long_packages.py
e2e prometheus tools/metrics/long_prometheus.py
e2e browser "tools/web/long_browser.py tests/e2e/tools/web/long_browser_vms.py"
e2e firewalls "tools/net/long_firewalls.py tests/e2e/tools/net/long_docker.py"
e2e cloud cloud/long_cloud.py
part variants CAIRN_TESTS_ALL=1 E2E_ARGS="$(grep -rlE 'mark\.sample\(|guestlib\.WHOLE' tests/e2e --include='test_*.py' | tr '\n' ' ')" \
	tests/run.sh "$build" e2e
part epoll-unit UNIT_SECONDS=1200 CAIRN_LOOP=epoll tests/run.sh "$build" unit
part epoll-e2e CAIRN_LOOP=epoll tests/run.sh "$build" e2e
if [ "$(id -u)" = 0 ]; then
	part fresh tests/fresh.sh
	part fresh-13 FRESH_SUITE=trixie tests/fresh.sh
else
	echo "  fresh, fresh-13: skipped, need root"
fi
[ "$ran" != 0 ] || echo "No part is called: $LONG_PARTS"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$bad" = 0 ] && [ "$ran" != 0 ]
