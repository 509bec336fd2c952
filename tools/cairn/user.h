/* user: names and numbers of users and groups, from /etc/passwd and /etc/group only: this program is linked statically
 * and cannot load NSS modules. Other users are shown by number. */
#ifndef CAIRN_TOOLS_USER_H
#define CAIRN_TOOLS_USER_H

#include <stddef.h>
#include <stdint.h>

/* Returns the number for a name or a number in decimal; -1: neither. */
int64_t user_number(const char *text);
int64_t group_number(const char *text);
/* Write the name; without a name, the number. */
void user_name(int64_t uid, char *buf, size_t size);
void group_name(int64_t gid, char *buf, size_t size);

#endif
