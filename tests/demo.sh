#!/bin/sh
# Show Cairn at work: demo.sh BUILD. Starts a daemon in a temporary folder and boots a real Linux with a
# disk. The guest writes a file, a snapshot is taken while it runs, the guest deletes the file, and a
# revert brings it back. Then the power button stops the guest, and a second start finds the file.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
build=$(cd "${1:-$root/build}" && pwd)
kind=$("$root/tests/hostkind.sh")

if [ "$kind" = none ]; then
	echo "There is no usable /dev/kvm on this machine, so there is nothing to show. The first check of cairn doctor:"
	"$build/cairn" doctor | sed 2q
	exit 0
fi

tmp=$(mktemp -d)
daemon='' console='' start=$(date +%s)
finish() {
	rc=$?
	trap - EXIT
	exec 3>&- 2>/dev/null || :
	[ -z "$console" ] || kill "$console" 2>/dev/null || :
	if [ -n "$daemon" ]; then
		"$build/cairn" destroy demo >/dev/null 2>&1 || :
		kill "$daemon" && wait "$daemon" || :
	fi
	if [ $rc != 0 ]; then
		echo "The demo failed. What the guest and the daemon said last:"
		tail -n 20 "$tmp/console" "$tmp/cairnd.log" 2>/dev/null || :
	fi
	rm -rf "$tmp"
	exit $rc
}
trap finish EXIT
trap 'exit 130' INT TERM

export CAIRN_SOCKET="$tmp/cairn.sock"

say() {
	printf '\n\033[1m[%3d s] %s\033[0m\n' $(($(date +%s) - start)) "$*"
}

cairn() {
	echo "\$ cairn $*"
	"$build/cairn" "$@"
}

until_true() { # SECONDS WHAT COMMAND...
	left=$(($1 * 10)) what=$2
	shift 2
	until "$@"; do
		left=$((left - 1))
		if [ $left -le 0 ]; then
			echo "Waited in vain for $what."
			return 1
		fi
		sleep 0.1
	done
}

said() { # TEXT: has the console shown it since the last mark?
	tail -c "+$((mark + 1))" "$tmp/console" | tr -d '\r' | grep -q "$1"
}

mark_console() {
	mark=$(wc -c <"$tmp/console")
}

# Start the VM with its console in a file, and wait until its Linux takes commands.
boot() {
	: >"$tmp/console"
	mark=0
	rm -f "$tmp/input"
	mkfifo "$tmp/input"
	echo "\$ cairn start demo --console"
	"$build/cairn" start demo --console <"$tmp/input" >"$tmp/console" 2>&1 &
	console=$!
	exec 3>"$tmp/input"
	until_true 180 "Linux to start" said 'cairn-guest: ready'
	tr -d '\r' <"$tmp/console" | tail -n 12 | sed 's/^/  | /'
}

# Send a line to the program in the guest and show its answer.
guest() {
	echo "  > $*"
	mark_console
	echo "$*" >&3
	until_true 60 "an answer to '$*'" said '^\(ok\|error: .*\)$'
	tail -c "+$((mark + 1))" "$tmp/console" | tr -d '\r' | sed 's/^/  | /'
	said '^ok$'
}

shut_down() {
	mark_console
	cairn shutdown demo --wait
	exec 3>&-
	wait "$console" || :
	console=
	tail -c "+$((mark + 1))" "$tmp/console" | tr -d '\r' | sed 's/^/  | /'
	cairn domstate demo --reason
}

if [ "$kind" = pvm ]; then
	say "A Linux kernel (this host's KVM emulates kernel mode: a start takes ten seconds, not one)"
	cmdline=cmdline.pvm
else
	say "A Linux kernel"
	cmdline=cmdline.svm
fi
echo "From Debian's kernel source, built once into a cache (two to three minutes the first time)."
kernel=$("$root/tests/guests/linux/build.sh" up)/vmlinux
ls -l "$kernel" "$build/guests/linux/initrd"

say "A qcow2 disk of 32 MiB with an empty ext2"
truncate -s 32M "$tmp/disk.img"
/sbin/mke2fs -q -F "$tmp/disk.img"
echo "\$ cairn-img convert -f raw -O qcow2 disk.img disk.qcow2"
"$build/cairn-img" convert -f raw -O qcow2 "$tmp/disk.img" "$tmp/disk.qcow2"

say "The daemon, with its state in $tmp/state"
"$build/cairnd" --state-dir "$tmp/state" 2>"$tmp/cairnd.log" &
daemon=$!
until_true 10 "cairnd" "$build/cairn" list >/dev/null 2>&1
cairn version

say "A VM from a small JSON file"
# "quiet" stays out: the demo shows the kernel's messages.
cat >"$tmp/demo.json" <<END
{
  "name": "demo",
  "memory": "128M",
  "boot": {
    "kernel": "$kernel",
    "initrd": "$build/guests/linux/initrd",
    "cmdline": "$(sed 's/ quiet / /' "$root/tests/guests/linux/$cmdline") cairn.port=ttyS0"
  },
  "disks": [ { "id": "vda", "path": "disk.qcow2", "format": "qcow2" } ],
  "rng": true
}
END
cat "$tmp/demo.json"
cairn define "$tmp/demo.json"
cairn list --all

say "First start; the end of its console"
boot
cairn list
cairn dominfo demo

say "It writes a file to its disk"
guest uname
guest mount /dev/vda /mnt ext2
guest write /mnt/hello "written at $(date '+%H:%M:%S') by the first start"
guest read /mnt/hello

say "A snapshot while it runs: memory, devices and disk in one act"
cairn snapshot-create-as demo before-upgrade "all is well" --verbose
cairn snapshot-list demo

say "A mistake: everything on the disk is deleted"
guest rm -r /mnt
guest sync
guest ls /mnt

say "The way back"
cairn snapshot-revert demo before-upgrade
guest ls /mnt
guest read /mnt/hello
said 'by the first start'
echo "  (the same Linux, still running: its file is there again)"

say "The ACPI power button"
shut_down
echo "\$ cairn-img check disk.qcow2"
"$build/cairn-img" check -f qcow2 "$tmp/disk.qcow2"
if command -v qemu-img >/dev/null; then # what QEMU says of it
	for verb in "snapshot -l" check; do
		echo "\$ qemu-img $verb disk.qcow2"
		qemu-img $verb "$tmp/disk.qcow2"
	done
fi

say "Second start: the file is still there"
boot
guest mount /dev/vda /mnt ext2
guest read /mnt/hello
said 'by the first start'
shut_down

say "Done"
cairn snapshot-delete demo before-upgrade
cairn undefine demo
echo "A real Linux wrote a file to its disk. Cairn took a snapshot while it ran, the guest lost everything,"
echo "and a revert brought all of it back. Then the ACPI button turned the guest off, and after a second"
echo "start it read the file again. Only the kernel in the cache is left on this machine. README.md shows"
echo "how to use the same verbs by hand."
