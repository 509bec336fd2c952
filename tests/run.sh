#!/bin/sh
# Run the tests: run.sh BUILD [unit|e2e|iotests|style|all]. The last line is the sum of all tests:
# "N passed, N failed, N skipped". Exit status 1 when something failed.
#
# TEST_JOBS unit programs, then as many of QEMU's tests, then pytest processes, run at a time (4: most tests wait more
# than they compute). UNIT_ARGS names the unit programs to run, E2E_ARGS the end-to-end tests (all of them). A test
# that leaves no result has failed. A part of the tests, @epoll, runs a second time with the loop on epoll
# (base/loop.h); CAIRN_LOOP=epoll runs all of them so, once. A part, @nouffd, runs again without userfaultfd
# (snapshot/uffd_open.h). Each run has one temporary folder; the run fails when
# the folder holds more than TEST_TMP_MIB (2048) at any time, or when a file in it or a process is left. Folders of
# failed tests are kept in BUILD/failed.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root" || exit 1

build=${1:?usage: run.sh BUILD [unit|e2e|iotests|style|all]}
what=${2:-all}
build=$(cd "$build" && pwd) || exit 1
export UNIT_SECONDS="${UNIT_SECONDS:-300}"
E2E_SECONDS=${E2E_SECONDS:-5400} # each test has its own limit; a busy machine takes several times the usual time
TEST_JOBS=${TEST_JOBS:-4}
TEST_TMP_MIB=${TEST_TMP_MIB:-2048}
# Debian's pytest belongs to /usr/bin/python3; another python may stand first in PATH.
PYTEST=${PYTEST:-/usr/bin/python3 -m pytest}

# Tests that run on epoll, too: the loop's users, without the programs that take minutes; VMs, disks, snapshots and the
# daemon's sockets.
EPOLL_UNITS="api/store/test_store block/test_copy block/test_raw block/qcow2/test_datafile block/qcow2/test_powercut
	block/qcow2/test_resize block/qcow2/test_resume block/qcow2/test_snapshot devices/virtio/test_disk_queues
	devices/virtio/test_disk_thread vmm/snapshot/test_snapshot_set"
EPOLL_E2E="tests/e2e/vmm/test_sandbox.py tests/e2e/vmm/snapshot/test_snapshot.py tests/e2e/block
	tests/e2e/api/wire/test_control.py tests/e2e/tools/archive"
# Tests that run without userfaultfd, too, besides test_dirty_log.py.
NOUFFD_E2E="tests/e2e/vmm/snapshot/test_snapshot.py tests/e2e/vmm/snapshot/test_clone_snapshot.py
	tests/e2e/vmm/snapshot/test_storm.py"

passed=0 failed=0 skipped=0 watcher='' workers=''
work=$(mktemp -d "${TMPDIR:-/tmp}/cairn-XXXXXX") || exit 1
# The pytest processes share their compiled tests: compiling all takes 5 s.
unset PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX="$work/pycache"
results=$work/results tmp=$work/t # short: paths of sockets have a limit
mkdir "$results" "$tmp" && chmod 755 "$work" "$tmp" || exit 1
# Unit tests of images also write to /dev/shm, a file system in memory.
shm=$(mktemp -d /dev/shm/cairn-XXXXXX 2>/dev/null)

finish() {
	# shellcheck disable=SC2086
	[ -z "$watcher$workers" ] || kill $watcher $workers 2>/dev/null
	rm -rf "$work" ${shm:+"$shm"}
}
trap finish EXIT
trap 'exit 130' INT TERM

count() { # PASSED FAILED SKIPPED
	passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
}

fault() { # WHAT
	echo "  FAILED: $1"
	count 0 1 0
}

run_unit() {
	echo "Unit tests"
	mkdir "$tmp/unit"
	# shellcheck disable=SC2086 # one word a program
	if [ -n "${UNIT_ARGS:-}" ]; then
		printf '%s\n' $UNIT_ARGS
	else
		find tests/unit -name 'test_*.c' | sed 's,^tests/unit/,,; s,\.c$,,' | sort
	fi >"$results/units"
	if [ -z "${UNIT_ARGS:-}${CAIRN_LOOP:-}" ]; then
		for name in $EPOLL_UNITS; do
			[ ! -f "tests/unit/$name.c" ] || echo "$name@epoll"
		done >>"$results/units"
	fi
	TMPDIR=$tmp/unit TEST_SHM=$shm xargs -P "$TEST_JOBS" -n 1 tests/unit.sh "$build" "$results" <"$results/units"
	while read -r name; do
		sum=$(cat "$results/$(echo "$name" | tr / -).sum" 2>/dev/null)
		# shellcheck disable=SC2086
		case $sum in
		*[0-9]" "*[0-9]" "*[0-9]) count $sum ;;
		*) fault "$name has no result" ;;
		esac
	done <"$results/units"
	rmdir "$tmp/unit" 2>/dev/null
}

# Run the end-to-end tests of PART as one of the processes that share them (tests/e2e/sharelib.py).
pytest_run() { # NUMBER PART
	tests=${E2E_ARGS:-tests/e2e}
	# A variable before a function's name may stay set.
	case $2 in
	epoll) tests=$EPOLL_E2E && export CAIRN_LOOP=epoll ;;
	nouffd) tests=$NOUFFD_E2E && export CAIRN_USERFAULTFD=refuse ;;
	esac
	# A part must not begin in folders that failed tests of another one left.
	own=$tmp/$(printf %.1s "$2")$1 # short: m1, e1, n1
	mkdir -m 755 "$own"
	# shellcheck disable=SC2086
	CAIRN_BUILD=$build CAIRN_TESTS_SHARE=$results/$2/share CAIRN_TESTS_PART=$2 CAIRN_TESTS_LINES=3 TMPDIR=$own \
		exec timeout -k 10 "$E2E_SECONDS" $PYTEST -q -rs --tb=short --no-header -p no:cacheprovider --durations=5 \
		--basetemp="$own/e" --junitxml="$results/$2/e2e-$1.xml" $tests 3>&1 >"$results/$2/e2e-$1.out" 2>&1
}

# Take a share of each part of the end-to-end tests. No process waits for another one between two parts.
worker_run() { # NUMBER
	child=
	trap '[ -z "$child" ] || kill "$child"; exit 143' TERM
	for part in $parts; do
		pytest_run "$1" "$part" &
		child=$!
		wait "$child"
		echo $? >"$results/$part/status-$1"
	done
}

# Count the results of a part's processes, and print what they said.
part_end() { # PART
	echo "End-to-end tests, $1"
	for i in $(seq "$TEST_JOBS"); do
		rc=$(cat "$results/$1/status-$i" 2>/dev/null)
		# Drop pytest's rows of dots: sharelib.py has printed a line for each file.
		grep -v '^[.sFExX]* *\(\[ *[0-9]*%\]\)\?$' "$results/$1/e2e-$i.out"
		case $rc in
		0 | 1 | 5) ;; # all passed; some failed; other processes had claimed all tests
		124 | 137) fault "pytest $i: no end within $E2E_SECONDS s" ;;
		*) fault "pytest $i: exit status ${rc:-missing}" ;;
		esac
		own=$tmp/$(printf %.1s "$1")$i
		rmdir "$own/e" "$own" 2>/dev/null
	done
	if sum=$(/usr/bin/python3 tests/e2e_sum.py "$results/$1" "$TEST_JOBS"); then
		# shellcheck disable=SC2086
		count $sum
	else
		fault "the results have no sum"
	fi
}

# The small parts come first: at the end, the other processes would wait for those that have test_snapshot.py.
run_e2e() {
	echo "End-to-end tests"
	parts=main
	if [ -z "${E2E_ARGS:-}${CAIRN_LOOP:-}" ] && [ -d tests/e2e/block ]; then
		[ ! -f tests/e2e/vmm/snapshot/test_storm.py ] || parts="nouffd $parts"
		parts="epoll $parts"
	fi
	for part in $parts; do
		mkdir -p "$results/$part/share"
	done
	for i in $(seq "$TEST_JOBS"); do
		worker_run "$i" &
		workers="$workers $!"
	done
	# shellcheck disable=SC2086
	wait $workers
	workers=
	for part in $parts; do
		part_end "$part"
	done
}

# QEMU's tests of its image tool: tests/iotests/short. Without their source, one skip.
run_iotests() {
	echo "QEMU's tests of its image tool, a part of them"
	mkdir "$tmp/q"
	TMPDIR=$tmp/q TEST_JOBS=$TEST_JOBS timeout -k 10 "$E2E_SECONDS" tests/iotests/run.py "$build" short >"$results/iotests" 2>&1
	rc=$?
	sum=$(sed -n '$s/^\([0-9]*\) passed, \([0-9]*\) failed, \([0-9]*\) skipped$/\1 \2 \3/p' "$results/iotests")
	sed 's/^/  /' "$results/iotests"
	# shellcheck disable=SC2086
	[ -z "$sum" ] || count $sum
	[ -n "$sum" ] || fault "QEMU's tests have no sum, exit status $rc"
	rmdir "$tmp/q" 2>/dev/null
}

run_style() {
	echo "Style"
	if tests/style.sh >"$results/style" 2>&1; then
		count 1 0 0
	else
		count 0 1 0
	fi
	sed 's/^/  /' "$results/style"
}

tmp_size() { # in KiB
	du -skc "$tmp" ${shm:+"$shm"} 2>/dev/null | sed -n '$s/\t.*//p'
}

tmp_watch() {
	while sleep 1; do
		tmp_size >>"$results/sizes"
	done
}

processes_left() { # a test's processes have a TMPDIR below $tmp
	left=$(grep -lsF "TMPDIR=$tmp" /proc/[0-9]*/environ | cut -d / -f 3)
	[ -n "$left" ]
}

# Fail the run when tests left processes, and end these. Give those that are ending 5 seconds.
processes_end() {
	tries=10
	while processes_left && [ $tries -gt 0 ]; do
		tries=$((tries - 1))
		sleep 0.5
	done
	[ -n "$left" ] || return 0
	fault "processes are left:
$(for p in $left; do
		echo "$p $(tr '\0' ' ' <"/proc/$p/cmdline") $(tr '\0' '\n' <"/proc/$p/environ" | grep '^PYTEST_CURRENT_TEST=')"
	done | head -n 20)"
	# shellcheck disable=SC2086 # one word a process
	kill -KILL $left 2>/dev/null
}

# Fail the run when tests left files or processes, or used too much space.
tmp_check() {
	kill "$watcher" && watcher=
	tmp_size >>"$results/sizes"
	peak=$(sort -n "$results/sizes" | tail -n 1)
	peak=$((${peak:-0} / 1024))
	echo "Temporary files: at most $peak MiB"
	[ "$peak" -le "$TEST_TMP_MIB" ] || fault "more than $TEST_TMP_MIB MiB of temporary files"
	expected="$tmp/([emn][0-9]+|unit)"
	# With TEST_KEEP, a failed unit program leaves its folder.
	[ "$failed" = 0 ] || expected="$expected|$tmp/[emn][0-9]+/e(/.*)?${TEST_KEEP:+|$tmp/unit/.*|$shm/.*}"
	left=$(find "$tmp" ${shm:+"$shm"} -mindepth 1 -maxdepth 3 | grep -vxE "$expected" | head -n 20)
	[ -z "$left" ] || fault "temporary files are left:
$left"
	processes_end
	rm -rf "$build/failed"
	[ "$failed" = 0 ] || [ -z "$(ls "$shm" 2>/dev/null)" ] || mv "$shm" "$tmp/shm"
	if [ "$failed" != 0 ] && [ -n "$(ls "$tmp")" ] && mv "$tmp" "$build/failed"; then
		echo "Folders of failed tests: $build/failed"
	fi
}

echo "Host: $(tests/hostkind.sh) (vmx, svm, pvm, or none without a usable /dev/kvm), $(nproc) CPUs, $(uname -r)"
tmp_watch &
watcher=$!
case $what in
unit) run_unit ;;
e2e) run_e2e ;;
iotests) run_iotests ;;
style) run_style ;;
all)
	run_style
	run_unit
	run_iotests
	run_e2e
	;;
*)
	echo "run.sh: no tests named '$what': unit, e2e, iotests, style or all" >&2
	exit 2
	;;
esac
tmp_check
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
