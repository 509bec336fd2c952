/* The tables that a fork's source passes on to its clones, which then do not read them from the disk. */
#include "fixture_block.h"

#include "base/util.h"
#include "block/qcow2/pin.h"
#include "block/qcow2/warm.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define DISK (4 * MIB)

#define WARM_AT 65536u

static const uint8_t id[BLOCK_PIN_ID_BYTES] = { 0xa0, 1, 2, 3 };
static const uint8_t other_id[BLOCK_PIN_ID_BYTES] = { 0xa1, 1, 2, 3 };

struct reads {
	struct loop_trace trace;
	unsigned n;
};

static void read_count(struct loop_trace *t, struct loop_op *op, enum loop_op_kind kind, int fd, const struct iovec *iov,
	unsigned niov, uint64_t offset, uint64_t len, int mode)
{
	container_of(t, struct reads, trace)->n += kind == LOOP_OP_READ;
	(void)op, (void)fd, (void)iov, (void)niov, (void)offset, (void)len, (void)mode;
}

static void nothing(struct loop_trace *t, struct loop_op *op, int res)
{
	(void)t, (void)op, (void)res;
}

/* Open the fork with these tables, read all of it, and return the number of reads of files for the first 4 KiB. */
static unsigned warm_reads(struct fixture *f, struct qcow2_warm *warm, uint8_t *content)
{
	struct block_layer layers[] = { { .format = BLOCK_FORMAT_QCOW2, .fd = fixture_file(f, "fork", O_RDWR) },
		{ .format = BLOCK_FORMAT_QCOW2, .fd = fixture_file(f, "img", O_RDONLY) } };
	struct block_open o = { .layers = layers, .nlayers = 2, .name = "vda", .beside_pins = true, .warm = warm };
	struct reads s = { .trace = { .submit = read_count, .complete = nothing } };
	uint8_t buf[4096], *shadow;
	struct block *b = NULL;

	if (block_open(f->loop, &o, &b, &f->err) < 0)
		fail_msg("%s", f->err.msg);
	loop_trace(f->loop, &s.trace);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 0, buf, sizeof(buf)), 0);
	loop_trace(f->loop, NULL);
	assert_memory_equal(buf, content, 4096);
	shadow = f->shadow;
	f->shadow = content;
	shadow_verify(f, b);
	f->shadow = shadow;
	assert_int_equal(block_close(b), 0);
	return s.n;
}

static void pin(struct fixture *f, struct block *b)
{
	struct block_snapshot_info info = { .sec = 1700000000 };
	struct sync_op o = { .op.done = sync_done };
	struct block_snapshot *s = NULL;

	assert_int_equal(block_snapshot_begin(b, &s, &f->err), 0);
	qcow2_pin_mark(&info, id);
	block_snapshot_commit(s, &info, &o.op);
	assert_int_equal(sync_wait(f, &o), 0);
}

static void overlay(struct fixture *f)
{
	int from = fixture_file(f, "img", O_RDONLY), to = fixture_file(f, "fork", O_RDWR | O_CREAT);
	struct qcow2_pin p;

	assert_int_equal(qcow2_pin_read(from, "img", id, &p, &f->err), 0);
	assert_int_equal(qcow2_pin_overlays(&to, 1, &p, "img", &f->err), 0);
	close(from);
	close(to);
}

static void test_clone_reads_no_table_that_the_source_has_in_memory(void **state)
{
	struct fixture f;
	struct block *b;
	int fd = memfd_create("state", MFD_CLOEXEC);
	struct qcow2_warm *warm;
	uint8_t *frozen;

	fixture_begin(&f, 32);
	f.beside_pins = true;
	fixture_run(&f, "qemu-img create -q -f qcow2 img 4M && truncate -s 4M shadow");
	fixture_shadow_open(&f, "shadow", DISK);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	shadow_run(&f, b, 100, 4);
	assert_null(qcow2_warm_open(fd, WARM_AT));
	memset(f.shadow, 7, 4096);
	assert_int_equal(fixture_rw(b, BLOCK_WRITE, 0, f.shadow, 4096), 0);
	frozen = malloc(DISK);
	memcpy(frozen, f.shadow, DISK);
	pin(&f, b);
	overlay(&f);
	shadow_run(&f, b, 20, 4); /* the source's tables are no longer the pin's */
	qcow2_warm_write(b, id, fd, WARM_AT);
	warm = qcow2_warm_open(fd, WARM_AT);
	assert_non_null(warm);
	assert_int_equal(warm_reads(&f, NULL, frozen), 2);
	assert_int_equal(warm_reads(&f, warm, frozen), 1);
	/* From the close on, the clone reads its disk. */
	qcow2_warm_close(warm);
	assert_int_equal(warm_reads(&f, warm, frozen), 2);
	qcow2_warm_free(warm);
	/* Tables of another pin are not used. */
	qcow2_warm_write(b, other_id, fd, WARM_AT);
	warm = qcow2_warm_open(fd, WARM_AT);
	assert_int_equal(warm_reads(&f, warm, frozen), 2);
	qcow2_warm_free(warm);
	/* A damaged header is as good as none; nor may the file be too short for the slices. */
	assert_int_equal(pwrite(fd, "x", 1, WARM_AT + 100), 1);
	assert_null(qcow2_warm_open(fd, WARM_AT));
	qcow2_warm_write(b, id, fd, WARM_AT);
	warm = qcow2_warm_open(fd, WARM_AT);
	assert_int_equal(ftruncate(fd, WARM_AT + 4096), 0);
	assert_int_equal(warm_reads(&f, warm, frozen), 2);
	qcow2_warm_free(warm);
	close(fd);
	free(frozen);
	assert_int_equal(block_close(b), 0);
	fixture_end(&f);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_clone_reads_no_table_that_the_source_has_in_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
