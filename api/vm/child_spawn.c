#include "api/vm/child_spawn.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* The child's, of which execvpe() needs the most: a path and a copy of the arguments. */
#define CHILD_STACK_BYTES (32 * 1024)

/* The child shares the caller's memory, and a sanitizer's runtime would take it for the calling thread. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__x86_64__)
#define CAN_SPAWN false
#else
#define CAN_SPAWN true
#endif

#define NUMBERS 12 /* more files than a VM's process begins with */
#define SETS 4 /* children that are spawned at once, by threads of their own */
#define FILES_MANY 1024 /* a copy of a table for fewer files takes no time */

struct numbers {
	pthread_mutex_t mutex; /* held by the thread that spawns a child with them */
	int null; /* borrowed */
	int at[NUMBERS]; /* ascending; /dev/null while no child is spawned */
};

struct child_files {
	int null;
	struct numbers sets[SETS];
};

struct child {
	const struct child_spawn *s;
	const int *files; /* as s->files, or the kept numbers in their place */
	int last; /* the table is shared with the caller, and the child needs the files up to this one; -1: it is a copy */
	int error; /* why the child could not run the program, as -errno; 0: it did */
};

/* Runs in the child. The calling thread is blocked meanwhile. Returns only on errors. */
static int child_run(void *opaque)
{
	struct child *c = opaque;
	const struct child_spawn *s = c->s;
	struct sigaction dfl = { .sa_handler = SIG_DFL };
	sigset_t none;

	if (!s->program)
		return 0;
	if (c->last >= 0 && syscall(SYS_close_range, c->last + 1, ~0U, CLOSE_RANGE_UNSHARE) < 0)
		goto failed; /* the table is still the caller's */
	for (int sig = 1; sig < NSIG; sig++)
		sigaction(sig, &dfl, NULL); /* fails for SIGKILL, SIGSTOP and those of the C library */
	setsid();
	for (int i = 0; i < (int)s->nfiles; i++) {
		int file = s->files[i] >= 0 ? c->files[i] : open("/dev/null", O_RDWR | O_CLOEXEC);

		if (file < 0 || (file == i ? fcntl(i, F_SETFD, 0) : dup2(file, i)) < 0)
			goto failed;
	}
	/* Close-on-exec alone would keep clients' sockets and the daemon's locks open while the program is loaded. */
	if (syscall(SYS_close_range, s->nfiles, ~0U, 0) < 0)
		goto failed;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (strchr(s->program, '/'))
		execve(s->program, s->argv, environ); /* execvpe() would run a text as a script */
	else
		execvpe(s->program, s->argv, environ);
failed:
	c->error = -errno;
	return 127;
}

/* As vfork(), with clone3()'s arguments: run the function in a child with a stack of its own, and return when it has
 * ended or has run a program. Returns the pid; -errno. */
static long child_create(struct clone_args *args, struct child *c)
{
	long ret = -ENOSYS;

#if CAN_SPAWN
	/* The registers are named: any other could be %rsp, which holds c where c is the caller's last variable. */
	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "mov %%rdx, %%rdi\n\t"
			 "call *%%rbx\n\t"
			 "mov %%eax, %%edi\n\t"
			 "mov %[exit], %%eax\n\t"
			 "syscall\n\t"
			 "hlt\n"
			 "1:"
			 : "=a"(ret)
			 : "0"((long)SYS_clone3), "D"(args), "S"(sizeof(*args)), "d"(c), "b"(child_run), [exit] "i"(SYS_exit)
			 : "rcx", "r11", "memory", "cc");
#else
	(void)args;
	(void)c;
	(void)child_run;
#endif
	return ret;
}

static void files_take_back(struct numbers *f, unsigned n)
{
	while (n--)
		dup3(f->null, f->at[n], O_CLOEXEC);
	pthread_mutex_unlock(&f->mutex);
}

/* Return fd numbers that no other thread uses; NULL: none are left. */
static struct numbers *numbers_lock(struct child_files *all)
{
	for (unsigned i = 0; all && i < SETS; i++)
		if (!pthread_mutex_trylock(&all->sets[i].mutex))
			return &all->sets[i];
	return NULL;
}

/* Place the files at kept numbers. Returns NULL if there are too few, or other threads use them all. */
static struct numbers *files_place(const struct child_spawn *s)
{
	struct numbers *f = s->nfiles <= NUMBERS ? numbers_lock(s->numbers) : NULL;
	unsigned n = 0;

	while (f && n < s->nfiles && (s->files[n] < 0 || dup3(s->files[n], f->at[n], O_CLOEXEC) >= 0))
		n++;
	if (!f || n == s->nfiles)
		return f;
	files_take_back(f, n);
	return NULL;
}

int child_spawn(const struct child_spawn *s, pid_t *ret_pid)
{
	_Alignas(16) char stack[CHILD_STACK_BYTES];
	struct numbers *placed = files_place(s);
	struct child c = { .s = s, .files = placed ? placed->at : s->files, .last = placed ? placed->at[NUMBERS - 1] : -1 };
	struct clone_args args = { .flags = CLONE_VM | CLONE_VFORK, .exit_signal = SIGCHLD, .stack = (uintptr_t)stack,
		.stack_size = sizeof(stack) };
	sigset_t all, was;
	long pid;

	if (placed)
		args.flags |= CLONE_FILES;
	if (s->own_pids)
		args.flags |= CLONE_NEWPID;
	if (s->cgroup >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (unsigned)s->cgroup;
	}
	/* A handler of the caller's would run in the child, too. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &was);
	pid = child_create(&args, &c);
	pthread_sigmask(SIG_SETMASK, &was, NULL);
	if (placed)
		files_take_back(placed, s->nfiles);
	if (pid < 0)
		return (int)pid;
	if (c.error) {
		waitpid((pid_t)pid, NULL, 0);
		return c.error;
	}
	*ret_pid = (pid_t)pid;
	return 0;
}

struct child_files *child_files_new(void)
{
	struct child_files *f;
	struct rlimit limit;
	bool whole;

	if (!getrlimit(RLIMIT_NOFILE, &limit) && limit.rlim_cur < FILES_MANY)
		return NULL;
	f = must_alloc(calloc(1, sizeof(*f)));
	whole = (f->null = open("/dev/null", O_RDWR | O_CLOEXEC)) >= 0;

	for (unsigned i = 0; i < SETS; i++) {
		f->sets[i].null = f->null;
		pthread_mutex_init(&f->sets[i].mutex, NULL);
		for (unsigned n = 0; n < NUMBERS; n++)
			whole &= (f->sets[i].at[n] = fcntl(f->null, F_DUPFD_CLOEXEC, 3)) >= 0;
	}
	if (whole)
		return f;
	child_files_free(f);
	return NULL;
}

void child_files_free(struct child_files *f)
{
	for (unsigned i = 0; f && i < SETS; i++) {
		pthread_mutex_destroy(&f->sets[i].mutex);
		for (unsigned n = 0; n < NUMBERS; n++)
			if (f->sets[i].at[n] >= 0)
				close(f->sets[i].at[n]);
	}
	if (f && f->null >= 0)
		close(f->null);
	free(f);
}

int child_spawn_try(int cgroup, bool own_pids)
{
	const struct child_spawn s = { .cgroup = cgroup, .own_pids = own_pids };
	pid_t pid;
	int r = child_spawn(&s, &pid);

	if (!r)
		waitpid(pid, NULL, 0);
	return r;
}
