/* export and import: pack a VM into one archive file, and define a VM from one, by jobs of the daemon. import --dry-run
 * runs cairn-archive without the daemon. */
#include "tools/cairn/cli.h"
#include "api/definition/definition.h"
#include "api/store/paths.h"
#include "api/wire/client.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/size.h"
#include "base/util.h"
#include "tools/cairn/definition_file.h"
#include "tools/cairn/job.h"
#include "tools/cairn/output.h"
#include "tools/cairn/target.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- export ---- */

static bool ends_in(const char *path, const char *suffix)
{
	size_t n = strlen(path), k = strlen(suffix);

	return n > k && !strcmp(path + n - k, suffix);
}

/* Returns the compression method from --compress or the name of the file; NULL: the name does not tell. */
static const char *compression_of(const struct cli *c, const char *path)
{
	static const char *const endings[][2] = { { ".tar.zst", "zstd" }, { ".tzst", "zstd" }, { ".tar.gz", "gzip" },
		{ ".tgz", "gzip" }, { ".tar", "none" } };
	const char *how = option_value(c, "compress");

	for (size_t i = 0; i < ARRAY_SIZE(endings) && !how; i++)
		if (ends_in(path, endings[i][0]))
			how = endings[i][1];
	return how;
}

static int level_take(const struct cli *c, struct json_object *args)
{
	const char *v = option_value(c, "level");
	char *end = NULL;
	long level = v ? strtol(v, &end, 10) : 0;

	if (!v)
		return 0;
	if (*end || level < 1 || level > 19)
		return cli_usage(c, "--level must be a number from 1 to 19, with gzip from 1 to 9");
	js_put_int(args, "level", level);
	return 0;
}

static void export_figures(struct json_object *result)
{
	char data[24], written[24];

	bytes_print((uint64_t)js_get_int(result, "data", 0), data);
	bytes_print((uint64_t)js_get_int(result, "written", 0), written);
	label_print(stdout, "Data:", "%s", data);
	label_print(stdout, "Archive:", "%s", written);
}

int verb_export(struct cli *c)
{
	struct json_object *args = cli_vm_args(c->pos[0]);
	CLEANUP_JS struct json_object *result = NULL;
	struct target t = { .path = c->pos[1], .fd = -1, .is_new = !option_flag(c, "force"), .whole = true };
	const char *snapshot = option_value(c, "snapshotname"), *compress = compression_of(c, t.path);
	struct err e;
	int r = compress ? level_take(c, args) : cli_usage(c, "cannot choose the compression of %s from its name; end the name in .tar.zst, "
		".tar.gz or .tar, or give --compress zstd, gzip or none", t.path);

	if (r) {
		json_object_put(args);
		return r;
	}
	js_put_str(args, "compress", compress);
	js_put_str(args, "snapshot", snapshot);
	js_put_str(args, "since", option_value(c, "since"));
	r = target_open(&t, option_flag(c, "no-wait"), &e);
	if (r < 0) {
		json_object_put(args);
	} else {
		r = job_run(c, "vm-export", args, t.fd, "Export", &result, &e);
		r = target_close(&t, r, &e);
	}
	if (r == -EINPROGRESS)
		return CLI_OK;
	if (r < 0)
		return cli_fail(&e, "Failed to export domain '%s' to %s", c->pos[0], t.path);
	r = job_result_print(c, result, export_figures, "Domain '%s' exported to %s", c->pos[0], t.path);
	job_left_out_print(c, result, "disks of the snapshot that the domain lacks now");
	return r;
}

/* ---- import --dry-run, without the daemon ---- */

static _Noreturn void inspect_main(const char *program, int spec, int input, int out)
{
	/* Move both fds to high numbers first, because dup2() to 3 or 4 could close the other fd. */
	spec = fcntl(spec, F_DUPFD_CLOEXEC, 100);
	input = fcntl(input, F_DUPFD_CLOEXEC, 100);
	if (dup2(out, 1) >= 0 && dup2(spec, 3) >= 0 && dup2(input, 4) >= 0 &&
		close_range(5, ~0U, 0) == 0)
		execl(program, "cairn-archive", "import", NULL);
	_exit(127);
}

static int inspect_run(const char *program, int spec, int input, char **ret_text, size_t *ret_len,
	struct err *e)
{
	int out[2], status, r;
	pid_t pid;

	if (pipe2(out, O_CLOEXEC) < 0)
		return err_set_errno(e, -errno, "cairn-archive");
	pid = fork();
	if (pid == 0)
		inspect_main(program, spec, input, out[1]);
	close(out[1]);
	r = pid < 0 ? err_set_errno(e, -errno, "cairn-archive")
		    : file_read_fd(out[0], "cairn-archive", SIZE_MAX / 2, ret_text, ret_len, e);
	close(out[0]);
	if (pid > 0 && waitpid(pid, &status, 0) < 0)
		r = -errno;
	return r;
}

/* Parse the last line of cairn-archive's output, which is its result. */
static int verdict_take(char *text, struct json_object **ret_o, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL;
	size_t n = strlen(text);
	char *line;
	int r;

	while (n && text[n - 1] == '\n')
		text[--n] = 0;
	line = strrchr(text, '\n');
	line = line ? line + 1 : text;
	r = js_parse(line, strlen(line), "cairn-archive", &o, e);
	if (r < 0)
		return r;
	if (js_get(o, "error"))
		return err_set(e, -EINVAL, client_error_class(js_get_str(js_get(o, "error"), "class")), "%s",
			js_get_str(js_get(o, "error"), "message"));
	*ret_o = json_object_get(js_get(o, "result"));
	return 0;
}

/* Parse --max-bytes. INT64_MAX: not given. */
static int bound_parse(const struct cli *c, uint64_t *ret_n, struct err *e)
{
	const char *text = option_value(c, "max-bytes");

	*ret_n = INT64_MAX;
	if (text && (size_parse(text, 1, ret_n) < 0 || !*ret_n || *ret_n > INT64_MAX))
		return err_set(e, -EINVAL, ERR_INVALID, "--max-bytes must be a size of at least 1 byte, such as 10G, not \"%s\"",
			text);
	return 0;
}

/* Put the absolute paths of the archives behind the first one. */
static int increments_put(const struct cli *c, struct json_object *to, struct err *e)
{
	struct json_object *list = json_object_new_array();
	char path[PATH_MAX];

	for (size_t i = 1; i < c->npos; i++) {
		if (!realpath(c->pos[i], path)) {
			json_object_put(list);
			return err_set_errno(e, -errno, "%s", c->pos[i]);
		}
		json_object_array_add(list, json_object_new_string(path));
	}
	if (c->npos > 1)
		js_put(to, "increments", list);
	else
		json_object_put(list);
	return 0;
}

static int inspect_spec(const struct cli *c, struct json_object *spec, struct err *e)
{
	uint64_t bound;
	int r = bound_parse(c, &bound, e);

	js_put_int(spec, "input", 4);
	js_put_uint(spec, "max_bytes", bound);
	return r < 0 ? r : increments_put(c, spec, e);
}

static int archive_inspect(const struct cli *c, int input, struct json_object **ret_o, struct err *e)
{
	CLEANUP_CLOSE int fd = memfd_create("spec", MFD_CLOEXEC);
	CLEANUP_JS struct json_object *spec = json_object_new_object();
	CLEANUP_FREE char *text = NULL;
	char program[PATH_MAX];
	const char *words;
	size_t len;
	int r = paths_helper("cairn-archive", program, sizeof(program), e);

	if (!r)
		r = inspect_spec(c, spec, e);
	if (r < 0)
		return r;
	words = json_object_to_json_string_ext(spec, JSON_C_TO_STRING_PLAIN);
	if (fd < 0 || write_full(fd, words, strlen(words)) < 0 || lseek(fd, 0, SEEK_SET) < 0)
		return err_set_errno(e, -errno, "cairn-archive");
	r = inspect_run(program, fd, input, &text, &len, e);
	return r < 0 ? r : verdict_take(text, ret_o, e);
}

/* Decide the name of the VM and the folder of its files. */
static int place_decide(const struct cli *c, struct json_object *o, struct err *e)
{
	struct json_object *definition = js_get(o, "definition");
	const char *folder = option_value(c, "folder"), *name = option_value(c, "name");
	char path[PATH_MAX + VM_NAME_MAX + 2];
	struct stat st;
	int r;

	js_put_str(definition, "name", name);
	name = js_get_str(definition, "name");
	r = definition_check_name(name ? name : "", e);
	if (r < 0) {
		err_prefix(e, "name");
		return r;
	}
	if (!realpath(folder ? folder : ".", path))
		return err_set_errno(e, -errno, "%s", folder ? folder : ".");
	snprintf(path + strlen(path), VM_NAME_MAX + 2, "/%s", name);
	if (lstat(path, &st) == 0)
		return err_set(e, -EEXIST, ERR_EXISTS, "%.255s already exists in the folder; choose another folder with --folder",
			name);
	js_put_str(o, "folder", path);
	return 0;
}

static int content_print(struct cli *c, struct json_object *o)
{
	static const char *const heads[] = { "Name", "Size", "Data" };
	struct json_object *files = js_get_array(o, "files");
	struct table t;

	cli_texts_clean(o); /* the archive's author chose the names */
	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, o);
		return CLI_OK;
	}
	table_init(&t, heads, 3);
	for (size_t i = 0; i < json_object_array_length(files); i++) {
		struct json_object *f = json_object_array_get_idx(files, i);
		char size[24], data[24];

		bytes_print((uint64_t)js_get_int(f, "size", 0), size);
		bytes_print((uint64_t)js_get_int(f, "data", 0), data);
		table_add(&t, (const char *const[]){ js_get_str(f, "name"), size, data });
	}
	label_print(stdout, "Domain:", "%s", js_get_str(js_get(o, "definition"), "name"));
	label_print(stdout, "Folder:", "%s", js_get_str(o, "folder"));
	if (js_get_str(o, "snapshot"))
		label_print(stdout, "Snapshot:", "%s", js_get_str(o, "snapshot"));
	putchar('\n');
	table_finish(&t, stdout);
	return CLI_OK;
}

/* ---- import ---- */

static int folder_take(const struct cli *c, struct json_object *args, struct err *e)
{
	const char *folder = option_value(c, "folder");
	char path[PATH_MAX];

	if (!realpath(folder ? folder : ".", path))
		return err_set_errno(e, -errno, "%s", folder ? folder : ".");
	js_put_str(args, "folder", path);
	return 0;
}

static int import_run(struct cli *c, int fd, struct json_object **ret_result, struct err *e)
{
	struct json_object *args = json_object_new_object();
	int r = folder_take(c, args, e);
	uint64_t bound;

	if (!r)
		r = bound_parse(c, &bound, e);
	if (!r)
		r = increments_put(c, args, e);
	if (r < 0) {
		json_object_put(args);
		return r;
	}
	if (option_value(c, "max-bytes"))
		js_put_uint(args, "max-bytes", bound);
	js_put_str(args, "name", option_value(c, "name"));
	return job_run(c, "vm-import", args, fd, "Import", ret_result, e);
}

int verb_import(struct cli *c)
{
	CLEANUP_CLOSE int fd = open(c->pos[0], O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	CLEANUP_JS struct json_object *result = NULL;
	struct err e;
	int r;

	if (fd < 0)
		r = err_set_errno(&e, -errno, "%s", c->pos[0]);
	else if (option_flag(c, "dry-run"))
		r = archive_inspect(c, fd, &result, &e);
	else
		r = import_run(c, fd, &result, &e);
	if (!r && option_flag(c, "dry-run"))
		r = place_decide(c, result, &e);
	if (r == -EINPROGRESS)
		return CLI_OK;
	if (r < 0)
		return cli_fail(&e, "Failed to import domain from %s", c->pos[0]);
	if (option_flag(c, "dry-run"))
		return content_print(c, result);
	warnings_print(js_get_array(result, "warnings"));
	return job_result_print(c, result, NULL, "Domain '%s' imported from %s", js_get_str(result, "name"),
		c->pos[0]);
}
