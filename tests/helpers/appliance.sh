#!/bin/sh
# Build the appliance, the VM in which libguestfs works on images: appliance.sh FOLDER. Set LIBGUESTFS_PATH to
# FOLDER afterwards. libguestfs itself would build it from a kernel in /boot and modules in /lib/modules, which a
# rented machine may lack. The script mounts the kernel and modules of tests/svmhost there, for this process
# alone. It takes 4 s and 500 MB.
set -eu

into=${1:?usage: appliance.sh FOLDER}
if [ "${2-}" != namespace ]; then
	user=
	[ "$(id -u)" = 0 ] || user=--map-root-user
	cache=$("$(dirname "$0")/../svmhost/svmhost" --prepare)
	# shellcheck disable=SC2086
	exec unshare --mount $user "$0" "$into" namespace "$cache"
fi

cache=$3 scratch=$into.scratch
version=$(grep -aom 1 'Linux version [^ ]*' "$cache/vmlinux" | head -n 1)
version=${version##* }
lib=$(realpath /lib)
mkdir "$scratch"
scratch=$(realpath "$scratch")
mount -t tmpfs tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work"
mount -t overlay -o "lowerdir=$lib,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$lib"
mkdir -p "$lib/modules/$version"
mount --bind "$cache/modules" "$lib/modules/$version"
ln -s "$cache/vmlinux" "$scratch/vmlinuz-$version"
export SUPERMIN_KERNEL="$scratch/vmlinuz-$version" SUPERMIN_KERNEL_VERSION="$version"
export SUPERMIN_MODULES="$lib/modules/$version"
supermin --build --copy-kernel -f ext2 --host-cpu x86_64 /usr/lib/x86_64-linux-gnu/guestfs/supermin.d -o "$into"
touch "$into/README.fixed" # by which libguestfs knows that it is one to be taken as it is
