#!/bin/sh
# Check the rules of the house style that a machine can check: which headers a folder may include, headers
# that compile alone, sizes, left-overs. Prints each breach as file:line; exit status 1 when there is one.
# Warnings do not fail.
set -u
cd "$(dirname "$0")/.." || exit 1

CC=${CC:-gcc}
FILE_LINES=900
FUNCTION_LINES=60
COMMENT_COLUMNS=120
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# All sources: the files that git tracks or does not ignore; in an unpacked archive, all files.
{ git ls-files -co --exclude-standard 2>/dev/null || find . -type f | sed 's,^\./,,' | grep -v '^build'; } |
	while read -r f; do [ -f "$f" ] && echo "$f"; done | sort -u >"$tmp/files"
grep '\.[ch]$' "$tmp/files" >"$tmp/c"
grep '\.h$' "$tmp/files" >"$tmp/h"

# Permitted includes. First column: a folder. Then the folders and single headers that its files may include
# besides their own folder; a folder covers its subfolders, except those with a row of their own. A file belongs
# to the row with the longest folder that is a prefix of its path.
folders() {
	cat <<'END'
base
block base
block/qcow2 base block
snapshot base block block/qcow2
devices base block snapshot
devices/pci base block snapshot devices
devices/legacy base block snapshot devices devices/pci
devices/virtio base block snapshot devices devices/pci
vmm base block block/qcow2 snapshot devices devices/pci devices/legacy devices/virtio vmm/kvm vmm/boot vmm/agent vmm/machine vmm/snapshot
vmm/kvm base block snapshot devices vmm/vm_msg.h
vmm/boot base block snapshot devices devices/pci devices/legacy vmm/vm_msg.h vmm/kvm
vmm/agent base vmm/vm_msg.h
vmm/machine base block block/qcow2 snapshot devices devices/pci devices/legacy devices/virtio vmm/vm_msg.h vmm/vm_page.h vmm/vm_screen.h vmm/kvm vmm/boot vmm/agent
vmm/snapshot base block block/qcow2 snapshot devices vmm/vm_msg.h vmm/kvm vmm/agent vmm/machine
api/wire base
api/schema base api/wire
api/store base api/wire api/schema
api/definition base vmm/vm_msg.h api/wire api/schema api/store
api/access base vmm/vm_msg.h api/wire api/schema api/store api/definition
api/vm base vmm/vm_msg.h vmm/vm_page.h api/wire api/schema api/store api/definition api/access
api/net base vmm/vm_msg.h api/wire api/schema api/store api/definition api/access api/vm
api/jobs base vmm/vm_msg.h api/wire api/schema api/store api/definition api/access api/vm api/net
api/policy base vmm/vm_msg.h api/wire api/schema api/store api/definition api/access api/vm api/net api/jobs
api/commands base vmm/vm_msg.h api/wire api/schema api/store api/definition api/access api/vm api/net api/jobs api/policy
api/qmp base vmm/vm_msg.h api/wire api/schema api/store api/definition api/access api/vm api/net api/jobs api/policy api/commands
api base vmm/vm_msg.h api/wire api/schema api/store api/definition api/access api/vm api/net api/jobs api/policy api/commands api/qmp
tools base block block/qcow2 snapshot api/wire api/schema api/store api/definition api/access api/vm api/net api/jobs api/policy api/commands
tools/archive base block block/qcow2 snapshot devices/legacy/flash_file.h devices/legacy/flash_state.h api/wire api/jobs
tools/diff base block snapshot tools/archive/helper.h api/wire
tools/cairn base block block/qcow2 snapshot tools/root/hand_over.h api/wire api/schema api/store api/definition api/access api/vm api/net api/jobs api/policy
tools/cairn/verbs base block block/qcow2 snapshot tools/metrics/openmetrics.h api/wire api/schema api/store api/definition api/access api/vm api/net api/jobs api/policy tools/cairn
END
}

# A library's headers and the folders that may include them.
libraries() {
	cat <<'END'
liburing.h base/loop_uring.c
json-c/ api/ tools/
json.h api/ tools/
zlib.h block/ vmm/machine/screen_image.c
zstd.h block/
linux/kvm.h vmm/ base/kvm_host.c tools/cairn/host_probe.c
nbdkit-plugin.h tools/nbd/
archive.h tools/archive/ tools/seed/ tools/root/
archive_entry.h tools/archive/ tools/seed/ tools/root/
nettle/ tools/archive/ tools/root/ tools/webhook/
curl/ tools/webhook/
libdeflate.h tools/archive/
ext2fs/ tools/diff/
libxml/ tools/xml/
libnbd.h tools/img/
slirp/ tools/slirp/
rfb/ tools/vnc/
libmnl/ tools/net/
microhttpd.h tools/metrics/ tools/web/
gnutls/ tools/web/
nftables/ tools/net/
security/ tools/login/
END
}

# Includes of sources, as FILE:LINE:HEADER; a header without a folder lies beside its file.
quoted_includes() {
	grep -v '^tests/' "$tmp/c" | xargs -r grep -Hn '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' |
		awk -F'"' '{ split($1, at, ":"); print at[1] ":" at[2] ":" $2 }'
}

check_folders() {
	folders >"$tmp/folders"
	quoted_includes | awk -F: -v table="$tmp/folders" '
	function folder_of(path,   dir) {
		dir = path
		while (sub(/\/[^\/]*$/, "", dir))
			if (dir in may)
				return dir
		return path ~ /\// ? substr(path, 1, index(path, "/") - 1) : ""
	}
	BEGIN {
		while ((getline row < table) > 0) {
			n = split(row, word, " ")
			may[word[1]] = ""
			for (i = 2; i <= n; i++)
				allowed[word[1], word[i]] = 1
		}
	}
	{
		from = folder_of($1)
		to = folder_of($3)
		if (to == "" || from == to || ((from, to) in allowed) || ((from, $3) in allowed))
			next
		print $1 ":" $2 ": " from "/ may not include \"" $3 "\""
	}'
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

# The build compiles a header alone if it is the first line of a source that the preprocessor sees.
check_headers() {
	xargs -r awk -F'"' '
		FNR == 1 { first = 1 }
		first && /^#/ { if (/^#include "/) print $2; first = 0 }' <"$tmp/c" | sort -u >"$tmp/alone"
	sort "$tmp/h" | comm -23 - "$tmp/alone" | while read -r h; do
		$CC -std=gnu11 -D_GNU_SOURCE -I. -Wall -Wextra -Werror -fsyntax-only -x c -include "$h" /dev/null \
			2>"$tmp/why" || echo "$h:1: does not compile alone: $(grep -m1 error "$tmp/why")"
	done
}

check_lengths() {
	xargs -r wc -l <"$tmp/c" | awk -v most=$FILE_LINES \
		'$2 != "total" && $1 > most { print $2 ":1: " $1 " lines; split files near " most }'
}

# Comment lines, with tabs of eight columns. Lines of code are not checked.
check_columns() {
	grep -E '\.(c|h|py|sh)$' "$tmp/files" | LC_ALL=C xargs -r awk -v most=$COMMENT_COLUMNS '
	length * 8 > most && /^[ \t]*(\/\*|\* |\/\/|#|""")/ {
		line = $0
		gsub(/[\200-\277]/, "", line) # a character of UTF-8 counts once
		while (tab = index(line, "\t"))
			line = substr(line, 1, tab - 1) substr("        ", (tab - 1) % 8 + 1) substr(line, tab + 1)
		if (length(line) > most)
			print FILENAME ":" FNR ": a comment of more than " most " columns"
	}'
}

# Words that mark unfinished work, and paths that exist on one machine only.
check_leftovers() {
	words='TO''DO|FIX''ME|X''XX'
	grep -v '^tests/data/' "$tmp/files" | xargs -r grep -HnwIE "$words" | sed 's/$/   (left over)/'
	grep -v '^tests/data/' "$tmp/files" | xargs -r grep -HnIE '(^|[^[:alnum:]_])/wo''rk/' |
		sed 's/$/   (a path of one machine)/'
}

# pytest imports a test file by its name alone.
check_test_names() {
	grep '^tests/.*/test_[^/]*\.py$' "$tmp/files" | sed 's,.*/,,' | sort | uniq -d | while read -r name; do
		grep "/$name\$" "$tmp/files" | tr '\n' ' ' && echo "  (one name; pytest stops)"
	done
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
	check_columns
	check_leftovers
	check_test_names
} >"$tmp/bad"
warn_functions
cat "$tmp/bad"
n=$(wc -l <"$tmp/bad")
echo "$(wc -l <"$tmp/c") C files, $n breaches"
[ "$n" = 0 ]
