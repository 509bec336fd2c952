#include "tools/cairn/kept_layer.h"
#include "api/store/paths.h"
#include "api/wire/json.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/hex.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "base/uuid.h"
#include "tools/cairn/helper.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SUFFIX ".img"
#define WORK ".cairn-" /* a file that is being made, on a file system without O_TMPFILE */
#define NAME_LENGTH 60
#define CAPACITY_BYTES (16 * GIB)
#define SAID_MAX 4096
/* ext4's superblock (Documentation/filesystems/ext4/super.rst). */
#define SUPER_MAGIC (1024 + 0x38)
#define SUPER_UUID (1024 + 0x68)
#define EXT4_MAGIC 0xef53
/* Features that each kernel with ext4 has. */
#define FEATURES                                                                                                       \
	"none,has_journal,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super,large_file,huge_file,uninit_bg,"     \
	"dir_nlink,extra_isize"

static int name_check(const char *name, struct err *e)
{
	size_t n = 0;

	while (isalnum((unsigned char)name[n]) || (n && name[n] && strchr("._-", name[n])))
		n++;
	return n && !name[n] && n <= NAME_LENGTH ? 0 :
		err_set(e, -EINVAL, ERR_INVALID, "the name of a layer has up to %d letters, digits, dots, hyphens and underscores, and begins with a letter or a digit",
			NAME_LENGTH);
}

static int folder_path(char ret[PATH_MAX], struct err *e)
{
	return paths_data("layers", ret, PATH_MAX, e);
}

static int layer_path(const char *name, char ret[PATH_MAX], struct err *e)
{
	char folder[PATH_MAX];
	int r = name_check(name, e);

	if (!r)
		r = folder_path(folder, e);
	if (!r && snprintf(ret, PATH_MAX, "%s/%s" SUFFIX, folder, name) >= PATH_MAX)
		r = err_set_errno(e, -ENAMETOOLONG, "the layer %s", name);
	return r;
}

/* ---- making ---- */

static int mke2fs_spawn(int image, int out, const uint8_t id[UUID_BYTES], pid_t *ret_pid)
{
	static const char *const programs[] = { "mke2fs", "/usr/sbin/mke2fs", "/sbin/mke2fs" };
	char uuid[UUID_TEXT];
	char *const argv[] = { (char *)"mke2fs", (char *)"-q", (char *)"-F", (char *)"-t", (char *)"ext4", (char *)"-O", (char *)FEATURES, (char *)"-m",
		(char *)"0", (char *)"-U", uuid, (char *)"-E", (char *)"lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0",
		(char *)"/proc/self/fd/3", NULL };
	posix_spawn_file_actions_t files;
	int r = ENOENT;

	uuid_print(id, uuid);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_adddup2(&files, out, 1);
	posix_spawn_file_actions_adddup2(&files, out, 2);
	posix_spawn_file_actions_adddup2(&files, image, 3);
	for (size_t i = 0; i < ARRAY_SIZE(programs) && r == ENOENT; i++)
		r = posix_spawnp(ret_pid, programs[i], &files, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&files);
	return -r;
}

static int image_format(int image, const uint8_t id[UUID_BYTES], struct err *e)
{
	CLEANUP_CLOSE int out = memfd_create("mke2fs", MFD_CLOEXEC);
	CLEANUP_FREE char *said = NULL;
	int r, status;
	size_t len;
	pid_t pid;

	if (out < 0 || ftruncate(image, CAPACITY_BYTES) < 0)
		return err_set_errno(e, -errno, "cannot make a file for the layer");
	r = mke2fs_spawn(image, out, id, &pid);
	if (r == -ENOENT)
		return err_set(e, r, ERR_HOST, "the program mke2fs is missing; install the package e2fsprogs");
	if (r < 0)
		return err_set_errno(e, r, "mke2fs");
	r = helper_wait("mke2fs", pid, &status, e);
	if (r < 0 || (WIFEXITED(status) && !WEXITSTATUS(status)))
		return r;
	lseek(out, 0, SEEK_SET);
	if (file_read_fd(out, "mke2fs", SAID_MAX, &said, &len, e) == 0)
		said[strcspn(said, "\n")] = 0;
	return err_set(e, -EIO, ERR_IO, "cannot make a file system for the layer: %.200s", said && *said ? said : "mke2fs failed without a message");
}

/* Remove the files of makers that were killed, and make another one. ret_name: "": it has none. */
static int work_open(int folder, char ret_name[32])
{
	int copy = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd;
	DIR *d = copy < 0 ? NULL : fdopendir(copy);
	struct dirent *entry;

	while (d && (entry = readdir(d))) {
		CLEANUP_CLOSE int old = !strncmp(entry->d_name, WORK, strlen(WORK)) ? openat(folder, entry->d_name, O_RDWR | O_NOFOLLOW | O_CLOEXEC) : -1;

		if (old >= 0 && flock(old, LOCK_EX | LOCK_NB) == 0)
			unlinkat(folder, entry->d_name, 0);
	}
	if (d)
		closedir(d);
	ret_name[0] = 0;
	fd = openat(folder, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
		return fd < 0 ? -errno : fd;
	snprintf(ret_name, 32, WORK "%d", getpid());
	fd = openat(folder, ret_name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd >= 0)
		flock(fd, LOCK_EX);
	return fd < 0 ? -errno : fd;
}

/* Make a layer, unless another run is quicker. */
static int layer_make(const char *path, const uint8_t id[UUID_BYTES], struct err *e)
{
	char folder[PATH_MAX], work[32], proc[32];
	CLEANUP_CLOSE int dir = -1, fd = -1;
	int r = folder_path(folder, e);

	if (!r)
		r = mkdir_all(folder, 0700, e);
	if (r < 0)
		return r;
	dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	fd = dir < 0 ? -errno : work_open(dir, work);
	if (fd < 0)
		return err_set_errno(e, fd, "cannot make a file in %s", folder);
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	r = image_format(fd, id, e);
	if (!r && (work[0] ? linkat(dir, work, AT_FDCWD, path, 0) : linkat(AT_FDCWD, proc, AT_FDCWD, path, AT_SYMLINK_FOLLOW)) < 0 && errno != EEXIST)
		r = err_set_errno(e, -errno, "%s", path);
	if (work[0])
		unlinkat(dir, work, 0);
	return r;
}

/* ---- opening ---- */

static bool id_read(int fd, uint8_t ret[UUID_BYTES])
{
	uint8_t magic[2];

	return pread_full(fd, magic, sizeof(magic), SUPER_MAGIC) == 0 && load_le16(magic) == EXT4_MAGIC && pread_full(fd, ret, UUID_BYTES, SUPER_UUID) == 0;
}

/* Returns 0; 1: it is missing; -errno with a sentence. */
static int layer_lock(const char *name, const char *path, const uint8_t id[UUID_BYTES], int *ret_lock, struct err *e)
{
	CLEANUP_CLOSE int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	char uuid[UUID_TEXT];
	uint8_t own[UUID_BYTES];
	struct stat st;

	if (fd < 0)
		return errno == ENOENT ? 1 : err_set_errno(e, -errno, "%s", path);
	if (file_lock(fd) == -EBUSY)
		return err_set(e, -EBUSY, ERR_BUSY, "another run has the layer %s; end it, or take another name for --keep", name);
	if (fstat(fd, &st) < 0 || !st.st_nlink)
		return 1;
	if (!S_ISREG(st.st_mode) || !id_read(fd, own))
		return err_set(e, -EINVAL, ERR_CORRUPT, "%s is no layer; remove the file", path);
	uuid_print(own, uuid);
	if (memcmp(own, id, UUID_BYTES) != 0)
		return err_set(e, -EINVAL, ERR_INVALID, "the layer %s is of another image, whose digest begins with %.8s; take another name for --keep, or remove the "
			"layer with cairn image-remove --kept %s", name, uuid, shell_word(name).s);
	futimens(fd, (struct timespec[]){ { .tv_nsec = UTIME_OMIT }, { .tv_nsec = UTIME_NOW } });
	*ret_lock = steal_fd(&fd);
	return 0;
}

int kept_layer_open(const char *name, const char *digest, char ret_path[PATH_MAX], int *ret_lock, struct err *e)
{
	const char *digits = strncmp(digest, "sha256:", 7) ? digest : digest + 7;
	char half[2 * UUID_BYTES + 1];
	uint8_t id[UUID_BYTES];
	int r = layer_path(name, ret_path, e);

	snprintf(half, sizeof(half), "%s", digits);
	if (!r && !hex_parse(half, id, sizeof(id)))
		r = err_set(e, -EINVAL, ERR_GENERIC, "the image has no digest");
	for (unsigned i = 0; !r && i < 3; i++) {
		r = layer_lock(name, ret_path, id, ret_lock, e);
		if (r <= 0)
			return r;
		r = layer_make(ret_path, id, e);
	}
	return r < 0 ? r : err_set(e, -EBUSY, ERR_BUSY, "another process removes the layer %s again and again; end it", name);
}

/* ---- all layers ---- */

static void layer_list(const char *folder, const char *name, size_t len, struct json_object *list)
{
	char path[PATH_MAX], hex[2 * UUID_BYTES + 8] = "sha256:";
	uint8_t id[UUID_BYTES];
	CLEANUP_CLOSE int fd = -1;
	struct json_object *o;
	struct stat st;

	if (snprintf(path, sizeof(path), "%s/%s", folder, name) >= (int)sizeof(path))
		return;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || !id_read(fd, id))
		return;
	hex_print(id, UUID_BYTES, hex + 7);
	o = json_object_new_object();
	json_object_object_add(o, "name", json_object_new_string_len(name, (int)len));
	js_put_str(o, "digest", hex);
	js_put_int(o, "size", (int64_t)st.st_blocks * 512);
	js_put_int(o, "capacity", (int64_t)st.st_size);
	js_put_int(o, "used", st.st_mtim.tv_sec);
	js_put_bool(o, "in_use", file_lock(fd) == -EBUSY);
	js_put_str(o, "path", path);
	json_object_array_add(list, o);
}

int kept_layers_list(struct json_object **ret, struct err *e)
{
	char folder[PATH_MAX];
	struct dirent *entry;
	int r = folder_path(folder, e);
	DIR *d;

	if (r < 0)
		return r;
	*ret = json_object_new_array();
	d = opendir(folder);
	while (d && (entry = readdir(d))) {
		size_t len = strlen(entry->d_name), suffix = strlen(SUFFIX);

		if (entry->d_name[0] != '.' && len > suffix && !strcmp(entry->d_name + len - suffix, SUFFIX))
			layer_list(folder, entry->d_name, len - suffix, *ret);
	}
	if (d)
		closedir(d);
	return 0;
}

int kept_layer_remove(const char *name, struct err *e)
{
	CLEANUP_CLOSE int fd = -1;
	char path[PATH_MAX];
	int r = layer_path(name, path, e);

	if (r < 0)
		return r;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 && errno == ENOENT)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "there is no layer %s; see cairn image-list --kept", name);
	if (fd >= 0 && file_lock(fd) == -EBUSY)
		return err_set(e, -EBUSY, ERR_BUSY, "a run has the layer; end it first");
	return unlink(path) < 0 ? err_set_errno(e, -errno, "%s", path) : 0;
}
