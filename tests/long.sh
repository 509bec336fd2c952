#!/bin/sh
# Run the tests that take too long for every change: long.sh BUILD. Runs
# - LONG_OPS operations of the oracle on each kind of image (10000)
# - LONG_CUTS power cuts (100000)
# - LONG_STORM snapshots and reverts of a running guest, bare and Linux (1000)
# - LONG_KILLS kills of a VM with three disks or of its daemon (300)
# - LONG_DAEMON_KILLS kills of a daemon with 20 VMs (500)
# - LONG_COPIES kills during an export, an import, a clone or an undefine (200)
# - LONG_FORKS steps with clones (1000)
# - LONG_POLICIES rounds with policies (300)
# - an upgrade with VMs of an older commit, which is built from git's history
# - all unit and end-to-end tests with the loop on epoll
# - a build and check on a fresh machine (fresh.sh)
# LONG_SEED seeds their random choices (the date). Prints a line after each part. A failed test keeps its folder
# below TMPDIR. Exit status 1 when a part failed.
set -u
cd "$(dirname "$0")/.." || exit 1

build=$(cd "${1:?usage: long.sh BUILD}" && pwd) || exit 1
ops=${LONG_OPS:-10000}
cuts=${LONG_CUTS:-100000}
storm=${LONG_STORM:-1000}
kills=${LONG_KILLS:-300}
daemon_kills=${LONG_DAEMON_KILLS:-500}
copies=${LONG_COPIES:-200}
forks=${LONG_FORKS:-1000}
policies=${LONG_POLICIES:-300}
seed=${LONG_SEED:-$(date +%Y%m%d)}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
bad=0
export TEST_KEEP=1

part() { # NAME COMMAND...
	name=$1
	shift
	begin=$(date +%s)
	if env "$@" >"$tmp/out" 2>&1; then
		how=passed
	else
		how=FAILED
		bad=$((bad + 1))
	fi
	echo "  $name: $how in $(($(date +%s) - begin)) s"
	if [ $how = FAILED ]; then
		tail -n 60 "$tmp/out" | sed 's/^/    /'
	else
		grep 'cuts\|calls were done\|skipped' "$tmp/out" | tail -n 1 | sed 's/^/    /'
	fi
}

echo "Seed $seed: $ops operations on each kind of image, $cuts power cuts"
for set in $(ORACLE_SET=list "$build/unit/block/qcow2/test_oracle"); do
	part "oracle $set" ORACLE_SET="$set" ORACLE_OPS="$ops" ORACLE_SEED="$seed" ORACLE_SECONDS=3600 \
		"$build/unit/block/qcow2/test_oracle"
done
part "power cuts" POWERCUT_CUTS="$cuts" POWERCUT_SEED="$seed" POWERCUT_SECONDS=7200 \
	"$build/unit/block/qcow2/test_powercut_random"
part "storm of $storm" CAIRN_BUILD="$build" CAIRN_STORM_ROUNDS="$storm" CAIRN_STORM_SEED="$seed" \
	/usr/bin/python3 -m pytest -q tests/e2e/vmm/snapshot/test_storm.py
part "$storm rounds with Linux" CAIRN_BUILD="$build" CAIRN_LINUX_ROUNDS="$storm" CAIRN_STORM_SEED="$seed" \
	/usr/bin/python3 -m pytest -q tests/e2e/vmm/test_linux.py -k middle_of_work
part "$storm rounds with Linux, SVM" CAIRN_BUILD="$build" tests/svmhost/svmhost --smp 1 --timeout 40000 -- \
	env CAIRN_LINUX_ROUNDS="$storm" CAIRN_STORM_SEED="$seed" \
	/usr/bin/python3 -m pytest -q tests/e2e/vmm/test_linux.py -k middle_of_work
part "cuts between disks" SET_CUTS="$seed" "$build/unit/vmm/snapshot/test_snapshot_set"
part "$kills kills" CAIRN_BUILD="$build" CAIRN_KILL_ROUNDS="$kills" CAIRN_KILL_SEED="$seed" \
	/usr/bin/python3 -m pytest -q tests/e2e/vmm/snapshot/test_snapshot_set.py -k killed
part "$daemon_kills kills of the daemon" CAIRN_BUILD="$build" CAIRN_KILLS="$daemon_kills" CAIRN_KILLS_SEED="$seed" \
	/usr/bin/python3 -m pytest -q -s tests/e2e/api/vm/test_killed.py
part "$copies kills over copies" CAIRN_BUILD="$build" CAIRN_COPY_ROUNDS="$copies" CAIRN_COPY_SEED="$seed" \
	/usr/bin/python3 -m pytest -q -s tests/e2e/api/jobs/test_killed_copies.py
part "$forks steps with clones" CAIRN_BUILD="$build" CAIRN_FORK_STEPS="$forks" CAIRN_FORK_SEED="$seed" \
	/usr/bin/python3 -m pytest -q tests/e2e/vmm/snapshot/test_fork_random.py
part "$policies rounds with policies" CAIRN_BUILD="$build" CAIRN_POLICY_ROUNDS="$policies" CAIRN_POLICY_SEED="$seed" \
	/usr/bin/python3 -m pytest -q -s tests/e2e/api/policy/test_policy_random.py
part "upgrade with running VMs" CAIRN_BUILD="$build" \
	/usr/bin/python3 -m pytest -q -rs tests/e2e/api/vm/long_upgrade.py
part "unit tests on epoll" -u TEST_KEEP CAIRN_LOOP=epoll tests/run.sh "$build" unit
part "end-to-end tests on epoll" -u TEST_KEEP CAIRN_LOOP=epoll tests/run.sh "$build" e2e
if [ "$(id -u)" = 0 ]; then
	part "make demo and make check on a fresh machine" tests/fresh.sh
else
	echo "  make demo and make check on a fresh machine: skipped, needs root"
fi
[ "$bad" = 0 ]
