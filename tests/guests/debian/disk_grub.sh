#!/bin/sh
# Install GRUB on the disk that disk.sh has made, for BIOS and UEFI: disk_grub.sh DISK. Runs in the emulated SVM host.
set -eu
modprobe vfat
loop=$(losetup --partscan --find --show "$1")
root=$(mktemp -d)
mount "${loop}p3" "$root"
mount "${loop}p2" "$root/boot/efi"
for dir in dev proc sys; do
	mount --bind "/$dir" "$root/$dir"
done
# The guest has other names for its disks than this host, so the kernel gets the label.
cat >>"$root/etc/default/grub" <<'E'
GRUB_DEVICE=LABEL=root
GRUB_DISABLE_LINUX_UUID=true
E
chroot "$root" grub-install --target=i386-pc "$loop"
chroot "$root" grub-install --target=x86_64-efi --efi-directory=/boot/efi --removable --no-nvram
chroot "$root" grub-mkconfig -o /boot/grub/grub.cfg
cat "$root/boot/grub/grub.cfg"
for dir in sys proc dev boot/efi; do
	umount "$root/$dir"
done
umount "$root"
losetup --detach "$loop"
