/* balance: decides how VMs share processors and memory when there is too little for all (pure; balancer.h applies it).
 *
 * Each function looks at all VMs whose owners have set bounds, and is called every some seconds. A VM never leaves its
 * bounds. Changes begin at one limit and end at another, so that a constant load leads to constant values.
 * Threading: none. */
#ifndef CAIRN_API_POLICY_BALANCE_H
#define CAIRN_API_POLICY_BALANCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- processors ---- */

/* The shares of a VM, as its cpu_shares. Together, the VMs always have the sum of `first`. */
struct balance_cpu {
	uint32_t min, first, max; /* first: what the VM has at its start */
	uint32_t shares;	  /* now; on return, what the VM shall have */
	/* Load of its vCPUs since the call before, in processors: the part of the time that they ran, and waited for a
	 * processor. A VM with hardly any load takes no part. */
	double ran, waited;
	double limit; /* processors that the VM may have at most; 0: no limit */
	/* Kept between calls; begins as all zeros. */
	struct {
		bool known;
		double part; /* average of the part of the time in which it wanted to run that it waited */
	} wait;
};

/* The same for all VMs, kept between calls. Begins as all zeros. */
struct balance_cpu_state {
	bool shifts; /* some wait much longer than others, and shares move to these */
};

/* Move shares from VMs that wait little for a processor to those that wait much. When none waits, move them back.
 * v: n VMs, each of which has min <= first <= max. */
void balance_cpu(struct balance_cpu *v, size_t n, struct balance_cpu_state *s);

/* ---- memory ---- */

/* The memory that a VM's balloon leaves to the guest, in bytes. */
struct balance_memory {
	uint64_t min, first, max;
	uint64_t target; /* now; on return, what the balloon shall leave */
	uint64_t guest;	 /* what it leaves now */
	uint64_t available; /* of that, what programs can have without swapping */
	bool known; /* guest and available are known; otherwise the VM is left alone */
};

struct balance_host {
	double pressure; /* percent of the last ten seconds in which threads waited for memory; NAN: unknown */
	uint64_t total, available; /* bytes; available: without swapping */
};

/* Kept between calls. Begins as all zeros. */
struct balance_memory_state {
	bool is_short; /* the host is short of memory */
};

/* While the host is short of memory, take from guests what they do not use, and give half of that to guests that have
 * next to nothing left. Otherwise give these guests what the host has left, and what others do not use if that is too
 * little, and give guests back what they had at their start. A guest always keeps a third more than it uses. */
void balance_memory(struct balance_memory *v, size_t n, const struct balance_host *h, struct balance_memory_state *s);

#endif
