#include "api/vm/vm.h"
#include "api/access/authors.h"
#include "api/access/client_file.h"
#include "api/access/open_as.h"
#include "api/definition/vm_config.h"
#include "api/schema/disk_tune.h"
#include "api/store/store.h"
#include "api/vm/disk_doubt.h"
#include "api/vm/identity.h"
#include "api/vm/observer.h"
#include "api/vm/vm_compat.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/shell_word.h"
#include "base/utf8.h"
#include "base/util.h"
#include "base/uuid.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* ---- the registry of VMs ---- */

/* Return the index of the first VM whose name does not sort before `name`. */
static size_t lower_bound(struct vm_host *host, const char *name)
{
	size_t lo = 0, hi = host->nvms;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (strcmp(host->vms[mid]->def->name, name) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

size_t vm_index_after(struct vm_host *host, const char *after)
{
	size_t i = lower_bound(host, after);

	return i < host->nvms && !strcmp(host->vms[i]->def->name, after) ? i + 1 : i;
}

struct vm *vm_find_uuid(struct vm_host *host, const uint8_t uuid[16])
{
	for (size_t i = 0; i < host->nvms; i++)
		if (!memcmp(host->vms[i]->def->uuid, uuid, 16))
			return host->vms[i];
	return NULL;
}

struct vm *vm_find_name(struct vm_host *host, const char *name)
{
	size_t i = lower_bound(host, name);

	return i < host->nvms && !strcmp(host->vms[i]->def->name, name) ? host->vms[i] : NULL;
}

struct vm *vm_find(struct vm_host *host, const char *name)
{
	struct vm *vm = vm_find_name(host, name);
	uint8_t uuid[16];

	return !vm && uuid_parse(name, uuid) == 0 ? vm_find_uuid(host, uuid) : vm;
}

int vm_add(struct vm_host *host, struct definition *def, struct vm **ret_vm)
{
	size_t i = lower_bound(host, def->name);
	struct vm *vm = calloc(1, sizeof(*vm));

	if (vm && host->nvms == host->vms_cap) {
		size_t cap = host->vms_cap ? 2 * host->vms_cap : 16;
		struct vm **v = reallocarray(host->vms, cap, sizeof(*v));

		if (!v) {
			free(vm);
			return -ENOMEM;
		}
		host->vms = v;
		host->vms_cap = cap;
	}
	if (!vm)
		return -ENOMEM;
	vm->host = host;
	vm->def = def;
	vm->id = vm->exit.status = vm->start.opts.state_fd = vm->working_set_fd = -1;
	vm->reason = VM_REASON_DEFINED;
	memmove(&host->vms[i + 1], &host->vms[i], (host->nvms - i) * sizeof(*host->vms));
	host->vms[i] = vm;
	host->nvms++;
	vm_notify(vm, added);
	*ret_vm = vm;
	return 0;
}

const struct definition *vm_live(const struct vm *vm)
{
	return vm->live ? vm->live : vm->def;
}

int vm_live_check(const struct vm *vm, struct err *e)
{
	/* A promotion has made the definitions that it is about to set. */
	if (vm->operation.kind == VM_OP_PROMOTE)
		return vm_check_claim(vm, VM_CLAIM_DEFINE, "try again", e);
	if (vm->proc && vm_state_is_active(vm->state))
		return 0;
	return err_set(e, -EPERM, ERR_WRONG_STATE, "VM '%.200s' is %s; change its definition instead, with --config", vm->def->name,
		vm_state_name(vm->state));
}

int vm_compat_check_live(const struct vm *vm, enum vm_known what, struct err *e)
{
	int r = vm_live_check(vm, e);

	return r || vm_process_knows(vm->proc, what) ? r : vm_compat_refuse(vm->def->name, e);
}

int vm_live_disk(const struct vm *vm, const char *which, struct err *e)
{
	int at = definition_disk_find(vm_live(vm), which);

	return at >= 0 ? at : err_set(e, -ENOENT, ERR_NOT_FOUND, "VM '%.200s' has no disk '%.40s'; next: cairn domblklist %s",
		vm->def->name, which, shell_word(vm->def->name).s);
}

int vm_live_interface(const struct vm *vm, const char *which, struct err *e)
{
	const struct definition *d = vm_live(vm);
	char mac[DEFINITION_MAC_TEXT];

	for (unsigned i = 0; i < d->ninterfaces; i++) {
		mac_print(d->interfaces[i].mac, mac);
		if (!strcmp(d->interfaces[i].id, which) || !strcasecmp(mac, which))
			return (int)i;
	}
	return err_set(e, -ENOENT, ERR_NOT_FOUND, "VM '%.200s' has no interface '%.40s'; next: cairn domiflist %s", vm->def->name,
		which, shell_word(vm->def->name).s);
}

bool vm_sleeps(const struct vm *vm)
{
	return (vm->state == VM_PAUSED || vm->state == VM_SAVED) && vm->reason == VM_REASON_IDLE;
}

static void keys_drop(struct json_object *list, const char *const *keys, size_t n)
{
	for (size_t i = 0; list && i < json_object_array_length(list); i++)
		for (size_t k = 0; k < n; k++)
			json_object_object_del(json_object_array_get_idx(list, i), keys[k]);
}

/* Return the definition; the caller owns it. whole: false: without the keys that a command can change in the running
 * VM. */
static struct json_object *definition_comparable(const struct definition *d, bool whole)
{
	static const char *const interface[] = { "link", "bandwidth", "egress" };
	struct json_object *o = definition_to_json(d);

	if (!whole) {
		keys_drop(js_get_array(o, "interfaces"), interface, ARRAY_SIZE(interface));
		json_object_object_del(o, "disks");
	}
	return o;
}

/* Return the disks, without their limits and the media of drives, which can change while the guest runs. */
static struct json_object *disks_comparable(const struct definition *d)
{
	static const char *const medium[] = { "path", "format" };
	CLEANUP_JS struct json_object *o = definition_to_json(d);
	struct json_object *disks = js_get_array(o, "disks");

	keys_drop(disks, disk_tune_names, DISK_TUNE_KEYS);
	for (unsigned i = 0; i < d->ndisks; i++)
		for (size_t k = 0; d->disks[i].device == DEFINITION_CDROM && k < ARRAY_SIZE(medium); k++)
			json_object_object_del(json_object_array_get_idx(disks, i), medium[k]);
	return json_object_get(disks);
}

bool vm_disks_are_pending(const struct vm *vm)
{
	CLEANUP_JS struct json_object *live = disks_comparable(vm_live(vm)), *next = disks_comparable(vm->def);

	return !json_object_equal(live, next);
}

bool vm_has_other_disks(const struct vm *vm)
{
	const struct definition *live = vm_live(vm), *next = vm->def;

	for (unsigned i = 0; i < live->ndisks && live->ndisks == next->ndisks; i++)
		if (strcmp(live->disks[i].id, next->disks[i].id))
			return true;
	return live->ndisks != next->ndisks;
}

bool vm_has_other_interfaces(const struct vm *vm)
{
	const struct definition *live = vm_live(vm), *next = vm->def;

	for (unsigned i = 0; i < live->ninterfaces && live->ninterfaces == next->ninterfaces; i++)
		if (strcmp(live->interfaces[i].id, next->interfaces[i].id))
			return true;
	return live->ninterfaces != next->ninterfaces;
}

int vm_refuse_other(const struct vm *vm, const char *kind, const char *effect, struct err *e)
{
	return err_set(e, -EBUSY, ERR_WRONG_STATE, "VM '%.200s' runs with other %ss than its next start would have, %s give both the same %ss "
		"(attach-%s or detach-%s with --live or --config)", vm->def->name, kind, effect, kind, kind, kind);
}

static bool has_interface(const struct definition *d, const char *id)
{
	for (unsigned i = 0; i < d->ninterfaces; i++)
		if (!strcmp(d->interfaces[i].id, id))
			return true;
	return false;
}

/* Remove the interfaces of d that `other` lacks: they came or went while the VM runs. o: d as JSON. */
static void interfaces_drop(struct json_object *o, const struct definition *d, const struct definition *other)
{
	for (unsigned i = d->ninterfaces; i--;)
		if (!has_interface(other, d->interfaces[i].id))
			json_object_array_del_idx(js_get_array(o, "interfaces"), i, 1);
}

static bool live_differs(const struct vm *vm, bool whole)
{
	CLEANUP_JS struct json_object *live = NULL, *next = NULL;

	if (!vm->live)
		return false;
	live = definition_comparable(vm->live, whole);
	next = definition_comparable(vm->def, whole);
	if (!whole) {
		interfaces_drop(live, vm->live, vm->def);
		interfaces_drop(next, vm->def, vm->live);
	}
	return !json_object_equal(live, next);
}

bool vm_is_pending(const struct vm *vm)
{
	return live_differs(vm, true);
}

bool vm_machine_is_pending(const struct vm *vm)
{
	return live_differs(vm, false);
}

static void vm_free(struct vm *vm)
{
	vm_notify(vm, removed);
	open_as_free(vm->start.opener);
	if (vm->start.opts.state_fd >= 0)
		close(vm->start.opts.state_fd);
	if (vm->working_set_fd >= 0)
		close(vm->working_set_fd);
	client_file_free(vm->start.opts.state_file);
	free(vm->start.failed);
	if (vm->start.config)
		config_done(vm->start.config);
	free(vm->start.config);
	vm_process_free(vm->proc);
	loop_timer_free(vm->agent.timer);
	disk_doubt_clear(&vm->disk_change);
	definition_free(vm->live);
	definition_free(vm->def);
	free(vm);
}

void vm_remove(struct vm *vm)
{
	struct vm_host *host = vm->host;
	size_t i = lower_bound(host, vm->def->name);

	host->nvms--;
	memmove(&host->vms[i], &host->vms[i + 1], (host->nvms - i) * sizeof(*host->vms));
	vm_free(vm);
}

void vm_rename(struct vm *vm, const char *name)
{
	struct vm_host *host = vm->host;
	size_t i = lower_bound(host, vm->def->name);

	memmove(&host->vms[i], &host->vms[i + 1], (host->nvms - i - 1) * sizeof(*host->vms));
	host->nvms--;
	snprintf(vm->def->name, sizeof(vm->def->name), "%s", name);
	i = lower_bound(host, name);
	memmove(&host->vms[i + 1], &host->vms[i], (host->nvms - i) * sizeof(*host->vms));
	host->vms[i] = vm;
	host->nvms++;
}

void vm_free_all(struct vm_host *host)
{
	while (host->nvms)
		vm_free(host->vms[--host->nvms]);
	free(host->vms);
	host->vms = NULL;
	host->vms_cap = 0;
}

/* ---- state and events of a VM ---- */

/* Store the definition of the running VM if the next start has another one. */
static void live_put(const struct vm *vm, struct json_object *o)
{
	struct json_object *live;

	if (!vm->live)
		return;
	live = definition_to_json(vm->live);
	authors_put(live, vm->live);
	js_put(o, "live", live);
}

/* Returns 0; -ENOTSUP: a newer Cairn may have written the definition. */
static int live_load(struct vm *vm, struct json_object *o, struct err *e)
{
	struct json_object *live = js_get(o, "live");
	int r = live ? authors_parse_stored(live, &vm->live, e) : 0;

	if (r < 0 && e->cls == ERR_UNSUPPORTED)
		return -ENOTSUP;
	if (r < 0)
		log_warn("state", "VM '%s': the definition that it runs with is damaged in state.json: %s", vm->def->name, e->msg);
	return 0;
}

void vm_live_drop(struct vm *vm)
{
	definition_free(vm->live);
	vm->live = NULL;
	vm->live_changes++;
}

void vm_live_keep(struct vm *vm)
{
	struct definition *def;
	struct err e;

	if (!vm->proc || vm->live || authors_definition_copy(vm->def, &def, &e) < 0)
		return;
	vm->live = vm->def;
	vm->def = def;
}

void vm_live_replace(struct vm *vm, struct definition *d)
{
	vm_live_drop(vm);
	vm->live = d;
	if (!vm_is_pending(vm)) /* the next start has the same definition */
		vm_live_drop(vm);
	vm_save(vm);
}

void vm_live_change(struct vm *vm, struct definition *d)
{
	identity_keep_slots(d, vm_live(vm));
	vm_live_replace(vm, d);
}

static void uuid_load(struct json_object *o, const char *key, uint8_t ret[16])
{
	const char *text = js_get_str(o, key);

	if (!text || uuid_parse(text, ret) < 0)
		memset(ret, 0, 16);
}

void vm_former_add(struct vm *vm, const uint8_t uuid[16])
{
	size_t i = VM_FORMER_MAX - 1;

	while (i && memcmp(vm->former[i], uuid, 16) != 0)
		i--;
	memmove(vm->former[i], vm->former[i + 1], (VM_FORMER_MAX - 1 - i) * 16);
	memcpy(vm->former[VM_FORMER_MAX - 1], uuid, 16);
}

static void former_put(const struct vm *vm, struct json_object *o)
{
	struct json_object *list = json_object_new_array();
	char text[UUID_TEXT];

	for (size_t i = 0; i < VM_FORMER_MAX; i++)
		if (uuid_is_set(vm->former[i])) {
			uuid_print(vm->former[i], text);
			json_object_array_add(list, json_object_new_string(text));
		}
	if (json_object_array_length(list))
		js_put(o, "former", json_object_get(list));
	json_object_put(list);
}

static void former_load(struct vm *vm, struct json_object *o)
{
	struct json_object *list = js_get_array(o, "former");
	uint8_t uuid[16];

	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		const char *text = js_plain_string(json_object_array_get_idx(list, i));

		if (text && uuid_parse(text, uuid) == 0)
			vm_former_add(vm, uuid);
	}
}

static struct json_object *state_to_json(struct vm *vm)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "state", vm_state_word(vm->state));
	js_put_str(o, "reason", vm_reason_name(vm->reason));
	js_put_str(o, "detail", vm->detail);
	js_put_int(o, "value", vm->value);
	js_put_int(o, "id", vm->id);
	js_put_int(o, "exit_status", vm->exit.status);
	js_put_int(o, "exit_signal", vm->exit.signal);
	/* Do not count a start whose VM process has not answered yet, because the state that is stored with this number
	 * is from before that start. */
	js_put_uint(o, "run", vm->run - (vm->start.kind == VM_OP_START));
	js_put_uint(o, "since_ns", vm->since_ns);
	if (vm->uid)
		js_put_uint(o, "uid", vm->uid);
	if (uuid_is_set(vm->source))
		js_put_uuid(o, "source", vm->source);
	if (uuid_is_set(vm->group))
		js_put_uuid(o, "group", vm->group);
	former_put(vm, o);
	js_put_bool(o, "saved_paused", vm_has(vm, VM_FACT_SAVED_PAUSED));
	vm_notify(vm, state_put, o);
	if (vm_has(vm, VM_FACT_OFF_ASKED))
		js_put_bool(o, "off_asked", true);
	if (vm_has(vm, VM_FACT_REBOOTS))
		js_put_bool(o, "rebooting", true);
	if (vm_has(vm, VM_FACT_FALLS_ASLEEP))
		js_put_bool(o, "falling_asleep", true);
	if (vm_has(vm, VM_FACT_CONTINUES))
		js_put_bool(o, "restarting_process", true);
	live_put(vm, o);
	disk_doubt_put(&vm->disk_change, o);
	return o;
}

void vm_save(struct vm *vm)
{
	CLEANUP_JS struct json_object *o = state_to_json(vm);

	store_put(vm->host->store, vm->def->name, "state.json", o, STORE_EVENTUALLY, NULL, NULL);
}

void vm_save_first(struct vm *vm, struct store_work *w)
{
	CLEANUP_JS struct json_object *o = state_to_json(vm);

	/* It fails only for a path that is too long, and the definition has a longer one. */
	store_put(vm->host->store, vm->def->name, "state.json", o, STORE_WITH_WORK, w, NULL);
}

int vm_load_state(struct vm *vm, struct json_object *o, struct err *e)
{
	const char *word = js_get_str(o, "state"), *reason = js_get_str(o, "reason"),
		   *detail = js_get_str(o, "detail");
	enum vm_state s = word ? vm_state_from_word(word) : VM_STATE_COUNT;
	int r;

	if (s == VM_STATE_COUNT) {
		store_set_vm_file_aside(vm->host->store, vm->def->name, "state.json", "its state is missing or unknown");
		return 0;
	}
	vm->state = s;
	vm->reason = reason ? vm_reason_from_name(reason) : VM_REASON_NONE;
	snprintf(vm->detail, sizeof(vm->detail), "%s", detail ? detail : "");
	vm->value = js_get_int(o, "value", 0);
	vm->id = vm_state_is_active(s) ? (int)js_get_int(o, "id", -1) : -1;
	vm->exit.status = (int)js_get_int(o, "exit_status", -1);
	vm->exit.signal = (int)js_get_int(o, "exit_signal", 0);
	vm->run = (uint64_t)js_get_int(o, "run", 0);
	vm->since_ns = (uint64_t)js_get_int(o, "since_ns", 0);
	vm->uid = (uid_t)js_get_int(o, "uid", 0);
	uuid_load(o, "source", vm->source);
	uuid_load(o, "group", vm->group);
	former_load(vm, o);
	vm_set(vm, VM_FACT_SAVED_PAUSED, js_get_bool(o, "saved_paused", false));
	vm_notify(vm, state_load, o);
	vm_set(vm, VM_FACT_OFF_ASKED, js_get_bool(o, "off_asked", false));
	vm_set(vm, VM_FACT_REBOOTS, js_get_bool(o, "rebooting", false));
	vm_set(vm, VM_FACT_FALLS_ASLEEP, js_get_bool(o, "falling_asleep", false));
	vm_set(vm, VM_FACT_CONTINUES, js_get_bool(o, "restarting_process", false));
	r = live_load(vm, o, e);
	return r ? r : disk_doubt_load(vm, o, e);
}

static void emit_shutdown(struct vm *vm, bool guest, const char *reason)
{
	struct json_object *data = json_object_new_object();

	js_put_bool(data, "guest", guest);
	js_put_str(data, "reason", reason);
	vm_emit(vm, EVENT_SHUTDOWN, data);
}

/* Emit the transition's event besides VM_STATE_CHANGE. SHUTDOWN gets the reasons that QEMU uses. */
static void emit_qmp(struct vm *vm, enum vm_state_event ev)
{
	bool guest = vm->reason != VM_REASON_DESTROYED && vm->reason != VM_REASON_SAVED;

	switch (ev) {
	case VM_EMITS_STOP:
		vm_emit(vm, EVENT_STOP, NULL);
		return;
	case VM_EMITS_RESUME:
		vm_emit(vm, EVENT_RESUME, NULL);
		return;
	case VM_EMITS_SHUTDOWN:
		emit_shutdown(vm, guest, !guest ? "host-qmp-quit" :
			vm->reason == VM_REASON_GUEST_RESET ? "guest-reset" : "guest-shutdown");
		return;
	case VM_EMITS_SHUTDOWN_IF_PANICKED:
		if (vm->reason == VM_REASON_GUEST_PANICKED)
			emit_shutdown(vm, true, "guest-panic");
		return;
	case VM_EMITS_NOTHING:
		return;
	}
}

void vm_emit(const struct vm *vm, enum event_id id, struct json_object *data)
{
	event_emit(&vm->host->sink, id, vm->def->name, vm->def->uuid, data);
}

void vm_emit_change(struct vm *vm, enum vm_state from)
{
	struct json_object *data = json_object_new_object();

	js_put_str(data, "from", vm_state_word(from));
	js_put_str(data, "state", vm_state_word(vm->state));
	js_put_str(data, "reason", vm_reason_name(vm->reason));
	if (vm->detail[0])
		js_put_str(data, "detail", vm->detail);
	if (vm->value)
		js_put_int(data, "value", vm->value);
	vm_emit(vm, EVENT_VM_STATE_CHANGE, data);
}

void vm_set_reason(struct vm *vm, enum vm_reason reason, const char *detail)
{
	vm->reason = reason;
	snprintf(vm->detail, sizeof(vm->detail), "%s", detail);
	utf8_clean(vm->detail); /* the cut may be within a character */
	vm_save(vm);
	vm_notify(vm, state_saved);
	vm_emit_change(vm, vm->state);
}

/* Events are sent at once, but a thread writes the states, so a killed daemon may have told a change that state.json
 * does not have. Return true if the present state is such a one. If not, *from becomes the state that was told last. */
static bool was_told(struct vm *vm, enum vm_state *from)
{
	bool known = vm->is_told && vm->told == vm->state;

	if (vm->is_told)
		*from = vm->told;
	vm->told = vm->state;
	return known;
}

void vm_move(struct vm *vm, enum vm_trigger t, enum vm_reason reason, const char *detail,
	int64_t value)
{
	const struct vm_transition *row = vm_transition_find(vm->state, t);
	enum vm_state from = vm->state;

	if (!row || (row->to == from && (reason == VM_REASON_KEEP || reason == vm->reason)))
		return;
	vm->state = row->to;
	if (reason != VM_REASON_KEEP)
		vm->reason = reason;
	snprintf(vm->detail, sizeof(vm->detail), "%s", detail ? detail : "");
	vm->value = value;
	vm->since_ns = clock_realtime_ns();
	if (t == VM_ASK_SHUTDOWN)
		vm_set(vm, VM_FACT_OFF_ASKED, true);
	if (!vm_state_is_active(vm->state))
		vm->id = -1;
	vm_notify(vm, state_changed, t);
	log_info("state", "VM '%s': %s (%s)%s%s", vm->def->name, vm_state_name(vm->state),
		vm_reason_name(vm->reason), vm->detail[0] ? ": " : "", vm->detail);
	vm_save(vm);
	vm_notify(vm, state_saved);
	if (!was_told(vm, &from)) {
		emit_qmp(vm, row->event);
		vm_emit_change(vm, from);
	}
	vm_notify(vm, state_told);
}
