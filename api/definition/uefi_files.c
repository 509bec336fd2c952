#include "api/definition/uefi_files.h"
#include "api/definition/definition.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define DESCRIPTOR_MAX_BYTES 65536
#define DESCRIPTORS_MAX 64
#define MACHINE "pc-q35-7.2" /* machine name of a q35, for the patterns in firmware descriptors */

const char *const uefi_folders[UEFI_FOLDERS] = { "/etc/qemu/firmware", "/usr/share/qemu/firmware" };

struct descriptor {
	unsigned folder;
	char name[NAME_MAX + 1];
};

static bool list_has(struct json_object *list, const char *want)
{
	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		const char *s = js_plain_string(json_object_array_get_idx(list, i));

		if (s && !strcmp(s, want))
			return true;
	}
	return false;
}

static bool targets_have_q35(struct json_object *targets)
{
	for (size_t i = 0; targets && i < json_object_array_length(targets); i++) {
		struct json_object *t = json_object_array_get_idx(targets, i), *machines = js_get_array(t, "machines");

		if (strcmp(js_get_str_or(t, "architecture", ""), "x86_64"))
			continue;
		for (size_t k = 0; machines && k < json_object_array_length(machines); k++) {
			const char *pattern = js_plain_string(json_object_array_get_idx(machines, k));

			if (pattern && !fnmatch(pattern, MACHINE, 0))
				return true;
		}
	}
	return false;
}

static bool file_take(struct json_object *mapping, const char *key, char ret[PATH_MAX])
{
	struct json_object *f = js_get(mapping, key);
	const char *path = js_get_str(f, "filename");

	return path && path[0] == '/' && !strcmp(js_get_str_or(f, "format", ""), "raw") &&
		snprintf(ret, PATH_MAX, "%s", path) < PATH_MAX;
}

/* Return whether the descriptor is of a UEFI for this machine in two raw files, apart from its features. */
static bool descriptor_take(struct json_object *o, struct uefi_files *ret)
{
	struct json_object *mapping = js_get(o, "mapping");

	return list_has(js_get_array(o, "interface-types"), "uefi") && !strcmp(js_get_str_or(mapping, "device", ""), "flash") &&
		!strcmp(js_get_str_or(mapping, "mode", "split"), "split") && targets_have_q35(js_get_array(o, "targets")) &&
		file_take(mapping, "executable", ret->code) && file_take(mapping, "nvram-template", ret->vars);
}

/* Sort by name, and files of the same name by folder. */
static int descriptor_compare(const void *a, const void *b)
{
	const struct descriptor *x = a, *y = b;
	int r = strcmp(x->name, y->name);

	return r ? r : (int)x->folder - (int)y->folder;
}

/* Insert a descriptor into the sorted list, from which the last one falls out if the list is full. */
static void descriptor_insert(struct descriptor *list, unsigned *n, const struct descriptor *d)
{
	unsigned at = *n;

	while (at && descriptor_compare(&list[at - 1], d) > 0)
		at--;
	if (at == DESCRIPTORS_MAX)
		return;
	*n = MIN(*n + 1, DESCRIPTORS_MAX);
	memmove(&list[at + 1], &list[at], (*n - 1 - at) * sizeof(*list));
	list[at] = *d;
}

/* List the first descriptors of both folders, sorted. Returns how many. */
static unsigned descriptors_list(const char *const folders[UEFI_FOLDERS], struct descriptor *list)
{
	unsigned n = 0;

	for (unsigned i = 0; i < UEFI_FOLDERS; i++) {
		DIR *dir = opendir(folders[i]);
		struct descriptor d = { .folder = i };
		struct dirent *de;

		while (dir && (de = readdir(dir))) {
			const char *end = strrchr(de->d_name, '.');

			if (de->d_name[0] == '.' || !end || strcmp(end, ".json"))
				continue;
			snprintf(d.name, sizeof(d.name), "%s", de->d_name);
			descriptor_insert(list, &n, &d);
		}
		if (dir)
			closedir(dir);
	}
	return n;
}

/* Read a descriptor if it is a regular file: opening or reading another one may wait for ever. */
static int descriptor_read(const char *path, struct json_object **ret)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	CLEANUP_FREE char *text = NULL;
	struct stat st;
	size_t len;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return -EINVAL;
	return file_read_fd(fd, path, DESCRIPTOR_MAX_BYTES, &text, &len, NULL) < 0 ? -EINVAL : js_parse(text, len, path, ret, NULL);
}

#define NO_SMM "system management mode, as for Secure Boot, which Cairn does not have; "

/* Return the next usable descriptor from *i on and whether it needs SMM; NULL: there is none. */
static const struct descriptor *descriptor_next(const char *const folders[UEFI_FOLDERS], const struct descriptor *list, unsigned n,
	unsigned *i, struct uefi_files *ret, bool *ret_smm)
{
	while (*i < n) {
		CLEANUP_JS struct json_object *o = NULL;
		const struct descriptor *d = &list[(*i)++];
		char path[PATH_MAX];

		if ((d > list && !strcmp(d->name, d[-1].name)) ||
			snprintf(path, sizeof(path), "%s/%s", folders[d->folder], d->name) >= (int)sizeof(path) ||
			descriptor_read(path, &o) < 0 || !descriptor_take(o, ret))
			continue;
		*ret_smm = list_has(js_get_array(o, "features"), "requires-smm");
		return d;
	}
	return NULL;
}

int uefi_files_find(const char *const folders[UEFI_FOLDERS], struct uefi_files *ret, struct err *e)
{
	CLEANUP_FREE struct descriptor *list = must_alloc(calloc(DESCRIPTORS_MAX, sizeof(*list)));
	unsigned n = descriptors_list(folders, list), i = 0;
	const struct descriptor *d, *refused = NULL;
	bool smm = false;

	while ((d = descriptor_next(folders, list, n, &i, ret, &smm)) && smm)
		refused = d;
	if (d)
		return 0;
	if (refused)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "boot.firmware: each UEFI of this host (%.120s) needs " NO_SMM DEFINITION_UEFI_REMEDY,
			refused->name);
	snprintf(ret->code, sizeof(ret->code), "%s", DEFINITION_UEFI_PATH);
	snprintf(ret->vars, sizeof(ret->vars), "%s", DEFINITION_NVRAM_PATH);
	return 0;
}

/* Debian, Fedora and Arch have this in the names of files that need SMM, and not every one has a descriptor. */
static bool is_for_secure_boot(const char *code)
{
	static const char *const patterns[] = { "*secboot*", "*.ms.fd", "*.snakeoil.fd" };
	const char *slash = strrchr(code, '/'), *name = slash ? slash + 1 : code;

	for (size_t i = 0; i < ARRAY_SIZE(patterns); i++)
		if (!fnmatch(patterns[i], name, 0))
			return true;
	return false;
}

int uefi_files_check(const char *const folders[UEFI_FOLDERS], const char *code, struct err *e)
{
	CLEANUP_FREE struct descriptor *list = must_alloc(calloc(DESCRIPTORS_MAX, sizeof(*list)));
	CLEANUP_FREE struct uefi_files *f = must_alloc(malloc(sizeof(*f)));
	unsigned n = descriptors_list(folders, list), i = 0;
	const struct descriptor *d;
	bool smm = false, is_smm = is_for_secure_boot(code);

	while ((d = descriptor_next(folders, list, n, &i, f, &smm)))
		if (!strcmp(f->code, code))
			is_smm = smm;
	if (!is_smm)
		return 0;
	return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "boot.loader: %.200s needs " NO_SMM "use " DEFINITION_UEFI_PATH, code);
}

int uefi_choose(const char *const folders[UEFI_FOLDERS], struct definition *d, const struct definition *old, struct err *e)
{
	CLEANUP_FREE struct uefi_files *f = NULL;
	bool keep = old && old->firmware == VM_FIRMWARE_UEFI;
	int r;

	if (d->firmware != VM_FIRMWARE_UEFI)
		return 0;
	if (d->loader)
		return keep && old->loader && !strcmp(old->loader, d->loader) ? 0 : uefi_files_check(folders, d->loader, e);
	if (!keep) {
		f = must_alloc(malloc(sizeof(*f)));
		r = uefi_files_find(folders, f, e);
		if (r < 0 || !strcmp(f->code, DEFINITION_UEFI_PATH))
			return r;
	} else if (!old->loader) {
		return 0;
	}
	d->loader = must_alloc(strdup(keep ? old->loader : f->code));
	if (!d->nvram_template)
		d->nvram_template = must_alloc(strdup(keep ? old->nvram_template : f->vars));
	return 0;
}
