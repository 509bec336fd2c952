/* Makes and deletes pins. */
#include "base/cleanup.h"
#include "base/err.h"
#include "block/qcow2/pin.h"
#include "block/qcow2/snapshot_impl.h"

#include <errno.h>
#include <string.h>

void block_pin_snapshot(struct block *b, const char *snapshot, const uint8_t id[BLOCK_PIN_ID_BYTES],
	struct block_snapshot_op *op)
{
	CLEANUP_FREE struct block_snapshot_info *list = NULL;
	struct err e = { 0 };
	size_t n = 0, i;
	int r = block_snapshot_list(b, &list, &n, &e);

	for (i = 0; i < n && strcmp(list[i].id, snapshot); i++)
		;
	if (!r && i == n)
		r = err_set(&e, -ENOENT, ERR_NOT_FOUND, "disk %s has no snapshot with the id %s", b->name, snapshot);
	if (r < 0) {
		block_snapshot_op_fail(b, op, r, &e);
		return;
	}
	qcow2_pin_mark(&list[i], id);
	block_snapshot_copy(b, snapshot, &list[i], op);
}

void block_pin_delete(struct block *b, const uint8_t id[BLOCK_PIN_ID_BYTES], struct block_snapshot_op *op)
{
	CLEANUP_FREE struct block_snapshot_info *list = NULL;
	struct err e = { 0 };
	size_t n = 0, i;
	int r = block_snapshot_list(b, &list, &n, &e);

	for (i = 0; i < n && (!list[i].pinned || memcmp(list[i].pin_id, id, BLOCK_PIN_ID_BYTES)); i++)
		;
	if (!r && i == n)
		r = err_set(&e, -ENOENT, ERR_NOT_FOUND, "disk %s has no such pin", b->name);
	if (r < 0)
		block_snapshot_op_fail(b, op, r, &e);
	else
		block_snapshot_delete(b, list[i].id, op);
}
