#include "tools/cairn/run_root.h"
#include "api/definition/definition.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/user_network.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/kept_layer.h"
#include "tools/cairn/root_program.h"
#include "tools/cairn/run_definition.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define RUN_ROOT_TAG "cairn-root"

/* ---- the image ---- */

/* Find or make the image. Nobody removes it until this process ends. */
static int image_take(struct cli *c, struct run_root *root, struct err *e)
{
	const char *image = option_value(c, "image"), *path = option_value(c, "root");
	char *argv[10] = { (char *)"cairn-root", (char *)"--hand-over", (char *)ROOT_PROGRAM_SOCKET }, absolute[PATH_MAX + 2];
	time_t begin_s = time(NULL);
	unsigned n = 3;
	struct stat st;
	int r;

	/* A path, even if it looks like the name of an image. */
	snprintf(absolute, sizeof(absolute), "%s%s", path && *path == '/' ? "" : "./", path ? path : "");
	if (option_flag(c, "pull"))
		argv[n++] = (char *)"--pull";
	if (option_flag(c, "insecure-registry"))
		argv[n++] = (char *)"--insecure-registry";
	if (option_value(c, "files-max")) {
		argv[n++] = (char *)"--files-max";
		argv[n++] = (char *)option_value(c, "files-max");
	}
	argv[n++] = (char *)"--";
	argv[n] = image ? (char *)image : absolute;
	r = root_program_take(argv, image ? image : path, &root->image, &root->lock, e);
	root->is_new = !r && fstat(root->lock, &st) == 0 && st.st_mtim.tv_sec + 1 >= begin_s;
	return r;
}

/* ---- the command ---- */

/* Append the words of a list of the image. */
static size_t words_take(struct json_object *config, const char *key, const char **words, size_t n)
{
	struct json_object *list = js_get_array(config, key);

	for (size_t i = 0; list && i < json_object_array_length(list) && n <= CLI_POSITIONALS_MAX; i++)
		words[n++] = js_plain_string(json_object_array_get_idx(list, i)) ?: "";
	return n;
}

static int command_make(struct cli *c, struct json_object *config, struct err *e)
{
	const char *words[CLI_POSITIONALS_MAX + 1];
	bool own = option_flag(c, "no-entrypoint");
	size_t n = own ? 0 : words_take(config, "entrypoint", words, 0), given = c->npos - 1;

	if (!given && !own)
		n = words_take(config, "cmd", words, n);
	if (!given && !n)
		return err_set(e, -EINVAL, ERR_INVALID, own ? "--no-entrypoint needs a command: append -- COMMAND" :
			"the root names no command; append -- COMMAND");
	if (n + given >= CLI_POSITIONALS_MAX)
		return err_set(e, -E2BIG, ERR_INVALID, "the command has more than %d words", CLI_POSITIONALS_MAX - 1);
	memmove(c->pos + 1 + n, c->pos + 1, given * sizeof(*c->pos));
	memcpy(c->pos + 1, words, n * sizeof(*words));
	c->npos += n;
	return 0;
}

static int config_take(struct cli *c, struct run_root *root, struct err *e)
{
	struct json_object *config = js_get(root->image, "config"), *env = js_get_array(config, "env");

	root->user = js_get_str_or(config, "user", "");
	root->folder = js_get_str_or(config, "working_dir", "");
	if (env && json_object_array_length(env) > RUN_ROOT_VARIABLES_MAX)
		return err_set(e, -E2BIG, ERR_UNSUPPORTED, "the image has more than %d variables in its environment", RUN_ROOT_VARIABLES_MAX);
	return command_make(c, config, e);
}

const char *run_root_variable(const struct run_root *root, size_t i)
{
	struct json_object *env = js_get_array(js_get(root->image, "config"), "env");

	return env && i < json_object_array_length(env) ? json_object_get_string(json_object_array_get_idx(env, i)) : NULL;
}

/* ---- */

static void disk_add(struct run_definition *d, const char *path, bool readonly, const char *option)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "path", path);
	js_put_str(o, "format", "raw");
	if (readonly)
		js_put_bool(o, "readonly", true);
	else
		js_put_str(o, "errors", "report"); /* nobody could resume a VM that was paused for want of space */
	run_definition_add_disk(d, option, o, true);
}

/* Add the layer that --keep names. */
static int layer_add(struct cli *c, struct run_definition *d, struct run_root *root, struct err *e)
{
	const char *name = option_value(c, "keep");
	char path[PATH_MAX], option[PATH_MAX];
	int r = name ? kept_layer_open(name, js_get_str_or(root->image, "digest", ""), path, &root->layer, e) : 1;

	if (r)
		return r > 0 ? 0 : r;
	snprintf(option, sizeof(option), "--keep %s", name);
	disk_add(d, path, false, option);
	return 0;
}

/* Share the folder as the guest's root (--rw). */
static int folder_share(struct run_definition *d, struct run_root *root, const char *path, struct err *e)
{
	CLEANUP_FREE char *folder = realpath(path, NULL);
	struct json_object *o;
	struct stat st;

	if (!folder || stat(folder, &st) < 0)
		return err_set_errno(e, -errno, "--root %s", path);
	if (!S_ISDIR(st.st_mode))
		return err_set(e, -ENOTDIR, ERR_INVALID, "--rw needs a folder, and %s is none; leave out --rw, or unpack it", path);
	o = json_object_new_object();
	js_put_str(o, "tag", RUN_ROOT_TAG);
	js_put_str(o, "path", folder);
	js_put_bool(o, "readonly", false);
	run_definition_add_share(d, "--rw", o);
	root->image = json_object_new_object();
	root->shared = true;
	return 0;
}

/* Check --files-max as cairn-root does. */
static int files_max_check(const struct cli *c, bool has_root)
{
	const char *text = option_value(c, "files-max");
	char *end;
	long n = text ? strtol(text, &end, 10) : 1;

	if (text && !has_root)
		return cli_usage(c, "--files-max needs --image or --root");
	return text && (*text < '0' || *text > '9' || *end || n < 1 || n > 100000000) ?
		cli_usage(c, "--files-max must be a number from 1 to 100000000, not \"%s\"", text) : 0;
}

static int options_check(struct cli *c, const char *image, const char *path)
{
	if (image && path)
		return cli_usage(c, "--root and --image exclude each other");
	if (option_flag(c, "rw") && (!path || option_value(c, "keep")))
		return cli_usage(c, path ? "--rw and --keep exclude each other" : "--rw needs --root");
	if (option_flag(c, "rm") && option_value(c, "keep"))
		return cli_usage(c, "--rm and --keep exclude each other");
	if (option_value(c, "keep") && !image && !path)
		return cli_usage(c, "--keep needs --image or --root");
	return files_max_check(c, image || path);
}

int run_root_make(struct cli *c, struct run_definition *d, struct run_root *root, struct err *e)
{
	const char *image = option_value(c, "image"), *path = option_value(c, "root");
	char option[PATH_MAX + 16];
	int r = options_check(c, image, path);

	if (r)
		return r;
	if (!image && !path) {
		if (option_flag(c, "pull") || option_flag(c, "no-entrypoint") || option_flag(c, "insecure-registry"))
			return cli_usage(c, "--pull, --no-entrypoint and --insecure-registry need --image");
		return 0;
	}
	if (!*(image ? image : path))
		return cli_usage(c, image ? "--image needs the name of an image" : "--root needs a path");
	r = option_flag(c, "rw") ? folder_share(d, root, path, e) : image_take(c, root, e);
	if (!r)
		r = config_take(c, root, e);
	if (!r)
		r = layer_add(c, d, root, e);
	if (r < 0 || root->shared)
		return r;
	snprintf(option, sizeof(option), image ? "--image %.400s" : "--root %.400s", image ? image : path);
	disk_add(d, js_get_str_or(root->image, "image", ""), true, option);
	return 0;
}

/* ---- the network ---- */

static void address_print(struct in_addr network, uint32_t mask, uint32_t host, char ret[INET_ADDRSTRLEN])
{
	network.s_addr |= htonl(host & ~mask);
	inet_ntop(AF_INET, &network, ret, INET_ADDRSTRLEN);
}

void run_root_words(const struct run_root *root, struct json_object *definition, char ret[RUN_ROOT_WORDS_BYTES])
{
	struct json_object *list = js_get_array(definition, "interfaces"), *first = list ? json_object_array_get_idx(list, 0) : NULL;
	char guest[INET_ADDRSTRLEN], gateway[INET_ADDRSTRLEN], resolver[INET_ADDRSTRLEN], text[DEFINITION_PREFIX_TEXT];
	struct in_addr network;
	char *bits;
	uint32_t mask;
	size_t n;

	n = (size_t)snprintf(ret, RUN_ROOT_WORDS_BYTES, "CAIRN_ROOT=%s%s", root->shared ? RUN_ROOT_TAG : "1", root->layer < 0 ? "" : " CAIRN_KEEP=1");
	if (strcmp(js_get_str_or(first, "type", ""), "user"))
		return;
	snprintf(text, sizeof(text), "%s", js_get_str_or(first, "network", DEFINITION_USER_NETWORK));
	bits = strchr(text, '/');
	if (!bits || atoi(bits + 1) < 1 || atoi(bits + 1) > 32)
		return;
	*bits++ = 0;
	mask = ~0u << (32 - atoi(bits));
	if (inet_pton(AF_INET, text, &network) != 1)
		return;
	address_print(network, mask, USER_NETWORK_GUEST, guest);
	address_print(network, mask, USER_NETWORK_GATEWAY, gateway);
	address_print(network, mask, USER_NETWORK_RESOLVER, resolver);
	snprintf(ret + n, RUN_ROOT_WORDS_BYTES - n, " CAIRN_NET=%s/%d,%s,%s", guest, atoi(bits), gateway, resolver);
}

void run_root_done(struct run_root *root)
{
	json_object_put(root->image);
	if (root->lock >= 0)
		close(root->lock);
	if (root->layer >= 0)
		close(root->layer);
}
