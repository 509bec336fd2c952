/* Snapshots of three disks, with the process killed or the power cut between any two writes to any
 * disk: the next user of the disks finds the complete operation or none of it. The test records all
 * file operations while a snapshot is created, deleted, renamed or reverted to, and replays each
 * point of that record. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "block/block.h"
#include "block/qcow2/qcow2.h"
#include "vmm/snapshot/vm_snapshot_impl.h"
#include "tests/unit/tmp.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DISKS 3u
#define DISK_BYTES (1u << 20)
#define IMAGE_MAX (4u << 20)
#define PIECE 65536u

static char dir[96];
static uint64_t random_state;

static unsigned random_below(unsigned n)
{
	random_state = random_state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (unsigned)(random_state >> 33) % n;
}

static void path_of(unsigned disk, const char *suffix, char *ret, size_t cap)
{
	snprintf(ret, cap, "%s/vd%c%s", dir, 'a' + disk, suffix);
}

static void command(const char *text)
{
	char line[256];

	snprintf(line, sizeof(line), "cd %s && %s", dir, text);
	if (system(line))
		fail_msg("%s failed", line);
}

#include "tests/unit/vmm/snapshot/set_record.c"

/* ---- a process for the images ---- */

struct process {
	struct loop *loop;
	struct vm *vm;
	struct worker *worker;
	unsigned recovered[VM_RECOVERY_REVERTED + 1];
};

static void process_event(void *opaque, const struct vm_event *ev)
{
	struct process *p = opaque;

	if (ev->kind == VM_EVENT_SNAPSHOT_RECOVERED)
		p->recovered[ev->value]++;
}

/* End the process without completing its work. */
static void process_open(struct process *p)
{
	struct vm_config *cfg = calloc(1, sizeof(*cfg));
	struct vm_sink sink = { .event = process_event, .opaque = p };
	struct err e = { 0 };
	int fds[DISKS];

	memset(p, 0, sizeof(*p));
	snprintf(cfg->name, sizeof(cfg->name), "t");
	memset(cfg->uuid, 7, sizeof(cfg->uuid));
	cfg->ram_bytes = VM_RAM_MIN_BYTES;
	cfg->vcpus = 1;
	cfg->kernel_fd = cfg->initrd_fd = cfg->log_fd = cfg->end_fd = cfg->restore_fd =
		cfg->working_sets_fd = VM_NO_FD;
	cfg->images_only = 1;
	cfg->ndisks = DISKS;
	for (unsigned i = 0; i < DISKS; i++) {
		struct vm_disk *d = &cfg->disks[i];
		char path[128];

		path_of(i, "", path, sizeof(path));
		fds[i] = open(path, O_RDWR | O_CLOEXEC);
		assert_true(fds[i] >= 0);
		snprintf(d->id, sizeof(d->id), "vd%c", (char)('a' + i));
		d->nlayers = 1;
		d->fd[0] = (uint16_t)i;
		d->data_fd[0] = VM_NO_FD;
		d->format[0] = BLOCK_FORMAT_QCOW2;
	}
	if (vm_config_check(cfg, DISKS, &e) || loop_new(64, &p->loop, &e) ||
		vm_new(cfg, fds, DISKS, NULL, NULL, p->loop, &sink, &p->vm, &e) || !(p->worker = worker_new(&vm_machine(p->vm)->kvm, "worker")) ||
		worker_start(p->worker, &e) ||
		machine_start_threads(vm_machine(p->vm), &e))
		fail_msg("%s", e.msg);
	free(cfg);
}

static void process_begin(struct process *p)
{
	struct err e = { 0 };

	process_open(p);
	if (vm_snapshot_recover(p->vm, &e))
		fail_msg("%s", e.msg);
}

static void process_end(struct process *p)
{
	worker_free(p->worker);
	vm_free(p->vm);
	loop_free(p->loop);
}

static struct machine_disk *disk(struct process *p, unsigned i)
{
	return &vm_machine(p->vm)->disks[i];
}

struct outcome {
	bool over;
	struct vm_snapshot_done d;
};

static void op_over(void *opaque, const struct vm_snapshot_done *d)
{
	*(struct outcome *)opaque = (struct outcome){ true, *d };
}

static void op_wait(struct process *p, int r, struct outcome *o, const struct err *e)
{
	if (r < 0)
		fail_msg("%s", e->msg);
	while (!o->over)
		loop_run_once(p->loop, UINT64_MAX);
	if (o->d.error)
		fail_msg("%s", o->d.msg);
}

static void take(struct process *p, const char *name)
{
	struct vm_snapshot_create c = { 0 };
	struct outcome o = { 0 };
	struct err e = { 0 };

	snprintf(c.name, sizeof(c.name), "%s", name);
	op_wait(p, vm_snapshot_create(p->vm, p->worker, &c, op_over, &o, &e), &o, &e);
}

static void delete(struct process *p, const char *name)
{
	struct outcome o = { 0 };
	struct err e = { 0 };

	op_wait(p, vm_snapshot_delete(p->vm, p->worker, name, op_over, &o, &e), &o, &e);
}

static void revert(struct process *p, const char *name)
{
	struct vm_snapshot_revert v = { 0 };
	struct outcome o = { 0 };
	struct err e = { 0 };

	snprintf(v.name, sizeof(v.name), "%s", name);
	op_wait(p, vm_snapshot_revert(p->vm, p->worker, &v, op_over, &o, &e), &o, &e);
}

struct rw {
	struct disk_call c;
	struct block_req req;
	struct iovec iov;
};

static void rw_done(struct block_req *r, int res)
{
	disk_call_return(&container_of(r, struct rw, req)->c, res, NULL);
}

static void rw_run(struct disk_call *c, struct block *b)
{
	block_submit(b, &container_of(c, struct rw, c)->req);
}

static void piece(struct process *p, unsigned i, bool write, uint64_t off, uint8_t *buf)
{
	struct rw x = { .c.run = rw_run, .iov = { buf, PIECE },
		.req = { .op = write ? BLOCK_WRITE : BLOCK_READ, .offset = off, .len = PIECE, .niov = 1,
			.done = rw_done } };
	struct err e = { 0 };

	x.req.iov = &x.iov;
	if (disk_call(disk(p, i), &x.c, &e) < 0)
		fail_msg("%s", e.msg);
}

struct trace_call {
	struct disk_call c;
	struct loop *loop;
	struct loop_trace *trace;
};

static void trace_run(struct disk_call *c, struct block *b)
{
	struct trace_call *x = container_of(c, struct trace_call, c);

	(void)b;
	loop_trace(x->loop, x->trace);
	disk_call_return(c, 0, NULL);
}

/* Watch the operations of a disk's loop, which its thread runs. trace: NULL: no longer. */
static void disk_trace(struct process *p, unsigned i, struct loop_trace *trace)
{
	struct trace_call x = { .c.run = trace_run, .loop = disk(p, i)->loop, .trace = trace };
	struct err e = { 0 };

	if (disk_call(disk(p, i), &x.c, &e) < 0)
		fail_msg("%s", e.msg);
}

static const uint64_t places[] = { 0, DISK_BYTES / 2 };

/* Write content `v` to all disks, durably. */
static void fill(struct process *p, unsigned v)
{
	uint8_t *buf = aligned_alloc(4096, PIECE);
	struct err e = { 0 };

	for (unsigned i = 0; i < DISKS; i++) {
		memset(buf, (int)(16 * v + i), PIECE);
		for (size_t k = 0; k < ARRAY_SIZE(places); k++)
			piece(p, i, true, places[k], buf);
		assert_int_equal(disk_flush(disk(p, i), &e), 0);
	}
	free(buf);
}

/* Return the content; all disks have the same. */
static unsigned content(struct process *p)
{
	uint8_t *buf = aligned_alloc(4096, PIECE);
	unsigned v = 0;

	for (unsigned i = 0; i < DISKS; i++)
		for (size_t k = 0; k < ARRAY_SIZE(places); k++) {
			piece(p, i, false, places[k], buf);
			for (unsigned b = 1; b < PIECE; b++)
				assert_int_equal(buf[b], buf[0]);
			if (!i && !k)
				v = buf[0] / 16;
			assert_int_equal(buf[0], 16 * v + i);
		}
	free(buf);
	return v;
}

/* Describe the snapshots as "s1 s2*": the current one is marked, and each child follows its
 * parent's name. Fails unless every disk has a complete part of each and nothing else. */
static void tree_text(struct process *p, char *ret, size_t cap)
{
	struct tree first;
	struct err e = { 0 };
	size_t at = 0;

	assert_int_equal(vmsnap_tree(disk(p, 0), &first, &e), 0);
	ret[0] = 0;
	for (size_t i = 0; i < first.n; i++) {
		const struct tree_node *n = &first.nodes[i], *parent = tree_find_id(&first, n->data.parent);

		assert_int_equal(n->data.set.mark, TREE_WHOLE);
		assert_int_equal(n->data.set.disks, DISKS);
		assert_true(!n->data.parent || parent);
		at += (size_t)snprintf(ret + at, cap - at, "%s%s%s%s%s", at ? " " : "",
			parent ? parent->info.name : "", parent ? "/" : "", n->info.name,
			n == tree_current(&first) ? "*" : "");
	}
	for (unsigned d = 1; d < DISKS; d++) {
		struct tree t;

		assert_int_equal(vmsnap_tree(disk(p, d), &t, &e), 0);
		assert_int_equal(t.n, first.n);
		for (size_t i = 0; i < first.n; i++) {
			const struct tree_node *part = tree_find_part(&t, &first.nodes[i]);

			assert_non_null(part);
			assert_int_equal(part->data.set.mark, TREE_WHOLE);
			assert_string_equal(part->info.name, first.nodes[i].info.name);
		}
		tree_done(&t);
	}
	tree_done(&first);
}

/* ---- states before and after ---- */

static struct image {
	uint8_t *before, *now;
	uint64_t before_bytes, bytes;
} images[DISKS];

/* Content 3; s1 has content 1, its child s2 has 2. */
static void begin(void)
{
	struct process p;

	for (unsigned i = 0; i < DISKS; i++) {
		char line[128];

		snprintf(line, sizeof(line), "rm -f vd%c && qemu-img create -q -f qcow2 -o cluster_size=%s vd%c %u",
			'a' + i, i == 1 ? "4k" : "64k", 'a' + i, DISK_BYTES);
		command(line);
	}
	process_begin(&p);
	fill(&p, 1);
	take(&p, "s1");
	fill(&p, 2);
	take(&p, "s2");
	fill(&p, 3);
	process_end(&p);
}

static void image_read(unsigned i)
{
	struct image *im = &images[i];
	char path[128];
	struct stat st;
	int fd;

	path_of(i, "", path, sizeof(path));
	fd = open(path, O_RDONLY);
	assert_int_equal(fstat(fd, &st), 0);
	assert_true(st.st_size <= IMAGE_MAX);
	rec.inode[i] = st.st_ino;
	im->before_bytes = (uint64_t)st.st_size;
	memset(im->before, 0, IMAGE_MAX);
	assert_int_equal(pread(fd, im->before, im->before_bytes, 0), im->before_bytes);
	close(fd);
}

static void event_apply(const struct event *ev)
{
	struct image *im = &images[ev->disk];
	uint64_t end = ev->offset + ev->len;

	if (ev->kind == EV_SYNC)
		return;
	assert_true(end <= IMAGE_MAX);
	if (ev->kind == EV_CUT) {
		if (ev->offset < im->bytes)
			memset(im->now + ev->offset, 0, im->bytes - ev->offset);
		im->bytes = ev->offset;
		return;
	}
	if (ev->kind == EV_WRITE)
		memcpy(im->now + ev->offset, ev->data, ev->len);
	if (ev->kind == EV_ZERO && ev->offset < im->bytes)
		memset(im->now + ev->offset, 0, MIN(end, im->bytes) - ev->offset);
	if (ev->kind != EV_ZERO)
		im->bytes = MAX(im->bytes, end);
}

/* Build the files as they are when everything ends before event `at`: with all earlier writes or,
 * after a power cut, with a subset of those that no flush had made durable. */
static void images_make(size_t at, bool power)
{
	size_t durable[DISKS] = { 0 };

	for (size_t i = 0; i < at; i++)
		if (rec.ev[i].kind == EV_SYNC)
			durable[rec.ev[i].disk] = MAX(durable[rec.ev[i].disk], rec.ev[i].covers);
	for (unsigned d = 0; d < DISKS; d++) {
		memcpy(images[d].now, images[d].before, IMAGE_MAX);
		images[d].bytes = images[d].before_bytes;
	}
	/* Changes of a file's length are never lost here; the engine's own tests cover that. */
	for (size_t i = 0; i < at; i++)
		if (!power || i < durable[rec.ev[i].disk] || rec.ev[i].kind == EV_CUT ||
			rec.ev[i].kind == EV_GROW || random_below(2))
			event_apply(&rec.ev[i]);
		else if (rec.ev[i].kind == EV_WRITE)
			images[rec.ev[i].disk].bytes =
				MAX(images[rec.ev[i].disk].bytes, rec.ev[i].offset + rec.ev[i].len);
	for (unsigned d = 0; d < DISKS; d++) {
		char path[128];
		int fd;

		path_of(d, "", path, sizeof(path));
		fd = open(path, O_WRONLY | O_TRUNC);
		assert_int_equal(pwrite(fd, images[d].now, images[d].bytes, 0), images[d].bytes);
		close(fd);
	}
}

static void images_check(void)
{
	for (unsigned d = 0; d < DISKS; d++) {
		struct qcow2_check c = { 0 };
		struct qcow2_header h;
		struct err e = { 0 };
		char path[128];
		int fd;

		path_of(d, "", path, sizeof(path));
		fd = open(path, O_RDONLY);
		if (qcow2_header_read(fd, path, &h, &e) || qcow2_check(fd, &h, &c, &e))
			fail_msg("%s", e.msg);
		assert_int_equal(c.corruptions, 0);
		assert_int_equal(c.errors, 0);
		close(fd);
	}
}

/* ---- the cuts ---- */

struct act {
	void (*run)(struct process *p);
	const char *before, *after; /* expected trees */
	unsigned content_after;
	const char *back; /* a snapshot of the tree `after`, and its content */
	unsigned back_content;
	unsigned seen; /* recoveries that must have happened at some point: bits of enum vm_recovery */
	const char *from; /* a snapshot to revert to before the act; NULL: none. Its content is content_after */
};

static void record_act(const struct act *a)
{
	struct loop_trace trace = { on_submit, on_complete };
	struct process p;

	if (a->from) {
		process_begin(&p);
		revert(&p, a->from);
		process_end(&p);
	}
	for (unsigned i = 0; i < DISKS; i++)
		image_read(i);
	process_begin(&p);
	for (unsigned i = 0; i < DISKS; i++)
		disk_trace(&p, i, &trace);
	rec.on = true;
	a->run(&p);
	rec.on = false;
	for (unsigned i = 0; i < DISKS; i++)
		disk_trace(&p, i, NULL);
	process_end(&p);
	assert_int_equal(rec.npending, 0);
}

static void record_free(void)
{
	for (size_t i = 0; i < rec.n; i++)
		free(rec.ev[i].data);
	free(rec.ev);
	rec.ev = NULL;
	rec.n = rec.cap = 0;
}

static unsigned cut(const struct act *a, size_t at, bool power)
{
	char tree[256];
	struct process p;
	unsigned seen = 0;
	bool after;

	images_make(at, power);
	process_begin(&p);
	for (unsigned i = 0; i < ARRAY_SIZE(p.recovered); i++)
		seen |= p.recovered[i] ? 1u << i : 0;
	tree_text(&p, tree, sizeof(tree));
	after = !strcmp(tree, a->after);
	if (!after)
		assert_string_equal(tree, a->before);
	assert_int_equal(content(&p), after || a->from ? a->content_after : 3);
	if (after && a->back) {
		revert(&p, a->back);
		assert_int_equal(content(&p), a->back_content);
	}
	take(&p, "next"); /* new snapshots work */
	process_end(&p);
	images_check();
	return seen;
}

static void all_cuts(const struct act *a)
{
	unsigned step = getenv("SET_CUTS") ? 1 : 2, seen = 0, n = 0;

	begin();
	record_act(a);
	for (size_t at = 0; at <= rec.n; at += 1 + random_below(step), n += 2) {
		seen |= cut(a, at, false);
		seen |= cut(a, at, true);
	}
	print_message("%u cuts of %zu events\n", n, rec.n);
	assert_int_equal(seen & a->seen, a->seen);
	record_free();
}

static void run_take(struct process *p)
{
	take(p, "s3");
}

static void test_interrupted_create_is_whole_or_absent(void **state)
{
	static const struct act a = { run_take, "s1 s1/s2*", "s1 s1/s2 s2/s3*", 3, "s3", 3,
		1u << VM_RECOVERY_MADE | 1u << VM_RECOVERY_UNMADE, NULL };

	(void)state;
	all_cuts(&a);
}

static void run_delete_current(struct process *p)
{
	delete(p, "s2");
}

static void test_interrupted_delete_of_current_is_completed(void **state)
{
	static const struct act a = { run_delete_current, "s1 s1/s2*", "s1*", 3, "s1", 1,
		1u << VM_RECOVERY_DELETED, NULL };

	(void)state;
	all_cuts(&a);
}

static void run_delete_parent(struct process *p)
{
	delete(p, "s1");
}

static void test_interrupted_delete_of_parent_is_completed(void **state)
{
	static const struct act a = { run_delete_parent, "s1 s1/s2*", "s2*", 3, "s2", 2,
		1u << VM_RECOVERY_DELETED, NULL };

	(void)state;
	all_cuts(&a);
}

/* Then no snapshot is current, because the VM continues from none of those that are left. */
static void test_interrupted_delete_of_current_root_is_completed(void **state)
{
	static const struct act a = { run_delete_parent, "s1* s1/s2", "s2", 1, "s2", 2,
		1u << VM_RECOVERY_DELETED, .from = "s1" };

	(void)state;
	all_cuts(&a);
}

static void run_revert(struct process *p)
{
	revert(p, "s1");
}

static void test_interrupted_revert_is_completed(void **state)
{
	static const struct act a = { run_revert, "s1 s1/s2*", "s1* s1/s2", 1, "s2", 2,
		1u << VM_RECOVERY_REVERTED, NULL };

	(void)state;
	all_cuts(&a);
}

static void set_over(void *opaque, int r, const struct err *e)
{
	struct outcome *o = opaque;

	o->over = true;
	o->d.error = r;
	if (r < 0)
		snprintf(o->d.msg, sizeof(o->d.msg), "%s", e->msg);
}

static void run_rename(struct process *p)
{
	struct vm_snapshot_set s = { .name = "s1", .new_name = "t1" };
	struct outcome o = { 0 };
	struct err e = { 0 };

	op_wait(p, vm_snapshot_set(p->vm, p->worker, &s, set_over, &o, &e), &o, &e);
}

static void test_interrupted_rename_is_harmless(void **state)
{
	static const struct act a = { run_rename, "s1 s1/s2*", "t1 t1/s2*", 3, "t1", 1, 0, NULL };

	(void)state;
	all_cuts(&a);
}

/* Return entry `i` of the first disk's table; ids have one digit here. */
static void id_write(size_t i, char id)
{
	struct qcow2_snapshot_info *list = NULL;
	struct qcow2_header h;
	struct err e = { 0 };
	char path[128];
	size_t n = 0;
	int fd;

	path_of(0, "", path, sizeof(path));
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 || qcow2_header_read(fd, "vda", &h, &e) || qcow2_snapshots_read(fd, &h, &list, &n, &e))
		fail_msg("%s", e.msg);
	assert_true(i && i < n);
	assert_int_equal(pwrite(fd, &id, 1, (off_t)(h.snapshots_offset +
		ROUND_UP(list[i - 1].table_bytes, 8) + 40 + list[i].extra_len)), 1);
	qcow2_snapshots_free(list, n);
	close(fd);
}

/* A foreign image with two snapshots of one id: an operation on one would hit the other, so its
 * mark would never be cleared. */
static void test_duplicate_ids_are_refused(void **state)
{
	static const enum tree_mark marks[] = { TREE_REVERTING, TREE_DELETING };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(marks); i++) {
		struct err e = { 0 };
		struct process p;
		struct tree t;

		begin();
		process_open(&p);
		assert_int_equal(vmsnap_tree(disk(&p, 0), &t, &e), 0);
		t.nodes[1].data.set.mark = marks[i];
		tree_encode(&t.nodes[1].data, &t.nodes[1].info);
		assert_int_equal(disk_snapshot_update(disk(&p, 0), &t.nodes[1].info, &e), 0);
		tree_done(&t);
		process_end(&p);
		id_write(1, '1');
		process_open(&p);
		assert_int_equal(vm_snapshot_recover(p.vm, &e), -EINVAL);
		assert_non_null(strstr(e.msg, "two snapshots have the id 1"));
		assert_int_equal(vmsnap_tree(disk(&p, 0), &t, &e), 0);
		assert_int_equal(t.n, 2);
		tree_done(&t);
		process_end(&p);
	}
}

static void tree_is(const char *want, const char *or_else)
{
	struct process p;
	char tree[256];

	process_begin(&p);
	tree_text(&p, tree, sizeof(tree));
	process_end(&p);
	if (strcmp(tree, want) && strcmp(tree, or_else))
		fail_msg("%s", tree);
}

/* Whichever write of the first disk's header fails, reaching the file or not, the next user of the
 * disks finds a complete set or none. again: do more work in between, which succeeds. Returns false
 * when there is no such write. */
static bool header_fails(unsigned nth, bool again)
{
	struct loop_trace trace = { on_submit, on_complete };
	struct vm_snapshot_create c = { .name = "s3" };
	struct outcome o = { 0 };
	struct process p;
	struct err e = { 0 };
	bool met;

	begin();
	image_read(0);
	process_begin(&p);
	disk_trace(&p, 0, &trace);
	broken_write = nth;
	assert_int_equal(vm_snapshot_create(p.vm, p.worker, &c, op_over, &o, &e), 0);
	while (!o.over)
		loop_run_once(p.loop, UINT64_MAX);
	met = !broken_write;
	assert_true(met || !o.d.error);
	broken_write = 0;
	if (again)
		take(&p, "s4");
	disk_trace(&p, 0, NULL);
	process_end(&p);
	if (again)
		tree_is("s1 s1/s2 s2/s4*", "s1 s1/s2 s2/s3 s3/s4*");
	else
		tree_is("s1 s1/s2*", "s1 s1/s2 s2/s3*");
	return met;
}

static void test_failed_header_write_leaves_whole_set(void **state)
{
	unsigned nth = 1;

	(void)state;
	log_set_level(LOG_LEVEL_ERROR - 1);
	while (header_fails(nth, true) && header_fails(nth, false))
		nth++;
	log_set_level(LOG_LEVEL_ERROR);
	assert_true(nth > 1);
}

enum revert_end { REVERT_DONE, REVERT_STANDS, REVERT_ENDED, REVERT_UNBROKEN };

/* Revert to s1 while a write fails. */
static enum revert_end revert_broken(unsigned disk_, unsigned nth, bool lost)
{
	struct loop_trace trace = { on_submit, on_complete };
	struct vm_snapshot_revert v = { .name = "s1" };
	enum revert_end end = REVERT_DONE;
	struct outcome o = { 0 };
	struct process p;
	struct err e = { 0 };
	char tree[256];

	begin();
	for (unsigned i = 0; i < DISKS; i++)
		image_read(i);
	process_begin(&p);
	for (unsigned i = 0; i < DISKS; i++)
		disk_trace(&p, i, &trace);
	broken_disk = disk_;
	broken_lost = lost;
	broken_write = nth;
	assert_int_equal(vm_snapshot_revert(p.vm, p.worker, &v, op_over, &o, &e), 0);
	while (!o.over)
		loop_run_once(p.loop, UINT64_MAX);
	for (unsigned i = 0; i < DISKS; i++)
		disk_trace(&p, i, NULL);
	if (broken_write)
		end = REVERT_UNBROKEN;
	else if (o.d.error)
		end = vm_phase(p.vm) == VM_PHASE_ENDED ? REVERT_ENDED : REVERT_STANDS;
	assert_true(!o.d.error || end == REVERT_STANDS || end == REVERT_ENDED);
	if (end != REVERT_ENDED) {
		tree_text(&p, tree, sizeof(tree));
		assert_string_equal(tree, end == REVERT_STANDS ? "s1 s1/s2*" : "s1* s1/s2");
		assert_int_equal(content(&p), end == REVERT_STANDS ? 3 : 1);
	}
	broken_write = 0;
	process_end(&p);
	record_free();
	return end;
}

/* Whichever write fails: before the content of a disk has changed, the VM continues as before; afterwards it ends, and
 * the next user of the disks completes the revert. */
static void test_failed_revert_changes_nothing_or_is_completed(void **state)
{
	(void)state;
	log_set_level(LOG_LEVEL_ERROR - 1);
	for (unsigned i = 0; i < 2 * DISKS; i++) {
		unsigned seen[REVERT_UNBROKEN + 1] = { 0 }, nth = 0;
		enum revert_end end;

		do {
			bool stands, ended;
			struct process p;
			char tree[256];

			end = revert_broken(i / 2, ++nth, i % 2);
			seen[end]++;
			stands = end == REVERT_STANDS;
			ended = end == REVERT_ENDED;
			process_begin(&p);
			tree_text(&p, tree, sizeof(tree));
			/* After a failed write of the mark, the file may have it or not. */
			if (ended && i < 2 && !strcmp(tree, "s1 s1/s2*"))
				stands = true;
			assert_string_equal(tree, stands ? "s1 s1/s2*" : "s1* s1/s2");
			assert_int_equal(content(&p), stands ? 3 : 1);
			process_end(&p);
			images_check();
		} while (end != REVERT_UNBROKEN);
		print_message("disk %u, %s: stands %u, ended %u, done %u\n", i / 2, i % 2 ? "any write" : "header",
			seen[REVERT_STANDS], seen[REVERT_ENDED], seen[REVERT_DONE]);
		assert_true(seen[REVERT_STANDS] && seen[REVERT_ENDED]);
		if (i % 2)
			assert_true(seen[REVERT_STANDS] >= 3);
	}
	log_set_level(LOG_LEVEL_ERROR);
}

static int set_up(void **state)
{
	const char *seed = getenv("SET_CUTS");

	(void)state;
	log_set_level(LOG_LEVEL_ERROR);
	random_state = seed ? strtoull(seed, NULL, 10) : 1;
	snprintf(dir, sizeof(dir), "%s/cairn-set-XXXXXX", tmp_folder_in_memory());
	if (!mkdtemp(dir))
		return -1;
	for (unsigned i = 0; i < DISKS; i++) {
		images[i].before = malloc(IMAGE_MAX);
		images[i].now = malloc(IMAGE_MAX);
	}
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	for (unsigned i = 0; i < DISKS; i++) {
		free(images[i].before);
		free(images[i].now);
	}
	command("rm -rf \"$PWD\"");
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_interrupted_create_is_whole_or_absent),
		cmocka_unit_test(test_interrupted_delete_of_current_is_completed),
		cmocka_unit_test(test_interrupted_delete_of_current_root_is_completed),
		cmocka_unit_test(test_interrupted_delete_of_parent_is_completed),
		cmocka_unit_test(test_interrupted_revert_is_completed),
		cmocka_unit_test(test_interrupted_rename_is_harmless),
		cmocka_unit_test(test_duplicate_ids_are_refused),
		cmocka_unit_test(test_failed_header_write_leaves_whole_set),
		cmocka_unit_test(test_failed_revert_changes_nothing_or_is_completed),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
