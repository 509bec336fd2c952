/* cairn-archive: export or import a VM. cairnd runs it with the rights of the user; so does `cairn import --dry-run`.
 *
 *   cairn-archive export|import|clear, with a specification as JSON on fd 3 (docs/archive.md) that
 *   names the other fds. Stdout carries lines of JSON: progress, then {"result":{…}} or
 *   {"error":{"class":"…","message":"…"}}. When an import is complete under its temporary name, the program prints
 *   {"ready":{…}} and waits for a line on stdin. "keep" renames the folder; anything else removes it. clear removes
 *   the files of a killed import. */
#include "tools/archive/archive.h"
#include "api/wire/json.h"
#include "base/channel.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/lockdown.h"
#include "base/loop.h"
#include "base/program.h"
#include "base/relay.h"
#include "base/util.h"
#include "tools/archive/helper.h"
#include "tools/archive/sandbox.h"
#include "tools/archive/stage.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ARCHIVE_FD 4
#define HELD_FD 5 /* the first relay, and then the first of the held files */
#define PROGRESS_STEP_NS 200000000ULL
/* Most memory of an import. libarchive keeps the map of a sparse entry in memory, some 40 bytes for each run of data,
 * and a map of zeros compresses to a thousandth. 2 GiB suffice for 40 million runs. */
#define IMPORT_MEMORY_BYTES (2 * GIB)

static volatile sig_atomic_t terminated;

static void on_term(int sig)
{
	(void)sig;
	terminated = 1;
}

int archive_cancelled(struct err *e)
{
	return terminated ? err_set(e, -ECANCELED, ERR_CANCELLED, "cancelled") : 0;
}

void archive_progress_add(struct archive_progress *p, uint64_t bytes)
{
	uint64_t now = loop_now_ns();

	p->done += bytes;
	if (now < p->next_ns)
		return;
	p->next_ns = now + PROGRESS_STEP_NS;
	printf("{\"done\":%llu,\"total\":%llu,\"space\":%llu}\n", (unsigned long long)p->done,
		(unsigned long long)p->total, (unsigned long long)p->space);
	fflush(stdout);
}

static int export_main(struct json_object *spec)
{
	struct json_object *result = json_object_new_object();
	struct err e;

	if (archive_export(spec, result, &e) < 0) {
		json_object_put(result);
		return helper_fail(&e);
	}
	helper_print("result", result);
	return 0;
}

static bool told_to_keep(void)
{
	char line[16];

	return fgets(line, sizeof(line), stdin) && !strcmp(line, "keep\n");
}

static int import_into(struct json_object *spec, struct stage *stage, struct err *e)
{
	struct json_object *ready = json_object_new_object();
	int r = archive_import(spec, stage, ready, e);

	if (r < 0 || !stage) {
		if (r < 0)
			json_object_put(ready);
		else
			helper_print("result", ready);
		return r;
	}
	helper_print("ready", ready);
	if (!told_to_keep())
		return err_set(e, -ECANCELED, ERR_CANCELLED, "cancelled");
	r = stage_keep(stage, e);
	if (!r)
		helper_print("result", json_object_new_object());
	return r;
}

/* Open the folder and enter the sandbox. folder: NULL: no folder is needed. */
static int folder_enter(const char *folder, int *ret_parent, struct err *e)
{
	if (folder) {
		*ret_parent = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (*ret_parent < 0)
			return err_set_errno(e, -errno, "%s", folder);
	}
	return archive_sandbox(*ret_parent, e);
}

/* Open the increments, whose paths the specification has, before the sandbox is sealed, with the rights of the user who
 * imports. Their fds replace the paths. */
static int increments_open(struct json_object *spec, struct err *e)
{
	struct json_object *list = js_get_array(spec, "increments");
	size_t n = list ? json_object_array_length(list) : 0;

	for (size_t i = 0; i < n; i++) {
		const char *path = js_plain_string(json_object_array_get_idx(list, i));
		int fd = open(path ? path : "", O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
		struct stat st;

		if (fd < 0 || fstat(fd, &st) < 0)
			return err_set_errno(e, -errno, "%s", path ? path : "an increment");
		if (!S_ISREG(st.st_mode))
			return err_set(e, -EINVAL, ERR_INVALID, "%s is no regular file", path);
		json_object_array_put_idx(list, i, json_object_new_int(fd));
	}
	return 0;
}

static int clear_main(struct json_object *spec)
{
	const char *folder = js_get_str(spec, "folder"), *name = js_get_str(spec, "name");
	CLEANUP_CLOSE int parent = -1;
	struct err e;
	int r = folder_enter(folder ? folder : "", &parent, &e);

	if (!r)
		r = stage_clear(parent, name ? name : "", &e);
	if (r < 0)
		return helper_fail(&e);
	helper_print("result", json_object_new_object());
	return 0;
}

static int import_main(struct json_object *spec)
{
	const char *folder = js_get_str(spec, "folder"), *name = js_get_str(spec, "name");
	const struct lockdown_limit memory = { RLIMIT_DATA, IMPORT_MEMORY_BYTES };
	CLEANUP_CLOSE int parent = -1;
	struct stage *stage = NULL;
	struct err e;
	int r = lockdown_limits(&memory, LOCKDOWN_SANITIZED ? 0 : 1, &e);

	if (!r)
		r = increments_open(spec, &e);
	if (!r)
		r = folder_enter(folder, &parent, &e);
	if (!r && folder)
		r = stage_open(parent, name ? name : "", &stage, &e);
	if (!r)
		r = import_into(spec, stage, &e);
	stage_free(stage);
	return r < 0 ? helper_fail(&e) : 0;
}

static const struct {
	const char *name;
	int (*run)(struct json_object *spec);
} verbs[] = { { "export", export_main }, { "import", import_main }, { "clear", clear_main } };

/* Take the archive, if another process holds it: fd ARCHIVE_FD is its relay then. */
static int archive_take(struct json_object *spec, struct err *e)
{
	int fd = -1, r = 0;

	if (js_get_bool(spec, "relayed", false))
		r = relay_take(ARCHIVE_FD, &fd, 1);
	if (fd >= 0) {
		r = dup2(fd, ARCHIVE_FD) < 0 ? -errno : r;
		close(fd);
	}
	return r < 0 ? err_set_errno(e, r, "cannot get the archive from the process that holds it") : 0;
}

/* Give the file of UEFI variables, which comes behind the relays, a number that no held file gets. */
static void nvram_move(struct json_object *spec)
{
	int fd = (int)js_get_int(spec, "nvram", -1);

	if (fd >= 0)
		js_put_int(spec, "nvram", fcntl(fd, F_DUPFD_CLOEXEC, HELD_FD + CHANNEL_FDS_MAX));
}

int main(int argc, char **argv)
{
	CLEANUP_JS struct json_object *spec = NULL;
	struct err e;
	size_t v = 0;
	int r;

	if (program_begin(&e) < 0)
		return helper_fail(&e);
	signal(SIGPIPE, SIG_IGN);
	sigaction(SIGTERM, &(struct sigaction){ .sa_handler = on_term }, NULL);
	while (v < ARRAY_SIZE(verbs) && (argc != 2 || strcmp(argv[1], verbs[v].name)))
		v++;
	if (v == ARRAY_SIZE(verbs)) {
		fprintf(stderr, "usage: cairn-archive export|import|clear (cairnd and `cairn import --dry-run` run this program)\n");
		return 2;
	}
	r = helper_spec_read(&spec, &e);
	if (!r)
		r = archive_take(spec, &e);
	if (!r) {
		nvram_move(spec);
		r = helper_held_take(spec, HELD_FD, &e);
	}
	if (r < 0)
		return helper_fail(&e);
	return verbs[v].run(spec);
}
