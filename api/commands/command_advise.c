/* The handler of advise: applies the rules of api/policy/advice.h to the trends of VMs and the history of pools. VM
 * after VM, the store's thread reads the file of trends, so the answer takes little memory, and other work of the
 * store is done in between. No process of a VM wakes up. */
#include "api/commands/command.h"
#include "api/jobs/snapshots.h"
#include "api/policy/advice.h"
#include "api/policy/disk_room.h"
#include "api/policy/pool_space.h"
#include "api/policy/start_room.h"
#include "api/policy/trends.h"
#include "api/store/store.h"
#include "api/vm/image_users.h"
#include "api/vm/pins.h"
#include "api/vm/vm.h"
#include "api/vm/vm_cgroup.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/memory_pressure.h"
#include "base/util.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE_VMS 512
#define DEFINITION_FILE "definition.json"

struct advise {
	struct call *call;
	uint8_t (*uuids)[16]; /* of the page's VMs; owned */
	size_t n, at;
	char last[VM_NAME_MAX + 1]; /* name of the page's last VM so far */
	bool more;		    /* there are VMs behind the page */
	bool verbose, alone; /* alone: the call names the VM */
	bool snapshots;	     /* with alone: look at its snapshots, too */
	const struct disk_room *low; /* with alone: of its start; set while the VM is judged */
	size_t bytes; /* of the list, at most */
	struct json_object *list;
	int64_t now_s;
	bool walks, again; /* next_vm() runs; a VM's end came meanwhile */
};

/* ---- the answer ---- */

/* Round to four digits, so that figures are read easily. */
static double rounded(double v)
{
	double scale = 1000;

	if (!(v > 0) || v >= 1000)
		return v < 9e15 ? (double)(int64_t)(v + (v < 0 ? -0.5 : 0.5)) : v;
	while (v * scale < 1000)
		scale *= 10;
	return (double)(int64_t)(v * scale + 0.5) / scale;
}

static struct json_object *figures_of(const struct advice *a)
{
	struct json_object *o = json_object_new_object();

	for (unsigned i = 0; i < a->nfigures; i++) {
		double v = rounded(a->figures[i].value);

		if (v >= 1000)
			js_put_int(o, a->figures[i].name, v < 9e18 ? (int64_t)v : INT64_MAX);
		else
			js_put(o, a->figures[i].name, json_object_new_double(v));
	}
	return o;
}

/* Append the advice to the answer, and free it. key: "vm", "pool" or "host". */
static void list_take(struct advise *x, const char *key, const char *name, struct advice_list *l)
{
	for (size_t i = 0; i < l->n; i++) {
		const struct advice *a = &l->list[i];
		struct json_object *o = json_object_new_object();

		js_put_str(o, key, name);
		js_put_str(o, "kind", advice_kind_word(a->kind));
		js_put_str(o, "rule", a->rule);
		js_put_str(o, "text", a->text);
		js_put(o, "figures", figures_of(a));
		js_put_str(o, "command", a->command);
		js_put_str(o, "apply", a->apply);
		json_object_array_add(x->list, o);
		x->bytes += 400 + 6 * (strlen(name) + strlen(a->text) + (a->command ? strlen(a->command) : 0));
	}
	for (size_t i = 0; i < l->nlacks; i++) {
		struct json_object *o = json_object_new_object();

		js_put_str(o, key, name);
		js_put_str(o, "kind", "lacks");
		js_put_str(o, "rule", l->lacks[i].rule);
		js_put_str(o, "text", l->lacks[i].text);
		json_object_array_add(x->list, o);
		x->bytes += 80 + 6 * (strlen(name) + strlen(l->lacks[i].text));
	}
	advice_list_done(l);
}

static void page_answer(struct advise *x)
{
	struct json_object *o = json_object_new_object();

	js_put(o, "advice", x->list);
	if (x->more || x->at < x->n)
		js_put_str(o, "next", x->last);
	call_return(x->call, o);
	free(x->uuids);
	free(x);
}

static void host_append(struct advise *x)
{
	const struct vm_host *host = x->call->host;
	struct advice_list l = { 0 };
	const struct vm *holder = NULL;
	/* In percent of the last five minutes. */
	double pressure = file_number_behind(MEMORY_PRESSURE_HOST, "avg300=");

	for (size_t i = 0; i < host->nvms; i++)
		if (trends_resident(host->vms[i]) > (holder ? trends_resident(holder) : 0))
			holder = host->vms[i];
	advice_of_host(pressure, holder ? holder->def->name : NULL, holder ? (double)trends_resident(holder) : 0, &l);
	list_take(x, "host", "memory", &l);
}

static void pools_append(struct advise *x)
{
	const struct pools *p = &x->call->host->pools;
	struct pool_state state;

	for (size_t i = 0; i < p->n; i++) {
		struct advice_list l = { .tell_lacks = x->verbose };

		if (!pool_space_state(x->call->host->pool_space, p->list[i].name, &state))
			continue;
		advice_of_pool(p->list[i].name, state.history, state.low, &l);
		list_take(x, "pool", p->list[i].name, &l);
	}
}

/* ---- a VM ---- */

static void next_vm(struct advise *x);

/* Find the disk with the most images of its own below its overlay. */
static void overlays_find(const struct vm *vm, struct advice_vm *ret)
{
	const struct definition *def = vm_live(vm);

	for (uint32_t i = 0; i < def->ndisks; i++) {
		const struct definition_disk *d = &def->disks[i];
		unsigned own = 0;

		while (!d->read_only && own + 1 < d->nlayers && !image_user(vm, d->layers[own + 1].path) &&
			!pins_has_overlay(vm->host, d->layers[own].path))
			own++;
		if (own > ret->overlays) {
			ret->overlays = own;
			ret->overlay_disk = d->id;
		}
	}
}

/* Return whether the VM's process can free memory that a snapshot has. A live clone's cannot. */
static bool reclaim_works(const struct vm *vm)
{
	const struct definition *def = vm_live(vm);

	for (uint32_t i = 0; i < def->ndisks; i++)
		if (def->disks[i].nlayers && pins_has_overlay(vm->host, def->disks[i].layers[0].path))
			return false;
	return vm->counts.snapshots && vm_transition_find(vm->state, VM_ASK_RECLAIM) && vm_process_knows(vm->proc, VM_KNOWS_RECLAIM);
}

/* Fill in the members that need no trends. */
static void vm_known(const struct advise *x, const struct vm *vm, struct advice_vm *ret)
{
	const struct definition *def = vm_live(vm);

	*ret = (struct advice_vm){ .name = vm->def->name, .runs = vm->proc && vm_state_is_active(vm->state), .saved = vm->state == VM_SAVED,
		.kept = vm_has(vm, VM_FACT_TEMPLATE | VM_FACT_AUTOSTART | VM_FACT_INCOMPLETE), .vcpus = def->vcpus, .ram_bytes = def->ram_bytes,
		.now_s = x->now_s, .since_s = (int64_t)(vm->since_ns / CLOCK_NS_PER_S), .made_bytes = vm->counts.made_bytes,
		.max_vcpus = def->max_vcpus, .host_cpus = (uint32_t)MAX(sysconf(_SC_NPROCESSORS_ONLN), 1), .cpu_quota = def->cpu_quota,
		.defined_s = (int64_t)(store_file_time(vm->host->store, vm->def->name, DEFINITION_FILE) / CLOCK_NS_PER_S) };
	ret->may_reclaim = ret->runs && reclaim_works(vm);
	ret->pressure = ret->runs ? vm_cgroup_pressure(vm) : NAN;
	overlays_find(vm, ret);
}

/* Report the error that would make a start of the VM fail, or the resources that a start would lack. */
static void start_append(const struct advise *x, struct vm *vm, struct advice_list *l)
{
	struct err e;

	if (vm_has(vm, VM_FACT_TEMPLATE | VM_FACT_INCOMPLETE))
		return;
	if (start_room_check(vm, &e) < 0)
		advice_of_refusal(vm->def->name, e.msg, l);
	start_room_advise(vm, x->call, true, x->low, l);
}

/* Apply the rules to the VM in turn, unless it is gone. */
static void vm_advise(struct advise *x, const struct trend_view *v)
{
	struct vm *vm = vm_find_uuid(x->call->host, x->uuids[x->at++]);
	struct advice_list l = { .tell_lacks = x->verbose };
	struct trends_waited waited;
	struct advice_vm known;

	if (!vm)
		return;
	vm_known(x, vm, &known);
	if (x->alone && !known.runs)
		start_append(x, vm, &l);
	known.hours = v;
	if (known.runs && trends_waited(vm, &waited))
		known.wait = (struct advice_wait){ waited.span_s, waited.ran_s, waited.waited_s };
	advice_of_vm(&known, &l);
	strcpy(x->last, vm->def->name);
	list_take(x, "vm", vm->def->name, &l);
}

/* ---- the snapshots of one VM ---- */

static bool is_kept(const struct vm_snapshot_info *i)
{
	return i->current || snapshot_has_tag(i, SNAPSHOT_TAG_KEEP);
}

static void snapshots_advise(struct advise *x, const char *vm, const struct snapshots *s)
{
	struct advice_snapshot *some = must_alloc(calloc(s->n + 1, sizeof(*some)));
	struct advice_list l = { 0 };
	size_t n = 0;

	for (size_t i = 0; i < s->n; i++)
		if (!is_kept(&s->list[i]))
			some[n++] = (struct advice_snapshot){ s->list[i].name, snapshots_handle(s, i), (int64_t)(s->list[i].realtime_ns / CLOCK_NS_PER_S),
				s->list[i].vm_state_bytes };
	advice_of_snapshots(vm, some, n, x->now_s, &l);
	list_take(x, "vm", vm, &l);
	free(some);
}

static void snapshots_read(void *opaque, int r, const struct snapshots *s, const struct err *e)
{
	struct advise *x = opaque;
	struct vm *vm = vm_find_uuid(x->call->host, x->uuids[0]);

	if (r < 0) {
		json_object_put(x->list);
		call_fail(x->call, e);
		free(x->uuids);
		free(x);
		return;
	}
	if (vm) {
		snapshots_advise(x, vm->def->name, s);
		x->call->vm = vm; /* the answer waits for the end of its offline process */
		x->call->on_images = true;
	}
	page_answer(x);
}

/* Begin to read the snapshots. Returns whether snapshots_read() will answer. */
static bool snapshots_begin(struct advise *x)
{
	struct vm *vm = x->snapshots ? vm_find_uuid(x->call->host, x->uuids[0]) : NULL;
	struct err e;

	if (!vm)
		return false;
	if (vm_check_claim(vm, VM_CLAIM_READ, "read its snapshots", &e) < 0)
		snapshots_read(x, -EBUSY, NULL, &e);
	else
		snapshots_fetch(vm, snapshots_read, x);
	return true;
}

/* ---- VM after VM ---- */

static void trends_read(void *opaque, const struct trend_view *v, const struct err *e)
{
	struct advise *x = opaque;

	(void)e; /* an unreadable file counts as missing; vm-trend reports the reason */
	vm_advise(x, v);
	next_vm(x);
}

static void disk_room_found(void *opaque, const struct disk_room *low)
{
	struct advise *x = opaque;

	x->low = low;
	vm_advise(x, NULL);
	x->low = NULL;
	next_vm(x);
}

static void vm_begin(struct advise *x)
{
	struct vm *vm = vm_find_uuid(x->call->host, x->uuids[x->at]);
	uint32_t end = (uint32_t)(x->now_s / ADVICE_STEP_S * ADVICE_STEP_S) + ADVICE_STEP_S;

	if (vm && vm->proc && vm_state_is_active(vm->state))
		trends_query(vm, end - ADVICE_HOURS * ADVICE_STEP_S, ADVICE_STEP_S, ADVICE_HOURS, trends_read, x);
	else if (vm && x->alone)
		disk_room_find(vm, disk_room_found, x);
	else
		disk_room_found(x, NULL);
}

/* Continue with the next VM, or answer. Called from the end of each VM, which may come before vm_begin() returns. */
static void next_vm(struct advise *x)
{
	if (x->walks) {
		x->again = true;
		return;
	}
	do {
		x->again = false;
		if (x->at == x->n || x->bytes >= COMMAND_PAGE_BYTES) {
			if (!snapshots_begin(x))
				page_answer(x);
			return;
		}
		x->walks = true;
		vm_begin(x);
		x->walks = false;
	} while (x->again);
}

/* ---- the call ---- */

static void vms_pick(struct advise *x, const char *after)
{
	struct vm_host *host = x->call->host;
	size_t i = vm_index_after(host, after);

	x->uuids = must_alloc(calloc(PAGE_VMS, sizeof(*x->uuids)));
	for (; i < host->nvms && x->n < PAGE_VMS; i++)
		if (call_role_for(x->call, host->vms[i]->def->uuid) >= ROLE_VIEWER)
			memcpy(x->uuids[x->n++], host->vms[i]->def->uuid, 16);
	x->more = i < host->nvms;
}

static int vm_pick(struct advise *x, const char *name, struct err *e)
{
	struct vm *vm = vm_find(x->call->host, name);

	if (!vm || call_role_for(x->call, vm->def->uuid) < ROLE_VIEWER)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "there is no VM '%.255s'. Next: cairn list --all", name);
	x->uuids = must_alloc(calloc(1, sizeof(*x->uuids)));
	memcpy(x->uuids[x->n++], vm->def->uuid, 16);
	return 0;
}

void command_advise(struct call *c)
{
	struct advise *x = must_alloc(calloc(1, sizeof(*x)));
	const char *name = js_get_str(c->args, "vm"), *after = js_get_str(c->args, "after");
	struct err e;

	x->call = c;
	x->alone = name;
	x->verbose = js_get_bool(c->args, "verbose", false);
	x->snapshots = name && js_get_bool(c->args, "snapshots", false);
	x->now_s = (int64_t)(clock_realtime_ns() / CLOCK_NS_PER_S);
	if (name && vm_pick(x, name, &e) < 0) {
		free(x);
		call_fail(c, &e);
		return;
	}
	if (!name)
		vms_pick(x, after ? after : "");
	x->list = json_object_new_array();
	if (!name && !after && call_role_for(c, NULL) >= ROLE_VIEWER) {
		host_append(x);
		pools_append(x);
	}
	next_vm(x);
}
