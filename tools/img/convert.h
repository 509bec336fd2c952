/* convert: copy disks to a new or an existing image, for the verbs convert and dd. */
#ifndef CAIRN_TOOLS_IMG_CONVERT_H
#define CAIRN_TOOLS_IMG_CONVERT_H

#include "pack.h"

struct img_convert {
	struct img_common common;
	const struct img_open *sources; /* one behind the other */
	unsigned nsources;
	uint64_t skip_bytes;   /* leave out this much at the start of the source; only with one source */
	uint64_t end_bytes;    /* stop at this offset of the source; UINT64_MAX: at its end */
	struct img_create ic;  /* the target; its size is that of the source */
	const char *path;      /* "-": standard output */
	struct img_open target; /* how to open the target, if it exists or is a URL */
	bool compress, existing, target_is_zero;
	bool bitmaps, skip_broken_bitmaps; /* copy the bitmaps of a single source; leave out inconsistent ones */
	struct img_copy_how how;
	struct img_rate rate;

	/* Private: */
	struct loop *from_loop, *loop;
	struct block *from, *to;
	uint64_t size_bytes;
};

/* Copy; stops after a signal. Prepare `common` with img_common_init() and all others with zeros, ic with
 * IMG_CREATE_DEFAULT and end_bytes with UINT64_MAX. Returns 0; -errno with a sentence. */
int img_convert_run(struct img_convert *v, struct err *e);

#endif
