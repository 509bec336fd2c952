#include "fixture_oracle.h"
#include "fixture_burst.h"

#include "base/util.h"
#include "block/block_snapshot.h"
#include "block/qcow2/qcow2.h"

#include <sys/stat.h>

#define SNAPSHOTS_MAX 5

struct snapshot {
	char id[BLOCK_SNAPSHOT_ID_MAX + 1], name[16];
	uint8_t *disk, *vm;
	uint64_t disk_bytes, vm_bytes;
	uint8_t extra[64];
	size_t extra_bytes;
};

struct oracle {
	struct fixture f;
	const struct oracle_set *set;
	struct burst u; /* u.b is NULL while the image is closed */
	struct snapshot snapshots[SNAPSHOTS_MAX];
	unsigned nsnapshots, names;
	/* QEMU has reverted to a snapshot and left its VM state behind the disk's end, where QEMU's
	 * own resize leaks or exposes it. */
	bool vm_behind;
};

#define say(o, ...) (fprintf((o)->u.log, __VA_ARGS__), fflush((o)->u.log))

/* ---- the image ---- */

static void image_open(struct oracle *o)
{
	struct block_info info;

	o->u.b = fixture_open(&o->f, "img", BLOCK_FORMAT_QCOW2, false);
	block_info(o->u.b, &info);
	assert_int_equal(info.size_bytes, o->u.bytes);
	o->u.unit = info.logical_block_bytes;
}

static void image_close(struct oracle *o)
{
	assert_int_equal(block_close(o->u.b), 0);
	o->u.b = NULL;
}

static void put_file(struct oracle *o, const char *name, const uint8_t *data, uint64_t bytes)
{
	char path[128];
	FILE *file;

	fixture_path(&o->f, name, path, sizeof(path));
	file = fopen(path, "w");
	assert_int_equal(fwrite(data, 1, bytes, file), bytes);
	assert_int_equal(fclose(file), 0);
}

/* Write data, holes and compressible content, in pieces. */
static void content_make(struct oracle *o, uint64_t bytes)
{
	uint8_t *c = calloc(1, bytes);

	for (uint64_t off = 0; off < bytes;) {
		uint64_t len = 512 * (1 + fixture_random(&o->f) % 200);

		len = MIN(len, bytes - off);
		if (fixture_random(&o->f) % 3)
			burst_fill(&o->f, c + off, len);
		off += len;
	}
	put_file(o, "content", c, bytes);
	memcpy(o->u.shadow, c, MIN(bytes, o->u.bytes));
	free(c);
}

static void image_make(struct oracle *o)
{
	const struct oracle_set *set = o->set;

	if (set->base_bytes) {
		content_make(o, set->base_bytes);
		fixture_run(&o->f,
			"%s && qemu-img create -q -f qcow2 -o %s -b base.img -F %s img %llu",
			set->base, set->options, set->base_format, (unsigned long long)set->bytes);
	} else if (set->compressed) {
		content_make(o, set->bytes);
		fixture_run(&o->f, "qemu-img convert -c -f raw -O qcow2 -o %s content img",
			set->options);
	} else {
		fixture_run(&o->f, "qemu-img create -q -f qcow2 -o %s img %llu", set->options,
			(unsigned long long)set->bytes);
	}
}

/* ---- snapshots ---- */

static struct snapshot *snapshot_any(struct oracle *o)
{
	return o->nsnapshots ? &o->snapshots[fixture_random(&o->f) % o->nsnapshots] : NULL;
}

static void snapshot_forget(struct oracle *o, struct snapshot *s)
{
	free(s->disk);
	free(s->vm);
	*s = o->snapshots[--o->nsnapshots];
}

static struct snapshot *snapshot_new(struct oracle *o)
{
	struct snapshot *s = &o->snapshots[o->nsnapshots];

	*s = (struct snapshot){.disk = malloc(o->u.bytes), .disk_bytes = o->u.bytes};
	memcpy(s->disk, o->u.shadow, o->u.bytes);
	snprintf(s->name, sizeof(s->name), "s%u", ++o->names);
	return s;
}

struct op_wait {
	struct block_snapshot_op op;
	bool stands, over;
};

static void op_stands(struct block_snapshot_op *op)
{
	container_of(op, struct op_wait, op)->stands = true;
}

static void op_done(struct block_snapshot_op *op, int res, const struct err *e)
{
	if (res < 0)
		fail_msg("snapshot: %s", e->msg);
	container_of(op, struct op_wait, op)->over = true;
}

/* Write the content of a snapshot while the guest writes to the disk. */
static void op_wait(struct oracle *o, struct op_wait *w, bool busy)
{
	if (busy)
		burst_run(&o->u, 1 + (unsigned)(fixture_random(&o->f) % 12), 6, 0, o->u.bytes);
	while (!w->over)
		loop_run_once(o->f.loop, UINT64_MAX);
}

struct vm_wait {
	struct block_vmstate_req req;
	struct iovec iov;
	bool over;
	int res;
};

static void vm_done(struct block_vmstate_req *r, int res)
{
	struct vm_wait *w = container_of(r, struct vm_wait, req);

	w->over = true;
	w->res = res;
}

static void vm_wait(struct oracle *o, struct vm_wait *w)
{
	while (!w->over)
		loop_run_once(o->f.loop, UINT64_MAX);
	if (w->res < 0)
		fail_msg("VM state: %s", strerror(-w->res));
}

static void vm_put(struct oracle *o, struct block_snapshot *s, struct snapshot *n)
{
	uint64_t pages = n->vm_bytes / 4096, at = fixture_random(&o->f) % pages;
	uint64_t len = 1 + fixture_random(&o->f) % MIN(pages - at, 64);
	struct vm_wait w = {
		.req = {.offset = at * 4096, .len = len * 4096, .niov = 1, .done = vm_done}};

	w.iov = (struct iovec){n->vm + at * 4096, len * 4096};
	w.req.iov = &w.iov;
	burst_fill(&o->f, n->vm + at * 4096, len * 4096);
	say(o, "  VM state 0x%llx + 0x%llx\n", (unsigned long long)w.req.offset,
		(unsigned long long)w.req.len);
	block_snapshot_vmstate_write(s, &w.req);
	vm_wait(o, &w);
}

static void vm_share(
	struct oracle *o, struct block_snapshot *s, struct snapshot *n, const struct snapshot *of)
{
	uint64_t c = MAX(o->set->cluster_bytes, 4096u),
		 clusters = MIN(n->vm_bytes, of->vm_bytes) / c;
	uint64_t at = fixture_random(&o->f) % clusters,
		 len = 1 + fixture_random(&o->f) % (clusters - at);
	struct vm_wait w = {.req = {.offset = at * c, .len = len * c, .done = vm_done}};

	say(o, "  VM state 0x%llx + 0x%llx shared with %s\n", (unsigned long long)w.req.offset,
		(unsigned long long)w.req.len, of->name);
	block_snapshot_vmstate_share(s, of->id, &w.req);
	vm_wait(o, &w);
	memcpy(n->vm + at * c, of->vm + at * c, len * c);
}

static void vm_make(struct oracle *o, struct block_snapshot *s, struct snapshot *n)
{
	const struct snapshot *of = snapshot_any(o);

	n->vm_bytes = MAX(o->set->cluster_bytes, 64 * KIB) * (1 + fixture_random(&o->f) % 4);
	n->vm = aligned_alloc(4096, n->vm_bytes);
	memset(n->vm, 0, n->vm_bytes);
	if (of && of->vm_bytes)
		vm_share(o, s, n, of);
	for (uint64_t i = fixture_random(&o->f) % 5; i; i--) {
		vm_put(o, s, n);
		if (!(fixture_random(&o->f) % 3))
			burst_run(&o->u, 4, 4, 0, o->u.bytes);
	}
}

static void op_create(struct oracle *o)
{
	struct block_snapshot_info info = {.sec = 1};
	struct op_wait w = {.op.done = op_done};
	struct block_snapshot *s;
	struct snapshot *n;
	bool give_up = !(fixture_random(&o->f) % 5);

	if (o->nsnapshots == SNAPSHOTS_MAX || o->set->no_snapshots)
		return;
	n = snapshot_new(o);
	say(o, "%s %s\n", give_up ? "begin and abort" : "create", n->name);
	if (block_snapshot_begin(o->u.b, &s, &o->f.err) < 0)
		fail_msg("%s", o->f.err.msg);
	if (fixture_random(&o->f) % 2)
		vm_make(o, s, n);
	if (fixture_random(&o->f) % 2)
		burst_run(&o->u, 10, 6, 0, o->u.bytes);
	n->extra_bytes = fixture_random(&o->f) % sizeof(n->extra);
	burst_fill(&o->f, n->extra, n->extra_bytes);
	strcpy(info.name, n->name);
	info.vm_state_bytes = n->vm_bytes;
	memcpy(info.extra, n->extra, n->extra_bytes);
	info.extra_bytes = n->extra_bytes;
	o->nsnapshots++;
	if (give_up)
		block_snapshot_abort(s, &w.op);
	else
		block_snapshot_commit(s, &info, &w.op);
	op_wait(o, &w, fixture_random(&o->f) % 2);
	strcpy(n->id, w.op.id);
	if (give_up)
		snapshot_forget(o, n);
}

static void op_delete(struct oracle *o)
{
	struct op_wait w = {.op.done = op_done};
	struct snapshot *s = snapshot_any(o);

	if (!s)
		return;
	say(o, "delete %s\n", s->name);
	block_snapshot_delete(o->u.b, s->id, &w.op);
	op_wait(o, &w, fixture_random(&o->f) % 2);
	snapshot_forget(o, s);
}

static void op_apply(struct oracle *o)
{
	struct op_wait w = {.op = {.done = op_done, .stands = op_stands}};
	struct block_info info;
	struct snapshot *s = snapshot_any(o);

	if (!s)
		return;
	say(o, "apply %s\n", s->name);
	block_snapshot_apply(o->u.b, s->id, &w.op);
	while (!w.stands)
		loop_run_once(o->f.loop, UINT64_MAX);
	o->u.bytes = s->disk_bytes;
	o->vm_behind = false;
	memcpy(o->u.shadow, s->disk, s->disk_bytes);
	block_info(o->u.b, &info);
	assert_int_equal(info.size_bytes, o->u.bytes);
	op_wait(o, &w, true);
	burst_verify(&o->u);
}

/* ---- other operations of Cairn's engine ---- */

static void op_burst(struct oracle *o, unsigned ops)
{
	uint64_t from = 0, len = o->u.bytes;

	if (fixture_random(&o->f) % 2) { /* in a small range, so that requests overlap */
		len = MIN(o->u.bytes, 4 * MAX(o->set->cluster_bytes, 4096u));
		from = fixture_random(&o->f) % (o->u.bytes - len + 1);
	}
	burst_run(&o->u, ops, 1 + (unsigned)(fixture_random(&o->f) % 16), from, len);
}

static uint64_t size_any(struct oracle *o)
{
	uint64_t least = o->set->max_bytes / 4, size;

	size = least + fixture_random(&o->f) % (o->set->max_bytes - least);
	if (fixture_random(&o->f) % 2)
		size = ROUND_DOWN(size, o->set->cluster_bytes);
	return MAX(ROUND_DOWN(size, o->u.unit), o->u.unit);
}

static void size_set(struct oracle *o, uint64_t size)
{
	if (size > o->u.bytes)
		memset(o->u.shadow + o->u.bytes, 0, size - o->u.bytes);
	o->u.bytes = size;
}

static void op_resize(struct oracle *o)
{
	uint64_t size = size_any(o);
	int r;

	say(o, "resize 0x%llx to 0x%llx\n", (unsigned long long)o->u.bytes,
		(unsigned long long)size);
	r = block_resize(o->u.b, size, &o->f.err);
	if (o->set->v2 && o->nsnapshots && size != o->u.bytes) {
		assert_int_equal(r, -ENOTSUP);
		return;
	}
	if (r < 0)
		fail_msg("%s", o->f.err.msg);
	size_set(o, size);
	burst_verify(&o->u);
}

static void op_reopen(struct oracle *o)
{
	say(o, "reopen\n");
	image_close(o);
	image_open(o);
	burst_verify(&o->u);
}

/* Check that extents reported as zero read as zeros. */
static void op_extents(struct oracle *o)
{
	struct block_extent x;

	say(o, "extents\n");
	for (uint64_t off = 0; off < o->u.bytes; off += x.len) {
		assert_int_equal(block_extent(o->u.b, off, o->u.bytes - off, &x), 0);
		assert_in_range(x.len, 1, o->u.bytes - off);
		for (uint64_t i = 0; x.zero && i < x.len; i++)
			if (o->u.shadow[off + i])
				fail_msg("0x%llx is said to be zeros",
					(unsigned long long)(off + i));
	}
}

/* ---- checks ---- */

static void snapshot_check(struct oracle *o, const struct snapshot *s, const struct block_snapshot_info *i)
{
	uint8_t *vm;

	assert_string_equal(i->name, s->name);
	assert_int_equal(i->vm_state_bytes, s->vm_bytes);
	assert_int_equal(i->extra_bytes, s->extra_bytes);
	assert_memory_equal(i->extra, s->extra, s->extra_bytes);
	if (!o->set->v2)
		assert_int_equal(i->disk_bytes, s->disk_bytes);
	if (s->vm_bytes) {
		vm = aligned_alloc(4096, s->vm_bytes);
		assert_int_equal(fixture_vm_read(&o->f, o->u.b, s->id, vm, s->vm_bytes), 0);
		assert_memory_equal(vm, s->vm, s->vm_bytes);
		free(vm);
	}
}

static void snapshots_check(struct oracle *o)
{
	struct block_snapshot_info *list;
	size_t n;

	assert_int_equal(block_snapshot_list(o->u.b, &list, &n, &o->f.err), 0);
	assert_int_equal(n, o->nsnapshots);
	for (unsigned i = 0; i < o->nsnapshots; i++)
		for (size_t k = 0; k <= n; k++) {
			assert_int_not_equal(k, n);
			if (strcmp(list[k].id, o->snapshots[i].id) != 0)
				continue;
			snapshot_check(o, &o->snapshots[i], &list[k]);
			break;
		}
	free(list);
}

/* QEMU converts only as much of a snapshot as the disk's current size. */
static void snapshot_judge(struct oracle *o, const struct snapshot *s)
{
	uint64_t bytes = MIN(s->disk_bytes, o->u.bytes);
	uint8_t *now = malloc(s->disk_bytes);
	struct block *b;

	put_file(o, "shadow", s->disk, s->disk_bytes);
	fixture_run(&o->f,
		"qemu-img convert -q -f qcow2 -O raw -l snapshot.id=%s img out.raw && "
		"cmp -n %llu out.raw shadow",
		s->id, (unsigned long long)bytes);
	o->f.snapshot = s->id;
	b = fixture_open(&o->f, "img", BLOCK_FORMAT_QCOW2, true);
	o->f.snapshot = NULL;
	assert_int_equal(fixture_rw(b, BLOCK_READ, 0, now, o->set->v2 ? bytes : s->disk_bytes), 0);
	assert_memory_equal(now, s->disk, o->set->v2 ? bytes : s->disk_bytes);
	block_close(b);
	free(now);
}

/* Check the closed image with QEMU and with Cairn's own check. */
static void judge_tables(struct oracle *o)
{
	struct qcow2_check c = {0};
	struct qcow2_header h;
	char path[128];
	int fd;

	fixture_path(&o->f, "img", path, sizeof(path));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (qcow2_header_read(fd, "img", &h, &o->f.err) < 0 ||
		qcow2_check(fd, &h, &c, &o->f.err) < 0)
		fail_msg("%s", o->f.err.msg);
	close(fd);
	fixture_run(&o->f, "qemu-img check -q -f qcow2 img || qemu-img check -f qcow2 img");
	assert_int_equal(c.corruptions + c.leaks + c.errors, 0);
	assert_int_equal(fixture_peek_be(&o->f, "img", 24, 8), o->u.bytes);
}

/* Also compare the content that QEMU reads with the model. */
static void judge(struct oracle *o)
{
	judge_tables(o);
	put_file(o, "shadow", o->u.shadow, o->u.bytes);
	fixture_run(&o->f, "qemu-img compare -f qcow2 -F raw img shadow");
	for (unsigned i = 0; i < o->nsnapshots; i++)
		snapshot_judge(o, &o->snapshots[i]);
}

static void op_judge(struct oracle *o)
{
	say(o, "close and check\n");
	image_close(o);
	judge(o);
	image_open(o);
	burst_verify(&o->u);
	snapshots_check(o);
}

/* Nobody has the image open: trim it, or rebuild its refcounts. */
static void op_offline(struct oracle *o)
{
	struct qcow2_header h;
	char path[128];
	int fd, r;

	image_close(o);
	fixture_path(&o->f, "img", path, sizeof(path));
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(qcow2_header_read(fd, "img", &h, &o->f.err), 0);
	if (fixture_random(&o->f) % 2) {
		say(o, "trim\n");
		r = qcow2_trim(fd, &h, &o->f.err);
	} else {
		say(o, "count anew\n");
		r = qcow2_refcounts_rebuild(fd, &h, h.refcount_order, &o->f.err);
	}
	if (r < 0)
		fail_msg("%s", o->f.err.msg);
	close(fd);
	judge(o);
	image_open(o);
	burst_verify(&o->u);
}

/* ---- operations by QEMU ---- */

static void qemu_range(struct oracle *o, uint64_t *off, uint64_t *len)
{
	uint64_t sectors = o->u.bytes / 512;

	*off = fixture_random(&o->f) % sectors;
	*len = 1 + fixture_random(&o->f) % MIN(sectors - *off, 128);
	*off *= 512;
	*len *= 512;
}

/* Write compressed clusters in ascending order. Do this first: QEMU compresses only into
 * unallocated clusters, and after other allocations it may write into a cluster that is no longer
 * its own. */
static void qemu_pack(struct oracle *o, FILE *script, uint8_t *maybe_zero)
{
	uint64_t c = o->set->cluster_bytes, n = o->u.bytes / c, at[4], len[4], next = 0;
	unsigned count = 0;

	if (o->set->v2 && o->set->base_bytes)
		return; /* QEMU discards nothing in such an image */
	for (; count < ARRAY_SIZE(at) && next < n; count++) {
		at[count] = next + fixture_random(&o->f) % (n - next);
		len[count] = 1 + fixture_random(&o->f) % MIN(n - at[count], MAX(32 * KIB / c, 2));
		next = at[count] + len[count];
		fprintf(script, "discard %llu %llu\n", (unsigned long long)(at[count] * c),
			(unsigned long long)(len[count] * c));
	}
	for (unsigned i = 0; i < count; i++) {
		unsigned value = (unsigned)(fixture_random(&o->f) % 256);

		fprintf(script, "write -c -P %u %llu %llu\n", value,
			(unsigned long long)(at[i] * c), (unsigned long long)(len[i] * c));
		memset(o->u.shadow + at[i] * c, (int)value, len[i] * c);
		memset(maybe_zero + at[i] * c / 512, 0, len[i] * c / 512);
	}
}

/* maybe_zero: sectors that a discard may have zeroed. */
static void qemu_line(struct oracle *o, FILE *script, uint8_t *maybe_zero)
{
	unsigned kind = (unsigned)(fixture_random(&o->f) % 10), value = 0;
	unsigned long long at, n;
	uint64_t off, len;

	qemu_range(o, &off, &len);
	at = off;
	n = len;
	if (kind < 4)
		value = (unsigned)(fixture_random(&o->f) % 256);
	if (kind < 4)
		fprintf(script, "write -P %u %llu %llu\n", value, at, n);
	else if (kind < 6)
		fprintf(script, "write -z %s%llu %llu\n", kind == 5 ? "-u " : "", at, n);
	else if (kind < 9)
		fprintf(script, "discard %llu %llu\n", at, n);
	else
		fprintf(script, "flush\n");
	if (kind == 9)
		return;
	memset(maybe_zero + off / 512, kind >= 6, len / 512);
	if (kind < 6)
		memset(o->u.shadow + off, (int)value, len);
}

static void qemu_io(struct oracle *o)
{
	uint8_t *maybe_zero = calloc(1, DIV_ROUND_UP(o->u.bytes, 512)), *now = malloc(o->u.bytes);
	char path[128];
	FILE *script;

	fixture_path(&o->f, "script", path, sizeof(path));
	script = fopen(path, "w");
	if (fixture_random(&o->f) % 2)
		qemu_pack(o, script, maybe_zero);
	for (uint64_t i = 3 + fixture_random(&o->f) % 20; i; i--)
		qemu_line(o, script, maybe_zero);
	fclose(script);
	fixture_run(&o->f, "cat script >>ops && qemu-io -d unmap -f qcow2 img <script && "
			   "! grep -i -e failed -e error out");
	image_open(o);
	assert_int_equal(fixture_rw(o->u.b, BLOCK_READ, 0, now, o->u.bytes), 0);
	for (uint64_t s = 0; s < o->u.bytes / 512; s++)
		if (maybe_zero[s] &&
			(!now[s * 512] && !memcmp(now + s * 512, now + s * 512 + 1, 511)))
			memset(o->u.shadow + s * 512, 0, 512);
	burst_verify(&o->u);
	image_close(o);
	free(maybe_zero);
	free(now);
}

static void qemu_create(struct oracle *o)
{
	struct block_snapshot_info *list;
	struct snapshot *s = snapshot_new(o);
	size_t n;

	say(o, "qemu-img snapshot -c %s\n", s->name);
	fixture_run(&o->f, "qemu-img snapshot -c %s img", s->name);
	image_open(o);
	assert_int_equal(block_snapshot_list(o->u.b, &list, &n, &o->f.err), 0);
	assert_int_equal(n, ++o->nsnapshots);
	strcpy(s->id, list[n - 1].id);
	free(list);
	image_close(o);
}

static void qemu_snapshot(struct oracle *o)
{
	struct snapshot *s = snapshot_any(o);
	uint64_t kind = fixture_random(&o->f) % 3;

	if (kind == 0 && o->nsnapshots < SNAPSHOTS_MAX && !o->set->no_snapshots) {
		qemu_create(o);
	} else if (kind == 1 && s) {
		say(o, "qemu-img snapshot -d %s\n", s->name);
		fixture_run(&o->f, "qemu-img snapshot -d %s img", s->name);
		snapshot_forget(o, s);
	} else if (kind == 2 && s) {
		say(o, "qemu-img snapshot -a %s\n", s->name);
		fixture_run(&o->f, "qemu-img snapshot -a %s img", s->name);
		o->u.bytes = s->disk_bytes;
		o->vm_behind = s->vm_bytes;
		memcpy(o->u.shadow, s->disk, s->disk_bytes);
	}
}

static void qemu_resize(struct oracle *o)
{
	uint64_t size = size_any(o);

	if ((o->set->v2 && o->nsnapshots) || o->vm_behind)
		return;
	if (o->set->v2 && o->set->base_bytes && size > o->u.bytes)
		return; /* QEMU needs a zero flag for that */
	/* QEMU leaves what a cluster has behind the new end, and shows it when it enlarges the disk later. */
	if (size < o->u.bytes)
		size = ROUND_DOWN(size, o->set->cluster_bytes);
	say(o, "qemu-img resize 0x%llx\n", (unsigned long long)size);
	fixture_run(
		&o->f, "qemu-img resize -q -f qcow2 --shrink img %llu", (unsigned long long)size);
	size_set(o, size);
}

static void op_qemu(struct oracle *o)
{
	image_close(o);
	judge_tables(o); /* check before QEMU runs, to know which program made an error */
	if (fixture_random(&o->f) % 4)
		qemu_io(o);
	if (fixture_random(&o->f) % 2)
		qemu_snapshot(o);
	if (!(fixture_random(&o->f) % 4))
		qemu_resize(o);
	judge(o);
	image_open(o);
	burst_verify(&o->u);
	snapshots_check(o);
}

/* ---- the run ---- */

static void op_any(struct oracle *o)
{
	static void (*const ops[])(struct oracle * o) = {op_create, op_create, op_create, op_create,
		op_delete, op_delete, op_delete, op_apply, op_apply, op_resize, op_resize,
		op_resize, op_reopen, op_reopen, op_extents, op_judge, op_offline, op_qemu,
		op_qemu};

	ops[fixture_random(&o->f) % ARRAY_SIZE(ops)](o);
}

static void oracle_begin(struct oracle *o, const struct oracle_set *set, unsigned seed)
{
	char path[128];

	memset(o, 0, sizeof(*o));
	fixture_begin(&o->f, seed);
	o->f.cache_bytes = set->cache_bytes;
	o->f.buffered = !set->direct;
	o->set = set;
	fixture_path(&o->f, "ops", path, sizeof(path));
	o->u = (struct burst){.f = &o->f,
		.bytes = set->bytes,
		.cluster_bytes = set->cluster_bytes,
		.shadow = calloc(1, set->max_bytes),
		.log = fopen(path, "a")};
	assert_non_null(o->u.log);
}

static void oracle_end(struct oracle *o)
{
	while (o->nsnapshots)
		snapshot_forget(o, o->snapshots);
	fclose(o->u.log);
	free(o->u.shadow);
	fixture_end(&o->f);
}

void oracle_run(const struct oracle_set *set, unsigned seed, unsigned ops)
{
	struct oracle o;

	oracle_begin(&o, set, seed);
	image_make(&o);
	image_open(&o);
	burst_verify(&o.u);
	while (ops) {
		unsigned n = 1 + (unsigned)(fixture_random(&o.f) % 40);

		n = MIN(n, ops);
		op_burst(&o, n);
		ops -= n;
		if (!ops)
			break;
		op_any(&o);
		ops--;
	}
	op_judge(&o);
	image_close(&o);
	oracle_end(&o);
}
