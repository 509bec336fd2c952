/* user: names and numbers of users and groups, from /etc/passwd and /etc/group only: this program is linked statically
 * and cannot load NSS modules. Other users are shown by number. */
#ifndef CAIRN_TOOLS_USER_H
#define CAIRN_TOOLS_USER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define USER_WORDS 96

struct cli;
struct json_object;

/* Returns the number for a name, or for a number in decimal; -1: neither. group: of a group, not of a user. */
int64_t user_number(bool group, const char *text);
/* Write the name; without a name, the number. */
void user_name(bool group, int64_t id, char *buf, size_t size);
/* Add --user or --group, if one of them is given, as a number.
 * who: gets the words "user NAME" or "group NAME". Returns 0; CLI_USAGE after an error message. */
int user_option_put(struct cli *c, struct json_object *args, char who[USER_WORDS]);

#endif
