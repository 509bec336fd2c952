#!/bin/sh
# Count the guest's instructions up to its first one in user space, by kernel function.
# profile.sh KERNELDIR INITRD [COMMAND LINE]   (KERNELDIR as build.sh prints it)
#
# QEMU's TCG runs one instruction a block and logs each block; a repetition of a string
# instruction counts as one. A host whose KVM emulates kernel mode does the same work, plus the
# exits. Takes about a minute. PROFILE_MACHINE replaces the machine, PROFILE_QEMU adds arguments, PROFILE_TOP
# sets the number of functions listed.
set -eu

[ $# -ge 2 ] || { echo "usage: profile.sh KERNELDIR INITRD [COMMAND LINE]" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
dir=$1 initrd=$2
line=${3:-$(cat "$here/cmdline.pvm")}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkfifo "$tmp/log"

# shellcheck disable=SC2086 # lists
qemu-system-x86_64 -accel tcg -icount shift=8,sleep=off ${PROFILE_MACHINE:--M pc,hpet=off} -cpu qemu64,+kvm -m 128 -nodefaults -display none -no-reboot \
	-kernel "$dir/vmlinux" -initrd "$initrd" -append "$line" \
	-chardev "file,id=con,path=$tmp/console" -serial chardev:con ${PROFILE_QEMU:-} \
	-singlestep -d exec,nochain -D "$tmp/log" &
qemu=$!
# The third field ends with the privilege level; firmware is below the kernel's addresses.
awk -F/ '
	substr($2, 1, 8) == "ffffffff" { pc[$2]++; next }
	$3 ~ /[37bf]$/ { exit }
	END { for (p in pc) print p, pc[p] }
' <"$tmp/log" | sort >"$tmp/pcs"
kill "$qemu" 2>/dev/null || true
wait "$qemu" 2>/dev/null || true
sort "$dir/System.map" | awk -v top="${PROFILE_TOP:-40}" -v pcs="$tmp/pcs" '
	$2 ~ /^[tTwW]$/ { addr[n] = $1; name[n] = $3; n++ }
	END {
		i = 0
		while ((getline < pcs) > 0) {
			while (i + 1 < n && addr[i + 1] <= $1) i++
			sum[name[i]] += $2; total += $2
		}
		printf "%10d total\n", total
		cmd = "sort -rn | head -n " top
		for (f in sum) printf "%10d %s\n", sum[f], f | cmd
	}'
