#!/bin/sh
# Boot the small Linux under QEMU with KVM and ask it some things. Runs in the emulated host.
# bootguest.sh KERNEL INITRD CMDLINE QEMU-ARGUMENT...
# The guest's commands are the lines of $GUEST_COMMANDS; the last should end it. Prints the time to
# user space in ms and what the guest answered.
set -eu

kernel=$1 initrd=$2 line=$3
shift 3
tmp=$(mktemp -d /run/bootguest.XXXXXX)
mkfifo "$tmp/in"
: >"$tmp/out"
exec 3<>"$tmp/in"

now() { # milliseconds
	read -r up rest </proc/uptime
	up=${up%.*}${up#*.}0
	echo "${up#0}"
}

await() { # TEXT, at the start of a line after line $seen of the output
	n=0
	until tail -n "+$seen" "$tmp/out" | grep -q "^$1"; do
		n=$((n + 1))
		if [ $n -gt 600 ] || ! kill -0 "$qemu" 2>/dev/null; then
			echo "bootguest.sh: no '$1' from the guest; it said:"
			tail -n 30 "$tmp/out" "$tmp/err"
			kill "$qemu" 2>/dev/null || :
			exit 1
		fi
		sleep 0.05
	done
	seen=$(($(wc -l <"$tmp/out") + 1))
}

start=$(now)
qemu-system-x86_64 -accel kvm -cpu host -m 128 -nodefaults -display none -no-reboot -kernel "$kernel" \
	-initrd "$initrd" -append "$line" -serial stdio "$@" <"$tmp/in" >"$tmp/out" 2>"$tmp/err" 3>&- &
qemu=$!
seen=1
await 'cairn-guest: ready'
echo "user space after $(($(now) - start)) ms"
echo "${GUEST_COMMANDS-uname}" | while read -r command; do
	echo "> $command"
	from=$seen
	echo "$command" >&3
	case $command in poweroff | reboot | halt | panic) break ;; esac
	await '\(ok\|error:\)'
	tail -n "+$from" "$tmp/out"
	seen=$(($(wc -l <"$tmp/out") + 1))
done
wait "$qemu" || echo "QEMU ended with $?"
rm -rf "$tmp"
