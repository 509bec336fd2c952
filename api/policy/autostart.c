#include "api/policy/autostart.h"
#include "api/policy/bounds.h"
#include "api/policy/staged_run.h"
#include "api/store/store.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/boot_id.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BOOT_FILE "boot.json"

struct autostart {
	struct vm_host *host;
	struct staged_run *sequence; /* NULL: no run under way */
	struct step {
		struct autostart *autostart;
		size_t i;
	} *steps;
	char boot_id[BOOT_ID_TEXT];
	bool over;
	uint64_t begun_ns; /* wall clock at the first start of a daemon in this boot */
};

/* ---- the mark "autostart" ---- */

int autostart_store(struct vm *vm, bool on, struct store_work *w, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct store *s = vm->host->store;

	if (!on)
		return store_remove_file(s, vm->def->name, AUTOSTART_FILE, STORE_WITH_WORK, w, e);
	o = json_object_new_object();
	js_put_bool(o, "autostart", true);
	return store_put(s, vm->def->name, AUTOSTART_FILE, o, STORE_WITH_WORK, w, e);
}

/* ---- finding out whether the host has booted ---- */

static void boot_store(struct autostart *a)
{
	struct json_object *o = json_object_new_object();
	struct err e;

	js_put_str(o, "boot_id", a->boot_id);
	js_put_uint(o, "begun_ns", a->begun_ns);
	js_put_bool(o, "over", a->over);
	if (store_put(a->host->store, NULL, BOOT_FILE, o, STORE_NOW, NULL, &e) < 0)
		log_error("autostart", "%s", e.msg);
	json_object_put(o);
}

void autostart_load(struct vm_host *host)
{
	CLEANUP_JS struct json_object *o = store_load_file(host->store, NULL, BOOT_FILE);
	struct autostart *a = must_alloc(calloc(1, sizeof(*a)));
	const char *before = js_get_str(o, "boot_id");

	a->host = host;
	boot_id_read(a->boot_id);
	/* A newer Cairn's file cannot be read. Then assume that this boot was handled: else VMs that users shut down
	 * would start again. */
	a->host->new_boot = !store_is_newer(host->store, BOOT_FILE) && (!before || strcmp(before, a->boot_id));
	a->over = !a->host->new_boot && js_get_bool(o, "over", !o);
	a->begun_ns = a->host->new_boot ? ROUND_DOWN(clock_realtime_ns(), CLOCK_NS_PER_S) :
				    (uint64_t)js_get_int(o, "begun_ns", 0);
	host->autostart = a;
	for (size_t i = 0; i < host->nvms; i++)
		vm_set(host->vms[i], VM_FACT_AUTOSTART, store_has_file(host->store, host->vms[i]->def->name, AUTOSTART_FILE));
}

/* ---- the staged run ---- */

static void autostart_emit(const struct vm *vm, const struct err *e)
{
	struct json_object *data = json_object_new_object();

	js_put_str(data, "outcome", e ? "failed" : "started");
	if (e)
		js_put_str(data, "detail", e->msg);
	vm_emit(vm, EVENT_AUTOSTART, data);
}

static void vm_started(void *opaque, int r, const struct err *e)
{
	struct step *step = opaque;
	struct autostart *a = step->autostart;
	struct vm *vm = staged_run_vm(a->sequence, step->i);

	if (r < 0)
		log_error("autostart", "VM '%s' could not be started: %s", vm->def->name, e->msg);
	autostart_emit(vm, r < 0 ? e : NULL);
	staged_run_over(a->sequence, step->i);
}

static void autostart_turn(void *opaque, struct vm *vm, size_t i)
{
	struct autostart *a = opaque;
	struct vm_start_opts opts = { .state_fd = -1, .done = vm_started, .opaque = &a->steps[i] };

	a->steps[i] = (struct step){ a, i };
	if (vm_state_is_active(vm->state) || vm_is_starting(vm))
		staged_run_over(a->sequence, i); /* a client started the VM meanwhile */
	else
		vm_start(vm, &opts);
}

static void autostart_done(void *opaque)
{
	struct autostart *a = opaque;

	a->over = true;
	boot_store(a);
	staged_run_free(a->sequence);
	a->sequence = NULL;
}

/* Whether the run is to start the VM. If an earlier daemon ended during this boot's run, skip the VMs whose state has
 * changed since the run began. */
static bool is_due(const struct autostart *a, const struct vm *vm)
{
	return vm_has(vm, VM_FACT_AUTOSTART) && !vm_has(vm, VM_FACT_INCOMPLETE | VM_FACT_TEMPLATE) &&
		!vm_state_is_active(vm->state) && (a->host->new_boot || vm->since_ns < a->begun_ns);
}

/* Add the VM to the run, unless its definer has as many VMs in the run as the admin allows. */
static void due_add(struct autostart *a, size_t i)
{
	struct vm *vm = a->host->vms[i];
	unsigned most = a->host->paths->limits.user_autostarts, n = 0;
	struct err e;

	for (size_t k = 0; k < i && most && vm->def->rights; k++)
		n += bounds_definer(vm) == bounds_definer(a->host->vms[k]) && is_due(a, a->host->vms[k]);
	if (!most || n < most) {
		staged_run_add(a->sequence, vm, bounds_order(vm), bounds_start_delay_s(vm));
		return;
	}
	err_set(&e, -EPERM, ERR_PERMISSION, "its definer already has %u VMs that start with the host (cairnd --max-user-autostart)",
		most);
	log_warn("autostart", "VM '%s' is not started: %s", vm->def->name, e.msg);
	autostart_emit(vm, &e);
}

void autostart_go(struct vm_host *host)
{
	static const struct staged_run_ops ops = { autostart_turn, autostart_done };
	struct autostart *a = host->autostart;

	if (a->over)
		return;
	boot_store(a);
	a->sequence = staged_run_new(host, host->paths->limits.starting, &ops, a);
	for (size_t i = 0; i < host->nvms; i++)
		if (is_due(a, host->vms[i]))
			due_add(a, i);
	a->steps = must_alloc(calloc(staged_run_count(a->sequence) + 1, sizeof(*a->steps)));
	if (staged_run_count(a->sequence))
		log_info("autostart", "the host has booted: %zu VMs are started", staged_run_count(a->sequence));
	staged_run_go(a->sequence);
}

void autostart_free(struct autostart *a)
{
	if (!a)
		return;
	staged_run_free(a->sequence);
	free(a->steps);
	free(a);
}
