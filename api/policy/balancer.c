#include "api/policy/balancer.h"
#include "api/access/authors.h"
#include "api/policy/balance.h"
#include "api/schema/schema.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_cgroup.h"
#include "api/vm/vm_figures.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/memory_pressure.h"
#include "base/util.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NS CLOCK_NS_PER_S
#define INTERVAL_NS (5 * NS)
#define SET_TIMEOUT_NS (20 * NS)
/* A VM whose process takes less than this part of a processor in so many intervals is idle. */
#define IDLE_CPUS 0.01
#define IDLE_INTERVALS 3
/* How often guests send statistics, unless their users have chosen that, and how long these count. */
#define PERIOD_S 10
#define STATS_S 60
/* Of each VM and resource, BALANCE_CHANGE comes at most once in this time. */
#define EMIT_NS (60 * NS)
#define MEMINFO "/proc/meminfo"
#define STAT_AVAILABLE 6 /* as in enum balloon_stat (devices/virtio/virtio_balloon.h) */

enum resource { CPU, MEMORY, RESOURCES };

struct change {
	const char *reason; /* of the last change; NULL: there was none */
	uint64_t now;
	uint64_t told; /* the value of the last event */
	uint64_t told_ns; /* 0: there was no event yet */
};

/* Of a VM that runs with bounds. */
struct vm_balance {
	pid_t pid; /* of the process to which the other members belong; 0: none */
	uint64_t at_ns, cpu_ns;
	unsigned idle; /* number of intervals */
	bool rests;    /* it is idle, and its guest sends no statistics because of the balancer */
	uint64_t ran_ns, waited_ns, waits_at_ns; /* of the vCPUs, when they were last read; waits_at_ns 0: never */
	struct balance_cpu cpu;
	uint32_t weight;    /* written or read last */
	const char *lack;   /* why its weight does not change; NULL: it does */
	uint64_t target;    /* of the balloon; 0: not known */
	bool asking;	    /* a request to the balloon is under way */
	struct change changes[RESOURCES];
};

struct balancer {
	struct loop_timer *timer;
	bool armed;
	struct balance_cpu_state cpu;
	struct balance_memory_state memory;
};

static const char weight_was_set[] = "another program has set cpu.weight; it stays until the VM's next start";
static const char memory_was_set[] = "a user has set it; it stays until the VM's next start";

/* ---- telling of changes ---- */

static void change_note(struct vm *vm, enum resource which, uint64_t was, uint64_t now, const char *reason)
{
	struct change *c = &vm->balance->changes[which];

	if (!c->reason)
		c->told = was;
	c->now = now;
	c->reason = reason;
}

static void change_emit(struct vm *vm, enum resource which)
{
	struct change *c = &vm->balance->changes[which];
	uint64_t now_ns = clock_monotonic_ns(), unit = which == CPU ? 1 : MIB;
	const char *name = which == CPU ? "cpu_shares" : "memory";
	struct json_object *data;

	if (!c->reason || c->told == c->now || (c->told_ns && now_ns - c->told_ns < EMIT_NS))
		return;
	log_info("balance", "VM '%s': %s changed from %llu to %llu%s: %s", vm->def->name, name, (unsigned long long)(c->told / unit),
		(unsigned long long)(c->now / unit), which == CPU ? "" : " MiB", c->reason);
	data = json_object_new_object();
	js_put_str(data, "resource", name);
	js_put_uint(data, "from", c->told);
	js_put_uint(data, "to", c->now);
	js_put_str(data, "reason", c->reason);
	vm_emit(vm, EVENT_BALANCE_CHANGE, data);
	c->told = c->now;
	c->told_ns = now_ns;
}

/* ---- bounds ---- */

/* A user other than root gets no more than a VM without bounds. */
static void shares_bound(const struct definition *d, struct balance_cpu *ret)
{
	const struct definition_balance *b = &d->balance;

	ret->first = vm_cgroup_shares(d);
	ret->min = b->shares_min ? MIN(b->shares_min, ret->first) : ret->first;
	ret->max = MAX(b->shares_max, ret->first);
	if (author_of_setting(d, "balance_shares", b->shares_max))
		ret->max = MAX(MIN(ret->max, DEFINITION_CPU_SHARES), ret->first);
	ret->limit = d->cpu_quota / 100.0;
}

static void memory_bound(const struct definition *d, struct balance_memory *ret)
{
	ret->first = definition_first_memory(d);
	ret->min = d->balance.memory_min ? d->balance.memory_min : ret->first;
	ret->max = d->balance.memory_max ? d->balance.memory_max : d->ram_bytes;
}

/* ---- figures ---- */

/* Begin anew with a process. Shares that an earlier daemon has shifted stay. */
static void process_begin(struct vm *vm)
{
	struct vm_balance *b = vm->balance;

	*b = (struct vm_balance){ .pid = vm_process_pid(vm->proc), .asking = b->asking };
	if (!vm_live(vm)->balance.shares)
		return;
	shares_bound(vm_live(vm), &b->cpu);
	b->lack = vm_has(vm, VM_FACT_WEIGHT_SET) ? weight_was_set : vm_cgroup_weight_lack(vm);
	if (!b->lack && vm_cgroup_weight(vm, &b->weight) < 0)
		b->lack = "the VM has no control group; see the daemon's log";
	if (b->lack)
		log_info("balance", "VM '%s': balance.cpu_shares has no effect: %s", vm->def->name, b->lack);
	else
		b->cpu.shares = vm_cgroup_shares_of(b->weight);
}

/* Return whether cpu.weight still has the value that the balancer has written. */
static bool weight_is_own(struct vm *vm)
{
	struct vm_balance *b = vm->balance;
	uint32_t weight;

	if (vm_cgroup_weight(vm, &weight) < 0)
		return false;
	if (weight == b->weight)
		return true;
	b->lack = weight_was_set;
	log_info("balance", "VM '%s': %s", vm->def->name, b->lack);
	vm_set(vm, VM_FACT_WEIGHT_SET, true);
	vm_save(vm);
	return false;
}

/* Look at the processor time of the process. Returns whether more is to be read: whether the VM is not idle. */
static bool activity_sample(struct vm *vm, uint64_t now_ns)
{
	struct vm_balance *b = vm->balance;
	uint64_t cpu_ns;
	bool quiet;

	if (!vm_figures_cpu(vm->proc, &cpu_ns))
		return false;
	quiet = b->at_ns && (double)(cpu_ns - MIN(b->cpu_ns, cpu_ns)) < IDLE_CPUS * (double)(now_ns - b->at_ns);
	b->idle = quiet ? MIN(b->idle + 1, IDLE_INTERVALS) : 0;
	b->at_ns = now_ns;
	b->cpu_ns = cpu_ns;
	return b->idle < IDLE_INTERVALS;
}

static void waits_take(struct vm_balance *b, const struct vm_figures *f, uint64_t now_ns)
{
	uint64_t ran = 0, waited = 0;
	double span = (double)(now_ns - b->waits_at_ns);

	for (unsigned i = 0; i < f->info.vcpus; i++) {
		ran += f->info.vcpu_ns[i];
		waited += f->vcpu_delay_ns[i];
	}
	/* vCPUs that left have taken their times with them. */
	if (b->waits_at_ns && span > 0 && ran >= b->ran_ns && waited >= b->waited_ns) {
		b->cpu.ran = (double)(ran - b->ran_ns) / span;
		b->cpu.waited = (double)(waited - b->waited_ns) / span;
	}
	b->ran_ns = ran;
	b->waited_ns = waited;
	b->waits_at_ns = now_ns;
}

/* The guest's figures are untrusted: they move the VM's own target only, within its bounds. */
static void memory_take(const struct vm *vm, const struct vm_balloon_info *i, struct balance_memory *ret)
{
	uint64_t now_s = clock_realtime_ns() / NS;

	memory_bound(vm_live(vm), ret);
	ret->target = i->target_bytes;
	ret->guest = MIN(i->guest_bytes, vm_live(vm)->ram_bytes);
	ret->available = i->stats[STAT_AVAILABLE];
	ret->known = i->state == VM_BALLOON_WORKS && i->known >> STAT_AVAILABLE & 1 && ret->available <= ret->guest &&
		i->stats_s + STATS_S > now_s && !vm_has(vm, VM_FACT_MEMORY_SET) && !vm->balance->asking &&
		vm->operation.kind == VM_OP_NONE;
}

/* ---- the balloon ---- */

static void balloon_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm *vm = opaque;

	(void)a;
	if (!vm->balance)
		return;
	vm->balance->asking = false;
	if (r < 0)
		log_debug("balance", "VM '%s': its balloon does not change: %s", vm->def->name, e->msg);
}

static void balloon_set(struct vm *vm, const struct vm_balloon_set *body)
{
	vm->balance->asking = true;
	vm_process_request(vm->proc, VM_MSG_BALLOON_SET, body, sizeof(*body), -1, SET_TIMEOUT_NS, balloon_done, vm);
}

/* Let the guest of a VM that is not idle send statistics. period_s: the present one. */
static void period_choose(struct vm *vm, uint32_t period_s, bool idle)
{
	if (vm->balance->asking || period_s != (idle ? PERIOD_S : 0))
		return;
	balloon_set(vm, &(struct vm_balloon_set){ .set_period = true, .period_s = idle ? 0 : PERIOD_S });
}

/* ---- all VMs ---- */

/* The VMs of one interval. */
struct round {
	size_t ncpu, nmemory;
	struct vm **cpu_vms, **memory_vms;
	struct balance_cpu *cpu;
	struct balance_memory *memory;
};

static void vm_gather(struct vm *vm, struct round *r)
{
	const struct definition *d = vm_live(vm);
	struct vm_balance *b = vm->balance;
	uint64_t now_ns = clock_monotonic_ns();
	struct vm_figures f;
	bool busy;

	if (b->pid != vm_process_pid(vm->proc))
		process_begin(vm);
	busy = activity_sample(vm, now_ns);
	b->rests &= !busy;
	b->cpu.ran = b->cpu.waited = 0;
	if (!b->rests && vm_figures_read(vm->proc, &f)) {
		waits_take(b, &f, now_ns);
		b->target = f.info.balloon.target_bytes;
		b->rests = !busy && f.info.balloon.period_s != PERIOD_S;
		if (d->balance.memory && f.info.balloon.state == VM_BALLOON_WORKS && vm_process_knows(vm->proc, VM_KNOWS_BALLOON_SET))
			period_choose(vm, f.info.balloon.period_s, !busy);
		if (d->balance.memory && busy) {
			memory_take(vm, &f.info.balloon, &r->memory[r->nmemory]);
			r->memory_vms[r->nmemory++] = vm;
		}
	}
	if (d->balance.shares && !b->lack && weight_is_own(vm)) {
		r->cpu[r->ncpu] = b->cpu;
		r->cpu_vms[r->ncpu++] = vm;
	}
}

static void shares_apply(struct vm *vm, const struct balance_cpu *now, bool shifts)
{
	struct vm_balance *b = vm->balance;
	uint32_t was = b->cpu.shares, weight = vm_cgroup_weight_of(now->shares);
	int r;

	b->cpu = *now;
	if (weight == b->weight)
		return;
	r = vm_cgroup_set_weight(vm, weight);
	if (r < 0) {
		log_warn("balance", "VM '%s': cannot set cpu.weight of its control group: %s", vm->def->name, strerror(-r));
		return;
	}
	b->weight = weight;
	change_note(vm, CPU, was, now->shares, !shifts ? "processors are not short any more" : now->shares > was ?
		"its vCPUs wait longer for a processor than other VMs' vCPUs" : "vCPUs of other VMs wait longer for a processor");
}

static void memory_apply(struct vm *vm, const struct balance_memory *now, bool is_short)
{
	struct vm_balance *b = vm->balance;
	uint64_t was = b->target;

	if (now->target == was || b->asking)
		return;
	b->target = now->target;
	balloon_set(vm, &(struct vm_balloon_set){ .set_target = true, .target_bytes = now->target });
	change_note(vm, MEMORY, was, now->target, now->target < was ? (is_short ? "the host is short of memory, and the guest does not use this part" :
		"other guests need memory, and this one does not use this part") :
		is_short ? "the guest has almost no memory left, and other guests have given memory" : "the host or other guests have memory to spare");
}

static void host_read(struct balance_host *ret)
{
	/* The first number is that of "some". */
	ret->pressure = access(MEMORY_PRESSURE_HOST, R_OK) < 0 ? NAN : file_number_behind(MEMORY_PRESSURE_HOST, "avg10=");
	ret->total = (uint64_t)file_number_behind(MEMINFO, "MemTotal:") * KIB;
	ret->available = (uint64_t)file_number_behind(MEMINFO, "MemAvailable:") * KIB;
}

static void round_decide(struct vm_host *host, struct round *r)
{
	struct balancer *all = host->balancer;
	struct balance_host h;

	balance_cpu(r->cpu, r->ncpu, &all->cpu);
	for (size_t i = 0; i < r->ncpu; i++)
		shares_apply(r->cpu_vms[i], &r->cpu[i], all->cpu.shifts);
	if (!r->nmemory)
		return;
	host_read(&h);
	balance_memory(r->memory, r->nmemory, &h, &all->memory);
	for (size_t i = 0; i < r->nmemory; i++)
		memory_apply(r->memory_vms[i], &r->memory[i], all->memory.is_short);
}

static void balance_later(struct vm_host *host)
{
	loop_timer_arm(host->balancer->timer, ROUND_UP(loop_now_ns() + 1, INTERVAL_NS));
	host->balancer->armed = true;
}

static void balance_round(void *opaque)
{
	struct vm_host *host = opaque;
	struct round r = { .cpu_vms = must_alloc(calloc(2 * host->nvms + 1, sizeof(*r.cpu_vms))),
		.cpu = must_alloc(calloc(host->nvms + 1, sizeof(*r.cpu))), .memory = must_alloc(calloc(host->nvms + 1, sizeof(*r.memory))) };
	bool any = false;

	r.memory_vms = r.cpu_vms + host->nvms;
	for (size_t i = 0; i < host->nvms; i++) {
		any |= host->vms[i]->balance != NULL;
		if (host->vms[i]->balance && host->vms[i]->state == VM_RUNNING)
			vm_gather(host->vms[i], &r);
	}
	round_decide(host, &r);
	for (size_t i = 0; i < host->nvms; i++)
		for (enum resource k = CPU; host->vms[i]->balance && k < RESOURCES; k++)
			change_emit(host->vms[i], k);
	free(r.cpu_vms);
	free(r.cpu);
	free(r.memory);
	host->balancer->armed = false;
	if (any)
		balance_later(host);
}

/* ---- a VM's life ---- */

static void vm_begin(struct vm *vm)
{
	struct vm_host *host = vm->host;

	vm->balance = must_alloc(calloc(1, sizeof(*vm->balance)));
	if (!host->balancer) {
		host->balancer = must_alloc(calloc(1, sizeof(*host->balancer)));
		if (loop_timer_new(host->loop, balance_round, host, &host->balancer->timer) < 0)
			abort();
	}
	if (!host->balancer->armed)
		balance_later(host);
}

static void vm_end(struct vm *vm)
{
	free(vm->balance);
	vm->balance = NULL;
}

static void vm_check(struct vm *vm)
{
	const struct definition_balance *b = &vm_live(vm)->balance;

	if (vm->proc && (b->shares || b->memory) && vm_state_is_active(vm->state) && !vm->balance)
		vm_begin(vm);
}

static void balancer_on_start_asked(struct vm *vm, const struct vm_start_opts *opts)
{
	(void)opts;
	vm_set(vm, VM_FACT_MEMORY_SET | VM_FACT_WEIGHT_SET, false);
}

void balancer_hold_memory(struct vm *vm)
{
	if (!vm_live(vm)->balance.memory || vm_has(vm, VM_FACT_MEMORY_SET))
		return;
	vm_set(vm, VM_FACT_MEMORY_SET, true);
	vm_save(vm);
}

static void balancer_on_state_put(const struct vm *vm, struct json_object *state)
{
	if (vm_has(vm, VM_FACT_MEMORY_SET))
		js_put_bool(state, "memory_set", true);
	if (vm_has(vm, VM_FACT_WEIGHT_SET))
		js_put_bool(state, "weight_set", true);
}

static void balancer_on_state_load(struct vm *vm, struct json_object *state)
{
	vm_set(vm, VM_FACT_MEMORY_SET, js_get_bool(state, "memory_set", false));
	vm_set(vm, VM_FACT_WEIGHT_SET, js_get_bool(state, "weight_set", false));
}

const struct vm_observer balancer_observer = { .state_put = balancer_on_state_put, .state_load = balancer_on_state_load,
	.state_saved = vm_check, .phase_known = vm_check, .process_gone = vm_end, .start_asked = balancer_on_start_asked, .removed = vm_end };

void balancer_free(struct vm_host *host)
{
	if (host->balancer)
		loop_timer_free(host->balancer->timer);
	free(host->balancer);
	host->balancer = NULL;
}

/* ---- for clients ---- */

static struct json_object *part_to_json(const struct vm_balance *b, enum resource which, uint64_t now, uint64_t min, uint64_t max, const char *lack)
{
	struct json_object *o = json_object_new_object();

	js_put_uint(o, "now", now);
	js_put_uint(o, "min", min);
	js_put_uint(o, "max", max);
	js_put_str(o, "reason", b->changes[which].reason);
	js_put_str(o, "lack", lack);
	return o;
}

struct json_object *balancer_to_json(const struct vm *vm)
{
	const struct definition *d = vm_live(vm);
	const struct vm_balance *b = vm->balance;
	struct balance_memory memory;
	struct balance_cpu cpu;
	struct json_object *o;

	if (!b)
		return NULL;
	o = json_object_new_object();
	shares_bound(d, &cpu);
	memory_bound(d, &memory);
	if (d->balance.shares)
		js_put(o, "cpu-shares", part_to_json(b, CPU, b->pid && b->cpu.shares ? b->cpu.shares : cpu.first, cpu.min, cpu.max,
			vm_has(vm, VM_FACT_WEIGHT_SET) ? weight_was_set : b->lack));
	if (d->balance.memory)
		js_put(o, "memory", part_to_json(b, MEMORY, b->target ? b->target : memory.first, memory.min, memory.max,
			vm_has(vm, VM_FACT_MEMORY_SET) ? memory_was_set : NULL));
	return o;
}
