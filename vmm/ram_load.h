/* ram_load: memory out of a saved state, when it is touched or all of it at once. */
#ifndef CAIRN_VMM_RAM_LOAD_H
#define CAIRN_VMM_RAM_LOAD_H

#include "snapshot/vmstate.h"

#include <stdbool.h>

struct err;
struct machine;

/* The machine's memory is untouched (fresh, or cleared). Lazily by a pager, which is m->pager until
 * machine_forget_memory(), where userfaultfd is to be had and eager is not asked for.
 * s: borrowed until then. crcs: of the state's blocks, from vmstate_read_crcs(); taken. */
int ram_load(struct machine *m, struct vmstate_store *s, const struct vmstate_header *h,
	uint32_t *crcs, bool eager, struct err *e);

#endif
