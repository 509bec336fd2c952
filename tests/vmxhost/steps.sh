#!/bin/busybox sh
# shellcheck shell=dash
# First program of the emulated Intel host: checks Cairn there, and ends at the first wrong result. Each check prints
# "ok NAME" or "not ok NAME" and what it said.
export PATH=/cairn:/bin HOME=/root
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup

# vmxhost ends the host when it reads this. A poweroff could lose the last lines.
end() {
	echo "vmxhost: end"
	exec sleep 1000000
}

ok() { # NAME COMMAND...
	name=$1
	shift
	rc=0
	"$@" >/tmp/out 2>&1 || rc=$?
	[ $rc != 0 ] || { echo "ok $name" && return; }
	echo "not ok $name: exit status $rc"
	cat /tmp/out
	tail -n 20 /tmp/cairnd.log
	dmesg | tail -n 20
	end
}

# Send a line to a VM's console and wait for a text of the answer.
say() { # VM LINE TEXT
	echo "$2" | cairn console "$1" --no-history --until "$3" --timeout 60
}

nested() { # VM: the VM is in its guest's guest, and leaves it
	say "$1" unnest ok
}

plain() { # VM
	say "$1" unnest "err no hypervisor of the guest's was called"
}

definition() { # NAME MEMBERS
	echo "{\"name\": \"$1\", $2}" >"/tmp/$1.json"
}

run_once() {
	definition once '"memory": "64M", "boot": {"kernel": "/cairn/guests/interp.elf", "cmdline": "cpuid 0;poweroff"}'
	cairn run /tmp/once.json --timeout 60 </dev/null
}

doctor() {
	cairn doctor
	cairn doctor | grep -q 'Intel VMX with nested paging (EPT)'
}

# Bochs reports an event of an earlier VM exit when an EPT violation hits the delivery of a virtual interrupt, and KVM
# then injects an old exception: so no virtual interrupts (README.md).
modules() {
	insmod /modules/irqbypass.ko && insmod /modules/kvm.ko && insmod /modules/kvm-intel.ko enable_apicv=0
}

started() {
	cairnd >/tmp/cairnd.log 2>&1 &
	n=0
	until grep -q 'listens on' /tmp/cairnd.log || [ $n = 600 ]; do
		sleep 0.1
		n=$((n + 1))
	done
	cairn list
}

define() { # NAME MEMBERS: a VM with a disk, which its snapshots need
	[ -f "/tmp/$1.qcow2" ] || cairn-img create -f qcow2 "/tmp/$1.qcow2" 64M
	definition "$1" "\"disks\": [{\"path\": \"/tmp/$1.qcow2\", \"format\": \"qcow2\"}], $2"
	cairn define "/tmp/$1.json" && cairn start "$1"
}

ok modules modules
ok doctor doctor
ok run run_once
ok daemon started

kernel='"boot": {"kernel": "/cairn/guests/interp.elf"}'
ok define define bare "\"memory\": \"64M\", \"vcpus\": 2, $kernel"
ok boot cairn console bare --no-input --until interp --timeout 60
ok storm say bare 'storm start 1 0x1000000 0x100000' ok
ok snapshot cairn snapshot-create-as bare storm
ok 'storm after a snapshot' say bare 'storm check' ok
ok revert cairn snapshot-revert bare storm
ok 'storm after a revert' say bare 'storm check' ok
ok save cairn managedsave bare
ok restore cairn start bare
ok 'storm after a restore' say bare 'storm check' ok
ok restart-process cairn restart-process bare
ok 'storm in a new process' say bare 'storm check' ok
ok clone cairn clone --live bare copy
ok 'storm in a clone' say copy 'storm check' ok
ok 'storm beside a clone' say bare 'storm check' ok
ok 'end of the clone' cairn destroy copy
ok reset say bare 'reset cf9' interp

ok PAE say bare pae holding
ok 'PAE save' cairn managedsave bare
ok 'PAE restore' cairn start bare
ok 'PDPTE after a restore' say bare x read=1

ok 'plain snapshot' cairn snapshot-create-as bare plain
ok nest say bare nest ok
ok 'nested snapshot' cairn snapshot-create-as bare nested
ok 'unnest after a snapshot' nested bare
for round in 1 2; do
	ok "nested revert $round" cairn snapshot-revert bare nested
	ok "unnest after revert $round" nested bare
	ok "plain revert $round" cairn snapshot-revert bare plain
	ok "plain after revert $round" plain bare
done
ok 'nest again' say bare nest ok
ok 'nested save' cairn managedsave bare
ok 'nested restore' cairn start bare
ok 'unnest after a restore' nested bare
ok 'nest again' say bare nest ok
ok 'nested restart-process' cairn restart-process bare
ok 'unnest in a new process' nested bare
ok 'nest again' say bare nest ok
ok 'nested clone' cairn clone --live bare nested
ok 'unnest in a clone' nested nested
ok 'unnest beside a clone' nested bare
ok 'nest again' say bare nest ok
ok 'nested reset' say bare 'reset cf9' interp
ok 'plain after a reset' plain bare
ok 'nest after a reset' say bare nest ok
ok 'unnest after a reset' nested bare
ok 'end of the VMs' cairn destroy --all

words="$(cat /cairn/guests/cmdline) cairn.port=ttyS0"
boot="\"boot\": {\"kernel\": \"/cairn/guests/vmlinux\", \"initrd\": \"/cairn/guests/initrd\", \"cmdline\": \"$words\"}"
ok 'define Linux' define linux "\"memory\": \"128M\", $boot, \"rng\": true"
ok 'boot of Linux' cairn console linux --no-input --until 'cairn-guest: ready' --timeout 120
ok 'Linux answers' say linux uname x86_64
ok 'snapshot of Linux' cairn snapshot-create-as linux booted
ok 'Linux after a snapshot' say linux uname x86_64
ok 'revert of Linux' cairn snapshot-revert linux booted
ok 'Linux after a revert' say linux uname x86_64
ok 'save of Linux' cairn managedsave linux
ok 'restore of Linux' cairn start linux
ok 'Linux after a restore' say linux uname x86_64
ok 'clone of Linux' cairn clone --live linux twin
ok 'Linux in a clone' say twin uname x86_64
ok 'Linux beside a clone' say linux uname x86_64
ok 'end of Linux' cairn destroy --all

ok 'sector on a disk' cairn-img convert -f raw -O qcow2 /cairn/guests/boot_sector.bin /tmp/bios.qcow2
ok 'define BIOS' define bios '"memory": "64M", "boot": {"firmware": "bios"}'
ok 'boot by BIOS' cairn console bios --no-input --until 'boot sector ready' --timeout 120
end
