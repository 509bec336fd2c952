#!/bin/sh
# run.sh BUILD SECONDS: build each fuzzer of this folder on top of BUILD's libraries and run it.
# FUZZ_ONLY="NAME NAME" builds and runs only those.
# Its corpus stays in BUILD/fuzz/NAME, its finds in BUILD/fuzz/finds-NAME; `BUILD/fuzz/image_tool text FIND`
# turns a find into a row for image_finds.c. Exit status 1 when something was found.
# FUZZ_NOTES, a file outside the tree, gets a line for each run: day, fuzzer, commit, seconds, finds. After the runs,
# the minutes without finds of each fuzzer on this commit are printed, so that long runs can be collected in pieces.
set -eu
cd "$(dirname "$0")/../.."
build=$(realpath "$1") seconds=$2
flags="-std=gnu11 -D_GNU_SOURCE -I. -O1 -g -Wall -Wextra -Wshadow -Werror -fno-sanitize-recover=all"
shared="tests/fuzz/image_run.c tests/fuzz/image_seed.c tests/fuzz/image_mutate.c tests/fuzz/image_finds.c"
state="tests/fuzz/state_run.c tests/fuzz/state_seed.c"
share="tests/fuzz/share_run.c tests/fuzz/share_seed.c tools/share/share.c tools/share/share_names.c tools/share/share_files.c tools/share/nodes.c"
libs="$build/libsnapshot.a $build/libblock.a $build/libbase.a -luring -lzstd -lz"
# A smaller quarantine of freed memory, because the fuzzers allocate many large buffers.
export ASAN_OPTIONS=quarantine_size_mb=32
notes=${FUZZ_NOTES:-${XDG_CACHE_HOME:-$HOME/.cache}/cairn/fuzz-notes}
mkdir -p "$build/fuzz" "$(dirname "$notes")"
# A tree with changes has no commit whose minutes count.
commit=$(git describe --always --dirty --abbrev=12 --exclude='*' 2>/dev/null || echo none)

# shellcheck disable=SC2086
clang $flags -fsanitize=address,undefined,fuzzer-no-link -o "$build/fuzz/image_tool" tests/fuzz/image_tool.c tests/fuzz/seed_file.c $shared $libs
# shellcheck disable=SC2086
clang $flags -fsanitize=address,undefined,fuzzer-no-link -o "$build/fuzz/state_tool" tests/fuzz/state_tool.c tests/fuzz/seed_file.c $state $libs
# shellcheck disable=SC2086
clang $flags -fsanitize=address,undefined,fuzzer-no-link -o "$build/fuzz/share_tool" tests/fuzz/share_tool.c tests/fuzz/seed_file.c $share $libs

# target: NAME SOURCE LONGEST-INPUT MORE-SOURCES-AND-LIBRARIES...
found=0
target() {
	name=$1 source=$2 longest=$3
	shift 3
	corpus=$build/fuzz/$name finds=$build/fuzz/finds-$name log=$build/fuzz/$name.log
	case " ${FUZZ_ONLY:-$name} " in *" $name "*) ;; *) return ;; esac
	mkdir -p "$corpus" "$finds"
	# shellcheck disable=SC2086
	clang $flags -fsanitize=address,undefined,fuzzer -o "$build/fuzz/fuzz_$name" "$source" "$@" $libs
	FUZZ_KEEP=$build TMPDIR=${tmp:-$build} "$build/fuzz/fuzz_$name" -fork=1 -ignore_crashes=1 -ignore_ooms=1 -ignore_timeouts=1 \
		-print_funcs=0 -max_len="$longest" -rss_limit_mb=1024 -malloc_limit_mb=256 -timeout="${limit:-10}" -max_total_time="$seconds" \
		-artifact_prefix="$finds/" "$corpus" 2>&1 | tee "$log" >&2 || true
	n=$(find "$finds" -type f | wc -l)
	# libFuzzer's last line of progress has the edges (cov) and the sum of all runs (#).
	awk -v name="$name" -v n="$n" -v s="$seconds" '/cov: / { line = $0 } END {
		match(line, /#[0-9]+/); runs = substr(line, RSTART + 1, RLENGTH - 1)
		match(line, /cov: [0-9]+/); edges = substr(line, RSTART + 5, RLENGTH - 5)
		printf "fuzz_%s: %d finds, %d runs, %d a second, %d edges\n", name, n, runs, runs / s, edges }' "$log"
	[ "$n" = 0 ] || found=1
	echo "$(date +%F) $name $commit $seconds $n" >>"$notes"
}

notes_sum() {
	awk -v commit="$commit" '$3 == commit && $5 == 0 { clean[$2] += $4 } END {
		for (name in clean) printf "fuzz_%s: %.1f minutes clean on %s\n", name, clean[name] / 60, commit }' "$notes" | sort
}

corpus_of() { # NAME: print the folder of its corpus, which exists afterwards
	mkdir -p "$build/fuzz/$1" && echo "$build/fuzz/$1"
}

"$build/fuzz/image_tool" seeds "$(corpus_of qcow2)"
"$build/fuzz/state_tool" "$(corpus_of state)"
"$build/fuzz/share_tool" "$(corpus_of share)"
cp tests/data/xml/*.xml "$(corpus_of xml)"
cp tests/data/wire/* "$(corpus_of wire)"
cp tests/data/script/* "$(corpus_of script)"
cp tests/data/manifest/* "$(corpus_of manifest)"
cp tests/data/frames/* "$(corpus_of frames)"
# The first byte is the size of RAM in MiB. The fields of a bzImage: setup_sects, boot_flag, jump, header, version.
for elf in build/guests/*.elf; do
	[ ! -f "$elf" ] || { printf '\077' && cat "$elf"; } >"$(corpus_of boot)/$(basename "$elf")"
done
{
	printf '\077' && head -c 497 /dev/zero && printf '\004' && head -c 12 /dev/zero
	printf '\125\252\353\146HdrS\017\002' && head -c 6000 /dev/zero
} >"$(corpus_of boot)/bzimage"
# A 32-bit ELF with its program header at 84 and a Multiboot header at 52, and both kinds of header with addresses.
{
	printf '\077\177ELF\001\001\001\0\0\0\0\0\0\0\0\0\002\0\003\0\001\0\0\0\0\0\020\0\124\0\0\0\0\0\0\0'
	printf '\0\0\0\0\064\0\040\0\001\0\0\0\0\0\0\0\002\260\255\033\003\0\0\0\373\117\122\344' && head -c 20 /dev/zero
	printf '\001\0\0\0\0\0\0\0\0\0\020\0\0\0\020\0\0\010\0\0\0\020\0\0\005\0\0\0\0\020\0\0' && head -c 4096 /dev/zero
} >"$(corpus_of boot)/multiboot-elf"
{
	printf '\077\002\260\255\033\0\0\001\0\376\117\121\344\0\0\020\0\0\0\020\0\0\010\020\0\0\020\020\0\040\0\020\0'
	head -c 4096 /dev/zero
} >"$(corpus_of boot)/multiboot"
{
	printf '\077\326\120\122\350\0\0\0\0\110\0\0\0\342\256\255\027\001\0\0\0\014\0\0\0\006\0\0\0\0\0\0\0'
	printf '\002\0\0\0\030\0\0\0\0\0\020\0\377\377\377\377\0\010\020\0\0\020\020\0\003\0\0\0\014\0\0\0\040\0\020\0\0\0\0\0'
	head -c 4096 /dev/zero
} >"$(corpus_of boot)/multiboot2"

exec=$(corpus_of exec)
frame='cairn-agent 1\n\003\0\0\0\004\0\0\0abcd\006\0\0\0'
printf '\0\001\0\0\0\016\0\0\0%b\003\0\0\0out\013\0\0\0\010\0\0\0\0\0\0\0\0\0\0\0' "$frame" >"$exec/output"
printf '\002\001\0\0\0\016\0\0\0%b\022\0\0\0F\0\244\001\001\0\0\0xd\0\0\0\001\0\0\0y' "$frame" >"$exec/file"
printf '\006D\0\355\001\001\0\0\0xF\0\244\001\001\0\0\0fd\0\0\0\001\0\0\0yc\0\0\0\0\0\0\0L\0\0\0\003\0\0\0l\0fu\0\0\0\0\0\0\0E\0\0\0\0\0\0\0' >"$exec/folder"

# shellcheck disable=SC2086
target qcow2 tests/fuzz/fuzz_qcow2.c 524288 $shared
# shellcheck disable=SC2086
target state tests/fuzz/fuzz_state.c 524288 $state
# shellcheck disable=SC2046
target xml tests/fuzz/fuzz_xml.c 524288 $(find tools/xml -name '*.c' ! -name main.c) $(pkg-config --cflags libxml-2.0) \
	"$build/libapi.a" -lxml2 -ljson-c
target wire tests/fuzz/fuzz_wire.c 4096 tests/fuzz/wire_run.c "$build/libapi.a" -ljson-c
target config tests/fuzz/fuzz_config.c 193 tests/fuzz/config_run.c "$build/vmm/vm_msg.o"
# Its limit of processor time is 5 s (fuzz_script.c). A script waits for at most some of SETTLE_NS (script_run.c).
limit=120
target script tests/fuzz/fuzz_script.c 8192 tests/fuzz/script_run.c tests/fuzz/script_vm.c tests/fuzz/script_mutate.c \
	-Wl,--wrap=vm_spawn_begin,--wrap=vm_spawn_fd,--wrap=vm_spawn_end,--wrap=vm_socket_peek_pid,--wrap=loop_run_once "$build/vmm/vm_msg.o" "$build/libapi.a" -ljson-c
limit=
for device in blk net console vsock scsi_rings balloon fs rng pci serial rtc i8042 i6300esb acpi_pm pci_hotplug fw_cfg pflash cpu_hotplug input display; do
	target "$device" tests/fuzz/fuzz_device.c 2048 "-DDEVICE=DEVICE_$(echo "$device" | tr a-z A-Z)" -DTEST_SLOW=1 \
		tests/fuzz/device_run.c tests/unit/devices/fixture.c "$build/libdevices.a" -lcmocka
done
target scsi tests/fuzz/fuzz_scsi.c 4096 -DTEST_SLOW=1 tests/unit/devices/fixture.c "$build/libdevices.a" -lcmocka
target agent tests/fuzz/fuzz_agent.c 65536 "$build/libvmm.a" "$build/libdevices.a" -ljson-c
target exec tests/fuzz/fuzz_exec.c 4096
target boot tests/fuzz/fuzz_boot.c 262144 "$build/libvmm.a" "$build/libdevices.a"
target manifest tests/fuzz/fuzz_manifest.c 65536 '-DCAIRN_VERSION="fuzz"' tools/archive/manifest.c "$build/libapi.a" -ljson-c
target frames tests/fuzz/fuzz_frames.c 4096 tools/slirp/frames.c tools/slirp/segments.c tools/slirp/udp.c
# Its requests have files written to the disk.
[ ! -w /dev/shm ] || tmp=/dev/shm
# shellcheck disable=SC2086
target share tests/fuzz/fuzz_share.c 8192 $share
tmp=
target egress tests/fuzz/fuzz_egress.c 4096 tools/slirp/egress_filter.c tools/slirp/guest_packet.c
notes_sum
exit $found
