/* as_unit PROGRAM [ARGUMENT...]: run a program with the protections of tools/systemd/cairnd.service, as systemd 252
 * sets them. The end-to-end tests start the daemon with it; test_service.py compares the unit with this program. It
 * does not make the mounts of ProtectKernelModules= and ProtectKernelLogs=. */
#include "base/call_filter.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REFUSE(error) (SECCOMP_RET_ERRNO | (error))
#define ANY_PERSONALITY 0xffffffff /* asks for the present one */

/* CapabilityBoundingSet= */
static const int dropped[] = { CAP_SYS_MODULE, CAP_SYS_BOOT, CAP_SYS_TIME, CAP_SYSLOG, CAP_WAKE_ALARM, CAP_BLOCK_SUSPEND,
	CAP_SYS_PACCT, CAP_SYS_TTY_CONFIG, CAP_AUDIT_CONTROL, CAP_AUDIT_READ, CAP_MAC_ADMIN, CAP_MAC_OVERRIDE,
	CAP_LINUX_IMMUTABLE, CAP_SYS_RAWIO };

/* RestrictSUIDSGID=: calls that take a mode, and the argument that it is. */
static const struct {
	int call;
	unsigned at;
} modes[] = { { SYS_chmod, 1 }, { SYS_fchmod, 1 }, { SYS_fchmodat, 2 }, { SYS_mkdir, 1 }, { SYS_mkdirat, 2 }, { SYS_mknod, 1 },
	{ SYS_mknodat, 2 }, { SYS_creat, 1 } };

static void restrict_suid_sgid(struct call_filter *f)
{
	static const uint32_t bits[] = { S_ISUID, S_ISGID };

	for (size_t i = 0; i < ARRAY_SIZE(bits); i++) {
		const struct call_filter_argument open_mode[] = { { 1, O_CREAT, O_CREAT }, { 2, bits[i], bits[i] } };
		const struct call_filter_argument openat_mode[] = { { 2, O_CREAT, O_CREAT }, { 3, bits[i], bits[i] } };

		for (size_t k = 0; k < ARRAY_SIZE(modes); k++) {
			const struct call_filter_argument mode = { modes[k].at, bits[i], bits[i] };

			call_filter_rule(f, modes[k].call, REFUSE(EPERM), &mode, 1);
		}
		call_filter_rule(f, SYS_open, REFUSE(EPERM), open_mode, ARRAY_SIZE(open_mode));
		call_filter_rule(f, SYS_openat, REFUSE(EPERM), openat_mode, ARRAY_SIZE(openat_mode));
	}
	/* Its flags are in memory, which a filter cannot read. */
	call_filter_rule(f, SYS_openat2, REFUSE(ENOSYS), NULL, 0);
}

int main(int argc, char *argv[])
{
	static const uint32_t families[] = { AF_UNIX, AF_INET, AF_INET6, AF_NETLINK }, usual[] = { SCHED_OTHER, SCHED_BATCH, SCHED_IDLE },
		personalities[] = { PER_LINUX, ANY_PERSONALITY };
	static const int refused[] = { SYS_sched_setscheduler, SYS_personality, SYS_init_module, SYS_finit_module, SYS_delete_module,
		SYS_syslog };
	struct call_filter f;
	int r;

	if (argc < 2) {
		fprintf(stderr, "usage: as_unit PROGRAM [ARGUMENT...]\n");
		return 2;
	}
	call_filter_init(&f);
	call_filter_values(&f, SYS_socket, SECCOMP_RET_ALLOW, 0, families, ARRAY_SIZE(families)); /* RestrictAddressFamilies= */
	call_filter_rule(&f, SYS_socket, REFUSE(EAFNOSUPPORT), NULL, 0);
	call_filter_values(&f, SYS_sched_setscheduler, SECCOMP_RET_ALLOW, 1, usual, ARRAY_SIZE(usual)); /* RestrictRealtime= */
	call_filter_values(&f, SYS_personality, SECCOMP_RET_ALLOW, 0, personalities, ARRAY_SIZE(personalities)); /* LockPersonality= */
	call_filter_calls(&f, REFUSE(EPERM), refused, ARRAY_SIZE(refused));
	restrict_suid_sgid(&f);
	for (size_t i = 0; i < ARRAY_SIZE(dropped); i++)
		prctl(PR_CAPBSET_DROP, dropped[i]); /* fails in a container that lacks the right, and without root */
	if (geteuid() && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		perror("as_unit: no_new_privs");
	r = call_filter_install(&f, SECCOMP_RET_ALLOW, false);
	if (r < 0) {
		fprintf(stderr, "as_unit: seccomp: %s\n", strerror(-r));
		return 1;
	}
	execvp(argv[1], argv + 1);
	perror(argv[1]);
	return 1;
}
