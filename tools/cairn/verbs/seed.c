/* seed: make a small image from which cloud-init configures a guest at its first start (NoCloud). */
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/host_name.h"
#include "base/shell_word.h"
#include "base/utf8.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/output.h"
#include "tools/cairn/seed_image.h"
#include "tools/cairn/verbs/seed.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define TEXT_MAX (1024 * 1024) /* limit of each file that the user gives */
#define USER_MAX 32	       /* useradd(8) */

/* systemd listens on port 22 of vsock by itself from version 256 on; sshd answers each connection. */
#define VSOCK_SOCKET                                                                                \
	"[Unit]\nDescription=SSH for the host, over vsock\n[Socket]\nListenStream=vsock::22\nAccept=yes\n" \
	"[Install]\nWantedBy=sockets.target\n"
#define VSOCK_SERVICE                                                                               \
	"[Unit]\nDescription=SSH for the host, over vsock\n[Service]\nExecStart=-/usr/sbin/sshd -i\nStandardInput=socket\n"
#define VSOCK_BEGIN                                                                                                   \
	"mkdir -p /run/sshd; systemctl -q is-active sshd-vsock.socket || systemctl enable --now cairn-ssh.socket"

/* ---- options ---- */

static bool user_is_valid(const char *s)
{
	if (!islower((unsigned char)s[0]) && s[0] != '_')
		return false;
	for (const char *c = s; *c; c++)
		if (!islower((unsigned char)*c) && !isdigit((unsigned char)*c) && *c != '_' && *c != '-')
			return false;
	return strlen(s) <= USER_MAX;
}

/* Add the public keys of a file, one a line, to the list. */
static int keys_add(struct json_object *list, const char *path, struct err *e)
{
	CLEANUP_FREE char *text = NULL;
	char *rest, *line;
	bool any = false;
	size_t len;
	int r = file_read(path, TEXT_MAX, &text, &len, e);

	if (r < 0)
		return r;
	if (strstr(text, "PRIVATE KEY"))
		return err_set(e, -EINVAL, ERR_INVALID, "%s is a private key, which must not leave this host; give the public one: %s.pub",
			path, path);
	rest = text;
	while ((line = strsep(&rest, "\r\n"))) {
		if (!*line || *line == '#')
			continue;
		if (!strchr(line, ' '))
			return err_set(e, -EINVAL, ERR_INVALID, "%s has no public SSH keys, such as \"ssh-ed25519 AAAA...\"", path);
		json_object_array_add(list, json_object_new_string(line));
		any = true;
	}
	return any ? 0 : err_set(e, -EINVAL, ERR_INVALID, "%s is empty", path);
}

static void unit_add(struct json_object *list, const char *path, const char *text)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "path", path);
	js_put_str(o, "content", text);
	json_object_array_add(list, o);
}

static void vsock_add(struct json_object *config)
{
	struct json_object *units = json_object_new_array(), *run = json_object_new_array();

	unit_add(units, "/etc/systemd/system/cairn-ssh.socket", VSOCK_SOCKET);
	unit_add(units, "/etc/systemd/system/cairn-ssh@.service", VSOCK_SERVICE);
	js_put(config, "write_files", units);
	json_object_array_add(run, json_object_new_string(VSOCK_BEGIN));
	js_put(config, "runcmd", run);
}

static struct json_object *user_make(const char *name, struct json_object *keys)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "name", name);
	js_put_str(o, "shell", "/bin/bash");
	js_put_str(o, "sudo", "ALL=(ALL) NOPASSWD:ALL");
	js_put_bool(o, "lock_passwd", true);
	js_put(o, "ssh_authorized_keys", json_object_get(keys));
	return o;
}

/* Make the user-data of --hostname, --user, --ssh-key and --ssh-over-vsock. The caller owns *ret. */
static int config_make(struct cli *c, const char *named, struct json_object **ret, struct err *e)
{
	const char *files[CLI_GIVEN_MAX], *user = option_value(c, "user"), *hostname = option_value(c, "hostname") ? option_value(c, "hostname") : named;
	CLEANUP_JS struct json_object *keys = json_object_new_array();
	CLEANUP_JS struct json_object *o = json_object_new_object();
	struct json_object *users;
	size_t n = option_values(c, "ssh-key", files, CLI_GIVEN_MAX);
	int r = 0;

	if (hostname && !host_name_is_valid(hostname))
		return err_set(e, -EINVAL, ERR_INVALID, "--hostname: \"%.60s\" is not a host name such as web1", hostname);
	if (user && !user_is_valid(user))
		return err_set(e, -EINVAL, ERR_INVALID, "--user: \"%.60s\" is not a user name such as debian", user);
	for (size_t i = 0; i < n && !r; i++)
		r = keys_add(keys, files[i], e);
	if (r < 0)
		return r;
	js_put_str(o, "hostname", hostname);
	if (user) {
		users = json_object_new_array();
		json_object_array_add(users, user_make(user, keys));
		js_put(o, "users", users);
	} else if (n) {
		js_put(o, "ssh_authorized_keys", json_object_get(keys));
	}
	if (option_flag(c, "ssh-over-vsock"))
		vsock_add(o);
	*ret = STEAL_PTR(o);
	return 0;
}

/* ---- the files in the image ---- */

static bool text_is_utf8(const char *text, size_t len)
{
	const unsigned char *s = (const unsigned char *)text;
	size_t n;

	for (size_t at = 0; at < len; at += n) {
		n = 1;
		if (s[at] < 0x80)
			continue;
		utf8_next(s + at, len - at, &n);
		if (n == 1)
			return false; /* malformed */
	}
	return true;
}

static int text_put(struct cli *c, struct json_object *files, const char *name, struct err *e)
{
	const char *path = option_value(c, name);
	CLEANUP_FREE char *text = NULL;
	size_t len;
	int r = path ? file_read(path, TEXT_MAX, &text, &len, e) : 0;

	if (!r && path && !text_is_utf8(text, len))
		return err_set(e, -EINVAL, ERR_INVALID, "%s is not text in UTF-8", path);
	if (!r && path)
		js_put(files, name, json_object_new_string_len(text, (int)len));
	return r;
}

static int metadata_put(struct cli *c, const char *named, struct json_object *files, struct err *e)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	const char *id = option_value(c, "instance-id");
	char made[SEED_ID_BYTES];
	int r = id ? 0 : seed_id_make(made, e);

	if (r < 0)
		return r;
	js_put_str(o, "instance-id", id ? id : made);
	js_put_str(o, "local-hostname", option_value(c, "hostname") ? option_value(c, "hostname") : named);
	seed_config_put(files, "meta-data", "", o);
	return 0;
}

int seed_files_make(struct cli *c, const char *hostname, struct json_object *files, struct err *e)
{
	CLEANUP_JS struct json_object *config = NULL;
	int r = config_make(c, hostname, &config, e);

	if (!r)
		r = text_put(c, files, "user-data", e);
	if (!r && !js_get(files, "user-data"))
		seed_config_put(files, "user-data", SEED_CONFIG_LINE, config);
	if (!r)
		r = text_put(c, files, "meta-data", e);
	if (!r && !js_get(files, "meta-data"))
		r = metadata_put(c, hostname, files, e);
	return r ? r : text_put(c, files, "network-config", e);
}

int seed_options_check(struct cli *c)
{
	/* The options whose place --user-data takes. */
	static const char *const made[] = { "user", "ssh-key", "ssh-over-vsock", NULL };
	const char *const *o = made;

	while (*o && !option_value(c, *o) && !option_flag(c, *o))
		o++;
	if (option_value(c, "user-data") && *o)
		return cli_usage(c, "--user-data and --%s exclude each other: write both into one file", *o);
	if (option_value(c, "meta-data") && option_value(c, "instance-id"))
		return cli_usage(c, "--meta-data and --instance-id exclude each other: the file has the id");
	return 0;
}

int verb_seed(struct cli *c)
{
	CLEANUP_JS struct json_object *files = json_object_new_object();
	struct err e;
	int r = seed_options_check(c);

	if (r)
		return r;
	r = seed_files_make(c, NULL, files, &e);
	if (!r)
		r = seed_image_write(files, c->pos[0], option_flag(c, "force"), &e);
	if (r < 0)
		return cli_fail(&e, "Failed to create seed image %s", c->pos[0]);
	say("Seed image %s created. Next: cairn attach-disk VM %s vdb --mode readonly\n", c->pos[0], shell_word(c->pos[0]).s);
	return CLI_OK;
}
