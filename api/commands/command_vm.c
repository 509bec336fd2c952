/* Handlers of define and of the VM's lifecycle. */
#include "api/commands/command.h"
#include "api/access/open_as.h"
#include "api/access/rights.h"
#include "api/definition/vm_config.h"
#include "api/policy/restart.h"
#include "api/store/store.h"
#include "api/vm/identity.h"
#include "api/vm/image_users.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_process.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define REQUEST_TIMEOUT_NS (10 * 1000000000ULL)

/* ---- define ---- */

static void definition_free_p(struct definition **d)
{
	definition_free(*d);
}

/* Check name and uuid against the existing VMs, and fill in the uuid. */
static int define_check(struct vm_host *host, struct definition *def, struct vm **ret_old, struct err *e)
{
	struct vm *old = vm_find(host, def->name), *holder;

	if (old && strcmp(old->def->name, def->name))
		old = NULL; /* the name equals another VM's uuid */
	*ret_old = old;
	if (old && vm_check_claim(old, VM_CLAIM_DEFINE, "define", e) < 0)
		return -EBUSY;
	if (old && template_check(old, "change its definition", e) < 0)
		return -EPERM;
	if (!definition_has_uuid(def) && old)
		memcpy(def->uuid, old->def->uuid, sizeof(def->uuid));
	if (!definition_has_uuid(def) && definition_make_uuid(def, e) < 0)
		return -EIO;
	if (old && memcmp(old->def->uuid, def->uuid, sizeof(def->uuid)))
		return err_set(e, -EEXIST, ERR_EXISTS,
			"uuid: VM '%s' exists with another one; leave it out, or undefine the VM first",
			def->name);
	holder = vm_find_uuid(host, def->uuid);
	if (holder && holder != old)
		return err_set(e, -EEXIST, ERR_EXISTS,
			"uuid: is taken by VM '%s'; leave it out and one is made", holder->def->name);
	return identity_complete(host, def, old, e);
}

struct define {
	struct store_work work;
	struct vm_host *host;
	struct definition *def; /* owned until the VM takes it */
	uint8_t uuid[16];
	enum vm_define_mode mode;
	struct json_object *was; /* owned; expected old definition; NULL: any */
	bool created, outdates;
	void (*done)(void *opaque, int r, const struct vm_defined *what, const struct err *e);
	void *opaque;
};

/* Finish. what: NULL when r < 0. */
static void define_end(struct define *w, int r, const struct vm_defined *what, const struct err *e)
{
	w->done(w->opaque, r, what, e);
	definition_free(w->def);
	json_object_put(w->was);
	free(w);
}

/* Check that the definition has not changed since the client read it, so that no client's change is lost. */
static int was_check(const struct define *w, struct err *e)
{
	CLEANUP_JS struct json_object *is = NULL;
	const struct vm *vm = vm_find(w->host, w->def->name);

	if (!w->was)
		return 0;
	is = vm ? definition_to_json(vm->def) : NULL;
	if (is && json_object_equal(is, w->was))
		return 0;
	return err_set(e, -EBUSY, ERR_BUSY,
		"VM '%s' was changed by somebody else meanwhile; look at it, and change it again",
		w->def->name);
}

static void define_synced(struct store_work *work)
{
	struct define *w = container_of(work, struct define, work);
	struct vm *vm = vm_find_uuid(w->host, w->uuid);
	struct vm_defined what = { .vm = vm, .created = w->created, .outdates = w->outdates };
	struct err e;
	int r = work->r;

	if (r < 0) {
		e = work->e;
	} else if (!vm) {
		r = err_set(&e, -ENOENT, ERR_NOT_FOUND, "somebody has undefined it meanwhile");
	} else {
		what.def = vm->def;
	}
	define_end(w, r, &what, &e);
}

static void keys_drop(struct json_object *o, const char *const *keys, size_t n)
{
	for (size_t i = 0; i < n; i++)
		json_object_object_del(o, keys[i]);
}

/* Return the definition without the parts that no guest sees. */
static struct json_object *machine_of(const struct definition *def)
{
	static const char *const own[] = { "title", "description", "hugepages", "on_poweroff", "on_reboot", "on_crash",
		"restart", "shutdown", "idle", "order", "start_delay", "stop_action" };
	static const char *const interface[] = { "forwards", "restrict", "host_loopback" };
	struct json_object *o = definition_to_json(def), *interfaces = js_get_array(o, "interfaces");

	keys_drop(o, own, ARRAY_SIZE(own));
	for (size_t i = 0; interfaces && i < json_object_array_length(interfaces); i++)
		keys_drop(json_object_array_get_idx(interfaces, i), interface, ARRAY_SIZE(interface));
	return o;
}

static bool outdates(const struct vm *vm, const struct definition *def)
{
	CLEANUP_JS struct json_object *was = machine_of(vm->def), *is = machine_of(def);

	return vm->state == VM_SAVED && !json_object_equal(was, is);
}

static void text_copy(char **to, const char *from)
{
	free(*to);
	*to = from ? strdup(from) : NULL;
}

static void definition_replace(struct vm *vm, struct definition *def)
{
	if (vm->proc && !vm->live)
		vm->live = vm->def;
	else
		definition_free(vm->def);
	vm->def = def;
	vm_notify(vm, redefined);
	if (!vm->live)
		return;
	/* No guest sees these, so they change at once. */
	text_copy(&vm->live->title, def->title);
	text_copy(&vm->live->description, def->description);
}

/* Give the definition to the VM, and to its folder in the state folder. */
static int define_keep(struct define *w, struct err *e)
{
	struct vm_host *host = w->host;
	struct vm *vm = NULL;
	int r = was_check(w, e);

	if (!r)
		r = define_check(host, w->def, &vm, e);
	if (!r && !vm && w->mode == VM_REDEFINE)
		r = err_set(e, -ENOENT, ERR_NOT_FOUND, "somebody has undefined VM '%s' meanwhile", w->def->name);
	if (!r)
		r = store_keep_draft(host->store, &w->work, w->def->name, e);
	if (r < 0)
		return r;
	w->created = !vm;
	if (vm) {
		w->outdates = outdates(vm, w->def);
		definition_replace(vm, STEAL_PTR(w->def));
		return 0;
	}
	r = vm_add(host, w->def, &vm);
	if (r < 0)
		return err_set_errno(e, r, "VM '%s'", w->def->name);
	w->def = NULL;
	vm_save(vm);
	return 0;
}

static void define_drafted(struct store_work *work)
{
	struct define *w = container_of(work, struct define, work);
	const char *name = w->def->name;
	struct err e = work->e;
	int r = work->r;

	if (!r)
		r = define_keep(w, &e);
	if (r < 0) {
		store_drop_draft(w->host->store, work);
		define_end(w, r, NULL, &e);
		return;
	}
	work->done = define_synced;
	store_sync_definition(w->host->store, work, name);
	event_emit(&w->host->sink, EVENT_VM_DEFINED, name, NULL);
}

/* Continue once its files were checked. */
static void define_go(struct define *w)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct vm_defined what;
	struct vm *old = NULL;
	struct err e;
	int r = was_check(w, &e);

	if (!r)
		r = define_check(w->host, w->def, &old, &e);
	if (r < 0 || w->mode == VM_VALIDATE) {
		what = (struct vm_defined){ .def = w->def, .vm = old, .created = !old };
		define_end(w, r, &what, &e);
		return;
	}
	memcpy(w->uuid, w->def->uuid, sizeof(w->uuid));
	o = definition_to_json(w->def);
	if (w->def->rights)
		rights_put(o, w->def->rights);
	w->work.loop = w->host->loop;
	w->work.done = define_drafted;
	store_write_draft(w->host->store, &w->work, o);
}

static void define_finish(struct define *w, int r, const struct err *e)
{
	if (r < 0)
		define_end(w, r, NULL, e);
	else
		define_go(w);
}

static void define_opened(void *opaque, int r, struct config *c, const struct err *e)
{
	if (!r)
		config_done(c);
	define_finish(opaque, r, e);
}

void vm_define(struct vm_host *host, struct definition *def, enum vm_define_mode mode, struct json_object *was,
	void (*done)(void *opaque, int r, const struct vm_defined *what, const struct err *e),
	void *opaque)
{
	struct define *w = calloc(1, sizeof(*w));
	struct open_as *o;
	struct err e;
	int r;

	if (!w)
		abort();
	*w = (struct define){ .host = host, .def = def, .mode = mode, .was = was, .done = done, .opaque = opaque };
	if (def->rights) {
		open_as_open(host->loop, def, OPEN_AS_ALL, define_opened, w, &o);
		return;
	}
	r = definition_check_files(def, &e);
	define_finish(w, r, &e);
}

static struct json_object *warnings_of(const struct vm_defined *what)
{
	struct json_object *list = definition_warnings(what->def);

	if (what->outdates)
		json_object_array_add(list, json_object_new_string(
			"it has a managed save, which the next start goes on from only if the guest would see no "
			"difference; start --force-boot drops that"));
	return list;
}

static void define_done(void *opaque, int r, const struct vm_defined *what, const struct err *e)
{
	struct json_object *o;
	struct call *c = opaque;
	char uuid[DEFINITION_UUID_TEXT];

	if (r < 0) {
		call_fail(c, e);
		return;
	}
	o = json_object_new_object();
	uuid_print(what->def->uuid, uuid);
	js_put_str(o, "name", what->def->name);
	js_put_str(o, "uuid", uuid);
	js_put_bool(o, "created", what->created);
	js_put_bool(o, "pending", what->vm && vm_is_pending(what->vm));
	js_put(o, "warnings", warnings_of(what));
	call_return(c, o);
}

void command_vm_define(struct call *c)
{
	struct definition *def CLEANUP(definition_free_p) = NULL;
	const char *folder = js_get_str(c->args, "folder");
	struct peer who = conn_peer(c->conn);
	enum vm_define_mode mode = js_get_bool(c->args, "validate-only", false) ? VM_VALIDATE :
		conn_role(c->conn) < ROLE_ADMIN ? VM_REDEFINE : VM_DEFINE;
	struct err e;
	int r = 0;

	if (folder && *folder != '/')
		r = err_set(&e, -EINVAL, ERR_INVALID, "folder: must be an absolute path");
	if (!r)
		r = definition_parse(js_get(c->args, "definition"), folder, &def, &e);
	if (!r)
		r = rights_of_peer(&who, &def->rights, &e);
	if (r < 0)
		call_fail(c, &e);
	else
		vm_define(c->host, STEAL_PTR(def), mode, json_object_get(js_get(c->args, "was")),
			define_done, c);
}

/* ---- lifecycle ---- */

static void start_done(void *opaque, int r, const struct err *e)
{
	struct call *c = opaque;
	struct json_object *o;

	if (r < 0) {
		call_fail(c, e);
		return;
	}
	o = json_object_new_object();
	js_put_int(o, "id", c->vm->id);
	call_return(c, o);
}

void command_vm_start(struct call *c)
{
	struct vm_start_opts opts = { .state_fd = -1, .paused = js_get_bool(c->args, "paused", false),
		.force_boot = js_get_bool(c->args, "force-boot", false),
		.eager = js_get_bool(c->args, "eager", false), .done = start_done, .opaque = c };

	vm_start(c->vm, &opts);
}

void command_vm_destroy(struct call *c)
{
	/* The restart that is pending is what the client stops. */
	if (!c->vm->proc && !vm_is_stopping(c->vm) && restart_is_pending(c->vm)) {
		restart_call_off(c->vm);
		call_return(c, NULL);
		return;
	}
	vm_destroy(c->vm, c);
}

/* The VM may have ended meanwhile; then the table has no row. It cannot have been undefined, since undefining needs a VM
 * without a process and thus without requests. */
static void request_done(struct call *c, int r, const struct err *e, enum vm_trigger t,
	const char *reason)
{
	if (r < 0) {
		call_fail(c, e);
		return;
	}
	vm_move(c->vm, t, reason, NULL, 0);
	call_return(c, NULL);
}

static void suspend_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct call *c = opaque;

	(void)a;
	/* Usually the process's event has come first; then this changes nothing. */
	request_done(c, r, e, VM_SAW_PAUSED, "user");
}

static void resume_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	(void)a;
	request_done(opaque, r, e, VM_SAW_RUNNING, "user");
}

static void reset_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct call *c = opaque;

	(void)a;
	if (r == 0)
		vm_set(c->vm, VM_FACT_REBOOTS, false);
	request_done(c, r, e, VM_ASK_RESET, c->vm->state == VM_PAUSED ? NULL : "booted");
}

static void vm_request(struct call *c, enum vm_msg_type type,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e))
{
	vm_process_request(c->vm->proc, type, NULL, 0, -1, REQUEST_TIMEOUT_NS, done, c);
}

void command_vm_suspend(struct call *c)
{
	vm_request(c, VM_MSG_STOP, suspend_done);
}

void command_vm_resume(struct call *c)
{
	vm_request(c, VM_MSG_CONT, resume_done);
}

void command_vm_reset(struct call *c)
{
	vm_request(c, VM_MSG_RESET, reset_done);
}

/* ---- console ---- */

struct console_wait {
	struct call *call;
	int fd; /* the end for the client */
};

static void console_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct console_wait *w = opaque;

	(void)a;
	if (r < 0) {
		close(w->fd);
		call_fail(w->call, e);
	} else {
		call_return_fd(w->call, NULL, w->fd);
	}
	free(w);
}

static uint8_t console_kind(const struct call *c)
{
	const char *kind = js_get_str(c->args, "kind");

	return kind && !strcmp(kind, "virtio") ? VM_CONSOLE_VIRTIO : VM_CONSOLE_SERIAL;
}

/* The client gets a socket to the VM's process, so console data never passes through the daemon. */
void command_vm_console(struct call *c)
{
	struct console_wait *w = NULL;
	struct vm_console body = { .kind = console_kind(c), .history = js_get_bool(c->args, "history", true) };
	struct err e;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
		err_set_errno(&e, -errno, "console");
		call_fail(c, &e);
		return;
	}
	w = malloc(sizeof(*w));
	if (!w)
		abort();
	*w = (struct console_wait){ .call = c, .fd = pair[0] };
	vm_process_request(c->vm->proc, VM_MSG_CONSOLE, &body, sizeof(body), pair[1],
		REQUEST_TIMEOUT_NS, console_done, w);
	close(pair[1]);
}
