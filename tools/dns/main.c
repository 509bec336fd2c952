/* cairn-dns: the name server of a network whose egress rules have names. cairn-net starts it in dnsmasq's network
 * namespace, with the settings on standard input (settings.h); docs/networks.md, "Names in egress rules", says what it
 * does.
 *
 *   cairn-dns --network=UUID-HASH.conf    the argument only marks the process
 *
 * Writes "ready" to standard output when it answers; or one sentence to standard error, with exit status 1. */
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/lockdown.h"
#include "base/program.h"
#include "base/util.h"
#include "tools/dns/resolver.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SETTINGS_MAX (32 * MIB)
#define MEMORY_BYTES (64 * MIB)
#define FILES_MAX 16
#define READY "ready"

static const int allowed[] = {
	SYS_read, SYS_write, SYS_close, SYS_poll, SYS_ppoll, SYS_sendto, SYS_recvfrom, SYS_brk, SYS_munmap, SYS_mremap, SYS_madvise,
	SYS_futex, SYS_clock_gettime, SYS_exit_group, SYS_rt_sigreturn, SYS_restart_syscall, SYS_dup2, SYS_dup3,
};

/* Every socket is open: it can only send and receive. */
static int sandbox(const struct settings *s, struct err *e)
{
	const struct lockdown_limit limits[] = { { RLIMIT_NOFILE, FILES_MAX }, { RLIMIT_FSIZE, 0 },
		{ RLIMIT_AS, LOCKDOWN_SANITIZED ? RLIM_INFINITY : MEMORY_BYTES + s->nnames * 512 } };
	struct call_filter f;
	int r = lockdown_become(s->user, e);

	if (!r)
		r = lockdown_begin(LOCKDOWN_OUTSIDE, limits, ARRAY_SIZE(limits), e);
	if (!r && program_hide() < 0)
		r = err_set(e, -EPERM, ERR_HOST, "cairn-dns: cannot hide its memory");
	if (r < 0)
		return r;
	call_filter_init(&f);
	lockdown_allow_memory(&f);
	call_filter_calls(&f, SECCOMP_RET_ALLOW, allowed, ARRAY_SIZE(allowed));
	return lockdown_calls(&f, SECCOMP_RET_KILL_PROCESS, false, e);
}

static int settings_read(struct settings *ret, struct err *e)
{
	CLEANUP_FREE char *text = NULL;
	size_t len;
	int r = file_read_fd(STDIN_FILENO, "the settings", SETTINGS_MAX, &text, &len, e);

	return r < 0 ? r : settings_parse(text, ret, e);
}

/* Tell cairn-net, which waits for the end of both streams. null: takes their place. */
static int ready_report(int null)
{
	bool told = write(STDOUT_FILENO, READY, strlen(READY)) == (ssize_t)strlen(READY);

	return told && dup2(null, STDIN_FILENO) >= 0 && dup2(null, STDOUT_FILENO) >= 0 && dup2(null, STDERR_FILENO) >= 0 ? 0 : -EPIPE;
}

int main(void)
{
	struct settings settings = { 0 };
	struct notices *notices = NULL;
	struct resolver *resolver = NULL;
	struct err e = { 0 };
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int r = program_begin(&e);

	signal(SIGPIPE, SIG_IGN);
	if (!r)
		r = settings_read(&settings, &e);
	if (!r)
		r = notices_new(&settings, &notices, &e);
	if (!r)
		r = resolver_new(&settings, notices, &resolver, &e);
	if (!r)
		r = sandbox(&settings, &e);
	if (r < 0)
		fprintf(stderr, "%s\n", e.msg);
	else
		r = ready_report(null);
	while (!r)
		r = resolver_run(resolver);
	resolver_free(resolver);
	notices_free(notices);
	settings_done(&settings);
	return r < 0;
}
