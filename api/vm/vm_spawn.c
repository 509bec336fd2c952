#include "api/vm/vm_spawn.h"
#include "api/vm/vm_process.h"
#include "api/vm/vm_sandbox.h"
#include "api/vm/vm_socket.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define STACK_BYTES (128 * 1024)

struct vm_spawn {
	struct vm_process_paths paths; /* log_fd, end_fd: duplicates */
	struct cgroup_tree scope; /* a duplicate, since the VM's own scope may end meanwhile; fd -1: the group is in the daemon's tree */
	const char *option;
	int sock, done_fd;
	bool has_thread;
	pthread_t thread;
	/* Written by the thread, and read when it has ended. */
	pid_t pid;
	int r;
	struct err e;
};

static void *spawn_main(void *opaque)
{
	struct vm_spawn *s = opaque;

	s->r = vm_process_spawn(&s->paths, s->option, s->sock, &s->pid, &s->e);
	eventfd_write(s->done_fd, 1);
	return NULL;
}

static int thread_start(struct vm_spawn *s)
{
	pthread_attr_t attr;
	int r = pthread_attr_init(&attr);

	if (r)
		return -r;
	r = pthread_attr_setstacksize(&attr, STACK_BYTES);
	if (!r)
		r = pthread_create(&s->thread, &attr, spawn_main, s);
	pthread_attr_destroy(&attr);
	return -r;
}

static void spawn_free(struct vm_spawn *s)
{
	const int fds[] = { s->paths.log_fd, s->paths.end_fd, s->sock, s->done_fd, s->scope.fd };

	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	free(s);
}

/* Returns 0; -errno. */
static int scope_duplicate(struct vm_spawn *s)
{
	const struct cgroup_tree *t = s->paths.place.tree;

	s->scope.fd = -1;
	if (!t || (s->paths.sandbox && t == &s->paths.sandbox->cgroups))
		return 0;
	s->scope = *t;
	s->scope.fd = fcntl(t->fd, F_DUPFD_CLOEXEC, 3);
	s->paths.place.tree = &s->scope;
	return s->scope.fd < 0 ? -errno : 0;
}

int vm_spawn_begin(const struct vm_process_paths *paths, const char *option, int sock, struct vm_spawn **ret, struct err *e)
{
	struct vm_spawn *s = malloc(sizeof(*s));
	int r;

	if (!s) {
		close(sock);
		return err_set_errno(e, -ENOMEM, "cannot start %s", paths->program);
	}
	*s = (struct vm_spawn){ .paths = *paths, .option = option, .sock = sock };
	s->paths.name = NULL; /* the VM may be renamed or removed meanwhile; a process needs no name */
	s->paths.log_fd = fcntl(paths->log_fd, F_DUPFD_CLOEXEC, 3);
	s->paths.end_fd = paths->end_fd < 0 ? -1 : fcntl(paths->end_fd, F_DUPFD_CLOEXEC, VM_SPAWN_FD_MIN);
	s->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = s->paths.log_fd < 0 || (paths->end_fd >= 0 && s->paths.end_fd < 0) || s->done_fd < 0 ? -errno : 0;
	if (scope_duplicate(s) < 0)
		r = -EMFILE;
	if (r < 0) {
		err_set_errno(e, r, "cannot start %s", paths->program);
		spawn_free(s);
		return r;
	}
	s->has_thread = !thread_start(s);
	if (!s->has_thread)
		spawn_main(s);
	*ret = s;
	return 0;
}

int vm_spawn_fd(const struct vm_spawn *s)
{
	return s->done_fd;
}

int vm_spawn_end(struct vm_spawn *s, pid_t *ret_pid, struct err *e)
{
	int r;

	if (s->has_thread)
		pthread_join(s->thread, NULL);
	r = s->r;
	if (r < 0)
		*e = s->e;
	else
		*ret_pid = s->pid;
	spawn_free(s);
	return r;
}
