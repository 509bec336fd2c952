/* Declarations shared by disk_copy.c and disk_commit.c. */
#ifndef CAIRN_VMM_SNAPSHOT_DISK_COPY_IMPL_H
#define CAIRN_VMM_SNAPSHOT_DISK_COPY_IMPL_H

#include "block/block.h"
#include "vmm/snapshot/vm_snapshot_impl.h"

#define COPY_CHUNK_BYTES (1 * MIB)

struct copy_job {
	struct vmsnap_job j;
	struct machine_disk *disk;
	struct block *from, *to; /* where to read and to write; NULL: the disk, its copy */
	/* Copy a part; NULL: all of it. part_bytes: how large a part may be while changes do not go to both images. */
	int (*part)(struct copy_job *p, uint64_t off, uint64_t len, struct err *e);
	uint64_t part_bytes;
	uint64_t rate_bytes_per_s, size_bytes;
	bool through; /* changes go to both images, and those of the part in work wait until it ends */
	uint64_t begun_ns;
	uint64_t new_from; /* from here on, the copy has nothing yet and reads as zeros */
	uint64_t round_due; /* bytes that were dirty when the last round ended */
	uint8_t *buf;
	/* The end: */
	const struct vm_disk *pivot; /* `to`, or NULL: continue without the copy */
	struct vm_disk pivot_to;
	int fd, format; /* of the copy */
	bool then_pivot, check_only, held;
	struct block *gone; /* to be closed */
};

/* Worker. A request to where the job reads (BLOCK_READ) or writes, with p->buf. Returns 0 or -errno. */
int copy_request(struct copy_job *p, enum block_op op, uint64_t off, uint64_t len, struct err *e);
/* Worker. Wait until `done` bytes may have been copied, or the work was cancelled. */
void copy_rate_wait(struct copy_job *p, uint64_t done);
/* Worker. Copy the due parts of the disk's mirror until both images get each change. Returns 0; -ECANCELED; -errno. */
int copy_until_equal(struct copy_job *p, struct err *e);
/* Main thread. Go on without the copy, as the last stages of the job. */
void copy_abort(struct copy_job *p);
/* Main thread. Report the end, and free the job. */
void copy_job_end(struct work *w);

#endif
