#include "snapshot/cpu_state.h"
#include "base/cpuid.h"
#include "base/err.h"
#include "base/util.h"
#include "snapshot/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TOPOLOGY_MAX 64u /* maximum number of sockets, of cores and of threads: VM_VCPUS_MAX */

void cpuid_put(struct state_writer *w, const struct cpuid *c)
{
	state_put_u32(w, c ? c->n : 0);
	for (uint32_t i = 0; c && i < c->n; i++) {
		state_put_u32(w, c->leaf[i].function);
		state_put_u32(w, c->leaf[i].index);
		state_put_u32(w, c->leaf[i].flags);
		for (unsigned k = 0; k < ARRAY_SIZE(c->leaf[i].reg); k++)
			state_put_u32(w, c->leaf[i].reg[k]);
	}
}

struct cpuid *cpuid_take(struct state_reader *r)
{
	uint32_t n = state_u32(r);
	struct cpuid *c = r->failed || !n || n > CPUID_LEAVES_MAX ? NULL : cpuid_new(n);

	for (uint32_t i = 0; c && i < n; i++) {
		c->leaf[i].function = state_u32(r);
		c->leaf[i].index = state_u32(r);
		c->leaf[i].flags = state_u32(r);
		for (unsigned k = 0; k < ARRAY_SIZE(c->leaf[i].reg); k++)
			c->leaf[i].reg[k] = state_u32(r);
	}
	if (!r->failed)
		return c;
	free(c);
	return NULL;
}

void cpu_state_put(struct state_writer *w, const struct cpu_state *c)
{
	state_section_begin(w, CPU_STATE_SECTION, "", CPU_STATE_VERSION);
	state_put_u32(w, c->kind);
	state_put_u32(w, c->sockets);
	state_put_u32(w, c->cores);
	state_put_u32(w, c->threads);
	state_put_u32(w, c->tsc_khz);
	state_put_u64(w, c->xcr0);
	cpuid_put(w, c->guest);
	cpuid_put(w, c->kind == CPU_KIND_PROCESSOR ? c->own : NULL);
	state_section_end(w);
}

static bool topology_ok(const struct cpu_state *c)
{
	return c->sockets && c->cores && c->threads && c->sockets <= TOPOLOGY_MAX && c->cores <= TOPOLOGY_MAX &&
		c->threads <= TOPOLOGY_MAX;
}

int cpu_state_take(struct state_reader *r, struct cpu_state *c, struct err *e)
{
	memset(c, 0, sizeof(*c));
	c->kind = state_u32(r);
	c->sockets = state_u32(r);
	c->cores = state_u32(r);
	c->threads = state_u32(r);
	c->tsc_khz = state_u32(r);
	c->xcr0 = state_u64(r);
	c->guest = cpuid_take(r);
	if (c->kind == CPU_KIND_PROCESSOR)
		c->own = cpuid_take(r);
	else if (state_u32(r))
		r->failed = true;
	if (state_reader_complete(r) && topology_ok(c) && c->guest && (c->kind == CPU_KIND_VIRTUAL || c->own) &&
		(c->kind == CPU_KIND_VIRTUAL || c->kind == CPU_KIND_PROCESSOR))
		return 0;
	return err_set(e, -EINVAL, ERR_CORRUPT, "VM state: section " CPU_STATE_SECTION " is malformed");
}

void cpu_state_done(struct cpu_state *c)
{
	free(c->guest);
	free(c->own);
	c->guest = c->own = NULL;
}
