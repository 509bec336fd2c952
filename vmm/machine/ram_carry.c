#include "vmm/machine/ram_carry.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/util.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_BYTES 4096u
/* Largest piece. The process needs as much more memory. */
#define PIECE_BYTES (32 * MIB)

/* Turn the dirty log on. It then counts all blocks as written. If it was off, the tracker has the blocks written
 * since the last snapshot, or there is no snapshot. */
static int log_begin(struct ram_carry *c, struct err *e)
{
	struct dirty_log *l = &c->m->dirty_log;
	int r;

	c->log_was_on = dirty_log_is_on(l);
	r = dirty_log_start(l, e);
	if (!r && !c->log_was_on)
		dirty_log_reset(l);
	return r;
}

static int pages_write(struct ram_carry *c, uint64_t off, const uint8_t *data, size_t len)
{
	c->piece_bytes += len;
	c->bytes += len;
	return pwrite_full(c->m->mem.fd, data, len, (off_t)off);
}

/* Write the pages that differ from the base file. base: room for len bytes. */
static int own_write(struct ram_carry *c, uint64_t off, const uint8_t *data, size_t len, uint8_t *base)
{
	const struct ram_view *v = memory_view(&c->m->mem);
	int r = pread_full(v->base_fd, base, len, (off_t)(v->base_offset + off));

	for (size_t at = 0; at < len && !r; at += PAGE_BYTES)
		if (memcmp(data + at, base + at, PAGE_BYTES))
			r = pages_write(c, off + at, data + at, PAGE_BYTES);
	return r;
}

/* Copy blocks of a round, at most some `limit` bytes. The successor may have older content of a block from an earlier
 * round, which has to be replaced even if the block equals the base file's again. Returns 1: the limit is reached; 0:
 * the round is complete; -errno. */
static int blocks_copy(struct ram_carry *c, uint64_t limit)
{
	CLEANUP_FREE uint8_t *data = malloc(2 * VMSTATE_BLOCK_BYTES);
	uint64_t total = c->m->mem.bytes, block;
	int r = data ? 0 : -ENOMEM;

	while (!r && (r = ram_save_next(&c->save, &block, data)) > 0) {
		uint64_t off = block * VMSTATE_BLOCK_BYTES;
		size_t len = (size_t)MIN(VMSTATE_BLOCK_BYTES, total - off);

		r = c->save.rounds ? pages_write(c, off, data, len)
			: own_write(c, off, data, len, data + VMSTATE_BLOCK_BYTES);
		if (!r && !c->save.rounds && vm_work_step(c->vm, off + len, total))
			r = -ECANCELED;
		if (!r && c->piece_bytes >= limit)
			return 1;
	}
	return r;
}

static int copy_failed(int r, struct err *e)
{
	if (r == -ECANCELED)
		return err_set(e, r, ERR_CANCELLED, "the restart was cancelled");
	return r < 0 ? err_set_errno(e, r, "cannot copy the clone's memory") : r;
}

static int carry_begin(struct ram_carry *c, struct vm *vm, struct err *e)
{
	int r;

	c->vm = vm;
	c->m = vm_machine(vm);
	r = log_begin(c, e);
	return r < 0 ? r : ram_save_begin(&c->save, c->m, true, e);
}

int ram_carry_next(struct ram_carry *c, struct vm *vm, struct err *e)
{
	int r = c->m ? 0 : carry_begin(c, vm, e);

	if (r < 0)
		return r;
	memory_drop_copy(&c->m->mem);
	c->piece_bytes = 0;
	do {
		r = copy_failed(blocks_copy(c, PIECE_BYTES), e);
		if (r < 0)
			return r;
		if (c->piece_bytes || !c->handed) {
			c->handed = true;
			r = copy_failed(memory_complete_copy(&c->m->mem, c->piece_bytes), e);
			return r < 0 ? r : 1;
		}
		r = ram_save_round_end(&c->save, e);
	} while (r > 0);
	return r;
}

int ram_carry_freeze(struct ram_carry *c, struct err *e)
{
	return ram_save_freeze(&c->save, e);
}

int ram_carry_finish(struct ram_carry *c, struct err *e)
{
	int r = blocks_copy(c, UINT64_MAX);

	r = copy_failed(r ? r : memory_complete_copy(&c->m->mem, c->piece_bytes), e);
	if (!r)
		log_info(NULL, "%llu KiB of the clone's memory copied for its new process, %llu KiB of them in the pause",
			(unsigned long long)c->bytes / 1024, (unsigned long long)c->piece_bytes / 1024);
	return r;
}

void ram_carry_done(struct ram_carry *c)
{
	struct err e;

	if (!c->m)
		return;
	ram_save_done(&c->save);
	if (!c->log_was_on && dirty_log_stop(&c->m->dirty_log, &e) < 0)
		log_warn(NULL, "cannot turn KVM's dirty log off: %s", e.msg);
	memory_drop_copy(&c->m->mem);
}
