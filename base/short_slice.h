/* short_slice: has the kernel run the calling thread soon after it is woken, also on a busy host. Linux 6.12 and later
 * choose the thread whose share of the processor is due first. A thread with a short slice is due earlier than others,
 * and takes the processor from a thread with a longer one. It gets no larger share, so this needs no privilege. Use it
 * for a thread that works for microseconds at a time while other threads wait for it.
 *
 * Threading: the thread whose slice it is. Threads that it creates inherit the slice. */
#ifndef CAIRN_BASE_SHORT_SLICE_H
#define CAIRN_BASE_SHORT_SLICE_H

#include <stdbool.h>
#include <stdint.h>

/* The shortest slice of the kernel (kernel/sched/syscalls.c). */
#define SHORT_SLICE_NS 100000u

/* Give the calling thread the short slice, or the kernel's usual one. A thread with another policy than SCHED_OTHER
 * keeps its slice: an administrator has chosen the policy. Does nothing on an older kernel. */
void short_slice_set(bool on);
/* Returns the calling thread's slice in ns; 0: the kernel does not report it, and knows no slices. */
uint64_t short_slice_get(void);

#endif
