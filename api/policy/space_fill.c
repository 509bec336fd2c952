#include "api/policy/space_fill.h"
#include "base/clock.h"
#include "base/util.h"

#define LIMIT_PART 20
#define LIMIT_BYTES (4ULL << 30)
#define SOON_S 300.0
/* The rate is an average over about so many seconds, since a guest writes in bursts. */
#define RATE_S 20.0
#define NEXT_MIN_NS CLOCK_NS_PER_S
#define NEXT_MAX_NS (5 * CLOCK_NS_PER_S)
/* Measure this often on the way to the limit. */
#define LOOKS 4

static uint64_t limit_bytes(const struct space_fill *f)
{
	return MIN(f->total_bytes / LIMIT_PART, LIMIT_BYTES);
}

double space_fill_seconds_left(const struct space_fill *f)
{
	return f->total_bytes && f->rate > 0 ? (double)f->free_bytes / f->rate : -1;
}

static bool is_full_in(const struct space_fill *f, double seconds)
{
	double left = space_fill_seconds_left(f);

	return left >= 0 && left < seconds;
}

static bool is_low(const struct space_fill *f)
{
	uint64_t limit = limit_bytes(f);

	if (!f->low)
		return f->free_bytes < limit || is_full_in(f, SOON_S);
	return f->free_bytes < limit + limit / 4 || is_full_in(f, 2 * SOON_S);
}

void space_fill_add(struct space_fill *f, uint64_t free_bytes, uint64_t total_bytes, uint64_t now_ns)
{
	double seconds = (double)(now_ns - f->at_ns) / CLOCK_NS_PER_S, now;

	if (!total_bytes || total_bytes != f->total_bytes || !f->at_ns) {
		/* The disk has another image, or its file system another size. */
		*f = (struct space_fill){ .low = total_bytes && f->low };
	} else if (free_bytes > f->free_bytes) {
		f->rate = 0; /* somebody has made room */
	} else if (seconds > 0) {
		now = (double)(f->free_bytes - free_bytes) / seconds;
		f->rate += (now - f->rate) * MIN(seconds / RATE_S, 1);
		f->rate = f->rate < 1 ? 0 : f->rate;
	}
	f->at_ns = now_ns;
	f->free_bytes = MIN(free_bytes, total_bytes);
	f->total_bytes = total_bytes;
	f->low = total_bytes && is_low(f);
}

/* Return the bytes above the limit. */
static uint64_t room_bytes(const struct space_fill *f)
{
	uint64_t limit = limit_bytes(f);

	return f->free_bytes > limit ? f->free_bytes - limit : 0;
}

uint64_t space_fill_next_ns(const struct space_fill *f)
{
	double seconds;

	if (!f->total_bytes || f->low || f->rate <= 0)
		return NEXT_MAX_NS;
	seconds = (double)room_bytes(f) / f->rate / LOOKS;
	return seconds * CLOCK_NS_PER_S >= (double)NEXT_MAX_NS ? NEXT_MAX_NS :
		MAX((uint64_t)(seconds * CLOCK_NS_PER_S), NEXT_MIN_NS);
}

uint64_t space_fill_next_bytes(const struct space_fill *f)
{
	return f->total_bytes && !f->low ? room_bytes(f) / LOOKS : UINT64_MAX;
}
