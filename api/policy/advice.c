#include "api/policy/advice_impl.h"
#include "base/shell_word.h"
#include "base/util.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DAY_S 86400

/* A VM is idle on a day of which 20 hours are known, and all of these but one are idle. */
#define IDLE_DAYS 3
#define IDLE_DAY_KNOWN 20
#define IDLE_DAY_BUSY 1
#define IDLE_CPU_PERCENT 3
#define IDLE_REQUESTS 1
#define IDLE_PACKETS 1
/* Memory of an idle VM that is worth a reclaim. */
#define RECLAIM_BYTES (64 * MIB)
#define RECLAIM_PART 0.25
/* Rules about a week need so many known hours of it. */
#define WEEK_KNOWN 72
#define MEMORY_PART 0.5
#define MEMORY_BYTES (256 * MIB)
#define MEMORY_STEP (64 * MIB)
#define VCPUS_PART 0.5
/* A VM needs the most that it took, and a quarter more. */
#define ROOM 1.25
#define SAVED_DAYS 30
#define OFF_DAYS 90
#define OVERLAY_DAYS 30
#define SNAPSHOT_DAYS 30
/* A growth counts if it exceeds its standard error by this factor, and has at least half its rate in the second half
 * of the time. */
#define GROWTH_ERRORS 3
#define GROWTH_LATE_PART 0.5
#define MEMORY_GROWTH_PART 0.1
#define RUN_OUT_DAYS 60

const char *advice_kind_word(enum advice_kind k)
{
	static const char *const words[ADVICE_KINDS] = { "waste", "short", "unusual", "run-out" };

	return words[k];
}

/* ---- the list ---- */

static char *text_of(const char *fmt, va_list args)
{
	char *text;

	if (vasprintf(&text, fmt, args) < 0)
		abort();
	return text;
}

struct advice *advice_add(struct advice_list *l, enum advice_kind kind, const char *rule, const char *fmt, ...)
{
	struct advice *a;
	va_list args;

	l->list = must_alloc(realloc(l->list, (l->n + 1) * sizeof(*l->list)));
	a = &l->list[l->n++];
	*a = (struct advice){ .kind = kind, .rule = rule };
	va_start(args, fmt);
	a->text = text_of(fmt, args);
	va_end(args);
	return a;
}

void advice_command(struct advice *a, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	a->command = text_of(fmt, args);
	va_end(args);
}

void advice_figure(struct advice *a, const char *name, double value)
{
	a->figures[a->nfigures].name = name;
	a->figures[a->nfigures++].value = value;
}

void advice_lacks(struct advice_list *l, const char *rule, const char *fmt, ...)
{
	va_list args;

	if (!l->tell_lacks)
		return;
	l->lacks = must_alloc(realloc(l->lacks, (l->nlacks + 1) * sizeof(*l->lacks)));
	va_start(args, fmt);
	l->lacks[l->nlacks++] = (struct advice_lack){ rule, text_of(fmt, args) };
	va_end(args);
}

void advice_list_done(struct advice_list *l)
{
	for (size_t i = 0; i < l->n; i++) {
		free(l->list[i].text);
		free(l->list[i].command);
	}
	for (size_t i = 0; i < l->nlacks; i++)
		free(l->lacks[i].text);
	free(l->list);
	free(l->lacks);
	*l = (struct advice_list){ 0 };
}

const char *size_text(double bytes, char buf[SIZE_TEXT])
{
	if (bytes >= (double)GIB)
		snprintf(buf, SIZE_TEXT, "%.1f GiB", bytes / (double)GIB);
	else
		snprintf(buf, SIZE_TEXT, "%.0f MiB", bytes / (double)MIB);
	return buf;
}

static const char *days_text(double days)
{
	return (long)days == 1 ? "day" : "days";
}

/* Return the larger number; the other one if one is NAN. */
static double larger(double a, double b)
{
	return isnan(a) || b > a ? b : a;
}

/* ---- hours ---- */

size_t hours_known(const struct trend_view *v, enum trend_series s, size_t from)
{
	size_t n = 0;

	for (size_t i = from; i < v->npoints; i++)
		n += !isnan(trend_view_average(v, s, i));
	return n;
}

/* Return the greatest maximum of the points from `from` on; NAN: none is known. */
static double peak_of(const struct trend_view *v, enum trend_series s, size_t from)
{
	double peak = NAN;

	for (size_t i = from; i < v->npoints; i++)
		peak = larger(peak, trend_view_maximum(v, s, i));
	return peak;
}

double hours_mean(const struct trend_view *v, enum trend_series s, size_t from)
{
	double mean = 0;
	size_t n = 0;

	for (size_t i = from; i < v->npoints; i++)
		if (!isnan(trend_view_average(v, s, i)))
			mean += (trend_view_average(v, s, i) - mean) / (double)++n;
	return n ? mean : NAN;
}

size_t hours_last(const struct trend_view *v, size_t hours)
{
	return v->npoints - MIN(v->npoints, hours);
}

/* ---- idle VMs ---- */

static bool hour_is_idle(const struct trend_view *v, size_t i)
{
	return trend_view_average(v, TREND_CPU, i) <= IDLE_CPU_PERCENT &&
		trend_view_average(v, TREND_RD_REQS, i) + trend_view_average(v, TREND_WR_REQS, i) <= IDLE_REQUESTS &&
		trend_view_average(v, TREND_TX_PACKETS, i) <= IDLE_PACKETS;
}

enum day { DAY_UNKNOWN, DAY_BUSY, DAY_IDLE };

static enum day day_of(const struct trend_view *v, size_t end)
{
	unsigned known = 0, busy = 0;

	for (size_t i = end - DAY_HOURS; i < end; i++) {
		bool is_known = !isnan(trend_view_average(v, TREND_CPU, i));

		known += is_known;
		busy += is_known && !hour_is_idle(v, i);
	}
	return known < IDLE_DAY_KNOWN ? DAY_UNKNOWN : busy > IDLE_DAY_BUSY ? DAY_BUSY : DAY_IDLE;
}

static void reclaim_rule(const struct advice_vm *vm, double resident, struct advice_list *ret)
{
	struct advice *a;
	char size[SIZE_TEXT];

	if (!vm->may_reclaim || !(resident >= (double)RECLAIM_BYTES && resident >= RECLAIM_PART * (double)vm->ram_bytes))
		return;
	a = advice_add(ret, ADVICE_WASTE, "reclaim", "idle, and its process holds %s of memory; memory that the guest has not written since its last snapshot can be freed",
		size_text(resident, size));
	advice_figure(a, "memory", resident);
	advice_command(a, "cairn reclaim %s", shell_word(vm->name).s);
	a->apply = "vm-reclaim";
}

/* Returns whether the VM is idle. */
static bool idle_rule(const struct advice_vm *vm, struct advice_list *ret)
{
	const struct trend_view *v = vm->hours;
	enum day day = DAY_IDLE;
	size_t days = 0, from;
	double cpu, requests, packets, resident;
	struct advice *a;
	char size[SIZE_TEXT];

	while ((days + 1) * DAY_HOURS <= v->npoints && (day = day_of(v, v->npoints - days * DAY_HOURS)) == DAY_IDLE)
		days++;
	if (days < IDLE_DAYS) {
		if (day == DAY_UNKNOWN)
			advice_lacks(ret, "idle", "needs %d known hours in each of the last %d days", IDLE_DAY_KNOWN, IDLE_DAYS);
		return false;
	}
	from = v->npoints - days * DAY_HOURS;
	cpu = hours_mean(v, TREND_CPU, from);
	requests = hours_mean(v, TREND_RD_REQS, from) + hours_mean(v, TREND_WR_REQS, from);
	packets = hours_mean(v, TREND_TX_PACKETS, from);
	resident = hours_mean(v, TREND_MEMORY, hours_last(v, DAY_HOURS));
	a = advice_add(ret, ADVICE_WASTE, "idle", "idle for %zu days, with %.1f %% of a processor, %.2f disk requests and %.2f sent packets a second, and holds %s of memory",
		days, cpu, requests, packets, size_text(larger(resident, 0), size));
	advice_figure(a, "days", (double)days);
	advice_figure(a, "cpu", cpu);
	advice_figure(a, "requests", requests);
	advice_figure(a, "packets", packets);
	advice_figure(a, "memory", larger(resident, 0));
	advice_command(a, "cairn managedsave %s", shell_word(vm->name).s);
	reclaim_rule(vm, resident, ret);
	return true;
}

/* ---- unused resources ---- */

static void memory_rule(const struct advice_vm *vm, struct advice_list *ret)
{
	size_t from = hours_last(vm->hours, WEEK_HOURS);
	bool told = hours_known(vm->hours, TREND_USED, from) >= WEEK_KNOWN;
	double peak = peak_of(vm->hours, told ? TREND_USED : TREND_MEMORY, from), ram = (double)vm->ram_bytes, enough;
	struct advice *a;
	char size[SIZE_TEXT], all[SIZE_TEXT];

	if (!(peak < MEMORY_PART * ram && ram - peak >= (double)MEMORY_BYTES))
		return;
	enough = (double)ROUND_UP((uint64_t)(peak * ROOM), MEMORY_STEP);
	a = advice_add(ret, ADVICE_WASTE, "memory", told ? "programs took at most %s of %s of memory in the last 7 days" :
		"touched at most %s of %s of memory in the last 7 days", size_text(peak, size), size_text(ram, all));
	advice_figure(a, "peak", peak);
	advice_figure(a, "memory", ram);
	advice_figure(a, "enough", enough);
	advice_command(a, "cairn setmaxmem %s %.0fM", shell_word(vm->name).s, enough / (double)MIB);
}

static void vcpus_rule(const struct advice_vm *vm, struct advice_list *ret)
{
	double peak = peak_of(vm->hours, TREND_CPU, hours_last(vm->hours, WEEK_HOURS)) / 100;
	unsigned enough = peak < 1e6 ? (unsigned)(peak * ROOM) + 1 : UINT32_MAX;
	struct advice *a;

	if (isnan(peak) || enough > VCPUS_PART * vm->vcpus)
		return;
	a = advice_add(ret, ADVICE_WASTE, "vcpus", "kept at most %.1f of %u vCPUs busy in the last 7 days", peak, vm->vcpus);
	advice_figure(a, "peak", peak);
	advice_figure(a, "vcpus", vm->vcpus);
	advice_figure(a, "enough", enough);
	advice_command(a, "cairn setvcpus %s %u --config", shell_word(vm->name).s, enough);
}

/* ---- resources that run out ---- */

/* Return whether the values grow by more than chance, and still do so in the second half of the time. */
static bool grows(const double *x, const double *y, size_t n, const struct line_fit *all)
{
	struct line_fit late;

	return all->slope > GROWTH_ERRORS * all->error && line_fit(x + n / 2, y + n / 2, n - n / 2, &late) &&
		late.slope >= GROWTH_LATE_PART * all->slope;
}

/* Add the number of days left, with its lower and upper bound. */
static void days_left(struct advice *a, const struct line_fit *f, double room, double days)
{
	double slow = f->slope - 2 * f->error;

	advice_figure(a, "days", days);
	advice_figure(a, "days-early", larger(room, 0) / (f->slope + 2 * f->error));
	if (slow > 0)
		advice_figure(a, "days-late", larger(room, 0) / slow);
}

static void memory_growth_rule(const struct advice_vm *vm, struct advice_list *ret)
{
	const struct trend_view *v = vm->hours;
	size_t from = hours_last(v, WEEK_HOURS), n = v->npoints - from;
	double x[WEEK_HOURS], y[WEEK_HOURS], ram = (double)vm->ram_bytes, room, days;
	struct line_fit f;
	struct advice *a;
	char size[SIZE_TEXT];

	if (hours_known(v, TREND_USED, from) < WEEK_KNOWN) {
		advice_lacks(ret, "memory-growth", "needs %d hours of the last 7 days with the guest's memory statistics, and has %zu", WEEK_KNOWN,
			hours_known(v, TREND_USED, from));
		return;
	}
	for (size_t i = 0; i < n; i++) {
		x[i] = ((double)i - (double)n) / DAY_HOURS;
		y[i] = trend_view_average(v, TREND_USED, from + i);
	}
	if (!line_fit(x, y, n, &f) || !grows(x, y, n, &f) || f.slope * 7 < MEMORY_GROWTH_PART * ram)
		return;
	room = ram - line_fit_at(&f, 0);
	days = larger(room, 0) / f.slope;
	if (days > RUN_OUT_DAYS)
		return;
	a = advice_add(ret, ADVICE_RUN_OUT, "memory-growth", "the memory that programs take grows by %s a day, and all is taken in %.0f %s",
		size_text(f.slope, size), days, days_text(days));
	advice_figure(a, "growth", f.slope);
	days_left(a, &f, room, days);
	advice_command(a, "cairn setmaxmem %s %.0fM", shell_word(vm->name).s, ram * 1.5 / (double)MIB);
}

static void week_rules(const struct advice_vm *vm, struct advice_list *ret)
{
	size_t known = hours_known(vm->hours, TREND_CPU, hours_last(vm->hours, WEEK_HOURS));

	if (known < WEEK_KNOWN) {
		advice_lacks(ret, "memory", "needs %d known hours of the last 7 days, and has %zu", WEEK_KNOWN, known);
		advice_lacks(ret, "vcpus", "needs %d known hours of the last 7 days, and has %zu", WEEK_KNOWN, known);
		return;
	}
	memory_rule(vm, ret);
	vcpus_rule(vm, ret);
}

/* ---- VMs that are off, and their files ---- */

static double days_since(const struct advice_vm *vm, int64_t since_s)
{
	return since_s > 0 && vm->now_s > since_s ? (double)((vm->now_s - since_s) / DAY_S) : 0;
}

static void off_rule(const struct advice_vm *vm, struct advice_list *ret)
{
	double days = days_since(vm, vm->since_s);
	struct advice *a;
	char size[SIZE_TEXT];

	if (vm->saved && days >= SAVED_DAYS) {
		a = advice_add(ret, ADVICE_WASTE, "saved", "saved for %.0f days; the state takes disk space", days);
		advice_figure(a, "days", days);
		advice_command(a, "cairn managedsave-remove %s", shell_word(vm->name).s);
	} else if (!vm->saved && !vm->kept && days >= OFF_DAYS) {
		a = vm->made_bytes ? advice_add(ret, ADVICE_WASTE, "off", "off for %.0f days; Cairn made images of %s for it", days,
					     size_text((double)vm->made_bytes, size)) :
				     advice_add(ret, ADVICE_WASTE, "off", "off for %.0f days", days);
		advice_figure(a, "days", days);
		if (vm->made_bytes)
			advice_figure(a, "bytes", (double)vm->made_bytes);
		advice_command(a, "cairn undefine %s", shell_word(vm->name).s);
	}
}

static void overlay_rule(const struct advice_vm *vm, struct advice_list *ret)
{
	double days = days_since(vm, vm->defined_s);
	struct advice *a;

	if (!vm->overlay_disk || days < OVERLAY_DAYS)
		return;
	a = advice_add(ret, ADVICE_WASTE, "overlays", "disk %s is an overlay on %u %s that no other VM uses, for %.0f days or more", vm->overlay_disk,
		vm->overlays, vm->overlays == 1 ? "image" : "images", days);
	advice_figure(a, "images", vm->overlays);
	advice_figure(a, "days", days);
	advice_command(a, "cairn blockcommit %s %s%s", shell_word(vm->name).s, vm->overlay_disk, vm->runs ? " --pivot" : "");
}

void advice_of_snapshots(const char *vm, const struct advice_snapshot *s, size_t n, int64_t now_s, struct advice_list *ret)
{
	const struct advice_snapshot *oldest = NULL;
	double bytes = 0, days;
	unsigned old = 0;
	struct advice *a;
	char size[SIZE_TEXT];

	for (size_t i = 0; i < n; i++) {
		if (s[i].time_s <= 0 || now_s - s[i].time_s < SNAPSHOT_DAYS * DAY_S)
			continue;
		old++;
		bytes += (double)s[i].memory_bytes;
		if (!oldest || s[i].time_s < oldest->time_s)
			oldest = &s[i];
	}
	if (!old)
		return;
	days = (double)((now_s - oldest->time_s) / DAY_S);
	a = advice_add(ret, ADVICE_WASTE, "snapshots", "%u %s older than %d days, with %s of memory; the oldest is '%s', of %.0f days ago", old,
		old == 1 ? "snapshot is" : "snapshots are", SNAPSHOT_DAYS, size_text(bytes, size), oldest->name, days);
	advice_figure(a, "snapshots", old);
	advice_figure(a, "bytes", bytes);
	advice_figure(a, "days", days);
	advice_command(a, "cairn snapshot-delete %s %s", shell_word(vm).s, *oldest->name == '-' ? oldest->id : shell_word(oldest->name).s);
}

/* ---- all ---- */

void advice_of_vm(const struct advice_vm *vm, struct advice_list *ret)
{
	if (vm->runs && vm->hours) {
		if (!idle_rule(vm, ret))
			week_rules(vm, ret);
		advice_of_load(vm, ret);
		memory_growth_rule(vm, ret);
	} else if (vm->runs) {
		advice_lacks(ret, "idle", "the VM's trends cannot be read; `cairn trend %s` says why", shell_word(vm->name).s);
	}
	if (!vm->runs)
		off_rule(vm, ret);
	overlay_rule(vm, ret);
}

static void pool_full_rule(const char *name, const struct pool_history *h, struct advice_list *ret)
{
	const struct pool_point *last = &h->points[h->n - 1];
	double part = 100 * (double)last->used_bytes / (double)last->total_bytes;
	struct advice *a = advice_add(ret, ADVICE_RUN_OUT, "pool-space", "the file system is %.0f %% full", part);

	advice_figure(a, "used", (double)last->used_bytes);
	advice_figure(a, "total", (double)last->total_bytes);
	advice_command(a, "cairn vol-list %s --details", name);
}

void advice_of_pool(const char *name, const struct pool_history *h, bool low, struct advice_list *ret)
{
	const struct pool_point *last = h->n ? &h->points[h->n - 1] : NULL;
	struct line_fit f, late;
	double room, days;
	struct advice *a;
	char size[SIZE_TEXT];

	if (!last || !last->total_bytes || !pool_history_line(h, 7 * DAY_S, &f)) {
		advice_lacks(ret, "pool-space", "needs three looks at the pool in six hours");
		if (low && last)
			pool_full_rule(name, h, ret);
		return;
	}
	room = (double)last->total_bytes - (double)last->used_bytes;
	days = f.slope > 0 ? room / f.slope : INFINITY;
	if (!(f.slope > GROWTH_ERRORS * f.error && days <= RUN_OUT_DAYS) ||
		(pool_history_line(h, 7 * DAY_S / 2, &late) && late.slope < GROWTH_LATE_PART * f.slope)) {
		if (low)
			pool_full_rule(name, h, ret);
		return;
	}
	a = advice_add(ret, ADVICE_RUN_OUT, "pool-space", "the file system grows by %s a day, and is full in %.0f %s", size_text(f.slope, size), days,
		days_text(days));
	advice_figure(a, "growth", f.slope);
	advice_figure(a, "used", (double)last->used_bytes);
	advice_figure(a, "total", (double)last->total_bytes);
	days_left(a, &f, room, days);
	advice_command(a, "cairn vol-list %s --details", name);
}
