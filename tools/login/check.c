#include "tools/login/check.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <security/pam_appl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#define SERVICE "cairn-web"
#define CPU_SECONDS 10
#define FILES_MAX 256
#define RESULT_FD 3

/* ---- the conversation ---- */

struct conversation {
	const struct login_ask *ask;
	unsigned passwords; /* questions that got the password */
	bool more;	    /* a module asked for something else */
};

/* Answer each hidden question by the password. A prompt with visible input does not ask for the password, but for
 * example for a second factor, and fails. */
static int converse(int n, const struct pam_message **m, struct pam_response **ret, void *opaque)
{
	struct conversation *c = opaque;
	struct pam_response *answers;

	if (n <= 0 || n > PAM_MAX_NUM_MSG || !(answers = calloc((size_t)n, sizeof(*answers))))
		return PAM_CONV_ERR;
	for (int i = 0; i < n; i++) {
		c->passwords += m[i]->msg_style == PAM_PROMPT_ECHO_OFF;
		c->more |= m[i]->msg_style == PAM_PROMPT_ECHO_ON;
		if (c->more)
			goto refuse;
		if (m[i]->msg_style == PAM_PROMPT_ECHO_OFF)
			answers[i].resp = must_alloc(strdup(c->ask->password));
	}
	*ret = answers;
	return PAM_SUCCESS;
refuse:
	for (int i = 0; i < n; i++)
		if (answers[i].resp) {
			explicit_bzero(answers[i].resp, strlen(answers[i].resp));
			free(answers[i].resp);
		}
	free(answers);
	return PAM_CONV_ERR;
}

/* cairn-login delays the answer to a failure, so no process has to wait. */
static void no_delay(int status, unsigned microseconds, void *opaque)
{
	(void)status;
	(void)microseconds;
	(void)opaque;
}

/* ---- the user ---- */

/* Fill in the ids and the groups. Returns false if there is no such user. */
static bool user_find(const char *name, struct check_result *r)
{
	const struct passwd *p = getpwnam(name);
	int n = CHECK_GROUPS_MAX;

	r->known = p;
	if (!p)
		return false;
	r->uid = p->pw_uid;
	r->gid = p->pw_gid;
	if (getgrouplist(p->pw_name, p->pw_gid, r->groups, &n) < 0) {
		snprintf(r->why, sizeof(r->why), "the user is in more than %d groups", CHECK_GROUPS_MAX);
		return false;
	}
	r->ngroups = (uint32_t)n;
	return true;
}

static enum login_verdict verdict_of(int status)
{
	switch (status) {
	case PAM_SUCCESS: return LOGIN_OK;
	case PAM_NEW_AUTHTOK_REQD: return LOGIN_OLD_PASSWORD;
	case PAM_ACCT_EXPIRED: return LOGIN_EXPIRED;
	case PAM_ABORT:
	case PAM_BUF_ERR:
	case PAM_SYSTEM_ERR:
	case PAM_OPEN_ERR:
	case PAM_SYMBOL_ERR:
	case PAM_SERVICE_ERR: return LOGIN_FAILED;
	default: return LOGIN_WRONG;
	}
}

static bool root_is_refused(bool allow_root, struct check_result *r)
{
	if (!r->known || r->uid || allow_root)
		return false;
	snprintf(r->why, sizeof(r->why), "root may not log in without --allow-root");
	return true;
}

/* Say in the log why PAM refuses. */
static void why_set(const struct conversation *c, const char *error, struct check_result *r)
{
	if (c->more)
		snprintf(r->why, sizeof(r->why), "a module of PAM asks for more than a password, which the page cannot answer");
	else
		snprintf(r->why, sizeof(r->why), "%s%s", error,
			c->passwords > 1 ? "; modules of PAM asked twice, and the page has one password to answer, no second factor" : "");
}

/* The account is looked at after the password only, so that a stranger does not learn its state. */
static int pam_ask(pam_handle_t *h, const struct login_ask *a, const struct conversation *c, struct check_result *r)
{
	const void *name = NULL;
	int status = pam_set_item(h, PAM_TTY, SERVICE);

	if (status == PAM_SUCCESS && login_address_is_remote(a->address))
		status = pam_set_item(h, PAM_RHOST, a->address);
	if (status == PAM_SUCCESS)
		status = pam_set_item(h, PAM_FAIL_DELAY, (const void *)(uintptr_t)no_delay);
	if (status == PAM_SUCCESS)
		status = pam_authenticate(h, PAM_DISALLOW_NULL_AUTHTOK);
	r->verdict = verdict_of(status);
	if (status == PAM_SUCCESS)
		r->verdict = verdict_of(status = pam_acct_mgmt(h, PAM_DISALLOW_NULL_AUTHTOK));
	else if (r->verdict != LOGIN_FAILED)
		r->verdict = c->more ? LOGIN_MORE : LOGIN_WRONG;
	if (status == PAM_SUCCESS && pam_get_item(h, PAM_USER, &name) == PAM_SUCCESS && name)
		snprintf(r->user, sizeof(r->user), "%s", (const char *)name);
	why_set(c, pam_strerror(h, status), r);
	return status;
}

static void result_find(const struct login_ask *a, bool allow_root, struct check_result *r)
{
	struct conversation c = { .ask = a };
	const struct pam_conv conv = { converse, &c };
	pam_handle_t *h;
	int status;

	snprintf(r->user, sizeof(r->user), "%s", a->user);
	r->verdict = LOGIN_WRONG;
	user_find(r->user, r);
	if (root_is_refused(allow_root, r))
		return;
	status = pam_start(SERVICE, a->user, &conv, &h);
	if (status != PAM_SUCCESS) {
		r->verdict = LOGIN_FAILED;
		snprintf(r->why, sizeof(r->why), "pam_start: error %d", status);
		return;
	}
	status = pam_ask(h, a, &c, r);
	/* A module may have named another user. */
	if (r->verdict == LOGIN_OK && (!user_find(r->user, r) || root_is_refused(allow_root, r)))
		r->verdict = LOGIN_WRONG;
	pam_end(h, status);
}

/* ---- the process ---- */

static __attribute__((noreturn)) void process_main(const struct login_ask *a, bool allow_root, int out, pid_t parent)
{
	static const struct {
		int what;
		rlim_t most;
	} limits[] = { { RLIMIT_CORE, 0 }, { RLIMIT_CPU, CPU_SECONDS }, { RLIMIT_NOFILE, FILES_MAX } };
	static struct check_result r;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	sigset_t none;

	sigemptyset(&none);
	if (setpgid(0, 0) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
		_exit(1);
	for (size_t i = 0; i < ARRAY_SIZE(limits); i++)
		setrlimit(limits[i].what, &(struct rlimit){ limits[i].most, limits[i].most });
	/* Errors of modules go to the log, like those of cairn-login. */
	if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0 || dup2(out, RESULT_FD) < 0 ||
		fcntl(RESULT_FD, F_SETFD, FD_CLOEXEC) < 0)
		_exit(1);
	close_range(RESULT_FD + 1, ~0U, 0);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	if (chdir("/") < 0)
		_exit(1);
	result_find(a, allow_root, &r);
	_exit(write_full(RESULT_FD, &r, sizeof(r)) < 0);
}

int check_start(const struct login_ask *a, bool allow_root, pid_t *ret_pid, int *ret_fd)
{
	CLEANUP_CLOSE int in = -1, out = -1;
	int pipe_fds[2];
	pid_t parent = getpid(), pid;

	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return -errno;
	in = pipe_fds[0];
	out = pipe_fds[1];
	if (fcntl(in, F_SETFL, O_NONBLOCK) < 0 || (pid = fork()) < 0)
		return -errno;
	if (pid == 0)
		process_main(a, allow_root, out, parent);
	setpgid(pid, pid); /* so that kill() finds the group from now on */
	*ret_pid = pid;
	*ret_fd = steal_fd(&in);
	return 0;
}

bool check_result_is_valid(const struct check_result *r, size_t bytes)
{
	return bytes == sizeof(*r) && r->verdict < LOGIN_VERDICTS && r->ngroups <= CHECK_GROUPS_MAX &&
		memchr(r->user, 0, sizeof(r->user)) && memchr(r->why, 0, sizeof(r->why));
}
