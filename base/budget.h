/* budget: a limit on the memory that a guest or an image can make this process allocate. Charge before the allocation.
 * Threading: the owner's. */
#ifndef CAIRN_BASE_BUDGET_H
#define CAIRN_BASE_BUDGET_H

#include <stdbool.h>
#include <stdint.h>

struct budget {
	uint64_t used_bytes, max_bytes;
};

/* Charge n bytes. Returns false, and charges nothing, if they exceed the limit. */
static inline bool budget_take(struct budget *b, uint64_t n)
{
	if (n > b->max_bytes - b->used_bytes)
		return false;
	b->used_bytes += n;
	return true;
}

/* Return n charged bytes. */
static inline void budget_give(struct budget *b, uint64_t n)
{
	b->used_bytes -= n;
}

#endif
