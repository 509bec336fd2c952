/* Handlers of queries. */
#include "api/commands/command.h"
#include "api/access/audit.h"
#include "api/definition/definition.h"
#include "api/jobs/job.h"
#include "api/net/forwards.h"
#include "api/net/network_ports.h"
#include "api/net/publish_restart.h"
#include "api/policy/balancer.h"
#include "api/policy/hook_ask.h"
#include "api/policy/restart.h"
#include "api/policy/shutdown.h"
#include "api/policy/vm_space.h"
#include "api/store/event_log.h"
#include "api/store/store.h"
#include "api/vm/mirrors.h"
#include "api/vm/owner_claim.h"
#include "api/vm/systemd_scope.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_figures.h"
#include "api/vm/vm_process.h"
#include "api/vm/vm_vcpus.h"
#include "api/vm/vm_socket.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "api/wire/json_writer.h"
#include "base/err.h"
#include "base/utf8.h"
#include "base/util.h"
#include "base/uuid.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define QUERY_TIMEOUT_NS (1000000000ULL)
#define PATHS_BYTES (32 * 1024) /* of images in one answer, so that it is no longer than clients read */
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

/* Take the number of a page; fallback: the client names none. Returns whether the call continues. */
static bool page_take(struct call *c, int64_t fallback, int64_t *ret)
{
	struct err e;

	*ret = js_get_int(c->args, "page", fallback);
	if (!js_get(c->args, "page") || (*ret >= 0 && *ret <= INT_MAX))
		return true;
	err_set(&e, -EINVAL, ERR_INVALID, "page: %lld is no page; give 0 for the first one", (long long)*ret);
	call_fail(c, &e);
	return false;
}

void command_query_schema(struct call *c)
{
	int64_t page;

	if (page_take(c, -1, &page))
		call_return(c, page < 0 ? schema_printed(c->dialect) : schema_page_printed((unsigned)page));
}

void command_schema_get(struct call *c)
{
	struct json_object *o;
	int64_t page;

	if (!page_take(c, 0, &page))
		return;
	o = json_object_new_object();
	js_put(o, "schema", schema_page_printed((unsigned)page));
	if (page + 1 < schema_pages())
		js_put_int(o, "next", page + 1);
	call_return(c, o);
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

/* The part of the event log that a client wants to see. */
struct event_filter {
	const struct conn *conn;
	const char *event; /* its name; NULL: any */
	const char *vm;	   /* NULL: any */
	char uuid[UUID_TEXT]; /* vm as the log prints a UUID; empty: vm is no UUID */
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
	struct err e;

	if (f.event && !schema_event_find(f.event)) {
		err_set(&e, -EINVAL, ERR_INVALID, "event: \"%.60s\" is no event's name. Next: cairn event --list", f.event);
		call_fail(c, &e);
		return;
	}
	call_return(c, event_log_page(c->host->events, since > 0 ? (uint64_t)since : 0, event_wanted, &f));
}

/* Leave out the events that the list does not have. Returns 0; -EINVAL: it has something else than events' names. */
static int events_choose(struct json_object *list, struct conn_filter *f, struct err *e)
{
	for (unsigned id = 0; id < EVENT_ID_COUNT; id++)
		f->left_out[id] = true;
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		const char *name = js_plain_string(json_object_array_get_idx(list, i));
		const struct event_spec *s = name ? schema_event_find(name) : NULL;
		unsigned id = 0;

		if (!s)
			return err_set(e, -EINVAL, ERR_INVALID, "events[%zu] is no event's name. Next: cairn event --list", i);
		while (schema_event(DIALECT_DAEMON, id) != s)
			id++;
		f->left_out[id] = false;
	}
	return 0;
}

void command_event_filter(struct call *c)
{
	struct json_object *list = js_get_array(c->args, "events");
	struct conn_filter f = { 0 };
	const struct vm *vm;
	struct err e;

	if (!command_vm_found(c, &vm))
		return;
	if (list && events_choose(list, &f, &e) < 0) {
		call_fail(c, &e);
		return;
	}
	f.one_vm = vm;
	if (vm)
		memcpy(f.uuid, vm->def->uuid, sizeof(f.uuid));
	conn_set_filter(c->conn, &f);
	call_return(c, NULL);
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
	bool inactive = js_get_bool(c->args, "inactive", false);
	struct json_object *o = json_object_new_object();
	struct json_object *d = definition_to_json(inactive ? c->vm->def : vm_live(c->vm));

	if (!inactive)
		js_put_uint(d, "vcpus", vm_vcpus_now(c->vm));
	js_put(o, "definition", d);
	js_put_bool(o, "pending", vm_is_pending(c->vm));
	call_return(c, o);
}

/* ---- list ---- */

/* Add a VM's identity. brief: only the columns of `cairn list`. */
static void put_identity(struct json_writer *w, const struct vm *vm, bool brief)
{
	const char *waits = shutdown_hook_waits(vm);
	char uuid[UUID_TEXT];

	jw_int(w, "id", vm->id);
	jw_str(w, "name", vm->def->name);
	if (!brief) {
		uuid_print(vm->def->uuid, uuid);
		jw_str(w, "uuid", uuid);
	}
	if (!brief && vm->def->title)
		jw_str(w, "title", vm->def->title);
	jw_str(w, "state", vm_state_word(vm->state));
	jw_str(w, "word", vm_state_word(vm->state));
	if (vm_compat_is_outdated(vm))
		jw_bool(w, "outdated", true);
	if (vm_has(vm, VM_FACT_EPHEMERAL))
		jw_bool(w, "ephemeral", true);
	if (waits)
		jw_str(w, "waits-for-hook", waits);
	if (brief)
		return;
	jw_str(w, "reason", vm_reason_name(vm->reason));
	jw_bool(w, "persistent", !vm_has(vm, VM_FACT_TRANSIENT));
	jw_bool(w, "autostart", vm_has(vm, VM_FACT_AUTOSTART));
	jw_bool(w, "managed-save", vm->state == VM_SAVED);
	jw_bool(w, "template", vm_has(vm, VM_FACT_TEMPLATE));
}

/* Return the most bytes that js_line() prints for s, which is no JSON yet. */
static size_t escaped_bytes(const char *s)
{
	size_t n = s ? js_escaped_bytes(s, strlen(s)) : 0;

	for (; s && *s; s++)
		n += *s == '"' || *s == '\\' ? 1 : *s > 0 && *s < ' ' ? 5 : 0;
	return n;
}

/* Return the most bytes of an entry. The constant covers keys, uuid, words and a reason of 31 bytes. */
static size_t entry_bytes(const struct vm *vm, bool brief)
{
	return (brief ? 144 : 357) + escaped_bytes(vm->def->name) + (brief ? 0 : escaped_bytes(vm->def->title));
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
	if (vm_find(u->call->host, name) || call_role_for(u->call, NULL) < ROLE_VIEWER || u->bytes > LIST_BYTES / 4)
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
	struct json_writer vms = { 0 };
	struct json_object *o;
	struct err e;

	if (limit < 1 || limit > LIST_LIMIT) {
		err_set(&e, -EINVAL, ERR_INVALID, "limit: %lld is out of range; give 1 to %d",
			(long long)limit, LIST_LIMIT);
		call_fail(c, &e);
		return;
	}
	o = json_object_new_object();
	if (!after)
		bytes = put_unloaded(o, c);
	jw_array(&vms, NULL);
	for (; i < host->nvms && limit && bytes < LIST_BYTES; i++) {
		if (call_role_for(c, host->vms[i]->def->uuid) < ROLE_VIEWER)
			continue;
		jw_object(&vms, NULL);
		put_identity(&vms, host->vms[i], brief);
		jw_object_end(&vms);
		bytes += entry_bytes(host->vms[i], brief);
		limit--; /* only a visible VM ends a page, because `next` is the name of the page's last VM */
	}
	jw_array_end(&vms);
	js_put(o, "vms", jw_value(&vms));
	js_put_bool(o, "may-define", call_role_for(c, NULL) >= ROLE_ADMIN || creator_is(c));
	if (i < host->nvms)
		js_put_str(o, "next", host->vms[i - 1]->def->name);
	call_return(c, o);
}

/* ---- info ---- */

static void put_disk(struct json_writer *w, const struct vm_disk_info *d, unsigned fault, unsigned tray)
{
	/* The first two words are virsh's. */
	static const char *const faults[] = { [VM_DISK_FAILED] = "unspecified error",
		[VM_DISK_NO_SPACE] = "no space", [VM_DISK_CORRUPT] = "image corrupt" };
	char id[sizeof(d->id)];

	memcpy(id, d->id, sizeof(id));
	id[sizeof(id) - 1] = 0;
	utf8_clean(id);
	jw_str(w, "id", id);
	jw_uint(w, "size", d->size_bytes);
	jw_uint(w, "rd-reqs", d->rd_reqs);
	jw_uint(w, "rd-bytes", d->rd_bytes);
	jw_uint(w, "rd-ns", d->rd_ns);
	jw_uint(w, "wr-reqs", d->wr_reqs);
	jw_uint(w, "wr-bytes", d->wr_bytes);
	jw_uint(w, "wr-ns", d->wr_ns);
	jw_uint(w, "fl-reqs", d->fl_reqs);
	jw_uint(w, "fl-ns", d->fl_ns);
	jw_uint(w, "errors", d->errors);
	if (fault && fault < ARRAY_SIZE(faults))
		jw_str(w, "fault", faults[fault]);
	if (tray)
		jw_bool(w, "tray-open", tray == VM_TRAY_OPEN);
}

static void put_interface(struct json_writer *w, const struct vm_info *info, uint32_t n)
{
	const struct vm_interface_info *i = &info->interfaces[n];
	char id[sizeof(i->id)], target[sizeof(i->target)], mac[DEFINITION_MAC_TEXT];

	memcpy(id, i->id, sizeof(id));
	memcpy(target, i->target, sizeof(target));
	id[sizeof(id) - 1] = target[sizeof(target) - 1] = 0;
	utf8_clean(id);
	utf8_clean(target);
	mac_print(i->mac, mac);
	jw_str(w, "id", id);
	jw_str(w, "mac", mac);
	if (target[0])
		jw_str(w, "target", target);
	jw_str(w, "link", i->link_up ? "up" : "down");
	jw_uint(w, "rx-bytes", i->rx_bytes);
	jw_uint(w, "rx-packets", i->rx_packets);
	jw_uint(w, "rx-errors", i->rx_errors);
	jw_uint(w, "rx-drops", i->rx_drops);
	jw_uint(w, "tx-bytes", i->tx_bytes);
	jw_uint(w, "tx-packets", i->tx_packets);
	jw_uint(w, "tx-errors", i->tx_errors);
	jw_uint(w, "tx-drops", i->tx_drops);
	if (!info->sets_interfaces)
		return;
	jw_str(w, "set-link", info->link_down[n] ? "down" : "up");
	jw_json(w, "bandwidth", definition_limits_to_json(&info->limits[n]));
}

static void put_counters(struct json_writer *w, const struct vm_info *info)
{
	static const char *const hosts[] = { "unknown", "vmx", "svm", "pvm" };

	jw_str(w, "host", hosts[info->host_kind < ARRAY_SIZE(hosts) ? info->host_kind : 0]);
	jw_object(w, "assist");
	jw_bool(w, "on", info->assist_on);
	jw_uint(w, "syscalls", info->assist_syscalls);
	jw_uint(w, "instructions", info->assist_instructions);
	jw_object_end(w);
	jw_object(w, "exits");
	jw_uint(w, "io", info->exits_io);
	jw_uint(w, "mmio", info->exits_mmio);
	jw_uint(w, "other", info->exits_other);
	jw_object_end(w);
}

/* Add the counters of the interface's egress denials. */
static void denied_put(struct json_writer *w, const struct vm *vm, uint32_t at)
{
	uint64_t denied[2];

	if (at >= vm_live(vm)->ninterfaces || !vm_live(vm)->interfaces[at].egress || !forwards_denied(vm, at, denied))
		return;
	jw_object(w, "egress");
	jw_uint(w, "denied-packets", denied[0]);
	jw_uint(w, "denied-questions", denied[1]);
	jw_object_end(w);
}

/* The statistics in the order of vm_balloon_info.stats. */
static const char *const balloon_names[VM_BALLOON_STATS] = { "swap-in", "swap-out", "major-faults", "minor-faults", "unused",
	"available", "usable", "disk-caches", "hugetlb-allocs", "hugetlb-failures" };

static void put_balloon(struct json_writer *w, const struct vm_balloon_info *b)
{
	jw_object(w, "balloon");
	jw_bool(w, "driver", b->state == VM_BALLOON_WORKS);
	jw_uint(w, "target", b->target_bytes);
	jw_uint(w, "actual", b->guest_bytes);
	jw_uint(w, "reported", b->reported_bytes);
	jw_uint(w, "period", b->period_s);
	if (b->stats_s)
		jw_uint(w, "last-update", b->stats_s);
	for (unsigned i = 0; i < VM_BALLOON_STATS; i++)
		if (b->known >> i & 1)
			jw_uint(w, balloon_names[i], b->stats[i]);
	jw_object_end(w);
}

static void put_dirty_rate(struct json_writer *w, const struct vm_dirty_rate *d)
{
	bool measured = d->status == VM_DIRTY_RATE_MEASURED;

	jw_object(w, "dirty-rate");
	jw_str(w, "status", measured ? "measured" : "measuring");
	jw_uint(w, "start-time", d->start_s);
	jw_uint(w, "seconds", d->ask.seconds);
	jw_uint(w, "sample-pages", d->ask.pages_per_gib);
	if (measured)
		jw_uint(w, "bytes-per-second", d->bytes_per_s);
	jw_object_end(w);
}

/* Add the bins up to the last one that is not 0. */
static void latency_put(struct json_writer *w, const char *key, const uint64_t bins[LATENCY_BINS])
{
	unsigned n = LATENCY_BINS;

	while (n && !bins[n - 1])
		n--;
	if (!n)
		return;
	jw_array(w, key);
	for (unsigned i = 0; i < n; i++)
		jw_uint(w, NULL, bins[i]);
	jw_array_end(w);
}

static void put_mirror(struct json_writer *w, const struct vm *vm, const char *id)
{
	struct json_object *note = mirrors_find(vm, id);
	const char *path = js_get_str(note, "path");

	if (!note)
		return;
	jw_object(w, "mirror");
	jw_str(w, "type", js_get_str_or(note, "type", ""));
	if (path) {
		jw_str(w, "path", path);
		jw_str(w, "format", js_get_str_or(note, "format", "raw"));
		jw_int(w, "user", js_get_int(note, "user", 0));
	}
	jw_object_end(w);
}

/* Whether the path of an image has room in the answer. left: bytes for further paths; reduced. */
static bool path_fits(const char *path, size_t *left)
{
	size_t bytes = escaped_bytes(path);

	if (bytes > *left)
		return false;
	*left -= bytes;
	return true;
}

/* Add the path of the disk's image, and the space that it takes. left: as of path_fits(). */
static void put_image(struct json_writer *w, const struct vm *vm, const char *id, size_t *left)
{
	const struct vm_space_disk *space = vm_space_of(vm, id);
	const struct definition *d = vm_live(vm);
	uint32_t i = 0;

	while (i < d->ndisks && strncmp(d->disks[i].id, id, sizeof(d->disks[i].id)) != 0)
		i++;
	if (i < d->ndisks && d->disks[i].nlayers && path_fits(d->disks[i].layers[0].path, left))
		jw_str(w, "path", d->disks[i].layers[0].path);
	if (i < d->ndisks && d->disks[i].nlayers > 1) {
		jw_array(w, "backing");
		for (uint16_t k = 1; k < d->disks[i].nlayers && path_fits(d->disks[i].layers[k].path, left); k++)
			jw_str(w, NULL, d->disks[i].layers[k].path);
		jw_array_end(w);
	}
	put_mirror(w, vm, id);
	if (!space || !space->physical_bytes)
		return;
	jw_uint(w, "allocation", space->allocation_bytes);
	jw_uint(w, "physical", space->physical_bytes);
}

static void put_more_of_disk(struct json_writer *w, const struct vm_figures *more, unsigned i)
{
	jw_uint(w, "in-flight", more->disks[i].in_flight);
	latency_put(w, "rd-latency", more->disks[i].latency[0]);
	latency_put(w, "wr-latency", more->disks[i].latency[1]);
	latency_put(w, "fl-latency", more->disks[i].latency[2]);
}

static void put_more_of_vcpus(struct json_writer *w, const struct vm *vm, const struct vm_figures *more)
{
	jw_uint(w, "cpu-user", more->vcpu_user_ns);
	jw_uint(w, "cpu-system", more->vcpu_system_ns);
	jw_array(w, "vcpu-delays");
	for (uint32_t i = 0; i < more->info.vcpus; i++)
		jw_uint(w, NULL, more->vcpu_delay_ns[i]);
	jw_array_end(w);
	jw_array(w, "vcpu-halted");
	for (uint32_t i = 0; i < more->info.vcpus; i++)
		jw_bool(w, NULL, vm->state == VM_RUNNING && more->vcpu_sleeps[i]);
	jw_array_end(w);
	jw_array(w, "vcpu-processors");
	for (uint32_t i = 0; i < more->info.vcpus; i++)
		jw_int(w, NULL, more->vcpu_processor[i]);
	jw_array_end(w);
}

static void put_vcpus(struct json_writer *w, const struct vm *vm, const struct vm_info *info, const struct vm_figures *more)
{
	uint32_t vcpus = MIN(info->vcpus, VM_VCPUS_MAX);
	uint64_t sum = 0;

	for (uint32_t i = 0; i < vcpus; i++)
		sum += info->vcpu_ns[i];
	jw_uint(w, "cpu-time", sum);
	jw_array(w, "vcpu-times");
	for (uint32_t i = 0; i < vcpus; i++)
		jw_uint(w, NULL, info->vcpu_ns[i]);
	jw_array_end(w);
	if (more)
		put_more_of_vcpus(w, vm, more);
}

/* Add the daemon's members of the interface. */
static void put_more_of_interface(struct json_writer *w, const struct vm *vm, uint32_t i)
{
	struct json_object *o = json_object_new_object();

	denied_put(w, vm, i);
	network_ports_show(vm, i, o);
	publish_restart_show(vm, i, o);
	jw_members(w, o);
}

static void put_figures(struct json_writer *w, const struct vm *vm, const struct vm_info *info, const struct vm_figures *more)
{
	size_t left = PATHS_BYTES;

	put_vcpus(w, vm, info, more);
	put_counters(w, info);
	jw_array(w, "disks");
	for (uint32_t i = 0; i < MIN(info->ndisks, VM_DISKS_MAX); i++) {
		jw_object(w, NULL);
		put_disk(w, &info->disks[i], info->disk_faults[i], info->trays[i]);
		put_image(w, vm, info->disks[i].id, &left);
		if (more)
			put_more_of_disk(w, more, i);
		jw_object_end(w);
	}
	jw_array_end(w);
	jw_array(w, "interfaces");
	for (uint32_t i = 0; i < MIN(info->ninterfaces, VM_INTERFACES_MAX); i++) {
		jw_object(w, NULL);
		put_interface(w, info, i);
		put_more_of_interface(w, vm, i);
		jw_object_end(w);
	}
	jw_array_end(w);
	if (info->balloon.state)
		put_balloon(w, &info->balloon);
	if (info->dirty_rate.status)
		put_dirty_rate(w, &info->dirty_rate);
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

static void put_process(struct json_writer *w, pid_t pid, const struct vm_figures *more)
{
	jw_int(w, "pid", pid);
	jw_uint(w, "resident-memory", more ? more->resident_bytes : resident_bytes(pid));
}

static const char *agent_word(uint8_t state)
{
	return state == VM_AGENT_ANSWERS ? "connected" : state == VM_AGENT_OPEN ? "open" : "closed";
}

/* Return the bytes that the guest has. */
static uint64_t used_bytes(const struct vm *vm, const struct vm_info *info)
{
	if (info && info->balloon.state)
		return info->balloon.guest_bytes;
	return vm_state_is_active(vm->state) ? vm_live(vm)->ram_bytes : 0;
}

static void put_vcpu_counts(struct json_writer *w, const struct vm *vm)
{
	uint64_t absent = vm_vcpus_absent(vm);

	jw_uint(w, "vcpus", vm_vcpus_now(vm));
	jw_uint(w, "max-vcpus", definition_vcpus_max(vm_live(vm)));
	if (!absent)
		return;
	jw_array(w, "vcpus-absent");
	for (; absent; absent &= absent - 1)
		jw_int(w, NULL, __builtin_ctzll(absent));
	jw_array_end(w);
}

static void put_state(struct json_writer *w, const struct vm *vm, const struct vm_info *info, const struct vm_figures *more)
{
	struct json_object *plan = json_object_new_object();

	if (vm->detail[0])
		jw_str(w, "detail", vm->detail);
	if (vm->value)
		jw_int(w, "value", vm->value);
	jw_uint(w, "since", vm->since_ns);
	jw_uint(w, "machine", info && info->machine ? info->machine : vm_live(vm)->machine);
	put_vcpu_counts(w, vm);
	jw_uint(w, "memory", vm_live(vm)->ram_bytes);
	jw_uint(w, "used-memory", used_bytes(vm, info));
	if (vm->proc && vm_process_pid(vm->proc) > 0)
		put_process(w, vm_process_pid(vm->proc), more);
	if (vm->proc && vm_live(vm)->guest_agent)
		jw_str(w, "agent", agent_word(vm->agent.now));
	if (vm->operation.job)
		jw_str(w, "job", vm->operation.job->id);
	if (vm->balance)
		jw_json(w, "balance", balancer_to_json(vm));
	if (vm->scope)
		jw_json(w, "systemd-scope", systemd_scope_to_json(vm));
	shutdown_put(vm, plan);
	hook_ask_put(vm, plan);
	jw_members(w, plan);
	if (vm_is_starting(vm))
		jw_bool(w, "starting", true);
	if (restart_is_pending(vm))
		jw_uint(w, "restart-in", restart_in_ns(vm));
	if (vm->exit.status >= 0)
		jw_int(w, "exit-status", vm->exit.status);
	if (vm->exit.signal)
		jw_int(w, "exit-signal", vm->exit.signal);
}

void command_vm_figures(struct json_writer *w, const struct vm *vm, const struct vm_info *info, const struct vm_figures *more)
{
	put_identity(w, vm, false);
	put_state(w, vm, info, more);
	if (info) {
		jw_bool(w, "idle", vm->state == VM_RUNNING && info->vcpus && info->vcpus_halted == info->vcpus);
		put_figures(w, vm, info, more);
	}
}

static void put_affinities(struct json_writer *w, const struct vm *vm, uint32_t vcpus)
{
	char text[1024];

	jw_array(w, "vcpu-affinity");
	for (uint32_t i = 0; i < vcpus && vm_figures_affinity(vm->proc, i, text, sizeof(text)); i++)
		jw_str(w, NULL, text);
	jw_array_end(w);
}

static void put_growth(struct json_writer *w, const struct vm *vm)
{
	struct vm_space_growth g;

	if (!vm_space_growth(vm, &g))
		return;
	jw_int(w, "growth", (int64_t)g.bytes_a_day);
	if (g.days_left >= 0)
		jw_int(w, "days-left", g.days_left < 1e6 ? (int64_t)g.days_left : 1000000);
}

static void info_answer(struct call *c, const struct vm_info *info, const struct vm_figures *more)
{
	struct json_writer w = { 0 };

	jw_object(&w, NULL);
	command_vm_figures(&w, c->vm, info, more);
	put_growth(&w, c->vm);
	jw_str(&w, "role", role_name(call_role_for(c, c->vm->def->uuid)));
	if (more)
		put_affinities(&w, c->vm, info->vcpus);
	jw_object_end(&w);
	call_return(c, jw_value(&w));
}

static void info_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	(void)e;
	info_answer(opaque, r == 0 ? a->info : NULL, NULL);
}

void command_vm_info(struct call *c)
{
	bool runs = c->vm->proc && vm_state_is_active(c->vm->state);
	struct vm_figures f;

	if (runs && vm_figures_read(c->vm->proc, &f))
		info_answer(c, &f.info, &f);
	else if (runs)
		vm_process_request(c->vm->proc, VM_MSG_QUERY, NULL, 0, -1, QUERY_TIMEOUT_NS,
			info_done, c);
	else
		info_done(c, -ENOENT, NULL, NULL);
}
