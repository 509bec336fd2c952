#include "api/policy/policy.h"
#include "base/util.h"

#define SECOND_NS 1000000000ULL
#define PERIOD_MAX_NS (60 * SECOND_NS)

/* ---- staged runs ---- */

bool policy_all_over(const struct policy_entry *e, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (e[i].progress != POLICY_OVER)
			return false;
	return true;
}

size_t policy_next(const struct policy_entry *e, size_t n, unsigned parallel, uint64_t now_ns,
	uint64_t *ret_at_ns)
{
	uint64_t at = 0;
	unsigned under_way = 0;
	size_t next = n;

	*ret_at_ns = UINT64_MAX;
	for (size_t i = 0; i < n && next == n; i++) {
		if (e[i].progress == POLICY_WAITS)
			next = i;
		else if (e[i].progress == POLICY_OVER)
			at = MAX(at, e[i].over_ns + e[i].delay_s * SECOND_NS);
		else
			under_way++;
	}
	if (next == n)
		return n;
	/* All entries before e[next] have started. Those with another order or with a delay must have ended, too. */
	for (size_t i = 0; i < next; i++)
		if (e[i].progress == POLICY_UNDER_WAY &&
			(e[i].order != e[next].order || e[i].delay_s))
			return n;
	if (under_way >= parallel)
		return n;
	if (at > now_ns) {
		*ret_at_ns = at;
		return n;
	}
	return next;
}

/* ---- warnings before a planned shutdown ---- */

int64_t policy_next_warning(int64_t at_s, int64_t now_s)
{
	static const int64_t before_s[] = { 3600, 600, 300, 60 };

	for (size_t i = 0; i < ARRAY_SIZE(before_s); i++)
		if (at_s - before_s[i] > now_s)
			return at_s - before_s[i];
	return 0;
}

/* ---- detecting an idle VM ---- */

uint64_t policy_idle_period_ns(const struct policy_idle_rule *r)
{
	return MIN(MAX(r->after_s * SECOND_NS / 10, SECOND_NS), PERIOD_MAX_NS);
}

static bool did_nothing(const struct policy_idle_rule *r, const struct policy_sample *a,
	const struct policy_sample *b)
{
	uint64_t allowed = (b->now_ns - a->now_ns) / 100 * r->cpu_percent;

	return !b->watched && a->requests == b->requests && a->bytes == b->bytes &&
		b->cpu_ns >= a->cpu_ns && b->cpu_ns - a->cpu_ns <= allowed;
}

bool policy_idle_look(const struct policy_idle_rule *r, struct policy_idle *i,
	const struct policy_sample *s)
{
	bool fresh = i->begun && s->now_ns - i->last.now_ns <= 3 * policy_idle_period_ns(r);

	if (!fresh || !did_nothing(r, &i->last, s))
		i->since_ns = s->now_ns;
	i->begun = true;
	i->last = *s;
	return s->now_ns - i->since_ns >= r->after_s * SECOND_NS;
}
