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

/* The reason why an entry does not start yet.
 * HOLD_OWN_DELAY: a delay of its own definer, directly or through earlier entries. */
enum hold { HOLD_NONE, HOLD_OTHERS, HOLD_OWN_DELAY };

/* Decide whether e[i] may start. ret_at_ns: with HOLD_OWN_DELAY, the time at which its delay ends; 0: unknown. */
static enum hold entry_hold(const struct policy_entry *e, size_t i, uint64_t now_ns, uint64_t *ret_at_ns)
{
	enum hold hold = HOLD_NONE;

	*ret_at_ns = 0;
	for (size_t k = 0; k < i; k++) {
		bool own = e[k].definer == e[i].definer, later = e[k].order != e[i].order;

		if (e[k].progress == POLICY_OVER && own)
			*ret_at_ns = MAX(*ret_at_ns, e[k].over_ns + e[k].delay_s * SECOND_NS);
		else if (e[k].progress == POLICY_UNDER_WAY && own && e[k].delay_s)
			return HOLD_OWN_DELAY;
		else if (e[k].progress == POLICY_WAITS && e[k].held && later && own)
			return HOLD_OWN_DELAY;
		else if (e[k].progress != POLICY_OVER && later && (e[k].progress == POLICY_UNDER_WAY || !e[k].held))
			hold = HOLD_OTHERS;
	}
	return hold == HOLD_NONE && *ret_at_ns > now_ns ? HOLD_OWN_DELAY : hold;
}

size_t policy_next(struct policy_entry *e, size_t n, unsigned parallel, uint64_t now_ns, uint64_t *ret_at_ns)
{
	unsigned under_way = 0;
	uint64_t at;

	*ret_at_ns = UINT64_MAX;
	for (size_t i = 0; i < n; i++)
		under_way += e[i].progress == POLICY_UNDER_WAY;
	for (size_t i = 0; i < n; i++) {
		enum hold hold;

		if (e[i].progress != POLICY_WAITS)
			continue;
		hold = entry_hold(e, i, now_ns, &at);
		e[i].held = hold == HOLD_OWN_DELAY;
		if (hold == HOLD_NONE)
			return under_way < parallel ? i : n;
		if (hold == HOLD_OWN_DELAY && at > now_ns)
			*ret_at_ns = MIN(*ret_at_ns, at);
	}
	return n;
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

bool policy_idle_sample(const struct policy_idle_rule *r, struct policy_idle *i,
	const struct policy_sample *s)
{
	bool fresh = i->begun && s->now_ns - i->last.now_ns <= 3 * policy_idle_period_ns(r);

	if (!fresh || !did_nothing(r, &i->last, s))
		i->since_ns = s->now_ns;
	i->begun = true;
	i->last = *s;
	return s->now_ns - i->since_ns >= r->after_s * SECOND_NS;
}
