/* ram_load: memory out of a saved state, when it is touched or all of it at once; memory that is
 * watched for writes. */
#ifndef CAIRN_VMM_MACHINE_RAM_LOAD_H
#define CAIRN_VMM_MACHINE_RAM_LOAD_H

#include "snapshot/vmstate.h"

#include <stdbool.h>
#include <sys/uio.h>

struct bitmap;
struct err;
struct machine;

/* The machine's memory is untouched (fresh, or cleared). Where userfaultfd is to be had, by a pager
 * and a tracker, which are m->pager and m->tracker until machine_forget_memory(); else all is there on
 * return. s: borrowed until then. */
int ram_load(struct machine *m, struct vmstate_store *s, const struct vmstate_header *h, struct err *e);
/* The same for memory that is watched and counts from a state that differs from this one in the blocks of
 * changed (NULL: none): what is the same and was not written since stays where it is. s takes the place of the
 * store before, which may go. */
int ram_rewind(struct machine *m, struct vmstate_store *s, const struct vmstate_header *h,
	const struct bitmap *changed, struct err *e);
/* Until all is there. -EIO with a sentence when something could not be read. */
int ram_wait(struct machine *m, struct err *e);
/* What memory was touched first since it comes out of m->pager, if there is one, is known to the next. No tracker
 * has the pager any more. */
void ram_touched_keep(struct machine *m);
/* For the end: all that is known goes into m->touched_fd. */
void ram_touched_done(struct machine *m);
/* Have pieces of memory in place, for writing or for reading only, while the tracker still reads a file. */
void ram_fetch(struct machine *m, const struct iovec *iov, unsigned niov, bool write);
/* Have memory watched, if it is not yet: m->tracker, until machine_forget_memory(); and ready for a short
 * pause (tracker_settle()). On the worker; needs m->uffd.can_protect. */
int ram_watch(struct machine *m, struct err *e);

#endif
