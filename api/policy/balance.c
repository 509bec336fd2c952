#include "api/policy/balance.h"
#include "base/util.h"

#include <math.h>

/* ---- processors ---- */

/* A VM that takes less than this part of a processor is idle. */
#define BUSY_CPUS 0.05
/* A VM that gets this part of its limit waits because of the limit. */
#define LIMIT_PART 0.9
/* Processors become short when all busy VMs together wait for the first part of the time in which they could run.
 * They are no longer short when the VMs wait for less than the second part. No distribution of shares changes this
 * sum. */
#define SHORT_PART 0.05
#define ENOUGH_PART 0.01
/* A shift begins if the parts of two VMs differ by so much, and ends if they differ by less. */
#define SHIFT_BEGIN 0.2
#define SHIFT_END 0.08
/* Weight of the last call in the average. */
#define WAIT_LAST 0.5
/* How a difference becomes a change of shares, and the largest change in one call. */
#define SHIFT_GAIN 0.5
#define SHIFT_MAX 0.2
#define RETURN_PART 0.25

static bool is_busy(const struct balance_cpu *v)
{
	return v->wait.known && v->ran + v->waited >= BUSY_CPUS && (v->limit <= 0 || v->ran < LIMIT_PART * v->limit);
}

static void wait_update(struct balance_cpu *v)
{
	double wanted = v->ran + v->waited, part;

	if (!(wanted >= BUSY_CPUS)) {
		v->wait.known = false;
		return;
	}
	part = v->waited / wanted;
	v->wait.part = v->wait.known ? v->wait.part + WAIT_LAST * (part - v->wait.part) : part;
	v->wait.known = true;
}

/* Return the part of their runnable time for which the busy VMs waited. */
static double waits_of_all(const struct balance_cpu *v, size_t n)
{
	double waited = 0, wanted = 0;

	for (size_t i = 0; i < n; i++)
		if (is_busy(&v[i])) {
			waited += v[i].waited;
			wanted += v[i].ran + v[i].waited;
		}
	return wanted > 0 ? waited / wanted : 0;
}

/* Return whether the bounds let the VM's shares change so that its wait moves towards the mean. */
static bool can_move(const struct balance_cpu *v, double mean)
{
	return is_busy(v) && (v->wait.part > mean ? v->shares < v->max : v->shares > v->min);
}

/* Find the mean wait of the VMs whose shares can move towards it, and the largest difference between two waits. */
static void spread_find(const struct balance_cpu *v, size_t n, double *ret_mean, double *ret_spread)
{
	double mean = 0, least, most, sum;
	size_t busy = 0, movable = 0;

	for (size_t i = 0; i < n; i++)
		if (is_busy(&v[i]))
			mean += (v[i].wait.part - mean) / (double)++busy;
	/* VMs at their bounds drop out, which moves the mean, until no more do. */
	for (size_t round = 0; round <= n; round++) {
		size_t before = movable;

		movable = 0;
		sum = most = 0;
		least = 1;
		for (size_t i = 0; i < n; i++)
			if (can_move(&v[i], mean)) {
				movable++;
				sum += v[i].wait.part;
				least = MIN(least, v[i].wait.part);
				most = MAX(most, v[i].wait.part);
			}
		*ret_mean = mean;
		*ret_spread = movable > 1 ? most - least : 0;
		if (!movable || movable == before)
			break;
		mean = sum / (double)movable;
	}
}

/* Restore the sum of the shares to that of `first`: spread the difference over the VMs, within their bounds. */
static void sum_restore(struct balance_cpu *v, size_t n)
{
	int64_t lack = 0, room = 0, left;

	for (size_t i = 0; i < n; i++)
		lack += (int64_t)v[i].first - (int64_t)v[i].shares;
	for (size_t i = 0; i < n; i++)
		room += lack > 0 ? (int64_t)v[i].max - v[i].shares : (int64_t)v[i].shares - v[i].min;
	left = lack;
	for (size_t i = 0; i < n && lack && room; i++) {
		int64_t own = lack > 0 ? (int64_t)v[i].max - v[i].shares : (int64_t)v[i].shares - v[i].min, part = lack * own / room;

		v[i].shares = (uint32_t)((int64_t)v[i].shares + part);
		left -= part;
	}
	/* The divisions leave less than one share a VM. */
	for (size_t i = 0; i < n && left; i++) {
		int64_t own = left > 0 ? (int64_t)v[i].max - v[i].shares : (int64_t)v[i].min - v[i].shares;
		int64_t part = left > 0 ? MIN(left, own) : MAX(left, own);

		v[i].shares = (uint32_t)((int64_t)v[i].shares + part);
		left -= part;
	}
}

static uint32_t bounded(const struct balance_cpu *v, double shares)
{
	return (uint32_t)MIN(MAX((double)(int64_t)(shares + 0.5), v->min), v->max);
}

static void shares_shift(struct balance_cpu *v, size_t n, double mean)
{
	for (size_t i = 0; i < n; i++)
		if (can_move(&v[i], mean)) {
			double change = MIN(MAX(SHIFT_GAIN * (v[i].wait.part - mean), -SHIFT_MAX), SHIFT_MAX);

			v[i].shares = bounded(&v[i], v[i].shares * (1 + change));
		}
}

/* The last step goes all the way, so that rounding leaves no rest. */
static void shares_return(struct balance_cpu *v, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		double way = (double)v[i].first - v[i].shares;

		v[i].shares = __builtin_fabs(way) < 0.05 * v[i].first ? v[i].first : bounded(&v[i], v[i].shares + RETURN_PART * way);
	}
}

void balance_cpu(struct balance_cpu *v, size_t n, struct balance_cpu_state *s)
{
	double mean, spread, waits;

	for (size_t i = 0; i < n; i++) {
		wait_update(&v[i]);
		v[i].shares = MIN(MAX(v[i].shares, v[i].min), v[i].max);
	}
	waits = waits_of_all(v, n);
	spread_find(v, n, &mean, &spread);
	s->shifts = waits >= (s->shifts ? ENOUGH_PART : SHORT_PART) && spread >= (s->shifts ? SHIFT_END : SHIFT_BEGIN);
	if (s->shifts)
		shares_shift(v, n, mean);
	else if (waits < ENOUGH_PART)
		shares_return(v, n);
	sum_restore(v, n);
}

/* ---- memory ---- */

/* Memory is short from this pressure on, until it falls below the second; without PSI, if less than this part of the
 * host's memory is available, until there is more than the second part. */
#define PRESSURE_SHORT 5
#define PRESSURE_ENOUGH 1
#define AVAILABLE_SHORT 0.05
#define AVAILABLE_ENOUGH 0.1
/* A guest with less than this part of its memory available gets more. */
#define TIGHT_PART 0.1
/* In one call, a guest gives this part of its spare memory, and gets at most this part of its present memory. */
#define GIVE_PART 0.25
#define TAKE_PART 0.25
/* Smaller changes are not made. */
#define STEP_BYTES (4 * MIB)
#define STEP_PART (1.0 / 32)
/* The host keeps such a part of its memory from guests that are tight, and from those that just had more. */
#define KEEP_FOR_TIGHT 0.125
#define KEEP_FOR_RETURN 0.25
#define PAGE_BYTES 4096

static bool host_is_short(const struct balance_host *h, bool was)
{
	double part = h->total ? (double)h->available / (double)h->total : 1;

	if (isnan(h->pressure))
		return part < (was ? AVAILABLE_ENOUGH : AVAILABLE_SHORT);
	return h->pressure >= (was ? PRESSURE_ENOUGH : PRESSURE_SHORT);
}

/* Return the memory that the guest keeps at least. */
static double comfort_of(const struct balance_memory *v)
{
	double used = (double)(v->guest - MIN(v->available, v->guest));

	return MIN(MAX(used + used / 3, (double)v->min), (double)v->max);
}

static bool is_tight(const struct balance_memory *v)
{
	return v->known && (double)v->available < TIGHT_PART * (double)v->guest && v->target < v->max;
}

static double step_of(const struct balance_memory *v)
{
	return MAX((double)STEP_BYTES, STEP_PART * (double)v->target);
}

/* Return how much the guest gives; 0: nothing. A guest that is still giving gives no more. */
static double gift_of(const struct balance_memory *v)
{
	double spare = (double)MIN(v->target, v->guest) - comfort_of(v), gift = MAX(GIVE_PART * spare, step_of(v));

	if (!v->known || is_tight(v) || v->target + (uint64_t)step_of(v) <= v->guest)
		return 0;
	return spare >= step_of(v) ? MIN(gift, spare) : 0;
}

/* Return how much the guest wants; 0: nothing. A guest that does not use its present allowance gets no more. */
static double want_of(const struct balance_memory *v, bool tight)
{
	double lack = (tight ? comfort_of(v) : (double)v->first) - (double)v->target, step = step_of(v);

	if (!v->known || is_tight(v) != tight || v->guest + (uint64_t)step <= v->target || lack < (tight ? step : 1))
		return 0;
	return MIN(lack, MAX(TAKE_PART * (double)v->target, step));
}

static uint64_t pages_down(double bytes)
{
	return (uint64_t)bytes / PAGE_BYTES * PAGE_BYTES;
}

/* Take spare memory from the guests, up to a limit, the same part from each. Returns the sum. */
static double gifts_take(struct balance_memory *v, size_t n, double limit)
{
	double all = 0, sum = 0, part;

	for (size_t i = 0; i < n; i++)
		all += gift_of(&v[i]);
	part = all > limit ? limit / all : 1;
	for (size_t i = 0; i < n; i++) {
		double gift = part * gift_of(&v[i]);

		if (part >= 1 || gift >= step_of(&v[i])) {
			v[i].target -= pages_down(gift);
			sum += gift;
		}
	}
	return sum;
}

static double wants_of_all(const struct balance_memory *v, size_t n, bool tight)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += want_of(&v[i], tight);
	return sum;
}

/* Give guests the memory that they need; if there is too little, each gets the same part of its need. tight: serve
 * only guests that are tight; false: only the others. */
static void wants_fill(struct balance_memory *v, size_t n, bool tight, double budget)
{
	double sum = wants_of_all(v, n, tight), part = sum > budget ? budget / sum : 1;

	for (size_t i = 0; i < n; i++) {
		double gets = part * want_of(&v[i], tight);

		if (part >= 1 || gets >= step_of(&v[i]))
			v[i].target += pages_down(gets);
	}
}

/* Return half of the host's available memory above its reserve. */
static double left_of(const struct balance_host *h, double keep)
{
	return MAX(((double)h->available - keep * (double)h->total) / 2, 0);
}

void balance_memory(struct balance_memory *v, size_t n, const struct balance_host *h, struct balance_memory_state *s)
{
	double left, wants;

	s->is_short = host_is_short(h, s->is_short);
	for (size_t i = 0; i < n; i++)
		if (v[i].known)
			v[i].target = MIN(MAX(v[i].target, v[i].min), v[i].max);
	/* Other guests give memory some time later, so the host advances half of it only. */
	if (s->is_short) {
		wants_fill(v, n, true, gifts_take(v, n, INFINITY) / 2);
		return;
	}
	left = left_of(h, KEEP_FOR_TIGHT);
	wants = wants_of_all(v, n, true);
	if (wants > left)
		left += gifts_take(v, n, 2 * (wants - left)) / 2;
	wants_fill(v, n, true, left);
	wants_fill(v, n, false, left_of(h, KEEP_FOR_RETURN));
}
