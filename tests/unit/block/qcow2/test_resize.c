/* Resize: nothing leaks, and no data behind the old end becomes visible. */
#include "fixture_powercut.h"
#include "fixture_powerload.h"

#include "base/bytes.h"
#include "block/mirror.h"
#include "block/qcow2/format.h"
#include "block/qcow2/qcow2.h"

#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

#define SMALL (1 * MIB + 512)

static void resize(struct fixture *f, uint64_t bytes)
{
	struct block *b = fixture_open(f, "img", BLOCK_FORMAT_QCOW2, false);

	if (block_resize(b, bytes, &f->err) < 0)
		fail_msg("%s", f->err.msg);
	assert_int_equal(block_close(b), 0);
	fixture_run(f, "qemu-img check -q img");
}

/* Version 2 has no zero flag above a backing file: the zeros occupy clusters, which have to be
 * freed with their tables. */
static void test_growth_above_backing_file_in_version_2(void **state)
{
	struct fixture f;

	(void)state;
	fixture_begin(&f, 1);
	fixture_run(&f, "qemu-img create -q -f raw base.img 6M && qemu-io -f raw -c 'write -P 5 0 6M' base.img && "
		"qemu-img create -q -f qcow2 -o cluster_size=4k,compat=0.10 -b base.img -F raw img 6M && "
		"qemu-io -c 'write -P 6 1M 4M' img");
	resize(&f, SMALL);
	resize(&f, 6 * MIB);
	fixture_run(&f, "qemu-io -c 'read -P 5 0 1M' -c 'read -P 6 1M 512' -c 'read -P 0 1049088 5242368' img | "
		"tee read && ! grep -q failed read");
	fixture_end(&f);
}

/* Behind the end of the backing file, no clusters are needed for zeros. QEMU leaks those that have an entry behind the
 * disk's end when it takes their table away. */
static void test_shrink_above_shorter_backing_file_in_version_2(void **state)
{
	struct fixture f;

	(void)state;
	fixture_begin(&f, 1);
	fixture_run(&f, "qemu-img create -q -f raw base.img 1M && "
		"qemu-img create -q -f qcow2 -o cluster_size=4k,compat=0.10 -b base.img -F raw img 4M && "
		"qemu-io -c 'write -P 6 2M 1M' img");
	resize(&f, 2 * MIB + 512);
	fixture_run(&f, "qemu-img resize -q --shrink img 1M && qemu-img check -q img");
	fixture_end(&f);
}

/* Power cut while the disk shrinks: the range reads as old content or zeros, never as the backing
 * file's content. */
static void test_power_cut_during_shrink_shows_no_backing_data(void **state)
{
	static const struct powercut_kind kind = { .name = "backing", .create =
		"qemu-img create -q -f raw base.img 2M && qemu-io -f raw -c 'write -P 5 0 2M' base.img && "
		"qemu-img create -q -f qcow2 -o cluster_size=512 -b base.img -F raw img 2M && "
		"qemu-io -c 'write -P 6 0 2M' img" };

	(void)state;
	powercut_resize(&kind, 7);
}

static void cut_mapped_growth(const char *create, unsigned seed)
{
	struct recorder rec;
	struct fixture f;

	fixture_begin(&f, seed);
	f.buffered = true; /* keeps the engine from preallocating the file */
	fixture_run(&f, "%s", create);
	record_begin(&rec, &f, 1);
	record_open(&rec);
	load_grow_mapped(&rec, 1536 * KIB);
	load_run(&rec, 1);
	load_grow_mapped(&rec, 3 * MIB);
	record_close(&rec);
	record_end(&rec);
	fixture_run(&f, "qemu-img check -q img");
	scene_cut(&rec, 2);
}

/* No entry names a cluster behind the end of the file, which would be corruption. */
static void test_power_cut_during_mapped_growth(void **state)
{
	(void)state;
	cut_mapped_growth("qemu-img create -q -f qcow2 -o cluster_size=4k img 1M && qemu-io -c 'write -P 6 0 600k' img", 9);
	cut_mapped_growth("qemu-img create -q -f qcow2 -o cluster_size=64k,extended_l2=on img 1M && qemu-io -c 'write -P 6 0 1M' img", 10);
}

static void cut_emptying(const char *options, unsigned seed)
{
	struct recorder rec;
	struct fixture f;
	char create[512];

	snprintf(create, sizeof(create), "qemu-img create -q -f raw base.img 1M && qemu-io -f raw -c 'write -P 5 0 1M' base.img && "
		"qemu-img create -q -f qcow2 -o %s -b base.img -F raw img && qemu-io -c 'write -P 5 0 1M' img", options);
	scene_begin(&rec, &f, create, seed);
	if (qcow2_make_empty(rec.disk->b, &f.err) < 0)
		fail_msg("%s", f.err.msg);
	record_flushed(&rec);
	record_close(&rec);
	record_end(&rec);
	fixture_run(&f, "qemu-img check -q img");
	assert_int_equal(fixture_peek_be(&f, "img", fixture_peek_be(&f, "img", 40, 8), 8), 0); /* the first L1 entry */
	scene_cut(&rec, 2);
}

/* After a commit: the image has the backing file's content at any time, and then no tables. */
static void test_power_cut_while_the_disk_is_emptied(void **state)
{
	(void)state;
	cut_emptying("cluster_size=512", 11);
	cut_emptying("cluster_size=512,refcount_bits=64", 12);
	cut_emptying("cluster_size=512,compat=0.10", 13);
}

/* 16 entries of a cluster of 64 are in use, and 128 are wanted. The cluster holds anything behind the 16. */
static void test_l1_moves_from_a_cluster_that_is_partly_used(void **state)
{
	struct fixture f;

	(void)state;
	fixture_begin(&f, 1);
	fixture_run(&f, "qemu-img create -q -f qcow2 -o cluster_size=512 img 512k && qemu-io -c 'write -P 6 0 512k' img && "
		"l1=0x$(od -An -tx1 -j40 -N8 img | tr -d ' ') && head -c 384 /dev/zero | tr '\\0' '\\245' | "
		"dd of=img bs=1 seek=$((l1 + 128)) conv=notrunc status=none");
	resize(&f, 4 * MIB);
	fixture_run(&f, "qemu-io -c 'read -P 6 0 512k' -c 'read -P 0 512k 3584k' img | tee read && ! grep -q failed read");
	fixture_end(&f);
}

static void held(void *opaque)
{
	*(bool *)opaque = true;
}

static void write_done(struct block_req *r, int res)
{
	assert_int_equal(res, 0);
	r->len = 0;
}

/* A running VM's disk grows while its requests wait. The added part has an L2 table, so zeros are written there. */
static void test_growth_while_requests_are_held(void **state)
{
	static uint8_t data[512] = { 7 };
	struct iovec iov = { data, sizeof(data) };
	struct block_req w = { .op = BLOCK_WRITE, .len = 512, .iov = &iov, .niov = 1, .done = write_done };
	struct block_mirror *m;
	struct fixture f;
	struct block *b;
	bool is_held = false;

	(void)state;
	fixture_begin(&f, 1);
	fixture_run(&f, "qemu-img create -q -f qcow2 img 1M && qemu-io -c 'write -P 6 0 1M' img");
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	assert_int_equal(block_mirror_new(b, NULL, &m, &f.err), 0);
	block_mirror_hold(m, held, &is_held);
	assert_true(is_held);
	block_submit(b, &w);
	assert_int_equal(block_resize(b, 2 * MIB, &f.err), 0);
	assert_int_equal(w.len, 512); /* it still waits */
	block_mirror_submit(block_mirror_end(m), b);
	while (w.len)
		loop_run_once(f.loop, UINT64_MAX);
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "qemu-img check -q img && qemu-io -c 'read -P 7 0 1' -c 'read -P 6 512 1048064' -c 'read -P 0 1M 1M' img | "
		"tee read && ! grep -q failed read");
	fixture_end(&f);
}

struct growth {
	char path[PATH_MAX];
	enum block_format format;
	bool fails;
};

/* The file has the old size until the added part is filled; a raw file at least has the space. */
static int fill(struct block *b, uint64_t from, void *opaque, struct err *e)
{
	const struct growth *g = opaque;
	uint8_t size[8];
	struct stat st;
	FILE *file;

	assert_int_equal(from, SMALL);
	if (g->format == BLOCK_FORMAT_QCOW2) {
		assert_int_equal(qcow2_preallocate(b, from, e), 0);
		file = fopen(g->path, "r");
		assert_non_null(file);
		assert_int_equal(fseek(file, QCOW2_AT_SIZE, SEEK_SET), 0);
		assert_int_equal(fread(size, sizeof(size), 1, file), 1);
		fclose(file);
		assert_int_equal(load_be64(size), SMALL);
	} else {
		assert_int_equal(stat(g->path, &st), 0);
		assert_true((uint64_t)st.st_blocks * 512 >= 3 * MIB);
	}
	return g->fails ? err_set(e, -ENOSPC, ERR_NO_SPACE, "full") : 0;
}

static void test_growth_is_filled_before_its_size_is_stored(void **state)
{
	static const enum block_format formats[] = { BLOCK_FORMAT_QCOW2, BLOCK_FORMAT_RAW };
	struct block_info info;
	struct fixture f;
	struct block *b;

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		struct growth g = { .format = formats[i / 2], .fails = i % 2 };
		const char *name = block_format_name(g.format);
		struct block_fill how = { fill, &g };

		fixture_begin(&f, 1);
		fixture_run(&f, "qemu-img create -q -f %s img %llu && qemu-io -f %s -c 'write -P 6 0 1M' img", name, SMALL, name);
		fixture_path(&f, "img", g.path, sizeof(g.path));
		b = fixture_open(&f, "img", g.format, false);
		assert_int_equal(block_grow_filled(b, 4 * MIB + SMALL, &how, &f.err), g.fails ? -ENOSPC : 0);
		block_info(b, &info);
		assert_int_equal(info.size_bytes, g.fails ? SMALL : 4 * MIB + SMALL);
		assert_int_equal(block_close(b), 0);
		fixture_run(&f, "qemu-img info -f %s --output json img | grep -q '\"virtual-size\": %d,'", name,
			(int)info.size_bytes);
		if (g.format == BLOCK_FORMAT_QCOW2)
			fixture_run(&f, "qemu-img check -q img");
		fixture_end(&f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_growth_above_backing_file_in_version_2),
		cmocka_unit_test(test_shrink_above_shorter_backing_file_in_version_2),
		cmocka_unit_test(test_power_cut_during_shrink_shows_no_backing_data),
		cmocka_unit_test(test_power_cut_during_mapped_growth),
		cmocka_unit_test(test_power_cut_while_the_disk_is_emptied),
		cmocka_unit_test(test_l1_moves_from_a_cluster_that_is_partly_used),
		cmocka_unit_test(test_growth_while_requests_are_held),
		cmocka_unit_test(test_growth_is_filled_before_its_size_is_stored),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
