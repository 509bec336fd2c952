/* check: checks a login with PAM in a separate process, because modules of PAM and of the user database may take
 * long, hang or crash. */
#ifndef CAIRN_TOOLS_LOGIN_CHECK_H
#define CAIRN_TOOLS_LOGIN_CHECK_H

#include "tools/login/message.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define CHECK_GROUPS_MAX 1024
#define CHECK_TEXT_BYTES 128

/* The result of the process. */
struct check_result {
	uint32_t verdict; /* enum login_verdict */
	bool known;	  /* there is such a user */
	uid_t uid;
	gid_t gid;
	uint32_t ngroups;
	gid_t groups[CHECK_GROUPS_MAX]; /* all of them, gid included */
	char user[LOGIN_USER_BYTES];	/* as PAM names the user */
	char why[CHECK_TEXT_BYTES];	/* for the log */
};

/* Start the process, in a process group of its own.
 * allow_root: root may log in.
 * ret_fd: the process writes a struct check_result to it; owned, does not block.
 * Returns 0; -errno. */
int check_start(const struct login_ask *a, bool allow_root, pid_t *ret_pid, int *ret_fd);
/* Return whether the bytes read are a valid result. */
bool check_result_is_valid(const struct check_result *r, size_t bytes);

#endif
