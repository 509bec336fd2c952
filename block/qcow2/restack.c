#include "block/restack.h"
#include "base/err.h"
#include "block/block_impl.h"
#include "block/lock.h"
#include "block/qcow2/qcow2.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

struct block *block_layer(struct block *b, unsigned n)
{
	while (b && n--)
		b = b->backing;
	return b;
}

int block_stop_writing(struct block *b)
{
	int r = block_flush_all_beside_reads(b);

	b->info.read_only = true;
	if (b->locked)
		lock_reduce(b->fd);
	if (b->data_locked)
		lock_reduce(b->data_fd);
	return r;
}

struct block *block_cut(struct block *b, unsigned n)
{
	struct block *above = block_layer(b, n - 1), *cut = above->backing;

	above->backing = NULL;
	for (struct block *y = cut; y; y = y->backing)
		y->layer -= n;
	return cut;
}

/* ---- files ---- */

static void kept_close(const struct block_restack *o, const struct block_layer *layers)
{
	for (unsigned i = 0; i < o->nlayers; i++) {
		if (o->kept[i] == BLOCK_NEW_LAYER)
			continue;
		if (layers[i].fd > 0)
			close(layers[i].fd);
		if (layers[i].data_fd > 0)
			close(layers[i].data_fd);
	}
}

/* Fill in the files of the new chain: duplicates of those that continue. */
static int files_take(struct block *b, const struct block_restack *o, struct block_layer *layers, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < o->nlayers && !r; i++) {
		const struct block *old = o->kept[i] == BLOCK_NEW_LAYER ? NULL : block_layer(b, o->kept[i]);

		layers[i] = o->layers[i];
		if (!old)
			continue;
		layers[i] = (struct block_layer){ .fd = fcntl(old->fd, F_DUPFD_CLOEXEC, 3), .format = old->info.format };
		if (layers[i].fd >= 0 && old->data_fd)
			layers[i].data_fd = fcntl(old->data_fd, F_DUPFD_CLOEXEC, 3);
		if (layers[i].fd < 0 || layers[i].data_fd < 0)
			r = err_set_errno(e, -errno, "disk %s", b->name);
	}
	return r;
}

static int backing_rename(const struct block *b, const struct block_restack *o, struct err *e)
{
	struct qcow2_header *h;
	int flags = fcntl(o->above_fd, F_GETFL), r;

	if (!o->backing_name)
		return 0;
	h = malloc(sizeof(*h));
	if (!h || flags < 0 || fcntl(o->above_fd, F_SETFL, flags & ~O_DIRECT) < 0)
		r = err_set_errno(e, h ? -errno : -ENOMEM, "disk %s", b->name);
	else
		r = qcow2_header_read(o->above_fd, b->name, h, e);
	if (!r)
		r = qcow2_set_backing(o->above_fd, h, o->backing_name, o->backing_format, e);
	if (flags >= 0)
		(void)fcntl(o->above_fd, F_SETFL, flags);
	free(h);
	return r;
}

/* ---- locks: a duplicate of a file has the locks of the file ---- */

/* From its first change of the layers on, a process that was handed the files counts their locks as its own. When it
 * opened them, the handover could still fail, and then it must not release the locks of the other process. */
static void locks_claim(struct block *b)
{
	for (; b; b = b->backing) {
		b->locked |= b->handed_over;
		b->data_locked |= b->handed_over && b->data_fd;
		b->handed_over = false;
	}
}

static bool is_kept(const struct block_restack *o, unsigned layer)
{
	for (unsigned i = 0; i < o->nlayers; i++)
		if (o->kept[i] == layer)
			return true;
	return false;
}

static enum lock_mode mode_of(const struct block_restack *o, unsigned i)
{
	return !i || i == o->writable ? LOCK_AS_WRITER_BESIDE_PINS : LOCK_AS_READER;
}

/* Release the locks of old layers whose files do not continue, because the same file may be a new layer. */
static void old_release(struct block *b, struct block_restack *o)
{
	unsigned n = 0;

	for (struct block *y = b; y; y = y->backing, n++) {
		o->released[n] = y->locked && !is_kept(o, n);
		if (o->released[n])
			lock_release(y->fd);
	}
}

static void old_lock(struct block *b, const struct block_restack *o)
{
	unsigned n = 0;
	struct err e;

	for (struct block *y = b; y; y = y->backing, n++)
		if (o->released[n])
			(void)lock_acquire(y->fd, n ? LOCK_AS_READER : LOCK_AS_WRITER_BESIDE_PINS, b->name, &e);
}

static void new_unlock(const struct block_restack *o, struct block *next)
{
	unsigned i = 0;

	for (struct block *y = next; y; y = y->backing, i++) {
		if (o->kept[i] != BLOCK_NEW_LAYER)
			continue;
		if (y->locked)
			lock_release(y->fd);
		if (y->data_locked)
			lock_release(y->data_fd);
		y->locked = y->data_locked = false;
	}
}

static int new_lock(const struct block_restack *o, struct block *next, struct err *e)
{
	unsigned i = 0;
	int r = 0;

	for (struct block *y = next; y && !r; y = y->backing, i++) {
		if (o->kept[i] != BLOCK_NEW_LAYER)
			continue;
		r = lock_acquire(y->fd, mode_of(o, i), y->name, e);
		y->locked = !r;
		if (!r && y->data_fd) {
			r = lock_acquire(y->data_fd, i && i != o->writable ? LOCK_AS_READER : LOCK_AS_WRITER, y->name, e);
			y->data_locked = !r;
		}
	}
	if (r < 0)
		new_unlock(o, next);
	return r;
}

/* The new chain has the locks of the layers that continue, or a reader's where only the old one was a writer. */
static void locks_pass(struct block *b, const struct block_restack *o, struct block *next)
{
	unsigned i = 0;

	for (struct block *y = next; y; y = y->backing, i++) {
		struct block *old = o->kept[i] == BLOCK_NEW_LAYER ? NULL : block_layer(b, o->kept[i]);

		if (!old)
			continue;
		y->locked = old->locked;
		y->data_locked = old->data_locked;
		old->locked = old->data_locked = false;
		if (y->locked && y->info.read_only && !old->info.read_only)
			lock_reduce(y->fd);
		if (y->data_locked && y->info.read_only && !old->info.read_only)
			lock_reduce(y->data_fd);
	}
	i = 0;
	for (struct block *y = b; y; y = y->backing, i++)
		y->locked = y->locked && !o->released[i];
}

/* ---- the change ---- */

/* Flush all layers that are open for writing. */
static int chain_flush_all(struct block *b)
{
	int r = 0;

	for (struct block *y = b; y && !r; y = y->backing)
		r = block_flush_all(y);
	return r;
}

int block_restack_begin(struct block *b, struct block_restack *o, struct block **ret, struct err *e)
{
	struct block_layer layers[BLOCK_LAYERS_MAX] = { 0 };
	struct block_open open = { .layers = layers, .nlayers = o->nlayers, .writable = o->writable, .as_handed_over = true,
		.beside_pins = true, .buffered = b->buffered, .no_flush = b->no_flush, .name = b->name };
	struct block *next;
	int r = chain_flush_all(b);

	if (r < 0)
		return err_set_errno(e, r, "disk %s: cannot flush", b->name);
	if (block_is_corrupt(b))
		return err_set(e, -EIO, ERR_CORRUPT, "disk %s: its image is corrupt", b->name);
	r = files_take(b, o, layers, e);
	if (!r)
		r = backing_rename(b, o, e);
	if (!r)
		r = block_open(b->loop, &open, &next, e);
	if (r < 0) {
		kept_close(o, layers);
		return r;
	}
	locks_claim(b);
	old_release(b, o);
	r = new_lock(o, next, e);
	if (!r) {
		*ret = next;
		return 0;
	}
	old_lock(b, o);
	block_chain_free(next, false, NULL);
	kept_close(o, layers);
	return r;
}

/* The chain that ends shares files with the other one, which writes to them: its close must not cut their ends. */
static void chain_set_read_only(struct block *b)
{
	for (; b; b = b->backing)
		b->info.read_only = true;
}

struct block *block_restack_end(struct block *b, struct block_restack *o, struct block *next, bool go)
{
	if (go) {
		locks_pass(b, o, next);
	} else {
		new_unlock(o, next);
		old_lock(b, o);
	}
	chain_set_read_only(go ? b : next);
	return go ? b : next;
}
