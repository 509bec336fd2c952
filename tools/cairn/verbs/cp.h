/* cp: copies with cairn-agent (cp_agent.c). */
#ifndef CAIRN_TOOLS_VERBS_CP_H
#define CAIRN_TOOLS_VERBS_CP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cli;
struct err;
struct guest_link;

/* Copy a file or folder into the guest.
 * from: "-": standard input. there: path in the guest; if that is a folder,
 * the copy is called `name` in it. Returns 0; -errno with a sentence. */
int cp_agent_send(struct cli *c, const struct guest_link *link, const char *from, const char *there, const char *name, struct err *e);
/* Copy a file or folder out of the guest. to: the path to create or overwrite; "-": standard output. nofollow: refuse a
 * symbolic link at that path, because an earlier copy from the guest may have made it. */
int cp_agent_receive(struct cli *c, const struct guest_link *link, const char *there, const char *to, bool nofollow, struct err *e);
/* Write data of a guest to a file; to a terminal without control characters. Returns 0; -errno. */
int cp_data_write(int fd, const uint8_t *data, size_t len);

#endif
