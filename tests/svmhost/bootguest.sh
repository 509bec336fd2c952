#!/bin/sh
# Boot the small Linux under QEMU with KVM and send it commands. Runs in the emulated host.
# bootguest.sh KERNEL INITRD CMDLINE QEMU-ARGUMENT...
# The guest's commands are the lines of $GUEST_COMMANDS; the last one should end the guest. Prints
# the time to user space in ms and the guest's output. GUEST_LIMIT is its time limit in seconds (60).
set -eu

kernel=$1 initrd=$2 line=$3
shift 3
tmp=$(mktemp -d /run/bootguest.XXXXXX)
mkfifo "$tmp/in" "$tmp/out"
# Hold both pipes open, so that no open blocks. QEMU opens them anew, because it makes its ends non-blocking.
exec 3<>"$tmp/in" 4<>"$tmp/out"

now() { # sets $ms; no program is started from here on, that would disturb the guest most
	read -r ms rest </proc/uptime
	ms=${ms%.*}${ms#*.}0
}

await() { # LINE: shows what the guest says, up to that line
	while read -r text <&4; do
		text=${text%"$cr"}
		echo "$text"
		case $text in
		"$1") return ;;
		error:* | 'bootguest.sh: end') exit 1 ;;
		esac
	done
}

cr=$(printf '\r')
now
start=$ms
{
	timeout "${GUEST_LIMIT:-60}" qemu-system-x86_64 -accel kvm -cpu host -m 128 -nodefaults -display none \
		-no-reboot -kernel "$kernel" -initrd "$initrd" -append "$line" -serial stdio "$@" \
		<"$tmp/in" >"$tmp/out" 2>&1 || :
	echo 'bootguest.sh: end' >&4
} &
await 'cairn-guest: ready'
now
echo "user space after $((ms - start)) ms"
echo "${GUEST_COMMANDS-uname
poweroff}" >"$tmp/commands"
while read -r command; do
	echo "> $command"
	echo "$command" >&3
	case $command in
	poweroff | reboot | halt | panic) await 'bootguest.sh: end' ;;
	*) await 'ok' ;;
	esac
done <"$tmp/commands"
