#include "tools/cairn/seed_image.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "base/uuid.h"
#include "tools/cairn/helper.h"
#include "tools/cairn/target.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define IMAGE_MAX (16 * 1024 * 1024)
/* ECMA-119, 8.4: the volume identifier of the primary volume descriptor, which is in sector 16. */
#define LABEL_OFFSET (16 * 2048 + 40)
#define LABEL_BYTES 32
#define LABEL "CIDATA"

/* Run cairn-seed. Returns 0; -EIO: it failed; -errno. */
static int program_run(const char *mode, const char *text, size_t len, int out, struct err *e)
{
	CLEANUP_CLOSE int err = memfd_create("errors", MFD_CLOEXEC);
	char why[256] = "";
	int status = 0, r;
	pid_t pid;

	r = err < 0 ? err_set_errno(e, -errno, "memfd") : helper_spawn("cairn-seed", mode, text, len, out, err, &pid, e);
	if (!r)
		r = helper_wait("cairn-seed", pid, &status, e);
	if (r || !status)
		return r;
	if (pread(err, why, sizeof(why) - 1, 0) > 0)
		why[strcspn(why, "\n")] = 0;
	return err_set(e, -EIO, ERR_IO, "cannot %s the image%s%s", mode ? mode : "write", *why ? ": " : "", why);
}

static int content_write(struct json_object *files, int out, struct err *e)
{
	const char *text = json_object_to_json_string_ext(files, JSON_C_TO_STRING_PLAIN);

	return program_run(NULL, text, strlen(text), out, e);
}

int seed_image_write(struct json_object *files, const char *path, bool force, struct err *e)
{
	struct target t = { .path = path, .is_new = !force, .whole = true };
	int r;

	if (!force && access(path, F_OK) == 0)
		return err_set(e, -EEXIST, ERR_EXISTS, "%s exists; give another name, or --force to replace it", path);
	r = target_open(&t, false, e);
	return r < 0 ? r : target_close(&t, content_write(files, t.fd, e), e);
}

bool seed_image_is(const char *path)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	char label[LABEL_BYTES + 1] = "";

	if (fd < 0 || pread(fd, label, LABEL_BYTES, LABEL_OFFSET) != LABEL_BYTES)
		return false;
	return !strncasecmp(label, LABEL, strlen(LABEL)) && label[strlen(LABEL) + strspn(label + strlen(LABEL), " ")] == 0;
}

int seed_image_read(const char *path, struct json_object **ret_files, struct err *e)
{
	CLEANUP_CLOSE int out = memfd_create("seed", MFD_CLOEXEC);
	CLEANUP_FREE char *image = NULL, *text = NULL;
	size_t len, n;
	int r = out < 0 ? err_set_errno(e, -errno, "cannot read %s", path) : file_read(path, IMAGE_MAX, &image, &len, e);

	if (!r)
		r = program_run("read", image, len, out, e);
	if (!r && lseek(out, 0, SEEK_SET) < 0)
		r = err_set_errno(e, -errno, "%s", path);
	if (!r)
		r = file_read_fd(out, path, IMAGE_MAX, &text, &n, e);
	return r < 0 ? r : js_parse(text, n, path, ret_files, e);
}

int seed_id_make(char id[SEED_ID_BYTES], struct err *e)
{
	uint8_t uuid[UUID_BYTES];
	char text[UUID_TEXT];
	int r = uuid_make(uuid, e);

	if (!r) {
		uuid_print(uuid, text);
		snprintf(id, SEED_ID_BYTES, "iid-%s", text);
	}
	return r;
}

/* JSON is YAML, and its strings need no escapes of ours. */
void seed_config_put(struct json_object *files, const char *name, const char *first, struct json_object *o)
{
	const char *text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE);
	CLEANUP_FREE char *all = NULL;

	if (asprintf(&all, "%s%s\n", first, text) < 0)
		abort();
	js_put_str(files, name, all);
}

/* ---- another instance ---- */

/* Append a line with the key to a YAML text, without the lines that have the key now. Takes text. */
static char *line_replace(char *text, const char *key, const char *value)
{
	size_t len = strlen(text), cap = len + strlen(key) + strlen(value) + 8, n = 0, keylen = strlen(key);
	char *out = must_alloc(malloc(cap));

	for (const char *line = text; *line;) {
		size_t size = strcspn(line, "\n");

		size += line[size] != 0;
		if (strncmp(line, key, keylen) || line[keylen] != ':') {
			memcpy(out + n, line, size);
			n += size;
		}
		line += size;
	}
	snprintf(out + n, cap - n, "%s%s: \"%s\"\n", n && out[n - 1] != '\n' ? "\n" : "", key, value);
	free(text);
	return out;
}

/* Returns what follows the colon in the line that begins with the key; NULL: there is none. */
static const char *line_value(const char *text, const char *key)
{
	size_t n = strlen(key);

	for (const char *at = strstr(text, key); at; at = strstr(at + 1, key))
		if ((at == text || at[-1] == '\n') && at[n] == ':')
			return at + n + 1;
	return NULL;
}

/* Make the value of a key that is a host name, with the domain that the old value has behind its first dot. The caller
 * frees it. */
static char *host_name_make(const char *hostname, const char *old)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-";
	const char *domain = old + strcspn(old, ".#\n");
	char *name;

	if (asprintf(&name, "%s%.*s", hostname, *domain == '.' ? (int)strspn(domain, letters) : 0, domain) < 0)
		abort();
	return name;
}

static void metadata_renew(struct json_object *files, const char *id, const char *hostname)
{
	const char *text = js_get_str_or(files, "meta-data", "");
	CLEANUP_JS struct json_object *o = json_tokener_parse(text);
	CLEANUP_FREE char *lines = NULL;

	if (json_object_is_type(o, json_type_object)) {
		js_put_str(o, "instance-id", id);
		if (hostname)
			js_put_str(o, "local-hostname", hostname);
		seed_config_put(files, "meta-data", "", o);
		return;
	}
	lines = line_replace(must_alloc(strdup(text)), "instance-id", id);
	if (hostname)
		lines = line_replace(lines, "local-hostname", hostname);
	js_put_str(files, "meta-data", lines);
}

/* The host names in user-data count more than the one in meta-data. */
static void userdata_renew(struct json_object *files, const char *hostname)
{
	const char *text = js_get_str_or(files, "user-data", "");
	static const char *const keys[] = { "hostname", "fqdn" };
	CLEANUP_JS struct json_object *o = NULL;
	CLEANUP_FREE char *lines = NULL;
	bool is_json;

	if (strncmp(text, SEED_CONFIG_LINE, strlen(SEED_CONFIG_LINE)) != 0)
		return;
	o = json_tokener_parse(text + strlen(SEED_CONFIG_LINE));
	is_json = json_object_is_type(o, json_type_object);
	lines = must_alloc(strdup(text));
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		const char *old = is_json ? js_get_str(o, keys[i]) : line_value(lines, keys[i]);
		CLEANUP_FREE char *name = old ? host_name_make(hostname, old) : NULL;

		if (name && is_json)
			js_put_str(o, keys[i], name);
		else if (name)
			lines = line_replace(lines, keys[i], name);
	}
	if (is_json)
		seed_config_put(files, "user-data", SEED_CONFIG_LINE, o);
	else
		js_put_str(files, "user-data", lines);
}

void seed_renew(struct json_object *files, const char *id, const char *hostname)
{
	metadata_renew(files, id, hostname);
	if (hostname)
		userdata_renew(files, hostname);
}
