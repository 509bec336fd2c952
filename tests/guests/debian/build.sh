#!/bin/sh
# Build a Debian image as clouds have it: build.sh
# mmdebstrap fetches Debian 12 with the cloud kernel, cloud-init, systemd, sshd and qemu-guest-agent, and mke2fs makes a
# disk of it, in a cache outside the tree. Prints one line, the folder with disk.img (ext4, sparse), vmlinuz
# and initrd. The first build takes minutes and needs root and a mirror; later calls find
# its result in the cache. Exit status 77: it cannot be built here, and the last line says why.
set -eu

lacks() {
	echo "build.sh: $*" >&2
	exit 77
}

PACKAGES=systemd-sysv,udev,dbus,linux-image-cloud-amd64,initramfs-tools,busybox,zstd,cloud-init,qemu-guest-agent,openssh-server
PACKAGES=$PACKAGES,systemd-resolved,libnss-resolve,iproute2,iputils-ping,iperf3,sudo,netbase

base=${CAIRN_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/cairn}
dir=$base/debian-$(sha256sum <"$0" | cut -c1-16)
if [ -f "$dir/disk.img" ]; then
	echo "$dir"
	exit
fi
[ "$(id -u)" = 0 ] || lacks "only root can make the image"
for program in mmdebstrap mke2fs; do
	PATH=$PATH:/usr/sbin:/sbin command -v $program >/dev/null || lacks "$program is missing: run make deps"
done

mkdir -p "$base"
exec 9>"$base/debian.lock"
flock 9
if [ -f "$dir/disk.img" ]; then # the one who held the lock has built it
	echo "$dir"
	exit
fi
log=$base/debian.log
work=$(mktemp -d "$base/tmp.XXXXXX")
finish() {
	rc=$?
	rm -rf --one-file-system "$work"
	if [ $rc -ne 0 ]; then
		tail -n 20 "$log" >&2
		echo "build.sh: the image was not built; all of it in $log" >&2
	fi
	exit $rc
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
echo "build.sh: building a Debian image (minutes), log in $log" >&2
exec 3>&1 >"$log" 2>&1

# Debian 12 from the mirrors of this machine, with this machine's proxies and time limits.
# shellcheck disable=SC2016 # apt's own variables
apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Identifier: Packages' |
	awk '$2 ~ /^bookworm(-updates|-security)?$/ && $3 == "main" { print "deb", $1, $2, $3 }' | sort -u >"$work/sources"
apt-config dump | grep '^Acquire::' >"$work/apt.conf" || :
grep -q ' bookworm main$' "$work/sources" || { echo "apt knows no mirror of Debian 12" && exit 77; }
root=$work/root
mmdebstrap --variant=minbase --aptopt="$work/apt.conf" --include=$PACKAGES bookworm "$root" - <"$work/sources" || exit 77

# What the vendor of an image decides; the rest is cloud-init's, from the seed.
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

mkdir "$work/cache"
cp "$root"/boot/initrd.img-* "$work/cache/initrd"
cp "$root"/boot/vmlinuz-* "$work/cache/vmlinuz"
rm -f "$root"/boot/vmlinuz-* "$root"/boot/initrd.img-*
mke2fs -q -t ext4 -L root -E nodiscard,lazy_itable_init=0 -d "$root" "$work/cache/disk.img" 2G
dpkg-query --admindir="$root/var/lib/dpkg" -W >"$work/cache/packages"
mv "$work/cache" "$dir"
echo "$dir" >&3
