#include "api/jobs/pool_volumes.h"
#include "api/access/fork_as.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/jobs/volume_img.h"
#include "api/schema/call.h"
#include "api/store/paths.h"
#include "api/vm/vm.h"
#include "api/wire/close_async.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/fd_send.h"
#include "base/file.h"
#include "base/pin_name.h"
#include "base/utf8.h"
#include "base/util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Names that are kept at once, of a folder with any number of files. */
#define NAMES_MAX 64
#define LIST_TIMEOUT_NS (60 * 1000000000ULL)
/* Fields of a qcow2 header (docs/qcow2.md). */
#define QCOW2_MAGIC 0x514649fbU
#define QCOW2_HEADER_BYTES 32
#define QCOW2_V3_HEADER_BYTES 104
#define QCOW2_INCOMPATIBLE_AT 72
#define QCOW2_DATA_FILE 4 /* incompatible feature */
#define QCOW2_EXTENSIONS_MAX 32 /* that are looked at */
#define QCOW2_EXTENSION_DATA_FILE 0x44415441U
#define QCOW2_CLUSTER_BITS_MAX 21

bool volume_name_is_valid(const char *name)
{
	return *name && *name != '.' && *name != '-' && !strchr(name, '/') && strlen(name) <= NAME_MAX && utf8_is_clean(name);
}

const char *volume_format_name(enum volume_format f)
{
	return f == VOLUME_QCOW2 ? "qcow2" : f == VOLUME_RAW ? "raw" : NULL;
}

/* Return whether the work is a job's (volume_job.h): it makes a volume. */
static bool volume_work_is_job(const struct volume_work *w)
{
	return w->act == VOLUME_CREATE || w->act == VOLUME_CLONE;
}

/* ---- looking; this and all below up to "calls" runs in the process, without malloc() ---- */

/* Known facts about a volume. */
struct look {
	enum volume_format format;
	uint64_t capacity_bytes, allocation_bytes;
	size_t nbacking;
	char backing[VOLUME_BACKING_MAX + 1];
	char data[VOLUME_BACKING_MAX + 1]; /* name of the external data file; "": none */
	struct stat st;
};

static int folder_open(const char *path, struct err *e)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? err_set_errno(e, -errno, "folder %.300s", path) : fd;
}

/* Find the name of the external data file among the header's extensions, which end with the first cluster. */
static void qcow2_probe_data(int fd, struct look *l)
{
	uint8_t header[QCOW2_V3_HEADER_BYTES], head[8];
	uint64_t at, end;

	if (pread_full(fd, header, sizeof(header), 0) || load_be32(header + 4) < 3 ||
		!(load_be64(header + QCOW2_INCOMPATIBLE_AT) & QCOW2_DATA_FILE))
		return;
	at = load_be32(header + 100);
	end = 1ULL << MIN(load_be32(header + 20), QCOW2_CLUSTER_BITS_MAX);
	for (unsigned i = 0; i < QCOW2_EXTENSIONS_MAX && at < end && !pread_full(fd, head, sizeof(head), (off_t)at); i++) {
		uint32_t type = load_be32(head), size = load_be32(head + 4);

		at += sizeof(head);
		if (type == QCOW2_EXTENSION_DATA_FILE && size <= VOLUME_BACKING_MAX)
			(void)!pread_full(fd, l->data, size, (off_t)at);
		if (!type || type == QCOW2_EXTENSION_DATA_FILE)
			return;
		at += ROUND_UP((uint64_t)size, 8);
	}
}

static void qcow2_probe(int fd, const uint8_t header[QCOW2_HEADER_BYTES], struct look *l)
{
	uint64_t offset = load_be64(header + 8);
	uint32_t size = load_be32(header + 16);

	l->format = VOLUME_QCOW2;
	l->capacity_bytes = MIN(load_be64(header + 24), (uint64_t)INT64_MAX); /* 8 EiB, in JSON a number of 64 bits with its sign */
	if (offset && size && size <= VOLUME_BACKING_MAX && offset <= INT64_MAX && !pread_full(fd, l->backing, size, (off_t)offset))
		l->nbacking = strlen(l->backing);
	l->backing[l->nbacking] = 0;
	qcow2_probe_data(fd, l);
}

static int irregular(const char *name, struct err *e)
{
	return err_set(e, -EINVAL, ERR_INVALID, "volume %.300s is no regular file", name);
}

/* Look at a file. A file that may not be opened has no format.
 * flags: of open(): O_RDONLY or O_RDWR; with O_NOFOLLOW, a symbolic link is no regular file.
 * ret_fd: gets the open file, which the caller closes; -1: it may not be opened. NULL: close it.
 * Returns 0; -EINVAL: it is no regular file; -errno. */
static int file_probe(int dir, const char *name, int flags, struct look *l, int *ret_fd, struct err *e)
{
	uint8_t header[QCOW2_HEADER_BYTES];
	CLEANUP_CLOSE int fd = -1;

	memset(l, 0, sizeof(*l));
	if (ret_fd)
		*ret_fd = -1;
	if (fstatat(dir, name, &l->st, flags & O_NOFOLLOW ? AT_SYMLINK_NOFOLLOW : 0) < 0)
		return err_set_errno(e, -errno, "volume %.300s", name);
	if (!S_ISREG(l->st.st_mode))
		return irregular(name, e);
	/* O_NONBLOCK: the name may be a FIFO's now. */
	fd = openat(dir, name, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return 0;
	if (fstat(fd, &l->st) < 0 || !S_ISREG(l->st.st_mode))
		return irregular(name, e);
	l->format = VOLUME_RAW;
	l->capacity_bytes = (uint64_t)l->st.st_size;
	l->allocation_bytes = (uint64_t)l->st.st_blocks * 512;
	if (l->st.st_size >= QCOW2_HEADER_BYTES && !pread_full(fd, header, sizeof(header), 0) && load_be32(header) == QCOW2_MAGIC)
		qcow2_probe(fd, header, l);
	if (ret_fd)
		*ret_fd = steal_fd(&fd);
	return 0;
}

static int volume_probe(int dir, const char *name, struct look *l, struct err *e)
{
	return file_probe(dir, name, O_RDONLY | O_NOFOLLOW, l, NULL, e);
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

/* Get the first names of regular files behind `after`. volumes: only those that volumes may have: no hidden ones and
 * none that JSON cannot have. Returns 0 or -errno. */
static int names_get(int dir, const char *after, bool volumes, struct names *s, struct err *e)
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
			if ((!volumes || (d->d_name[0] != '.' && utf8_is_clean(d->d_name))) && strcmp(d->d_name, after) > 0 &&
				is_file(dir, d->d_name, d->d_type))
				name_insert(s, d->d_name);
		}
	}
	return n < 0 ? err_set_errno(e, -errno, "the pool's folder") : 0;
}

/* ---- list ---- */

/* Head of an entry in the data. UUIDs of VMs follow, then the names of volume and backing file, each with a NUL. */
struct entry_head {
	uint64_t capacity_bytes, allocation_bytes, file_bytes;
	uint8_t format, used_format, nvms;
};

static bool entry_put(char *data, size_t *used, const struct volume_users *u, const struct volume_id *id, const struct look *l)
{
	struct entry_head head = { l->capacity_bytes, l->allocation_bytes, (uint64_t)l->st.st_size, (uint8_t)l->format,
		(uint8_t)volume_users_format(u, id), 0 };
	size_t name_bytes = strlen(id->name) + 1, at = 0;
	uint8_t vms[VOLUME_VMS_MAX][16];
	char *to = data + *used;
	const struct vm *vm;

	while (head.nvms < VOLUME_VMS_MAX && (vm = volume_users_next(u, id, true, &at)))
		memcpy(vms[head.nvms++], vm->def->uuid, sizeof(vms[0]));
	if (*used + sizeof(head) + head.nvms * sizeof(vms[0]) + name_bytes + l->nbacking + 1 > FORK_AS_DATA_MAX)
		return false;
	to = mempcpy(to, &head, sizeof(head));
	to = mempcpy(to, vms, head.nvms * sizeof(vms[0]));
	to = mempcpy(to, id->name, name_bytes);
	to = mempcpy(to, l->backing, l->nbacking + 1);
	*used = (size_t)(to - data);
	return true;
}

static int list_run(const struct volume_work *w, int dir, struct fork_as_result *out, struct err *e)
{
	static char data[FORK_AS_DATA_MAX];
	static struct names names;
	static struct look look;
	struct volume_users users;
	char after[NAME_MAX + 1];
	int r = volume_users_find(w->host, !w->no_look, &users, e);

	if (r < 0)
		return r;
	out->sizes[0] = !w->no_look && users.looked < users.n;
	memcpy(after, w->name, sizeof(after));
	do { /* once, unless all these files are gone meanwhile */
		r = names_get(dir, after, true, &names, e);
		out->count = names.more;
		for (unsigned i = 0; !r && i < names.n; i++) {
			struct volume_id id = { w->folder, after, &look.st };

			memcpy(after, names.list[i], sizeof(after));
			if (volume_probe(dir, after, &look, NULL) < 0)
				continue;
			if (!entry_put(data, &out->ndata, &users, &id, &look)) {
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
	const char *name, *end = *data + *left, *backing, *last;
	size_t vms_bytes;

	if (*left < sizeof(head))
		return false;
	memcpy(&head, *data, sizeof(head));
	vms_bytes = head.nvms * sizeof(ret->vms[0]);
	if (head.nvms > VOLUME_VMS_MAX || *left - sizeof(head) < vms_bytes)
		return false;
	memcpy(ret->vms, *data + sizeof(head), vms_bytes);
	name = *data + sizeof(head) + vms_bytes;
	backing = memchr(name, 0, (size_t)(end - name));
	last = backing ? memchr(backing + 1, 0, (size_t)(end - backing - 1)) : NULL;
	if (!last)
		return false;
	backing++;
	ret->nvms = head.nvms;
	ret->used_format = (enum volume_format)head.used_format;
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
	struct volume_id id = { w->folder, w->name, st };
	struct volume_users users;
	const struct vm *vm;
	size_t at = 0;
	int r = volume_users_find(w->host, true, &users, e);

	if (r < 0)
		return r;
	vm = volume_users_next(&users, &id, false, &at);
	if (!vm)
		return volume_users_check(&users, e);
	return err_set(e, -EBUSY, ERR_BUSY, "%.300s/%.255s is an image of VM '%.255s'; detach the disk or undefine the VM first", w->folder, w->name,
		vm->def->name);
}

/* Return the path in the name of a backing or data file, which may begin with a protocol of QEMU's or Cairn's; NULL:
 * the name is JSON. name: changed. */
static const char *named_path(char *name)
{
	uint8_t id[PIN_NAME_ID_BYTES];
	size_t bytes;

	if (pin_name_parse(name, &bytes, id)) {
		name[PIN_NAME_PATH_AT + bytes] = 0;
		return name + PIN_NAME_PATH_AT;
	}
	if (!strncmp(name, "json:", strlen("json:")))
		return NULL;
	return strncmp(name, "file:", strlen("file:")) ? name : name + strlen("file:");
}

/* Check that the name of an image's backing or data file is not the file's. name: changed; "": it has none.
 * what: "backing" or "data". */
static int name_check(const struct volume_work *w, int dir, const struct stat *file, const char *image, char *name, const char *what,
	struct err *e)
{
	const char *path = named_path(name);
	struct stat st;

	if (!path)
		return err_set(e, -EBUSY, ERR_BUSY, "%.255s names its %s file in JSON, which may be %.255s; delete that first, or give it a "
			"plain name: %s", image, what, w->name, *what == 'b' ? "qemu-img rebase -u" : "qemu-img amend -o data_file=NAME");
	if (!*path || fstatat(dir, path, &st, 0) < 0 || st.st_dev != file->st_dev || st.st_ino != file->st_ino)
		return 0;
	return err_set(e, -EBUSY, ERR_BUSY, "%s/%s is the %s file of %s; delete that first", w->folder, w->name, what, image);
}

/* Check a volume that may not be read. Only if others may read the file can it be a volume of theirs that needs it. */
static int unread_check(const struct volume_work *w, const struct stat *file, const char *image, struct err *e)
{
	if (!(file->st_mode & (S_IRWXG | S_IRWXO)))
		return 0;
	return err_set(e, -EBUSY, ERR_BUSY, "%s/%.255s can be read by other users, and may be the backing file of %.255s, which you may not read; if it is not, first "
		"take their rights away with: chmod go= FILE", w->folder, w->name, image);
}

/* Check that no other image in the folder has the file as its backing or data file. Returns 0; -EBUSY; -errno. */
static int overlays_check(const struct volume_work *w, int dir, const struct stat *file, struct err *e)
{
	static struct names names;
	static struct look look;
	char after[NAME_MAX + 1] = "";
	int r;

	do {
		r = names_get(dir, after, false, &names, e);
		for (unsigned i = 0; !r && i < names.n; i++) {
			char *image = names.list[i];

			memcpy(after, image, sizeof(after));
			if (!strcmp(image, w->name) || volume_probe(dir, image, &look, NULL) < 0)
				continue;
			utf8_clean(image); /* for errors */
			r = look.format == VOLUME_NO_FORMAT ? unread_check(w, file, image, e) : 0;
			if (!r)
				r = name_check(w, dir, file, image, look.backing, "backing", e);
			if (!r)
				r = name_check(w, dir, file, image, look.data, "data", e);
		}
	} while (!r && names.more);
	return r;
}

static int delete_run(const struct volume_work *w, int dir, struct err *e)
{
	static struct look look;
	int r = volume_probe(dir, w->name, &look, e);

	if (!r)
		r = vms_check(w, &look.st, e);
	if (!r)
		r = overlays_check(w, dir, &look.st, e);
	if (!r && volume_is_open(dir, w->name))
		r = err_set(e, -EBUSY, ERR_BUSY, "%s/%s is in use by " VOLUME_OPEN_BY, w->folder, w->name);
	if (!r && unlinkat(dir, w->name, 0) < 0)
		r = err_set_errno(e, -errno, "%s/%s", w->folder, w->name);
	return r;
}

/* ---- work of cairn-img ---- */

/* Tell the daemon, which reads the file of progress, how many bytes the work has. */
static void total_write(int progress, uint64_t bytes)
{
	(void)!pwrite(progress, &bytes, sizeof(bytes), VOLUME_PROGRESS_TOTAL_AT);
}

static int file_name(const struct volume_work *w, int dir, const char *name, struct err *e)
{
	struct stat st;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		errno = EEXIST;
	else if (errno == ENOENT)
		return 0;
	return err_set_errno(e, -errno, "%s/%s", w->folder, name);
}

/* Let cairn-img fill a new file, which gets its name when it is complete. On a file system that cannot make a file
 * without a name, it has the name from the beginning. No other file is overwritten.
 * v: lacks the file. path: of the new file in the command line. */
static int volume_make(const struct volume_work *w, int dir, const char *name, struct volume_img *v, const char *path, struct err *e)
{
	int r = file_name(w, dir, name, e);
	CLEANUP_CLOSE int fd = r < 0 ? -1 : openat(dir, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	bool named = !r && fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL || errno == ENOENT);
	char own[40];

	if (named)
		fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (!r && fd < 0)
		r = err_set_errno(e, -errno, "%s/%s", w->folder, name);
	if (r < 0)
		return r;
	volume_img_add_file(v, fd, path);
	r = volume_img_run(v, e);
	snprintf(own, sizeof(own), "/proc/self/fd/%d", fd);
	/* A volume whose job has succeeded survives a power cut. */
	if (!r && (fsync(fd) < 0 || (!named && linkat(AT_FDCWD, own, dir, name, AT_SYMLINK_FOLLOW) < 0) || fsync(dir) < 0))
		r = err_set_errno(e, -errno, "%s/%s", w->folder, name);
	if (r < 0 && named)
		unlinkat(dir, name, 0);
	return r;
}

static void path_put(char path[PATH_MAX], const struct volume_work *w, const char *name)
{
	snprintf(path, PATH_MAX, "%s/%s", w->folder, name);
}

/* Check that no VM needs the volume as it is. Returns 0; -EBUSY. */
static int frozen_check(const struct volume_work *w, const struct volume_users *users, const struct volume_id *id, struct err *e)
{
	const struct vm *vm = volume_users_frozen(users, id);

	if (!vm)
		return 0;
	if (vm_has(vm, VM_FACT_TEMPLATE))
		return err_set(e, -EBUSY, ERR_BUSY, "%.300s/%.255s is an image of the template '%.255s'; clone it, and change the clone's image", w->folder,
			w->name, vm->def->name);
	if (vm->state == VM_SAVED)
		return err_set(e, -EBUSY, ERR_BUSY, "%.300s/%.255s is an image of VM '%.255s', whose saved state needs it as it is; start the VM and shut "
			"it down, or drop the state: cairn managedsave-remove %.255s", w->folder, w->name, vm->def->name, vm->def->name);
	return err_set(e, -EBUSY, ERR_BUSY, "%.300s/%.255s is a backing file of VM '%.255s', so it must not change; make the VM's disk independent "
		"with cairn blockpull first", w->folder, w->name, vm->def->name);
}

/* Open an image and look at it. A guest that has a raw image can write a header into it that names any file of the host
 * as its backing file, so the header of an image that VMs use does not count. Nothing that a VM needs as it is opens
 * for writing. flags, ret_fd: as of file_probe(). */
static int image_open(const struct volume_work *w, int dir, const char *name, int flags, struct look *l, int *ret_fd, struct err *e)
{
	struct volume_id id = { w->folder, name, &l->st };
	struct volume_users users;
	enum volume_format used;
	int r = file_probe(dir, name, flags, l, ret_fd, e);

	if (!r && *ret_fd < 0)
		r = err_set_errno(e, -EACCES, "%s%s%s", *name == '/' ? "" : w->folder, *name == '/' ? "" : "/", name);
	if (!r)
		r = volume_users_find(w->host, true, &users, e);
	if (!r && (flags & O_ACCMODE) == O_RDWR)
		r = frozen_check(w, &users, &id, e);
	if (r < 0)
		return r;
	used = volume_users_format(&users, &id);
	if (used == VOLUME_NO_FORMAT)
		return volume_users_check(&users, e);
	if (used != l->format) {
		l->format = used;
		l->capacity_bytes = (uint64_t)l->st.st_size;
	}
	return 0;
}

static int create_run(const struct volume_work *w, int dir, int progress, struct err *e)
{
	static struct volume_img v;
	static struct look look;
	CLEANUP_CLOSE int backing = -1;
	char path[PATH_MAX], size[24], option[40];
	int r = w->backing[0] ? image_open(w, dir, w->backing, O_RDONLY | (w->backing_is_volume ? O_NOFOLLOW : 0), &look, &backing, e) : 0;

	if (r < 0)
		return r;
	total_write(progress, w->capacity_bytes);
	volume_img_begin(&v, w->host->paths->img_program, "create", progress);
	volume_img_add(&v, "-f");
	volume_img_add(&v, volume_format_name(w->format));
	if (w->backing[0]) {
		volume_img_add(&v, "-b");
		volume_img_add(&v, w->backing);
		volume_img_add(&v, "-F");
		volume_img_add(&v, volume_format_name(w->backing_format == VOLUME_NO_FORMAT ? look.format : w->backing_format));
		volume_img_add_file(&v, backing, w->backing);
	}
	if (w->preallocation) {
		snprintf(option, sizeof(option), "preallocation=%s", w->preallocation);
		volume_img_add(&v, "-o");
		volume_img_add(&v, option);
	}
	path_put(path, w, w->name);
	snprintf(size, sizeof(size), "%" PRIu64, w->capacity_bytes);
	volume_img_names(&v, path, size);
	return volume_make(w, dir, w->name, &v, path, e);
}

static int clone_run(const struct volume_work *w, int dir, int progress, struct err *e)
{
	static struct volume_img v;
	static struct look look;
	CLEANUP_CLOSE int source = -1;
	char from[PATH_MAX], to[PATH_MAX];
	int r = image_open(w, dir, w->name, O_RDONLY | O_NOFOLLOW, &look, &source, e);

	if (r < 0)
		return r;
	total_write(progress, look.capacity_bytes);
	path_put(from, w, w->name);
	path_put(to, w, w->copy);
	volume_img_begin(&v, w->host->paths->img_program, "convert", progress);
	volume_img_add(&v, "-f");
	volume_img_add(&v, volume_format_name(look.format));
	volume_img_add(&v, "-O");
	volume_img_add(&v, volume_format_name(look.format));
	volume_img_add_file(&v, source, from);
	volume_img_names(&v, from, to);
	return volume_make(w, dir, w->copy, &v, to, e);
}

static int resize_run(const struct volume_work *w, int dir, struct err *e)
{
	static struct volume_img v;
	static struct look look;
	CLEANUP_CLOSE int fd = -1;
	char path[PATH_MAX], size[24];
	int r = image_open(w, dir, w->name, O_RDWR | O_NOFOLLOW, &look, &fd, e);

	if (r < 0)
		return r;
	if (w->capacity_bytes < look.capacity_bytes && !w->shrink)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: %" PRIu64 " bytes is less than the present size, so the data at the end would be lost; give --shrink to allow that",
			w->name, w->capacity_bytes);
	if (w->capacity_bytes < look.capacity_bytes) /* an overlay would lose what it reads behind the end */
		r = overlays_check(w, dir, &look.st, e);
	if (r < 0)
		return r;
	path_put(path, w, w->name);
	snprintf(size, sizeof(size), "%" PRIu64, w->capacity_bytes);
	volume_img_begin(&v, w->host->paths->img_program, "resize", -1);
	volume_img_add(&v, "-f");
	volume_img_add(&v, volume_format_name(look.format));
	if (w->capacity_bytes < look.capacity_bytes)
		volume_img_add(&v, "--shrink");
	volume_img_add_file(&v, fd, path);
	volume_img_names(&v, path, size);
	return volume_img_run(&v, e);
}

/* Open a volume for writing, too, if nothing needs its content as it is. The client locks the file before it copies:
 * the lock is the open file's. */
static int open_run(const struct volume_work *w, int dir, struct fork_as_result *out, struct err *e)
{
	static struct look look;
	static struct err why;
	int fd = -1, r = image_open(w, dir, w->name, O_RDWR | O_NOFOLLOW, &look, &fd, &why);

	if (!r)
		r = overlays_check(w, dir, &look.st, &why);
	if (r < 0) {
		if (fd >= 0)
			close(fd);
		r = image_open(w, dir, w->name, O_RDONLY | O_NOFOLLOW, &look, &fd, e);
		out->data = why.msg;
		out->ndata = strlen(why.msg);
	}
	if (!r && fd_send(out->input, "", 1, fd, 0) < 0)
		r = err_set_errno(e, -errno, "volume %s", w->name);
	return r;
}

int volume_work_run(const void *arg, struct fork_as_result *out, struct err *e)
{
	const struct volume_work *w = arg;
	int dir, r;

	/* A new volume is finished also if the daemon ends meanwhile. The name keeps a daemon that takes over from
	 * killing the process. */
	if (volume_work_is_job(w) && (prctl(PR_SET_PDEATHSIG, 0) < 0 || prctl(PR_SET_NAME, "cairnd-files") < 0))
		return err_set_errno(e, -errno, "prctl");
	r = dir = folder_open(w->folder, e);
	if (dir < 0)
		return r;
	switch (w->act) {
	case VOLUME_LIST: r = list_run(w, dir, out, e); break;
	case VOLUME_CREATE: r = create_run(w, dir, out->input, e); break;
	case VOLUME_CLONE: r = clone_run(w, dir, out->input, e); break;
	case VOLUME_RESIZE: r = resize_run(w, dir, e); break;
	case VOLUME_DELETE: r = delete_run(w, dir, e); break;
	case VOLUME_OPEN: r = open_run(w, dir, out, e); break;
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

/* The daemon does not receive the file of VOLUME_OPEN: close() would wait for a user's file system. */
static int carrier_begin(struct volume_call *v, struct fork_as_spec *s, int *ret_theirs, struct err *e)
{
	int pair[2];

	v->work.carrier = -1;
	if (v->work.act != VOLUME_OPEN)
		return 0;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_set_errno(e, -errno, "%s", s->what);
	v->work.carrier = pair[0];
	s->input = *ret_theirs = pair[1];
	return 0;
}

static void call_free(struct volume_call *v, struct closer *closer)
{
	if (v->work.carrier >= 0)
		closer_drop(closer, v->work.carrier);
	free(v);
}

static void work_done(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct volume_call *v = opaque, **at = &v->call->host->volume_calls;
	struct closer *closer = v->call->host->closer;

	while (*at != v)
		at = &(*at)->next;
	*at = v->next;
	v->done(v->call, &v->work, r, res, e);
	if (r < 0)
		call_free(v, closer);
	else
		free(v);
}

int pool_volumes_begin(struct call *c, const struct volume_work *w,
	void (*done)(struct call *c, const struct volume_work *w, int r, const struct fork_as_result *res, const struct err *e), struct err *e)
{
	struct fork_as_spec s = { .of_client = true, .run = volume_work_run, .arg = w, .who = "who sent the command", .what = "working on the pool's files",
		.timeout_ns = w->act == VOLUME_RESIZE ? FORK_AS_NO_TIMEOUT : LIST_TIMEOUT_NS, .done = work_done };
	CLEANUP_FREE struct rights *rights = NULL;
	CLEANUP_CLOSE int theirs = -1;
	struct volume_call *v;
	int r = rights_of_peer(&c->who, &rights, e);

	if (r < 0)
		return r;
	v = must_alloc(calloc(1, sizeof(*v)));
	*v = (struct volume_call){ .call = c, .work = *w, .done = done };
	s.rights = rights;
	s.opaque = v;
	r = carrier_begin(v, &s, &theirs, e);
	if (!r)
		r = fork_as_begin(c->host->helpers, &s, &v->process, e);
	if (r < 0) {
		call_free(v, c->host->closer);
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
		err_set(&e, -ECANCELED, ERR_CANCELLED, "the daemon ends; a change of a volume that is under way is finished without it");
		call_fail(v->call, &e);
		call_free(v, host->closer);
	}
}
