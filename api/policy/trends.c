#include "api/policy/trends.h"
#include "api/policy/thresholds.h"
#include "api/policy/vm_space.h"
#include "api/store/store.h"
#include "api/store/trend_file.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_figures.h"
#include "api/vm/vm_process.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SAMPLE_NS CLOCK_NS_PER_S
/* Number of rows with which a VM's file is written, and the time after which it is tried again. */
#define WRITE_ROWS 60
#define RETRY_NS (60 * CLOCK_NS_PER_S)
/* Resident memory changes slowly, and takes three system calls to read. */
#define RESIDENT_NS (10 * CLOCK_NS_PER_S)
/* Waiting of vCPUs takes some system calls for each vCPU to read. The first time comes later, so that starts of many
 * VMs do without. */
#define WAITED_NS (300 * CLOCK_NS_PER_S)
#define WAITED_FIRST_NS (60 * CLOCK_NS_PER_S)
/* In one sample, this is read of so many VMs of n, so that the loop is not held up when many are due. */
#define WAITED_VMS(n) (4 + (n) / 256)
#define CPUS_S 60
/* The clock was set if it differs by more than so many seconds from the monotonic clock between two samples. */
#define CLOCK_TOLERANCE_S 1.0

struct trends {
	struct loop_timer *timer;
	bool armed;
	struct trend_read *waiting; /* oldest first */
	bool reads; /* the store's thread has a read */
	bool ends; /* trends_finish() was called */
	size_t waited_left; /* see WAITED_VMS */
};

/* The counters of the last sample. */
struct sampled {
	bool valid;
	pid_t pid;
	uint64_t at_ns; /* CLOCK_MONOTONIC */
	uint32_t time;	/* in seconds since 1970 */
	uint64_t cpu_ns;
	struct vm_sums sums;
};

/* How long the vCPUs' threads had run, and waited for a processor, at one time. */
struct waited {
	pid_t pid; /* of the process; 0: nothing is known */
	uint64_t at_ns, ran_ns, waited_ns;
};

struct vm_trend {
	struct trend_recorder recorder;
	struct sampled last;
	uint64_t resident_bytes, resident_at_ns, resident_cpu_ns;
	double cpus, cpus_s; /* average of the processors that the process kept busy in about the last CPUS_S seconds, and of how many it is */
	struct waited waited[2]; /* WAITED_NS apart, the newer one first */
	uint64_t waited_due_ns;
	struct trend_write *write; /* under way; NULL: none */
	uint64_t retry_ns;	   /* after a failed write, none before this time */
	bool failed;		   /* the failure is in the log */
};

/* The store's thread has one read at a time, so that other users' changes, which it writes, wait for one at most. */
struct trend_read {
	struct store_work work;
	struct trend_read *next;
	struct vm *vm; /* while it waits; NULL: removed meanwhile */
	struct vm_host *host;
	char path[PATH_MAX];
	uint32_t from, step_s;
	size_t npoints;
	struct trend_rows newest[TREND_RANGES]; /* not in the file yet */
	struct trend_view view;
	int r;
	struct err e;
	void (*done)(void *opaque, const struct trend_view *v, const struct err *e);
	void *opaque;
};

/* ---- writing ---- */

struct trend_write {
	struct store_work work;
	struct vm *vm; /* NULL: removed meanwhile */
	char path[PATH_MAX];
	struct trend_rows rows[TREND_RANGES];
	int r;
	struct err e;
};

/* On the store's thread. */
static void write_run(struct store_work *w)
{
	struct trend_write *t = container_of(w, struct trend_write, work);
	int fd = trend_file_open(t->path, true, &t->e);

	t->r = fd < 0 ? fd : trend_file_append(fd, t->rows, &t->e);
	if (fd >= 0)
		close(fd);
}

static void write_begin(struct vm *vm);

static void write_free(struct trend_write *t)
{
	for (unsigned i = 0; i < TREND_RANGES; i++)
		trend_rows_done(&t->rows[i]);
	free(t);
}

/* Put rows that could not be written before those that came meanwhile. */
static void rows_return(struct trend_rows *to, struct trend_rows *rows)
{
	for (size_t i = 0; i < to->n; i++)
		trend_rows_add(rows, &to->list[i], SIZE_MAX);
	trend_rows_done(to);
	*to = *rows;
	*rows = (struct trend_rows){ 0 };
}

static void write_done(struct store_work *w)
{
	struct trend_write *t = container_of(w, struct trend_write, work);
	struct vm_trend *v = t->vm ? t->vm->trend : NULL;

	if (v) {
		v->write = NULL;
		if (t->r < 0 && !v->failed)
			log_warn("trends", "VM '%s': %s", t->vm->def->name, t->e.msg);
		v->failed = t->r < 0;
		v->retry_ns = t->r < 0 ? loop_now_ns() + RETRY_NS : 0;
		for (unsigned i = 0; t->r < 0 && t->r != -ENOTSUP && i < TREND_RANGES; i++)
			rows_return(&v->recorder.closed[i], &t->rows[i]);
		if (t->r == 0 && t->vm->host->trends->ends)
			write_begin(t->vm);
	}
	write_free(t);
}

static void write_begin(struct vm *vm)
{
	struct vm_trend *v = vm->trend;
	struct trend_write *t;
	size_t n = 0;
	int r;

	for (unsigned i = 0; i < TREND_RANGES; i++)
		n += v->recorder.closed[i].n;
	if (!n || v->write)
		return;
	t = must_alloc(calloc(1, sizeof(*t)));
	t->work = (struct store_work){ .done = write_done, .run = write_run, .loop = vm->host->loop };
	t->vm = vm;
	for (unsigned i = 0; i < TREND_RANGES; i++) {
		t->rows[i] = v->recorder.closed[i];
		v->recorder.closed[i] = (struct trend_rows){ 0 };
	}
	v->write = t;
	/* From here on, the store's thread may set t->r. */
	r = store_run(vm->host->store, vm->def->name, STORE_TRENDS, t->path, sizeof(t->path), &t->work, &t->e);
	if (r < 0) {
		t->r = r;
		write_done(&t->work);
	}
}

/* ---- sampling ---- */

static double rate(uint64_t now, uint64_t before, double seconds)
{
	return now > before ? (double)(now - before) / seconds : 0; /* a detached device takes its counters with it */
}

/* Round a number that is not negative. */
static uint64_t whole(double v)
{
	return v < 1e18 ? (uint64_t)(v + 0.5) : (uint64_t)1e18;
}

static double latency(uint64_t ns, uint64_t ns_before, uint64_t reqs, uint64_t reqs_before)
{
	return reqs > reqs_before && ns >= ns_before ? (double)(ns - ns_before) / (double)(reqs - reqs_before) : NAN;
}

/* Compute the values of the time between two samples. */
static void values_of(const struct vm_trend *v, const struct sampled *now, double seconds, float values[TREND_SERIES])
{
	const struct vm_sums *a = &v->last.sums, *b = &now->sums;
	uint64_t cpu = now->pid == v->last.pid ? v->last.cpu_ns : 0; /* a successor's time begins at 0 */

	/* To a tenth of a percent, so that the rows of a VM that does next to nothing are equal. */
	values[TREND_CPU] = (float)((double)whole(rate(now->cpu_ns, cpu, seconds) / 1e6) / 10);
	values[TREND_MEMORY] = v->resident_bytes ? (float)v->resident_bytes : NAN;
	values[TREND_USED] = b->used_bytes ? (float)b->used_bytes : NAN;
	values[TREND_BALLOON] = b->guest_bytes ? (float)b->guest_bytes : NAN;
	values[TREND_RD_BYTES] = (float)rate(b->rd_bytes, a->rd_bytes, seconds);
	values[TREND_WR_BYTES] = (float)rate(b->wr_bytes, a->wr_bytes, seconds);
	values[TREND_RD_REQS] = (float)rate(b->rd_reqs, a->rd_reqs, seconds);
	values[TREND_WR_REQS] = (float)rate(b->wr_reqs, a->wr_reqs, seconds);
	values[TREND_RD_LATENCY] = (float)latency(b->rd_ns, a->rd_ns, b->rd_reqs, a->rd_reqs);
	values[TREND_WR_LATENCY] = (float)latency(b->wr_ns, a->wr_ns, b->wr_reqs, a->wr_reqs);
	values[TREND_IO_ERRORS] = (float)rate(b->io_errors, a->io_errors, seconds);
	values[TREND_RX_BYTES] = (float)rate(b->rx_bytes, a->rx_bytes, seconds);
	values[TREND_TX_BYTES] = (float)rate(b->tx_bytes, a->tx_bytes, seconds);
	values[TREND_RX_PACKETS] = (float)rate(b->rx_packets, a->rx_packets, seconds);
	values[TREND_TX_PACKETS] = (float)rate(b->tx_packets, a->tx_packets, seconds);
}

/* Return the number of seconds that a sample stands for; 0: wait for the next one. */
static uint32_t span_of(const struct sampled *last, const struct sampled *now, double seconds)
{
	double span = (double)now->time - (double)last->time;

	if (span - seconds <= CLOCK_TOLERANCE_S && seconds - span <= CLOCK_TOLERANCE_S)
		return (uint32_t)MAX(span, 0);
	return (uint32_t)MIN(MAX(whole(seconds), 1U), UINT32_MAX); /* the clock was set */
}

static void resident_read(struct vm *vm, const struct sampled *now)
{
	struct vm_trend *v = vm->trend;

	if (v->resident_bytes && (now->at_ns < v->resident_at_ns + RESIDENT_NS || now->cpu_ns == v->resident_cpu_ns))
		return;
	v->resident_bytes = vm_figures_resident(vm->proc);
	v->resident_at_ns = now->at_ns;
	v->resident_cpu_ns = now->cpu_ns;
}

static void waited_read(struct vm *vm, struct waited *ret)
{
	struct vm_figures f;

	*ret = (struct waited){ 0 };
	if (!vm_figures_read(vm->proc, &f))
		return;
	ret->pid = vm_process_pid(vm->proc);
	ret->at_ns = clock_monotonic_ns();
	for (unsigned i = 0; i < f.info.vcpus; i++) {
		ret->ran_ns += f.info.vcpu_ns[i];
		ret->waited_ns += f.vcpu_delay_ns[i];
	}
}

static void waited_sample(struct vm *vm, const struct sampled *now)
{
	struct vm_trend *v = vm->trend;

	if (!v->last.valid || v->last.pid != now->pid) {
		v->waited_due_ns = now->at_ns + WAITED_FIRST_NS;
		return;
	}
	if (now->at_ns < v->waited_due_ns || !vm->host->trends->waited_left)
		return;
	vm->host->trends->waited_left--;
	v->waited[1] = v->waited[0];
	waited_read(vm, &v->waited[0]);
	v->waited_due_ns = now->at_ns + WAITED_NS;
}

bool trends_waited(struct vm *vm, struct trends_waited *ret)
{
	const struct vm_trend *v = vm->trend;
	struct waited now;

	if (!v || !vm->proc)
		return false;
	waited_read(vm, &now);
	for (int i = 1; now.pid && i >= 0; i--) {
		const struct waited *then = &v->waited[i];

		/* vCPUs that left have taken their times with them. */
		if (then->pid != now.pid || now.at_ns <= then->at_ns || now.ran_ns < then->ran_ns || now.waited_ns < then->waited_ns)
			continue;
		ret->span_s = (double)(now.at_ns - then->at_ns) / CLOCK_NS_PER_S;
		ret->ran_s = (double)(now.ran_ns - then->ran_ns) / CLOCK_NS_PER_S;
		ret->waited_s = (double)(now.waited_ns - then->waited_ns) / CLOCK_NS_PER_S;
		return true;
	}
	return false;
}

double trends_cpus(const struct vm *vm)
{
	return vm->trend ? vm->trend->cpus : 0;
}

uint64_t trends_resident(const struct vm *vm)
{
	return vm->trend ? vm->trend->resident_bytes : 0;
}

/* Compare the sample with the VM's thresholds. */
static void sample_compare(struct vm *vm, const struct sampled *now, const float values[TREND_SERIES], double seconds)
{
	struct threshold_figures f = { .seconds = seconds };
	const struct vm_sums *a = &vm->trend->last.sums, *b = &now->sums;
	double resident = (double)vm->trend->resident_bytes;

	f.values[THRESHOLD_CPU] = (double)values[TREND_CPU] / MAX(vm_live(vm)->vcpus, 1U);
	f.values[THRESHOLD_MEMORY] = b->total_bytes ? 100 * (double)b->used_bytes / (double)b->total_bytes :
		resident > 0 ? 100 * resident / (double)vm_live(vm)->ram_bytes : NAN;
	f.values[THRESHOLD_DISK_SPACE] = NAN;
	f.values[THRESHOLD_LATENCY] = latency(b->rd_ns + b->wr_ns, a->rd_ns + a->wr_ns, b->rd_reqs + b->wr_reqs, a->rd_reqs + a->wr_reqs);
	f.values[THRESHOLD_IO_ERRORS] = (double)values[TREND_IO_ERRORS];
	f.values[THRESHOLD_NET] = (double)values[TREND_RX_BYTES] + (double)values[TREND_TX_BYTES];
	thresholds_update(vm, &f);
}

static void vm_sample(struct vm *vm, struct sampled *now)
{
	struct vm_trend *v = vm->trend;
	float values[TREND_SERIES];
	double seconds;
	uint32_t span;

	if (!vm_figures_sums(vm->proc, &now->sums) || !vm_figures_cpu(vm->proc, &now->cpu_ns))
		return;
	if (!v)
		v = vm->trend = must_alloc(calloc(1, sizeof(*v)));
	now->pid = vm_process_pid(vm->proc);
	now->valid = true;
	resident_read(vm, now);
	waited_sample(vm, now);
	vm_space_update(vm, &now->sums, now->at_ns);
	if (v->last.valid) {
		seconds = (double)(now->at_ns - v->last.at_ns) / CLOCK_NS_PER_S;
		span = seconds > 0 ? span_of(&v->last, now, seconds) : 0;
		if (!span)
			return;
		values_of(v, now, seconds, values);
		trend_record(&v->recorder, now->time, span, values);
		v->cpus_s = MIN(v->cpus_s + seconds, CPUS_S);
		v->cpus += ((double)values[TREND_CPU] / 100 - v->cpus) * MIN(seconds / v->cpus_s, 1);
		sample_compare(vm, now, values, seconds);
	}
	v->last = *now;
	if (v->recorder.closed[TREND_SECONDS].n >= WRITE_ROWS && now->at_ns >= v->retry_ns)
		write_begin(vm);
}

static void sample_later(struct vm_host *host)
{
	/* At whole seconds of the clock, so that the daemon's timers fire together. */
	loop_timer_arm(host->trends->timer, ROUND_UP(loop_now_ns() + 1, SAMPLE_NS));
	host->trends->armed = true;
}

static void sample_all(void *opaque)
{
	struct vm_host *host = opaque;
	struct sampled now = { .at_ns = clock_monotonic_ns(), .time = (uint32_t)((clock_realtime_ns() + SAMPLE_NS / 2) / SAMPLE_NS) };
	bool any = false;

	host->trends->waited_left = WAITED_VMS(host->nvms);
	for (size_t i = 0; i < host->nvms; i++) {
		struct vm *vm = host->vms[i];

		if (!vm->proc)
			continue;
		any = true;
		if (vm_state_is_active(vm->state))
			vm_sample(vm, &now);
	}
	host->trends->armed = false;
	if (any) {
		vm_spaces_update(host, now.at_ns);
		sample_later(host);
	}
}

/* ---- a VM's life ---- */

static struct trends *trends_of(struct vm_host *host)
{
	if (!host->trends) {
		host->trends = must_alloc(calloc(1, sizeof(*host->trends)));
		if (loop_timer_new(host->loop, sample_all, host, &host->trends->timer) < 0)
			abort();
	}
	return host->trends;
}

static void trends_on_started(struct vm *vm)
{
	if (!trends_of(vm->host)->armed)
		sample_later(vm->host);
}

static void trends_on_adopted(struct vm *vm, const struct vm_info *info)
{
	(void)info;
	trends_on_started(vm);
}

static void trends_on_process_gone(struct vm *vm)
{
	struct vm_trend *v = vm->trend;

	if (!v)
		return;
	v->last.valid = false;
	v->resident_bytes = 0;
	v->cpus = v->cpus_s = 0;
	trend_record_pause(&v->recorder);
	write_begin(vm);
}

static void trends_on_removed(struct vm *vm)
{
	struct vm_trend *v = vm->trend;

	for (struct trend_read *t = vm->host->trends ? vm->host->trends->waiting : NULL; t; t = t->next)
		if (t->vm == vm)
			t->vm = NULL;
	if (!v)
		return;
	if (v->write)
		v->write->vm = NULL;
	trend_recorder_done(&v->recorder);
	free(v);
	vm->trend = NULL;
}

const struct vm_observer trends_observer = { .removed = trends_on_removed, .started = trends_on_started, .adopted = trends_on_adopted,
	.process_gone = trends_on_process_gone };

void trends_finish(struct vm_host *host)
{
	if (!host->trends)
		return;
	host->trends->ends = true;
	for (size_t i = 0; i < host->nvms; i++) {
		if (!host->vms[i]->trend)
			continue;
		trend_record_end(&host->vms[i]->trend->recorder);
		write_begin(host->vms[i]);
	}
}

void trends_free(struct vm_host *host)
{
	if (host->trends)
		loop_timer_free(host->trends->timer);
	free(host->trends);
	host->trends = NULL;
}

/* ---- questions ---- */

/* Read the rows of all ranges. rows: TREND_RANGES lists, filled as far as possible. */
static int rows_read(struct trend_read *t, struct trend_rows *rows)
{
	uint32_t to = (uint32_t)MIN(t->from + (uint64_t)t->npoints * t->step_s, UINT32_MAX);
	int fd = trend_file_open(t->path, false, &t->e), r = fd < 0 ? fd : 0;

	for (enum trend_range i = TREND_SECONDS; !r && i < TREND_RANGES; i++)
		r = trend_file_read(fd, i, t->from, to, &rows[i], &t->e);
	if (fd >= 0)
		close(fd);
	return r == -ENOENT ? 0 : r;
}

/* On the store's thread. */
static void read_run(struct store_work *w)
{
	struct trend_read *t = container_of(w, struct trend_read, work);
	struct trend_rows rows[TREND_RANGES] = { { 0 } };

	t->r = rows_read(t, rows);
	for (unsigned i = 0; !t->r && i < TREND_RANGES; i++)
		for (size_t k = 0; k < t->newest[i].n; k++)
			trend_rows_paint(&rows[i], &t->newest[i].list[k], trend_steps[i].step_s);
	if (!t->r)
		trend_view_make(&t->view, t->from, t->step_s, t->npoints, rows);
	for (unsigned i = 0; i < TREND_RANGES; i++)
		trend_rows_done(&rows[i]);
}

static void read_free(struct trend_read *t)
{
	for (unsigned i = 0; i < TREND_RANGES; i++)
		trend_rows_done(&t->newest[i]);
	trend_view_done(&t->view);
	free(t);
}

static void read_end(struct trend_read *t)
{
	t->done(t->opaque, t->r < 0 ? NULL : &t->view, t->r < 0 ? &t->e : NULL);
	read_free(t);
}

/* Copy the rows that no write has begun with; the rows of a write that is under way are in the file before. */
static void newest_copy(const struct vm_trend *v, struct trend_rows newest[TREND_RANGES])
{
	for (unsigned i = 0; v && i < TREND_RANGES; i++) {
		const struct trend_rows *closed = &v->recorder.closed[i];

		for (size_t k = 0; k < closed->n; k++)
			trend_rows_add(&newest[i], &closed->list[k], SIZE_MAX);
		if (v->recorder.open[i].span)
			trend_rows_add(&newest[i], &v->recorder.open[i], SIZE_MAX);
	}
}

static void read_next(struct vm_host *host);

static void read_done(struct store_work *w)
{
	struct trend_read *t = container_of(w, struct trend_read, work);
	struct vm_host *host = t->host;

	host->trends->reads = false;
	read_end(t);
	read_next(host);
}

static int read_begin(struct trend_read *t)
{
	newest_copy(t->vm->trend, t->newest);
	return store_run(t->host->store, t->vm->def->name, STORE_TRENDS, t->path, sizeof(t->path), &t->work, &t->e);
}

static void read_next(struct vm_host *host)
{
	struct trends *all = host->trends;
	struct trend_read *t;

	while (!all->reads && (t = all->waiting)) {
		int r;

		all->waiting = t->next;
		r = t->vm ? read_begin(t) : err_set(&t->e, -ENOENT, ERR_NOT_FOUND, "the VM was removed meanwhile");
		all->reads = !r;
		if (!r)
			continue; /* from now on, t->r belongs to read_run() on the other thread */
		t->r = r;
		read_end(t);
	}
}

void trends_query(struct vm *vm, uint32_t from, uint32_t step_s, size_t npoints,
	void (*done)(void *opaque, const struct trend_view *v, const struct err *e), void *opaque)
{
	struct trend_read *t = must_alloc(calloc(1, sizeof(*t))), **at = &trends_of(vm->host)->waiting;

	t->work = (struct store_work){ .done = read_done, .run = read_run, .loop = vm->host->loop };
	t->from = from;
	t->step_s = step_s;
	t->npoints = npoints;
	t->done = done;
	t->opaque = opaque;
	t->vm = vm;
	t->host = vm->host;
	while (*at)
		at = &(*at)->next;
	*at = t;
	read_next(vm->host);
}
