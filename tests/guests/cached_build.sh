# Functions of scripts that build an image in a cache outside the tree; to be sourced. The script sets $here, its
# folder, calls cache_find, checks what the build needs, calls cache_begin, makes the files in $work/cache and calls
# cache_end.
# shellcheck shell=sh

# End because the image cannot be built here.
lacks() { # REASON
	echo "${0##*/}: $*" >&2
	exit 77
}

need() { # PROGRAM...
	for program in "$@"; do
		PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || lacks "$program is missing: run make deps"
	done
}

print_if_built() {
	[ ! -d "$dir" ] || { echo "$dir" && exit; }
}

# Set $dir to the folder of the image. Its name has a hash of this file, the script and the files. If the image is built
# already, print the folder and exit.
cache_find() { # NAME FILE...
	name=$1
	shift
	base=${CAIRN_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/cairn}
	dir=$base/$name-$(cat "$here/../cached_build.sh" "$0" "$@" | sha256sum | cut -c1-16)
	print_if_built
}

# Make $work, and send the output to a log until cache_end. Only one process builds at a time.
cache_begin() { # WHAT
	what=$1
	mkdir -p "$base"
	exec 9>"$base/$name.lock"
	flock 9
	print_if_built # by the process that held the lock
	log=$base/$name.log
	work=$(mktemp -d "$base/tmp.XXXXXX")
	mkdir "$work/cache"
	trap finish EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	echo "${0##*/}: building $what (minutes), log in $log" >&2
	exec 3>&1 >"$log" 2>&1
}

finish() {
	rc=$?
	rm -rf --one-file-system "$work"
	if [ $rc -ne 0 ]; then
		tail -n 20 "$log" >&2
		echo "${0##*/}: $what was not built; all of it in $log" >&2
	fi
	exit $rc
}

cache_end() {
	mv "$work/cache" "$dir"
	echo "$dir" >&3
}

# Install a minimal Debian 12 in a folder, from the mirrors of this machine, with its proxies and time limits. The
# latter stay in $work/apt.conf. mmdebstrap gets no file above 2: it lets sh redirect its own, for which sh has one
# digit.
debian_install() { # FOLDER OPTION-OF-MMDEBSTRAP...
	folder=$1
	shift
	# shellcheck disable=SC2016 # apt's own variables
	apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Identifier: Packages' |
		awk '$2 ~ /^bookworm(-updates|-security)?$/ && $3 == "main" { print "deb", $1, $2, $3 }' | sort -u >"$work/sources"
	apt-config dump | grep '^Acquire::' >"$work/apt.conf" || :
	grep -q ' bookworm main$' "$work/sources" || { echo "apt knows no mirror of Debian 12" && exit 77; }
	mmdebstrap --variant=minbase --aptopt="$work/apt.conf" "$@" bookworm "$folder" - <"$work/sources" 3>&- 9>&- || exit 77
}
