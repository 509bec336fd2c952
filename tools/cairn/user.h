/* user: names and numbers of users and groups, from /etc/passwd and /etc/group alone: this
 * program is linked statically, and cannot load what else a system may ask. Others go by number. */
#ifndef CAIRN_TOOLS_USER_H
#define CAIRN_TOOLS_USER_H

#include <stddef.h>
#include <stdint.h>

/* A name or a number. Returns -1 for what is neither. */
int64_t user_number(const char *text);
int64_t group_number(const char *text);
/* The name, or the number when it has none. */
void user_name(int64_t uid, char *buf, size_t size);
void group_name(int64_t gid, char *buf, size_t size);

#endif
