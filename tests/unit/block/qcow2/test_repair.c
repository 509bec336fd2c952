/* Repair: images broken in many ways become consistent and keep their data. A power cut at any
 * point of a repair, with any subset of the unsynced writes, leaves an image that reads the same
 * and can be repaired again. */
#include "fixture_block.h"

#include "base/bytes.h"
#include "base/util.h"
#include "block/qcow2/qcow2.h"

#include <sys/stat.h>
#include <sys/syscall.h>

#define DISK_BYTES (1 * MIB)
#define IMAGE_BYTES_MAX (8 * MIB)
#define CUTS_BESIDE_SYNC 3
#define CUTS_MAX 60

/* ---- recording a repair's file operations: replacements of libc's functions ---- */

struct event {
	bool sync;
	uint64_t off;
	size_t len;
	uint8_t *data;
};

static struct event events[4096];
static size_t nevents;
static bool recording;

ssize_t pwrite(int fd, const void *buf, size_t len, off_t off);
int fdatasync(int fd);

ssize_t pwrite(int fd, const void *buf, size_t len, off_t off)
{
	if (recording && nevents < ARRAY_SIZE(events)) {
		struct event *ev = &events[nevents++];

		*ev = (struct event){ .off = (uint64_t)off, .len = len, .data = malloc(len) };
		memcpy(ev->data, buf, len);
	}
	return syscall(SYS_pwrite64, fd, buf, len, off);
}

int fdatasync(int fd)
{
	if (recording && nevents < ARRAY_SIZE(events))
		events[nevents++] = (struct event){ .sync = true };
	return (int)syscall(SYS_fdatasync, fd);
}

static void events_free(void)
{
	for (size_t i = 0; i < nevents; i++)
		free(events[i].data);
	nevents = 0;
}

/* ---- images ---- */

static void header_of(struct fixture *f, const char *name, struct qcow2_header *h)
{
	char path[256];
	int fd;

	fixture_path(f, name, path, sizeof(path));
	fd = open(path, O_RDONLY);
	assert_int_equal(qcow2_header_read(fd, name, h, &f->err), 0);
	close(fd);
}

static int repair(struct fixture *f, const char *name, enum qcow2_repair how, struct qcow2_check *c)
{
	struct qcow2_header h;
	char path[256];
	int fd, r;

	fixture_path(f, name, path, sizeof(path));
	fd = open(path, O_RDWR);
	assert_int_equal(qcow2_header_read_damaged(fd, name, &h, &f->err), 0);
	*c = (struct qcow2_check){ 0 };
	r = qcow2_repair(fd, &h, how, c, &f->err);
	close(fd);
	return r;
}

static uint8_t *content(struct fixture *f, const char *name)
{
	struct block *b = fixture_open(f, name, BLOCK_FORMAT_QCOW2, true);
	uint8_t *p = malloc(DISK_BYTES);

	assert_int_equal(fixture_rw(b, BLOCK_READ, 0, p, DISK_BYTES), 0);
	block_close(b);
	return p;
}

static void filled(struct fixture *f, const char *name, const struct qcow2_create *c)
{
	struct block *b;

	fixture_create(f, name, c);
	fixture_run(f, "truncate -s %llu shadow", DISK_BYTES);
	fixture_shadow_open(f, "shadow", DISK_BYTES);
	b = fixture_open(f, name, BLOCK_FORMAT_QCOW2, false);
	shadow_run(f, b, 150, 4);
	assert_int_equal(block_close(b), 0);
}

static const struct qcow2_create kinds[] = {
	{ .size_bytes = DISK_BYTES, .cluster_bits = 16, .refcount_order = 4, .version = 3 },
	{ .size_bytes = DISK_BYTES, .cluster_bits = 9, .refcount_order = 4, .version = 3 },
	{ .size_bytes = DISK_BYTES, .cluster_bits = 12, .refcount_order = 0, .version = 3 },
	{ .size_bytes = DISK_BYTES, .cluster_bits = 12, .refcount_order = 6, .version = 3 },
	{ .size_bytes = DISK_BYTES, .cluster_bits = 12, .refcount_order = 4, .version = 2 },
	{ .size_bytes = DISK_BYTES, .cluster_bits = 14, .refcount_order = 4, .version = 3,
		.extended_l2 = true },
};

/* ---- faults in an image that do not change the disk's content ---- */

static void break_refcounts(struct fixture *f, const char *name)
{
	struct qcow2_header h;
	uint64_t block;

	header_of(f, name, &h);
	block = fixture_peek_be(f, name, h.reftable_offset, 8);
	for (unsigned i = 0; i < 20; i++)
		fixture_poke_be(f, name, block + fixture_random(f) % 64, 1,
			fixture_random(f));
}

static void break_blocks(struct fixture *f, const char *name)
{
	struct qcow2_header h;

	header_of(f, name, &h);
	fixture_poke_be(f, name, h.reftable_offset, 8, fixture_random(f) % 2 ? 0 : 0x1234567);
}

/* Make the refcount block a data cluster as well. */
static void break_overlap(struct fixture *f, const char *name)
{
	struct qcow2_header h;

	header_of(f, name, &h);
	fixture_poke_be(f, name, h.reftable_offset, 8, h.l1_offset);
}

static void break_table_place(struct fixture *f, const char *name)
{
	fixture_poke_be(f, name, QCOW2_AT_REFTABLE_OFFSET, 8, 4 * MIB);
}

static void break_table_size(struct fixture *f, const char *name)
{
	fixture_poke_be(f, name, QCOW2_AT_REFTABLE_CLUSTERS, 4, fixture_random(f) % 2 ? 0 : 0x80000000);
}

static void break_table_offset(struct fixture *f, const char *name)
{
	static const uint64_t offsets[] = { 0, 0x10001, 1ULL << 62 };

	fixture_poke_be(f, name, QCOW2_AT_REFTABLE_OFFSET, 8, offsets[fixture_random(f) % ARRAY_SIZE(offsets)]);
}

static void break_copied(struct fixture *f, const char *name)
{
	struct qcow2_header h;

	header_of(f, name, &h);
	for (uint32_t i = 0; i < h.l1_size; i++)
		fixture_poke_be(f, name, h.l1_offset + i * 8ULL, 8,
			fixture_peek_be(f, name, h.l1_offset + i * 8ULL, 8) & ~QCOW2_COPIED);
}

static void break_dirty(struct fixture *f, const char *name)
{
	struct qcow2_header h;

	break_refcounts(f, name);
	header_of(f, name, &h);
	if (h.version >= 3)
		fixture_poke_be(f, name, QCOW2_AT_INCOMPATIBLE, 8,
			h.incompatible | QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
}

static void (*const breaks[])(struct fixture *f, const char *name) = { break_refcounts, break_blocks,
	break_overlap, break_table_place, break_copied, break_dirty, break_table_size, break_table_offset };

static void whole_again(struct fixture *f, const char *name, const uint8_t *was)
{
	struct qcow2_header h;
	struct qcow2_check c;
	uint8_t *is;

	assert_int_equal(repair(f, name, QCOW2_REPAIR_ALL, &c), 0);
	assert_int_equal(c.corruptions + c.leaks + c.errors, 0);
	header_of(f, name, &h);
	assert_int_equal(h.incompatible & (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT), 0);
	is = content(f, name);
	assert_memory_equal(is, was, DISK_BYTES);
	free(is);
}

static void test_broken_images_are_repaired(void **state)
{
	struct fixture f;
	unsigned broken = 0;

	(void)state;
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++)
		for (size_t i = 0; i < ARRAY_SIZE(breaks); i++) {
			uint8_t *was;
			struct block *b;

			fixture_begin(&f, (unsigned)(k * 10 + i));
			log_silence(true);
			filled(&f, "img", &kinds[k]);
			was = content(&f, "img");
			breaks[i](&f, "img");
			broken += fixture_status(&f, "qemu-img check -q img >/dev/null 2>&1") != 0;
			whole_again(&f, "img", was);
			fixture_run(&f, "qemu-img check -q img");
			/* the image is writable afterwards */
			b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
			shadow_run(&f, b, 100, 4);
			assert_int_equal(block_close(b), 0);
			fixture_run(&f, "qemu-img check -q img");
			free(was);
			fixture_end(&f);
		}
	/* Some random changes happen to have no effect. */
	assert_true(broken >= ARRAY_SIZE(kinds) * ARRAY_SIZE(breaks) - 2);
}

/* Invalid references read as zeros; the rest is kept, including entries with only a stray flag. */
static void test_invalid_entries_are_cleared(void **state)
{
	struct qcow2_header h;
	struct qcow2_check c;
	struct fixture f;
	uint64_t l2;
	uint8_t *p;

	(void)state;
	fixture_begin(&f, 7);
	log_silence(true);
	fixture_run(&f, "qemu-img create -q -f qcow2 img 1M && qemu-io -c 'write -P 5 0 1M' img >/dev/null");
	header_of(&f, "img", &h);
	l2 = fixture_peek_be(&f, "img", h.l1_offset, 8) & QCOW2_OFFSET_MASK;
	fixture_poke_be(&f, "img", l2, 8, QCOW2_COPIED | 0x100000000000ULL);
	fixture_poke_be(&f, "img", l2 + 8, 8, QCOW2_COPIED | 0x12300);
	fixture_poke_be(&f, "img", l2 + 16, 8, fixture_peek_be(&f, "img", l2 + 16, 8) | 2);
	fixture_poke_be(&f, "img", l2 + 24, 8, QCOW2_COMPRESSED | QCOW2_COPIED | 0x5000000000);
	/* two references to one cluster: both keep its content */
	fixture_poke_be(&f, "img", l2 + 32, 8, fixture_peek_be(&f, "img", l2 + 40, 8));
	assert_int_equal(repair(&f, "img", QCOW2_REPAIR_ALL, &c), 0);
	assert_int_equal(c.corruptions + c.leaks + c.errors, 0);
	assert_true(c.corruptions_fixed >= 5);
	fixture_run(&f, "qemu-img check -q img");
	p = content(&f, "img");
	for (size_t i = 0; i < DISK_BYTES; i++)
		assert_int_equal(p[i], i < 4 * 65536 && i / 65536 != 2 ? 0 : 5);
	free(p);
	fixture_end(&f);
}

/* Tables that reference tables: the result is an image that both Cairn and QEMU can read. */
static void test_table_loops_are_repaired(void **state)
{
	struct qcow2_header h;
	struct qcow2_check c;
	struct fixture f;

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		uint64_t l2;

		fixture_begin(&f, 70 + i);
		log_silence(true);
		fixture_run(&f, "qemu-img create -q -f qcow2 -o cluster_size=4k img 64M && "
			"qemu-io -c 'write -P 5 0 4M' img >/dev/null");
		header_of(&f, "img", &h);
		l2 = fixture_peek_be(&f, "img", h.l1_offset, 8) & QCOW2_OFFSET_MASK;
		if (i == 0) /* the L1 table references itself */
			fixture_poke_be(&f, "img", h.l1_offset + 8, 8, h.l1_offset | QCOW2_COPIED);
		else if (i == 1) /* no offset, but flags */
			fixture_poke_be(&f, "img", h.l1_offset + 8, 8, QCOW2_COPIED | 1);
		else if (i == 2) /* an L2 table references itself, or the L1 table */
			fixture_poke_be(&f, "img", l2 + 8, 8, l2 | QCOW2_COPIED);
		else
			fixture_poke_be(&f, "img", l2 + 8, 8, h.l1_offset | QCOW2_COPIED);
		assert_int_equal(repair(&f, "img", QCOW2_REPAIR_ALL, &c), 0);
		assert_int_equal(c.corruptions + c.errors, 0);
		fixture_run(&f, "qemu-io -c 'read -P 5 8k 1M' img >/dev/null");
		fixture_run(&f, "qemu-img check -q img");
		fixture_end(&f);
	}
}

static void test_leak_repair_changes_nothing_else(void **state)
{
	struct qcow2_header h, after;
	struct qcow2_check c;
	struct fixture f;
	uint64_t block;

	(void)state;
	fixture_begin(&f, 8);
	fixture_run(&f, "qemu-img create -q -f qcow2 img 1M && qemu-io -c 'write 0 128k' img >/dev/null");
	header_of(&f, "img", &h);
	block = fixture_peek_be(&f, "img", h.reftable_offset, 8);
	fixture_poke_be(&f, "img", block + 2 * 5, 2, 3);
	fixture_poke_be(&f, "img", block + 2 * 9, 2, 1);
	assert_int_equal(repair(&f, "img", QCOW2_REPAIR_LEAKS, &c), 0);
	assert_int_equal(c.corruptions + c.leaks + c.errors, 0);
	assert_true(c.leaks_fixed >= 2);
	header_of(&f, "img", &after); /* repaired in place */
	assert_int_equal(after.reftable_offset, h.reftable_offset);
	fixture_run(&f, "qemu-img check -q img");
	/* A refcount that is too low is not a leak: it is reported and not changed. */
	fixture_poke_be(&f, "img", block + 2 * 5, 2, 0);
	assert_int_equal(repair(&f, "img", QCOW2_REPAIR_LEAKS, &c), 0);
	assert_true(c.corruptions > 0);
	fixture_end(&f);
}

/* ---- power cuts ---- */

/* Build an image with everything before the last sync before `cut`, and any subset of the later
 * writes. */
static void cut_make(struct fixture *f, const uint8_t *base, size_t base_len, size_t cut)
{
	uint8_t *img = calloc(1, IMAGE_BYTES_MAX);
	size_t durable = 0, end = base_len;
	char path[256];
	int fd;

	memcpy(img, base, base_len);
	for (size_t i = 0; i < cut; i++)
		if (events[i].sync)
			durable = i;
	for (size_t i = 0; i < cut; i++) {
		const struct event *ev = &events[i];

		if (ev->sync || (i > durable && fixture_random(f) % 2))
			continue;
		assert_true(ev->off + ev->len <= IMAGE_BYTES_MAX);
		memcpy(img + ev->off, ev->data, ev->len);
		end = MAX(end, ev->off + ev->len);
	}
	fixture_path(f, "cut", path, sizeof(path));
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	assert_int_equal(write(fd, img, end), (ssize_t)end);
	close(fd);
	free(img);
}

/* Return whether the image has a refcount table, without which it can only be repaired. */
static bool opens(struct fixture *f, const char *name)
{
	struct qcow2_header h;
	char path[256];
	int fd, r;

	fixture_path(f, name, path, sizeof(path));
	fd = open(path, O_RDONLY);
	r = qcow2_header_read(fd, name, &h, &f->err);
	close(fd);
	return !r;
}

static void cuts_try(struct fixture *f, const uint8_t *base, size_t len, const uint8_t *was)
{
	size_t step = MAX(nevents * CUTS_BESIDE_SYNC / CUTS_MAX, (size_t)1);

	for (size_t cut = 0; cut <= nevents; cut += step)
		for (unsigned i = 0; i < CUTS_BESIDE_SYNC; i++) {
			uint8_t *is;

			cut_make(f, base, len, cut);
			if (opens(f, "cut")) {
				is = content(f, "cut");
				assert_memory_equal(is, was, DISK_BYTES);
				free(is);
			}
			whole_again(f, "cut", was);
		}
}

/* Repair img, and then all that power cuts during this repair leave. */
static void repair_with_cuts(struct fixture *f)
{
	uint8_t *was = content(f, "whole"), *base = malloc(IMAGE_BYTES_MAX);
	struct qcow2_check c;
	char path[256];
	ssize_t len;
	int fd;

	fixture_path(f, "img", path, sizeof(path));
	fd = open(path, O_RDONLY);
	len = read(fd, base, IMAGE_BYTES_MAX);
	close(fd);
	assert_true(len > 0);
	recording = true;
	assert_int_equal(repair(f, "img", QCOW2_REPAIR_ALL, &c), 0);
	recording = false;
	assert_true(nevents >= 4);
	cuts_try(f, base, (size_t)len, was);
	events_free();
	free(base);
	free(was);
}

/* Zero clusters of snapshots become unallocated, or clusters of zeros over a backing file. */
static void test_power_cut_during_downgrade_keeps_snapshots(void **state)
{
	struct fixture f;

	(void)state;
	for (unsigned backing = 0; backing < 2; backing++) {
		uint8_t *base = malloc(IMAGE_BYTES_MAX);
		struct qcow2_header h;
		char path[256];
		ssize_t len;
		int fd;

		fixture_begin(&f, 400 + backing);
		fixture_run(&f, "truncate -s 1M base && qemu-io -f raw -c 'write -P 9 0 1M' base >/dev/null");
		fixture_run(&f, "qemu-img create -q -f qcow2 -o cluster_size=4k %s img 1M", backing ? "-b base -F raw" : "");
		fixture_run(&f, "qemu-io -c 'write -P 1 0 512k' -c 'write -z 64k 64k' -c 'write -zu 512k 64k' img >/dev/null && "
			"qemu-img snapshot -c s img && qemu-io -c 'write -P 2 0 1M' img >/dev/null && qemu-img snapshot -c t img && "
			"qemu-img convert -l s -O raw img s && qemu-img convert -O raw img disk");
		fixture_path(&f, "img", path, sizeof(path));
		fd = open(path, O_RDWR);
		len = read(fd, base, IMAGE_BYTES_MAX);
		header_of(&f, "img", &h);
		recording = true;
		assert_int_equal(qcow2_set_version(fd, &h, 2, &f.err), 0);
		recording = false;
		close(fd);
		assert_true(nevents >= 4);
		for (size_t cut = 0; cut <= nevents; cut += MAX(nevents / 12, (size_t)1)) {
			cut_make(&f, base, (size_t)len, cut);
			fixture_run(&f, "r=0; qemu-img check -q cut >/dev/null 2>&1 || r=$?; [ $r = 0 -o $r = 3 ] && "
				"qemu-img convert -l s -O raw cut is && cmp is s && qemu-img compare -q cut disk");
		}
		fixture_run(&f, "qemu-img check -q img && qemu-img info img | grep -q 'compat: 0.10'");
		events_free();
		free(base);
		fixture_end(&f);
	}
}

static void test_power_cut_during_repair_keeps_data(void **state)
{
	struct fixture f;

	(void)state;
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++)
		for (unsigned i = 0; i < 2; i++) {
			fixture_begin(&f, 100 + (unsigned)k);
			log_silence(true);
			filled(&f, "img", &kinds[k]);
			fixture_run(&f, "cp img whole");
			break_copied(&f, "img");
			breaks[i ? 6 + k % 2 : k % 2 ? 5 : 0](&f, "img");
			repair_with_cuts(&f);
			fixture_end(&f);
		}
}

/* ---- the snapshot table ---- */

/* Make an entry of 24 bytes of extra data one of `extra`, with the id 1 and a name that takes the rest. */
static void entry_shorten(struct fixture *f, const char *name, uint64_t at, uint32_t extra)
{
	fixture_poke_be(f, name, at + QCOW2_SNAPSHOT_AT_EXTRA_LEN, 4, extra);
	fixture_poke_be(f, name, at + QCOW2_SNAPSHOT_AT_ID_LEN, 2, 1);
	fixture_poke_be(f, name, at + QCOW2_SNAPSHOT_AT_NAME_LEN, 2, 25 - extra);
	fixture_poke_be(f, name, at + QCOW2_SNAPSHOT_HEADER_BYTES + extra, 1, '1');
	for (uint32_t i = 1; i < 26 - extra; i++)
		fixture_poke_be(f, name, at + QCOW2_SNAPSHOT_HEADER_BYTES + extra + i, 1, 'n');
}

/* Make two snapshots, the first without the sizes and the second with too much extra data. */
static void snapshots_break(struct fixture *f, uint32_t version)
{
	const struct qcow2_create c = { .size_bytes = DISK_BYTES, .cluster_bits = 12, .refcount_order = 4, .version = version };
	struct qcow2_header h;

	filled(f, "img", &c);
	fixture_run(f, "qemu-img snapshot -c a img && qemu-io -c 'write -P 3 64k 256k' img >/dev/null && "
		"qemu-img snapshot -c b img && qemu-io -c 'write -P 4 0 256k' img >/dev/null && cp img whole");
	header_of(f, "img", &h);
	entry_shorten(f, "img", h.snapshots_offset, version < 3 ? 0 : 8);
	fixture_poke_be(f, "img", h.snapshots_offset + 72 + QCOW2_SNAPSHOT_AT_EXTRA_LEN, 4, 40000);
}

static void lines_collect(void *opaque, const char *line)
{
	assert_in_range(strlen(opaque) + strlen(line), 0, 16000);
	strcat(strcat(opaque, line), "\n");
}

static void test_snapshot_table_is_repaired(void **state)
{
	struct qcow2_snapshot_info *list;
	char lines[16384] = "", path[256], *entries;
	struct qcow2_check c = { .report = lines_collect, .opaque = lines };
	struct qcow2_header h;
	struct fixture f;
	size_t n;
	int fd;

	(void)state;
	fixture_begin(&f, 200);
	snapshots_break(&f, 3);
	fixture_path(&f, "img", path, sizeof(path));
	fd = open(path, O_RDWR);
	header_of(&f, "img", &h);
	assert_int_equal(qcow2_snapshots_read(fd, &h, &list, &n, &f.err), -EINVAL);
	assert_non_null(strstr(f.err.msg, "40000 bytes of extra data"));
	assert_non_null(strstr(f.err.msg, "check -r all"));
	assert_int_equal(qcow2_repair(fd, &h, QCOW2_REPAIR_LEAKS, &c, &f.err), 0);
	assert_true(c.corruptions >= 2);
	assert_non_null(strstr(lines, "ERROR snapshot table entry 0 is incomplete\n"
		"ERROR too much extra metadata in snapshot table entry 1 (40000 > 1024)\n"));
	*lines = 0;
	c = (struct qcow2_check){ .report = lines_collect, .opaque = lines };
	assert_int_equal(qcow2_repair(fd, &h, QCOW2_REPAIR_ALL, &c, &f.err), 0);
	assert_int_equal(c.corruptions + c.leaks + c.errors, 0);
	assert_true(c.corruptions_fixed >= 2);
	/* First the refcounts, of the clusters below the second snapshot, then the table's entries. */
	assert_int_equal(strncmp(lines, "Repairing cluster ", 18), 0);
	entries = strstr(lines, "Repairing snapshot");
	assert_non_null(entries);
	assert_string_equal(entries, "Repairing snapshot table entry 0 is incomplete\n"
		"Discarding too much extra metadata in snapshot table entry 1 (40000 > 1024)\n");
	assert_int_equal(qcow2_snapshots_read(fd, &h, &list, &n, &f.err), 0);
	assert_int_equal(n, 2);
	assert_string_equal(list[0].id, "1");
	assert_string_equal(list[0].name, "nnnnnnnnnnnnnnnnn");
	assert_int_equal(list[0].extra_len, QCOW2_SNAPSHOT_QEMU_BYTES);
	assert_int_equal(list[0].disk_bytes, DISK_BYTES);
	assert_false(list[0].has_icount);
	assert_int_equal(list[1].extra_len, QCOW2_SNAPSHOT_EXTRA_MAX);
	qcow2_snapshots_free(list, n);
	close(fd);
	fixture_run(&f, "qemu-img check -q img");
	/* the content of a snapshot is what it was */
	fixture_run(&f, "qemu-img convert -l snapshot.id=1 -O raw img is && qemu-img convert -l snapshot.id=1 -O raw whole was && "
		"cmp is was && qemu-img compare -q img whole");
	fixture_end(&f);
}

static void test_power_cut_during_repair_of_snapshot_table_keeps_data(void **state)
{
	struct fixture f;

	(void)state;
	for (uint32_t version = 2; version <= 3; version++) {
		fixture_begin(&f, 300 + version);
		log_silence(true);
		snapshots_break(&f, version);
		repair_with_cuts(&f);
		fixture_run(&f, "qemu-img check -q img && [ $(qemu-img info img | grep -c 00:00) = 2 ]");
		fixture_end(&f);
	}
}

/* Put the snapshot table at the end of the file. Its first entry gets `extra` bytes of extra data. */
static void table_lengthen(struct fixture *f, const char *name, uint32_t extra)
{
	uint8_t *table = calloc(1, IMAGE_BYTES_MAX), *p = table + QCOW2_SNAPSHOT_HEADER_BYTES;
	struct qcow2_header h;
	char path[256];
	struct stat st;
	int fd;

	header_of(f, name, &h);
	fixture_path(f, name, path, sizeof(path));
	fd = open(path, O_RDWR);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(pread(fd, table, QCOW2_SNAPSHOT_HEADER_BYTES, (off_t)h.snapshots_offset), QCOW2_SNAPSHOT_HEADER_BYTES);
	/* The rest follows 24 bytes of extra data. */
	memset(p + 24, 'x', extra - 24);
	assert_int_equal(pread(fd, p, 24, (off_t)(h.snapshots_offset + QCOW2_SNAPSHOT_HEADER_BYTES)), 24);
	assert_true(pread(fd, p + extra, 400, (off_t)(h.snapshots_offset + QCOW2_SNAPSHOT_HEADER_BYTES + 24)) > 0);
	store_be32(table + QCOW2_SNAPSHOT_AT_EXTRA_LEN, extra);
	h.snapshots_offset = ROUND_UP((uint64_t)st.st_size, 1u << h.cluster_bits);
	assert_int_equal(pwrite(fd, table, ROUND_UP(extra + 464, 1u << h.cluster_bits), (off_t)h.snapshots_offset),
		ROUND_UP(extra + 464, 1u << h.cluster_bits));
	close(fd);
	free(table);
	fixture_poke_be(f, name, QCOW2_AT_SNAPSHOTS_OFFSET, 8, h.snapshots_offset);
}

/* The new table is shorter than the old one, whose end must stay until the header names the new one. */
static void test_power_cut_during_repair_of_long_snapshot_table_keeps_snapshots(void **state)
{
	uint8_t *base = malloc(IMAGE_BYTES_MAX);
	struct qcow2_check k;
	struct fixture f;
	char path[256];
	ssize_t len;
	int fd;

	(void)state;
	fixture_begin(&f, 310);
	log_silence(true);
	/* Without free clusters in the middle, where the new tables would go. */
	fixture_run(&f, "qemu-img create -q -f qcow2 -o cluster_size=512 img 1M && qemu-io -c 'write -P 9 0 256k' img >/dev/null");
	for (unsigned i = 1; i <= 3; i++)
		fixture_run(&f, "qemu-img snapshot -c s%u img && qemu-img convert -l s%u -O raw img s%u && "
			"qemu-io -c 'write -P %u 64k 64k' img >/dev/null", i, i, i, i);
	table_lengthen(&f, "img", 3000);
	fixture_path(&f, "img", path, sizeof(path));
	fd = open(path, O_RDONLY);
	len = read(fd, base, IMAGE_BYTES_MAX);
	close(fd);
	recording = true;
	assert_int_equal(repair(&f, "img", QCOW2_REPAIR_ALL, &k), 0);
	recording = false;
	for (size_t cut = 0; cut <= nevents; cut++) {
		if (cut < nevents && !events[cut].sync)
			continue;
		cut_make(&f, base, (size_t)len, cut);
		assert_int_equal(repair(&f, "cut", QCOW2_REPAIR_ALL, &k), 0);
		fixture_run(&f, "qemu-img check -q cut && for i in 1 2 3; do qemu-img convert -l s$i -O raw cut is && cmp is s$i || exit 1; "
			"done");
	}
	events_free();
	free(base);
	fixture_end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_broken_images_are_repaired),
		cmocka_unit_test(test_invalid_entries_are_cleared),
		cmocka_unit_test(test_table_loops_are_repaired),
		cmocka_unit_test(test_leak_repair_changes_nothing_else),
		cmocka_unit_test(test_power_cut_during_repair_keeps_data),
		cmocka_unit_test(test_power_cut_during_downgrade_keeps_snapshots),
		cmocka_unit_test(test_snapshot_table_is_repaired),
		cmocka_unit_test(test_power_cut_during_repair_of_snapshot_table_keeps_data),
		cmocka_unit_test(test_power_cut_during_repair_of_long_snapshot_table_keeps_snapshots),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
