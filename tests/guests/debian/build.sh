#!/bin/sh
# Build a Debian image as clouds have it: build.sh
# mmdebstrap fetches Debian 12 with the cloud kernel, cloud-init, systemd, sshd and qemu-guest-agent, and mke2fs makes a
# disk of it, in a cache outside the tree. Prints one line, the folder with disk.img (ext4, sparse), vmlinuz
# and initrd. The first build takes minutes and needs root and a mirror; later calls find
# its result in the cache. Exit status 77: it cannot be built here, and the last line says why.
set -eu

PACKAGES=systemd-sysv,udev,dbus,linux-image-cloud-amd64,initramfs-tools,busybox,zstd,cloud-init,qemu-guest-agent,openssh-server
PACKAGES=$PACKAGES,systemd-resolved,libnss-resolve,iproute2,iputils-ping,iperf3,sudo,netbase

here=$(cd "$(dirname "$0")" && pwd)
. "$here/../cached_build.sh"
cache_find debian
[ "$(id -u)" = 0 ] || lacks "only root can make the image"
need mmdebstrap mke2fs
cache_begin "a Debian image"

root=$work/root
debian_install "$root" --include=$PACKAGES

# Settings that the vendor of an image chooses; cloud-init takes the rest from the seed.
echo 'LABEL=root / ext4 errors=remount-ro 0 1' >"$root/etc/fstab"
printf 'MODULES=list\nCOMPRESS=zstd\n' >"$root/etc/initramfs-tools/conf.d/image"
printf 'virtio_pci\nvirtio_blk\next4\n' >>"$root/etc/initramfs-tools/modules"
# An RSA key or a locale takes a minute on an emulated host.
printf '#cloud-config\nssh_genkeytypes: [ed25519]\nlocale: false\n' >"$root/etc/cloud/cloud.cfg.d/50_image.cfg"
chroot "$root" update-initramfs -u
chroot "$root" systemctl enable systemd-networkd
chroot "$root" systemctl mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service
rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/hostname" "$root/etc/machine-id"
touch "$root/etc/machine-id"
find "$root/var/cache/apt" "$root/var/lib/apt/lists" "$root/usr/share/doc" "$root/usr/share/man" -type f -delete

cp "$root"/boot/initrd.img-* "$work/cache/initrd"
cp "$root"/boot/vmlinuz-* "$work/cache/vmlinuz"
rm -f "$root"/boot/vmlinuz-* "$root"/boot/initrd.img-*
mke2fs -q -t ext4 -L root -E nodiscard,lazy_itable_init=0 -d "$root" "$work/cache/disk.img" 2G
dpkg-query --admindir="$root/var/lib/dpkg" -W >"$work/cache/packages"
cache_end
