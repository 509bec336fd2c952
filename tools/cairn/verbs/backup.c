/* backup-begin, domjobinfo, domjobabort: a backup of a VM's disks as of one instant. It reads a snapshot, which the
 * images hold during the backup, and copies the disks to files (push), or lets nbdkit with Cairn's plugin serve them
 * over NBD (pull). All data about a
 * backup is in the snapshot: the tags `backup` and `keep`, the tag with the VM's UUID that the daemon adds, and the
 * folder of the sockets as its description. So a backup outlives its client, the daemon and the VM's process, until
 * domjobabort ends it. */
#include "tools/cairn/cli.h"
#include "api/store/paths.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/shell_word.h"
#include "base/unix_socket.h"
#include "base/util.h"
#include "tools/cairn/change.h"
#include "tools/cairn/img_run.h"
#include "tools/cairn/job.h"
#include "tools/cairn/output.h"
#include "tools/cairn/snapshot.h"
#include "tools/cairn/verbs/jobs.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define TAG "backup"
#define KEEP "keep" /* the second tag of a backup */
#define CHECKPOINT "checkpoint" /* a tag, too: the snapshot stays after the backup */
#define PLUGIN "nbdkit-cairn-plugin.so"
#define FOLDERS_MAX 32 /* of 15 backing files and their data files */
#define DISKS_MAX 24

struct backup {
	char name[256]; /* of the snapshot */
	const char *since;
	bool pull, checkpoint;
	char folder[PATH_MAX]; /* pull: of the sockets; push: of the files; empty: the images' folders */
	const char *uuid; /* of the VM; borrowed from the definition, as the disks are */
	struct json_object *all, *disks[DISKS_MAX]; /* all disks; those to back up */
	size_t n;
};

static const char *id_of(struct json_object *disk)
{
	return js_get_str_or(disk, "id", "");
}

static const char *image_of(struct json_object *disk)
{
	return js_get_str_or(disk, "path", "");
}

/* ---- the snapshot ---- */

static bool has_tag(struct json_object *snapshot, const char *tag)
{
	struct json_object *tags = js_get_array(snapshot, "tags");

	for (size_t i = 0; tags && i < json_object_array_length(tags); i++)
		if (!strcmp(json_object_get_string(json_object_array_get_idx(tags, i)), tag))
			return true;
	return false;
}

/* Find the VM's backup. ret: owned by the caller; NULL: there is none. Returns 0 or -errno. */
static int backup_find(struct cli *c, const char *vm, struct json_object **ret, struct err *e)
{
	CLEANUP_JS struct json_object *all = NULL;
	int r = snapshots_fetch_all(c, vm, &all, e);

	*ret = NULL;
	for (size_t i = 0; !r && !*ret && i < json_object_array_length(all); i++)
		if (js_get_bool(json_object_array_get_idx(all, i), "backup", false))
			*ret = json_object_get(json_object_array_get_idx(all, i));
	return r;
}

static int snapshot_make(struct cli *c, const struct backup *b, struct err *e)
{
	struct json_object *args = cli_vm_args(c->pos[0]), *tags = json_object_new_array();

	json_object_array_add(tags, json_object_new_string(TAG));
	json_object_array_add(tags, json_object_new_string(KEEP));
	if (b->checkpoint)
		json_object_array_add(tags, json_object_new_string(CHECKPOINT));
	js_put_str(args, "name", b->name);
	js_put_str(args, "description", b->pull ? b->folder : NULL);
	js_put(args, "tags", tags);
	js_put_bool(args, "disks-only", true);
	js_put_bool(args, "quiesce", option_flag(c, "quiesce"));
	return job_run(c, "snapshot-create", args, -1, "Snapshot", NULL, e);
}

/* Let the snapshot be an ordinary one, and delete it unless it is a checkpoint. */
static int snapshot_end(struct cli *c, const char *name, bool checkpoint, struct err *e)
{
	struct json_object *args = cli_vm_args(c->pos[0]), *tags = json_object_new_array();
	int r;

	js_put_str(args, "name", name);
	if (checkpoint)
		json_object_array_add(tags, json_object_new_string(CHECKPOINT));
	js_put(args, "tags", tags);
	r = cli_execute(c, "snapshot-set", args, NULL, NULL, e);
	if (r < 0 || checkpoint)
		return r;
	args = cli_vm_args(c->pos[0]);
	js_put_str(args, "name", name);
	return job_run(c, "snapshot-delete", args, -1, "Delete", NULL, e);
}

static bool vm_is_gone(struct cli *c, const char *uuid)
{
	CLEANUP_JS struct json_object *info = NULL;
	struct err e;

	/* A user without a role for other VMs is denied to ask about one that is gone. */
	return cli_vm_info(c, uuid, &info, &e) < 0 && (e.cls == ERR_NOT_FOUND || e.cls == ERR_PERMISSION);
}

/* Delete the snapshot from the images of a VM that was undefined meanwhile, as a transient one is at its end. */
static int images_clean(const struct backup *b, struct err *e)
{
	int r = 0;

	for (size_t i = 0; b->all && i < json_object_array_length(b->all); i++) {
		struct json_object *disk = json_object_array_get_idx(b->all, i);
		const char *args[] = { "snapshot", "-q", "-d", b->name, "--", image_of(disk), NULL };
		struct err own;

		if (js_get_bool(disk, "readonly", false) || strcmp(js_get_str_or(disk, "format", ""), "qcow2") || access(image_of(disk), F_OK) < 0)
			continue;
		if (img_run(args, NULL, &own) < 0 && !r)
			r = err_set(e, -EIO, own.cls, "the domain was undefined during the backup, and snapshot '%s' stays in %.200s: %.200s", b->name,
				image_of(disk), own.msg);
	}
	return r;
}

/* End the snapshot of a backup to files. */
static int snapshot_release(struct cli *c, struct backup *b, bool keep, struct err *e)
{
	struct err own;
	int r = snapshot_end(c, b->name, keep, &own);

	if (r < 0 && vm_is_gone(c, b->uuid)) {
		if (keep)
			fprintf(stderr, "warning: domain '%s' was undefined during the backup, so its checkpoint '%s' is deleted\n", c->pos[0], b->name);
		b->checkpoint = false;
		return images_clean(b, e);
	}
	if (r < 0)
		*e = own;
	return r;
}

/* ---- the servers ---- */

static void server_path(const char *folder, const char *id, const char *suffix, char ret[PATH_MAX])
{
	if (snprintf(ret, PATH_MAX, "%s/%s.%s", folder, id, suffix) >= PATH_MAX)
		*ret = 0;
}

static int plugin_find(char ret[PATH_MAX], struct err *e)
{
	char self[PATH_MAX];
	int r = paths_helper(PLUGIN, ret, PATH_MAX, e);

	if (r != -ENOENT)
		return r;
	r = paths_self(self, e);
	if (r < 0)
		return r;
	*strrchr(self, '/') = 0;
	if (snprintf(ret, PATH_MAX, "%s/../lib/nbdkit/plugins/" PLUGIN, self) >= PATH_MAX)
		return err_set_errno(e, -ENAMETOOLONG, "%s", self);
	return access(ret, R_OK) == 0 ? 0 : err_set(e, -ENOENT, ERR_NOT_FOUND, "%s is not installed", ret);
}

/* Add the folder of a file unless the list has it. Returns the number of folders. */
static size_t folder_add(const char *file, char folders[FOLDERS_MAX][PATH_MAX], size_t n)
{
	size_t same = 0;
	char *end;

	if (n == FOLDERS_MAX)
		return n;
	snprintf(folders[n], PATH_MAX, "%s", file);
	end = strrchr(folders[n], '/');
	if (end && end > folders[n])
		*end = 0;
	while (strcmp(folders[same], folders[n]))
		same++;
	return n + (same == n);
}

/* The folders of the disk's layers and their data files, each once: a tool follows the names in headers only there. */
static size_t folders_of(struct json_object *disk, char folders[FOLDERS_MAX][PATH_MAX])
{
	struct json_object *backing = js_get_array(disk, "backing");
	size_t n = 0;

	for (size_t i = 0; backing && i < json_object_array_length(backing); i++) {
		struct json_object *layer = json_object_array_get_idx(backing, i);
		const char *data = js_get_str(layer, "data_file");

		n = folder_add(image_of(layer), folders, n);
		if (data)
			n = folder_add(data, folders, n);
	}
	return n;
}

/* Wait for the first byte of the server's greeting. Before that, nbdkit continues in the background, and writes the
 * pid of that process, which is needed to end it. */
static int server_await(const char *socket, struct err *e)
{
	CLEANUP_CLOSE int fd = unix_connect(socket, 0);
	char byte;

	if (fd < 0 || read(fd, &byte, 1) != 1)
		return err_set(e, -EIO, ERR_IO, "nbdkit ended, or does not serve at %s", socket);
	return 0;
}

static int server_start(const struct backup *b, struct json_object *disk, const char *plugin, struct err *e)
{
	static const char *const prefixes[] = { "file=", "format=", "snapshot=", "since=" };
	const char *values[] = { image_of(disk), js_get_str_or(disk, "format", "qcow2"), b->name, b->since };
	char folders[FOLDERS_MAX][PATH_MAX], socket[PATH_MAX], pid[PATH_MAX];
	char *texts[ARRAY_SIZE(prefixes) + FOLDERS_MAX] = { 0 };
	const char *args[8 + ARRAY_SIZE(texts)] = { "--unix", socket, "--pidfile", pid, "--read-only", plugin };
	size_t nfolders = folders_of(disk, folders), n = 6, ntexts = 0;
	int r = 0;

	server_path(b->folder, id_of(disk), "sock", socket);
	server_path(b->folder, id_of(disk), "pid", pid);
	for (size_t i = 0; i < ARRAY_SIZE(prefixes) + nfolders && !r; i++) {
		const char *prefix = i < ARRAY_SIZE(prefixes) ? prefixes[i] : "allow=";
		const char *value = i < ARRAY_SIZE(prefixes) ? values[i] : folders[i - ARRAY_SIZE(prefixes)];

		if (!value)
			continue;
		if (asprintf(&texts[ntexts], "%s%s", prefix, value) < 0)
			r = err_set_errno(e, -ENOMEM, "nbdkit");
		else
			args[n++] = texts[ntexts++];
	}
	if (!r)
		r = program_run("nbdkit", args, NULL, e);
	if (r == -ENOENT)
		err_set(e, r, ERR_NOT_FOUND, "nbdkit is not installed; install the package nbdkit (apt install nbdkit)");
	if (!r)
		r = server_await(socket, e);
	while (ntexts)
		free(texts[--ntexts]);
	return r;
}

/* Return whether the process is the server of that socket, and has another word in its command line, too: its number
 * may belong to another one by now. more: NULL: no other word. */
static bool is_server(pid_t pid, const char *socket, const char *more)
{
	char path[64], text[4 * PATH_MAX];
	bool found = false, more_found = !more;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return false;
	text[n] = 0;
	for (char *p = text; p < text + n; p += strlen(p) + 1) {
		found |= !strcmp(p, socket);
		more_found = more_found || !strcmp(p, more);
	}
	return found && more_found && strstr(text, "nbdkit") != NULL;
}

/* Return the process that serves a disk in the folder; 0: there is none. more: as in is_server(). */
static int server_find(const char *folder, const char *id, const char *more)
{
	char socket[PATH_MAX], pid[PATH_MAX], text[32] = "";
	CLEANUP_CLOSE int fd = -1;
	int number;

	server_path(folder, id, "sock", socket);
	server_path(folder, id, "pid", pid);
	fd = open(pid, O_RDONLY | O_CLOEXEC);
	number = fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 ? atoi(text) : 0;
	return number > 1 && is_server(number, socket, more) ? number : 0;
}

static void server_end(const char *folder, const char *id)
{
	int number = server_find(folder, id, NULL);
	char path[PATH_MAX];

	if (number)
		kill(number, SIGTERM);
	server_path(folder, id, "sock", path);
	unlink(path);
	server_path(folder, id, "pid", path);
	unlink(path);
}

/* End the servers of disks that were detached since the backup began. snapshot: its name. */
static void lost_servers_end(const char *folder, const char *snapshot)
{
	CLEANUP_FREE char *word = NULL;
	DIR *dir = asprintf(&word, "snapshot=%s", snapshot) < 0 ? NULL : opendir(folder);
	struct dirent *de;

	while (dir && (de = readdir(dir))) {
		char *end = strrchr(de->d_name, '.');

		if (!end || strcmp(end, ".pid"))
			continue;
		*end = 0;
		if (!server_find(folder, de->d_name, word))
			continue;
		server_end(folder, de->d_name);
		fprintf(stderr, "warning: disk %s was detached during the backup, so its image keeps the snapshot %s; delete it with: cairn-img "
			"snapshot -d %s IMAGE\n", de->d_name, snapshot, shell_word(snapshot).s);
	}
	if (dir)
		closedir(dir);
}

static void servers_end(const char *folder, struct json_object *disks, const char *snapshot)
{
	for (size_t i = 0; disks && i < json_object_array_length(disks); i++)
		server_end(folder, id_of(json_object_array_get_idx(disks, i)));
	lost_servers_end(folder, snapshot);
	rmdir(folder); /* fails if it has other files */
}

/* Refuse a folder with the sockets of another backup: a failure would end that backup's servers. */
static int sockets_check(const struct backup *b, struct err *e)
{
	char socket[PATH_MAX];

	for (size_t i = 0; i < b->n; i++) {
		server_path(b->folder, id_of(b->disks[i]), "sock", socket);
		if (!access(socket, F_OK))
			return err_set(e, -EEXIST, ERR_EXISTS, "%s exists, so another backup may serve there; choose another folder with --socket",
				socket);
	}
	return 0;
}

static int servers_start(struct backup *b, struct err *e)
{
	char plugin[PATH_MAX];
	size_t n = 0;
	int r = plugin_find(plugin, e);

	if (!r)
		r = sockets_check(b, e);
	if (!r && mkdir(b->folder, 0700) < 0 && errno != EEXIST)
		r = err_set_errno(e, -errno, "%s", b->folder);
	while (n < b->n && !r)
		r = server_start(b, b->disks[n++], plugin, e);
	if (!r)
		return 0;
	while (n)
		server_end(b->folder, id_of(b->disks[--n]));
	rmdir(b->folder); /* fails if it has other files */
	return r;
}

/* ---- the files ---- */

static void file_name(const struct backup *b, struct json_object *disk, char ret[PATH_MAX])
{
	const char *image = image_of(disk), *base = strrchr(image, '/');
	int r = *b->folder ? snprintf(ret, PATH_MAX, "%s/%s.%s", b->folder, base ? base + 1 : image, b->name)
			   : snprintf(ret, PATH_MAX, "%s.%s", image, b->name);

	if (r >= PATH_MAX)
		*ret = 0;
}

static int file_copy(const struct backup *b, struct json_object *disk, struct err *e)
{
	char folders[FOLDERS_MAX][PATH_MAX], to[PATH_MAX];
	const char *args[16 + 2 * FOLDERS_MAX] = { "convert", "-U", "-q", "-f", "qcow2", "-O", "qcow2", "-l", b->name };
	size_t n = 9, nfolders = folders_of(disk, folders);
	int fd, r;

	for (size_t i = 0; i < nfolders; i++) {
		args[n++] = "--allow";
		args[n++] = folders[i];
	}
	file_name(b, disk, to);
	args[n++] = "--";
	args[n++] = image_of(disk);
	args[n++] = to;
	fd = open(to, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_set_errno(e, -errno, "%s", to);
	close(fd);
	r = img_run(args, NULL, e);
	if (r < 0)
		unlink(to);
	return r;
}

static int files_copy(const struct backup *b, struct err *e)
{
	char path[PATH_MAX];
	size_t i = 0;
	int r = 0;

	while (i < b->n && !r)
		r = file_copy(b, b->disks[i++], e);
	for (size_t k = 0; r < 0 && k + 1 < i; k++) {
		file_name(b, b->disks[k], path);
		unlink(path);
	}
	return r;
}

/* ---- backup-begin ---- */

static bool is_wanted(const struct cli *c, struct json_object *disk, const char **ids, size_t n)
{
	(void)c;
	for (size_t i = 0; i < n; i++)
		if (!strcmp(ids[i], id_of(disk)) || !strcmp(ids[i], image_of(disk)))
			return true;
	return !n && !js_get_bool(disk, "readonly", false) && *image_of(disk) && strcmp(js_get_str_or(disk, "device", "disk"), "cdrom");
}

static int disks_choose(struct cli *c, struct json_object *disks, struct backup *b, struct err *e)
{
	const char *ids[DISKS_MAX];
	size_t n = option_values(c, "disk", ids, DISKS_MAX);

	b->all = disks;
	for (size_t i = 0; disks && i < json_object_array_length(disks) && b->n < DISKS_MAX; i++)
		if (is_wanted(c, json_object_array_get_idx(disks, i), ids, n))
			b->disks[b->n++] = json_object_array_get_idx(disks, i);
	if (b->n < MAX(n, (size_t)1))
		return err_set(e, -ENOENT, ERR_NOT_FOUND, n ? "a --disk names a disk that domain '%s' does not have" : "domain '%s' has no disk that "
			"could be backed up", c->pos[0]);
	return 0;
}

/* uuid: of the VM: its name may become another VM's while the backup lasts. */
static int folder_choose(struct cli *c, const char *uuid, struct backup *b, struct err *e)
{
	const char *given = option_value(c, b->pull ? "socket" : "to");
	char cwd[PATH_MAX];
	struct stat st;
	int n;

	if (!given && !b->pull)
		return 0;
	if (!getcwd(cwd, sizeof(cwd)))
		return err_set_errno(e, -errno, "the working directory");
	if (given && !b->pull && stat(given, &st) < 0)
		return err_set_errno(e, -errno, "folder %.300s", given);
	if (given && !b->pull && !S_ISDIR(st.st_mode))
		return err_set_errno(e, -ENOTDIR, "folder %.300s", given);
	if (given)
		n = snprintf(b->folder, PATH_MAX, "%s%s%s", *given == '/' ? "" : cwd, *given == '/' ? "" : "/", given);
	else
		n = snprintf(b->folder, PATH_MAX, "%s/%.8s.backup", cwd, uuid); /* a socket's path has at most 107 bytes */
	return n < 500 ? 0 : err_set(e, -ENAMETOOLONG, ERR_INVALID, "the path of the folder is too long");
}

/* A transient VM is undefined when it ends, and a backup is found by its VM only. */
static int persistent_check(struct cli *c, struct err *e)
{
	CLEANUP_JS struct json_object *info = NULL;
	const char *name;
	int r = cli_vm_info(c, c->pos[0], &info, e);

	if (r < 0 || js_get_bool(info, "persistent", true))
		return r;
	name = js_get_str_or(info, "name", c->pos[0]);
	return err_set(e, -EPERM, ERR_WRONG_STATE, "VM '%s' is transient, so its end would undefine it, and nobody could end the backup; make it "
		"persistent with: cairn dumpjson %s | cairn define -, or back it up without --pull", name, shell_word(name).s);
}

static int options_check(struct cli *c)
{
	bool pull = option_flag(c, "pull");

	if (!pull && (option_value(c, "socket") || option_value(c, "since")))
		return cli_usage(c, "--socket and --since need --pull; cairn export --since writes an increment to a file");
	if (pull && option_value(c, "to"))
		return cli_usage(c, "--to is for a backup to files, without --pull");
	return 0;
}

static int backup_prepare(struct cli *c, struct backup *b, struct json_object *definition, struct err *e)
{
	const char *checkpoint = option_value(c, "checkpoint");
	int r;

	b->pull = option_flag(c, "pull");
	b->since = option_value(c, "since");
	b->checkpoint = checkpoint;
	if (checkpoint)
		snprintf(b->name, sizeof(b->name), "%s", checkpoint);
	else
		snprintf(b->name, sizeof(b->name), "backup-%lld", (long long)time(NULL));
	b->uuid = js_get_str_or(definition, "uuid", c->pos[0]);
	r = b->pull ? persistent_check(c, e) : 0;
	if (!r)
		r = disks_choose(c, js_get_array(definition, "disks"), b, e);
	return r ? r : folder_choose(c, b->uuid, b, e);
}

static int backup_run(struct cli *c, struct backup *b, struct err *e)
{
	struct err own;
	int r = snapshot_make(c, b, e), end;

	if (r < 0)
		return r;
	/* A signal ends the copy, and then this process deletes the snapshot. */
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	r = b->pull ? servers_start(b, e) : files_copy(b, e);
	c->interrupted = r == -EINTR;
	if (!r && b->pull)
		return 0;
	end = snapshot_release(c, b, b->checkpoint && !r, &own);
	if (end < 0 && !r)
		*e = own;
	return r ? r : end;
}

/* Print the URI of a server: bytes with a meaning in URIs become %41 and the like. */
static void uri_print(const char *socket, char *ret, size_t size)
{
	size_t n = (size_t)snprintf(ret, size, "nbd+unix:///?socket=");

	for (const unsigned char *p = (const unsigned char *)socket; *p && n < size; p++)
		n += (size_t)snprintf(ret + n, size - n, isalnum(*p) || strchr("/-._~", *p) ? "%c" : "%%%02X", *p);
}

static int backup_print(struct cli *c, const struct backup *b)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	struct json_object *list = json_object_new_array();
	char path[PATH_MAX], uri[3 * PATH_MAX + 64];

	js_put_str(o, "mode", b->pull ? "pull" : "push");
	js_put_str(o, "snapshot", b->pull || b->checkpoint ? b->name : NULL);
	js_put(o, "disks", list);
	if (c->format == CLI_TABLE)
		say("%s\n", b->pull ? "Backup started" : "Backup complete");
	for (size_t i = 0; i < b->n; i++) {
		struct json_object *d = json_object_new_object();

		if (b->pull)
			server_path(b->folder, id_of(b->disks[i]), "sock", path);
		else
			file_name(b, b->disks[i], path);
		uri_print(path, uri, sizeof(uri));
		js_put_str(d, "disk", id_of(b->disks[i]));
		js_put_str(d, b->pull ? "uri" : "file", b->pull ? uri : path);
		json_object_array_add(list, d);
		if (c->format == CLI_TABLE)
			printf("disk %s: %s\n", id_of(b->disks[i]), b->pull ? uri : path);
	}
	if (c->format != CLI_TABLE)
		output_print(stdout, c->format, o);
	return CLI_OK;
}

int verb_backup_begin(struct cli *c)
{
	CLEANUP_JS struct json_object *definition = NULL;
	CLEANUP_FREE struct backup *b = calloc(1, sizeof(*b));
	struct err e;
	int r = options_check(c);

	if (r)
		return r;
	r = b ? change_read_running(c, c->pos[0], &definition, &e) : err_set_errno(&e, -ENOMEM, "the disks");
	if (!r)
		r = backup_prepare(c, b, definition, &e);
	if (!r)
		r = backup_run(c, b, &e);
	return r < 0 ? cli_fail(&e, "Failed to back up domain '%s'", c->pos[0]) : backup_print(c, b);
}

/* ---- domjobinfo, domjobabort ---- */

/* Find the VM's job that is under way. Borrowed from all; NULL: there is none. */
static struct json_object *job_of(struct json_object *all, const char *vm)
{
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i);

		if (!strcmp(js_get_str_or(o, "vm", ""), vm) && strcmp(js_get_str_or(o, "status", ""), "concluded"))
			return o;
	}
	return NULL;
}

/* Find the VM's job. ret: owned by the caller; NULL: there is none. Returns 0 or -errno. */
static int job_find(struct cli *c, struct json_object **ret, struct err *e)
{
	CLEANUP_JS struct json_object *all = NULL, *info = NULL;
	int r = cli_vm_info(c, c->pos[0], &info, e);

	*ret = NULL;
	if (!r)
		r = jobs_fetch(c, &all, e);
	if (!r)
		*ret = json_object_get(job_of(all, js_get_str_or(info, "name", "")));
	return r;
}

/* Print a line as virsh's domjobinfo does. */
static void info_line(const char *label, const char *value)
{
	printf("%-17s %s\n", label, value);
}

static void size_line(const char *label, int64_t bytes)
{
	char text[24];

	bytes_print((uint64_t)MAX(bytes, 0), text);
	info_line(label, text);
}

static void job_print(struct json_object *job)
{
	int64_t done = js_get_int(job, "current-progress", 0), total = js_get_int(job, "total-progress", 0);

	info_line("Job type:", total > 0 ? "Bounded" : "Unbounded");
	info_line("Operation:", js_get_str_or(job, "type", "-"));
	info_line("Job:", js_get_str_or(job, "id", "-"));
	if (total <= 0)
		return;
	size_line("Data processed:", done);
	size_line("Data remaining:", total - done);
	size_line("Data total:", total);
}

/* An image that cannot be opened hides a backup, but not that the VM has no job. */
static int shown_find(struct cli *c, struct json_object **ret_job, struct json_object **ret_backup, struct err *e)
{
	struct err why;
	int r = job_find(c, ret_job, e);

	if (!r && !*ret_job && backup_find(c, c->pos[0], ret_backup, &why) < 0)
		fprintf(stderr, "warning: whether a backup is under way is not known: %s\n", why.msg);
	return r;
}

int verb_domjobinfo(struct cli *c)
{
	CLEANUP_JS struct json_object *job = NULL, *backup = NULL, *o = json_object_new_object();
	struct err e;

	if (shown_find(c, &job, &backup, &e) < 0)
		return cli_fail(&e, "Failed to show the job of domain '%s'", c->pos[0]);
	if (c->format != CLI_TABLE) {
		js_put(o, "job", json_object_get(job));
		js_put(o, "backup", json_object_get(backup));
		output_print(stdout, c->format, o);
	} else if (job) {
		job_print(job);
	} else if (backup) {
		info_line("Job type:", "Unbounded");
		info_line("Operation:", "Backup");
		info_line("Snapshot:", js_get_str_or(backup, "name", "-"));
		info_line("Sockets:", js_get_str_or(backup, "description", "-"));
	} else {
		info_line("Job type:", "None");
	}
	return CLI_OK;
}

static int backup_end(struct cli *c, struct json_object *backup, struct err *e)
{
	CLEANUP_JS struct json_object *definition = NULL;
	const char *folder = js_get_str(backup, "description");
	int r = change_read_running(c, c->pos[0], &definition, e);

	if (r < 0)
		return r;
	if (folder && *folder == '/')
		servers_end(folder, js_get_array(definition, "disks"), js_get_str_or(backup, "name", ""));
	return snapshot_end(c, js_get_str_or(backup, "name", ""), has_tag(backup, CHECKPOINT), e);
}

int verb_domjobabort(struct cli *c)
{
	CLEANUP_JS struct json_object *job = NULL, *backup = NULL;
	struct json_object *args;
	struct err e;
	int r = job_find(c, &job, &e);

	if (!r && !job)
		r = backup_find(c, c->pos[0], &backup, &e);
	if (!r && job) {
		args = json_object_new_object();
		js_put_str(args, "id", js_get_str(job, "id"));
		r = cli_execute(c, "job-cancel", args, NULL, NULL, &e);
	} else if (!r && backup) {
		r = backup_end(c, backup, &e);
	} else if (!r) {
		r = err_set(&e, -ENOENT, ERR_NOT_FOUND, "domain '%s' has no job under way", c->pos[0]);
	}
	if (r < 0)
		return cli_fail(&e, "Failed to abort the job of domain '%s'", c->pos[0]);
	say("%s\n", job ? "Job is being cancelled" : "Backup ended");
	return CLI_OK;
}
