#!/bin/sh
# Build the Debian packages: deb.sh BUILD VERSION leaves them, and the source package, in BUILD/deb. The sources are the
# files that git tracks or does not ignore. debian/ is made there from tools/packaging/debian, so the tree has none.
# The packages depend only on these files, the time of the last commit and the installed compiler and libraries.
set -eu
cd "$(dirname "$0")/../.."

mkdir -p "$1"
out=$(cd "$1" && pwd)/deb version=$2
die() {
	echo "make deb: $*" >&2
	exit 1
}
for tool in dpkg-buildpackage:dpkg-dev dh:debhelper; do
	command -v "${tool%:*}" >/dev/null || die "${tool%:*} is missing; install it: apt install ${tool#*:}"
done
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null) || die "this tree is not a git clone, so its packages have no version"
export SOURCE_DATE_EPOCH
# A later commit is a later version.
version=$version+git$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d.%H%M%S)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/cairn-$version

rm -rf "$out"
mkdir -p "$out" "$tree"
git ls-files -co --exclude-standard | while IFS= read -r f; do
	[ ! -f "$f" ] || printf '%s\n' "$f"
done | tar -cf - -T - | tar -xf - -C "$tree"
cp -a "$tree/tools/packaging/debian" "$tree/debian"
depends=$(awk '/^#/ || !NF {next} /^\[/ {on = /build/; next} on && !/^(gcc|binutils|make|libc6-dev)$/ {printf ", %s", $0}' tests/packages.txt)
sed -i "s/@BUILD_DEPENDS@/debhelper-compat (= 13)$depends, musl-tools/" "$tree/debian/control"
cat >"$tree/debian/changelog" <<END_CHANGELOG
cairn ($version) unstable; urgency=medium

  * See the commits of the project.

 -- $(sed -n 's/^Maintainer: //p' "$tree/debian/control")  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
END_CHANGELOG

# The kernels of `cairn run`, if make kernel has built them: Debian's source with tests/guests/linux/config.fragment.
[ ! -f "${out%/deb}/vmlinux" ] || export VMLINUX="${out%/deb}/vmlinux"
[ ! -f "${out%/deb}/vmlinux-smp" ] || export VMLINUX_SMP="${out%/deb}/vmlinux-smp"
cd "$tree"
umask 022
dpkg-buildpackage --no-sign "-j$(nproc)" >"$out/build.log" 2>&1 || {
	tail -n 30 "$out/build.log" >&2
	die "the build failed; the whole log is $out/build.log"
}
find "$work" -maxdepth 1 -type f -exec mv {} "$out" ';'
ls -1 "$out"/*.deb
