#include "tools/cairn/definition_file.h"
#include "api/definition/definition.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "tools/cairn/backing.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/xml.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int folder_of(const char *path, char folder[PATH_MAX], struct err *e)
{
	char *slash;
	struct stat st;

	/* A pipe such as /dev/stdin has no folder. */
	if (!strcmp(path, "-") || (stat(path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)))
		return getcwd(folder, PATH_MAX) ? 0 : err_set_errno(e, -errno, "cannot read the working directory");
	if (!realpath(path, folder))
		return err_set_errno(e, -errno, "%s", path);
	slash = strrchr(folder, '/');
	slash[slash == folder] = 0;
	return 0;
}

static int text_read(const char *path, char folder[PATH_MAX], char **ret_text, size_t *ret_len,
	struct err *e)
{
	int r = folder_of(path, folder, e);

	if (r < 0)
		return r;
	if (image_looks_like_qcow2(path))
		return err_set(e, -EINVAL, ERR_INVALID, "%s is a disk image; cairn new NAME --image %s makes a VM that boots from it, and "
			"cairn run --boot hd --disk %s runs one", path, shell_word(path).s, shell_word(path).s);
	if (strcmp(path, "-"))
		return file_read(path, XML_FILE_MAX, ret_text, ret_len, e);
	return file_read_fd(0, "standard input", XML_FILE_MAX, ret_text, ret_len, e);
}

/* ---- parsing and checking JSON text ---- */

/* what: the file's content, such as "a definition". xml: the same in libvirt's XML, such as "domain". */
static int json_read(const char *text, size_t len, const char *name, const char *what, const char *xml, struct json_object **ret_o,
	struct err *e)
{
	const char *at = len >= 3 && !memcmp(text, "\xef\xbb\xbf", 3) ? text + 3 : text; /* skip a byte order mark */
	const char *end = text + len, *first = js_space_skip(at, end);
	CLEANUP_JS struct json_object *o = NULL;
	int r;

	if (len > DEFINITION_FILE_MAX)
		return err_set(e, -EFBIG, ERR_INVALID, "%s is larger than %d bytes", name, DEFINITION_FILE_MAX);
	if (first == end)
		return err_set(e, -EINVAL, ERR_INVALID, "%s is empty; %s is JSON or libvirt's %s XML", name, what, xml);
	if (*first != '{')
		return err_set(e, -EINVAL, ERR_INVALID,
			"%s: neither JSON (starts with {) nor libvirt's %s XML (starts with <)", name, xml);
	r = js_parse(at, (size_t)(end - at), name, &o, e);
	if (!r)
		r = js_keys_check(at, (size_t)(end - at), name, e);
	if (!r)
		r = js_numbers_check(at, (size_t)(end - at), name, e);
	if (!r)
		*ret_o = STEAL_PTR(o);
	return r;
}

/* ---- reading the file ---- */

/* Complete the disks of a domain's XML: if the domain is off, virsh leaves out the backing files. */
static int xml_read(const char *text, size_t len, struct definition_file *f, struct err *e)
{
	int r = xml_to_definition(text, len, &f->definition, &f->warnings, &f->origins, e);
	struct json_object *disks = js_get_array(f->definition, "disks");

	for (size_t i = 0; !r && disks && i < json_object_array_length(disks); i++) {
		struct json_object *o = json_object_array_get_idx(disks, i);

		if (js_get_str_or(o, "path", "")[0] == '/' && !js_get(o, "backing") && !strcmp(js_get_str_or(o, "format", ""), "qcow2"))
			r = backing_put(o, e);
	}
	return r;
}

int definition_file_read(const char *path, struct definition_file *f, struct err *e)
{
	const char *name = strcmp(path, "-") ? path : "standard input";
	CLEANUP_FREE char *text = NULL;
	size_t len;
	int r = text_read(path, f->folder, &text, &len, e);

	if (!r && xml_is(text, len))
		return f->is_network ? xml_to_network(text, len, &f->definition, &f->warnings, &f->origins, e) : xml_read(text, len, f, e);
	if (!r)
		r = json_read(text, len, name, "a definition", f->is_network ? "network" : "domain", &f->definition, e);
	if (!r)
		f->warnings = json_object_new_array();
	return r;
}

/* ---- reading a device ---- */

/* A definition's other keys; no one reads them. */
#define DEVICE_XML_BEGIN                                                                            \
	"<domain type='kvm'><name>device</name><memory>65536</memory><os><type>hvm</type><kernel>/kernel</kernel></os><devices>"
#define DEVICE_XML_END "</devices></domain>"
#define DEVICE_JSON "{\"name\": \"device\", \"memory\": \"64M\", \"boot\": {\"kernel\": \"/kernel\"}}"

/* Put the element into a domain, in its first line, so that lines in errors are those of the file. */
static int device_of_xml(const char *text, size_t len, struct definition_file *f, struct err *e)
{
	const char *after = !strncmp(text, "<?xml", 5) ? strstr(text, "?>") : NULL, *rest = after ? after + 2 : text;
	CLEANUP_FREE char *all = NULL;
	int n = asprintf(&all, DEVICE_XML_BEGIN "%.*s" DEVICE_XML_END, (int)(len - (size_t)(rest - text)), rest);

	if (n < 0)
		return err_set_errno(e, -ENOMEM, "the device");
	return xml_to_definition(all, (size_t)n, &f->definition, &f->warnings, &f->origins, e);
}

static int device_of_json(const char *text, size_t len, const char *name, struct definition_file *f, struct err *e)
{
	static const char *const keys[] = { "disk", "interface" }, *const lists[] = { "disks", "interfaces" };
	CLEANUP_JS struct json_object *o = NULL;
	int r = json_read(text, len, name, "a device", "device", &o, e), found = -1;

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (!r && js_get(o, keys[i]))
			found = (int)i;
	if (!r && (found < 0 || json_object_object_length(o) != 1))
		r = err_set(e, -EINVAL, ERR_INVALID, "%s must be {\"disk\": {...}} or {\"interface\": {...}}", name);
	if (r < 0)
		return r;
	f->definition = json_tokener_parse(DEVICE_JSON);
	f->warnings = json_object_new_array();
	js_put(f->definition, lists[found], json_object_new_array());
	json_object_array_add(js_get(f->definition, lists[found]), json_object_get(js_get(o, keys[found])));
	return 0;
}

int device_file_read(const char *path, struct definition_file *f, struct err *e)
{
	const char *name = strcmp(path, "-") ? path : "standard input";
	CLEANUP_FREE char *text = NULL;
	size_t len;
	int r = text_read(path, f->folder, &text, &len, e);

	if (r < 0)
		return r;
	return xml_is(text, len) ? device_of_xml(text, len, f, e) : device_of_json(text, len, name, f, e);
}

void definition_file_done(struct definition_file *f)
{
	json_object_put(f->definition);
	json_object_put(f->warnings);
	json_object_put(f->origins);
}

int definition_file_locate(const struct definition_file *f, int r, struct err *e)
{
	if (r < 0)
		xml_locate(f->origins, e);
	return r;
}

void warnings_print(struct json_object *list)
{
	size_t n = list ? json_object_array_length(list) : 0;

	cli_texts_clean(list); /* they quote the file */
	for (size_t i = 0; i < n; i++)
		fprintf(stderr, "warning: %s\n",
			json_object_get_string(json_object_array_get_idx(list, i)));
}
