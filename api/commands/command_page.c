/* Answers in pages: rows that several VMs have, such as their schedules. */
#include "api/commands/command.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static bool may_see(const struct call *c, const struct vm *vm)
{
	return call_role_for(c, vm->def->uuid) >= ROLE_VIEWER;
}

bool command_vm_found(struct call *c, const struct vm **ret)
{
	const char *name = js_get_str(c->args, "vm");
	struct err e;

	*ret = name ? vm_find(c->host, name) : NULL;
	if (!name || (*ret && may_see(c, *ret)))
		return true;
	err_set(&e, -ENOENT, ERR_NOT_FOUND, "there is no VM '%.255s'. Next: cairn list --all", name);
	call_fail(c, &e);
	return false;
}

/* ---- entries of VMs ---- */

static const char *name_of(struct json_object *entry)
{
	return js_get_str_or(entry, "name", "");
}

static int by_name(const void *a, const void *b)
{
	return strcmp(name_of(*(struct json_object *const *)a), name_of(*(struct json_object *const *)b));
}

/* A page that is being filled. */
struct page {
	struct json_object *list;
	size_t bytes;
	const struct vm *from; /* NULL: the page begins with all entries of its first VM */
	const char *after;     /* the page begins behind this entry of `from` */
};

static bool page_is_full(const struct page *p)
{
	return p->bytes >= COMMAND_PAGE_BYTES;
}

/* Add the VM's entries, in the order of their names, until the page is full. */
static void page_add(struct page *p, const struct vm *vm, void (*append)(const struct vm *vm, struct json_object *list))
{
	CLEANUP_JS struct json_object *all = json_object_new_array();
	struct json_object *one;

	append(vm, all);
	json_object_array_sort(all, by_name);
	for (size_t i = 0; i < json_object_array_length(all) && !page_is_full(p); i++) {
		one = json_object_array_get_idx(all, i);
		if (vm == p->from && strcmp(name_of(one), p->after) <= 0)
			continue;
		p->bytes += js_line_bytes(one);
		json_object_array_add(p->list, json_object_get(one));
	}
}

/* Find the place that the argument `after` says: the name of a VM, or VM/NAME, since neither name has a slash.
 * Returns the index of the page's first VM. */
static size_t page_place(struct page *p, struct vm_host *host, const char *after)
{
	char name[VM_NAME_MAX + 1];
	const char *slash = strchr(after, '/');
	size_t i;

	if (!slash || slash - after > VM_NAME_MAX)
		return vm_index_after(host, after);
	snprintf(name, sizeof(name), "%.*s", (int)(slash - after), after);
	i = vm_index_after(host, name);
	if (!i || strcmp(host->vms[i - 1]->def->name, name) != 0)
		return i;
	p->from = host->vms[i - 1];
	p->after = slash + 1;
	return i - 1;
}

static void page_put_next(const struct page *p, struct json_object *answer)
{
	struct json_object *last = json_object_array_get_idx(p->list, json_object_array_length(p->list) - 1);
	char next[VM_NAME_MAX + 128];

	snprintf(next, sizeof(next), "%s/%s", js_get_str(last, "vm"), name_of(last));
	js_put_str(answer, "next", next);
}

void command_return_page(struct call *c, const char *member, void (*append)(const struct vm *vm, struct json_object *list))
{
	struct vm_host *host = c->host;
	struct page p = { .bytes = 0 };
	struct json_object *o;
	const struct vm *only;

	if (!command_vm_found(c, &only))
		return;
	o = json_object_new_object();
	p.list = json_object_new_array();
	for (size_t i = page_place(&p, host, js_get_str_or(c->args, "after", "")); i < host->nvms && !page_is_full(&p); i++)
		if ((!only || host->vms[i] == only) && may_see(c, host->vms[i]))
			page_add(&p, host->vms[i], append);
	js_put(o, member, p.list);
	if (page_is_full(&p))
		page_put_next(&p, o);
	call_return(c, o);
}
