#include "base/short_slice.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The kernel's struct sched_attr, first version; the C library's headers have none. */
struct slice_attr {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period; /* ns; runtime: the slice of a thread under SCHED_OTHER */
};

static int attr_get(struct slice_attr *a)
{
	return (int)syscall(SYS_sched_getattr, 0, a, sizeof(*a), 0);
}

void short_slice_set(bool on)
{
	struct slice_attr a = { 0 };

	if (attr_get(&a) < 0 || a.policy != SCHED_OTHER)
		return;
	a.runtime = on ? SHORT_SLICE_NS : 0; /* 0: the kernel's own */
	(void)syscall(SYS_sched_setattr, 0, &a, 0);
}

uint64_t short_slice_get(void)
{
	struct slice_attr a = { 0 };

	return attr_get(&a) < 0 || a.policy != SCHED_OTHER ? 0 : a.runtime;
}
