/* The VM-state area, a separate address space behind the disk's, of a new or an existing snapshot.
 * Its requests use the same code as the guest's, with a map of their own. */
#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "block/qcow2/snapshot_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Number of unused maps of snapshots that are kept for the next reader. */
#define IDLE_VMS_MAX 4u
#define MAP_CLUSTERS_MAX (1ULL << 28)

/* ---- requests to a VM state ---- */

struct vm_req {
	struct block_req inner;
	struct block_vmstate_req *outer;
	struct snapshot_vmstate *user; /* NULL: the VM state of the new snapshot */
	struct iovec bounce;
	struct loop_op nop;
	int res;
};

static void snapshot_vmstate_free(struct snapshot_vmstate *v)
{
	struct snapshot_vmstate **p = &v->q->snapshot_vmstates;

	while (*p != v)
		p = &(*p)->next;
	*p = v->next;
	free(v->map.l1.entries);
	free(v->iov.iov_base);
	free(v->id);
	free(v);
}

static void snapshot_vmstates_trim(struct qcow2 *q)
{
	struct snapshot_vmstate *oldest = NULL;
	unsigned idle = 0;

	for (struct snapshot_vmstate *v = q->snapshot_vmstates; v; v = v->next)
		if (!v->users && !v->loading) {
			idle++;
			oldest = v;
		}
	if (idle > IDLE_VMS_MAX)
		snapshot_vmstate_free(oldest);
}

/* Give a reference to a VM state back. */
static void snapshot_vmstate_put(struct snapshot_vmstate *v)
{
	v->users--;
	snapshot_vmstates_trim(v->q);
}

static void vm_req_done_later(struct vm_req *v, int res)
{
	struct block_vmstate_req *r = v->outer;

	if (!res && v->bounce.iov_base && v->inner.op == BLOCK_READ)
		iov_from_buf(r->iov, r->niov, 0, v->bounce.iov_base, r->len);
	if (v->user)
		snapshot_vmstate_put(v->user);
	free(v->bounce.iov_base);
	free(v);
	r->done(r, res);
}

static void vm_req_done(struct block_req *r, int res)
{
	vm_req_done_later(container_of(r, struct vm_req, inner), res);
}

struct fail_req {
	struct loop_op nop;
	struct block_vmstate_req *r;
	struct qcow2 *q;
	int res;
};

static void fail_run(struct loop_op *op, int res)
{
	struct fail_req *f = container_of(op, struct fail_req, nop);
	struct block_vmstate_req *r = f->r;

	res = f->res;
	f->q->internal--;
	free(f);
	r->done(r, res);
}

void vmstate_fail(struct qcow2 *q, struct block_vmstate_req *r, int res)
{
	struct fail_req *f = calloc(1, sizeof(*f));

	if (!f) {
		r->done(r, -ENOMEM); /* no memory for reporting from the loop, so report at once */
		return;
	}
	*f = (struct fail_req){ .nop.done = fail_run, .r = r, .q = q, .res = res };
	q->internal++;
	loop_nop(q->base.loop, &f->nop);
}

static bool range_is_misaligned(const struct qcow2 *q, const struct block_vmstate_req *r)
{
	if (!q->base.info.direct)
		return false;
	for (unsigned i = 0; i < r->niov; i++)
		if (((uintptr_t)r->iov[i].iov_base & (q->base.info.buffer_align - 1)) ||
			(r->iov[i].iov_len & (q->base.info.logical_block_bytes - 1)))
			return true;
	return false;
}

/* Extend the L1 for a write up to `end`. */
static int map_reserve(struct qcow2 *q, struct map *m, uint64_t end)
{
	uint64_t n = DIV_ROUND_UP(end, map_table_reach(q)), cap;
	uint64_t disk = qcow2_l1_entries(q->h.size_bytes, q->cluster_bits, q->ext);
	uint64_t *entries;

	if (disk + n > QCOW2_L1_BYTES_MAX / 8)
		return -EFBIG;
	if (n <= m->l1.n)
		return 0;
	if (n > m->l1.cap) {
		cap = MAX(n, 2ULL * m->l1.cap);
		if (bitmap_grow(&m->l1.dirty, DIV_ROUND_UP(cap * 8, q->slice_bytes)) < 0)
			return -ENOMEM;
		entries = reallocarray(m->l1.entries, cap, sizeof(*entries));
		if (!entries)
			return -ENOMEM;
		memset(entries + m->l1.cap, 0, (cap - m->l1.cap) * sizeof(*entries));
		m->l1.entries = entries;
		m->l1.cap = (uint32_t)cap;
	}
	m->l1.n = (uint32_t)n;
	return 0;
}

int vmstate_start(struct qcow2 *q, struct map *m, struct block_vmstate_req *r, bool write,
	struct snapshot_vmstate *user)
{
	struct vm_req *v = calloc(1, sizeof(*v));
	int res = v ? 0 : -ENOMEM;

	if (!res && write)
		res = map_reserve(q, m, r->offset + r->len);
	if (!res && range_is_misaligned(q, r)) {
		v->bounce = (struct iovec){ io_buffer_new(r->len), r->len };
		res = v->bounce.iov_base ? 0 : -ENOMEM;
	}
	if (!res) {
		v->outer = r;
		v->user = user;
		v->inner = (struct block_req){ .op = write ? BLOCK_WRITE : BLOCK_READ,
			.offset = r->offset, .len = r->len, .iov = r->iov, .niov = r->niov,
			.done = vm_req_done };
		if (v->bounce.iov_base) {
			v->inner.iov = &v->bounce;
			v->inner.niov = 1;
			if (write)
				iov_to_buf(r->iov, r->niov, 0, v->bounce.iov_base, r->len);
		}
		res = qcow2_req_start(q, m, &v->inner);
	}
	if (res < 0 && v) {
		free(v->bounce.iov_base);
		free(v);
	}
	return res;
}

/* ---- maps of existing snapshots ---- */

void snapshot_vmstates_done(struct qcow2 *q)
{
	while (q->snapshot_vmstates)
		snapshot_vmstate_free(q->snapshot_vmstates);
}

int snapshot_vmstate_drop(struct qcow2 *q, const char *id)
{
	for (struct snapshot_vmstate *v = q->snapshot_vmstates; v; v = v->next)
		if (!strcmp(v->id, id)) {
			if (v->users || v->loading)
				return -EBUSY;
			snapshot_vmstate_free(v);
			return 0;
		}
	return 0;
}

static void snapshot_vmstate_loaded(struct io *io, int res)
{
	struct snapshot_vmstate *v = container_of(io, struct snapshot_vmstate, io);
	const uint8_t *buf = (const uint8_t *)v->iov.iov_base + v->skip;
	struct wait_list waiters;

	for (uint32_t i = 0; i < v->map.l1.n && !res; i++)
		v->map.l1.entries[i] = load_be64(buf + i * 8ULL);
	free(v->iov.iov_base);
	v->iov.iov_base = NULL;
	v->loading = false;
	v->q->internal--;
	wait_list_init(&waiters);
	wait_list_move(&waiters, &v->waiters);
	if (res < 0)
		snapshot_vmstate_free(v);
	wait_list_wake(&waiters, res);
}

static int snapshot_vmstate_load(struct qcow2 *q, const struct qcow2_snapshot_info *s, struct wait *w)
{
	uint32_t disk = snapshot_disk_entries(q, s);
	uint64_t at = s->l1_offset + disk * 8ULL, begin = ROUND_DOWN(at, 4096), len;
	struct snapshot_vmstate *v;

	if (!qcow2_l1_in_file(q->base.fd, &q->h, s))
		return -EINVAL;
	v = calloc(1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	len = ROUND_UP(at + (s->l1_size - disk) * 8ULL, 4096) - begin;
	v->q = q;
	v->map = (struct map){ .vm = true, .l1.n = s->l1_size - disk };
	v->map.l1.entries = calloc(v->map.l1.n + 1u, sizeof(uint64_t));
	v->id = strdup(s->id);
	v->skip = (uint32_t)(at - begin);
	v->iov = (struct iovec){ io_buffer_new(MAX(len, 4096ULL)), MAX(len, 4096ULL) };
	v->next = q->snapshot_vmstates;
	q->snapshot_vmstates = v;
	if (!v->map.l1.entries || !v->id || !v->iov.iov_base) {
		snapshot_vmstate_free(v);
		return -ENOMEM;
	}
	wait_list_init(&v->waiters);
	wait_list_add(&v->waiters, w);
	v->loading = true;
	q->internal++;
	v->io.done = snapshot_vmstate_loaded;
	io_read(&v->io, q->base.loop, q->base.fd, &v->iov, 1, begin, v->iov.iov_len);
	return -EINPROGRESS;
}

/* Take a reference to the VM state of snapshot `id`. Returns 0; -EINPROGRESS; -ENOENT; -errno. */
static int snapshot_vmstate_get(struct qcow2 *q, const char *id, struct wait *w, struct snapshot_vmstate **ret)
{
	const struct qcow2_snapshot_info *s;
	int r;

	for (struct snapshot_vmstate *v = q->snapshot_vmstates; v; v = v->next) {
		if (strcmp(v->id, id) != 0)
			continue;
		if (v->loading) {
			wait_list_add(&v->waiters, w);
			return -EINPROGRESS;
		}
		v->users++;
		*ret = v;
		return 0;
	}
	r = snapshots_load(q, NULL);
	if (r < 0)
		return r;
	s = snapshot_find(q, id);
	return s ? snapshot_vmstate_load(q, s, w) : -ENOENT;
}

/* ---- reading VM state ---- */

struct read_task {
	struct task task;
	struct block_vmstate_req *r;
	struct snapshot_vmstate *vm;
	char id[BLOCK_SNAPSHOT_ID_MAX + 1];
	/* Used only for sharing: */
	struct block_snapshot *s;
	uint64_t pos;
};

static int read_step(struct task *t)
{
	struct read_task *rt = container_of(t, struct read_task, task);
	int r = snapshot_vmstate_get(t->q, rt->id, &t->wait, &rt->vm);

	if (r < 0)
		return r;
	r = vmstate_start(t->q, &rt->vm->map, rt->r, false, rt->vm);
	if (r < 0)
		snapshot_vmstate_put(rt->vm);
	return r < 0 ? r : TASK_DONE;
}

static void read_end(struct task *t, int res)
{
	struct read_task *rt = container_of(t, struct read_task, task);
	struct block_vmstate_req *r = rt->r;

	free(rt);
	if (res < 0)
		r->done(r, res);
}

void qcow2_vmstate_read(struct qcow2 *q, const char *id, struct block_vmstate_req *r)
{
	struct read_task *rt = calloc(1, sizeof(*rt));

	if (!rt) {
		vmstate_fail(q, r, -ENOMEM);
		return;
	}
	rt->r = r;
	memcpy(rt->id, id, MIN(strlen(id), sizeof(rt->id) - 1));
	rt->task = (struct task){ .step = read_step, .end = read_end };
	task_start(&rt->task, q);
}

/* ---- sharing the clusters of another VM state ---- */

/* Get the parent's slice at pos, pinned; NULL: the table's range is not mapped. */
static int parent_slice(struct read_task *rt, uint64_t pos, struct slice **ret)
{
	struct qcow2 *q = rt->task.q;
	const struct map *m = &rt->vm->map;
	uint64_t i = pos >> (q->cluster_bits + q->l2_bits), e1 = i < m->l1.n ? m->l1.entries[i] : 0;
	uint64_t table = e1 & QCOW2_OFFSET_MASK;
	int r;

	*ret = NULL;
	if (!table)
		return 0;
	if ((e1 & QCOW2_L1_RESERVED) || (table & (q->cluster_bytes - 1)))
		return -EIO;
	r = cache_get(&q->l2, slice_offset(q, table, pos), &rt->task.wait, ret);
	if (!r)
		slice_pin(*ret);
	return r;
}

/* Returns the number of entries of `from` at pos that name adjacent clusters; 0: the first entry is a hole or
 * invalid. */
static uint32_t share_run(const struct qcow2 *q, const struct slice *from, uint64_t pos, uint64_t end)
{
	uint64_t reach = (uint64_t)q->slice_entries << q->cluster_bits, first;
	uint32_t n = 0;

	end = MIN(end, ROUND_DOWN(pos, reach) + reach);
	first = l2_get(q, from, pos).e & QCOW2_OFFSET_MASK;
	for (; pos < end; pos += q->cluster_bytes, n++) {
		struct l2_entry v = l2_get(q, from, pos);

		if ((v.e & (QCOW2_COMPRESSED | QCOW2_ZERO)) || !(v.e & QCOW2_OFFSET_MASK) ||
			l2_check(q, v) < 0 ||
			(v.e & QCOW2_OFFSET_MASK) != first + ((uint64_t)n << q->cluster_bits))
			break;
	}
	return n;
}

static bool entry_is_hole(const struct qcow2 *q, struct l2_entry v)
{
	return !(v.e & (QCOW2_COMPRESSED | QCOW2_OFFSET_MASK)) || (!q->ext && (v.e & QCOW2_ZERO));
}

/* Make a run of entries of `to` share the clusters of `from`: increment their refcounts, and
 * release the previous clusters of `to`. */
static int share_entries(struct read_task *rt, struct slice *from, struct slice *to, uint64_t pos)
{
	struct qcow2 *q = rt->task.q;
	struct block_vmstate_req *r = rt->r;
	struct l2_entry v = l2_get(q, from, pos);
	uint32_t n, done;
	int res;

	if (l2_check(q, v) < 0 || (v.e & QCOW2_COMPRESSED))
		return -ENOTSUP;
	n = share_run(q, from, pos, r->offset + r->len);
	if (!n)
		return -EIO;
	for (uint32_t i = 0; i < n; i++)
		if (meta_find(&q->meta, ((v.e & QCOW2_OFFSET_MASK) >> q->cluster_bits) + i) != META_NONE)
			return qcow2_corrupt(q, "a VM state names a metadata cluster");
	res = refcount_add(q, (v.e & QCOW2_OFFSET_MASK) >> q->cluster_bits, n, &rt->task.wait, &done);
	for (uint32_t i = 0; i < done && !res; i++) {
		uint64_t at = pos + ((uint64_t)i << q->cluster_bits);
		struct l2_entry old = l2_get(q, to, at);

		v = l2_get(q, from, at);
		v.e &= ~QCOW2_COPIED;
		l2_put(q, to, at, v);
		l2_release(q, old);
	}
	if (!res)
		rt->pos += (uint64_t)done << q->cluster_bits;
	return res;
}

static int share_hole(struct read_task *rt, struct slice *to, uint64_t pos)
{
	struct qcow2 *q = rt->task.q;
	struct l2_entry old = l2_get(q, to, pos);

	rt->pos += q->cluster_bytes;
	if (!old.e && !old.bitmap)
		return 0;
	l2_put(q, to, pos, (struct l2_entry){ 0, 0 });
	l2_release(q, old);
	return 0;
}

/* Share the parent's clusters from pos on, or unmap the cluster at pos if it is a hole in the parent. from NULL: the
 * parent has no table there. */
static int share_at(struct read_task *rt, struct slice *from, uint64_t pos)
{
	struct qcow2 *q = rt->task.q;
	struct map *m = qcow2_snapshot_vmstate_map(rt->s);
	uint64_t reach = (uint64_t)q->slice_entries << q->cluster_bits;
	bool hole = !from || entry_is_hole(q, l2_get(q, from, pos));
	struct slice *to;
	int res;

	if (hole && !(m->l1.entries[l1_index(q, pos)] & QCOW2_OFFSET_MASK)) {
		rt->pos += q->cluster_bytes;
		return 0;
	}
	if (l2meta_wait(m, pos >> q->cluster_bits, (ROUND_DOWN(pos, reach) + reach - 1) >> q->cluster_bits,
		&rt->task.wait) || commit_throttle(q, &rt->task.wait))
		return -EINPROGRESS;
	res = map_get_writable(q, m, pos, &rt->task.wait, &to);
	if (res < 0)
		return res;
	res = hole ? share_hole(rt, to, pos) : share_entries(rt, from, to, pos);
	slice_unpin(to);
	return res;
}

static int share_step(struct task *t)
{
	struct read_task *rt = container_of(t, struct read_task, task);
	struct qcow2 *q = t->q;
	uint64_t pos = rt->r->offset + rt->pos, reach = map_table_reach(q);
	const struct map *own = qcow2_snapshot_vmstate_map(rt->s);
	struct slice *from;
	int res;

	if (gate_wait(q, &t->wait))
		return -EINPROGRESS;
	if (!rt->vm) {
		res = snapshot_vmstate_get(q, rt->id, &t->wait, &rt->vm);
		if (!res)
			res = map_reserve(q, qcow2_snapshot_vmstate_map(rt->s), rt->r->offset + rt->r->len);
		return res;
	}
	if (rt->pos >= rt->r->len)
		return TASK_DONE;
	res = parent_slice(rt, pos, &from);
	if (res < 0)
		return res;
	if (!from && !(own->l1.entries[l1_index(q, pos)] & QCOW2_OFFSET_MASK)) {
		rt->pos += MIN(rt->r->len - rt->pos, reach - (pos & (reach - 1)));
		return 0;
	}
	res = share_at(rt, from, pos);
	if (from)
		slice_unpin(from);
	return res;
}

static void share_end(struct task *t, int res)
{
	struct read_task *rt = container_of(t, struct read_task, task);
	struct block_vmstate_req *r = rt->r;

	if (rt->vm)
		snapshot_vmstate_put(rt->vm);
	free(rt);
	r->done(r, res);
}

void qcow2_vmstate_share(struct block_snapshot *s, const char *id, struct block_vmstate_req *r)
{
	struct qcow2 *q = qcow2_snapshot_q(s);
	struct read_task *rt = calloc(1, sizeof(*rt));

	if (!rt || ((r->offset | r->len) & (q->cluster_bytes - 1))) {
		vmstate_fail(q, r, rt ? -EINVAL : -ENOMEM);
		free(rt);
		return;
	}
	rt->r = r;
	rt->s = s;
	memcpy(rt->id, id, MIN(strlen(id), sizeof(rt->id) - 1));
	rt->task = (struct task){ .step = share_step, .end = share_end };
	task_start(&rt->task, q);
}

/* ---- collecting the extents of a VM state ---- */

struct map_task {
	struct snapshot_op o;
	struct snapshot_vmstate *vm;
	struct block_vmstate_map *ret, map;
	bool begun;
	uint64_t pos;
	char id[BLOCK_SNAPSHOT_ID_MAX + 1];
};

static int map_begin(struct map_task *m)
{
	struct qcow2 *q = m->o.task.q;
	const struct qcow2_snapshot_info *s = snapshot_find(q, m->id);

	if (!s)
		return -ENOENT;
	m->begun = true;
	m->map.fd = q->base.fd;
	m->map.cluster_bytes = q->cluster_bytes;
	m->map.n = DIV_ROUND_UP(MIN(s->vm_state_bytes, UINT64_MAX / 2), (uint64_t)q->cluster_bytes);
	if (m->map.n > MAP_CLUSTERS_MAX)
		return err_set(&m->o.err, -EINVAL, ERR_CORRUPT, "disk %s: snapshot %s says that it has %llu "
			"bytes of VM state", q->base.name, m->id, (unsigned long long)s->vm_state_bytes);
	return 0;
}

/* Returns true if the last extent continues with this cluster. */
static bool extent_continues(const struct block_vmstate_map *m, uint64_t cluster, uint64_t host)
{
	const struct block_vmstate_extent *last;

	if (!m->nextents)
		return false;
	last = &m->extents[m->nextents - 1];
	return last->host ? host == last->host + (cluster - last->cluster) * m->cluster_bytes : !host;
}

/* Append the extent that begins at `cluster`, which lies behind all earlier ones. Returns 0 or -ENOMEM. */
static int map_add(struct block_vmstate_map *m, uint64_t cluster, uint64_t host)
{
	struct block_vmstate_extent *x = m->extents;

	if (extent_continues(m, cluster, host))
		return 0;
	if (!(m->nextents & (m->nextents - 1))) { /* a power of two: the array is full */
		x = reallocarray(x, m->nextents ? 2 * m->nextents : 1, sizeof(*x));
		if (!x)
			return -ENOMEM;
		m->extents = x;
	}
	x[m->nextents++] = (struct block_vmstate_extent){ .cluster = cluster, .host = host };
	return 0;
}

static int map_extent(struct map_task *m, const struct extent *x)
{
	struct qcow2 *q = m->o.task.q;
	int r;

	if (x->kind == EXTENT_COMPRESSED || x->len < q->cluster_bytes)
		return err_set(&m->o.err, -ENOTSUP, ERR_UNSUPPORTED, "disk %s: snapshot %s has a VM state of "
			"compressed or partial clusters", q->base.name, m->id);
	r = map_add(&m->map, m->pos, x->kind == EXTENT_DATA ? x->host : 0);
	if (!r && m->map.nextents * sizeof(*m->map.extents) > q->memory.max_bytes)
		return err_set(&m->o.err, -EDQUOT, ERR_CORRUPT, "disk %s: the VM state of snapshot %s is in more pieces than "
			"the file has data for", q->base.name, m->id);
	m->pos += x->len >> q->cluster_bits;
	return r;
}

static int map_step(struct task *t)
{
	struct map_task *m = container_of(t, struct map_task, o.task);
	struct qcow2 *q = t->q;
	struct extent x;
	int r;

	if (!m->vm)
		return snapshot_vmstate_get(q, m->id, &t->wait, &m->vm);
	if (!m->begun)
		return map_begin(m);
	if (m->pos >= m->map.n)
		return TASK_DONE;
	r = map_lookup(q, &m->vm->map, m->pos << q->cluster_bits, (m->map.n - m->pos) << q->cluster_bits,
		&t->wait, &x);
	return r < 0 ? r : map_extent(m, &x);
}

static void map_end(struct task *t, int res)
{
	struct map_task *m = container_of(t, struct map_task, o.task);

	if (m->vm)
		snapshot_vmstate_put(m->vm);
	if (res < 0)
		free(m->map.extents);
	else
		*m->ret = m->map;
	snapshot_op_finish(&m->o, res);
	free(m);
}

void qcow2_vmstate_map(struct qcow2 *q, const char *id, struct block_vmstate_map *ret,
	struct block_snapshot_op *op)
{
	struct map_task *m = calloc(1, sizeof(*m));

	if (!m) {
		snapshot_op_fail(q, op, -ENOMEM, NULL);
		return;
	}
	m->o.op = op;
	m->ret = ret;
	memcpy(m->id, id, MIN(strlen(id), sizeof(m->id) - 1));
	m->o.task.step = map_step;
	m->o.task.end = map_end;
	task_start(&m->o.task, q);
}

/* ---- the list of extents ---- */

uint64_t block_vmstate_map_host(const struct block_vmstate_map *m, uint64_t cluster, uint64_t *ret_n)
{
	const struct block_vmstate_extent *x = m->extents;
	size_t low = 0, high = m->nextents; /* the result is in [low, high) */

	while (high - low > 1) {
		size_t mid = low + (high - low) / 2;

		if (x[mid].cluster <= cluster)
			low = mid;
		else
			high = mid;
	}
	*ret_n = (low + 1 < m->nextents ? x[low + 1].cluster : m->n) - cluster;
	return x[low].host ? x[low].host + (cluster - x[low].cluster) * m->cluster_bytes : 0;
}
