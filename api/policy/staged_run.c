#include "api/policy/staged_run.h"
#include "api/policy/bounds.h"
#include "api/policy/policy.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "base/loop.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct staged_run {
	struct staged_run *next; /* in vm_host.staged_runs */
	struct vm_host *host;
	const struct staged_run_ops *ops;
	void *opaque;
	unsigned parallel;
	struct loop_timer *timer;
	struct policy_entry *entries;
	struct vm **vms; /* of the entries; NULL: undefined meanwhile */
	size_t n;
	bool going, again;
};

static void timer_fire(void *opaque)
{
	staged_run_go(opaque);
}

struct staged_run *staged_run_new(struct vm_host *host, unsigned parallel, const struct staged_run_ops *ops, void *opaque)
{
	struct staged_run *s = calloc(1, sizeof(*s));

	if (!s || loop_timer_new(host->loop, timer_fire, s, &s->timer) < 0)
		abort();
	s->host = host;
	s->parallel = parallel;
	s->ops = ops;
	s->opaque = opaque;
	s->next = host->staged_runs;
	host->staged_runs = s;
	return s;
}

void staged_run_free(struct staged_run *s)
{
	struct staged_run **at;

	if (!s)
		return;
	for (at = &s->host->staged_runs; *at != s;)
		at = &(*at)->next;
	*at = s->next;
	loop_timer_free(s->timer);
	free(s->entries);
	free(s->vms);
	free(s);
}

/* Insert by order. VMs are added by name, so those of equal order stay sorted by name. */
void staged_run_add(struct staged_run *s, struct vm *vm, uint32_t order, uint32_t delay_s)
{
	size_t i = s->n;

	s->entries = reallocarray(s->entries, s->n + 1, sizeof(*s->entries));
	s->vms = reallocarray(s->vms, s->n + 1, sizeof(*s->vms));
	if (!s->entries || !s->vms)
		abort();
	while (i && s->entries[i - 1].order > order)
		i--;
	memmove(&s->entries[i + 1], &s->entries[i], (s->n - i) * sizeof(*s->entries));
	memmove(&s->vms[i + 1], &s->vms[i], (s->n - i) * sizeof(struct vm *));
	s->entries[i] = (struct policy_entry){ .order = order, .delay_s = delay_s,
		.definer = bounds_definer(vm) };
	s->vms[i] = vm;
	s->n++;
}

struct vm *staged_run_vm(const struct staged_run *s, size_t i)
{
	return s->vms[i];
}

size_t staged_run_count(const struct staged_run *s)
{
	return s->n;
}

static void step_begin(struct staged_run *s, size_t i)
{
	struct vm *vm = staged_run_vm(s, i);

	s->entries[i].progress = POLICY_UNDER_WAY;
	if (vm)
		s->ops->begin(s->opaque, vm, i);
	else
		staged_run_over(s, i);
}

void staged_run_go(struct staged_run *s)
{
	uint64_t at;
	size_t i;

	if (s->going) {
		s->again = true;
		return;
	}
	s->going = true;
	do {
		s->again = false;
		while ((i = policy_next(s->entries, s->n, s->parallel, loop_now_ns(), &at)) < s->n)
			step_begin(s, i);
	} while (s->again);
	s->going = false;
	if (at != UINT64_MAX)
		loop_timer_arm(s->timer, at);
	if (policy_all_over(s->entries, s->n))
		s->ops->over(s->opaque);
}

void staged_run_over(struct staged_run *s, size_t i)
{
	s->entries[i].progress = POLICY_OVER;
	s->entries[i].over_ns = loop_now_ns();
	staged_run_go(s);
}

static void staged_run_removed(struct vm *vm)
{
	for (struct staged_run *s = vm->host->staged_runs; s; s = s->next)
		for (size_t i = 0; i < s->n; i++)
			if (s->vms[i] == vm)
				s->vms[i] = NULL;
}

const struct vm_observer staged_run_observer = { .removed = staged_run_removed };
