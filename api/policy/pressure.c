#include "api/policy/pressure.h"
#include "api/schema/vm_state.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_cgroup.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/memory_pressure.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define INTERVAL_NS (60 * CLOCK_NS_PER_S)
#define TIMEOUT_NS (120 * CLOCK_NS_PER_S) /* as of vm-reclaim */
/* VMs that free memory at the same time: each keeps a processor busy. */
#define AT_ONCE 4

/* A file of memory pressure that the loop polls. */
struct watched {
	int fd; /* owned */
	struct loop_watch *watch; /* NULL: there is none, and no fd */
};

/* Of the host. */
struct pressure {
	struct watched file; /* open while a VM wants it */
	unsigned vms;	     /* number of VMs that want it */
	unsigned asked;	     /* number of VMs that are freeing memory */
};

/* Of a VM that runs with reclaim_on_pressure. */
struct vm_pressure {
	struct watched file;  /* of its control group */
	const char *due;      /* "vm" or "host": the pressure for which a reclaim has not begun; NULL: none */
	const char *asked;    /* the same of the reclaim under way */
	uint64_t reclaimed_ns; /* time of the last reclaim; 0: none in this run */
	bool refused_told;
};

static void watched_end(struct watched *w)
{
	if (!w->watch)
		return;
	loop_unwatch(w->watch);
	close(w->fd);
	w->watch = NULL;
}

/* Watch the file. fd: taken; -errno: of the attempt to open it. Returns 0; -errno. */
static int watched_begin(struct watched *w, struct loop *l, int fd, void (*ready)(void *opaque, unsigned revents), void *opaque)
{
	int r = fd < 0 ? fd : loop_watch(l, fd, POLLPRI, ready, opaque, &w->watch);

	w->fd = fd;
	if (r < 0) {
		w->watch = NULL;
		if (fd >= 0)
			close(fd);
	}
	return r;
}

/* ---- reclaims ---- */

static void reclaims_begin(struct vm_host *host);

static void freed_emit(const struct vm *vm, uint64_t bytes)
{
	struct json_object *data = json_object_new_object();

	log_info("pressure", "VM '%s': %llu KiB that the image has were freed, because of memory pressure of the %s",
		vm->def->name, (unsigned long long)(bytes / KIB), vm->pressure->asked);
	js_put_uint(data, "freed", bytes);
	js_put_str(data, "pressure", vm->pressure->asked);
	vm_emit(vm, EVENT_MEMORY_RECLAIMED, data);
}

static void reclaim_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm *vm = opaque;
	struct vm_host *host = vm->host;
	struct vm_pressure *p = vm->pressure;

	if (!p)
		return;
	host->pressure->asked--;
	if (!r && a->snapshot && a->snapshot->ram_bytes_shared)
		freed_emit(vm, a->snapshot->ram_bytes_shared);
	/* After a minute, other work may have ended, or a snapshot may exist. */
	if (r < 0 && r != -ESRCH && !p->refused_told)
		log_info("pressure", "VM '%s': there is memory pressure, but its memory is not reclaimed: %s", vm->def->name, e->msg);
	p->refused_told |= r < 0;
	p->asked = NULL;
	reclaims_begin(host);
}

static void reclaim_begin(struct vm *vm)
{
	struct vm_pressure *p = vm->pressure;
	uint64_t now = clock_monotonic_ns();

	p->asked = p->due;
	p->due = NULL;
	p->reclaimed_ns = now;
	vm->host->pressure->asked++;
	vm_process_request(vm->proc, VM_MSG_RECLAIM, NULL, 0, -1, TIMEOUT_NS, reclaim_done, vm);
}

static void reclaims_begin(struct vm_host *host)
{
	for (size_t i = 0; i < host->nvms && host->pressure->asked < AT_ONCE; i++) {
		struct vm *vm = host->vms[i];

		if (vm->pressure && vm->pressure->due && !vm->pressure->asked)
			reclaim_begin(vm);
	}
}

/* whose: "vm" or "host". */
static void vm_set_due(struct vm *vm, const char *whose)
{
	struct vm_pressure *p = vm->pressure;

	if (!p->reclaimed_ns || clock_monotonic_ns() - p->reclaimed_ns >= INTERVAL_NS)
		p->due = whose;
}

static void group_ready(void *opaque, unsigned revents)
{
	struct vm *vm = opaque;

	if (revents & POLLPRI && !(revents & POLLERR)) {
		vm_set_due(vm, "vm");
		reclaims_begin(vm->host);
	} else {
		watched_end(&vm->pressure->file); /* its control group is gone */
	}
}

static void host_ready(void *opaque, unsigned revents)
{
	struct vm_host *host = opaque;

	if (!(revents & POLLPRI) || revents & POLLERR) {
		log_warn("pressure", "the kernel no longer reports memory pressure of the host");
		watched_end(&host->pressure->file);
		return;
	}
	for (size_t i = 0; i < host->nvms; i++)
		if (host->vms[i]->pressure)
			vm_set_due(host->vms[i], "host");
	reclaims_begin(host);
}

/* ---- which VMs ---- */

static void host_watch(struct vm_host *host)
{
	struct pressure *p = host->pressure;
	int r;

	if (!p)
		p = host->pressure = must_alloc(calloc(1, sizeof(*p)));
	if (p->vms++)
		return;
	r = watched_begin(&p->file, host->loop, memory_pressure_open(AT_FDCWD, MEMORY_PRESSURE_HOST), host_ready, host);
	if (r < 0)
		log_warn("pressure", "cannot watch the host's memory pressure, so reclaim_on_pressure has less or no effect: %s: %s; "
			"`cairn doctor` shows how to change that", MEMORY_PRESSURE_HOST, strerror(-r));
}

static void vm_begin(struct vm *vm)
{
	int r;

	vm->pressure = must_alloc(calloc(1, sizeof(*vm->pressure)));
	host_watch(vm->host);
	r = watched_begin(&vm->pressure->file, vm->host->loop, vm_cgroup_open_pressure(vm), group_ready, vm);
	if (r < 0 && r != -ENOENT)
		log_debug("pressure", "VM '%s': cannot watch the memory pressure of its control group: %s", vm->def->name, strerror(-r));
}

static void vm_end(struct vm *vm)
{
	struct pressure *host = vm->host->pressure;

	if (!vm->pressure)
		return;
	host->asked -= vm->pressure->asked != NULL;
	watched_end(&vm->pressure->file);
	free(vm->pressure);
	vm->pressure = NULL;
	if (!--host->vms)
		watched_end(&host->file);
}

static void vm_check(struct vm *vm)
{
	bool wants = vm->proc && vm_live(vm)->reclaim_on_pressure && vm_transition_find(vm->state, VM_ASK_RECLAIM) &&
		vm_process_knows(vm->proc, VM_KNOWS_RECLAIM);

	if (wants && !vm->pressure)
		vm_begin(vm);
}

const struct vm_observer pressure_observer = { .state_saved = vm_check, .phase_known = vm_check,
	.process_gone = vm_end, .removed = vm_end };

void pressure_free(struct vm_host *host)
{
	free(host->pressure);
	host->pressure = NULL;
}
