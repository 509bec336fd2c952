/* policy: decides when VMs start and stop without a user's command. Pure functions: no clock, no files, no VMs;
 * callers pass the time. */
#ifndef CAIRN_API_POLICY_POLICY_H
#define CAIRN_API_POLICY_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- staged runs ---- */

enum policy_progress { POLICY_WAITS, POLICY_UNDER_WAY, POLICY_OVER };

struct policy_entry {
	uint32_t order;   /* lower orders run first, equal orders in parallel */
	uint32_t delay_s; /* pause between the end of this entry and the start of the definer's next one */
	uint32_t definer; /* the VM's definer: a delay holds no VM of another definer */
	enum policy_progress progress;
	uint64_t over_ns;
	bool held; /* private to policy_next(): it waits for a delay of its definer */
};

/* Choose the next entry to start.
 * e:         sorted in the order of their starts.
 * parallel:  most entries under way at a time; at least 1.
 * Returns the entry's index. n: none may start now; call again at *ret_at_ns (UINT64_MAX: when an entry under way
 * ends). */
size_t policy_next(struct policy_entry *e, size_t n, unsigned parallel, uint64_t now_ns, uint64_t *ret_at_ns);
bool policy_all_over(const struct policy_entry *e, size_t n);

/* ---- warnings before a planned shutdown ---- */

/* Return the time of the guest's next warning about an action at at_s: one hour, ten minutes, five minutes and one
 * minute before it. Times are seconds since 1970. The result lies after now_s; 0: no further warning. */
int64_t policy_next_warning(int64_t at_s, int64_t now_s);

/* ---- idleness ---- */

struct policy_idle_rule {
	uint32_t after_s;
	uint32_t cpu_percent; /* percent of one CPU; usage up to this value counts as idle */
};

/* A VM's activity counters at one time. The counters only grow while the VM runs. */
struct policy_sample {
	uint64_t now_ns;
	uint64_t cpu_ns;   /* CPU time of all vCPUs */
	uint64_t requests; /* number of requests to all disks */
	uint64_t bytes;	   /* bytes of all consoles, and bytes sent by all network interfaces */
	bool watched;	   /* a client has a console open */
};

struct policy_idle {
	bool begun;
	struct policy_sample last;
	uint64_t since_ns; /* time of the last sample with activity, or of the first sample after a gap */
};

/* Record a sample. Returns whether the VM has been idle for as long as the rule says. Counting restarts after a gap
 * between samples of more than three intervals, such as a pause of the VM. */
bool policy_idle_sample(const struct policy_idle_rule *r, struct policy_idle *i,
	const struct policy_sample *s);
/* Return the interval between samples: a tenth of after_s, at least 1 s, at most 1 min. */
uint64_t policy_idle_period_ns(const struct policy_idle_rule *r);

#endif
