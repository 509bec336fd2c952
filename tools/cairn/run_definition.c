#include "tools/cairn/run_definition.h"
#include "api/store/paths.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "tools/cairn/backing.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/forward.h"
#include "tools/cairn/host_probe.h"
#include "tools/cairn/run_overlay.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NAME_DEFAULT "vm"
#define MEMORY_DEFAULT "512M"
#define WORDS_DEFAULT "console=ttyS0 panic=-1"

/* The words that Linux needs on a KVM that emulates kernel mode (docs/bring-your-own-kernel.md explains each). Linux
 * uses the last one of two words, so the user's words come after these. */
#define WORDS_PVM                                                                                                      \
	"mitigations=off rodata=off clearcpuid=smap,smep,umip,popcnt,cx16,xsaveopt,xsavec,xsaves,pku,mpx,amx_tile,pcid,invpcid,rdpid,erms,fsrm " \
	"nofsgsbase reboot=k lpj=4000000 random.trust_cpu=on no_timer_check clocksource=kvm-clock"

/* ---- parts ---- */

static void origin_put(struct run_definition *d, const char *key, const char *option)
{
	if (!d->file.origins)
		d->file.origins = json_object_new_object();
	js_put_str(d->file.origins, key, option);
}

static struct json_object *list_get(struct run_definition *d, const char *key)
{
	struct json_object *list = js_get(d->file.definition, key);

	if (!json_object_is_type(list, json_type_array))
		js_put(d->file.definition, key, list = json_object_new_array());
	return list;
}

static void list_add(struct run_definition *d, const char *list, const char *option, struct json_object *o)
{
	struct json_object *array = list_get(d, list);
	char key[64];

	snprintf(key, sizeof(key), "%s[%zu]", list, json_object_array_length(array));
	origin_put(d, key, option);
	json_object_array_add(array, o);
}

/* Set a key of an object of the definition, such as "initrd" of "boot".
 * object: NULL: the definition itself. v: taken. */
static void run_definition_put(struct run_definition *d, const char *option, const char *object, const char *key, struct json_object *v)
{
	struct json_object *o = object ? js_get(d->file.definition, object) : d->file.definition;
	char name[64];

	if (!json_object_is_type(o, json_type_object))
		js_put(d->file.definition, object, o = json_object_new_object());
	js_put(o, key, v);
	snprintf(name, sizeof(name), "%s%s%s", object ? object : "", object ? "." : "", key);
	if (option)
		origin_put(d, name, option);
}

/* The origins of disks have their places as keys, so those of the others move. */
static void disks_move(struct run_definition *d, struct json_object *first)
{
	struct json_object *had = list_get(d, "disks"), *list = json_object_new_array(), *origins = d->file.origins;
	size_t n = json_object_array_length(had);
	char key[64];

	json_object_array_add(list, first);
	for (size_t i = n; i--;) {
		struct json_object *origin;

		snprintf(key, sizeof(key), "disks[%zu]", i);
		if (!json_object_object_get_ex(origins, key, &origin))
			continue;
		snprintf(key, sizeof(key), "disks[%zu]", i + 1);
		js_put(origins, key, json_object_get(origin));
	}
	for (size_t i = 0; i < n; i++)
		json_object_array_add(list, json_object_get(json_object_array_get_idx(had, i)));
	js_put(d->file.definition, "disks", list);
}

void run_definition_add_disk(struct run_definition *d, const char *option, struct json_object *o, bool is_first)
{
	if (!is_first) {
		list_add(d, "disks", option, o);
		return;
	}
	disks_move(d, o);
	origin_put(d, "disks[0]", option);
}

void run_definition_add_share(struct run_definition *d, const char *option, struct json_object *o)
{
	list_add(d, "shares", option, o);
}

/* Insert words before those that the command line has (at_end: behind them, but before " -- "). */
static void words_put(struct run_definition *d, const char *words, bool at_end)
{
	CLEANUP_FREE char *had = must_alloc(strdup(js_get_str_or(js_get(d->file.definition, "boot"), "cmdline", "")));
	char *rest = !strncmp(had, "-- ", 3) ? had : strstr(had, " -- "), *text = NULL;
	int head = !at_end ? 0 : rest ? (int)(rest - had) : (int)strlen(had);

	if (asprintf(&text, "%.*s%s%s%s%s", head, had, head ? " " : "", words, had[head] && had[head] != ' ' ? " " : "", had + head) < 0)
		must_alloc(NULL);
	run_definition_put(d, NULL, "boot", "cmdline", json_object_new_string(text));
	free(text);
}

/* Add words to the kernel's command line, after the present ones, but before " -- " and the words after it. */
static void run_definition_add_words(struct run_definition *d, const char *option, const char *words)
{
	words_put(d, words, true);
	origin_put(d, "boot.cmdline", option);
}

/* ---- options ---- */

/* Make a path of the command line absolute: relative ones in the definition are relative to its file. */
static struct json_object *path_absolute(const char *path)
{
	CLEANUP_FREE char *cwd = *path == '/' ? NULL : getcwd(NULL, 0);
	struct json_object *o;
	char *text;

	if (asprintf(&text, "%s%s%s", cwd ? cwd : "", cwd ? "/" : "", path) < 0)
		must_alloc(NULL);
	o = json_object_new_string(text);
	free(text);
	return o;
}

/* Cut the words behind the first comma off. Returns them, or NULL. */
static char *words_cut(char *text)
{
	char *comma = strchr(text, ',');

	if (comma)
		*comma++ = 0;
	return comma;
}

struct disk_words {
	bool ephemeral;
};

static int disk_word(struct json_object *o, struct disk_words *w, const char *option, const char *word, struct err *e)
{
	if (!strcmp(word, "ro"))
		js_put_bool(o, "readonly", true);
	else if (!strcmp(word, "ephemeral"))
		w->ephemeral = true;
	else if (!strncmp(word, "cache=", 6))
		js_put_str(o, "cache", word + 6);
	else if (!strcmp(word, "format=raw") || !strcmp(word, "format=qcow2"))
		js_put_str(o, "format", word + 7);
	else
		return err_set(e, -EINVAL, ERR_INVALID, "%s: the words behind PATH are ro, ephemeral, cache=MODE, format=raw and format=qcow2, not \"%s\"", option, word);
	return 0;
}

/* Choose the format by the name's end. A guest can write any header to a raw image, so the header decides nothing. */
static int disk_format(struct json_object *o, const char *option, struct err *e)
{
	const char *path = js_get_str(o, "path"), *dot = strrchr(path, '.');
	bool is_qcow2 = dot && !strcmp(dot, ".qcow2");

	if (!js_get(o, "format") && !is_qcow2 && image_looks_like_qcow2(path))
		return err_set(e, -EINVAL, ERR_INVALID, "%s is a qcow2 image; add ,format=qcow2, or ,format=raw to show the file itself to the guest",
			option);
	if (!js_get(o, "format"))
		js_put_str(o, "format", is_qcow2 ? "qcow2" : "raw");
	return strcmp(js_get_str(o, "format"), "qcow2") ? 0 : backing_put(o, e);
}

static int overlay_put(struct run_definition *d, const char *option, struct json_object *o, struct err *e)
{
	int fd, r;

	if (js_get(o, "readonly"))
		return err_set(e, -EINVAL, ERR_INVALID, "%s: ro and ephemeral exclude each other", option);
	r = run_overlay_put(o, &fd, e);
	if (r < 0) {
		err_prefix(e, "%s", option);
		return r;
	}
	js_put_str(o, "errors", "report"); /* nobody could resume a VM that was paused for want of space */
	if (!js_get(o, "cache"))
		js_put_str(o, "cache", "unsafe"); /* no crash leaves a file to read */
	d->overlays = must_alloc(reallocarray(d->overlays, d->noverlays + 1, sizeof(*d->overlays)));
	d->overlays[d->noverlays++] = fd;
	return 0;
}

static int disk_take(struct run_definition *d, const char *option, char *text, struct err *e)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	struct disk_words w = { 0 };
	char *words = words_cut(text);
	int r = 0;

	js_put(o, "path", path_absolute(text));
	for (char *word; !r && (word = strsep(&words, ","));)
		r = disk_word(o, &w, option, word, e);
	if (!r)
		r = disk_format(o, option, e);
	if (!r && w.ephemeral)
		r = overlay_put(d, option, o, e);
	if (!r)
		run_definition_add_disk(d, option, STEAL_PTR(o), false);
	return r;
}

static int share_take(struct run_definition *d, const char *option, char *text, struct err *e)
{
	char *folder = strchr(text, '='), *words = folder ? words_cut(folder) : NULL;
	struct json_object *o;

	if (!folder || folder == text || !folder[1] || (words && strcmp(words, "rw") && strcmp(words, "ro")))
		return err_set(e, -EINVAL, ERR_INVALID, "%s must be TAG=FOLDER or TAG=FOLDER,rw", option);
	*folder++ = 0;
	o = json_object_new_object();
	js_put_str(o, "tag", text);
	js_put(o, "path", path_absolute(folder));
	js_put_bool(o, "readonly", !words || strcmp(words, "rw"));
	list_add(d, "shares", option, o);
	return 0;
}

/* Cut the words off /PLACE:WORDS: ro, rw, and those of docker and podman that have no effect here. Returns false for
 * another word. */
static bool volume_words_take(char *place, bool *ret_ro)
{
	static const char *const without_effect[] = { "z", "Z", "U", "cached", "delegated", "consistent" };
	char *words = strchr(place, ':'), *word;

	*ret_ro = false;
	if (words)
		*words++ = 0;
	while ((word = strsep(&words, ","))) {
		size_t i = 0;

		while (i < ARRAY_SIZE(without_effect) && strcmp(word, without_effect[i]) != 0)
			i++;
		if (!strcmp(word, "ro"))
			*ret_ro = true;
		else if (i == ARRAY_SIZE(without_effect) && strcmp(word, "rw") != 0)
			return false;
	}
	return true;
}

/* Take FOLDER:/PLACE or FOLDER:/PLACE:ro. */
static int volume_take(struct run_definition *d, const char *option, const char *value, char *text, struct err *e)
{
	struct guest_mount mount = { .option = value };
	char *place = NULL;
	struct json_object *o;
	bool ro;

	for (char *p = strstr(text, ":/"); p; p = strstr(p + 1, ":/"))
		place = p;
	if (!place || place == text || !place[2])
		return err_set(e, -EINVAL, ERR_INVALID, "%s must be FOLDER:/PLACE or FOLDER:/PLACE:ro", option);
	*place++ = 0;
	if (!volume_words_take(place, &ro))
		return err_set(e, -EINVAL, ERR_INVALID, "%s: PLACE has no colon, and the words after it are ro or rw", option);
	if (strlen(place) + sizeof(mount.tag) > AGENT_MOUNT_MAX)
		return err_set(e, -ENAMETOOLONG, ERR_INVALID, "--volume %.80s...: PLACE must have less than 1,000 bytes", value);
	snprintf(mount.tag, sizeof(mount.tag), GUEST_MOUNT_TAG "%zu", d->nvolumes);
	mount.folder = must_alloc(strdup(place));
	d->volumes = must_alloc(reallocarray(d->volumes, d->nvolumes + 1, sizeof(*d->volumes)));
	d->volumes[d->nvolumes++] = mount;
	o = json_object_new_object();
	js_put_str(o, "tag", mount.tag);
	js_put(o, "path", path_absolute(text));
	js_put_bool(o, "readonly", ro);
	list_add(d, "shares", option, o);
	return 0;
}

/* Find the first user network, or add one. */
static struct json_object *user_interface(struct run_definition *d, const char *option)
{
	struct json_object *list = list_get(d, "interfaces"), *o;

	for (size_t i = 0; i < json_object_array_length(list); i++) {
		o = json_object_array_get_idx(list, i);
		if (!strcmp(js_get_str_or(o, "type", ""), "user"))
			return o;
	}
	o = json_object_new_object();
	js_put_str(o, "type", "user");
	list_add(d, "interfaces", option, o);
	return o;
}

static int publish_take(struct cli *c, struct run_definition *d, const char *option, const char *text)
{
	struct json_object *forward = forward_parse(c, "--publish", text, false), *o, *list;

	if (!forward)
		return CLI_USAGE;
	o = user_interface(d, option);
	list = js_get(o, "forwards");
	if (!json_object_is_type(list, json_type_array))
		js_put(o, "forwards", list = json_object_new_array());
	json_object_array_add(list, forward);
	return 0;
}

/* Add a user network, or remove all networks. The default is none: the start of cairn-slirp makes a run longer. */
static int network_take(struct cli *c, struct run_definition *d)
{
	const char *how = option_value(c, "network");

	if (!how)
		return 0;
	if (!strcmp(how, "user"))
		user_interface(d, "--network user");
	else if (option_value(c, "publish"))
		return cli_usage(c, "--publish needs a network; leave out --network none");
	else
		json_object_object_del(d->file.definition, "interfaces");
	return 0;
}

static int given_take(struct cli *c, struct run_definition *d, const char *name, const char *value, struct err *e)
{
	CLEANUP_FREE char *copy = must_alloc(strdup(value));
	char option[PATH_MAX + 20], *end;
	size_t digits = strspn(value, "0123456789");

	snprintf(option, sizeof(option), "--%s %s", name, value);
	if (!strcmp(name, "kernel") || !strcmp(name, "initrd"))
		run_definition_put(d, option, "boot", name, path_absolute(value));
	else if (!strcmp(name, "append"))
		run_definition_add_words(d, "--append", value);
	else if (!strcmp(name, "name"))
		run_definition_put(d, option, NULL, "name", json_object_new_string(value));
	else if (!strcmp(name, "memory")) /* a number without a unit is one of MiB there */
		run_definition_put(d, option, NULL, "memory",
			value[digits] || digits > 9 ? json_object_new_string(value) : json_object_new_int(atoi(value)));
	else if (!strcmp(name, "cpus") && (!*value || value[digits] || strtoull(value, &end, 10) > INT_MAX))
		return err_set(e, -EINVAL, ERR_INVALID, "%s must be a number of vCPUs", option);
	else if (!strcmp(name, "cpus"))
		run_definition_put(d, option, NULL, "vcpus", json_object_new_int(atoi(value)));
	else if (!strcmp(name, "disk"))
		return disk_take(d, option, copy, e);
	else if (!strcmp(name, "share"))
		return share_take(d, option, copy, e);
	else if (!strcmp(name, "volume"))
		return volume_take(d, option, value, copy, e);
	else if (!strcmp(name, "publish"))
		return publish_take(c, d, option, value);
	return 0;
}

static int options_take(struct cli *c, struct run_definition *d, struct err *e)
{
	int r = 0;

	for (size_t i = 0; !r && i < c->ngiven; i++)
		r = given_take(c, d, c->verb->options[c->given[i].option].name, c->given[i].value, e);
	return r ? r : network_take(c, d);
}

/* ---- without a file ---- */

/* Find Cairn's own kernel. One vCPU gets the kernel without SMP, which boots quicker. Returns 0; -ENOENT. */
static int own_kernel_find(const struct cli *c, char path[PATH_MAX], struct err *why)
{
	const char *vcpus = option_value(c, "cpus");
	bool smp = vcpus && strtol(vcpus, NULL, 10) > 1;
	int r = smp ? paths_shared("vmlinux-smp", path, PATH_MAX, why) : -ENOENT;

	if (!r)
		return 0;
	r = paths_shared("vmlinux", path, PATH_MAX, why);
	if (!r && smp)
		fprintf(stderr, "warning: there is no kernel vmlinux-smp beside %s, so the guest may use only one of its %s vCPUs; build it with make "
			"kernel, or name another kernel with --kernel\n", path, vcpus);
	return r;
}

static int kernel_find(const struct cli *c, struct run_definition *d, struct err *e)
{
	const char *named = getenv("CAIRN_KERNEL");
	char path[PATH_MAX];
	struct err why;

	if (named && *named)
		run_definition_put(d, "CAIRN_KERNEL", "boot", "kernel", path_absolute(named));
	else if (own_kernel_find(c, path, &why) == 0)
		run_definition_put(d, path, "boot", "kernel", json_object_new_string(path));
	else
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "there is no kernel: name one with --kernel PATH or CAIRN_KERNEL (%s), "
			"or build those of Cairn with make kernel, which make install then installs; man cairn says at --kernel which options a kernel needs",
			why.msg);
	return 0;
}

static int file_replace(struct cli *c, struct run_definition *d, struct err *e)
{
	CLEANUP_FREE char *cwd = getcwd(NULL, 0);

	if (!cwd)
		return err_set_errno(e, -errno, "the working folder");
	snprintf(d->file.folder, sizeof(d->file.folder), "%s", cwd);
	d->file.definition = json_object_new_object();
	run_definition_put(d, NULL, NULL, "name", json_object_new_string(NAME_DEFAULT));
	run_definition_put(d, NULL, NULL, "memory", json_object_new_string(MEMORY_DEFAULT));
	run_definition_put(d, NULL, NULL, "rng", json_object_new_boolean(true));
	run_definition_put(d, NULL, NULL, "on_reboot", json_object_new_string("destroy"));
	/* With these options, a firmware boots. */
	return option_value(c, "kernel") || option_value(c, "boot") || option_flag(c, "bootmenu") ? 0 : kernel_find(c, d, e);
}

/* Insert the VM's name where the file would be. */
static int name_insert(struct cli *c, struct run_definition *d, struct err *e)
{
	if (c->npos == CLI_POSITIONALS_MAX)
		return err_set(e, -E2BIG, ERR_INVALID, "the command has more than %d words", CLI_POSITIONALS_MAX - 1);
	memmove(c->pos + 1, c->pos, c->npos++ * sizeof(*c->pos));
	c->pos[0] = option_value(c, "name") ? option_value(c, "name") : NAME_DEFAULT;
	return file_replace(c, d, e);
}

/* Put words before the user's. */
static void words_default(struct cli *c, struct run_definition *d)
{
	const char *how = option_value(c, "append-for-host");
	bool is_new = !d->from_file && js_get(js_get(d->file.definition, "boot"), "kernel");

	if ((how ? !strcmp(how, "auto") : is_new || option_value(c, "kernel")) && host_emulates_kernel_mode())
		words_put(d, WORDS_PVM, false);
	if (is_new && c->npos > 1 && !option_flag(c, "show-console"))
		words_put(d, "quiet", false); /* output to a serial port takes a guest long */
	if (is_new)
		words_put(d, WORDS_DEFAULT, false);
}

static int file_take(const struct cli *c, struct run_definition *d, struct err *e)
{
	const char *path = c->pos[0];
	int r = definition_file_read(path, &d->file, e);

	if (r != -ENOENT)
		return r;
	if (option_value(c, "image") || option_value(c, "root"))
		return err_set(e, r, ERR_NOT_FOUND, "there is no file %.255s; if this is the command, write -- before it", path);
	return err_set(e, r, ERR_NOT_FOUND,
		"there is no file %.255s; to run a command in a container image: cairn run --image %s -- COMMAND", path, shell_word(path).s);
}

int run_definition_make(struct cli *c, struct run_definition *d, struct err *e)
{
	int r;

	d->from_file = c->nplain > 0;
	r = d->from_file ? file_take(c, d, e) : name_insert(c, d, e);
	if (!r)
		r = options_take(c, d, e);
	if (!r)
		words_default(c, d);
	return r;
}

void run_definition_done(struct run_definition *d)
{
	for (size_t i = 0; i < d->noverlays; i++)
		close(d->overlays[i]);
	free(d->overlays);
	for (size_t i = 0; i < d->nvolumes; i++)
		free(d->volumes[i].folder);
	free(d->volumes);
	definition_file_done(&d->file);
}

int run_definition_locate(const struct run_definition *d, int r, struct err *e)
{
	return definition_file_locate(&d->file, r, e);
}
