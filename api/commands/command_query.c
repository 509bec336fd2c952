/* Handlers of queries. */
#include "api/commands/command.h"
#include "api/access/audit.h"
#include "api/definition/definition.h"
#include "api/jobs/job.h"
#include "api/net/forwards.h"
#include "api/net/network_ports.h"
#include "api/net/publish_restart.h"
#include "api/policy/restart.h"
#include "api/policy/shutdown.h"
#include "api/store/event_log.h"
#include "api/store/store.h"
#include "api/vm/systemd_scope.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_figures.h"
#include "api/vm/vm_process.h"
#include "api/vm/vm_socket.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/utf8.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define QUERY_TIMEOUT_NS (1000000000ULL)
#define LIST_LIMIT 1000
/* Maximum size of a page of vm-list. Some clients read lines of at most 64 KiB. A page ends early enough for one more
 * entry and the next page's name. */
#define LIST_BYTES (58 * 1024)

void command_qmp_capabilities(struct call *c)
{
	struct json_object *enable = js_get_array(c->args, "enable");
	struct err e;

	if (enable && json_object_array_length(enable)) {
		err_set(&e, -EINVAL, ERR_GENERIC, "there are no capabilities to enable");
		call_fail(c, &e);
		return;
	}
	conn_set_negotiated(c->conn);
	call_return(c, NULL);
}

void command_query_version(struct call *c)
{
	struct json_object *o = schema_version_to_json();

	js_put_str(o, "cairn", CAIRN_VERSION);
	call_return(c, o);
}

void command_query_commands(struct call *c)
{
	call_return(c, schema_commands_to_json(c->dialect));
}

void command_query_schema(struct call *c)
{
	int64_t page = js_get_int(c->args, "page", -1);
	struct err e;

	if (js_get(c->args, "page") && (page < 0 || page > INT_MAX)) {
		err_set(&e, -EINVAL, ERR_INVALID, "page: %lld is no page; give 0 for the first one", (long long)page);
		call_fail(c, &e);
		return;
	}
	call_return(c, page < 0 ? schema_printed(c->dialect) : schema_page_printed((unsigned)page));
}

void command_query_audit(struct call *c)
{
	int64_t from = js_get_int(c->args, "from", 0);
	struct audit_query q = { .from = from > 0 ? (uint64_t)from : 0,
		.since_ns = js_get_int(c->args, "since", 0), .uid = js_get_int(c->args, "uid", -1),
		.vm = js_get_str(c->args, "vm") };

	call_return(c, audit_page(c->context->host->audit, &q));
}

static bool is_for_admins(const char *event)
{
	const struct event_spec *s = schema_event_find(event);

	return s && s->admins;
}

/* What a client wants to see of the event log. */
struct event_filter {
	const struct conn *conn;
	const char *event; /* its name; NULL: any */
	const char *vm;	   /* NULL: any */
	char uuid[DEFINITION_UUID_TEXT]; /* vm as the log prints a UUID; empty: vm is no UUID */
};

static struct event_filter filter_of(const struct call *c)
{
	struct event_filter f = { c->conn, js_get_str(c->args, "event"), js_get_str(c->args, "vm"), "" };
	uint8_t uuid[16];

	if (f.vm && uuid_parse(f.vm, uuid) == 0)
		uuid_print(uuid, f.uuid);
	return f;
}

static bool is_about(const struct event_log_subject *s, const struct event_filter *f)
{
	return !f->vm || (s->vm && !strcmp(s->vm, f->vm)) || (s->uuid && !strcmp(s->uuid, f->uuid));
}

/* The cheap checks come first: a page may look at many events, and roles come from a table of permissions. A name may
 * belong to another VM now, so events without a UUID, which an older daemon wrote, need a role for all VMs. */
static bool event_wanted(void *opaque, const struct event_log_subject *s)
{
	const struct event_filter *f = opaque;
	uint8_t uuid[16];

	if (!is_about(s, f) || (f->event && strcmp(s->event, f->event)) ||
		(is_for_admins(s->event) && conn_role(f->conn) < ROLE_ADMIN))
		return false;
	return conn_role(f->conn) >= ROLE_VIEWER ||
		(s->uuid && uuid_parse(s->uuid, uuid) == 0 && conn_role_for(f->conn, uuid) >= ROLE_VIEWER);
}

void command_query_events(struct call *c)
{
	int64_t since = js_get_int(c->args, "since", 0);
	struct event_filter f = filter_of(c);

	call_return(c, event_log_page(c->host->events, since > 0 ? (uint64_t)since : 0, event_wanted, &f));
}

void command_vm_qmp_path(struct call *c)
{
	char path[PATH_MAX];
	struct json_object *o;
	struct err e;

	if (vm_qmp_path(c->vm, path, sizeof(path), &e) < 0) {
		call_fail(c, &e);
		return;
	}
	o = json_object_new_object();
	js_put_str(o, "path", path);
	call_return(c, o);
}

void command_vm_dump_definition(struct call *c)
{
	struct json_object *o = json_object_new_object();
	bool inactive = js_get_bool(c->args, "inactive", false);

	js_put(o, "definition", definition_to_json(inactive ? c->vm->def : vm_live(c->vm)));
	js_put_bool(o, "pending", vm_is_pending(c->vm));
	call_return(c, o);
}

/* ---- list ---- */

/* Add a VM's identity to o. brief: only the columns of `cairn list`. */
static void put_identity(struct json_object *o, const struct vm *vm, bool brief)
{
	char uuid[DEFINITION_UUID_TEXT];

	js_put_int(o, "id", vm->id);
	js_put_str(o, "name", vm->def->name);
	if (!brief) {
		uuid_print(vm->def->uuid, uuid);
		js_put_str(o, "uuid", uuid);
	}
	if (!brief && vm->def->title)
		js_put_str(o, "title", vm->def->title);
	js_put_str(o, "state", vm_state_name(vm->state));
	js_put_str(o, "word", vm_state_word(vm->state));
	if (vm_compat_is_old(vm))
		js_put_bool(o, "outdated", true);
	if (brief)
		return;
	js_put_str(o, "reason", vm->reason);
	js_put_bool(o, "persistent", true);
	js_put_bool(o, "autostart", vm_has(vm, VM_FACT_AUTOSTART));
	js_put_bool(o, "managed-save", vm->state == VM_SAVED);
	js_put_bool(o, "template", vm_has(vm, VM_FACT_TEMPLATE));
}

/* Return the most bytes that js_line() prints for s. */
static size_t escaped_bytes(const char *s)
{
	size_t n = 0;

	for (; s && *s; s++)
		n += *s >= ' ' && *s <= '~' && *s != '"' && *s != '\\' && *s != '/' ? 1 : 6;
	return n;
}

/* Return the most bytes of an entry. The constant covers keys, uuid, words and a reason of 31 bytes. */
static size_t entry_bytes(const struct vm *vm, bool brief)
{
	return (brief ? 97 : 309) + escaped_bytes(vm->def->name) + (brief ? 0 : escaped_bytes(vm->def->title));
}

struct unloaded {
	struct call *call;
	struct json_object *list;
	size_t bytes;
};

/* Add a VM whose files could not be loaded, until such VMs fill a quarter of the page. */
static void unloaded_put(void *opaque, const char *name, const char *sentence)
{
	struct unloaded *u = opaque;
	struct json_object *o;

	/* The VM may have been defined again since its definition was found damaged. */
	if (vm_find(u->call->host, name) || conn_role(u->call->conn) < ROLE_VIEWER || u->bytes > LIST_BYTES / 4)
		return;
	o = json_object_new_object();
	js_put_str(o, "name", name);
	js_put_str(o, "why", sentence);
	json_object_array_add(u->list, o);
	u->bytes += 32 + escaped_bytes(name) + escaped_bytes(sentence);
}

static size_t put_unloaded(struct json_object *o, struct call *c)
{
	struct unloaded u = { c, json_object_new_array(), 0 };

	store_each_unread(c->host->store, unloaded_put, &u);
	if (u.bytes)
		js_put(o, "unloaded", u.list);
	else
		json_object_put(u.list);
	return u.bytes;
}

void command_vm_list(struct call *c)
{
	struct vm_host *host = c->host;
	const char *after = js_get_str(c->args, "after");
	int64_t limit = js_get_int(c->args, "limit", LIST_LIMIT);
	size_t i = vm_index_after(host, after ? after : ""), bytes = 0;
	bool brief = js_get_bool(c->args, "brief", false);
	struct json_object *o, *vms;
	struct err e;

	if (limit < 1 || limit > LIST_LIMIT) {
		err_set(&e, -EINVAL, ERR_INVALID, "limit: %lld is out of range; give 1 to %d",
			(long long)limit, LIST_LIMIT);
		call_fail(c, &e);
		return;
	}
	o = json_object_new_object();
	vms = json_object_new_array();
	if (!after)
		bytes = put_unloaded(o, c);
	for (; i < host->nvms && limit && bytes < LIST_BYTES; i++) {
		struct json_object *entry;

		if (conn_role_for(c->conn, host->vms[i]->def->uuid) < ROLE_VIEWER)
			continue;
		entry = json_object_new_object();
		put_identity(entry, host->vms[i], brief);
		json_object_array_add(vms, entry);
		bytes += entry_bytes(host->vms[i], brief);
		limit--; /* only a visible VM ends a page, because `next` is the name of the page's last VM */
	}
	js_put(o, "vms", vms);
	if (i < host->nvms)
		js_put_str(o, "next", host->vms[i - 1]->def->name);
	call_return(c, o);
}

/* ---- info ---- */

static struct json_object *disk_figures(const struct vm_disk_info *d, unsigned fault, unsigned tray)
{
	/* The first two words are virsh's. */
	static const char *const faults[] = { [VM_DISK_FAILED] = "unspecified error",
		[VM_DISK_NO_SPACE] = "no space", [VM_DISK_CORRUPT] = "image corrupt" };
	struct json_object *o = json_object_new_object();
	char id[sizeof(d->id)];

	memcpy(id, d->id, sizeof(id));
	id[sizeof(id) - 1] = 0;
	utf8_clean(id);
	js_put_str(o, "id", id);
	js_put_uint(o, "size", d->size_bytes);
	js_put_uint(o, "rd-reqs", d->rd_reqs);
	js_put_uint(o, "rd-bytes", d->rd_bytes);
	js_put_uint(o, "rd-ns", d->rd_ns);
	js_put_uint(o, "wr-reqs", d->wr_reqs);
	js_put_uint(o, "wr-bytes", d->wr_bytes);
	js_put_uint(o, "wr-ns", d->wr_ns);
	js_put_uint(o, "fl-reqs", d->fl_reqs);
	js_put_uint(o, "fl-ns", d->fl_ns);
	js_put_uint(o, "errors", d->errors);
	if (fault && fault < ARRAY_SIZE(faults))
		js_put_str(o, "fault", faults[fault]);
	if (tray)
		js_put_bool(o, "tray-open", tray == VM_TRAY_OPEN);
	return o;
}

static struct json_object *interface_figures(const struct vm_interface_info *i)
{
	struct json_object *o = json_object_new_object();
	char id[sizeof(i->id)], target[sizeof(i->target)], mac[DEFINITION_MAC_TEXT];

	memcpy(id, i->id, sizeof(id));
	memcpy(target, i->target, sizeof(target));
	id[sizeof(id) - 1] = target[sizeof(target) - 1] = 0;
	utf8_clean(id);
	utf8_clean(target);
	mac_print(i->mac, mac);
	js_put_str(o, "id", id);
	js_put_str(o, "mac", mac);
	if (target[0])
		js_put_str(o, "target", target);
	js_put_str(o, "link", i->link_up ? "up" : "down");
	js_put_uint(o, "rx-bytes", i->rx_bytes);
	js_put_uint(o, "rx-packets", i->rx_packets);
	js_put_uint(o, "rx-errors", i->rx_errors);
	js_put_uint(o, "rx-drops", i->rx_drops);
	js_put_uint(o, "tx-bytes", i->tx_bytes);
	js_put_uint(o, "tx-packets", i->tx_packets);
	js_put_uint(o, "tx-errors", i->tx_errors);
	js_put_uint(o, "tx-drops", i->tx_drops);
	return o;
}

static struct json_object *interface_put(const struct vm_interface_info *i, const struct vm_info *info, uint32_t n)
{
	struct json_object *o = interface_figures(i);

	if (!info->sets_interfaces)
		return o;
	js_put_str(o, "set-link", info->link_down[n] ? "down" : "up");
	js_put(o, "bandwidth", definition_limits_to_json(&info->limits[n]));
	return o;
}

static void put_counters(struct json_object *o, const struct vm_info *info)
{
	static const char *const hosts[] = { "unknown", "vmx", "svm", "pvm" };
	struct json_object *exits = json_object_new_object(), *assist = json_object_new_object();

	js_put_str(o, "host", hosts[info->host_kind < ARRAY_SIZE(hosts) ? info->host_kind : 0]);
	js_put_bool(assist, "on", info->assist_on);
	js_put_uint(assist, "syscalls", info->assist_syscalls);
	js_put_uint(assist, "instructions", info->assist_instructions);
	js_put(o, "assist", assist);
	js_put_uint(exits, "io", info->exits_io);
	js_put_uint(exits, "mmio", info->exits_mmio);
	js_put_uint(exits, "other", info->exits_other);
	js_put(o, "exits", exits);
}

/* Add what the egress rules of the interface have denied. */
static void denied_put(struct json_object *o, const struct vm *vm, uint32_t at)
{
	uint64_t denied[2];
	struct json_object *egress;

	if (at >= vm_live(vm)->ninterfaces || !vm_live(vm)->interfaces[at].egress || !forwards_denied(vm, at, denied))
		return;
	egress = json_object_new_object();
	js_put_uint(egress, "denied-packets", denied[0]);
	js_put_uint(egress, "denied-questions", denied[1]);
	js_put(o, "egress", egress);
}

/* The statistics in the order of vm_balloon_info.stats. */
static const char *const balloon_names[VM_BALLOON_STATS] = { "swap-in", "swap-out", "major-faults", "minor-faults", "unused",
	"available", "usable", "disk-caches", "hugetlb-allocs", "hugetlb-failures" };

static void put_balloon(struct json_object *o, const struct vm_balloon_info *b)
{
	struct json_object *balloon = json_object_new_object();

	js_put_uint(o, "used-memory", b->guest_bytes);
	js_put_bool(balloon, "driver", b->state == VM_BALLOON_WORKS);
	js_put_uint(balloon, "target", b->target_bytes);
	js_put_uint(balloon, "actual", b->guest_bytes);
	js_put_uint(balloon, "reported", b->reported_bytes);
	js_put_uint(balloon, "period", b->period_s);
	if (b->stats_s)
		js_put_uint(balloon, "last-update", b->stats_s);
	for (unsigned i = 0; i < VM_BALLOON_STATS; i++)
		if (b->known >> i & 1)
			js_put_uint(balloon, balloon_names[i], b->stats[i]);
	js_put(o, "balloon", balloon);
}

/* Add the bins up to the last one that is not 0. */
static void latency_put(struct json_object *o, const char *key, const uint64_t bins[LATENCY_BINS])
{
	unsigned n = LATENCY_BINS;
	struct json_object *list;

	while (n && !bins[n - 1])
		n--;
	if (!n)
		return;
	list = json_object_new_array_ext((int)n);
	for (unsigned i = 0; i < n; i++)
		json_object_array_add(list, json_object_new_uint64(bins[i]));
	js_put(o, key, list);
}

static void put_more_of_disk(struct json_object *o, const struct vm_figures *more, unsigned i)
{
	js_put_uint(o, "in-flight", more->disks[i].in_flight);
	latency_put(o, "rd-latency", more->disks[i].latency[0]);
	latency_put(o, "wr-latency", more->disks[i].latency[1]);
	latency_put(o, "fl-latency", more->disks[i].latency[2]);
}

static void put_more_of_vcpus(struct json_object *o, const struct vm *vm, const struct vm_figures *more)
{
	struct json_object *delays = json_object_new_array(), *halted = json_object_new_array(), *processors = json_object_new_array();

	js_put_uint(o, "cpu-user", more->vcpu_user_ns);
	js_put_uint(o, "cpu-system", more->vcpu_system_ns);
	for (uint32_t i = 0; i < more->info.vcpus; i++) {
		json_object_array_add(processors, json_object_new_int(more->vcpu_processor[i]));
		json_object_array_add(delays, json_object_new_uint64(more->vcpu_delay_ns[i]));
		json_object_array_add(halted, json_object_new_boolean(vm->state == VM_RUNNING && more->vcpu_sleeps[i]));
	}
	js_put(o, "vcpu-delays", delays);
	js_put(o, "vcpu-halted", halted);
	js_put(o, "vcpu-processors", processors);
}

static void put_figures(struct json_object *o, const struct vm *vm, const struct vm_info *info, const struct vm_figures *more)
{
	struct json_object *times = json_object_new_array(), *disks = json_object_new_array(),
			   *interfaces = json_object_new_array();
	uint32_t vcpus = MIN(info->vcpus, VM_VCPUS_MAX), ndisks = MIN(info->ndisks, VM_DISKS_MAX);
	uint64_t sum = 0;

	for (uint32_t i = 0; i < vcpus; i++) {
		sum += info->vcpu_ns[i];
		json_object_array_add(times, json_object_new_uint64(info->vcpu_ns[i]));
	}
	js_put_uint(o, "cpu-time", sum);
	js_put(o, "vcpu-times", times);
	if (more)
		put_more_of_vcpus(o, vm, more);
	put_counters(o, info);
	for (uint32_t i = 0; i < ndisks; i++) {
		struct json_object *one = disk_figures(&info->disks[i], info->disk_faults[i], info->trays[i]);

		if (more)
			put_more_of_disk(one, more, i);
		json_object_array_add(disks, one);
	}
	js_put(o, "disks", disks);
	for (uint32_t i = 0; i < MIN(info->ninterfaces, VM_INTERFACES_MAX); i++) {
		struct json_object *one = interface_put(&info->interfaces[i], info, i);

		denied_put(one, vm, i);
		network_ports_show(vm, i, one);
		publish_restart_show(vm, i, one);
		json_object_array_add(interfaces, one);
	}
	js_put(o, "interfaces", interfaces);
	if (info->balloon.state)
		put_balloon(o, &info->balloon);
}

/* Return the resident bytes of a process; 0: unknown. */
static uint64_t resident_bytes(pid_t pid)
{
	unsigned long long pages = 0;
	char path[40], text[128];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n < 0 ? 0 : n] = 0;
	return sscanf(text, "%*u %llu", &pages) == 1 ? pages * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

static void put_process(struct json_object *o, pid_t pid)
{
	js_put_int(o, "pid", pid);
	js_put_uint(o, "resident-memory", resident_bytes(pid));
}

static const char *agent_word(uint8_t state)
{
	return state == VM_AGENT_ANSWERS ? "connected" : state == VM_AGENT_OPEN ? "open" : "closed";
}

static void put_state(struct json_object *o, const struct vm *vm)
{
	if (vm->detail[0])
		js_put_str(o, "detail", vm->detail);
	if (vm->value)
		js_put_int(o, "value", vm->value);
	js_put_uint(o, "since", vm->since_ns);
	js_put_uint(o, "machine", vm_live(vm)->machine);
	js_put_uint(o, "vcpus", vm_live(vm)->vcpus);
	js_put_uint(o, "memory", vm_live(vm)->ram_bytes);
	js_put_uint(o, "used-memory", vm_state_is_active(vm->state) ? vm_live(vm)->ram_bytes : 0);
	if (vm->proc && vm_process_pid(vm->proc) > 0)
		put_process(o, vm_process_pid(vm->proc));
	if (vm->proc && vm_live(vm)->guest_agent)
		js_put_str(o, "agent", agent_word(vm->agent.now));
	if (vm->operation.job)
		js_put_str(o, "job", vm->operation.job->id);
	if (vm->scope)
		js_put(o, "systemd-scope", systemd_scope_to_json(vm));
	shutdown_put(vm, o);
	if (vm_is_starting(vm))
		js_put_bool(o, "starting", true);
	if (restart_is_pending(vm))
		js_put_uint(o, "restart-in", restart_in_ns(vm));
	if (vm->exit.status >= 0)
		js_put_int(o, "exit-status", vm->exit.status);
	if (vm->exit.signal)
		js_put_int(o, "exit-signal", vm->exit.signal);
}

struct json_object *command_vm_figures(const struct vm *vm, const struct vm_info *info, const struct vm_figures *more)
{
	struct json_object *o = json_object_new_object();

	put_identity(o, vm, false);
	put_state(o, vm);
	if (info) {
		js_put_bool(o, "idle", vm->state == VM_RUNNING && info->vcpus && info->vcpus_halted == info->vcpus);
		if (info->machine)
			js_put_uint(o, "machine", info->machine);
		put_figures(o, vm, info, more);
	}
	return o;
}

static void info_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct call *c = opaque;

	(void)e;
	call_return(c, command_vm_figures(c->vm, r == 0 ? a->info : NULL, NULL));
}

static struct json_object *affinities_put(struct json_object *o, const struct vm *vm, uint32_t vcpus)
{
	struct json_object *all = json_object_new_array();
	char text[1024];

	for (uint32_t i = 0; i < vcpus && vm_figures_affinity(vm->proc, i, text, sizeof(text)); i++)
		json_object_array_add(all, json_object_new_string(text));
	js_put(o, "vcpu-affinity", all);
	return o;
}

void command_vm_info(struct call *c)
{
	bool runs = c->vm->proc && vm_state_is_active(c->vm->state);
	struct vm_figures f;

	if (runs && vm_figures_read(c->vm->proc, &f))
		call_return(c, affinities_put(command_vm_figures(c->vm, &f.info, &f), c->vm, f.info.vcpus));
	else if (runs)
		vm_process_request(c->vm->proc, VM_MSG_QUERY, NULL, 0, -1, QUERY_TIMEOUT_NS,
			info_done, c);
	else
		info_done(c, -ENOENT, NULL, NULL);
}
