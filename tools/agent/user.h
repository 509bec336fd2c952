/* user: finds a user of the guest in its /etc/passwd and /etc/group. These files may be anything: the root of a
 * container image is not trusted. Nothing is allocated. */
#ifndef CAIRN_TOOLS_AGENT_USER_H
#define CAIRN_TOOLS_AGENT_USER_H

#include <sys/types.h>

#define USER_GROUPS_MAX 256

struct user {
	uid_t uid;
	gid_t gid;
	gid_t groups[USER_GROUPS_MAX];
	unsigned ngroups;
	char home[256]; /* "/" for a number that has no entry */
};

/* Find the user "NAME", "UID", "NAME:GROUP", ... A number needs no entry; without a group, it then gets group 0. A user
 * without a named group is also in the groups that list the user as a member.
 * Returns 0; -ENOENT: no such name. */
int user_find(const char *text, struct user *ret);

#endif
