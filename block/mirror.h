/* mirror: keeps a second disk equal to a disk while requests continue.
 *
 * First the caller copies what block_mirror_next() names, and each change of the disk makes its part due again. Then
 * the caller holds the changes back, copies the rest, and lets both disks get each change: a request is complete when
 * both have it. So what a flush has made durable is on both, and either may be used alone from then on.
 * Threading: the disks' thread, as block.h. */
#ifndef CAIRN_BLOCK_MIRROR_H
#define CAIRN_BLOCK_MIRROR_H

#include <stdbool.h>
#include <stdint.h>

struct block;
struct block_mirror;
struct block_req;
struct err;

/* Begin: all of the disk is due.
 * b: writable. to: on the same loop, of the same size, nobody else submits requests to it; both borrowed until
 * block_mirror_end(). Returns 0; -EINVAL, -EBUSY or -ENOMEM with a sentence. */
int block_mirror_new(struct block *b, struct block *to, struct block_mirror **ret, struct err *e);
/* Take the next part that is due, of at most max bytes, to read it from the disk and write it to the other one.
 * Returns false if none is due. */
bool block_mirror_next(struct block_mirror *m, uint64_t max, uint64_t *ret_off, uint64_t *ret_len);
/* Returns whether both disks have had each change, without an error of either, since nothing was due. */
bool block_mirror_is_equal(const struct block_mirror *m);
/* Returns the number of bytes that are due. */
uint64_t block_mirror_due(const struct block_mirror *m);
/* Hold back each new change, or with `all` each new request, until block_mirror_release() or block_mirror_end().
 * done: called once none is in flight, perhaps inside the call. */
void block_mirror_hold(struct block_mirror *m, bool all, void (*done)(void *opaque), void *opaque);
/* Submit what was held. both: nothing is due: from now on both disks get each change. */
void block_mirror_release(struct block_mirror *m, bool both);
/* End the mirror, which holds all requests back or has none in flight, and free it. NULL: no mirror.
 * Returns the requests that were held back, for block_mirror_submit(). */
struct block_req *block_mirror_end(struct block_mirror *m);
/* Submit the requests to the disk that goes on. */
void block_mirror_submit(struct block_req *held, struct block *on);

/* ---- for block.c ---- */

/* Returns whether the mirror holds the request back. A discard becomes a write of zeros while both disks get it. */
bool block_mirror_takes(struct block_mirror *m, struct block_req *r);
/* A request that changes the disk is complete there. Returns whether the mirror completes it, by block_req_end(). */
bool block_mirror_forwards(struct block_mirror *m, struct block_req *r, int res);
/* A request has ended. */
void block_mirror_poke(struct block_mirror *m);

#endif
