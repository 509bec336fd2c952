/* The functions of block_snapshot.h: they check format, state and arguments, and call those of qcow2. */
#include "block/block_snapshot.h"
#include "base/err.h"
#include "base/util.h"
#include "block/qcow2/snapshot_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- checks of arguments ---- */

static int format_check(const struct block *b, struct err *e)
{
	if (b->info.format == BLOCK_FORMAT_QCOW2)
		return 0;
	return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "disk %s is %s; internal snapshots need qcow2", b->name,
		block_format_name(b->info.format));
}

static int one_content_check(const struct block *b, struct err *e)
{
	if (!b->info.data_file)
		return 0;
	return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "disk %s keeps its data in an external data file, so it "
		"has no snapshots; convert it with `cairn-img convert -O qcow2` into an image without a data "
		"file", b->name);
}

static int change_check(struct block *b, struct err *e)
{
	int r = format_check(b, e);

	if (!r)
		r = one_content_check(b, e);
	if (r < 0)
		return r;
	if (b->info.read_only)
		return err_set(e, -EROFS, ERR_INVALID, "disk %s is read-only", b->name);
	if (qcow2_of(b)->corrupt)
		return err_set(e, -EIO, ERR_CORRUPT, "disk %s: its image is corrupt", b->name);
	if (qcow2_of(b)->snapshot_busy)
		return err_set(e, -EBUSY, ERR_BUSY, "disk %s: another snapshot operation is running", b->name);
	return 0;
}

static int id_check(const char *id, struct err *e)
{
	if (!*id || strlen(id) > BLOCK_SNAPSHOT_ID_MAX)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "a snapshot's id has 1 to %d characters",
			BLOCK_SNAPSHOT_ID_MAX);
	return 0;
}

static int info_check(const struct block *b, const struct block_snapshot_info *info, struct err *e)
{
	size_t n = strnlen(info->name, sizeof(info->name));

	if (!n || n > BLOCK_SNAPSHOT_NAME_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "disk %s: a snapshot's name has 1 to %d bytes", b->name,
			BLOCK_SNAPSHOT_NAME_MAX);
	if (info->extra_bytes > BLOCK_SNAPSHOT_EXTRA_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "disk %s: a snapshot has room for %d bytes of extra data, "
			"not for %zu", b->name, BLOCK_SNAPSHOT_EXTRA_MAX, info->extra_bytes);
	return 0;
}

static int vm_req_check(const struct block_vmstate_req *r, bool data)
{
	if (!r->len || (r->offset & 4095) || (r->len & 4095) || r->offset >= 1ULL << 62 ||
		r->len >= 1ULL << 62)
		return -EINVAL;
	if (data && (r->len > BLOCK_REQ_BYTES_MAX || !r->iov || iov_bytes(r->iov, r->niov) != r->len))
		return -EINVAL;
	return 0;
}

/* ---- creating a snapshot ---- */

static int in_flight_check(const struct block *b, struct err *e)
{
	return !b->in_flight ? 0 : err_set(e, -EBUSY, ERR_BUSY, "disk %s: %u requests are in flight", b->name,
		b->in_flight);
}

int block_snapshot_open(struct block *b, struct block_snapshot **ret_s, struct err *e)
{
	int r = format_check(b, e);

	if (!r)
		r = one_content_check(b, e);
	return r < 0 ? r : qcow2_snapshot_open(qcow2_of(b), ret_s, e);
}

int block_snapshot_freeze(struct block_snapshot *s, struct err *e)
{
	int r = in_flight_check(&qcow2_snapshot_q(s)->base, e);

	return r < 0 ? r : qcow2_snapshot_freeze(s, e);
}

int block_snapshot_begin(struct block *b, struct block_snapshot **ret_s, struct err *e)
{
	int r = format_check(b, e);

	if (!r)
		r = one_content_check(b, e);
	if (!r)
		r = in_flight_check(b, e);
	return r < 0 ? r : qcow2_snapshot_begin(qcow2_of(b), ret_s, e);
}

static void vm_transfer(struct block_snapshot *s, struct block_vmstate_req *r, bool write)
{
	struct qcow2 *q = qcow2_snapshot_q(s);
	int res = vm_req_check(r, true);

	if (!res)
		res = vmstate_start(q, qcow2_snapshot_vmstate_map(s), r, write, NULL);
	if (res < 0)
		vmstate_fail(q, r, res);
}

void block_snapshot_vmstate_write(struct block_snapshot *s, struct block_vmstate_req *r)
{
	vm_transfer(s, r, true);
}

void block_snapshot_vmstate_read(struct block_snapshot *s, struct block_vmstate_req *r)
{
	vm_transfer(s, r, false);
}

void block_snapshot_vmstate_share(struct block_snapshot *s, const char *id,
	struct block_vmstate_req *r)
{
	int res = vm_req_check(r, false);

	if (!res)
		res = id_check(id, NULL);
	if (res < 0)
		vmstate_fail(qcow2_snapshot_q(s), r, res);
	else
		qcow2_vmstate_share(s, id, r);
}

void block_snapshot_commit(struct block_snapshot *s, const struct block_snapshot_info *info,
	struct block_snapshot_op *op)
{
	struct err e = { 0 };
	int r = info_check(&qcow2_snapshot_q(s)->base, info, &e);

	if (r < 0)
		qcow2_snapshot_refuse(s, op, r, &e);
	else
		qcow2_snapshot_commit(s, info, op);
}

void block_snapshot_abort(struct block_snapshot *s, struct block_snapshot_op *op)
{
	qcow2_snapshot_abort(s, op);
}

/* ---- existing snapshots ---- */

int block_snapshot_list(struct block *b, struct block_snapshot_info **ret_list, size_t *ret_n,
	struct err *e)
{
	struct block_snapshot_info *list;
	struct qcow2 *q;
	int r = format_check(b, e);

	if (r < 0)
		return r;
	q = qcow2_of(b);
	r = snapshots_load(q, e);
	if (r < 0)
		return r;
	list = calloc(q->nsnapshots + 1, sizeof(*list));
	if (!list)
		return err_set_errno(e, -ENOMEM, "disk %s", b->name);
	for (size_t i = 0; i < q->nsnapshots; i++)
		snapshot_entry_info(&q->snapshots[i], &list[i]);
	*ret_list = list;
	*ret_n = q->nsnapshots;
	return 0;
}

void block_snapshot_copy(struct block *b, const char *id, const struct block_snapshot_info *info,
	struct block_snapshot_op *op)
{
	struct err e = { 0 };
	int r = change_check(b, &e);

	if (!r)
		r = id_check(id, &e);
	if (!r)
		r = info_check(b, info, &e);
	if (r < 0)
		block_snapshot_op_fail(b, op, r, &e);
	else
		qcow2_snapshot_copy(qcow2_of(b), id, info, op);
}

/* Check and announce a change of a snapshot. Returns false after the failure is reported to op.
 * info: new data of the snapshot; NULL: none. idle: refuse while requests are in flight. */
static bool change_begin(struct block *b, const char *id, const struct block_snapshot_info *info, bool idle,
	struct block_snapshot_op *op)
{
	struct err e = { 0 };
	int r = change_check(b, &e);

	if (!r)
		r = id_check(id, &e);
	if (!r && info)
		r = info_check(b, info, &e);
	if (!r && idle && b->in_flight)
		r = err_set(&e, -EBUSY, ERR_BUSY, "disk %s: %u requests are in flight", b->name, b->in_flight);
	if (r < 0)
		block_snapshot_op_fail(b, op, r, &e);
	else
		qcow2_of(b)->snapshot_busy = true;
	return !r;
}

static void snapshot_apply(struct block *b, const char *id, const struct block_snapshot_info *info,
	struct block_snapshot_op *op)
{
	if (!change_begin(b, id, info, true, op))
		return;
	qcow2_of(b)->snapshot_changes++;
	qcow2_snapshot_apply(qcow2_of(b), id, info, op);
}

void block_snapshot_apply(struct block *b, const char *id, struct block_snapshot_op *op)
{
	snapshot_apply(b, id, NULL, op);
}

void block_snapshot_apply_with(struct block *b, const struct block_snapshot_info *info,
	struct block_snapshot_op *op)
{
	snapshot_apply(b, info->id, info, op);
}

void block_snapshot_apply_decide(struct block_snapshot_op *op, bool go)
{
	qcow2_snapshot_apply_decide(op, go);
}

void block_snapshot_delete(struct block *b, const char *id, struct block_snapshot_op *op)
{
	if (!change_begin(b, id, NULL, false, op))
		return;
	qcow2_of(b)->snapshot_changes++;
	qcow2_snapshot_delete(qcow2_of(b), id, op);
}

void block_snapshot_update(struct block *b, const struct block_snapshot_info *info,
	struct block_snapshot_op *op)
{
	if (change_begin(b, info->id, info, false, op))
		qcow2_snapshot_update(qcow2_of(b), info, op);
}

void block_snapshot_own(struct block *b, const char *id, uint64_t *ret_bytes,
	struct block_snapshot_op *op)
{
	struct err e = { 0 };
	int r = format_check(b, &e);

	if (!r)
		r = id_check(id, &e);
	if (!r && b->info.read_only)
		r = err_set(&e, -EROFS, ERR_INVALID, "disk %s is read-only: its refcounts were not read", b->name);
	if (!r && qcow2_of(b)->snapshot_busy)
		r = err_set(&e, -EBUSY, ERR_BUSY, "disk %s: another snapshot operation is running", b->name);
	if (r < 0)
		block_snapshot_op_fail(b, op, r, &e);
	else
		qcow2_snapshot_own(qcow2_of(b), id, ret_bytes, op);
}

void block_vmstate_read(struct block *b, const char *id, struct block_vmstate_req *r)
{
	struct qcow2 *q = qcow2_of(b);
	int res = format_check(b, NULL);

	if (!res)
		res = id_check(id, NULL);
	if (!res)
		res = vm_req_check(r, true);
	if (res == -ENOTSUP) {
		r->done(r, res);
		return;
	}
	if (res < 0)
		vmstate_fail(q, r, res);
	else
		qcow2_vmstate_read(q, id, r);
}

void block_vmstate_map(struct block *b, const char *id, struct block_vmstate_map *ret,
	struct block_snapshot_op *op)
{
	struct err e = { 0 };
	int r = format_check(b, &e);

	if (!r)
		r = id_check(id, &e);
	if (r < 0)
		block_snapshot_op_fail(b, op, r, &e);
	else
		qcow2_vmstate_map(qcow2_of(b), id, ret, op);
}
