#include "api/jobs/pool_volumes.h"
#include "api/access/fork_as.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/jobs/volumes.h"
#include "api/schema/call.h"
#include "api/store/paths.h"
#include "api/vm/vm.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/utf8.h"
#include "base/util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Names that are kept at once, of a folder with any number of files. */
#define NAMES_MAX 64
#define LIST_TIMEOUT_NS (60 * 1000000000ULL)
#define USERS_TIMEOUT_S 60
/* Fields of a qcow2 header (docs/qcow2.md). */
#define QCOW2_MAGIC 0x514649fbU
#define QCOW2_HEADER_BYTES 32

bool volume_name_is_valid(const char *name)
{
	return *name && *name != '.' && *name != '-' && !strchr(name, '/') && strlen(name) <= NAME_MAX && utf8_is_clean(name);
}

const char *volume_format_name(enum volume_format f)
{
	return f == VOLUME_QCOW2 ? "qcow2" : f == VOLUME_RAW ? "raw" : NULL;
}

/* ---- looking; this and all below up to "calls" runs in the process, without malloc() ---- */

/* Known facts about a volume. */
struct look {
	enum volume_format format;
	uint64_t capacity_bytes, allocation_bytes;
	size_t nbacking;
	char backing[VOLUME_BACKING_MAX + 1];
	struct stat st;
};

static int folder_open(const char *path, struct err *e)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? err_set_errno(e, -errno, "folder %.300s", path) : fd;
}

static void qcow2_look(int fd, const uint8_t header[QCOW2_HEADER_BYTES], struct look *l)
{
	uint64_t offset = load_be64(header + 8);
	uint32_t size = load_be32(header + 16);

	l->format = VOLUME_QCOW2;
	l->capacity_bytes = MIN(load_be64(header + 24), (uint64_t)INT64_MAX); /* 8 EiB, in JSON a number of 64 bits with its sign */
	if (offset && size && size <= VOLUME_BACKING_MAX && offset <= INT64_MAX && !pread_full(fd, l->backing, size, (off_t)offset))
		l->nbacking = strlen(l->backing);
	l->backing[l->nbacking] = 0;
}

static int irregular(const char *name, struct err *e)
{
	return err_set(e, -EINVAL, ERR_INVALID, "volume %.300s is no regular file", name);
}

/* Look at a file. A file that may not be read has no format.
 * links: follow a symbolic link. Returns 0; -EINVAL: it is no regular file; -errno. */
static int file_look(int dir, const char *name, bool links, struct look *l, struct err *e)
{
	uint8_t header[QCOW2_HEADER_BYTES];
	int fd;

	memset(l, 0, sizeof(*l));
	if (fstatat(dir, name, &l->st, links ? 0 : AT_SYMLINK_NOFOLLOW) < 0)
		return err_set_errno(e, -errno, "volume %.300s", name);
	if (!S_ISREG(l->st.st_mode))
		return irregular(name, e);
	/* O_NONBLOCK: the name may be a FIFO's now. */
	fd = openat(dir, name, O_RDONLY | O_CLOEXEC | (links ? 0 : O_NOFOLLOW) | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return 0;
	if (fstat(fd, &l->st) < 0 || !S_ISREG(l->st.st_mode)) {
		close(fd);
		return irregular(name, e);
	}
	l->format = VOLUME_RAW;
	l->capacity_bytes = (uint64_t)l->st.st_size;
	l->allocation_bytes = (uint64_t)l->st.st_blocks * 512;
	if (l->st.st_size >= QCOW2_HEADER_BYTES && !pread_full(fd, header, sizeof(header), 0) && load_be32(header) == QCOW2_MAGIC)
		qcow2_look(fd, header, l);
	close(fd);
	return 0;
}

static int volume_look(int dir, const char *name, struct look *l, struct err *e)
{
	return file_look(dir, name, false, l, e);
}

/* ---- names of a folder ---- */

struct names {
	char list[NAMES_MAX][NAME_MAX + 1]; /* sorted */
	unsigned n;
	bool more; /* there are others behind them */
};

static void name_insert(struct names *s, const char *name)
{
	unsigned at = s->n;

	while (at && strcmp(s->list[at - 1], name) > 0)
		at--;
	if (at == NAMES_MAX) {
		s->more = true;
		return;
	}
	if (s->n == NAMES_MAX)
		s->more = true;
	else
		s->n++;
	memmove(s->list[at + 1], s->list[at], (s->n - 1 - at) * sizeof(s->list[0]));
	snprintf(s->list[at], sizeof(s->list[at]), "%s", name);
}

static bool is_file(int dir, const char *name, unsigned char type)
{
	struct stat st;

	if (type != DT_UNKNOWN)
		return type == DT_REG;
	return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode);
}

/* Get the first names of regular files behind `after`, without hidden ones and those that JSON cannot have.
 * Returns 0 or -errno. */
static int names_get(int dir, const char *after, struct names *s, struct err *e)
{
	static _Alignas(struct dirent64) char buf[32768];
	ssize_t n;

	s->n = 0;
	s->more = false;
	if (lseek(dir, 0, SEEK_SET) < 0)
		return err_set_errno(e, -errno, "the pool's folder");
	while ((n = getdents64(dir, buf, sizeof(buf))) > 0) {
		for (ssize_t at = 0; at < n;) {
			const struct dirent64 *d = (const void *)(buf + at);

			at += d->d_reclen;
			if (d->d_name[0] != '.' && strcmp(d->d_name, after) > 0 && utf8_is_clean(d->d_name) && is_file(dir, d->d_name, d->d_type))
				name_insert(s, d->d_name);
		}
	}
	return n < 0 ? err_set_errno(e, -errno, "the pool's folder") : 0;
}

/* ---- list ---- */

/* Of an entry in the data: behind it are the name and the backing file's, each with its NUL. */
struct entry_head {
	uint64_t capacity_bytes, allocation_bytes, file_bytes;
	uint32_t format;
};

static bool entry_put(char *data, size_t *used, const char *name, const struct look *l)
{
	struct entry_head head = { l->capacity_bytes, l->allocation_bytes, (uint64_t)l->st.st_size, l->format };
	size_t name_bytes = strlen(name) + 1, bytes = sizeof(head) + name_bytes + l->nbacking + 1;

	if (*used + bytes > FORK_AS_DATA_MAX)
		return false;
	memcpy(data + *used, &head, sizeof(head));
	memcpy(data + *used + sizeof(head), name, name_bytes);
	memcpy(data + *used + sizeof(head) + name_bytes, l->backing, l->nbacking + 1);
	*used += bytes;
	return true;
}

static int list_run(const struct volume_work *w, int dir, struct fork_as_result *out, struct err *e)
{
	static char data[FORK_AS_DATA_MAX];
	static struct names names;
	static struct look look;
	char after[NAME_MAX + 1];
	int r;

	memcpy(after, w->name, sizeof(after));
	do { /* once, unless all these files are gone meanwhile */
		r = names_get(dir, after, &names, e);
		out->count = names.more;
		for (unsigned i = 0; !r && i < names.n; i++) {
			memcpy(after, names.list[i], sizeof(after));
			if (volume_look(dir, after, &look, NULL) < 0)
				continue;
			if (!entry_put(data, &out->ndata, after, &look)) {
				out->count = 1;
				break;
			}
		}
	} while (!r && !out->ndata && names.more);
	out->data = data;
	return r;
}

bool volume_entry_take(const char **data, size_t *left, struct volume_entry *ret)
{
	struct entry_head head;
	const char *name = *data + sizeof(head), *end = *data + *left, *backing, *last;

	if (*left < sizeof(head) || !(backing = memchr(name, 0, (size_t)(end - name))))
		return false;
	backing++;
	last = memchr(backing, 0, (size_t)(end - backing));
	if (!last)
		return false;
	memcpy(&head, *data, sizeof(head));
	ret->format = (enum volume_format)head.format;
	ret->capacity_bytes = head.capacity_bytes;
	ret->allocation_bytes = head.allocation_bytes;
	ret->file_bytes = head.file_bytes;
	snprintf(ret->name, sizeof(ret->name), "%s", name);
	snprintf(ret->backing, sizeof(ret->backing), "%s", backing);
	utf8_clean(ret->backing);
	*data = last + 1;
	*left = (size_t)(end - *data);
	return true;
}

/* ---- delete ---- */

static int vms_check(const struct volume_work *w, const struct stat *st, struct err *e)
{
	const struct vm *vm = volumes_user(w->host, NULL, st);

	return vm ? err_set(e, -EBUSY, ERR_BUSY, "%.300s/%.255s is an image of VM '%.255s'; detach the disk or undefine the VM first", w->folder, w->name,
			    vm->def->name) :
		    0;
}

/* Check that no other volume of the folder has the file as its backing file. Returns 0; -EBUSY; -errno. */
static int overlays_check(const struct volume_work *w, int dir, const struct stat *file, struct err *e)
{
	static struct names names;
	static struct look look;
	char after[NAME_MAX + 1] = "";
	int r;

	do {
		r = names_get(dir, after, &names, e);
		for (unsigned i = 0; !r && i < names.n; i++) {
			struct stat st;

			if (volume_look(dir, names.list[i], &look, NULL) < 0 || !look.nbacking || fstatat(dir, look.backing, &st, 0) < 0)
				continue;
			if (st.st_dev == file->st_dev && st.st_ino == file->st_ino)
				return err_set(e, -EBUSY, ERR_BUSY, "%s/%s is the backing file of %s; delete that first", w->folder, w->name,
					names.list[i]);
		}
		if (!r && names.n)
			memcpy(after, names.list[names.n - 1], sizeof(after));
	} while (!r && names.more);
	return r;
}

static int delete_run(const struct volume_work *w, int dir, struct err *e)
{
	static struct look look;
	int r = volume_look(dir, w->name, &look, e);

	if (!r)
		r = vms_check(w, &look.st, e);
	if (!r)
		r = overlays_check(w, dir, &look.st, e);
	if (!r && unlinkat(dir, w->name, 0) < 0)
		r = err_set_errno(e, -errno, "%s/%s", w->folder, w->name);
	return r;
}

/* ---- work of cairn-img ---- */

static _Noreturn void program_main(const char *program, const char *const *args, int errors)
{
	static char *const envp[] = { (char *)"PATH=/usr/sbin:/usr/bin:/sbin:/bin", (char *)"LC_ALL=C.UTF-8", NULL };
	int null = open("/dev/null", O_RDWR);
	sigset_t none;

	sigemptyset(&none);
	/* The user may trace the program from now on, so it keeps no fd of the daemon. */
	if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(errors, 2) < 0 || close_range(3, ~0U, 0) < 0)
		_exit(1);
	/* For a copy, cairn-img makes another file, and renames it to the reserved name. */
	umask(0077);
	signal(SIGPIPE, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execve(program, (char *const *)(uintptr_t)args, envp);
	_exit(127);
}

/* Fail with what the program has said, without its name. */
static int program_failed(char *said, int status, struct err *e)
{
	static const char name[] = "cairn-img: ";
	const char *text = said;

	said[strcspn(said, "\n")] = 0;
	utf8_clean(said);
	if (!strncmp(text, name, sizeof(name) - 1))
		text += sizeof(name) - 1;
	if (!*text)
		return err_set(e, -EIO, ERR_HOST, "cairn-img %s", WIFEXITED(status) && WEXITSTATUS(status) == 127 ? "is not installed" : "has failed");
	return err_set(e, -EIO, ERR_IO, "%s", text);
}

/* Run cairn-img and wait for its end. args: with the program's name; NULL ends them. Returns 0; -EIO; -errno. */
static int img_run(const struct volume_work *w, const char *const *args, struct err *e)
{
	char said[400] = "", rest[256];
	size_t used = 0;
	int pair[2], status;
	ssize_t n;
	pid_t pid;

	if (pipe2(pair, O_CLOEXEC) < 0)
		return err_set_errno(e, -errno, "cairn-img");
	pid = fork();
	if (pid == 0)
		program_main(w->host->paths->img_program, args, pair[1]);
	close(pair[1]);
	while (pid > 0) {
		n = used < sizeof(said) - 1 ? read(pair[0], said + used, sizeof(said) - 1 - used) : read(pair[0], rest, sizeof(rest));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		if (used < sizeof(said) - 1)
			used += (size_t)n;
	}
	close(pair[0]);
	if (pid < 0)
		return err_set_errno(e, -errno, "cairn-img");
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_set_errno(e, -errno, "cairn-img");
	said[used] = 0;
	return status ? program_failed(said, status, e) : 0;
}

/* Reserve the name of a new volume, so that no other file is overwritten, and let cairn-img fill it. */
static int volume_make(const struct volume_work *w, int dir, const char *name, const char *const *args, struct err *e)
{
	int fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600), r;

	if (fd < 0)
		return err_set_errno(e, -errno, "%s/%s", w->folder, name);
	close(fd);
	r = img_run(w, args, e);
	if (r < 0)
		unlinkat(dir, name, 0);
	return r;
}

static void path_put(char path[PATH_MAX], const struct volume_work *w, const char *name)
{
	snprintf(path, PATH_MAX, "%s/%s", w->folder, name);
}

static bool is_same_file(const char *path, const struct stat *file)
{
	struct stat st;

	return path && !stat(path, &st) && st.st_dev == file->st_dev && st.st_ino == file->st_ino;
}

static enum volume_format definition_format(const struct definition *def, const struct stat *file)
{
	for (uint32_t i = 0; def && i < def->ndisks; i++)
		for (unsigned k = 0; k < def->disks[i].nlayers; k++) {
			const struct definition_layer *l = &def->disks[i].layers[k];

			if (is_same_file(l->path, file))
				return l->format == DEFINITION_FORMAT_QCOW2 ? VOLUME_QCOW2 : VOLUME_RAW;
			if (is_same_file(l->data_file, file))
				return VOLUME_RAW;
		}
	return VOLUME_NO_FORMAT;
}

/* Return the format in which VMs use the file, by whatever path; VOLUME_NO_FORMAT: none uses it. A file system that
 * hangs ends the process. */
static enum volume_format used_format(const struct vm_host *host, const struct stat *file)
{
	enum volume_format f = VOLUME_NO_FORMAT;

	alarm(USERS_TIMEOUT_S);
	for (size_t i = 0; i < host->nvms && f == VOLUME_NO_FORMAT; i++) {
		f = definition_format(host->vms[i]->live, file);
		if (f == VOLUME_NO_FORMAT)
			f = definition_format(host->vms[i]->def, file);
	}
	alarm(0);
	return f;
}

/* Look at an image, which must be readable. A guest that has a raw image can write a header into it that names any file
 * of the host as its backing file, so the header of an image that VMs use does not count. */
static int image_look(const struct volume_work *w, int dir, const char *name, bool links, struct look *l, struct err *e)
{
	int r = file_look(dir, name, links, l, e);
	enum volume_format used;

	if (!r && l->format == VOLUME_NO_FORMAT)
		r = err_set_errno(e, -EACCES, "%s%s%s", *name == '/' ? "" : w->folder, *name == '/' ? "" : "/", name);
	if (r < 0)
		return r;
	used = used_format(w->host, &l->st);
	if (used != VOLUME_NO_FORMAT && used != l->format) {
		l->format = used;
		l->capacity_bytes = (uint64_t)l->st.st_size;
	}
	return 0;
}

static int create_run(const struct volume_work *w, int dir, struct err *e)
{
	const char *args[16] = { "cairn-img", "create", "-q", "-f", volume_format_name(w->format) };
	static struct look look;
	char path[PATH_MAX], size[24], option[40];
	size_t n = 5;
	int r = w->backing[0] ? image_look(w, dir, w->backing, !w->backing_is_volume, &look, e) : 0;

	if (r < 0)
		return r;
	if (w->backing[0]) {
		args[n++] = "-b";
		args[n++] = w->backing;
		args[n++] = "-F";
		args[n++] = volume_format_name(w->backing_format == VOLUME_NO_FORMAT ? look.format : w->backing_format);
	}
	if (w->preallocation) {
		snprintf(option, sizeof(option), "preallocation=%s", w->preallocation);
		args[n++] = "-o";
		args[n++] = option;
	}
	path_put(path, w, w->name);
	snprintf(size, sizeof(size), "%" PRIu64, w->capacity_bytes);
	args[n++] = "--";
	args[n++] = path;
	args[n] = size;
	return volume_make(w, dir, w->name, args, e);
}

static int clone_run(const struct volume_work *w, int dir, struct err *e)
{
	static struct look look;
	char from[PATH_MAX], to[PATH_MAX];
	const char *format;
	int r = image_look(w, dir, w->name, false, &look, e);

	if (r < 0)
		return r;
	path_put(from, w, w->name);
	path_put(to, w, w->copy);
	format = volume_format_name(look.format);
	return volume_make(w, dir, w->copy,
		(const char *const[]){ "cairn-img", "convert", "-q", "-f", format, "-O", format, "--", from, to, NULL }, e);
}

static int resize_run(const struct volume_work *w, int dir, struct err *e)
{
	static struct look look;
	const char *args[10] = { "cairn-img", "resize", "-q", "-f" };
	char path[PATH_MAX], size[24];
	size_t n = 4;
	int r = image_look(w, dir, w->name, false, &look, e);

	if (r < 0)
		return r;
	if (w->capacity_bytes < look.capacity_bytes && !w->shrink)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: %" PRIu64 " bytes is less than the volume has, whose end would be lost; give --shrink if that is meant",
			w->name, w->capacity_bytes);
	path_put(path, w, w->name);
	snprintf(size, sizeof(size), "%" PRIu64, w->capacity_bytes);
	args[n++] = volume_format_name(look.format);
	if (w->capacity_bytes < look.capacity_bytes)
		args[n++] = "--shrink";
	args[n++] = "--";
	args[n++] = path;
	args[n] = size;
	return img_run(w, args, e);
}

int volume_work_run(const void *arg, struct fork_as_result *out, struct err *e)
{
	const struct volume_work *w = arg;
	int dir = folder_open(w->folder, e), r = dir;

	if (dir < 0)
		return r;
	switch (w->act) {
	case VOLUME_LIST: r = list_run(w, dir, out, e); break;
	case VOLUME_CREATE: r = create_run(w, dir, e); break;
	case VOLUME_CLONE: r = clone_run(w, dir, e); break;
	case VOLUME_RESIZE: r = resize_run(w, dir, e); break;
	case VOLUME_DELETE: r = delete_run(w, dir, e); break;
	}
	close(dir);
	return r;
}

/* ---- calls ---- */

/* Work under way for a call. */
struct volume_call {
	struct volume_call *next; /* in host->volume_calls */
	struct call *call;
	struct volume_work work;
	struct fork_as *process;
	void (*done)(struct call *c, const struct volume_work *w, int r, const struct fork_as_result *res, const struct err *e);
};

static void work_done(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct volume_call *v = opaque, **at = &v->call->host->volume_calls;

	while (*at != v)
		at = &(*at)->next;
	*at = v->next;
	v->done(v->call, &v->work, r, res, e);
	free(v);
}

int pool_volumes_begin(struct call *c, const struct volume_work *w,
	void (*done)(struct call *c, const struct volume_work *w, int r, const struct fork_as_result *res, const struct err *e), struct err *e)
{
	bool is_short = w->act == VOLUME_LIST || w->act == VOLUME_DELETE;
	struct fork_as_spec s = { .of_client = true, .run = volume_work_run, .arg = w, .who = "who sent the command", .what = "working on the pool's files",
		.timeout_ns = is_short ? LIST_TIMEOUT_NS : FORK_AS_NO_TIMEOUT, .done = work_done };
	CLEANUP_FREE struct rights *rights = NULL;
	struct volume_call *v;
	int r = rights_of_peer(&c->who, &rights, e);

	if (r < 0)
		return r;
	v = must_alloc(calloc(1, sizeof(*v)));
	*v = (struct volume_call){ .call = c, .work = *w, .done = done };
	s.rights = rights;
	s.opaque = v;
	r = fork_as_begin(c->host->helpers, &s, &v->process, e);
	if (r < 0) {
		free(v);
		return r;
	}
	v->next = c->host->volume_calls;
	c->host->volume_calls = v;
	return 0;
}

void pool_volumes_free(struct vm_host *host)
{
	struct err e;

	while (host->volume_calls) {
		struct volume_call *v = host->volume_calls;

		host->volume_calls = v->next;
		err_set(&e, -ECANCELED, ERR_CANCELLED, "the daemon ends; a volume that is being made or changed is finished without it");
		call_fail(v->call, &e);
		free(v);
	}
}
