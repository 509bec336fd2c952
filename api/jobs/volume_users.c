#include "api/jobs/volume_users.h"
#include "api/definition/definition.h"
#include "api/vm/pins.h"
#include "api/vm/vm.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* A file system does not answer if one look takes two of these times. */
#define LOOK_MS 3000
#define ALL_NS (20 * CLOCK_NS_PER_S)
/* A process that has an image open locks some of these bytes of it (block/lock.h). */
#define LOCK_BYTES_FROM 100
#define LOCK_BYTES 202

/* ---- the list ---- */

static void path_put(struct volume_users *u, const struct vm *vm, const char *path, enum volume_format f, bool frozen)
{
	if (!path)
		return;
	if (u->list)
		u->list[u->n] = (struct volume_user){ .path = path, .vm = vm, .format = f, .is_frozen = frozen };
	u->n++;
}

static void definition_put(struct volume_users *u, const struct vm *vm, const struct definition *def)
{
	for (uint32_t i = 0; def && i < def->ndisks; i++)
		for (unsigned k = 0; k < def->disks[i].nlayers; k++) {
			const struct definition_layer *l = &def->disks[i].layers[k];
			bool frozen = vm_has(vm, VM_FACT_TEMPLATE) || vm->state == VM_SAVED || (k && !pins_has_overlay(vm->host, l[-1].path));

			path_put(u, vm, l->path, l->format == DEFINITION_FORMAT_QCOW2 ? VOLUME_QCOW2 : VOLUME_RAW, frozen);
			path_put(u, vm, l->data_file, VOLUME_RAW, frozen);
		}
	if (!def)
		return;
	path_put(u, vm, def->kernel, VOLUME_NO_FORMAT, false);
	path_put(u, vm, def->initrd, VOLUME_NO_FORMAT, false);
	path_put(u, vm, def->loader, VOLUME_NO_FORMAT, false);
	path_put(u, vm, def->nvram_template, VOLUME_NO_FORMAT, false);
}

/* Count the files; with u->list, also put them there. */
static void all_put(struct volume_users *u, const struct vm_host *host)
{
	u->n = 0;
	for (size_t i = 0; i < host->nvms; i++) {
		definition_put(u, host->vms[i], host->vms[i]->live);
		definition_put(u, host->vms[i], host->vms[i]->def);
	}
}

/* ---- looking ---- */

static _Noreturn void find_main(const struct volume_users *u, _Atomic size_t *at)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (size_t i = 0; i < u->n; i++) {
		struct volume_user *f = &u->list[i];
		struct stat st;

		atomic_store(at, i);
		if (stat(f->path, &st) < 0)
			continue;
		f->dev = st.st_dev;
		f->ino = st.st_ino;
		f->found = true;
	}
	atomic_store(at, u->n);
	_exit(0);
}

/* Wait for the end of the process that examines the files, unless it is blocked. Returns whether it has ended. */
static bool find_await(int pidfd, const _Atomic size_t *at)
{
	uint64_t end = loop_now_ns() + ALL_NS;
	size_t before = SIZE_MAX, now;
	struct pollfd p = { .fd = pidfd, .events = POLLIN };
	int r;

	while ((r = poll(&p, 1, LOOK_MS)) <= 0) {
		if (r < 0 && errno != EINTR)
			return false;
		now = atomic_load(at);
		if (loop_now_ns() >= end || (!r && now == before))
			return false;
		before = now;
	}
	return true;
}

/* at: the file that is looked at; shared with the process. */
static int find_run(struct volume_users *u, _Atomic size_t *at, struct err *e)
{
	pid_t pid = fork();
	int pidfd;
	bool ended;

	if (pid == 0)
		find_main(u, at);
	pidfd = pid < 0 ? -1 : pidfd_open(pid, 0);
	if (pidfd < 0)
		return err_set_errno(e, -errno, "looking at the files of VMs");
	ended = find_await(pidfd, at);
	close(pidfd);
	if (!ended)
		kill(pid, SIGKILL);
	waitpid(pid, NULL, ended ? 0 : WNOHANG);
	u->looked = atomic_load(at);
	return 0;
}

int volume_users_find(const struct vm_host *host, bool look, struct volume_users *ret, struct err *e)
{
	struct volume_users u = { .list = NULL };
	_Atomic size_t *at;
	int r = 0;

	all_put(&u, host);
	at = mmap(NULL, sizeof(struct volume_user) * (u.n + 1), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		return err_set_errno(e, -errno, "the files of VMs");
	u.list = (struct volume_user *)(void *)at + 1;
	all_put(&u, host);
	if (look && u.n)
		r = find_run(&u, at, e);
	*ret = u;
	return r;
}

int volume_users_check(const struct volume_users *u, struct err *e)
{
	return u->looked == u->n ? 0 : err_set(e, -ETIMEDOUT, ERR_TIMEOUT,
		"%.300s of VM '%.200s' does not answer, so whether the VM uses the volume is not known; repair or unmount that file system, then try again",
		u->list[u->looked].path, u->list[u->looked].vm->def->name);
}

/* ---- comparing ---- */

static bool is_path_of(const char *path, const struct volume_id *id)
{
	size_t n = strlen(id->folder);

	if (id->name[0] == '/')
		return !strcmp(path, id->name);
	return !strncmp(path, id->folder, n) && path[n] == '/' && !strcmp(path + n + 1, id->name);
}

static bool is_file(const struct volume_user *f, const struct volume_id *id)
{
	return f->found ? f->dev == id->st->st_dev && f->ino == id->st->st_ino : is_path_of(f->path, id);
}

enum volume_format volume_users_format(const struct volume_users *u, const struct volume_id *id)
{
	for (size_t i = 0; i < u->n; i++)
		if (u->list[i].format != VOLUME_NO_FORMAT && is_file(&u->list[i], id))
			return u->list[i].format;
	return VOLUME_NO_FORMAT;
}

const struct vm *volume_users_next(const struct volume_users *u, const struct volume_id *id, bool disks, size_t *at)
{
	const struct vm *vm = NULL;

	for (; *at < u->n && !vm; ++*at)
		if ((!disks || u->list[*at].format != VOLUME_NO_FORMAT) && is_file(&u->list[*at], id))
			vm = u->list[*at].vm;
	while (vm && *at < u->n && u->list[*at].vm == vm) /* its other files */
		++*at;
	return vm;
}

const struct vm *volume_users_frozen(const struct volume_users *u, const struct volume_id *id)
{
	for (size_t i = 0; i < u->n; i++)
		if (u->list[i].is_frozen && is_file(&u->list[i], id))
			return u->list[i].vm;
	return NULL;
}

bool volume_is_open(int dir, const char *path)
{
	struct flock f = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = LOCK_BYTES_FROM, .l_len = LOCK_BYTES };
	CLEANUP_CLOSE int fd = openat(dir, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	return fd >= 0 && !fcntl(fd, F_OFD_GETLK, &f) && f.l_type != F_UNLCK;
}
