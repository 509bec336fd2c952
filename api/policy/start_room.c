#include "api/policy/start_room.h"
#include "api/definition/vm_config.h"
#include "api/net/forward_check.h"
#include "api/net/forwards.h"
#include "api/net/network.h"
#include "api/net/network_ports.h"
#include "api/net/tap.h"
#include "api/policy/advice.h"
#include "api/policy/disk_room.h"
#include "api/policy/pool_space.h"
#include "api/policy/trends.h"
#include "api/schema/call.h"
#include "api/store/paths.h"
#include "api/store/pools.h"
#include "api/vm/vm.h"
#include "api/vm/vm_disk_free.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MEMINFO "/proc/meminfo"

/* ---- errors of a start ---- */

/* Compare the paths of images with those of running VMs. */
static int images_check(const struct vm *vm, struct err *e)
{
	const struct file_id none = { .dev = UINT64_MAX, .ino = UINT64_MAX };
	const struct definition *def = vm_live(vm);
	char key[32];
	int r = 0;

	for (uint32_t i = 0; i < def->ndisks && !r; i++) {
		snprintf(key, sizeof(key), "disks[%u].path", i);
		if (def->disks[i].nlayers)
			r = vm_disk_check_free(vm, NULL, &def->disks[i], &none, key, e);
	}
	return r;
}

static int networks_check(const struct vm *vm, struct err *e)
{
	const struct tap_rules rules = { vm->host->paths->bridges_for_all, network_bridge_for, vm->host };
	const struct definition *def = vm_live(vm);
	int r = 0;

	for (uint32_t i = 0; i < def->ninterfaces && !r; i++) {
		const struct definition_interface *face = &def->interfaces[i];

		if (!face->link)
			r = forward_check_network(vm->host, face, i, network_ports_is_clone(vm, i), face->user.forwards, face->user.nforwards, e);
	}
	return r ? r : taps_check(def, &rules, e);
}

/* Look for programs that have ports of the VM; vm_start_check() has looked for other VMs. */
static int ports_check(const struct vm *vm, struct err *e)
{
	const struct definition *def = vm_live(vm);
	struct definition_forward screen = { .protocol = DEFINITION_TCP, .port = (uint16_t)def->vnc.port };
	int r = forwards_check_ports(vm, e);

	snprintf(screen.address, sizeof(screen.address), "%s", def->vnc.address);
	return !r && def->vnc.on && def->vnc.port ? config_check_forward(&screen, "vnc.port", e) : r;
}

int start_room_check(struct vm *vm, struct err *e)
{
	int r = vm_start_check(vm, e);

	if (!r)
		r = images_check(vm, e);
	if (!r)
		r = ports_check(vm, e);
	return r ? r : networks_check(vm, e);
}

/* ---- resources that are short ---- */

/* Return the memory that the host can give without swapping; 0: not known. */
static uint64_t available_read(void)
{
	return (uint64_t)file_number_behind(MEMINFO, "MemAvailable:") * KIB;
}

static bool sees(const struct call *c, const struct vm *vm)
{
	return vm && call_role_for(c, vm->def->uuid) >= ROLE_VIEWER;
}

/* The resources that VMs with a process use. */
struct use {
	double cpus, most; /* processors that all keep busy, and that `busiest` does */
	const struct vm *busiest; /* NULL: none */
	const struct vm *holder; /* whose process holds most memory; NULL: none */
};

static struct use use_find(const struct vm_host *host)
{
	struct use u = { 0 };

	for (size_t i = 0; i < host->nvms; i++) {
		const struct vm *vm = host->vms[i];
		double cpus = vm->proc ? trends_cpus(vm) : 0;

		u.cpus += cpus;
		if (cpus > u.most) {
			u.most = cpus;
			u.busiest = vm;
		}
		if (vm->proc && trends_resident(vm) > (u.holder ? trends_resident(u.holder) : 0))
			u.holder = vm;
	}
	return u;
}

/* Find the first disk whose image the VM writes in a pool with little space. Returns the pool; NULL: there is none. */
static const struct pool *disk_find(const struct vm *vm, struct advice_start *s)
{
	const struct definition *def = vm_live(vm);
	const struct pools *p = &vm->host->pools;
	struct pool_state state;

	for (uint32_t i = 0; i < def->ndisks; i++)
		for (size_t k = 0; k < p->n; k++) {
			const struct definition_disk *d = &def->disks[i];

			if (d->read_only || !d->nlayers || !disk_room_lies_in(d->layers[0].path, p->list[k].target) ||
				!pool_space_state(vm->host->pool_space, p->list[k].name, &state) || !state.low)
				continue;
			s->disk = d->id;
			s->pool = p->list[k].name;
			s->space = &state.history->points[state.history->n - 1];
			return &p->list[k];
		}
	return NULL;
}

static bool has_image_in(const struct vm *vm, const char *folder)
{
	const struct definition *def = vm_live(vm);

	for (uint32_t i = 0; i < def->ndisks; i++)
		if (!def->disks[i].read_only && def->disks[i].nlayers && disk_room_lies_in(def->disks[i].layers[0].path, folder))
			return true;
	return false;
}

/* Find the VM that the client may see with most space in the folder. Of images that Cairn did not make, no space is
 * known. */
static void disk_holder_find(const struct vm *vm, const struct call *c, const char *folder, struct advice_start *s)
{
	const struct vm_host *host = vm->host;

	for (size_t i = 0; i < host->nvms; i++) {
		const struct vm *other = host->vms[i];

		if (other == vm || other->counts.made_bytes <= s->disk_held || !has_image_in(other, folder) || !sees(c, other))
			continue;
		s->disk_holder = other->def->name;
		s->disk_held = other->counts.made_bytes;
	}
}

static void disk_put(const struct vm *vm, const struct call *c, const struct disk_room *low, struct advice_start *s)
{
	s->disk = low->disk;
	s->folder = low->folder;
	s->space = &low->space;
	disk_holder_find(vm, c, low->folder, s);
}

void start_room_disk(const struct vm *vm, const struct call *c, const struct disk_room *low, struct advice_list *ret)
{
	struct advice_start s = { .name = vm->def->name, .host_cpus = UINT32_MAX };

	disk_put(vm, c, low, &s);
	advice_of_start(&s, ret);
}

void start_room_advise(const struct vm *vm, const struct call *c, bool vcpus, const struct disk_room *low, struct advice_list *ret)
{
	const struct definition *def = vm_live(vm);
	const struct use u = use_find(vm->host);
	const struct pool *pool;
	struct advice_start s = { .name = vm->def->name, .ram_bytes = def->ram_bytes, .available_bytes = available_read(), .vcpus = def->vcpus,
		.host_cpus = vcpus ? (uint32_t)MAX(sysconf(_SC_NPROCESSORS_ONLN), 1) : UINT32_MAX,
		.busy_cpus = u.cpus, .busy_most = u.most };

	s.busy_name = sees(c, u.busiest) ? u.busiest->def->name : NULL;
	if (sees(c, u.holder)) {
		s.holder = u.holder->def->name;
		s.held_bytes = trends_resident(u.holder);
	}
	pool = disk_find(vm, &s);
	if (pool)
		disk_holder_find(vm, c, pool->target, &s);
	else if (low)
		disk_put(vm, c, low, &s);
	advice_of_start(&s, ret);
}
