#!/bin/sh
# Check that tests/packages.txt names all packages that Cairn needs: fresh.sh [COMMAND] makes a minimal Debian in a
# folder, clones the last commit of this tree into its /root and runs COMMAND there ("make demo && make check"). The
# folder is removed afterwards. Needs root, mmdebstrap and 10 GB below TMPDIR. FRESH_SUITE: Debian's release (bookworm,
# which is 12), or trixie (13). FRESH_CACHE=DIR: use a copy of that cache (kernels, QEMU), which saves 8 minutes of
# fetching and building. Exit status: the command's.
set -eu
cd "$(dirname "$0")/.."

command=${1:-make demo && make check}
suite=${FRESH_SUITE:-bookworm}
die() {
	echo "fresh.sh: $*" >&2
	exit 1
}
[ "$(id -u)" = 0 ] || die "only root can make a machine"
command -v mmdebstrap >/dev/null || die "mmdebstrap is missing: make deps installs it"
commit=$(git rev-parse HEAD) || die "this tree is not a clone"

work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
root=$work/root

# Fetch Debian from the mirrors of this machine, with this machine's proxies and time limits.
# shellcheck disable=SC2016 # apt's own variables
apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Identifier: Packages' |
	awk -v own="$(. /etc/os-release && echo "$VERSION_CODENAME")" -v suite="$suite" '
		$3 == "main" && $2 ~ "^" own "(-updates|-security)?$" && sub(own, suite, $2) { print "deb", $1, $2, $3 }' |
	sort -u >"$work/sources"
grep -q " $suite main\$" "$work/sources" || die "apt knows no mirror of Debian: run apt-get update"
apt-config dump | grep '^Acquire::' >"$work/apt.conf" || :
mmdebstrap --quiet --variant=minbase --include=make,git,ca-certificates --aptopt="$work/apt.conf" \
	"$suite" "$root" - <"$work/sources" || die "mmdebstrap could not make the machine"

git clone -q --no-hardlinks . "$root/root/cairn"
git -C "$root/root/cairn" checkout -q --detach "$commit"
if [ -n "${FRESH_CACHE-}" ]; then
	mkdir -p "$root/root/.cache"
	cp -a "$FRESH_CACHE" "$root/root/.cache/cairn"
fi

# Run in separate namespaces, so that its mounts and processes end with it.
cat >"$root/run/start" <<'END_START'
set -eu
root=$1 command=$2
mount --bind "$root" "$root" # unshare --mount, in tests, wants a root that is a mount point
# Nodes of its own: packages that COMMAND installs change their owners, such as the group of /dev/kvm.
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
(cd /dev && find . -xdev -type c -o -type b -o -type l -o -type d) | (cd /dev && cpio --quiet -pdm "$root/dev")
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount --rbind /sys "$root/sys"
mount -t proc proc "$root/proc"
cd "$root" # a chroot instead would refuse user namespaces, and mounts for VMs
pivot_root . .
umount -l .
exec env -i HOME=/root USER=root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
	sh -c 'cd /root/cairn && eval "$1"' sh "$command"
END_START
rc=0
unshare --mount --pid --fork --kill-child sh "$root/run/start" "$root" "$command" </dev/null || rc=$?
exit $rc
