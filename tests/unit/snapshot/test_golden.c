/* Golden states (tests/data): files of each format version are read completely, and a change of any
 * byte is detected. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/util.h"
#include "snapshot/state.h"
#include "snapshot/vmstate.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXTENTS_MAX 4096

struct golden {
	struct vmstate_file file;
	uint64_t size;
	uint64_t extents[EXTENTS_MAX]; /* non-zero pieces of 16 bytes */
	size_t n;
};

static const char *const names[] = {"vmstate-1-pvm.hex", "vmstate-1-svm.hex", "vmstate-1-pvm-devices.hex",
	"vmstate-1-svm-devices.hex", "vmstate-2-svm.hex", "vmstate-2-svm-devices.hex", "vmstate-2-pvm.hex",
	"vmstate-2-pvm-devices.hex"};

static void hex(const char *text, uint8_t out[16])
{
	for (int i = 0; i < 16; i++) {
		unsigned v;

		assert_int_equal(sscanf(text + 2 * i, "%2x", &v), 1);
		out[i] = (uint8_t)v;
	}
}

/* Expand the hex text into a memfd, as tests/data/golden.py does. */
static void golden_open(struct golden *g, const char *name)
{
	char path[128], key[32], value[64];
	FILE *f;

	memset(g, 0, sizeof(*g));
	snprintf(path, sizeof(path), "tests/data/%s", name);
	f = fopen(path, "r");
	if (!f)
		fail_msg("%s: run this from the project's folder", path);
	vmstate_file_init(&g->file, memfd_create("golden", MFD_CLOEXEC));
	while (fscanf(f, "%31s %63s\n", key, value) == 2) {
		uint8_t bytes[16];

		if (!strcmp(key, "size")) {
			g->size = strtoull(value, NULL, 16);
			continue;
		}
		assert_true(g->n < EXTENTS_MAX);
		g->extents[g->n] = strtoull(key, NULL, 16);
		hex(value, bytes);
		assert_int_equal(pwrite(g->file.fd, bytes, 16, (off_t)g->extents[g->n++]), 16);
	}
	assert_int_equal(ftruncate(g->file.fd, (off_t)g->size), 0);
	fclose(f);
}

static void golden_close(struct golden *g)
{
	close(g->file.fd);
}

/* ---- reading everything ---- */

static int sections_read(struct golden *g, const struct vmstate_header *h, char *list, size_t size)
{
	struct state_section s;
	uint8_t *buf = NULL;
	size_t pos = 0, n = 0;
	int r = vmstate_read_sections(&g->file.store, h, &buf, NULL);

	if (r < 0)
		return r;
	while ((r = state_section_next(buf, h->sections_bytes, &pos, &s, NULL)) == 1)
		n += (size_t)snprintf(list + n, size - n, "%s %s %u %zu\n", s.name, s.instance,
			s.version, s.content.len);
	free(buf);
	return r;
}

static int ram_read(struct golden *g, const struct vmstate_header *h, uint8_t *ram)
{
	uint32_t *crcs = NULL;
	int r = vmstate_read_crcs(&g->file.store, h, &crcs, NULL);

	for (uint64_t b = 0; b < h->layout.blocks && !r; b++)
		if (!vmstate_block_is_zero(&h->layout, crcs, b))
			r = vmstate_read_blocks(
				&g->file.store, h, crcs, b, 1, ram + b * VMSTATE_BLOCK_BYTES, NULL);
	free(crcs);
	return r;
}

/* Read everything. list: names of the sections; ram: 2 MiB. Returns 0 or -errno. */
static int read_all(
	struct golden *g, struct vmstate_header *h, char *list, size_t size, uint8_t *ram)
{
	int r = vmstate_read_header(&g->file.store, h, NULL);

	if (!r && h->layout.ram_bytes != 2 * MIB)
		r = -1;
	if (!r)
		r = sections_read(g, h, list, size);
	return r ? r : ram_read(g, h, ram);
}

/* ---- tests ---- */

static const char machine_1[] = "machine  1 16\n";
static const char machine_2[] = "machine  2 20\n"
				"cpu  1 \n";
static const char sections_1[] = "vcpu 0 1 6144\n"
				 "irqchip pic0 1 16\n"
				 "irqchip pic1 1 16\n"
				 "irqchip ioapic 1 212\n"
				 "pit  1 76\n"
				 "clock  1 8\n"
				 "serial serial0 1 11\n"
				 "i8042 i8042 1 6\n"
				 "rtc rtc 1 161\n"
				 "acpi-pm acpi-pm 1 18\n"
				 "vmgenid vmgenid 1 0\n"
				 "pvpanic pvpanic 1 0\n"
				 "pci pci 1 272\n";
static const char devices_1[] = "virtio-blk vda 1 433\n"
				"virtio-console virtio-console0 1 431\n"
				"virtio-console guest-agent0 1 533\n"
				"virtio-rng rng0 1 369\n"
				"i6300esb watchdog0 1 288\n";

/* The size of the sections of vCPUs and of their CPUID depends on the host. */
static void sections_are(const char *list, uint32_t version, bool devices)
{
	char all[sizeof(machine_2) + sizeof(sections_1) + sizeof(devices_1)];
	const char *want = all;

	snprintf(all, sizeof(all), "%s%s%s", version > 1 ? machine_2 : machine_1, sections_1, devices ? devices_1 : "");
	for (; *want; want += strcspn(want, "\n") + 1, list += strcspn(list, "\n") + 1) {
		bool any_size = !strncmp(want, "vcpu ", 5) || !strncmp(want, "cpu ", 4);
		size_t n = any_size ? strlen(want[0] == 'v' ? "vcpu 0 1 " : "cpu  1 ") : strcspn(want, "\n") + 1;

		if (strncmp(want, list, n))
			fail_msg("a section is \"%.*s\"", (int)strcspn(list, "\n"), list);
	}
	assert_string_equal(list, "");
}

static void test_golden_states_are_read_completely(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		uint8_t *ram = aligned_alloc(4096, 2 * MIB);
		char list[1024] = "", *definition = NULL;
		struct vmstate_header h;
		struct golden g;

		golden_open(&g, names[i]);
		memset(ram, 0, 2 * MIB);
		assert_int_equal(read_all(&g, &h, list, sizeof(list), ram), 0);
		assert_int_equal(h.version, names[i][strlen("vmstate-")] - '0');
		sections_are(list, h.version, strstr(names[i], "-devices"));
		assert_int_equal(vmstate_read_definition(&g.file.store, &h, &definition, NULL), 0);
		assert_non_null(strstr(definition, "\"6f6c6465-6e20-4f73-a174-652076312e30\""));
		/* The guest at 1 MiB: its third instruction is an out. */
		assert_non_null(memmem(ram + MIB, 64, "\xee", 1));
		assert_memory_equal(ram + 0xe0000, "RSD PTR ", 8);
		free(definition);
		free(ram);
		golden_close(&g);
	}
}

/* Flip a bit in every 16th non-zero byte of header, sections, checksums and memory. */
static void test_every_byte_counts(void **state)
{
	uint8_t *ram = aligned_alloc(4096, 2 * MIB);
	char list[1024];
	struct golden g;

	(void)state;
	golden_open(&g, names[0]);
	for (size_t i = 0; i < g.n; i++) {
		uint64_t at = g.extents[i] + i % 16;
		struct vmstate_header h;
		uint8_t good, bad;

		assert_int_equal(pread(g.file.fd, &good, 1, (off_t)at), 1);
		bad = good ^ (uint8_t)(1u << i % 8);
		assert_int_equal(pwrite(g.file.fd, &bad, 1, (off_t)at), 1);
		/* This version has no checksum of the definition: its reader checks the JSON. */
		if (read_all(&g, &h, list, sizeof(list), ram) == 0 &&
			!range_inside(at - h.layout.definition_offset, 1, h.definition_bytes))
			fail_msg("byte 0x%" PRIx64 " does not count", at);
		assert_int_equal(pwrite(g.file.fd, &good, 1, (off_t)at), 1);
	}
	golden_close(&g);
	free(ram);
}

/* Truncated anywhere, the state is refused, and no read goes past its end. */
static void test_every_truncation_is_refused(void **state)
{
	uint8_t *ram = aligned_alloc(4096, 2 * MIB);
	char list[1024];
	struct golden g;

	(void)state;
	golden_open(&g, names[0]);
	for (size_t i = g.n; i-- > 0;) {
		struct vmstate_header h;

		assert_int_equal(ftruncate(g.file.fd, (off_t)g.extents[i]), 0);
		assert_true(read_all(&g, &h, list, sizeof(list), ram) < 0);
		/* Full length, but empty from there on. */
		assert_int_equal(ftruncate(g.file.fd, (off_t)g.size), 0);
		assert_true(read_all(&g, &h, list, sizeof(list), ram) < 0);
	}
	golden_close(&g);
	free(ram);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_golden_states_are_read_completely),
		cmocka_unit_test(test_every_byte_counts),
		cmocka_unit_test(test_every_truncation_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
