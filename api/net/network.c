#include "api/net/network.h"
#include "api/access/authors.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/net/network_life.h"
#include "api/net/network_ports.h"
#include "api/net/network_programs.h"
#include "api/net/network_retry.h"
#include "api/net/network_wait.h"
#include "api/store/store.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/util.h"
#include "base/uuid.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NAMED_MAX 3 /* an error names so many VMs */
#define BRIDGES_MAX 1000
#define NETWORKS_MAX 512
#define FOLDER_DEPTH 2 /* dnsmasq/state */
/* The prefix keeps a network such as "state" apart from the files that api/store/store_version.c knows by name. */
#define FILE_PREFIX "net-"
#define FILE_SUFFIX ".json"
#define FILE_NAME_MAX (sizeof(NETWORKS_FOLDER "/" FILE_PREFIX FILE_SUFFIX) + NETWORK_NAME_MAX)

struct networks {
	struct network **list; /* sorted by name */
	size_t n;
};

static const char *const state_words[] = { "inactive", "starting", "active", "stopping" };

const char *network_state_word(enum network_state s)
{
	return state_words[s];
}

/* ---- the registry ---- */

const struct network_definition *network_any(const struct network *n)
{
	return n->def ? n->def : n->live;
}

struct network *network_at(struct vm_host *host, size_t i)
{
	return host->networks && i < host->networks->n ? host->networks->list[i] : NULL;
}

struct network *network_find_name(struct vm_host *host, const char *name)
{
	struct network *n;

	for (size_t i = 0; (n = network_at(host, i)); i++)
		if (!strcmp(network_any(n)->name, name))
			return n;
	return NULL;
}

size_t networks_count(const struct vm_host *host)
{
	return host->networks ? host->networks->n : 0;
}

static struct network *find_uuid(struct vm_host *host, const uint8_t uuid[16])
{
	struct network *n;

	for (size_t i = 0; (n = network_at(host, i)); i++)
		if (!memcmp(network_any(n)->uuid, uuid, 16))
			return n;
	return NULL;
}

struct network *network_find(struct vm_host *host, const char *name_or_uuid)
{
	struct network *n = network_find_name(host, name_or_uuid);
	uint8_t uuid[16];

	return n || uuid_parse(name_or_uuid, uuid) < 0 ? n : find_uuid(host, uuid);
}

static struct network *network_add(struct vm_host *host, const char *name)
{
	struct network *n = must_alloc(calloc(1, sizeof(*n)));
	struct networks *all = host->networks;
	size_t i = 0;

	if (!all)
		all = host->networks = must_alloc(calloc(1, sizeof(*all)));
	all->list = must_alloc(reallocarray(all->list, all->n + 1, sizeof(*all->list)));
	while (i < all->n && strcmp(network_any(all->list[i])->name, name) < 0)
		i++;
	memmove(all->list + i + 1, all->list + i, (all->n - i) * sizeof(*all->list));
	all->list[i] = n;
	all->n++;
	n->host = host;
	return n;
}

static void network_free(struct network *n)
{
	network_operation_free(n);
	network_programs_free(n->programs);
	network_retry_free(n->retry);
	network_waits_free(n->waits);
	network_queries_end(n, NULL);
	json_object_put(n->blocked);
	json_object_put(n->links);
	network_definition_free(n->def);
	network_definition_free(n->live);
	free(n);
}

static void registry_drop(struct network *n)
{
	struct networks *all = n->host->networks;
	size_t i = 0;

	while (all->list[i] != n)
		i++;
	all->n--;
	memmove(all->list + i, all->list + i + 1, (all->n - i) * sizeof(*all->list));
	network_free(n);
}

static void folder_path(const struct network *n, char path[PATH_MAX])
{
	char uuid[UUID_TEXT];

	uuid_print(network_any(n)->uuid, uuid);
	snprintf(path, PATH_MAX, "%s/" NETWORKS_FOLDER "/%s", n->host->paths->state_dir, uuid);
}

int network_folder_make(const struct network *n, char *path, struct err *e)
{
	folder_path(n, path);
	return mkdir_all(path, 0700, e);
}

/* Remove the content of a folder, including folders in it down to a depth. Some of it is dnsmasq's, which a guest may
 * have taken over: no link is followed. fd: taken. */
static void folder_clear(int fd, unsigned depth)
{
	DIR *dir = fdopendir(fd);
	struct dirent *de;

	if (!dir)
		close(fd);
	while (dir && (de = readdir(dir))) {
		int inner;

		if (!strcmp(de->d_name, ".") || !strcmp(de->d_name, "..") || unlinkat(dirfd(dir), de->d_name, 0) == 0 || !depth)
			continue;
		inner = openat(dirfd(dir), de->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (inner >= 0)
			folder_clear(inner, depth - 1);
		unlinkat(dirfd(dir), de->d_name, AT_REMOVEDIR);
	}
	if (dir)
		closedir(dir);
}

static void folder_remove(const struct network *n)
{
	char path[PATH_MAX];
	int fd;

	folder_path(n, path);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return;
	folder_clear(fd, FOLDER_DEPTH);
	if (rmdir(path) < 0)
		log_warn("network", "%s: %s", path, strerror(errno));
}

void network_remove(struct network *n)
{
	struct network_waits *waits = STEAL_PTR(n->waits);
	struct err e;

	err_set(&e, -ENOENT, ERR_NOT_FOUND, "network '%s' was removed meanwhile", network_any(n)->name);
	network_queries_end(n, &e);
	folder_remove(n);
	registry_drop(n);
	network_waits_run(waits);
}

void networks_free(struct vm_host *host)
{
	struct networks *all = STEAL_PTR(host->networks);

	for (size_t i = 0; all && i < all->n; i++)
		network_free(all->list[i]);
	if (all)
		free(all->list);
	free(all);
}

/* ---- files ---- */

static void file_name(const char *name, char out[FILE_NAME_MAX])
{
	snprintf(out, FILE_NAME_MAX, NETWORKS_FOLDER "/" FILE_PREFIX "%s" FILE_SUFFIX, name);
}

int network_save(struct network *n, struct err *e)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	char file[FILE_NAME_MAX];

	file_name(network_any(n)->name, file);
	if (!n->def && n->state == NETWORK_INACTIVE)
		return store_remove_file(n->host->store, NULL, file, STORE_SOON, NULL, e);
	if (n->def)
		js_put(o, "definition", network_definition_to_json(n->def));
	if (n->state != NETWORK_INACTIVE)
		js_put(o, "live", network_definition_to_json(n->live));
	js_put_str(o, "state", state_words[n->state]);
	js_put_bool(o, "autostart", n->autostart);
	js_put_bool(o, "group", n->of_group);
	js_put_bool(o, "group-complete", n->group_is_complete);
	return store_put(n->host->store, NULL, file, o, STORE_SOON, NULL, e);
}

static int definition_load(struct json_object *o, const char *name, struct network_definition **ret, struct err *e)
{
	int r = o ? network_definition_parse_stored(o, ret, e) : 0;

	if (!r && *ret && (strcmp((*ret)->name, name) || !uuid_is_set((*ret)->uuid)))
		return err_set(e, -EINVAL, ERR_CORRUPT, "the definition has another name, or no UUID");
	return r;
}

static int state_of_word(const char *word, enum network_state *ret)
{
	for (unsigned i = 0; word && i < ARRAY_SIZE(state_words); i++)
		if (!strcmp(word, state_words[i])) {
			*ret = i;
			return 0;
		}
	return -EINVAL;
}

static void network_found(void *opaque, const char *file)
{
	struct vm_host *host = opaque;
	struct network_definition *def = NULL, *live = NULL;
	CLEANUP_JS struct json_object *o = NULL;
	enum network_state state = NETWORK_INACTIVE;
	char path[FILE_NAME_MAX], name[NETWORK_NAME_MAX + 1];
	size_t len = strlen(file), around = strlen(FILE_PREFIX FILE_SUFFIX);
	struct network *n;
	struct err e;
	int r;

	if (strncmp(file, FILE_PREFIX, strlen(FILE_PREFIX)) || len <= around || len - around > NETWORK_NAME_MAX)
		return;
	snprintf(name, sizeof(name), "%.*s", (int)(len - around), file + strlen(FILE_PREFIX));
	file_name(name, path);
	o = store_load_file(host->store, NULL, path);
	if (!o)
		return;
	r = definition_load(js_get(o, "definition"), name, &def, &e);
	if (!r)
		r = definition_load(js_get(o, "live"), name, &live, &e);
	if (!r && (state_of_word(js_get_str(o, "state"), &state) < 0 || (!def && !live) || !live != (state == NETWORK_INACTIVE) ||
		find_uuid(host, (def ? def : live)->uuid)))
		r = err_set(&e, -EINVAL, ERR_CORRUPT, "its parts contradict one another, or its UUID is another network's");
	if (r < 0) {
		if (e.cls == ERR_UNSUPPORTED)
			store_leave_vm(host->store, NULL, path, e.msg);
		else
			store_set_aside(host->store, path, e.msg);
		network_definition_free(def);
		network_definition_free(live);
		return;
	}
	n = network_add(host, name);
	n->def = def;
	n->live = live;
	n->state = state;
	n->autostart = def && js_get_bool(o, "autostart", false);
	n->of_group = js_get_bool(o, "group", false);
	n->group_is_complete = js_get_bool(o, "group-complete", n->autostart); /* an older Cairn has no such key */
}

void networks_load(struct vm_host *host)
{
	store_each_file(host->store, NETWORKS_FOLDER, network_found, host);
}

/* ---- permission to use a network, and its users ---- */

static bool ids_have(const struct network_ids *ids, uint32_t id)
{
	for (uint32_t i = 0; i < ids->n; i++)
		if (ids->list[i] == id)
			return true;
	return false;
}

/* For an active network, use the definition that it runs with, which net-update changes. So a permission that an
 * admin gives or revokes there takes effect at once. A permission in the next start's definition takes effect at the
 * next start. */
bool network_permits(const struct network *n, const struct rights *r)
{
	const struct network_definition *d = n->live ? n->live : n->def;

	if (!r || ids_have(&d->users, r->uid) || ids_have(&d->groups, r->gid))
		return true;
	for (size_t i = 0; i < r->ngroups; i++)
		if (ids_have(&d->groups, r->groups[i]))
			return true;
	return false;
}

void network_warn_missing(struct vm_host *host, const struct definition *d, struct json_object *list)
{
	const char *next = geteuid() ? "networks need root's daemon; use an interface of type user" : "define it with: cairn net-define";
	char text[256];

	for (unsigned i = 0; i < d->ninterfaces; i++) {
		const struct definition_interface *n = &d->interfaces[i];

		if (n->type != DEFINITION_NETWORK || n->link || network_find_name(host, n->source))
			continue;
		snprintf(text, sizeof(text), "interface %s: there is no network '%s', so the VM cannot start; %s", n->id, n->source, next);
		json_object_array_add(list, json_object_new_string(text));
	}
}

/* Whether the guest's tap would have the address of the network's name server or of its bridge, because they differ in
 * the first byte only (tap.c, tools/net/request.c). The bridge would then send the tap what is for them. */
static bool mac_is_own(const struct network_definition *n, const uint8_t mac[DEFINITION_MAC_BYTES])
{
	uint8_t own[DEFINITION_MAC_BYTES];

	return !memcmp(mac + 1, n->uuid + 1, DEFINITION_MAC_BYTES - 1) ||
		(sscanf(n->mac, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &own[0], &own[1], &own[2], &own[3], &own[4], &own[5]) == 6 &&
			!memcmp(mac + 1, own + 1, DEFINITION_MAC_BYTES - 1));
}

int network_bridge_for(void *opaque, const struct definition *d, unsigned at, const char **ret_bridge, struct err *e)
{
	const char *name = d->interfaces[at].source;
	const struct rights *author = author_of_interface(d, &d->interfaces[at]);
	const struct network *n = network_find_name(opaque, name);

	/* Users without the right to use a network do not learn whether it exists. */
	if (author && (!n || !network_permits(n, author)))
		return err_set(e, -EPERM, ERR_PERMISSION, "interfaces[%u].source: user %u defined the interface and may not use a network "
			"'%s'; an admin can permit it with: cairn net-update %s add user %u", at, (unsigned)author->uid, name, name,
			(unsigned)author->uid);
	if (!n)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "interfaces[%u].source: there is no network '%s'. Next: cairn net-list --all; "
			"an interface of type user needs no network", at, name);
	if (n->state == NETWORK_STARTING)
		return err_set(e, -EBUSY, ERR_BUSY, "interfaces[%u].source: network '%s' is being started; try again", at, name);
	if (n->state != NETWORK_ACTIVE)
		return err_set(e, -EPERM, ERR_WRONG_STATE, "interfaces[%u].source: network '%s' is not active; start it with: cairn "
			"net-start %s", at, name, name);
	*ret_bridge = network_is_direct(n->live) ? NULL : n->live->bridge;
	if (*ret_bridge && mac_is_own(n->live, d->interfaces[at].mac))
		return err_set(e, -EINVAL, ERR_INVALID, "interfaces[%u].mac: is too near that of network '%s' itself; give the interface another one, "
			"or none to have one generated", at, name);
	return 0;
}

bool network_start_waits(struct vm *vm)
{
	const struct definition *d = vm_live(vm);

	for (unsigned i = 0; i < d->ninterfaces; i++) {
		const struct definition_interface *at = &d->interfaces[i];
		const struct network *n = at->type == DEFINITION_NETWORK ? network_find_name(vm->host, at->source) : NULL;
		const struct rights *author = author_of_interface(d, at);

		if (n && n->state == NETWORK_STARTING && !at->link && (!author || network_permits(n, author)))
			return true;
	}
	return false;
}

bool network_is_used_by(const struct network *n, const struct vm *vm)
{
	const struct definition *d = vm_live(vm);
	const char *name = network_any(n)->name;

	if (!vm->proc && !vm_state_is_active(vm->state) && !vm_is_starting(vm))
		return false;
	for (unsigned i = 0; i < d->ninterfaces; i++)
		/* An interface whose link is down counts, too: a running VM keeps its tap then. */
		if (d->interfaces[i].type == DEFINITION_NETWORK && !strcmp(d->interfaces[i].source, name))
			return true;
	return false;
}

size_t network_users_print(const struct network *n, char *buf, size_t size)
{
	const char *names[NAMED_MAX];
	size_t users = 0, at = 0;

	for (size_t i = 0; i < n->host->nvms; i++)
		if (network_is_used_by(n, n->host->vms[i])) {
			if (users < NAMED_MAX)
				names[users] = n->host->vms[i]->def->name;
			users++;
		}
	buf[0] = 0;
	for (size_t i = 0; i < MIN(users, NAMED_MAX); i++)
		at += (size_t)snprintf(buf + at, size - MIN(at, size), "%s%.80s", !i ? "" : i == users - 1 ? " and " : ", ", names[i]);
	if (users > NAMED_MAX)
		snprintf(buf + at, size - MIN(at, size), " and %zu more", users - NAMED_MAX);
	return users;
}

void network_emit(const struct network *n, unsigned event, struct json_object *data)
{
	if (!data)
		data = json_object_new_object();
	js_put_str(data, "network", network_any(n)->name);
	js_put_uuid(data, "network-uuid", network_any(n)->uuid);
	event_emit(&n->host->sink, event, NULL, NULL, data);
}

/* ---- defining networks ---- */

/* Return the other network whose bridge has this name; NULL: none. */
static const struct network *bridge_owner(struct vm_host *host, const char *bridge, const struct network *but)
{
	const struct network *n;

	for (size_t i = 0; (n = network_at(host, i)); i++)
		if (n != but && ((n->def && !strcmp(n->def->bridge, bridge)) || (n->live && !strcmp(n->live->bridge, bridge))))
			return n;
	return NULL;
}

static int bridge_choose(struct vm_host *host, struct network_definition *d, const struct network *old, struct err *e)
{
	if (old && !network_is_direct(network_any(old))) {
		memcpy(d->bridge, network_any(old)->bridge, sizeof(d->bridge));
		return 0;
	}
	for (unsigned i = 0; i < BRIDGES_MAX; i++) {
		snprintf(d->bridge, sizeof(d->bridge), "virbr%u", i);
		if (!bridge_owner(host, d->bridge, NULL) && !if_nametoindex(d->bridge))
			return 0;
	}
	return err_set(e, -ENOSPC, ERR_INVALID, "bridge: all names up to virbr%d are taken; give a name", BRIDGES_MAX - 1);
}

int network_complete(struct vm_host *host, struct network_definition *d, struct err *e)
{
	const struct network *old = network_find_name(host, d->name), *same, *owner;
	int r = 0;

	if (!old && networks_count(host) >= NETWORKS_MAX)
		return err_set(e, -ENOSPC, ERR_INVALID, "there are %d networks already; undefine one first", NETWORKS_MAX);
	if (old && uuid_is_set(d->uuid) && memcmp(d->uuid, network_any(old)->uuid, 16))
		return err_set(e, -EEXIST, ERR_EXISTS, "network '%s' exists with another UUID; remove uuid from the definition, or "
			"give another name", d->name);
	same = uuid_is_set(d->uuid) ? find_uuid(host, d->uuid) : NULL;
	if (same && same != old)
		return err_set(e, -EEXIST, ERR_EXISTS, "uuid: network '%s' has this UUID; remove the key to have one generated",
			network_any(same)->name);
	if (old)
		memcpy(d->uuid, network_any(old)->uuid, 16);
	else if (!uuid_is_set(d->uuid))
		r = uuid_make(d->uuid, e);
	if (network_is_direct(d))
		return r;
	if (!r && !d->bridge[0])
		r = bridge_choose(host, d, old, e);
	owner = r || d->mode == NETWORK_BRIDGE ? NULL : bridge_owner(host, d->bridge, old);
	if (owner)
		return err_set(e, -EEXIST, ERR_EXISTS, "bridge: %s is the bridge of network '%s'; give another name", d->bridge,
			network_any(owner)->name);
	return r;
}

int network_define(struct vm_host *host, struct network_definition *d, bool of_group, struct network **ret_n, bool *ret_created,
	struct err *e)
{
	struct network *n = network_find_name(host, d->name);
	struct network_definition *before = n ? n->def : NULL;
	bool created = !n, was_of_group = n && n->of_group, was_complete = n && n->group_is_complete;
	int r;

	if (!n)
		n = network_add(host, d->name);
	n->def = d;
	n->of_group = before ? was_of_group : of_group;
	n->group_is_complete = before && was_complete;
	r = network_save(n, e);
	if (r < 0) {
		n->def = before;
		n->of_group = was_of_group;
		n->group_is_complete = was_complete;
		if (created)
			registry_drop(n);
		return r;
	}
	network_definition_free(before);
	network_emit(n, EVENT_NETWORK_DEFINED, NULL);
	*ret_n = n;
	*ret_created = !before;
	return 0;
}

struct network *network_add_transient(struct vm_host *host, struct network_definition *d)
{
	struct network *n = network_add(host, d->name);

	n->def = d; /* until network_start() makes it the live one */
	return n;
}

int network_undefine(struct network *n, struct err *e)
{
	struct network_definition *before = n->def;
	bool autostart = n->autostart;
	int r;

	if (n->state == NETWORK_INACTIVE) {
		char file[FILE_NAME_MAX];

		file_name(before->name, file);
		r = store_remove_file(n->host->store, NULL, file, STORE_SOON, NULL, e);
		if (r < 0)
			return r;
		network_emit(n, EVENT_NETWORK_UNDEFINED, NULL);
		network_remove(n);
		return 0;
	}
	n->def = NULL;
	n->autostart = false;
	r = network_save(n, e);
	if (r < 0) {
		n->def = before;
		n->autostart = autostart;
		return r;
	}
	network_definition_free(before);
	network_emit(n, EVENT_NETWORK_UNDEFINED, NULL);
	return 0;
}
