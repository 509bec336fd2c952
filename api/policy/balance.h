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
	uint32_t min, first, max; /* first: the VM's shares at its start */
	uint32_t shares;	  /* present value; on return, the value to set */
	/* Load of its vCPUs since the call before, in processors: the part of the time that they ran, and waited for a
	 * processor. A VM with hardly any load takes no part. */
	double ran, waited;
	double limit; /* processors that the VM may have at most; 0: no limit */
	/* Kept between calls; begins as all zeros. */
	struct {
		bool known;
		double part; /* average part of its runnable time for which it waited */
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
	uint64_t target; /* present target; on return, the memory that the balloon is to leave */
	uint64_t guest;	 /* memory that it leaves now */
	uint64_t available; /* part of `guest` that programs can get without swapping */
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

/* While the host is short of memory, take unused memory from guests, and give half of it to guests that have almost
 * none left. Otherwise give these guests the host's available memory, and if that is too little, memory that other
 * guests do not use. Then return memory to guests, up to the amount that they had at their start. A guest always
 * keeps a third more than it uses. */
void balance_memory(struct balance_memory *v, size_t n, const struct balance_host *h, struct balance_memory_state *s);

#endif
