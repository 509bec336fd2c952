/* The handler of vm-stats: statistics of many VMs, page by page. They come from what the VMs' processes share with the
 * daemon (api/vm/vm_figures.h). Processes that share nothing are asked, all at once. */
#include "api/commands/command.h"
#include "api/definition/definition.h"
#include "api/vm/vm.h"
#include "api/vm/vm_figures.h"
#include "api/vm/vm_process.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "base/util.h"
#include "vmm/vm_msg.h"

#include <errno.h>
#include <stdlib.h>

#define STATS_TIMEOUT_NS (1000000000ULL)
/* Most VMs of a page, and the size at which a page ends: some clients read lines of at most 64 KiB. The largest entry,
 * with all vCPUs, disks and interfaces, has some 20 KiB, and is cut off a page that it would make too long. */
#define STATS_VMS 128
#define STATS_BYTES (62 * 1024)

struct stats_page {
	struct call *call;
	size_t n, waits; /* number of VMs, and of those whose process has not answered */
	bool more;	 /* there are VMs behind this page */
	struct stats_row {
		struct stats_page *page;
		const struct vm *vm; /* borrowed until the answer, or the end of the VM's process */
		struct json_object *entry;
	} rows[STATS_VMS];
};

/* Answer with the entries that fit into a page. `next` is the name of the last one, if there are more VMs. */
static void page_answer(struct stats_page *p)
{
	struct json_object *o = json_object_new_object(), *vms = json_object_new_array();
	const char *last = NULL;
	size_t bytes = 0, i = 0;

	for (; i < p->n; i++) {
		size_t length;

		json_object_to_json_string_length(p->rows[i].entry, JSON_C_TO_STRING_PLAIN, &length);
		bytes += length + 1;
		if (i && bytes > STATS_BYTES)
			break;
		last = js_get_str(p->rows[i].entry, "name");
		json_object_array_add(vms, json_object_get(p->rows[i].entry));
	}
	js_put(o, "vms", vms);
	if (last && (i < p->n || p->more))
		js_put_str(o, "next", last);
	for (i = 0; i < p->n; i++)
		json_object_put(p->rows[i].entry);
	call_return(p->call, o);
	free(p);
}

static void row_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct stats_row *row = opaque;

	(void)e;
	row->entry = command_vm_figures(row->vm, r == 0 ? a->info : NULL, NULL);
	if (--row->page->waits == 0)
		page_answer(row->page);
}

/* Returns a bound of a usual entry's size, which decides how many VMs are asked. */
static size_t row_bytes(const struct vm *vm)
{
	if (!vm->proc || !vm_state_is_active(vm->state))
		return 400;
	return 800 + vm_live(vm)->vcpus * 16 + vm_live(vm)->ndisks * 160 + vm_live(vm)->ninterfaces * 240;
}

static void page_pick(struct stats_page *p, const char *after)
{
	struct vm_host *host = p->call->host;
	size_t i = vm_index_after(host, after ? after : ""), bytes = 0;

	for (; i < host->nvms && p->n < STATS_VMS && bytes < STATS_BYTES; i++) {
		struct vm *vm = host->vms[i];

		if (conn_role_for(p->call->conn, vm->def->uuid) < ROLE_VIEWER)
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
		row->entry = command_vm_figures(vm, &f.info, &f);
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
