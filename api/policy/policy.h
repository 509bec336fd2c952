/* policy: when VMs come up and go down by themselves. Pure: no clock, no files, no VMs; the callers
 * pass the time. */
#ifndef CAIRN_API_POLICY_POLICY_H
#define CAIRN_API_POLICY_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

#define POLICY_LENGTH_MAX_S (366U * 24 * 3600)
#define POLICY_LENGTH_TEXT 16

/* ---- lengths of time ---- */

/* "45s", "30m", "2h", "1d": a number with its unit. Returns 0; -EINVAL: it is none, or above a
 * year. */
int policy_length_parse(const char *text, uint32_t *ret_s);
void policy_length_print(uint32_t s, char buf[POLICY_LENGTH_TEXT]);

/* ---- one after the other ---- */

enum policy_progress { POLICY_WAITS, POLICY_UNDER_WAY, POLICY_OVER };

struct policy_entry {
	uint32_t order;   /* lower ones first; equal ones beside each other */
	uint32_t delay_s; /* how long the next one waits when this one is over */
	enum policy_progress progress;
	uint64_t over_ns;
};

/* Which of the entries may begin now: they stand in the order in which they are to begin.
 * parallel: under way at a time, at most; at least 1.
 * Returns its index; n: none now: *ret_at_ns is when to look again (UINT64_MAX: when one that is
 * under way is over). */
size_t policy_next(const struct policy_entry *e, size_t n, unsigned parallel, uint64_t now_ns,
	uint64_t *ret_at_ns);
bool policy_all_over(const struct policy_entry *e, size_t n);

/* ---- words before a shutdown ---- */

/* When the guest is to be warned next of what happens at at_s: an hour, ten, five minutes and one before.
 * Seconds since 1970. Returns a time behind now_s; 0: never again. */
int64_t policy_next_warning(int64_t at_s, int64_t now_s);

/* ---- idleness ---- */

struct policy_idle_rule {
	uint32_t after_s;
	uint32_t cpu_percent; /* of one processor: what does not count as work */
};

/* What a VM has done so far; counters only grow while it runs. */
struct policy_sample {
	uint64_t now_ns;
	uint64_t cpu_ns;   /* of all vCPUs */
	uint64_t requests; /* of all disks */
	uint64_t bytes;	   /* of all consoles */
	bool watched;	   /* somebody is at a console */
};

struct policy_idle {
	bool begun;
	struct policy_sample last;
	uint64_t since_ns; /* the time of the first of the samples that showed nothing */
};

/* Idle for as long as the rule says? A VM that is not looked at for long (it was paused, the host slept) begins
 * anew. */
bool policy_idle_look(const struct policy_idle_rule *r, struct policy_idle *i,
	const struct policy_sample *s);
/* How often to look: ten times in that time, from 1 s to 1 min. */
uint64_t policy_idle_period_ns(const struct policy_idle_rule *r);

#endif
