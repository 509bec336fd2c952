/* The handler of vm-stats: statistics of the host and of many VMs, page by page. Those of VMs come from the pages of
 * memory that the VMs' processes share with the daemon (api/vm/vm_figures.h). Processes that share nothing are asked,
 * all at once. */
#include "api/commands/command.h"
#include "api/definition/definition.h"
#include "api/jobs/job.h"
#include "api/policy/web_hooks.h"
#include "api/vm/vm.h"
#include "api/vm/vm_figures.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "api/wire/json_writer.h"
#include "base/file.h"
#include "base/util.h"
#include "vmm/vm_msg.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MEMINFO "/proc/meminfo"

#define STATS_TIMEOUT_NS (1000000000ULL)
/* Most VMs of a page, and the size at which a page ends: some clients read lines of at most 64 KiB. The largest entry,
 * with all vCPUs, disks and interfaces, has some 20 KiB and 32 KiB of paths, and is cut off a page that it would make
 * too long. */
#define STATS_VMS 128
#define STATS_BYTES (62 * 1024)
#define HOST_BYTES (4 * 1024) /* a bound of the size of the host's figures */

struct stats_page {
	struct call *call;
	size_t n, waits; /* number of VMs, and of those whose process has not answered */
	bool more;	 /* there are VMs behind this page */
	struct stats_row {
		struct stats_page *page;
		const struct vm *vm; /* borrowed until the answer, or the end of the VM's process */
		struct json_writer entry;
		char *name; /* of the VM when its entry was written */
	} rows[STATS_VMS];
};

static void hook_events_put(struct json_object *o, const struct web_hooks *h)
{
	struct web_hook all;

	web_hooks_sum(h, &all);
	js_put_uint(o, "hook-events-waiting", all.nwaiting);
	js_put_uint(o, "hook-events-delivered", all.delivered);
	js_put_uint(o, "hook-events-failed", all.failed);
	js_put_uint(o, "hook-events-dropped", all.dropped);
}

static struct json_object *host_to_json(const struct call *c)
{
	struct json_object *o = json_object_new_object();

	js_put_int(o, "cpus", sysconf(_SC_NPROCESSORS_ONLN));
	js_put_uint(o, "memory", (uint64_t)file_number_behind(MEMINFO, "MemTotal:") * KIB);
	js_put_uint(o, "memory-available", (uint64_t)file_number_behind(MEMINFO, "MemAvailable:") * KIB);
	if (call_role_for(c, NULL) >= ROLE_VIEWER) {
		js_put(o, "jobs", jobs_count(c->host));
		hook_events_put(o, c->host->web_hooks);
	}
	return o;
}

/* Write the entries that fit into a page. Returns how many these are. */
static size_t entries_put(struct json_writer *w, const struct stats_page *p)
{
	bool first = !js_get_str(p->call->args, "after");
	size_t bytes = first ? HOST_BYTES : 0, i = 0;

	if (first)
		jw_json(w, "host", host_to_json(p->call));
	jw_array(w, "vms");
	for (; i < p->n; i++) {
		bytes += js_escaped_bytes(p->rows[i].entry.text, p->rows[i].entry.length) + 1;
		if (i && bytes > STATS_BYTES)
			break;
		jw_text(w, NULL, p->rows[i].entry.text, p->rows[i].entry.length);
	}
	jw_array_end(w);
	return i;
}

/* Answer with the entries that fit into a page. `next` is the name of the last one, if there are more VMs. */
static void page_answer(struct stats_page *p)
{
	struct json_writer w = { 0 };
	size_t n;

	jw_object(&w, NULL);
	n = entries_put(&w, p);
	if (n && (n < p->n || p->more))
		jw_str(&w, "next", p->rows[n - 1].name);
	jw_object_end(&w);
	for (size_t i = 0; i < p->n; i++) {
		free(p->rows[i].entry.text);
		free(p->rows[i].name);
	}
	call_return(p->call, jw_value(&w));
	free(p);
}

static void entry_put(struct stats_row *row, const struct vm_info *info, const struct vm_figures *more)
{
	jw_object(&row->entry, NULL);
	command_vm_figures(&row->entry, row->vm, info, more);
	jw_object_end(&row->entry);
	row->name = must_alloc(strdup(row->vm->def->name));
}

static void row_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct stats_row *row = opaque;

	(void)e;
	entry_put(row, r == 0 ? a->info : NULL, NULL);
	if (--row->page->waits == 0)
		page_answer(row->page);
}

/* Returns a bound of a usual entry's size, which decides how many VMs are asked. */
static size_t row_bytes(const struct vm *vm)
{
	if (!vm->proc || !vm_state_is_active(vm->state))
		return 400;
	return 800 + definition_vcpus_max(vm_live(vm)) * 16 + vm_live(vm)->ndisks * 320 + vm_live(vm)->ninterfaces * 240;
}

static void page_pick(struct stats_page *p, const char *after)
{
	struct vm_host *host = p->call->host;
	size_t i = vm_index_after(host, after ? after : ""), bytes = 0;

	for (; i < host->nvms && p->n < STATS_VMS && bytes < STATS_BYTES; i++) {
		struct vm *vm = host->vms[i];

		if (call_role_for(p->call, vm->def->uuid) < ROLE_VIEWER)
			continue;
		bytes += row_bytes(vm);
		p->rows[p->n++] = (struct stats_row){ .page = p, .vm = vm };
	}
	p->more = i < host->nvms;
}

/* Fill in the row, at once if the process shares a page. */
static void row_begin(struct stats_row *row)
{
	const struct vm *vm = row->vm;
	bool runs = vm->proc && vm_state_is_active(vm->state);
	struct vm_figures f;

	if (runs && vm_figures_read(vm->proc, &f)) {
		entry_put(row, &f.info, &f);
		row->page->waits--;
	} else if (runs) {
		vm_process_request(vm->proc, VM_MSG_QUERY, NULL, 0, -1, STATS_TIMEOUT_NS, row_done, row);
	} else {
		row_done(row, -ENOENT, NULL, NULL);
	}
}

void command_vm_stats(struct call *c)
{
	struct stats_page *p = must_alloc(calloc(1, sizeof(*p)));
	size_t n;

	p->call = c;
	page_pick(p, js_get_str(c->args, "after"));
	/* One more than the rows, so that no answer within this loop ends the page. */
	n = p->n;
	p->waits = n + 1;
	for (size_t i = 0; i < n; i++)
		row_begin(&p->rows[i]);
	if (--p->waits == 0)
		page_answer(p);
}
