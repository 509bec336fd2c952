#!/bin/sh
# What the house style can check by machine: which folder may include what, headers that compile
# alone, sizes, left-overs. Prints each breach as file:line; exit status 1 when there is one.
# Warnings do not fail.
set -u
cd "$(dirname "$0")/.." || exit 1

CC=${CC:-gcc}
FILE_LINES=900
FUNCTION_LINES=60
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# All sources: what git knows or could be asked to add; in an unpacked archive, all files.
{ git ls-files -co --exclude-standard 2>/dev/null || find . -type f | sed 's,^\./,,' | grep -v '^build'; } |
	while read -r f; do [ -f "$f" ] && echo "$f"; done | sort -u >"$tmp/files"
grep '\.[ch]$' "$tmp/files" >"$tmp/c"
grep '\.h$' "$tmp/files" >"$tmp/h"

# Quoted includes name their folder. First column: a folder; then what it may include.
folders() {
	cat <<'END'
base base/
block base/ block/
snapshot base/ block/ snapshot/
devices base/ block/ snapshot/ devices/
vmm base/ block/ snapshot/ devices/ vmm/ dsdt.h
api base/ api/ vmm/vm_msg.h gen/
tools base/ block/ snapshot/ api/ tools/ gen/
END
}

# A library's headers and the rooms in which they may be.
libraries() {
	cat <<'END'
liburing.h base/ block/
json-c/ api/ tools/
json.h api/ tools/
seccomp.h base/lockdown.h vmm/sandbox.c tools/archive/sandbox.c tools/slirp/sandbox.c
cap-ng.h base/lockdown.c
zlib.h block/
zstd.h block/
linux/kvm.h vmm/
nbdkit-plugin.h tools/nbd/
archive.h tools/archive/
archive_entry.h tools/archive/
nettle/ tools/archive/
libdeflate.h tools/archive/
libxml/ tools/xml/
slirp/ tools/slirp/
END
}

check_folders() {
	folders | while read -r folder may; do
		grep "^$folder/" "$tmp/c" | xargs -r grep -Hn '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' |
			awk -v may="$may" -v folder="$folder" '
			BEGIN { n = split(may, prefix, " ") }
			{
				split($0, quoted, "\"")
				if (quoted[2] !~ "/" && quoted[2] != "dsdt.h") {
					own = $0 # a header beside the file
					sub(/[^\/]*:.*/, "", own)
					if ((getline line < (own quoted[2])) >= 0)
						next
				}
				for (i = 1; i <= n; i++)
					if (index(quoted[2], prefix[i]) == 1)
						next
				split($0, at, ":")
				print at[1] ":" at[2] ": " folder "/ may not include \"" quoted[2] "\""
			}'
	done
}

check_libraries() {
	grep -v '^tests/' "$tmp/c" | xargs -r grep -Hn '^[[:space:]]*#[[:space:]]*include[[:space:]]*<' >"$tmp/system"
	libraries | while read -r header rooms; do
		awk -v header="$header" -v rooms="$rooms" '
		BEGIN { n = split(rooms, room, " ") }
		{
			name = $0
			sub(/^[^<]*</, "", name)
			if (index(name, header) != 1)
				next
			for (i = 1; i <= n; i++)
				if (index($0, room[i]) == 1)
					next
			split($0, at, ":")
			print at[1] ":" at[2] ": <" header "> belongs to " rooms
		}' "$tmp/system"
	done
}

check_headers() {
	while read -r h; do
		$CC -std=gnu11 -D_GNU_SOURCE -I. -Wall -Wextra -Werror -fsyntax-only -x c -include "$h" /dev/null \
			2>"$tmp/why" || echo "$h:1: does not compile alone: $(grep -m1 error "$tmp/why")"
	done <"$tmp/h"
}

check_lengths() {
	xargs -r wc -l <"$tmp/c" | awk -v most=$FILE_LINES \
		'$2 != "total" && $1 > most { print $2 ":1: " $1 " lines; split files near " most }'
}

# Words that say that something is missing, and paths of one machine.
check_leftovers() {
	words='TO''DO|FIX''ME|X''XX'
	grep -v '^tests/data/' "$tmp/files" | xargs -r grep -HnwIE "$words" | sed 's/$/   (left over)/'
	grep -v '^tests/data/' "$tmp/files" | xargs -r grep -HnIE '(^|[^[:alnum:]_])/wo''rk/' |
		sed 's/$/   (a path of one machine)/'
}

# A function of this style begins with { and ends with } in the first column.
warn_functions() {
	xargs -r awk -v most=$FUNCTION_LINES '
	/^\{/ { begin = FNR }
	/^\}/ {
		if (begin && FNR - begin - 1 > most)
			print "warning: " FILENAME ":" begin ": a function of " FNR - begin - 1 " lines"
		begin = 0
	}' <"$tmp/c"
}

{
	check_folders
	check_libraries
	check_headers
	check_lengths
	check_leftovers
} >"$tmp/bad"
warn_functions
cat "$tmp/bad"
n=$(wc -l <"$tmp/bad")
echo "$(wc -l <"$tmp/c") C files, $n breaches"
[ "$n" = 0 ]
