/* sequence: VMs that are started, or stopped, one after the other: by their order, with delays between them,
 * so many at a time (api/policy/policy.h decides). One that fails holds nobody up. Runs on the daemon's loop. */
#ifndef CAIRN_API_POLICY_STAGED_RUN_H
#define CAIRN_API_POLICY_STAGED_RUN_H

#include <stddef.h>
#include <stdint.h>

struct daemon;
struct sequence;
struct vm;

struct sequence_ops {
	/* Its turn: sequence_over() follows, at once or from the loop. VMs that are gone by then have
	 * none. */
	void (*begin)(void *opaque, struct vm *vm, size_t i);
	/* All are over; it may be freed. From the loop, or from sequence_go(). */
	void (*over)(void *opaque);
};

/* parallel: at a time; at least 1. */
struct sequence *sequence_new(struct daemon *d, unsigned parallel, const struct sequence_ops *ops, void *opaque);
/* NULL allowed. What is under way goes on, and nobody hears of it. */
void sequence_free(struct sequence *s);
/* Before it goes. */
void sequence_add(struct sequence *s, const struct vm *vm, uint32_t order, uint32_t delay_s);
void sequence_go(struct sequence *s);
void sequence_over(struct sequence *s, size_t i);
/* The VM at that place now; NULL: it is gone. */
struct vm *sequence_vm(const struct sequence *s, size_t i);
size_t sequence_count(const struct sequence *s);

#endif
