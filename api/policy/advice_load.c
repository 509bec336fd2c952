/* Rules about shortage and unusual load of a VM. */
#include "api/policy/advice_impl.h"
#include "base/shell_word.h"
#include "base/util.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* vCPUs that wait for this part of the time in which they could run are short of processors. */
#define WAIT_PART 0.2
#define WAIT_CPUS 0.1
#define WAIT_SPAN_S 60
/* Rules about the last hours need so many known ones. */
#define LATE_HOURS 6
#define LATE_KNOWN 5
#define BUSY_PART 0.9
#define TAKEN_PART 0.95
/* Advice names this multiple of the present size. */
#define MORE 1.5
/* The latency of now against that of the last weeks, without the last day. */
#define LATENCY_TIMES 3
#define LATENCY_QUANTILE 0.95
#define LATENCY_NS 2e6
#define LATENCY_KNOWN 72
#define LATENCY_REQUESTS 1
/* Unusual figures: compare an hour with the same hour of the last four weeks, the hour before and the hour after. */
#define WEEKS 4
#define WEEKS_KNOWN 3
/* So many seconds of the present hour have to be known; else the hour before is taken. */
#define HOUR_KNOWN_S 900
#define UNUSUAL_TIMES 2
#define UNUSUAL_PART 0.25
#define PRESSURE_PERCENT 10
/* Running VMs leave too little for another one if they keep such a part of the processors busy. */
#define CPUS_PART 0.9

/* ---- short ---- */

static void wait_rule(const struct advice_vm *vm, struct advice_list *ret)
{
	const struct advice_wait *w = &vm->wait;
	double part = w->waited_s / (w->waited_s + w->ran_s);
	struct advice *a;

	if (w->span_s < WAIT_SPAN_S) {
		advice_lacks(ret, "cpu-wait", "needs a minute of this daemon's samples");
		return;
	}
	if (!(part >= WAIT_PART && w->waited_s >= WAIT_CPUS * w->span_s))
		return;
	a = advice_add(ret, ADVICE_SHORT, "cpu-wait", "vCPUs waited for a processor in %.0f %% of the time that they could run, in the last %.0f s", 100 * part,
		w->span_s);
	advice_figure(a, "percent", 100 * part);
	advice_figure(a, "waited", w->waited_s / w->span_s);
	advice_figure(a, "ran", w->ran_s / w->span_s);
	advice_figure(a, "seconds", w->span_s);
	advice_command(a, "cairn top");
}

static void cpu_rule(const struct advice_vm *vm, struct advice_list *ret)
{
	size_t from = hours_last(vm->hours, LATE_HOURS);
	double all = 100.0 * vm->vcpus, limit = vm->cpu_quota && vm->cpu_quota < all ? vm->cpu_quota : all, mean = hours_mean(vm->hours, TREND_CPU, from);
	unsigned more = (unsigned)(vm->vcpus * MORE + 0.5);
	struct advice *a;

	if (hours_known(vm->hours, TREND_CPU, from) < LATE_KNOWN || !(mean >= BUSY_PART * limit))
		return;
	if (limit == all && more > vm->host_cpus)
		return; /* more vCPUs than the host has processors do not help */
	a = limit < all ? advice_add(ret, ADVICE_SHORT, "cpu", "used %.0f %% of a processor in the last %d hours, and its cpu_quota is %.0f %%", mean, LATE_HOURS, limit) :
			  advice_add(ret, ADVICE_SHORT, "cpu", "kept %.1f of %u vCPUs busy in the last %d hours", mean / 100, vm->vcpus, LATE_HOURS);
	advice_figure(a, "cpu", mean);
	advice_figure(a, "limit", limit);
	if (limit < all)
		advice_command(a, "cairn edit %s", shell_word(vm->name).s);
	else if (vm->max_vcpus > vm->vcpus)
		advice_command(a, "cairn setvcpus %s %u", shell_word(vm->name).s, MIN(more, vm->max_vcpus));
	else
		advice_command(a, "cairn setvcpus %s %u %s--config", shell_word(vm->name).s, more, vm->max_vcpus ? "--maximum " : "");
}

static void guest_memory_rule(const struct advice_vm *vm, struct advice_list *ret)
{
	size_t from = hours_last(vm->hours, LATE_HOURS);
	double used = hours_mean(vm->hours, TREND_USED, from), left = hours_mean(vm->hours, TREND_BALLOON, from), ram = (double)vm->ram_bytes;
	double all = left > 0 && left < ram ? left : ram;
	struct advice *a;
	char text[SIZE_TEXT], all_text[SIZE_TEXT];

	if (hours_known(vm->hours, TREND_USED, from) < LATE_KNOWN || !(used >= TAKEN_PART * all))
		return;
	a = advice_add(ret, ADVICE_SHORT, "guest-memory", "programs take %s of %s of memory, in the last %d hours", size_text(used, text),
		size_text(all, all_text), LATE_HOURS);
	advice_figure(a, "used", used);
	advice_figure(a, "memory", all);
	if (all < TAKEN_PART * ram)
		advice_command(a, "cairn setmem %s %.0fM", shell_word(vm->name).s, ram / (double)MIB);
	else
		advice_command(a, "cairn setmaxmem %s %.0fM", shell_word(vm->name).s, MORE * ram / (double)MIB);
}

/* A VM at the limit of its control group waits alone; host-memory tells if all wait. */
static void pressure_rule(const struct advice_vm *vm, struct advice_list *ret)
{
	struct advice *a;

	if (!(vm->pressure >= PRESSURE_PERCENT))
		return;
	a = advice_add(ret, ADVICE_SHORT, "memory-pressure", "threads of its process waited for memory in %.0f %% of the last five minutes", vm->pressure);
	advice_figure(a, "percent", vm->pressure);
	if (vm->may_reclaim)
		advice_command(a, "cairn reclaim %s", shell_word(vm->name).s);
	else
		advice_command(a, "cairn dominfo %s --sandbox", shell_word(vm->name).s);
	a->apply = vm->may_reclaim ? "vm-reclaim" : NULL;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/* Collect the known values before `end`, sorted. Returns their number. */
static size_t values_sorted(const struct trend_view *v, enum trend_series s, size_t end, double values[ADVICE_HOURS])
{
	size_t n = 0;

	for (size_t i = 0; i < end; i++)
		if (!isnan(trend_view_average(v, s, i)))
			values[n++] = trend_view_average(v, s, i);
	qsort(values, n, sizeof(*values), by_value);
	return n;
}

static void latency_rule(const struct advice_vm *vm, bool writes, struct advice_list *ret)
{
	const struct trend_view *v = vm->hours;
	enum trend_series s = writes ? TREND_WR_LATENCY : TREND_RD_LATENCY, reqs = writes ? TREND_WR_REQS : TREND_RD_REQS;
	size_t from = hours_last(v, 2), n;
	double values[ADVICE_HOURS], now = hours_mean(v, s, from), usual, most;
	struct advice *a;

	if (!(hours_mean(v, reqs, from) >= LATENCY_REQUESTS) || isnan(now))
		return;
	n = values_sorted(v, s, hours_last(v, DAY_HOURS + 2), values);
	if (n < LATENCY_KNOWN) {
		advice_lacks(ret, "latency", "needs %d hours with disk %s before the last day, and has %zu", LATENCY_KNOWN, writes ? "writes" : "reads", n);
		return;
	}
	usual = values[n / 2];
	most = values[(size_t)((double)(n - 1) * LATENCY_QUANTILE)];
	if (!(now >= LATENCY_TIMES * usual && now > most && now - usual >= LATENCY_NS))
		return;
	a = advice_add(ret, ADVICE_SHORT, "latency", "a disk %s takes %.1f ms now, usually %.1f, and at most %.1f in 95 of 100 hours", writes ? "write" : "read",
		now / 1e6, usual / 1e6, most / 1e6);
	advice_figure(a, "now", now / 1e9);
	advice_figure(a, "usual", usual / 1e9);
	advice_figure(a, "most", most / 1e9);
	advice_figure(a, "hours", (double)n);
	advice_command(a, "cairn trend %s rd-latency wr-latency rd-bytes wr-bytes --last 1w", shell_word(vm->name).s);
}

/* ---- unusual ---- */

/* A figure that is the sum of up to two series. */
struct figure {
	const char *rule, *name, *series; /* name: for the text; series: for the command */
	enum trend_series a, b;	   /* b: as a: there is one series */
	double least;		   /* smaller differences are not reported */
	double unit;
	const char *unit_text;
};

static double figure_at(const struct trend_view *v, const struct figure *f, size_t i)
{
	double value = trend_view_average(v, f->a, i);

	return f->b == f->a ? value : value + trend_view_average(v, f->b, i);
}

/* Find the extremes of the hours around hour i of the past weeks. Returns in how many weeks hour i is known. */
static unsigned usual_find(const struct trend_view *v, const struct figure *f, size_t i, double *ret_low, double *ret_high)
{
	unsigned weeks = 0;

	*ret_low = INFINITY;
	*ret_high = -INFINITY;
	for (size_t week = 1; week <= WEEKS && i >= week * WEEK_HOURS + 1; week++) {
		size_t at = i - week * WEEK_HOURS;

		weeks += !isnan(figure_at(v, f, at));
		for (size_t k = at - 1; k <= at + 1; k++) {
			double value = figure_at(v, f, k);

			if (value < *ret_low)
				*ret_low = value;
			if (value > *ret_high)
				*ret_high = value;
		}
	}
	return weeks;
}

static void unusual_rule(const struct advice_vm *vm, const struct figure *f, size_t i, struct advice_list *ret)
{
	double now = figure_at(vm->hours, f, i), low, high;
	struct advice *a;
	bool more, less;

	if (isnan(now) || usual_find(vm->hours, f, i, &low, &high) < WEEKS_KNOWN)
		return;
	more = now >= UNUSUAL_TIMES * high && now - high >= f->least;
	less = now <= UNUSUAL_PART * low && low - now >= f->least;
	if (!more && !less)
		return;
	a = advice_add(ret, ADVICE_UNUSUAL, f->rule, "%s: %.1f %s, in this hour of the past weeks %.1f to %.1f", f->name, now / f->unit, f->unit_text,
		low / f->unit, high / f->unit);
	advice_figure(a, "now", now);
	advice_figure(a, "low", low);
	advice_figure(a, "high", high);
	advice_command(a, "cairn trend %s %s --last 1d", shell_word(vm->name).s, f->series);
}

static void unusual_rules(const struct advice_vm *vm, struct advice_list *ret)
{
	static const struct figure figures[] = {
		{ "unusual-cpu", "cpu", "cpu", TREND_CPU, TREND_CPU, 20, 1, "% of a processor" },
		{ "unusual-memory", "memory taken", "used", TREND_USED, TREND_USED, 256 * (double)MIB, (double)MIB, "MiB" },
		{ "unusual-disk", "disk", "rd-bytes wr-bytes", TREND_RD_BYTES, TREND_WR_BYTES, (double)MIB, (double)MIB, "MiB/s" },
		{ "unusual-net", "network", "rx-bytes tx-bytes", TREND_RX_BYTES, TREND_TX_BYTES, (double)MIB, (double)MIB, "MiB/s" },
	};
	const struct trend_view *v = vm->hours;
	size_t i = v->npoints - 1;
	double low, high;

	if (v->points[TREND_CPU * v->npoints + i].weight < HOUR_KNOWN_S)
		i--;
	if (usual_find(v, &figures[0], i, &low, &high) < WEEKS_KNOWN)
		advice_lacks(ret, "unusual", "needs this hour of three of the last four weeks");
	for (size_t k = 0; k < ARRAY_SIZE(figures); k++)
		unusual_rule(vm, &figures[k], i, ret);
}

void advice_of_load(const struct advice_vm *vm, struct advice_list *ret)
{
	wait_rule(vm, ret);
	cpu_rule(vm, ret);
	guest_memory_rule(vm, ret);
	pressure_rule(vm, ret);
	latency_rule(vm, false, ret);
	latency_rule(vm, true, ret);
	unusual_rules(vm, ret);
}

void advice_of_host(double pressure, const char *holder, double bytes, struct advice_list *ret)
{
	struct advice *a;
	char size[SIZE_TEXT];

	if (!(pressure >= PRESSURE_PERCENT))
		return;
	a = holder ? advice_add(ret, ADVICE_SHORT, "host-memory", "threads waited for memory in %.0f %% of the last five minutes; VM '%s' holds most of it, %s", pressure,
			     holder, size_text(bytes, size)) :
		     advice_add(ret, ADVICE_SHORT, "host-memory", "threads waited for memory in %.0f %% of the last five minutes", pressure);
	advice_figure(a, "percent", pressure);
	if (holder)
		advice_figure(a, "held", bytes);
	advice_command(a, "cairn reclaim --all");
}

/* ---- before a start ---- */

void advice_of_refusal(const char *name, const char *sentence, struct advice_list *ret)
{
	advice_command(advice_add(ret, ADVICE_SHORT, "start", "cannot start: %s", sentence), "cairn start %s --dry-run", shell_word(name).s);
}

static void start_memory_rule(const struct advice_start *s, struct advice_list *ret)
{
	struct advice *a;
	char needs[SIZE_TEXT], has[SIZE_TEXT], held[SIZE_TEXT];

	if (!s->available_bytes || s->ram_bytes <= s->available_bytes)
		return;
	size_text((double)s->ram_bytes, needs);
	size_text((double)s->available_bytes, has);
	a = s->holder ? advice_add(ret, ADVICE_SHORT, "start-memory", "the VM has %s of memory, and the host has %s available; VM '%s' holds most, %s", needs, has,
				s->holder, size_text((double)s->held_bytes, held)) :
			advice_add(ret, ADVICE_SHORT, "start-memory", "the VM has %s of memory, and the host has %s available", needs, has);
	advice_figure(a, "memory", (double)s->ram_bytes);
	advice_figure(a, "available", (double)s->available_bytes);
	if (s->holder)
		advice_figure(a, "held", (double)s->held_bytes);
	if (s->holder)
		advice_command(a, "cairn managedsave %s", shell_word(s->holder).s);
	else
		advice_command(a, "cairn setmaxmem %s %.0fM", shell_word(s->name).s, (double)(s->available_bytes / MIB));
}

static void start_disk_rule(const struct advice_start *s, struct advice_list *ret)
{
	struct advice *a;
	const char *kind = s->pool ? "pool" : "folder", *place = s->pool ? s->pool : s->folder;
	char size[SIZE_TEXT], held[SIZE_TEXT];
	uint64_t room;

	if (!s->disk)
		return;
	room = s->space->total_bytes - MIN(s->space->used_bytes, s->space->total_bytes);
	size_text((double)room, size);
	a = s->disk_holder ? advice_add(ret, ADVICE_SHORT, "start-disk", "disk %s is in %s '%s', whose file system has %s left; images of VM '%s' hold most, %s",
				     s->disk, kind, place, size, s->disk_holder, size_text((double)s->disk_held, held)) :
			     advice_add(ret, ADVICE_SHORT, "start-disk", "disk %s is in %s '%s', whose file system has %s left", s->disk, kind, place, size);
	if (s->disk_holder)
		advice_figure(a, "held", (double)s->disk_held);
	advice_figure(a, "left", (double)room);
	advice_figure(a, "total", (double)s->space->total_bytes);
	if (s->pool)
		advice_command(a, "cairn vol-list %s --details", s->pool);
	else if (*s->folder)
		advice_command(a, "df -h %s", shell_word(s->folder).s);
	else
		advice_command(a, "df -h");
}

static void start_vcpus_rule(const struct advice_start *s, struct advice_list *ret)
{
	struct advice *a;

	if (s->vcpus <= s->host_cpus)
		return;
	a = advice_add(ret, ADVICE_SHORT, "start-vcpus", "the VM has %u vCPUs, and the host has %u %s", s->vcpus, s->host_cpus,
		s->host_cpus == 1 ? "processor" : "processors");
	advice_figure(a, "vcpus", s->vcpus);
	advice_figure(a, "processors", s->host_cpus);
	advice_command(a, "cairn setvcpus %s %u --config", shell_word(s->name).s, s->host_cpus);
}

/* More vCPUs than processors get a rule of their own. */
static void start_cpu_rule(const struct advice_start *s, struct advice_list *ret)
{
	struct advice *a;

	if (!s->busy_name || s->busy_cpus < CPUS_PART * s->host_cpus)
		return;
	a = advice_add(ret, ADVICE_SHORT, "start-cpu", "running VMs keep %.1f of %u %s busy; VM '%s' most, %.1f", s->busy_cpus, s->host_cpus,
		s->host_cpus == 1 ? "processor" : "processors", s->busy_name, s->busy_most);
	advice_figure(a, "busy", s->busy_cpus);
	advice_figure(a, "processors", s->host_cpus);
	advice_figure(a, "held", s->busy_most);
	advice_command(a, "cairn top");
}

void advice_of_start(const struct advice_start *s, struct advice_list *ret)
{
	start_memory_rule(s, ret);
	start_disk_rule(s, ret);
	start_vcpus_rule(s, ret);
	start_cpu_rule(s, ret);
}
