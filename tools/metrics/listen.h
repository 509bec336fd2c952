/* listen: the socket of cairn-metrics and cairn-web, and the token of cairn-metrics. */
#ifndef CAIRN_TOOLS_METRICS_LISTEN_H
#define CAIRN_TOOLS_METRICS_LISTEN_H

#include <sys/types.h>

struct err;

/* Token: 16 to TOKEN_MAX - 1 printable characters. */
#define TOKEN_MAX 257

/* Read the token, without the line's end. Returns 0; -EINVAL, also if others may read the file; -errno. */
int token_read(const char *path, char token[TOKEN_MAX], struct err *e);
/* Listen on "ADDRESS:PORT"; IPv6 addresses are in brackets.
 * option: names the option in errors. port_min: 0: the kernel may choose the port, for port 0.
 * Returns 0 and an fd that the caller owns; -errno. */
int listen_tcp(const char *option, const char *where, unsigned port_min, int *ret_fd, struct err *e);
/* Listen on a Unix socket of this mode, and replace a stale one. Returns 0 and an fd that the caller owns; -errno. */
int listen_unix(const char *path, mode_t mode, int *ret_fd, struct err *e);

#endif
