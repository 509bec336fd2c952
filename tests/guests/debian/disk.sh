#!/bin/sh
# Build a partitioned disk with Debian that boots by BIOS and by UEFI: disk.sh [COMMAND...]
# mmdebstrap fetches Debian 12 with systemd, its cloud kernel and GRUB; grub-install and grub-mkconfig, which need
# partitions of a loop device and a FAT, run in the emulated SVM host (disk_grub.sh). Prints one line, the folder with
# disk.qcow2 (GPT: GRUB's core image, an EFI system partition, an ext4), in a cache outside the tree. The first build
# takes minutes and needs root and a mirror; later calls find its result in the cache. Exit status 77: it
# cannot be built here, and the last line says why. With COMMAND, executes that instead, with the folder in
# CAIRN_DEBIAN_DISK, or without it if the disk cannot be built.
set -eu

if [ $# -gt 0 ]; then
	CAIRN_DEBIAN_DISK=$("$0") || [ $? = 77 ] || exit 1
	export CAIRN_DEBIAN_DISK
	exec "$@"
fi

PACKAGES=systemd-sysv,udev,dbus,linux-image-cloud-amd64,initramfs-tools,zstd,grub-pc-bin,grub-efi-amd64-bin,grub2-common
PACKAGES=$PACKAGES,efibootmgr,qemu-guest-agent,fio

here=$(cd "$(dirname "$0")" && pwd)
. "$here/../cached_build.sh"
tests=$here/../..
cache_find debian-disk "$here/disk_grub.sh"
[ "$(id -u)" = 0 ] || lacks "only root can make the disk"
need mmdebstrap mke2fs mkfs.vfat sfdisk qemu-img
cache_begin "a disk with Debian"

root=$work/root
debian_install "$root" --include=$PACKAGES

printf 'LABEL=root / ext4 errors=remount-ro 0 1\nLABEL=ESP /boot/efi vfat umask=0077,x-systemd.device-timeout=infinity 0 1\n' >"$root/etc/fstab"
printf 'MODULES=list\nCOMPRESS=zstd\n' >"$root/etc/initramfs-tools/conf.d/image"
printf 'virtio_pci\nvirtio_blk\next4\n' >>"$root/etc/initramfs-tools/modules"
# 9600 baud would be GRUB's default. The host may be busy: at load 14, dbus took 14 minutes to start. So no service and
# no watchdog of one has a time limit.
cat >"$root/etc/default/grub" <<'E'
GRUB_TIMEOUT=1
GRUB_CMDLINE_LINUX="console=ttyS0 loglevel=5 mitigations=off random.trust_cpu=on systemd.default_timeout_start_sec=0 systemd.service_watchdogs=no"
GRUB_TERMINAL=serial
GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"
E
mkdir "$root/boot/efi"
# systemd waits 90 s for a device.
mkdir "$root/etc/systemd/system/dev-ttyS0.device.d"
printf '[Unit]\nJobRunningTimeoutSec=infinity\n' >"$root/etc/systemd/system/dev-ttyS0.device.d/timeout.conf"
chroot "$root" update-initramfs -u
chroot "$root" systemctl mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service
chroot "$root" passwd -d root
echo debian >"$root/etc/hostname"
: >"$root/etc/machine-id"
find "$root/var/cache/apt" "$root/var/lib/apt/lists" "$root/usr/share/doc" "$root/usr/share/man" -type f -delete

disk=$work/disk
truncate -s 2G "$disk"
sfdisk -q "$disk" <<'E'
label: gpt
start=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649
start=4096, size=98304, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B
start=102400, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4
E
mkfs.vfat -F 16 -n ESP --offset 4096 "$disk" 49152
mke2fs -q -t ext4 -L root -E nodiscard,lazy_itable_init=0,offset=$((102400 * 512)) -d "$root" "$disk" 1990M
mkdir "$work/share"
mv "$disk" "$work/share/disk"
"$tests/svmhost/svmhost" --smp 1 --timeout 1500 --share "$work/share" -- "$here/disk_grub.sh" /host-share/disk
qemu-img convert -O qcow2 "$work/share/disk" "$work/cache/disk.qcow2"
cache_end
