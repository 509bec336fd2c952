#!/bin/sh
# Check the properties of the emulated SVM host that tests rely on: selftest.sh [quick]. Prints a line for each
# check. Without "quick" it also boots the small Linux under KVM in the host. Exit status 1 when a check failed.
# shellcheck disable=SC2016,SC2317 # quoted for the inner shell; called by name
set -eu

here=$(cd "$(dirname "$0")" && pwd)
host=$here/svmhost
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=0

check() { # NAME STATUS-WANTED PATTERN-WANTED COMMAND...: runs it, looks at status and output
	name=$1 want=$2 pattern=$3
	shift 3
	start=$(date +%s%N)
	rc=0
	"$@" >"$tmp/out" 2>&1 || rc=$?
	ms=$((($(date +%s%N) - start) / 1000000))
	if [ "$rc" = "$want" ] && grep -q -- "$pattern" "$tmp/out"; then
		echo "ok $name ($ms ms)"
	else
		failed=1
		echo "not ok $name: status $rc, wanted $want and '$pattern'; it printed:"
		sed 's/^/    /' "$tmp/out"
	fi
}

"$host" --prepare >/dev/null
mkdir "$tmp/share"
check "exit status and /dev/kvm" 7 '^crw-rw-rw-.* /dev/kvm$' "$host" --timeout 60 -- sh -c 'ls -l /dev/kvm; exit 7'
check "words, folder, variables, share" 0 '^it.s "a  b" \$x$' env CAIRN_SELFTEST=abc sh -c '
	cd "$1" && "$2" --timeout 60 --share "$3" --env EXTRA -- sh -c "
		echo \"\$1\"; [ \"\$PWD\" = \"$1\" ] && [ \$CAIRN_SELFTEST = abc ] && [ -c /dev/net/tun ] &&
		echo from-inside >/host-share/file && echo scratch >/tmp/only-inside && unshare -Ur true" \
		sh "it'\''s \"a  b\" \$x" && [ "$(cat "$3/file")" = from-inside ] && [ ! -e /tmp/only-inside ]' \
	sh "$here" "$host" "$tmp/share"
check "a megabyte of output arrives whole" 0 '^1048576 ' \
	sh -c '"$1" --timeout 60 -- sh -c "head -c 1048576 /dev/zero" | cksum | cut -d" " -f2- | sed "s/\$/ /"' sh "$host"
check "time limit" 124 'stopped after 8 seconds' "$host" --timeout 8 -- sleep 100
check "a host without a sign of life" 125 '^CPU#0' "$host" --timeout 60 --silence 5 -- sh -c 'kill "$(cat /run/svmhost/alive)"; sleep 50'
check "a host that crashes" 125 'Kernel panic - not syncing: sysrq' "$host" --timeout 60 -- sh -c 'echo c >/proc/sysrq-trigger; sleep 10'

if [ "${1-}" != quick ]; then
	guest=$here/../guests/linux
	up=$("$guest/build.sh" up)
	smp=$("$guest/build.sh" smp)
	"$guest/mkinitrd.sh" "$tmp/guest"
	line=$(cat "$guest/cmdline.svm")
	GUEST_COMMANDS='uname
clocksource
cpus
poweroff'
	export GUEST_COMMANDS
	boot() { # KERNEL QEMU-ARGUMENT...
		kernel=$1
		shift
		"$host" --timeout 120 --env GUEST_COMMANDS -- "$here/bootguest.sh" "$kernel" "$tmp/guest/initrd" "$line" "$@"
	}
	check "the small Linux under microvm" 0 '^current kvm-clock' boot "$up/vmlinux" -M microvm,acpi=on,pcie=on,rtc=on
	grep 'user space' "$tmp/out"
	check "the small Linux under pc" 0 '^current kvm-clock' boot "$up/vmlinux" -M pc
	grep 'user space' "$tmp/out"
	check "the bzImage under pc" 0 '^current kvm-clock' boot "$up/bzImage" -M pc
	grep 'user space' "$tmp/out"
	check "two CPUs" 0 '^online 0-1' boot "$smp/vmlinux" -M pc -smp 2
	grep 'user space' "$tmp/out"
fi
exit $failed
