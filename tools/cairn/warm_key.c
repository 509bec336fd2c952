#include "tools/cairn/warm_key.h"
#include "api/definition/vm_config.h"
#include "api/store/paths.h"
#include "base/boot_id.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/hash.h"
#include "base/util.h"
#include "block/block.h"
#include "tools/cairn/guest_session.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FORMAT "cairn-warm 1 " CAIRN_VERSION /* change the number when equal keys are to mean another state */
#define FILES_MAX (VM_DISKS_MAX + 4)
/* A file system notes times in ticks of the kernel, some in seconds. */
#define TICK_NS 20000000ULL
#define COARSE_TICK_NS 3000000000ULL

struct key_file {
	int fd; /* owned; -1: path */
	char *path;
	struct stat st;
};

struct warm_key {
	struct key_file files[FILES_MAX];
	size_t nfiles;
	uint64_t made_ns; /* CLOCK_REALTIME: nobody reads the files before */
	uint8_t *bytes;
	size_t len;
	char name[17];
};

static void bytes_put(struct warm_key *k, const void *data, size_t len)
{
	k->bytes = must_alloc(realloc(k->bytes, k->len + len));
	memcpy(k->bytes + k->len, data, len);
	k->len += len;
}

/* ---- files ---- */

static bool file_stat(const struct key_file *f, struct stat *ret)
{
	return (f->fd >= 0 ? fstat(f->fd, ret) : stat(f->path, ret)) == 0 && S_ISREG(ret->st_mode);
}

static void file_identity(const struct stat *st, uint64_t ret[7])
{
	ret[0] = st->st_dev;
	ret[1] = st->st_ino;
	ret[2] = (uint64_t)st->st_size;
	ret[3] = (uint64_t)st->st_mtim.tv_sec;
	ret[4] = (uint64_t)st->st_mtim.tv_nsec;
	ret[5] = (uint64_t)st->st_ctim.tv_sec;
	ret[6] = (uint64_t)st->st_ctim.tv_nsec;
}

/* Add a file. fd: borrowed; -1: path. */
static bool file_put(struct warm_key *k, int fd, const char *path)
{
	struct key_file *f = &k->files[k->nfiles];
	uint64_t identity[7];

	f->fd = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3);
	f->path = fd < 0 ? must_alloc(strdup(path)) : NULL;
	k->nfiles++;
	if ((fd >= 0 && f->fd < 0) || !file_stat(f, &f->st))
		return false;
	file_identity(&f->st, identity);
	bytes_put(k, identity, sizeof(identity));
	return true;
}

bool warm_key_has_file(const uint8_t *key, size_t len, const struct stat *file)
{
	uint64_t identity[7];

	file_identity(file, identity);
	return memmem(key, len, identity, sizeof(identity)) != NULL;
}

static bool file_is_older_than_tick(const struct stat *st, uint64_t now_ns)
{
	uint64_t changed_ns = (uint64_t)st->st_ctim.tv_sec * 1000000000ULL + (uint64_t)st->st_ctim.tv_nsec;

	return now_ns > changed_ns + (st->st_ctim.tv_nsec ? TICK_NS : COARSE_TICK_NS);
}

/* Wait until a change of a file would show in its times. Mostly, a file that has just been made is this run's image. */
static void files_await_tick(const struct warm_key *k)
{
	uint64_t now = clock_realtime_ns();

	for (size_t i = 0; i < k->nfiles; i++)
		if (!file_is_older_than_tick(&k->files[i].st, now)) {
			nanosleep(&(struct timespec){ .tv_nsec = TICK_NS }, NULL);
			return;
		}
}

bool warm_key_holds(const struct warm_key *k)
{
	uint64_t was[7], is[7];
	struct stat st;

	for (size_t i = 0; i < k->nfiles; i++) {
		if (!file_stat(&k->files[i], &st) || !file_is_older_than_tick(&st, k->made_ns))
			return false;
		file_identity(&k->files[i].st, was);
		file_identity(&st, is);
		if (memcmp(was, is, sizeof(was)))
			return false;
	}
	return true;
}

/* ---- the configuration ---- */

static const char *disks_refuse(const struct vm_config *v)
{
	for (unsigned i = 0; i < v->ndisks; i++)
		if (!v->disks[i].read_only || v->disks[i].nlayers != 1 || v->disks[i].format[0] != BLOCK_FORMAT_RAW || v->disks[i].data_fd[0] != VM_NO_FD)
			return "a disk is no read-only raw image";
	return NULL;
}

/* Return why a run cannot have a warm state: its guest's boot depends on something that no key covers. NULL: it can. */
static const char *config_refuse(const struct vm_config *v)
{
	if (v->firmware || v->kernel_fd == VM_NO_FD)
		return "a firmware boots";
	for (unsigned i = 0; i < v->nshares; i++)
		if (strncmp(v->shares[i].tag, GUEST_MOUNT_TAG, strlen(GUEST_MOUNT_TAG)))
			return "the guest may mount a shared folder while it boots";
	for (unsigned i = 0; i < v->ninterfaces; i++)
		if (!v->interfaces[i].user)
			return "there is a network of several VMs";
	if (v->huge_pages)
		return "memory is in huge pages";
	if (v->screen || v->display || v->virtio_console || v->guest_agent || v->watchdog)
		return "there is a device that another program uses";
	return disks_refuse(v);
}

static void config_put(struct warm_key *k, const struct vm_config *v)
{
	struct vm_config *own = must_alloc(malloc(sizeof(*own)));

	memcpy(own, v, sizeof(*own));
	memset(own->name, 0, sizeof(own->name));
	memset(own->uuid, 0, sizeof(own->uuid));
	own->log_level = 0;
	for (unsigned i = 0; i < own->ninterfaces; i++)
		own->interfaces[i].tap_fd = 0; /* its number depends on the ports that are published */
	for (unsigned i = 0; i < own->nshares; i++)
		own->shares[i].fd = 0; /* its number, too */
	bytes_put(k, own, sizeof(*own));
	free(own);
}

static bool boot_put(struct warm_key *k)
{
	char id[BOOT_ID_TEXT] = { 0 };

	if (!boot_id_read(id))
		return false;
	bytes_put(k, id, sizeof(id));
	return true;
}

static bool files_put(struct warm_key *k, const struct config *c, const char *program)
{
	char agent[PATH_MAX];
	struct err e;

	if (!file_put(k, -1, program) || paths_helper("cairn-agent", agent, sizeof(agent), &e) < 0 || !file_put(k, -1, agent) ||
		!file_put(k, c->fds[c->vm.kernel_fd], NULL) || (c->vm.initrd_fd != VM_NO_FD && !file_put(k, c->fds[c->vm.initrd_fd], NULL)))
		return false;
	for (unsigned i = 0; i < c->vm.ndisks; i++)
		if (!file_put(k, c->fds[c->vm.disks[i].fd[0]], NULL))
			return false;
	return true;
}

static void name_make(struct warm_key *k)
{
	snprintf(k->name, sizeof(k->name), "%016llx", (unsigned long long)hash_add(HASH_BEGIN, k->bytes, k->len));
}

struct warm_key *warm_key_new(const struct config *c, const char *root, const char *program, const char **ret_why)
{
	struct warm_key *k;

	*ret_why = config_refuse(&c->vm);
	if (*ret_why)
		return NULL;
	k = must_alloc(calloc(1, sizeof(*k)));
	bytes_put(k, FORMAT, sizeof(FORMAT));
	bytes_put(k, root ? root : "", root ? strlen(root) + 1 : 1);
	config_put(k, &c->vm);
	if (boot_put(k) && files_put(k, c, program) && k->len <= WARM_KEY_MAX) {
		name_make(k);
		files_await_tick(k);
		k->made_ns = clock_realtime_ns();
		return k;
	}
	*ret_why = "a part of it is no file";
	warm_key_free(k);
	return NULL;
}

void warm_key_free(struct warm_key *k)
{
	if (!k)
		return;
	for (size_t i = 0; i < k->nfiles; i++) {
		if (k->files[i].fd >= 0)
			close(k->files[i].fd);
		free(k->files[i].path);
	}
	free(k->bytes);
	free(k);
}

const uint8_t *warm_key_bytes(const struct warm_key *k, size_t *ret_len)
{
	*ret_len = k->len;
	return k->bytes;
}

const char *warm_key_name(const struct warm_key *k)
{
	return k->name;
}
