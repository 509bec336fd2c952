/* fuzz_disk: raw disks in memory, for the fuzzers of devices. */
#ifndef CAIRN_TESTS_FUZZ_DISK_H
#define CAIRN_TESTS_FUZZ_DISK_H

#include "block/block.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* Open an empty disk. The caller closes it. Aborts on an error. */
static inline struct block *fuzz_disk_open(struct loop *loop, uint64_t bytes, bool read_only)
{
	struct block_layer layer = { .fd = memfd_create("disk", MFD_CLOEXEC), .format = BLOCK_FORMAT_RAW };
	struct block_open o = { .layers = &layer, .nlayers = 1, .no_lock = true, .read_only = read_only };
	struct block *b;

	if (layer.fd < 0 || ftruncate(layer.fd, (off_t)bytes) || block_open(loop, &o, &b, NULL))
		abort();
	return b;
}

#endif
