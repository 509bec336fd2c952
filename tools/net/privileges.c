#include "tools/net/privileges.h"
#include "base/err.h"
#include "base/lockdown.h"
#include "base/util.h"

#include <errno.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Each with the operation that needs it. */
static const int kept[] = {
	CAP_NET_ADMIN, /* links, rules, sysctls; also dnsmasq's */
	CAP_NET_RAW, CAP_NET_BIND_SERVICE, /* dnsmasq's */
	CAP_SYS_ADMIN, /* namespaces and mounts */
	CAP_SETUID, CAP_SETGID, /* dnsmasq's user */
	CAP_CHOWN, /* its file of leases */
	CAP_KILL, CAP_SYS_PTRACE, /* stop it; open its network namespace */
};

#define FILES_MAX 1024
#define MEMORY_BYTES (1 * GIB) /* rulesets of others may be long */

static int caps_get(struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3])
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };

	return syscall(SYS_capget, &head, caps) < 0 ? -errno : 0;
}

int privileges_drop(struct err *e)
{
	const struct lockdown_limit limits[] = { { RLIMIT_NOFILE, FILES_MAX }, { RLIMIT_CORE, 0 },
		{ RLIMIT_AS, LOCKDOWN_SANITIZED ? RLIM_INFINITY : MEMORY_BYTES } };
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct had[_LINUX_CAPABILITY_U32S_3], caps[_LINUX_CAPABILITY_U32S_3] = { 0 };
	int r = caps_get(had);

	for (size_t i = 0; i < ARRAY_SIZE(kept); i++) {
		uint32_t bit = had[CAP_TO_INDEX(kept[i])].permitted & CAP_TO_MASK(kept[i]);

		caps[CAP_TO_INDEX(kept[i])].permitted |= bit;
		caps[CAP_TO_INDEX(kept[i])].effective |= bit;
	}
	if (r < 0 || syscall(SYS_capset, &head, caps) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_set(e, -EPERM, ERR_HOST, "cannot drop capabilities");
	return lockdown_limits(limits, ARRAY_SIZE(limits), e);
}

int privileges_check(struct err *e)
{
	struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3];

	if (!caps_get(caps) && (caps[CAP_TO_INDEX(CAP_NET_ADMIN)].effective & CAP_TO_MASK(CAP_NET_ADMIN)))
		return 0;
	return err_set(e, -EPERM, ERR_PERMISSION, "networks need CAP_NET_ADMIN; %s", privileges_remedy());
}

const char *privileges_remedy(void)
{
	return geteuid() ? "run cairnd as root" : "root lacks it here: give it to the container or the service of cairnd";
}
