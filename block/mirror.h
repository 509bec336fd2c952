/* mirror: keeps a second disk equal to a disk while requests continue.
 *
 * First the caller copies the parts that block_mirror_next() names; a part that the guest changes must be copied again.
 * After block_mirror_write_through(), each change goes to both disks instead, so the number of parts to copy only
 * decreases. A change and the copying of its part exclude each other, and so do two changes that overlap. When no
 * part is left, block_mirror_seal() ends the copying. From then on a request is complete when both disks have it. So
 * both disks have all data that a flush has made durable, and either may be used alone. Guest memory is read once for
 * both disks, into a bounce buffer of the disk.
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
 * b: writable. to: on the same loop, of the same size, nobody else submits requests to it, except that b reads it as a
 * backing file; both borrowed until block_mirror_end(). NULL: nothing is mirrored; only block_mirror_hold() and the
 * functions that end it are called. Returns 0; -EINVAL, -EBUSY or -ENOMEM with a sentence. */
int block_mirror_new(struct block *b, struct block *to, struct block_mirror **ret, struct err *e);
/* Take the next part that is due, of at most max bytes, to read it from the disk and write it to the other one. The
 * call ends the part before. After block_mirror_write_through(), changes of the part wait until it ends.
 * ready: called when the part may be read, perhaps inside the call.
 * Returns false if none is due, and does not call ready(). */
bool block_mirror_next(struct block_mirror *m, uint64_t max, uint64_t *ret_off, uint64_t *ret_len, void (*ready)(void *opaque),
	void *opaque);
/* End the part that is in work, so that changes of it wait no longer. copied: false: it is due again. */
void block_mirror_part_end(struct block_mirror *m, bool copied);
/* Returns the number of bytes that are due. */
uint64_t block_mirror_due(const struct block_mirror *m);
/* Let each new change go to both disks. A change that fails on the other disk is due again, and the guest does not
 * learn of the failure. No part may be in work. */
void block_mirror_write_through(struct block_mirror *m);
bool block_mirror_writes_through(const struct block_mirror *m);
/* Returns whether each change is on both disks, or goes to both. If not, a part is due, or changes are in flight that
 * began before block_mirror_write_through(). */
bool block_mirror_is_complete(const struct block_mirror *m);
/* End the copying of a complete mirror whose other disk was flushed since then. From now on, an error of the other disk
 * fails the request. Returns false if the other disk may lack a change. */
bool block_mirror_seal(struct block_mirror *m);
/* Returns whether the mirror is sealed and both disks have had each change since, without an error of either. */
bool block_mirror_is_equal(const struct block_mirror *m);
/* Hold back each new request until block_mirror_release() or block_mirror_end().
 * done: called once none is in flight, perhaps inside the call. */
void block_mirror_hold(struct block_mirror *m, void (*done)(void *opaque), void *opaque);
/* Submit the requests that were held back; done() of block_mirror_hold() is not called any more. */
void block_mirror_release(struct block_mirror *m);
/* End the mirror, which holds all requests back or has none in flight, and free it. NULL: no mirror.
 * Returns the requests that were held back, for block_mirror_submit(). */
struct block_req *block_mirror_end(struct block_mirror *m);
/* Submit the requests to the disk that continues. */
void block_mirror_submit(struct block_req *held, struct block *on);

/* ---- for block.c ---- */

/* Returns whether the mirror holds the request back. A discard becomes a write of zeros while both disks get it. */
bool block_mirror_takes(struct block_mirror *m, struct block_req *r);
/* A request that changes the disk, or a piece of it in a bounce buffer, is complete there.
 * outer: the request itself. Returns whether the mirror completes r, by block_req_end(). */
bool block_mirror_forwards(struct block_mirror *m, struct block_req *outer, struct block_req *r, int res);
/* A request has ended. */
void block_mirror_request_ended(struct block_mirror *m);

#endif
