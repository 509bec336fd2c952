/* start: start the program of a session. */
#include "tools/agent/session.h"
#include "base/bytes.h"
#include "tools/agent/copy.h"
#include "tools/agent/root.h"
#include "tools/agent/user.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define ENVIRONMENT_MAX 256 /* variables of the agent's own */

#define SIGNALS_MAX 64

bool session_root_follows, session_makes_folders;

/* ".." of the root leads to the root that is mounted above it. */
int session_root_follow(void)
{
	return session_root_follows && (chroot("/..") < 0 || chdir("/") < 0) ? -errno : 0;
}

/* The ends of the program's streams. */
struct streams {
	int in, out, err;   /* the program's */
	int ours[3];	    /* the agent's; with a terminal, ours[0] and ours[1] are its master */
	enum agent_step step;
};

static void fds_close(int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

static void streams_close(struct streams *t, bool ours)
{
	fds_close((int[]){ t->in, t->out == t->in ? -1 : t->out, t->err == t->in ? -1 : t->err }, 3);
	if (ours)
		fds_close((int[]){ t->ours[0], t->ours[1] == t->ours[0] ? -1 : t->ours[1], t->ours[2] }, 3);
}

/* Returns 0 or -errno. */
static int terminal_open(const struct agent_start *want, struct streams *t)
{
	struct winsize size = { .ws_row = want->rows, .ws_col = want->columns };
	int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK), zero = 0;

	t->step = AGENT_STEP_TERMINAL;
	if (master < 0)
		return -errno;
	t->ours[0] = t->ours[1] = master;
	if (ioctl(master, TIOCSPTLCK, &zero) < 0)
		return -errno;
	t->in = t->out = t->err = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (t->in < 0)
		return -errno;
	return ioctl(master, TIOCSWINSZ, &size) < 0 ? -errno : 0;
}

static int pipe_make(int *ret_read, int *ret_write)
{
	int p[2];

	if (pipe2(p, O_CLOEXEC) < 0)
		return -errno;
	*ret_read = p[0];
	*ret_write = p[1];
	return 0;
}

/* Open an input that has ended. Init may not have mounted /dev yet: then it is a pipe that nobody writes to. */
static int null_open(int *ret_fd)
{
	int writer = -1, r;

	*ret_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (*ret_fd >= 0)
		return 0;
	r = pipe_make(ret_fd, &writer);
	if (!r)
		close(writer);
	return r;
}

static int pipes_make(const struct agent_start *want, struct streams *t)
{
	int r;

	t->step = AGENT_STEP_AGENT;
	r = want->flags & AGENT_START_INPUT ? pipe_make(&t->in, &t->ours[0]) : null_open(&t->in);
	if (!r)
		r = pipe_make(&t->ours[1], &t->out);
	if (!r)
		r = pipe_make(&t->ours[2], &t->err);
	for (unsigned i = 0; i < 3 && !r; i++)
		if (t->ours[i] >= 0)
			fcntl(t->ours[i], F_SETFL, O_NONBLOCK);
	return r;
}

/* ---- the new process ---- */

/* The C library refuses the signals that it uses itself, so this asks the kernel, for which zeros are SIG_DFL. */
static void signal_reset(int sig)
{
	static const uint64_t as_default[8];

	syscall(SYS_rt_sigaction, sig, as_default, NULL, sizeof(uint64_t));
}

void session_signals_reset(void)
{
	for (int sig = 1; sig <= SIGNALS_MAX; sig++)
		signal_reset(sig);
}

/* exec() itself resets the signals that have handlers. */
static void signals_prepare(void)
{
	sigset_t none;

	signal_reset(SIGPIPE);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Make the process the leader of a session, with its streams. */
static void process_prepare(const struct streams *t, bool terminal)
{
	setsid();
	if (terminal)
		ioctl(t->in, TIOCSCTTY, 0);
	dup2(t->in, 0);
	dup2(t->out, 1);
	dup2(t->err, 2);
	signals_prepare();
}

/* Give the pipes to the user: a program opens /dev/stdout and /dev/stderr anew, which only the owner may. */
static void pipes_give(const struct user *u, const struct streams *t)
{
	const int fds[] = { t->in, t->out, t->err };
	struct stat st;

	for (unsigned i = 0; i < 3; i++)
		if (fstat(fds[i], &st) == 0 && S_ISFIFO(st.st_mode) && fchown(fds[i], u->uid, (gid_t)-1) < 0)
			return; /* the program still has the streams */
}

/* Call the kernel itself: the C library's functions act on all threads, of which the agent's memory has records.
 * Returns whether it worked. */
static bool user_become(const struct user *u, const struct streams *t, bool terminal)
{
	if (terminal && fchown(t->in, u->uid, (gid_t)-1) < 0)
		return false;
	if (!terminal)
		pipes_give(u, t);
	if (syscall(SYS_setgroups, u->ngroups, u->groups) == 0 && syscall(SYS_setgid, u->gid) == 0 && syscall(SYS_setuid, u->uid) == 0)
		return true;
	return errno == ENOSYS && !u->uid && !u->gid; /* a kernel without CONFIG_MULTIUSER has root only */
}

/* Runs in the memory of the agent, which waits (vfork), and must not change the agent's data. */
static void __attribute__((noreturn)) program_become(const struct agent_start *want, const struct streams *t,
	const struct user *user, char *const *argv, char *const *env, volatile int *error, volatile enum agent_step *step)
{
	bool terminal = want->flags & AGENT_START_TERMINAL;

	process_prepare(t, terminal);
	*step = AGENT_STEP_FOLDER;
	if (chdir(want->folder[0] ? want->folder : "/") == 0) {
		*step = AGENT_STEP_USER;
		if (!user || user_become(user, t, terminal)) {
			*step = AGENT_STEP_PROGRAM;
			execvpe(argv[0], argv, env);
		}
	}
	*error = errno;
	_exit(127);
}

static bool same_name(const char *a, const char *b)
{
	size_t n = strcspn(a, "=");

	return !strncmp(a, b, n) && b[n] == '=';
}

/* Return the place of the variable with the name of var among n; n: there is none. */
static size_t variable_find(char *const *env, size_t n, const char *var)
{
	size_t k = 0;

	while (k < n && !same_name(var, env[k]))
		k++;
	return k;
}

/* Add HOME of the user, unless the request has it. */
static size_t home_add(const struct agent_start *want, const struct user *user, char **env, size_t n)
{
	static char home[sizeof(user->home) + 5];

	for (size_t k = 0; k < n; k++)
		if (!strncmp(env[k], "HOME=", 5))
			return n;
	if (!user || !(want->flags & AGENT_START_USER))
		return n;
	strcpy(home, "HOME=");
	strcat(home, user->home);
	env[n] = home;
	return n + 1;
}

/* Make the arguments, and the environment: the agent's own, with the variables of the request in front. Of several
 * variables with one name, the last one counts. */
static void words_make(const struct agent_start *want, const struct user *user, char **argv, char **env)
{
	size_t n = 0, nown;

	for (size_t i = 0; i < want->nargs; i++)
		argv[i] = (char *)(uintptr_t)want->words[i];
	argv[want->nargs] = NULL;
	for (size_t i = 0; i < want->nvars; i++) {
		char *var = (char *)(uintptr_t)want->words[want->nargs + i];
		size_t k = variable_find(env, n, var);

		env[k] = var;
		n += k == n;
	}
	nown = n = home_add(want, user, env, n);
	for (size_t i = 0; environ[i] && i < ENVIRONMENT_MAX; i++)
		if (variable_find(env, nown, environ[i]) == nown)
			env[n++] = environ[i];
	env[n] = NULL;
}

/* vfork() copies no page tables, which takes most of a fork's time where the kernel is emulated. The program is
 * searched in the PATH of its own environment.
 * Returns the pid; -errno. */
static pid_t program_start(const struct agent_start *want, struct streams *t)
{
	static char *argv[AGENT_WORDS_MAX + 1], *env[AGENT_WORDS_MAX + 1 + ENVIRONMENT_MAX + 1];
	static struct user user;
	const struct user *as = want->flags & AGENT_START_USER ? &user : NULL;
	char **volatile own = environ; /* the compiler may take vfork() for a longjmp() */
	volatile int error = 0;
	volatile enum agent_step step = AGENT_STEP_AGENT;
	pid_t pid;

	t->step = AGENT_STEP_USER;
	if (as) {
		int r = user_find(want->user, &user);

		if (r < 0)
			return r;
	}
	if (session_makes_folders && want->folder[0] && access(want->folder, F_OK) < 0 && errno == ENOENT)
		root_folder_make(want->folder); /* chdir() fails if this has */
	words_make(want, as, argv, env);
	environ = env;
	pid = vfork();
	if (!pid)
		program_become(want, t, as, argv, env, &error, &step);
	environ = own;
	if (pid < 0)
		return -errno;
	t->step = step;
	if (error)
		waitpid(pid, NULL, 0);
	return error ? -error : pid;
}

/* Close the agent's fds: of this session's pipes, this process would wait for its own end. */
static void others_close(void)
{
	if (syscall(SYS_close_range, 3, ~0U, 0) < 0)
		for (int fd = 3; fd < 1024; fd++)
			close(fd);
}

/* A copy is a process of its own, because files may be slow. */
static pid_t copy_start(const struct agent_start *want, struct streams *t)
{
	pid_t pid = fork();

	if (pid)
		return pid < 0 ? -errno : pid;
	process_prepare(t, false);
	others_close();
	_exit(want->flags & AGENT_START_RECEIVE ? copy_receive(want->words[0], want->words[1]) : copy_send(want->words[0]));
}

void session_start(struct session *s, const struct agent_start *want)
{
	bool copies = want->flags & (AGENT_START_RECEIVE | AGENT_START_SEND);
	struct streams t = { -1, -1, -1, { -1, -1, -1 }, AGENT_STEP_AGENT };
	int r = session_root_follow();
	uint8_t pid[4];

	if (!r)
		r = want->flags & AGENT_START_TERMINAL && !copies ? terminal_open(want, &t) : pipes_make(want, &t);
	if (!r)
		r = copies ? copy_start(want, &t) : program_start(want, &t);
	streams_close(&t, r < 0);
	if (r < 0) {
		session_fail(s, -r, t.step);
		return;
	}
	s->pid = r;
	s->terminal = want->flags & AGENT_START_TERMINAL && !copies;
	s->in = t.ours[0];
	s->out[0] = t.ours[1];
	s->out[1] = t.ours[2];
	store_le32(pid, (uint32_t)r);
	session_send(s, AGENT_FRAME_STARTED, pid, sizeof(pid));
}
