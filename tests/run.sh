#!/bin/sh
# Run the tests: run.sh BUILD [unit|e2e|iotests|style|all]. The last line is the sum of all tests:
# "N passed, N failed, N skipped". Exit status 1 when something failed.
#
# Six pytest processes share the end-to-end tests: most of them wait more than they compute. Unit programs and QEMU's
# tests compute: "all" runs two of them at a time, beside pytest; alone, four run at a time. TEST_JOBS is another
# number, for each kind. UNIT_ARGS names the unit programs to run, E2E_ARGS the end-to-end tests (all of them). A test
# that leaves no result has failed. A part of the tests, @epoll, runs a second time with the loop on epoll
# (base/loop.h); CAIRN_LOOP=epoll runs all of them so, once. A part, @nouffd, runs again without userfaultfd
# (snapshot/uffd_open.h). The emulated SVM hosts come first, alone. Each run has one temporary folder; the run fails
# when the folder holds more than TEST_TMP_MIB (2048) at any time, or when a file in it or a process is left. Folders
# of failed tests are kept in BUILD/failed.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root" || exit 1

build=${1:?usage: run.sh BUILD [unit|e2e|iotests|style|all]}
what=${2:-all}
build=$(cd "$build" && pwd) || exit 1
export UNIT_SECONDS="${UNIT_SECONDS:-600}"
E2E_SECONDS=${E2E_SECONDS:-5400} # each test has its own limit; a busy machine takes several times the usual time
E2E_JOBS=${TEST_JOBS:-6}
if [ "$what" = all ]; then
	TEST_JOBS=${TEST_JOBS:-2}
else
	TEST_JOBS=${TEST_JOBS:-4}
fi
TEST_TMP_MIB=${TEST_TMP_MIB:-2048}
# Debian's pytest belongs to /usr/bin/python3; another python may stand first in PATH.
PYTEST=${PYTEST:-/usr/bin/python3 -m pytest}

# Tests that run on epoll, too: the loop's users, without the programs that take minutes; VMs, disks, snapshots and the
# daemon's sockets.
EPOLL_UNITS="api/store/test_store block/test_copy block/test_raw block/qcow2/test_datafile block/qcow2/test_powercut
	block/qcow2/test_resize block/qcow2/test_resume block/qcow2/test_snapshot devices/virtio/test_disk_queues
	devices/virtio/test_disk_thread vmm/snapshot/test_snapshot_set"
EPOLL_E2E="tests/e2e/vmm/test_sandbox.py tests/e2e/vmm/snapshot/test_snapshot.py tests/e2e/vmm/snapshot/test_snapshot_disks.py
	tests/e2e/vmm/snapshot/test_snapshot_faults.py tests/e2e/vmm/snapshot/test_golden_states.py tests/e2e/block
	tests/e2e/api/wire/test_control.py tests/e2e/tools/archive"
# Tests that run without userfaultfd, too, besides test_dirty_log.py.
NOUFFD_E2E="tests/e2e/vmm/snapshot/test_snapshot.py tests/e2e/vmm/snapshot/test_snapshot_disks.py tests/e2e/vmm/snapshot/test_snapshot_faults.py
	tests/e2e/vmm/snapshot/test_golden_states.py tests/e2e/vmm/snapshot/test_clone_snapshot.py tests/e2e/vmm/snapshot/test_storm.py"

# The emulated hosts compute for 1 to 3 minutes each. Beside the other tests, two did not end in 40 minutes in CI once.
HOSTS_E2E=tests/e2e/svmhost

# Unit programs of 10 s or more, the longest first: at the end, no process waits for one of them.
LONG_UNITS="block/qcow2/test_powercut_snapshot block/qcow2/test_header_rewrite block/qcow2/test_pin
	block/qcow2/test_powercut block/qcow2/test_powercut_pin block/qcow2/test_snapshot api/test_api_fuzz block/qcow2/test_powercut_chain block/qcow2/test_qcow2
	block/qcow2/test_powercut_random block/qcow2/test_repair block/qcow2/test_oracle api/access/test_audit
	block/qcow2/test_powercut_bitmap vmm/snapshot/test_snapshot_set block/qcow2/test_powercut_pin_snapshot"

passed=0 failed=0 skipped=0 watcher='' workers='' others=''
work=$(mktemp -d "${TMPDIR:-/tmp}/cairn-XXXXXX") || exit 1
# The pytest processes share their compiled tests: compiling all takes 17 s, loading them 3. A run.sh that a test starts
# shares them, too.
unset PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX="${PYTHONPYCACHEPREFIX:-$work/pycache}"
results=$work/results tmp=$work/t # short: paths of sockets have a limit
mkdir "$results" "$tmp" && chmod 755 "$work" "$tmp" || exit 1
# Unit tests of images also write to /dev/shm, a file system in memory.
shm=$(mktemp -d /dev/shm/cairn-XXXXXX 2>/dev/null)

finish() {
	# shellcheck disable=SC2086
	[ -z "$watcher$workers$others" ] || kill $watcher $workers $others 2>/dev/null
	rm -rf "$work" ${shm:+"$shm"}
}
trap finish EXIT
trap 'exit 130' INT TERM

count() { # PASSED FAILED SKIPPED
	passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
}

fault() { # WHAT
	echo "  FAILED: $1"
	echo "$1" >>"$results/failed"
	count 0 1 0
}

# Each kind of test has two functions: KIND_run writes results to files, and ends in the program that a signal must
# reach; KIND_end counts and prints them.

unit_names() {
	if [ -n "${UNIT_ARGS:-}" ]; then
		# shellcheck disable=SC2086 # one word a program
		printf '%s\n' $UNIT_ARGS
		return
	fi
	for name in $LONG_UNITS; do
		[ ! -f "tests/unit/$name.c" ] || echo "$name"
	done
	[ -n "${CAIRN_LOOP:-}" ] || for name in $EPOLL_UNITS; do
		[ ! -f "tests/unit/$name.c" ] || echo "$name@epoll"
	done
	find tests/unit -name 'test_*.c' | sed 's,^tests/unit/,,; s,\.c$,,' | sort
}

unit_run() {
	mkdir "$tmp/unit"
	unit_names | awk '!seen[$0]++' >"$results/units"
	TMPDIR=$tmp/unit TEST_SHM=$shm exec timeout 0 \
		xargs -P "$TEST_JOBS" -n 1 tests/unit.sh "$build" "$results" <"$results/units"
}

unit_end() {
	echo "Unit tests"
	[ -s "$results/units" ] || fault "there is no unit program"
	while read -r name; do
		base=$results/$(echo "$name" | tr / -)
		sum=$(cat "$base.sum" 2>/dev/null)
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
	tests=${E2E_ARGS:-tests/e2e --ignore=$HOSTS_E2E}
	# A variable before a function's name may stay set.
	case $2 in
	hosts) tests=$HOSTS_E2E ;;
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

# Take a share of each part of the end-to-end tests. No process waits for another one between two parts. FIRST is the
# process that compiles the tests; empty: this one.
worker_run() { # NUMBER FIRST PART...
	number=$1 first=$2
	shift 2
	while [ -n "$first" ] && kill -0 "$first" 2>/dev/null && [ -z "$(ls "$results/main/share")" ]; do
		sleep 0.1
	done
	child=
	trap '[ -z "$child" ] || kill "$child"; exit 143' TERM
	for part; do
		pytest_run "$number" "$part" &
		child=$!
		wait "$child"
		echo $? >"$results/$part/status-$number"
	done
}

# Count the results of a part's processes, and print what they said.
part_end() { # PART PROCESSES
	echo "End-to-end tests, $1"
	for i in $(seq "$2"); do
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
	if sum=$(/usr/bin/python3 tests/e2e_sum.py "$results/$1" "$2"); then
		# shellcheck disable=SC2086
		count $sum
	else
		fault "the results have no sum"
	fi
}

hosts_run() {
	hosts=
	[ -z "${E2E_ARGS:-}" ] && [ -d "$HOSTS_E2E" ] || return 0
	hosts=1
	mkdir -p "$results/hosts/share"
	worker_run 1 "" hosts &
	workers=$!
	wait "$workers"
	workers=
}

# The small parts come first: at the end, the other processes would wait for those that have long files of tests. The
# processes begin when the first one has compiled all tests; otherwise each of them would compile the tests, too.
e2e_begin() {
	hosts_run
	small=
	if [ -z "${E2E_ARGS:-}${CAIRN_LOOP:-}" ] && [ -d tests/e2e/block ]; then
		[ ! -f tests/e2e/vmm/snapshot/test_storm.py ] || small="nouffd"
		small="epoll $small"
	fi
	for part in $small main; do
		mkdir -p "$results/$part/share"
	done
	leader=
	for i in $(seq "$E2E_JOBS"); do
		# shellcheck disable=SC2086 # one word a part
		if [ "$i" = 1 ]; then
			worker_run "$i" "" main $small &
			leader=$!
		else
			worker_run "$i" "$leader" $small main &
		fi
		workers="$workers $!"
	done
}

e2e_end() {
	# shellcheck disable=SC2086
	wait $workers
	workers=
	[ -z "$hosts" ] || part_end hosts 1
	for part in $small main; do
		part_end "$part" "$E2E_JOBS"
	done
	{
		sed -n '/^#/p' tests/e2e/durations
		sort -rn "$results"/main/share/durations-* | awk '$1 >= 2'
	} >"$build/e2e-durations" 2>/dev/null
}

# QEMU's tests of its image tool: tests/iotests/short. Without their source, one skip.
iotests_run() {
	mkdir "$tmp/q"
	TMPDIR=$tmp/q TEST_JOBS=$TEST_JOBS exec timeout -k 10 "$E2E_SECONDS" tests/iotests/run.py "$build" short >"$results/iotests" 2>&1
}

iotests_end() {
	echo "QEMU's tests of its image tool, a part of them"
	rc=$(cat "$results/iotests-status" 2>/dev/null)
	sum=$(sed -n '$s/^\([0-9]*\) passed, \([0-9]*\) failed, \([0-9]*\) skipped$/\1 \2 \3/p' "$results/iotests")
	sed 's/^/  /' "$results/iotests"
	# shellcheck disable=SC2086
	[ -z "$sum" ] || count $sum
	[ -n "$sum" ] || fault "QEMU's tests have no sum, exit status ${rc:-missing}"
	rmdir "$tmp/q" 2>/dev/null
}

style_run() {
	exec tests/style.sh >"$results/style" 2>&1
}

style_end() {
	echo "Style"
	if [ "$(cat "$results/style-status" 2>/dev/null)" = 0 ]; then
		count 1 0 0
	else
		fault style
	fi
	sed 's/^/  /' "$results/style"
}

# Run these kinds of test one after another.
kinds_run() { # KIND...
	child=
	trap '[ -z "$child" ] || kill "$child"; exit 143' TERM
	for kind; do
		"${kind}_run" &
		child=$!
		wait "$child"
		echo $? >"$results/$kind-status"
	done
}

kinds_begin() { # KIND...
	kinds=$*
	kinds_run "$@" &
	others=$!
}

kinds_end() {
	wait "$others"
	others=
	for kind in $kinds; do
		"${kind}_end"
	done
}

tmp_size() { # in KiB
	du -skxc "$tmp" ${shm:+"$shm"} 2>/dev/null | sed -n '$s/\t.*//p'
}

tmp_watch() { # ends with the run, even if that is killed
	while sleep 1 && kill -0 $$ 2>/dev/null; do
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
	expected="$tmp/([ehmn][0-9]+|unit)"
	# With TEST_KEEP, a failed unit program leaves its folder.
	[ "$failed" = 0 ] || expected="$expected|$tmp/[ehmn][0-9]+/e(/.*)?${TEST_KEEP:+|$tmp/unit/.*|$shm/.*}"
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

# Name the failed tests once more at the end, because a truncated log often lacks the earlier lines.
failed_names() {
	[ "$failed" != 0 ] || return 0
	echo "Failed:"
	{
		grep -h -e FAILED -e '^ *not ok ' "$results"/*.told "$results/iotests"
		cat "$results/failed" "$results"/*/failed
	} 2>/dev/null | head -n 40 | sed 's/^ */  /'
}

echo "Host: $(tests/hostkind.sh) (vmx, svm, pvm, or none without a usable /dev/kvm), $(nproc) CPUs, $(uname -r)"
tmp_watch &
watcher=$!
case $what in
unit | iotests | style)
	kinds_begin "$what"
	kinds_end
	;;
e2e)
	e2e_begin
	e2e_end
	;;
all)
	e2e_begin
	kinds_begin unit iotests style
	kinds_end
	e2e_end
	;;
*)
	echo "run.sh: no tests named '$what': unit, e2e, iotests, style or all" >&2
	exit 2
	;;
esac
tmp_check
failed_names
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
