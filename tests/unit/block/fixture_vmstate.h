/* Reads and writes of a snapshot's VM state, for tests. */
#ifndef CAIRN_TESTS_FIXTURE_VMSTATE_H
#define CAIRN_TESTS_FIXTURE_VMSTATE_H

#include <stdint.h>

struct block;
struct block_snapshot;
struct fixture;

#define STATE (6 * MIB)

/* Each runs the loop until the request is done, and returns its result. */
int vm_write(struct fixture *f, struct block_snapshot *s, uint64_t off, void *buf, uint64_t len);
int vm_share(struct fixture *f, struct block_snapshot *s, const char *id, uint64_t off, uint64_t len);
/* Read from the snapshot in creation (s), or from an existing one (id). */
int vm_read(struct fixture *f, struct block *b, struct block_snapshot *s, const char *id, uint64_t off, void *buf,
	uint64_t len);
/* Fail unless the VM state begins with these bytes. */
void vm_is(struct fixture *f, struct block *b, struct block_snapshot *s, const char *id, const uint8_t *want,
	uint64_t bytes);
/* Fail unless block_vmstate_map() leads to these STATE bytes. */
void map_is(struct fixture *f, struct block *b, const char *id, const uint8_t *state);
/* Fill p with random numbers. len: a multiple of 8. */
void random_fill(struct fixture *f, uint8_t *p, uint64_t len);
/* Write n random pieces to the VM state and to its copy. state: STATE bytes, page-aligned. */
void state_load(struct fixture *f, struct block_snapshot *s, uint8_t *state, unsigned n);

#endif
