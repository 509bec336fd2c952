#include "api/vm/vm_cgroup.h"
#include "api/access/authors.h"
#include "api/definition/vm_config.h"
#include "api/vm/cgroup_tree.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_sandbox.h"
#include "api/vm/vm_spare.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/memory_pressure.h"
#include "base/util.h"
#include "base/uuid.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The limit of RLIMIT_NPROC (vmm/sandbox.c), which applies only to processes with a user id of their own. */
#define THREADS_MAX 16384
#define PROGRAM_BYTES (1 * GIB)
#define DISK_BYTES (512 * MIB)
/* A VM that is started again within this time has its group still. */
#define SWEEP_NS (1000000000ULL)
/* The kernel needs some 50 us for each removal, and the loop serves clients between two turns. */
#define SWEEP_TURN_NS (10 * 1000000ULL)
#define SWEEP_AT_ONCE 8

const struct cgroup_tree *vm_cgroup_tree_of_host(const struct vm_host *host)
{
	return host->sandbox && host->sandbox->cgroups.fd >= 0 ? &host->sandbox->cgroups : NULL;
}

const struct cgroup_tree *vm_cgroup_tree(const struct vm *vm)
{
	return vm->scope_tree ? vm->scope_tree : vm_cgroup_tree_of_host(vm->host);
}

static uint64_t memory_max(const struct definition *d)
{
	uint64_t budget = 2 * d->ram_bytes + d->ram_bytes / 8 + PROGRAM_BYTES + d->ndisks * DISK_BYTES;

	return d->memory_max_bytes ? MIN(d->memory_max_bytes, budget) : budget;
}

uint32_t vm_cgroup_shares(const struct definition *d)
{
	uint32_t shares = d->cpu_shares ? d->cpu_shares : DEFINITION_CPU_SHARES;

	return author_of_setting(d, "cpu_shares", d->cpu_shares) ? MIN(shares, DEFINITION_CPU_SHARES) : shares;
}

uint32_t vm_cgroup_weight_of(uint32_t shares)
{
	uint32_t weight = (uint32_t)((uint64_t)shares * CGROUP_WEIGHT / DEFINITION_CPU_SHARES);

	return MIN(MAX(weight, 1), 10000);
}

uint32_t vm_cgroup_shares_of(uint32_t weight)
{
	return (uint32_t)DIV_ROUND_UP((uint64_t)weight * DEFINITION_CPU_SHARES, CGROUP_WEIGHT);
}

void vm_cgroup_limits(const struct definition *d, struct cgroup_limits *ret)
{
	*ret = (struct cgroup_limits){ .memory_bytes = memory_max(d), .pids = THREADS_MAX, .cpu_weight = vm_cgroup_weight_of(vm_cgroup_shares(d)),
		.cpu_percent = d->cpu_quota };
}

/* A VM that got another uuid while it ran, as a promoted clone, keeps its group until its end. */
static const uint8_t *group_of(const struct vm *vm)
{
	return uuid_is_set(vm->group) ? vm->group : vm->def->uuid;
}

static void place_name(const struct vm *vm, char name[UUID_TEXT])
{
	uuid_print(group_of(vm), name);
}

const char *vm_cgroup_weight_lack(const struct vm *vm)
{
	const struct cgroup_tree *t = vm_cgroup_tree_of_host(vm->host);
	const char *lack = vm->host->sandbox ? vm_sandbox_cgroup_lack(vm->host->sandbox) : NULL;

	if (vm->scope_tree)
		return "with systemd_scope, the VM shares no control group with other VMs";
	return t && t->has[CGROUP_CPU] ? NULL : lack ? lack : "VMs have no control groups";
}

int vm_cgroup_weight(const struct vm *vm, uint32_t *ret)
{
	const struct cgroup_tree *t = vm_cgroup_tree(vm);
	char name[UUID_TEXT];
	uint64_t weight;
	int r;

	place_name(vm, name);
	r = t ? cgroup_tree_read(t, name, "cpu.weight", &weight) : -ENOENT;
	if (!r)
		*ret = (uint32_t)MIN(weight, 10000);
	return r;
}

int vm_cgroup_set_weight(const struct vm *vm, uint32_t weight)
{
	const struct cgroup_tree *t = vm_cgroup_tree(vm);
	char name[UUID_TEXT];

	place_name(vm, name);
	return t ? cgroup_tree_write(t, name, "cpu.weight", weight) : -ENOENT;
}

/* Lines of memory.events: how often a process of the group was killed for lack of memory, at whose limit it ever was;
 * and how often an allocation failed at the limit of this group or of one below it. */
#define KILLS "\noom_kill "
#define LIMITS "\noom "

/* Read a counter of a group's memory.events. Returns 0 if the group has none. line: "\nNAME ". */
static uint64_t memory_event(const struct cgroup_tree *t, const char *name, const char *line)
{
	char text[256];
	const char *at;

	if (!t->has[CGROUP_MEMORY] || cgroup_tree_read_text(t, name, "memory.events", text, sizeof(text)) < 0)
		return 0;
	at = strstr(text, line);
	return at ? strtoull(at + strlen(line), NULL, 10) : 0;
}

void vm_cgroup_place(struct vm *vm, bool limits_memory, bool keeps, struct cgroup_place *ret)
{
	*ret = (struct cgroup_place){ .keeps = keeps, .tree = vm_cgroup_tree(vm) };
	if (!ret->tree)
		return;
	_Static_assert(sizeof(ret->name) >= UUID_TEXT, "a uuid fits");
	place_name(vm, ret->name);
	if (!keeps) {
		vm->memory_events.kills = memory_event(ret->tree, ret->name, KILLS);
		vm->memory_events.limits = memory_event(ret->tree, ret->name, LIMITS);
	}
	vm_cgroup_limits(vm_live(vm), &ret->limits);
	if (!limits_memory)
		ret->limits.memory_bytes = 0;
}

int vm_cgroup_enter(const struct cgroup_place *place, struct err *e)
{
	int fd = place->name[0] ? cgroup_tree_enter(place->tree, place, e) : -1;

	if (fd >= 0)
		close(fd);
	return place->name[0] && fd < 0 ? fd : 0;
}

bool vm_cgroup_may_limit_memory(const struct config *c)
{
	for (unsigned i = 0; i < c->vm.ndisks; i++) {
		const struct vm_disk *d = &c->vm.disks[i];
		struct file_id id;

		if (d->read_only)
			continue;
		if (config_identify(c, d->fd[0], &id) < 0 || id.in_memory)
			return false;
		if (d->data_fd[0] != VM_NO_FD && (config_identify(c, d->data_fd[0], &id) < 0 || id.in_memory))
			return false;
	}
	return true;
}

static void memory_set(const struct vm *vm, const struct cgroup_tree *t, uint64_t bytes)
{
	char name[UUID_TEXT];
	int r;

	place_name(vm, name);
	r = cgroup_tree_limit_memory(t, name, bytes);
	if (r < 0 && r != -ENOENT) /* an older Cairn may have started the process */
		log_warn("sandbox", "VM '%s': cannot set the memory limit of its control group: %s", vm->def->name, strerror(-r));
}

void vm_cgroup_limit_memory(const struct vm *vm)
{
	const struct cgroup_tree *t = vm_cgroup_tree(vm);

	if (t && t->has[CGROUP_MEMORY])
		memory_set(vm, t, memory_max(vm_live(vm)));
}

void vm_cgroup_make_room(struct vm *vm)
{
	const struct cgroup_tree *t = vm_cgroup_tree(vm);
	char name[UUID_TEXT];
	uint64_t now, limit;

	if (!t || !t->has[CGROUP_MEMORY])
		return;
	place_name(vm, name);
	/* Without a limit, memory.max is "max". */
	if (cgroup_tree_read(t, name, "memory.current", &now) < 0 || cgroup_tree_read(t, name, "memory.max", &limit) < 0)
		return;
	vm->cgroup_room = true;
	if (now + memory_max(vm_live(vm)) > limit)
		memory_set(vm, t, now + memory_max(vm_live(vm)));
}

/* Files of forks that live may keep a part of the room: it counts as the VM's memory. The VM itself takes at most its
 * RAM, of which it may have nothing yet, and its budget without the RAM's second part (vm_cgroup_limits()). */
static void room_take_back(struct vm *vm)
{
	const struct cgroup_tree *t = vm_cgroup_tree(vm);
	const struct definition *d = vm_live(vm);
	char name[UUID_TEXT];
	uint64_t now, limit, wanted;

	if (!vm->cgroup_room || !vm->proc || vm->operation.kind != VM_OP_NONE || !t || !t->has[CGROUP_MEMORY])
		return;
	place_name(vm, name);
	if (cgroup_tree_read(t, name, "memory.current", &now) < 0 || cgroup_tree_read(t, name, "memory.max", &limit) < 0) {
		vm->cgroup_room = false; /* the group has no limit */
		return;
	}
	wanted = MAX(memory_max(d), now + memory_max(d) - MIN(now + memory_max(d), d->ram_bytes));
	if (wanted < limit)
		memory_set(vm, t, wanted);
	vm->cgroup_room = wanted > memory_max(d);
}

const char *vm_cgroup_kill_reason(const struct vm *vm)
{
	const struct cgroup_tree *t = vm_cgroup_tree(vm);
	char name[UUID_TEXT];

	if (!t)
		return NULL;
	place_name(vm, name);
	if (memory_event(t, name, KILLS) <= vm->memory_events.kills)
		return NULL;
	return memory_event(t, name, LIMITS) > vm->memory_events.limits ?
		"the kernel killed its process at the memory limit of its control group" :
		"the kernel killed its process, because the host, or a control group above the VM's, had no memory left";
}

double vm_cgroup_pressure(const struct vm *vm)
{
	const struct cgroup_tree *t = vm_cgroup_tree(vm);
	char name[UUID_TEXT], text[256];
	const char *at = NULL;

	place_name(vm, name);
	/* The first line is that of "some". */
	if (t && !cgroup_tree_read_text(t, name, MEMORY_PRESSURE_GROUP, text, sizeof(text)))
		at = strstr(text, "avg300=");
	return at ? strtod(at + strlen("avg300="), NULL) : NAN;
}

int vm_cgroup_open_pressure(const struct vm *vm)
{
	const struct cgroup_tree *t = vm_cgroup_tree(vm);
	char name[UUID_TEXT], path[UUID_TEXT + sizeof(MEMORY_PRESSURE_GROUP)];

	if (!t)
		return -ENOENT;
	place_name(vm, name);
	snprintf(path, sizeof(path), "%s/" MEMORY_PRESSURE_GROUP, name);
	return memory_pressure_open(t->fd, path);
}

/* ---- removing groups ---- */

static bool has_process(const struct vm *vm)
{
	return vm->proc || vm->offline || vm->start.ahead;
}

static void sweep_later(struct vm_host *host, uint64_t ns);

/* Return whether a VM with a process is in the group of this name in the daemon's tree. */
static bool is_used(const struct vm_host *host, const uint8_t uuid[16])
{
	for (size_t i = 0; i < host->nvms; i++)
		if (!memcmp(group_of(host->vms[i]), uuid, 16) && has_process(host->vms[i]) && !host->vms[i]->scope_tree)
			return true;
	return false;
}

/* Remove up to SWEEP_AT_ONCE groups from the daemon's tree. Folders with other names are not ours. Returns how many. */
static unsigned groups_remove(struct vm_host *host, const struct cgroup_tree *t)
{
	int fd = openat(t->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	unsigned n = 0;

	for (struct dirent *d; dir && n < SWEEP_AT_ONCE && (d = readdir(dir));) {
		uint8_t uuid[16];
		int r;

		if (uuid_parse(d->d_name, uuid) < 0)
			continue;
		if (is_used(host, uuid) || vm_spares_have(host, uuid))
			continue;
		r = cgroup_tree_remove(t, d->d_name);
		n += !r;
		if (r < 0)
			log_debug("sandbox", "control group %s: %s", d->d_name, strerror(-r));
	}
	if (dir)
		closedir(dir);
	else if (fd >= 0)
		close(fd);
	return n;
}

static void sweep(void *opaque)
{
	struct vm_host *host = opaque;
	const struct cgroup_tree *t = vm_cgroup_tree_of_host(host);
	unsigned n = t ? groups_remove(host, t) : 0;

	for (size_t i = 0; i < host->nvms; i++)
		room_take_back(host->vms[i]);
	if (n == SWEEP_AT_ONCE)
		sweep_later(host, SWEEP_TURN_NS);
}

static void sweep_later(struct vm_host *host, uint64_t ns)
{
	if (!host->cgroup_sweep && loop_timer_new(host->loop, sweep, host, &host->cgroup_sweep) < 0)
		host->cgroup_sweep = NULL; /* the next end of a VM, or the next daemon, tries again */
	if (host->cgroup_sweep)
		loop_timer_arm(host->cgroup_sweep, loop_now_ns() + ns);
}

void vm_cgroups_sweep(struct vm_host *host)
{
	if (vm_cgroup_tree_of_host(host) || host->scopes)
		sweep_later(host, SWEEP_NS);
}

/* ---- as an observer ---- */

static void cgroup_on_job_concluded(struct vm_host *host, const char *name)
{
	const struct vm *vm = vm_find(host, name);

	if (vm && vm->cgroup_room)
		vm_cgroups_sweep(host);
}

/* An earlier daemon may have made room. */
static void cgroup_on_adopted(struct vm *vm, const struct vm_info *info)
{
	(void)info;
	vm->cgroup_room = true;
}

static void group_clear(struct vm *vm)
{
	if (!uuid_is_set(vm->group))
		return;
	memset(vm->group, 0, sizeof(vm->group));
	vm_save(vm);
}

static void cgroup_on_run_over(struct vm *vm, bool was_active, bool rebooting)
{
	(void)was_active;
	(void)rebooting;
	group_clear(vm);
}

const struct vm_observer vm_cgroup_observer = { .job_concluded = cgroup_on_job_concluded, .adopted = cgroup_on_adopted,
	.run_over = cgroup_on_run_over, .found_off = group_clear };
