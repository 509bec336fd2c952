/* fixture_block: a temporary folder, a loop, commands run in the folder, and random operations
 * compared with a shadow file. */
#ifndef CAIRN_TESTS_FIXTURE_BLOCK_H
#define CAIRN_TESTS_FIXTURE_BLOCK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/loop.h"
#include "block/block.h"
#include "block/block_snapshot.h"

struct qcow2_create;

struct fixture {
	char dir[96];
	struct loop *loop;
	struct err err;
	uint64_t random;
	uint8_t *shadow; /* mapped */
	uint64_t shadow_bytes;
	uint64_t cache_bytes; /* used by fixture_open() */
	bool buffered, no_flush; /* no_flush: used by fixture_open() */
	bool beside_pins; /* used by fixture_open() */
	bool pin_readable; /* used by fixture_open_chain() */
	const char *snapshot; /* used by fixture_open() */
};

/* Images opened from now on split all requests: bounce buffers of 4 KiB, one part of a request at a time, and no room
 * for a second request's parts. */
extern bool fixture_small_parts;

/* Create the folder. fixture_end() removes it, at the latest when the process ends. */
void fixture_begin(struct fixture *f, unsigned seed);
void fixture_end(struct fixture *f);
/* Run a shell command in the fixture's folder; fail the test if it fails. */
void fixture_run(struct fixture *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Run a shell command and return its exit status. */
int fixture_status(struct fixture *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void fixture_path(struct fixture *f, const char *name, char *ret, size_t cap);
void fixture_create(struct fixture *f, const char *name, const struct qcow2_create *c);
/* Open an image, with base.img as its second layer when the image names a backing file. */
int fixture_try_open(struct fixture *f, const char *name, enum block_format fmt, bool read_only,
	struct block **ret_b);
struct block *fixture_open(struct fixture *f, const char *name, enum block_format fmt,
	bool read_only);
/* Open a chain of qcow2 images, the disk first. NULL: the end. Returns the result of block_open(). */
int fixture_open_chain(struct fixture *f, const char *const *names, bool read_only, struct block **ret_b);
/* Open a file in the folder. Returns an fd. */
int fixture_file(struct fixture *f, const char *name, int flags);
/* The number in an environment variable. */
unsigned fixture_number(const char *variable, unsigned otherwise);
int fixture_rw(struct block *b, enum block_op op, uint64_t off, void *buf, size_t len);
int fixture_op(struct block *b, enum block_op op, unsigned flags, uint64_t off, uint64_t len);
/* Read the VM state of a snapshot from offset 0. */
int fixture_vm_read(struct fixture *f, struct block *b, const char *id, void *buf, size_t len);
/* A snapshot operation to wait for; op.done is sync_done. */
struct sync_op {
	struct block_snapshot_op op;
	bool over;
	int res;
	struct err err;
};
void sync_done(struct block_snapshot_op *op, int res, const struct err *e);
/* Wait for the operation. Returns its result. */
int sync_wait(struct fixture *f, struct sync_op *s);
/* Fail unless `qemu-img check` finds nothing or only leaks. */
void fixture_check_leaks_only(struct fixture *f, const char *name);
/* Overwrite bytes of a file, to make malformed images. */
void fixture_poke(struct fixture *f, const char *name, uint64_t off, const void *buf, size_t len);
void fixture_poke_be(struct fixture *f, const char *name, uint64_t off, unsigned size, uint64_t v);
uint64_t fixture_peek_be(struct fixture *f, const char *name, uint64_t off, unsigned size);

/* Silence the log while a test provokes errors. */
void log_silence(bool on);

uint64_t fixture_random(struct fixture *f);
void fixture_shadow_open(struct fixture *f, const char *name, uint64_t bytes);
/* Run random reads, writes, zeroes, discards and flushes, `depth` at a time, on disjoint sectors
 * (but not clusters), and check each result. */
void shadow_run(struct fixture *f, struct block *b, unsigned ops, unsigned depth);
void shadow_verify(struct fixture *f, struct block *b);
/* Return a copy of the shadow, for the caller to free. */
uint8_t *shadow_copy(const struct fixture *f);
/* As shadow_verify(), with a copy that shadow_copy() has made. */
void content_is(struct fixture *f, struct block *b, uint8_t *content);
int shadow_flush(struct fixture *f, struct block *b);

/* Begin a test of pins: the command makes a qcow2 image "img" of that many bytes, and 100 random operations fill it.
 * Returns the open image. */
struct block *fixture_begin_source(struct fixture *f, unsigned seed, uint64_t bytes, const char *create);

#endif
