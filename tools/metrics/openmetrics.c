#include "tools/metrics/openmetrics.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/util.h"

#include <stdlib.h>
#include <string.h>

/* Metrics are named as by libvirt's exporter, with base units. A family's samples must be contiguous, so each family is
 * a walk over all VMs. */
enum kind { GAUGE, COUNTER };

struct family {
	const char *name; /* behind "cairn_domain_"; of a counter without "_total" */
	const char *from; /* key in vm-info */
	enum kind kind;
	bool ns; /* the daemon's figure is in ns, the metric in seconds */
	const char *help;
};

/* Members of a VM. */
static const struct family of_vm[] = {
	{ "virtual_cpus", "vcpus", GAUGE, false, "Number of virtual CPUs." },
	{ "maximum_memory_bytes", "memory", GAUGE, false, "Memory of the definition." },
	{ "memory_usage_bytes", "used-memory", GAUGE, false, "Memory of the guest, what the balloon leaves to it; 0 when off." },
	{ "resident_memory_bytes", "resident-memory", GAUGE, false, "Resident memory of the VM's process." },
	{ "cpu_time_seconds", "cpu-time", COUNTER, true, "CPU time of all vCPUs." },
	{ "state_since_timestamp_seconds", "since", GAUGE, true, "Time of the last change of state." },
	{ "idle", "idle", GAUGE, false, "1: the VM runs, and all vCPUs are halted." },
	{ "outdated", "outdated", GAUGE, false, "1: the VM's process is of another build of Cairn than that of a VM that starts now." },
};

/* Members of a VM's balloon, with the guest's statistics. */
static const struct family of_balloon[] = {
	{ "memory_stats_swap_in_bytes", "swap-in", COUNTER, false, "What the guest has swapped in." },
	{ "memory_stats_swap_out_bytes", "swap-out", COUNTER, false, "What the guest has swapped out." },
	{ "memory_stats_major_faults", "major-faults", COUNTER, false, "Page faults of the guest that read a disk." },
	{ "memory_stats_minor_faults", "minor-faults", COUNTER, false, "Other page faults of the guest." },
	{ "memory_stats_unused_bytes", "unused", GAUGE, false, "Memory that the guest does not use at all." },
	{ "memory_stats_available_bytes", "available", GAUGE, false, "Memory that the guest sees." },
	{ "memory_stats_usable_bytes", "usable", GAUGE, false, "Memory that the guest could use without swapping." },
	{ "memory_stats_disk_caches_bytes", "disk-caches", GAUGE, false, "Memory of the guest's file caches." },
	{ "memory_stats_reported_bytes", "reported", GAUGE, false, "Free memory that the guest has given back." },
};

/* Members of the last measurement of vm-calc-dirty-rate. */
static const struct family of_dirty_rate[] = {
	{ "dirty_rate_bytes_per_second", "bytes-per-second", GAUGE, false, "Memory that the guest changed in a second, when that was measured last." },
	{ "dirty_rate_start_timestamp_seconds", "start-time", GAUGE, false, "Time of this measurement." },
};

static const struct family of_disk[] = {
	{ "block_stats_read_bytes", "rd-bytes", COUNTER, false, "Bytes read." },
	{ "block_stats_read_requests", "rd-reqs", COUNTER, false, "Read requests." },
	{ "block_stats_read_time_seconds", "rd-ns", COUNTER, true, "Time of all read requests together." },
	{ "block_stats_write_bytes", "wr-bytes", COUNTER, false, "Bytes written." },
	{ "block_stats_write_requests", "wr-reqs", COUNTER, false, "Write requests." },
	{ "block_stats_write_time_seconds", "wr-ns", COUNTER, true, "Time of all write requests together." },
	{ "block_stats_flush_requests", "fl-reqs", COUNTER, false, "Flush requests." },
	{ "block_stats_flush_time_seconds", "fl-ns", COUNTER, true, "Time of all flush requests together." },
	{ "block_stats_in_flight_requests", "in-flight", GAUGE, false, "Requests that wait for the image." },
	{ "block_stats_errors", "errors", COUNTER, false, "Failed requests." },
	{ "block_stats_capacity_bytes", "size", GAUGE, false, "Size of the disk." },
	{ "block_stats_fault", "fault", GAUGE, false, "1: an error of this disk has paused the VM." },
};

static const struct family of_interface[] = {
	{ "interface_stats_receive_bytes", "rx-bytes", COUNTER, false, "Bytes that the guest received." },
	{ "interface_stats_receive_packets", "rx-packets", COUNTER, false, "Packets that the guest received." },
	{ "interface_stats_receive_errors", "rx-errors", COUNTER, false, "Errors of packets to the guest." },
	{ "interface_stats_receive_drops", "rx-drops", COUNTER, false, "Packets to the guest that were dropped." },
	{ "interface_stats_transmit_bytes", "tx-bytes", COUNTER, false, "Bytes that the guest sent." },
	{ "interface_stats_transmit_packets", "tx-packets", COUNTER, false, "Packets that the guest sent." },
	{ "interface_stats_transmit_errors", "tx-errors", COUNTER, false, "Errors of packets from the guest." },
	{ "interface_stats_transmit_drops", "tx-drops", COUNTER, false, "Packets from the guest that were dropped." },
};

/* Members of the host. From here on, names are behind "cairn_". */
static const struct family of_host[] = {
	{ "host_cpus", "cpus", GAUGE, false, "Processors of the host that are online." },
	{ "host_memory_bytes", "memory", GAUGE, false, "Memory of the host." },
	{ "host_memory_available_bytes", "memory-available", GAUGE, false, "Memory that new VMs could take without swapping." },
	{ "web_hook_events_queued", "hook-events-waiting", GAUGE, false, "Events that wait for web hooks." },
	{ "web_hook_events_delivered", "hook-events-delivered", COUNTER, false, "Events that web hooks have delivered." },
	{ "web_hook_events_failed", "hook-events-failed", COUNTER, false, "Events that could not be delivered." },
	{ "web_hook_events_dropped", "hook-events-dropped", COUNTER, false, "Events that were dropped because too many waited." },
};

static const struct family of_job[] = {
	{ "jobs_running", "running", GAUGE, false, "Jobs under way." },
	{ "jobs_finished", "finished", COUNTER, false, "Jobs that have ended since the daemon started, failed and cancelled ones included." },
	{ "jobs_failed", "failed", COUNTER, false, "Jobs that have failed since the daemon started." },
	{ "jobs_cancelled", "cancelled", COUNTER, false, "Jobs that were cancelled since the daemon started." },
};

static const struct family of_pool[] = {
	{ "pool_capacity_bytes", "total", GAUGE, false, "Size of the pool's file system." },
	{ "pool_allocation_bytes", "used", GAUGE, false, "What is taken of the pool's file system." },
	{ "pool_available_bytes", "available", GAUGE, false, "What is free in the pool's file system." },
};

/* Elements of arrays, one for each vCPU. */
static const struct family of_vcpu[] = {
	{ "vcpu_time_seconds", "vcpu-times", COUNTER, true, "CPU time of a vCPU." },
	{ "vcpu_delay_seconds", "vcpu-delays", COUNTER, true, "Time that a vCPU waited for a processor of the host." },
};

/* A VM, and how each of its samples begins behind the name: {domain="NAME" */
struct row {
	struct json_object *vm; /* borrowed */
	char *labels;
	size_t length;
};

struct rows {
	struct row *row;
	size_t n;
};

/* Print the value of a label, with the three escapes of the format. */
static void label_print(FILE *f, const char *text)
{
	for (; *text; text++) {
		if (*text == '\\' || *text == '"')
			putc_unlocked('\\', f);
		if (*text == '\n')
			fputs_unlocked("\\n", f);
		else
			putc_unlocked(*text, f);
	}
}

static void labels_make(struct row *r)
{
	FILE *f = must_alloc(open_memstream(&r->labels, &r->length));

	fputs_unlocked("{domain=\"", f);
	label_print(f, js_get_str_or(r->vm, "name", ""));
	putc_unlocked('"', f);
	if (fclose(f) != 0)
		must_alloc(NULL);
}

static void rows_make(struct rows *all, struct json_object *vms)
{
	all->n = json_object_array_length(vms);
	all->row = must_alloc(calloc(all->n + 1, sizeof(*all->row)));
	for (size_t i = 0; i < all->n; i++) {
		all->row[i].vm = json_object_array_get_idx(vms, i);
		labels_make(&all->row[i]);
	}
}

static void rows_free(struct rows *all)
{
	for (size_t i = 0; i < all->n; i++)
		free(all->row[i].labels);
	free(all->row);
}

static void family_head(FILE *f, const char *name, const char *type, const char *help)
{
	fprintf(f, "# TYPE cairn_%s %s\n# HELP cairn_%s %s\n", name, type, name, help);
}

/* Print a sample up to its labels. label, value: a second label; NULL: none. */
static void sample_begin(FILE *f, const char *name, const char *suffix, const struct row *r, const char *label, const char *value)
{
	fputs_unlocked("cairn_domain_", f);
	fputs_unlocked(name, f);
	fputs_unlocked(suffix, f);
	fwrite_unlocked(r->labels, 1, r->length, f);
	if (label) {
		putc_unlocked(',', f);
		fputs_unlocked(label, f);
		fputs_unlocked("=\"", f);
		label_print(f, value);
		putc_unlocked('"', f);
	}
	fputs_unlocked("} ", f);
}

/* Print the number with at least so many digits, and the text after it. 1,000 VMs have 60,000 samples, for which
 * fprintf() is slow. */
static void number_print(FILE *f, uint64_t n, unsigned digits, char end)
{
	char text[24], *p = text + sizeof(text), *least = p - 1 - digits;

	*--p = end;
	do
		*--p = (char)('0' + n % 10);
	while ((n /= 10) || p > least);
	fwrite_unlocked(p, 1, (size_t)(text + sizeof(text) - p), f);
}

static void value_print(FILE *f, const struct family *m, struct json_object *v)
{
	uint64_t n = json_object_is_type(v, json_type_string) ? 1 : json_object_get_uint64(v);

	if (m->ns) {
		number_print(f, n / 1000000000, 1, '.');
		number_print(f, n % 1000000000, 9, '\n');
	} else {
		number_print(f, n, 1, '\n');
	}
}

static void member_print(FILE *f, const struct family *m, const struct row *r, struct json_object *o, const char *label,
	const char *value)
{
	struct json_object *v = js_get(o, m->from);

	if (!v || (m->ns && m->kind == GAUGE && !json_object_get_uint64(v))) /* a time of 0 is none */
		return;
	sample_begin(f, m->name, m->kind == COUNTER ? "_total" : "", r, label, value);
	value_print(f, m, v);
}

static const char *device_name(struct json_object *list, size_t i, const char *name)
{
	struct json_object *o = json_object_array_get_idx(list, i);

	return js_get_str_or(o, name, js_get_str_or(o, "id", ""));
}

/* Leave out devices with the name of an earlier one: names come from the VM's process, and a sample that is there twice
 * makes the whole text invalid. */
static void list_print(FILE *f, const struct family *m, const struct row *r, const char *list, const char *name)
{
	struct json_object *all = js_get_array(r->vm, list);

	for (size_t i = 0; all && i < json_object_array_length(all); i++) {
		size_t first = 0;

		while (strcmp(device_name(all, first, name), device_name(all, i, name)))
			first++;
		if (first == i)
			member_print(f, m, r, json_object_array_get_idx(all, i), "target_device", device_name(all, i, name));
	}
}

/* Print families of all VMs. object: member of a VM that is an object with the figures; list: one that is an array of
 * such, whose elements have a name. Both NULL: the figures are the VM's members. */
static void families_print(FILE *f, const struct rows *vms, const struct family *all, size_t n, const char *object, const char *list,
	const char *name)
{
	for (size_t k = 0; k < n; k++) {
		char title[64];

		snprintf(title, sizeof(title), "domain_%s", all[k].name);
		family_head(f, title, all[k].kind == COUNTER ? "counter" : "gauge", all[k].help);
		for (size_t i = 0; i < vms->n; i++) {
			const struct row *r = &vms->row[i];

			if (list)
				list_print(f, &all[k], r, list, name);
			else
				member_print(f, &all[k], r, object ? js_get(r->vm, object) : r->vm, NULL, NULL);
		}
	}
}

static void states_print(FILE *f, const struct rows *vms)
{
	static const char *const words[] = { "running", "paused", "in-shutdown", "shutoff", "saved", "crashed", "preserved" };

	family_head(f, "domain_state", "stateset", "State of the VM: 1 for the state that it has.");
	for (size_t i = 0; i < vms->n; i++) {
		const char *word = js_get_str_or(vms->row[i].vm, "word", "");

		for (size_t k = 0; k < ARRAY_SIZE(words); k++) {
			sample_begin(f, "state", "", &vms->row[i], "cairn_domain_state", words[k]);
			fputs_unlocked(strcmp(word, words[k]) ? "0\n" : "1\n", f);
		}
	}
}

static void infos_print(FILE *f, const struct rows *vms)
{
	family_head(f, "domain", "info", "UUID of the VM.");
	for (size_t i = 0; i < vms->n; i++) {
		sample_begin(f, "info", "", &vms->row[i], "uuid", js_get_str_or(vms->row[i].vm, "uuid", ""));
		fputs_unlocked("1\n", f);
	}
}

static void vcpu_family_print(FILE *f, const struct rows *vms, const struct family *m)
{
	char title[64];

	snprintf(title, sizeof(title), "domain_%s", m->name);
	family_head(f, title, "counter", m->help);
	for (size_t i = 0; i < vms->n; i++) {
		struct json_object *times = js_get_array(vms->row[i].vm, m->from);

		for (size_t k = 0; times && k < json_object_array_length(times); k++) {
			char number[24];

			snprintf(number, sizeof(number), "%zu", k);
			sample_begin(f, m->name, "_total", &vms->row[i], "vcpu", number);
			value_print(f, m, json_object_array_get_idx(times, k));
		}
	}
}

static void vms_print(FILE *f, const struct rows *vms)
{
	infos_print(f, vms);
	states_print(f, vms);
	families_print(f, vms, of_vm, ARRAY_SIZE(of_vm), NULL, NULL, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(of_vcpu); i++)
		vcpu_family_print(f, vms, &of_vcpu[i]);
	families_print(f, vms, of_balloon, ARRAY_SIZE(of_balloon), "balloon", NULL, NULL);
	families_print(f, vms, of_dirty_rate, ARRAY_SIZE(of_dirty_rate), "dirty-rate", NULL, NULL);
	families_print(f, vms, of_disk, ARRAY_SIZE(of_disk), NULL, "disks", "id");
	families_print(f, vms, of_interface, ARRAY_SIZE(of_interface), NULL, "interfaces", "target");
}

/* ---- the host ---- */

/* Print a sample up to its value. label: NULL: none. */
static void host_sample_begin(FILE *f, const char *name, const char *suffix, const char *label, const char *value)
{
	fprintf(f, "cairn_%s%s", name, suffix);
	if (label) {
		fprintf(f, "{%s=\"", label);
		label_print(f, value);
		fputs_unlocked("\"}", f);
	}
	putc_unlocked(' ', f);
}

/* Print families of objects. list: the objects; label: of the name of each, which is its member `key`. */
static void host_families_print(FILE *f, const struct family *all, size_t n, struct json_object *list, const char *label, const char *key)
{
	for (size_t k = 0; k < n; k++) {
		family_head(f, all[k].name, all[k].kind == COUNTER ? "counter" : "gauge", all[k].help);
		for (size_t i = 0; i < json_object_array_length(list); i++) {
			struct json_object *o = json_object_array_get_idx(list, i), *v = js_get(o, all[k].from);

			if (!v)
				continue;
			host_sample_begin(f, all[k].name, all[k].kind == COUNTER ? "_total" : "", label, js_get_str_or(o, key, ""));
			value_print(f, &all[k], v);
		}
	}
}

static void pools_print(FILE *f, struct json_object *pools)
{
	static const char *const words[] = { "ok", "low", "unknown" };

	host_families_print(f, of_pool, ARRAY_SIZE(of_pool), pools, "pool", "name");
	family_head(f, "pool_state", "stateset", "State of the pool: 1 for the state that it has.");
	for (size_t i = 0; i < json_object_array_length(pools); i++) {
		struct json_object *o = json_object_array_get_idx(pools, i);
		size_t state = !js_get(o, "total") ? 2 : js_get_bool(o, "low", false) ? 1 : 0;

		for (size_t k = 0; k < ARRAY_SIZE(words); k++) {
			fputs_unlocked("cairn_pool_state{pool=\"", f);
			label_print(f, js_get_str_or(o, "name", ""));
			fprintf(f, "\",cairn_pool_state=\"%s\"} %d\n", words[k], k == state);
		}
	}
}

static void host_print(FILE *f, const struct metrics *m)
{
	CLEANUP_JS struct json_object *one = json_object_new_array();
	struct json_object *jobs = js_get_array(m->host, "jobs");

	json_object_array_add(one, json_object_get(m->host));
	host_families_print(f, of_host, ARRAY_SIZE(of_host), one, NULL, "");
	if (jobs)
		host_families_print(f, of_job, ARRAY_SIZE(of_job), jobs, "type", "type");
	if (m->pools)
		pools_print(f, m->pools);
}

/* ---- all of it ---- */

typedef int execute_fn(void *opaque, const char *command, struct json_object *args, struct json_object **ret, struct err *e);

/* Get all pages of a list. ret_host: the member host of the first page, or NULL. Returns as metrics_fetch(). */
static int pages_fetch(execute_fn *execute, void *opaque, const char *command, const char *member, struct json_object **ret,
	struct json_object **ret_host, struct err *e)
{
	CLEANUP_JS struct json_object *all = json_object_new_array();
	struct json_object *next = NULL;
	int r;

	do {
		CLEANUP_JS struct json_object *page = NULL;
		struct json_object *args = json_object_new_object(), *list;

		if (next)
			js_put(args, "after", next);
		r = execute(opaque, command, args, &page, e);
		if (r < 0)
			return r;
		if (!*ret_host)
			*ret_host = json_object_get(js_get(page, "host"));
		list = js_get_array(page, member);
		for (size_t i = 0; list && i < json_object_array_length(list); i++)
			json_object_array_add(all, json_object_get(json_object_array_get_idx(list, i)));
		next = json_object_get(js_get(page, "next"));
	} while (next);
	*ret = STEAL_PTR(all);
	return 0;
}

int metrics_fetch(struct metrics *m, execute_fn *execute, void *opaque, struct err *e)
{
	struct json_object *none = NULL;
	int r = pages_fetch(execute, opaque, "vm-stats", "vms", &m->vms, &m->host, e);

	if (r < 0 || !js_get(m->host, "jobs"))
		return r;
	/* Who has a role for all VMs may see pools. */
	pages_fetch(execute, opaque, "query-pools", "pools", &m->pools, &none, NULL);
	for (size_t i = 0; m->pools && i < json_object_array_length(m->pools); i++) {
		struct json_object *o = json_object_array_get_idx(m->pools, i);

		if (js_get(o, "total"))
			js_put_int(o, "available", js_get_int(o, "total", 0) - js_get_int(o, "used", 0));
	}
	return 0;
}

void metrics_done(struct metrics *m)
{
	json_object_put(m->vms);
	json_object_put(m->host);
	json_object_put(m->pools);
}

void openmetrics_print(FILE *f, const struct metrics *m)
{
	struct rows rows;

	family_head(f, "up", "gauge", "1: the daemon answers.");
	fprintf(f, "cairn_up %d\n", m->vms != NULL);
	family_head(f, "exporter", "info", "Version of Cairn.");
	fprintf(f, "cairn_exporter_info{version=\"%s\"} 1\n", CAIRN_VERSION);
	if (m->vms && m->host)
		host_print(f, m);
	if (m->vms) {
		rows_make(&rows, m->vms);
		vms_print(f, &rows);
		rows_free(&rows);
	}
	fputs("# EOF\n", f);
}
